"""Gauges whose values are found at the moment they are read: one table says which there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

GaugeTable = Mapping[str, tuple[str, Sequence[str]]]
"""By name: the help text, and the names of the labels. A name that ends with _total is of a counter."""


class GaugeFamilies:
    """The values of one reading. All of the table's families are in it, also those without a value."""

    def __init__(self, table: GaugeTable) -> None:
        self._families: dict[str, Metric] = {}
        for name, (text, labels) in table.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            self._families[name] = kind(name, text, labels=labels)

    def set_value(self, name: str, labels: Sequence[str], value: float | None) -> None:
        """Give one value; None is none. labels: values, in the order of the table."""
        if value is not None:
            family = self._families[name]
            assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
            family.add_metric(labels, float(value))

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())
