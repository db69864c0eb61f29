"""Why an item is, or is not, in the answer to a search. No behaviour, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from index_store.types import Hit, PlanStep

ItemState: TypeAlias = Literal[
    "live", "inactive", "not_yet_active", "ended", "without_vector", "deleted", "unknown"
]


@dataclass(frozen=True, slots=True)
class Explanation:
    """One item and one search, as of one moment. item_seq, source_version: of a deleted item too.

    is_indexed: searches know it. passes_filter: None without a filter or an item. is_vetoed: by the unlikes
    of a recommendation. exact_rank: from 1, by exact search over all that the search may show, the item among
    them; None beyond `ranks_seen`; with a ranking by distance alone; of a recommendation None for what it may
    not show. answer_rank: from 1, with those that the offset skips, or None. last_distance: of its last hit.
    ranking_rank: from 1, in the order of a ranking, None beyond `ranking_ranks_seen`. left_out_by: what the
    item is missing in that order for."""

    state: ItemState
    item_seq: int | None = None
    source_version: int | None = None
    is_indexed: bool = False
    is_excluded: bool = False
    passes_filter: bool | None = None
    distance: float | None = None
    exact_rank: int | None = None
    ranks_seen: int = 0
    is_vetoed: bool = False
    ranking_rank: int | None = None
    ranking_ranks_seen: int = 0
    left_out_by: Literal["group_by", "collapse"] | None = None
    answer_rank: int | None = None
    hits: int = 0
    last_distance: float | None = None
    steps: Sequence[PlanStep] = ()
    generation: str = ""
    embedding_version: str = ""
    seq: int = 0


Stream: TypeAlias = Literal["letters", "sounds"]


class WordMatch(NamedTuple):
    """A word of a query, normalised, of which an item holds more than chance. by: which of them more is held
    of. share: how much, to 1."""

    word: str
    by: Stream
    share: float


@dataclass(slots=True)
class ExplainedHit(Hit):
    """matched: the words of the request that the item holds, in their order; None: not asked for. boosts:
    what each boost of the request added to the score, in order; None without any."""

    matched: Sequence[WordMatch] | None = None
    boosts: Sequence[float] | None = None
