"""The port through which the service uses an index; an embedded engine today, a cluster tomorrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Literal, Protocol

from index_store.awaiting import AwaitingItem
from index_store.explanation import Explanation
from index_store.footprint import DiskSpace, Footprint
from index_store.listings import (
    CountResult,
    FacetsRequest,
    FacetsResult,
    IdsResult,
    ItemsRequest,
    ItemsResult,
)
from index_store.types import (
    ALIKE,
    DIGEST_BUCKETS,
    Ack,
    CollectionStatus,
    Content,
    Digest,
    DigestRow,
    Filter,
    GenerationIdentity,
    Id,
    NewGeneration,
    SearchOutcome,
    SearchRequest,
    SearchResult,
    StoredItem,
    WriteBatch,
)


class VectorIndex(Protocol):
    """Named collections of vectors that can be written and searched. Every method is safe from any thread.

    All methods raise `UnknownCollection` for a name that is not declared.
    """

    def search(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer each request, in order, from the current generation, after every write acknowledged
        anywhere before the call. Raises what refuses the first that is refused: InvalidRequest,
        VersionMismatch, SeqNotReached, StoreDamaged, WordsNotSealed."""

    def write(self, collection: str, batch: WriteBatch) -> Ack:
        """Store the whole batch durably, or nothing. Concurrent calls share one fsync.
        Raises InvalidRequest, VersionMismatch, WriteFailed (indeterminate), ReadOnly."""

    def get(self, collection: str, ids: Sequence[Id]) -> list[StoredItem | None]:
        """Return what the current generation holds of each id, in order; None for unknown or deleted."""

    def status(self, collection: str) -> CollectionStatus:
        """Return counts, seq and cursors of every generation, from the store (not a cache)."""

    def digest(
        self, collection: str, parts: int = DIGEST_BUCKETS, embedding_version: str | None = None
    ) -> Digest:
        """Return the proof of a generation's content as of `seq`. parts: how many sums, a power of two; up to
        4,096 are at hand, more take a pass over all rows. embedding_version: of which generation; None: the
        current one. Raises VersionMismatch where none is of it."""

    def digest_rows(
        self,
        collection: str,
        numbers: Sequence[int],
        parts: int = DIGEST_BUCKETS,
        embedding_version: str | None = None,
    ) -> Iterator[DigestRow]:
        """Yield the known ids of some of so many parts with their shares, in one pass over all rows.
        embedding_version: as of `digest`."""

    def advance(
        self,
        collection: str,
        step: Literal["begin", "promote", "rollback", "abort", "retire"],
        embedding_version: str,
        begins: NewGeneration = ALIKE,
        *,
        is_forced: bool = False,
    ) -> CollectionStatus:
        """Move the collection's generations one step, by one rename. `begin` makes `embedding_version` the
        next generation (the current one if there is none); `promote` makes it current and the current one
        former; `rollback` swaps current and former; `abort` drops the next one, `retire` the former. begins:
        in what the one that begins differs from the current one. Raises GenerationConflict, unless
        is_forced also where items that are hidden or deleted now would be shown again by a promotion or
        rollback, a few seconds after it was asked for."""

    def close(self) -> None:
        """Stop threads and close files; acknowledged writes are on disk already."""


class BatchSearch(Protocol):
    """Searches of several callers in one call."""

    def search_each(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
        """As `VectorIndex.search`, but a request that is refused gets its error in place of an answer, and
        the others theirs. Raises only what refuses each of them: UnknownCollection, StoreUnavailable,
        StoreDamaged, Unavailable. Safe from any thread."""


class SeqSource(Protocol):
    """How far commits have come, for who waits for one of them."""

    def newest_seq(self, collection: str) -> int | None:
        """Return the newest seq of the current generation that this process has heard of, without waiting and
        without reading the disk (a few us; from any thread, an event loop too). None: it can't be told this
        way, a search has to look. Raises UnknownCollection."""

    def is_caught_up(self, collection: str) -> bool:
        """Return whether a search that begins now has nothing to do first, as far as is known: no commit to
        apply, no generation to open, no file to look at. Never waits (a few us; from any thread, an event
        loop too). Raises UnknownCollection."""


class WordSource(Protocol):
    """Which words occur in a collection. Every method is safe from any thread."""

    def word_shares(self, collection: str, texts: Sequence[str]) -> list[float]:
        """Return of each text how much of it occurs in items of the current generation: 0 to 1. May read from
        disk. Raises UnknownCollection, Unavailable; WordsNotSealed as a search by words does."""


class DimSource(Protocol):
    """How long the vectors of each generation are, for who checks one before it goes to the index."""

    def dims_by_version(self, collection: str) -> Mapping[str, int]:
        """Return how many numbers the vectors of each embedding_version have, the current one's first, as of
        the newest generations that this process has heard of; without waiting and without reading the disk
        (0.3 us; from any thread, an event loop too). Empty before the first generation. Raises
        UnknownCollection."""


class FootprintSource(Protocol):
    """What an index takes of memory and disk, for metrics."""

    def footprints(self, collection: str) -> list[Footprint]:
        """Return one for each generation of the collection, current first. Reads the disk; safe from any
        thread. Raises UnknownCollection, StoreUnavailable, StoreDamaged."""


class RebuildSource(Protocol):
    """What a rebuild asks of an index beside `VectorIndex`. Every method is safe from any thread."""

    def awaiting(
        self, collection: str, embedding_version: str, after: Id | None, limit: int
    ) -> list[AwaitingItem]:
        """Return the next items of that version's generation that have content and no vector, by id; none
        where there is no such generation."""

    def find_lost(
        self, collection: str, embedding_version: str, suspects: Sequence[Id] | None = None
    ) -> list[Id]:
        """Return the ids that searches find in the current generation and that the generation of that version
        would not return, in order; nothing that is inactive now. suspects: look at these only, else at every
        row (50,000 of 384 numbers: a second). Raises VersionMismatch."""

    def content_sample(self, collection: str, limit: int) -> list[Content]:
        """Return some kept contents of the current generation, to measure a model with."""

    def catch_up_others(self, collection: str, wanted: Set[str] = frozenset()) -> Sequence[str]:
        """Read generations that no search reads into memory: those of the versions `wanted` whole, and what
        was committed since to those that are there already, so that the first search after a promotion does
        not have to. Return the versions of those that are in memory now. May take seconds. Raises
        StoreUnavailable, StoreDamaged."""

    def record_origin(self, collection: str, embedding_version: str, origin: str) -> bool:
        """Note what made the vectors of that version, in words that only the caller reads; return whether any
        generation said otherwise before. Raises WriteFailed."""


class ReplaySource(Protocol):
    """What a comparison of two generations asks of an index. Every method is safe from any thread."""

    def search_version(
        self, collection: str, embedding_version: str, requests: Sequence[SearchRequest]
    ) -> list[SearchResult]:
        """Answer each request from the generation of that version, current or not. Raises as
        `VectorIndex.search`; VersionMismatch where there is no such generation."""

    def get_version(
        self, collection: str, embedding_version: str, ids: Sequence[Id]
    ) -> list[StoredItem | None]:
        """Return what the generation of that version holds of each id, in order. Raises VersionMismatch."""

    def draw_ids(self, collection: str, seed: str, limit: int) -> list[Id]:
        """Return some live ids of the current generation, drawn by `seed`, in order."""

    def draw_contents(
        self, collection: str, seed: str, limit: int, bytes_max: int
    ) -> list[tuple[Id, Content]]:
        """Return some live items of the current generation, drawn by `seed`, with what they are made of; by
        id, and only those whose content is kept: of `bytes_max` together, or one."""


class ItemSource(Protocol):
    """Stored items one after the other, of the current generation. Every method is safe from any thread and
    reads the disk. All raise UnknownCollection, InvalidFilter, Unavailable."""

    def list_items(self, collection: str, request: ItemsRequest) -> ItemsResult:
        """Return stored items by id, every acknowledged write among them. Going on from `next_after` until it
        is None gives each item that exists all the while exactly once, whatever is written in between.
        Raises InvalidId."""

    def list_ids(self, collection: str, request: ItemsRequest) -> IdsResult:
        """Return only the ids, of all such items among the next `rows_max` rows. Raises InvalidId."""

    def count_items(self, collection: str, condition: Filter | None) -> CountResult:
        """Return how many live items pass, every acknowledged write counted (milliseconds for a million rows,
        from memory)."""

    def count_values(self, collection: str, request: FacetsRequest) -> FacetsResult:
        """Return which values the live items that pass have, at the same moment."""


class ItemIndex(VectorIndex, Protocol):
    """An index whose stored items can be listed."""

    def item_source(self) -> ItemSource:
        """Return what lists and counts stored items."""


class ExplainSource(Protocol):
    """Why an item is, or is not, in an answer."""

    def explain(self, collection: str, request: SearchRequest, item_id: Id) -> Explanation:
        """Return what becomes of the item in the request, from the current generation and as of one moment.
        The request has no page (`after`) and no min_seq. Takes as long as an exact search; safe from any
        thread. Raises as `VectorIndex.search`, and InvalidId."""


class ReadSource(ReplaySource, ExplainSource, Protocol):
    """What reads any generation, and explains answers."""


class SourceIndex(ItemIndex, Protocol):
    """An index of which more is asked than searches and writes."""

    def replay_source(self) -> ReadSource:
        """Return what reads any generation, and explains answers."""

    def word_source(self) -> WordSource:
        """Return what knows the words of each collection."""


class IndexStorage(Protocol):
    """Where an index keeps its collections, for who starts and operates it. Needs no open index; every method
    is safe from any thread and process, and reads from disk or from a server."""

    def store_id(self) -> str:
        """Return the number of this storage, which is made when it is first asked for and stays; empty where
        it can't be read or made now."""

    def current_identity(self, collection: str) -> GenerationIdentity | None:
        """Return what the current generation says of itself; None where there is none, or where it can't be
        read: opening the collection tells why. Changes nothing."""

    def is_empty(self) -> bool:
        """Return whether no collection was ever begun. Raises StoreUnavailable."""

    def quarantined_bytes(self) -> Mapping[str, Sequence[int]]:
        """Return by collection how many bytes each generation takes that no role names any more."""

    def disk_space(self) -> DiskSpace:
        """Return what is left of the disk."""
