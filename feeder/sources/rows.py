"""How ids and values of a source table become the collection's ids and JSON metadata, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np

from feeder.changes import Directory, IntDirectory, ItemRow, TextDirectory
from feeder.sources.port import Throttling
from feeder.table_mapping import ItemTable
from item_rules.ids import INT64_MAX, INT64_MIN, IdKind
from vector_client.types import Id

_ROWS_BETWEEN_PAUSES = 500
"""A driver in Python takes 1 ms for them."""


@dataclass(frozen=True, slots=True)
class IdCodec:
    """An items table may hold a number where the collection has a text ("7" for 7), and the other way."""

    kind: IdKind
    column_is_int: bool

    def to_column(self, item_id: Id) -> int | str | None:
        """Return what to ask the column for, None where it cannot hold such an id ("007" is no number)."""
        if not self.column_is_int:
            return str(item_id)
        return item_id if isinstance(item_id, int) else _canonical_int(item_id)

    def from_column(self, value: Any) -> Id | None:
        """Return the collection's id, None for a value that is none."""
        if value is None:
            return None
        if self.kind == "string":
            return str(value)
        if isinstance(value, int):
            return int(value) if INT64_MIN <= value <= INT64_MAX else None
        return _canonical_int(str(value))


def _canonical_int(text: str) -> int | None:
    try:
        number = int(text)
    except ValueError:
        return None
    return number if str(number) == text and INT64_MIN <= number <= INT64_MAX else None


def directory_of(
    codec: IdCodec, rows: Iterable[Sequence[Any]], throttle: Throttling | None = None
) -> Directory:
    """Build a directory from (id, active) rows; rows without an id do not count."""
    some = rows if throttle is None else _throttled(rows, throttle)
    pairs = ((codec.from_column(item_id), bool(active)) for item_id, active in some)
    if codec.kind == "string":
        texts = TextDirectory()
        for item_id, active in pairs:
            if item_id is not None:
                texts.add(str(item_id), active)
        return texts
    dtype = np.dtype([("id", np.int64), ("active", np.bool_)])
    table = np.fromiter((pair for pair in pairs if pair[0] is not None), dtype=dtype)
    return IntDirectory(table["id"], table["active"])


def _throttled(rows: Iterable[Sequence[Any]], throttle: Throttling) -> Iterator[Sequence[Any]]:
    for number, row in enumerate(rows, 1):
        yield row
        if not number % _ROWS_BETWEEN_PAUSES:
            throttle()


def columns_of(table: ItemTable) -> list[str]:
    """Return the columns that `item_rows` expects behind the id and the activity."""
    return [*table.content.values(), *table.metadata.values()]


def item_rows(table: ItemTable, codec: IdCodec, rows: Iterable[Sequence[Any]]) -> Mapping[Id, list[ItemRow]]:
    """Group (id, active, content..., metadata...) rows by id."""
    found: dict[Id, list[ItemRow]] = {}
    split = 2 + len(table.content)
    for row in rows:
        item_id = codec.from_column(row[0])
        if item_id is None:
            continue
        content = {
            name: _text(value)
            for name, value in zip(table.content, row[2:split], strict=True)
            if value is not None
        }
        metadata = {name: _json(value) for name, value in zip(table.metadata, row[split:], strict=True)}
        found.setdefault(item_id, []).append(ItemRow(content, metadata, active=bool(row[1])))
    return found


def _text(value: Any) -> str:
    """Return content as text; of several values (an array, or a JSON array of texts) a list with commas."""
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value if part is not None)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if text.startswith("[") and text.endswith("]"):
        try:
            parts = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if all(isinstance(part, str) for part in parts):
            text = ", ".join(parts)
    try:
        text.encode()
    except UnicodeEncodeError:  # an escape stood for half a character
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _json(value: Any) -> Any:
    """Return a value that JSON has: exact numbers stay numbers (beyond 64 bits as near as float64 comes),
    times become ISO 8601."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        if value.is_finite() and value == value.to_integral_value() and abs(value) <= INT64_MAX:
            return int(value)
        return _json(float(value))
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _json(part) for name, part in value.items()}
    return _text(value)
