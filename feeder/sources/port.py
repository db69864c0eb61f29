"""The two facts a collection is made of, each with a source of its own: vectors, and items.

Adapters translate their database's errors into SourceDown (try later) and SettingsWrong (correct by hand).
A later source of changes (poll, dirty set, log) reads its rows through the same two ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from feeder.changes import Directory, ItemRow, Key, Survey, VectorPage
from vector_client.types import Id

Throttling: TypeAlias = Callable[[], object]
"""Called after each small piece of work of a scan; pauses."""


@dataclass(frozen=True, slots=True)
class VectorShape:
    """identity: names this very table (it changes when the table is made again), so that a cursor is never
    used on another. key_is_unique: False where several rows may share a key."""

    identity: str
    kind: Literal["vector", "halfvec"]
    key_is_unique: bool


class VectorSource(Protocol):
    """Vectors of one collection, in pages over the key. For one thread at a time."""

    def open(self) -> VectorShape:
        """Connect and look at the table. Raises SettingsWrong where it does not fit the configuration."""

    def survey(self) -> Survey:
        """Return every row's key and id, and what is wrong with the others, without reading vectors."""

    def page(self, after: Key | None, rows: int) -> VectorPage:
        """Return about `rows` rows behind the key `after`, in key order; rows that share a key are never
        parted. Empty at the end. Rows without key, id or vector of the dimension are left out."""

    def rows_at(self, keys: Sequence[Key]) -> VectorPage:
        """Return the rows that have these keys now, in key order."""

    def close(self) -> None:
        """Let the connection go; `open` may follow."""


class ItemSource(Protocol):
    """Existence, activity and content of one collection's items. For one thread at a time."""

    def open(self) -> None:
        """Connect and look at the table. Raises SettingsWrong where it does not fit the configuration."""

    def directory(self, throttle: Throttling | None = None) -> Directory:
        """Return every id with its activity, read in one pass."""

    def fetch(self, ids: Sequence[Id]) -> Mapping[Id, Sequence[ItemRow]]:
        """Return the rows of each id that exists, in the table's order."""

    def close(self) -> None:
        """Let the connection go; `open` may follow."""
