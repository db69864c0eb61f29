"""Lists, counts and facets of items: what is asked and what comes back. No behaviour, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from index_store.types import Filter, Id, Ids, StoredItem


@dataclass(frozen=True, slots=True)
class ItemsRequest:
    """Some stored items in the order of their ids, whether a search can find them or not.

    after: only ids beyond this one. is_live: True for items that a search can return, False for all others,
    None for both. is_active: True for active items, False for deactivated ones. items_max: of one answer.
    rows_max: how many rows may be looked at for it, tombstones among them. metadata_bytes_max: after so much
    metadata an answer ends. So it can hold fewer items, or none, though others come after it.
    """

    after: Id | None = None
    filter: Filter | None = None
    is_live: bool | None = None
    is_active: bool | None = None
    items_max: int = 100
    rows_max: int = 20_000
    metadata_bytes_max: int = 8 << 20


@dataclass(frozen=True, slots=True)
class ItemsResult:
    """Stored items as of `seq`, by id. next_after: where to go on; None: nothing comes after them. rows: that
    were looked at for it."""

    items: Sequence[StoredItem]
    next_after: Id | None
    embedding_version: str
    seq: int
    rows: int = 0


@dataclass(frozen=True, slots=True)
class IdsResult:
    """Ids of all stored items among the rows that were looked at. next_after: as of ItemsResult."""

    ids: Ids
    next_after: Id | None


@dataclass(frozen=True, slots=True)
class CountResult:
    """live: items that a search can return and that pass the filter, as of `seq`."""

    live: int
    embedding_version: str
    seq: int
    unknown_filter_keys: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class FacetsRequest:
    """Which values live items have. keys: of metadata, as in a filter; None: the most common top-level ones,
    `keys_max` of them. values_max: of a key, the most common. ranges: about how many for numbers.
    distinct_max: values of a key that are told apart: titles and addresses are no facet, and would fill the
    memory."""

    filter: Filter | None = None
    keys: Sequence[str] | None = None
    keys_max: int = 20
    values_max: int = 10
    ranges: int = 10
    distinct_max: int = 50_000


@dataclass(frozen=True, slots=True)
class NumberRange:
    """Items with a number from `low` on and below `high`."""

    low: float
    high: float
    items: int


@dataclass(frozen=True, slots=True)
class Facet:
    """One key. items: that have it. distinct: how many values they have; None where they are too many to be
    told apart, and then there are no values. values: the most common with their items, those first. An item
    with a list has each of its elements."""

    key: str
    items: int
    distinct: int | None
    values: Sequence[tuple[str | int | float | bool | None, int]]
    ranges: Sequence[NumberRange]


@dataclass(frozen=True, slots=True)
class FacetsResult:
    """counted: the items that pass the filter. facets: in the order of the keys."""

    counted: CountResult
    facets: Sequence[Facet]
