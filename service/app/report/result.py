"""The report, as it is stored and told. Values only; everything but `timing` depends on content alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from index_store.types import Id

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ComparedGeneration:
    """One of the two. seq: of its store when the report was begun. live: what a search could return then."""

    generation: str
    embedding_version: str
    seq: int
    live: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """A row of a table: means over its queries, 0 to 1. zero_*: queries that found nothing before, after, and
    nothing after though something before."""

    queries: int
    overlap_at_1: float
    overlap_at_10: float
    overlap_at_25: float
    rbo: float
    zero_before: int
    zero_after: int
    zero_new: int


@dataclass(frozen=True, slots=True)
class KnownItems:
    """Items searched by their own content: the share that stood among the first ten."""

    items: int
    found_before: float
    found_after: float


@dataclass(frozen=True, slots=True)
class Judged:
    """Means over the queries that judgements were given for."""

    queries: int
    ndcg_at_10_before: float
    ndcg_at_10_after: float
    recall_at_10_before: float
    recall_at_10_after: float


@dataclass(frozen=True, slots=True)
class Percentiles:
    """By nearest rank."""

    p5: float
    p25: float
    p50: float
    p75: float
    p95: float


@dataclass(frozen=True, slots=True)
class DistanceShift:
    """Distances of the first and of the tenth result; None where no query had one."""

    first_before: Percentiles | None
    first_after: Percentiles | None
    tenth_before: Percentiles | None
    tenth_after: Percentiles | None


@dataclass(frozen=True, slots=True)
class ShownIds:
    """Different ids among the first ten of any query. lost: shown before and by no query after."""

    before: int
    after: int
    lost: int
    gained: int
    lost_examples: Sequence[Id]
    gained_examples: Sequence[Id]


@dataclass(frozen=True, slots=True)
class RankMoves:
    """Where the first ten of before stand after, over all queries. left: not among the first 25 any more."""

    up: int
    same: int
    down_1_to_3: int
    down_4_to_9: int
    down_10_or_more: int
    left: int


@dataclass(frozen=True, slots=True)
class ShownHit:
    """One result of a changed query. title: out of its metadata, empty where it has none. other_rank: in the
    other answer, from 1; None where it is not among the 25."""

    id: Id
    distance: float
    title: str
    other_rank: int | None


@dataclass(frozen=True, slots=True)
class ChangedQuery:
    """A query whose answers differ most, with the first ten of both."""

    label: str
    kind: str
    language: str | None
    overlap_at_10: float
    rbo: float
    before: Sequence[ShownHit]
    after: Sequence[ShownHit]


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """The index alone, without embedding."""

    label: str
    before_ms: float
    after_ms: float


@dataclass(frozen=True, slots=True)
class ReportTiming:
    """All that two runs over the same content do not share. made_at: RFC 3339, UTC."""

    made_at: str
    took_s: float
    before_ms: Percentiles | None
    after_ms: Percentiles | None
    slowest: Sequence[SlowQuery]


@dataclass(frozen=True, slots=True)
class Report:
    """sources: compared queries by where they come from. seed: by which items were drawn. skipped: queries
    that could not be put to both, by reason. overlap_histogram: queries by overlap@10, from 0 to 1 in
    tenths, eleven numbers. rehearsed: what was changed of the searches of after, where both sides are one
    generation."""

    format_version: int
    collection: str
    before: ComparedGeneration
    after: ComparedGeneration
    sources: Mapping[str, int]
    seed: str
    skipped: Mapping[str, int]
    overall: Agreement | None
    by_kind: Mapping[str, Agreement]
    by_language: Mapping[str, Agreement]
    known_items: Mapping[str, KnownItems]
    judged: Judged | None
    distances: DistanceShift
    shown_ids: ShownIds
    overlap_histogram: Sequence[int]
    rank_moves: RankMoves
    zero_new: Sequence[str]
    changed: Sequence[ChangedQuery]
    timing: ReportTiming
    rehearsed: Mapping[str, bool | float | str] = field(default_factory=dict)
