"""Boosts: what the metadata of a row add to its score. A row's share depends on that row alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.errors import InvalidRequest
from index_store.filter.columns import MISSING, KeyColumns, PickedColumns, ValueColumn, numbers_of
from index_store.filter.compile import FilterNode, compile_filter, evaluate, keys_of
from index_store.filter.key_paths import locations_of
from index_store.request.ranking import BOOSTS_MAX, WEIGHT_MAX, Boost, Decay, Linear, Ranking
from item_rules.moments import seconds_of

Numbers: TypeAlias = npt.NDArray[np.float64]
_HALF: Mapping[str, Callable[[Numbers], Numbers]] = {
    "exp": lambda x: np.exp2(-x),
    "gauss": lambda x: np.exp2(-x * x),
    "linear": lambda x: np.maximum(1.0 - x / 2.0, 0.0),
}
"""Each is 1 at a distance of 0 and one half at 1."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Nearness:
    """A decay with its numbers. is_time: they are seconds."""

    key: str
    scale: float
    origin: float
    shape: str
    is_time: bool


_Term: TypeAlias = Linear | _Nearness | FilterNode


@dataclass(frozen=True, slots=True)
class BoostFormula:
    """Boosts, checked and compiled. keys: of metadata that they look at, each with the field that names it.
    most: the largest sum."""

    weights: Sequence[float]
    terms: Sequence[_Term]
    keys: Sequence[tuple[str, str]]
    most: float

    def added(self, columns: KeyColumns, rows: npt.NDArray[np.int64]) -> Numbers:
        """Return what each boost adds to the score of each row: (rows, boosts)."""
        picked = PickedColumns(columns, rows)
        out = np.empty((len(rows), len(self.weights)))
        with np.errstate(over="ignore", invalid="ignore"):
            for place, (weight, term) in enumerate(zip(self.weights, self.terms, strict=True)):
                if isinstance(term, Linear | _Nearness):
                    out[:, place] = weight * _of_numbers(term, picked, len(rows))
                else:
                    out[:, place] = weight * evaluate(term, picked, 0, len(rows))
        return out


def compiled_boosts(ranking: Ranking) -> BoostFormula:
    """Raises InvalidRequest, InvalidFilter, naming the field."""
    boosts = ranking.boosts
    if len(boosts) > BOOSTS_MAX:
        raise InvalidRequest(f"boost holds more than {BOOSTS_MAX} terms", "boost")
    terms: list[_Term] = []
    keys: dict[tuple[str, str], None] = {}
    for place, boost in enumerate(boosts):
        field = f"boost[{place}]"
        _check(
            abs(boost.weight) <= WEIGHT_MAX,
            f"{field}.weight",
            f"must be {-WEIGHT_MAX:.0f} to {WEIGHT_MAX:.0f}",
        )
        term = _compiled_term(boost, field, ranking.now)
        terms.append(term)
        looked_at = (term.key,) if isinstance(term, Linear | _Nearness) else keys_of(term)
        keys |= dict.fromkeys((field, key) for key in looked_at)
    most = sum(max(boost.weight, 0.0) for boost in boosts)
    return BoostFormula([boost.weight for boost in boosts], terms, list(keys), most)


def _compiled_term(boost: Boost, field: str, now: float) -> _Term:
    """Raises InvalidRequest, InvalidFilter."""
    term = boost.term
    if isinstance(term, Decay):
        return _compiled_decay(term, f"{field}.decay", now)
    if not isinstance(term, Linear):
        return compile_filter(term, f"{field}.if")
    _check(math.isfinite(term.low), f"{field}.linear.from", "must be a finite number")
    is_span = math.isfinite(term.high) and term.low != term.high
    _check(is_span, f"{field}.linear.to", "must be a finite number other than from")
    return term


def _compiled_decay(term: Decay, field: str, now: float) -> _Nearness:
    is_time = isinstance(term.scale, str)
    scale = duration_of(term.scale) if isinstance(term.scale, str) else term.scale
    _check(
        math.isfinite(scale) and scale > 0,
        f"{field}.scale",
        "must be a number above 0, or for dates a duration as 36h or 7d (s, m, h, d, w)",
    )
    _check(term.shape in _HALF, f"{field}.shape", "must be exp, gauss or linear")
    if term.origin is None:
        _check(is_time, f"{field}.origin", "is missing: only dates have one by themselves, which is now")
        origin = now
    elif is_time:
        origin = seconds_of(term.origin)
        _check(
            math.isfinite(origin), f"{field}.origin", "must be an ISO 8601 date, or seconds or ms since 1970"
        )
    else:
        origin = math.nan if isinstance(term.origin, str) else term.origin
        _check(math.isfinite(origin), f"{field}.origin", "must be a finite number, as scale is")
    return _Nearness(term.key, scale, origin, term.shape, is_time)


def duration_of(text: str) -> float:
    """Return the seconds of a text as "36h" or "7d"; NaN for any other."""
    match = _DURATION.fullmatch(text)
    return math.nan if match is None else float(match[1]) * _UNITS[match[2]]


def _check(is_fine: bool, field: str, what: str) -> None:
    if not is_fine:
        raise InvalidRequest(f"{field} {what}", field)


def _of_numbers(term: Linear | _Nearness, columns: KeyColumns, count: int) -> Numbers:
    """0 to 1 for each row, 0 for one without such a value."""
    if isinstance(term, _Nearness) and term.is_time:
        numbers = _moments(term.key, columns, count)
    else:
        numbers = _numbers(term.key, columns, count)
    if isinstance(term, Linear):
        found = ((numbers - term.low) / (term.high - term.low)).clip(0.0, 1.0)
    else:
        found = _HALF[term.shape](np.abs(numbers - term.origin) / term.scale)
    found[np.isnan(found)] = 0.0
    return found


def _values(key: str, columns: KeyColumns, count: int) -> list[Any]:
    """What stands under a key in each row; None where nothing, or several values, do."""
    found: list[Any] | None = None
    for location in reversed(locations_of(key, columns)):  # the first one that a row has decides
        codes = location.column.codes.between(0, count).tolist()
        values = location.column.values.of_codes(codes)
        if found is None and not location.path:  # almost every key
            found = values
            continue
        found = found or [None] * count
        for place, (code, value) in enumerate(zip(codes, values, strict=True)):
            inner = location.values_in(value) if code != MISSING else ()
            if inner:
                found[place] = inner[0] if len(inner) == 1 else None
    return [None] * count if found is None else found


def _numbers(key: str, columns: KeyColumns, count: int) -> Numbers:
    """The number under a key in each row, NaN where there is none."""
    column = _only_column(key, columns)
    if column is not None:
        return column.values.numbers()[column.codes.between(0, count)]
    return numbers_of(_values(key, columns, count))


def _moments(key: str, columns: KeyColumns, count: int) -> Numbers:
    """Likewise, of moments in seconds."""
    column = _only_column(key, columns)
    if column is not None:
        return column.values.seconds_of_codes(column.codes.between(0, count))
    return np.fromiter(map(seconds_of, _values(key, columns, count)), np.float64, count)


def _only_column(key: str, columns: KeyColumns) -> ValueColumn | None:
    """The column that holds the values of a key, as it does for almost every key; None where they stand
    deeper, or in several."""
    locations = locations_of(key, columns)
    return locations[0].column if len(locations) == 1 and not locations[0].path else None
