"""Replayed queries to a report. Pure: the same answers give the same report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from index_store.types import Hit, Id
from service.app.report.ranking_metrics import (
    mean,
    ndcg_at,
    overlap_at,
    percentile,
    rank_biased_overlap,
    recall_at,
)
from service.app.report.replay import ReplayedAnswer, ReplayedQuery
from service.app.report.result import (
    Agreement,
    ChangedQuery,
    DistanceShift,
    Judged,
    KnownItems,
    Percentiles,
    RankMoves,
    ShownHit,
    ShownIds,
    SlowQuery,
)

_FIRST = 10
_DIGITS = 4
_EXAMPLES = 20
_CHANGED = 20
_SLOWEST = 10


@dataclass(frozen=True, slots=True)
class ComparedQuery:
    """One replayed query and how far its two answers agree."""

    replayed: ReplayedQuery
    overlap_at_10: float
    rbo: float

    @property
    def is_newly_empty(self) -> bool:
        """Whether it found something before and finds nothing after."""
        return bool(self.replayed.before.hits) and not self.replayed.after.hits


def compared(replayed: Iterable[ReplayedQuery]) -> list[ComparedQuery]:
    """Return those that count for agreement, in order."""
    return [
        ComparedQuery(each, overlap_at(_FIRST, first, second), rank_biased_overlap(first, second))
        for each in replayed
        if each.query.is_compared
        for first, second in [(each.before.ids, each.after.ids)]
    ]


def agreement(queries: Sequence[ComparedQuery]) -> Agreement | None:
    """Return the means over `queries`; None without any."""
    if not queries:
        return None
    pairs = [(each.replayed.before.ids, each.replayed.after.ids) for each in queries]
    return Agreement(
        queries=len(queries),
        overlap_at_1=_rounded(mean([overlap_at(1, *pair) for pair in pairs])),
        overlap_at_10=_rounded(mean([each.overlap_at_10 for each in queries])),
        overlap_at_25=_rounded(mean([overlap_at(25, *pair) for pair in pairs])),
        rbo=_rounded(mean([each.rbo for each in queries])),
        zero_before=sum(not first for first, _ in pairs),
        zero_after=sum(not second for _, second in pairs),
        zero_new=sum(each.is_newly_empty for each in queries),
    )


def agreement_by(
    queries: Sequence[ComparedQuery], key: Callable[[ComparedQuery], str | None]
) -> dict[str, Agreement]:
    """Return a row for each key, in order of the keys; queries whose key is None are in none."""
    groups: dict[str, list[ComparedQuery]] = {}
    for each in queries:
        name = key(each)
        if name is not None:
            groups.setdefault(name, []).append(each)
    rows = {name: agreement(groups[name]) for name in sorted(groups)}
    return {name: row for name, row in rows.items() if row is not None}


def known_items(replayed: Iterable[ReplayedQuery]) -> dict[str, KnownItems]:
    """Return by kind how many items their own content finds."""
    groups: dict[str, list[ReplayedQuery]] = {}
    for each in replayed:
        if each.query.own_id is not None:
            groups.setdefault(each.query.kind, []).append(each)
    return {
        kind: KnownItems(
            len(groups[kind]),
            _rounded(mean([float(_is_found(each.before)) for each in groups[kind]])),
            _rounded(mean([float(_is_found(each.after)) for each in groups[kind]])),
        )
        for kind in sorted(groups)
    }


def judged(replayed: Iterable[ReplayedQuery]) -> Judged | None:
    """Return what the judgements say of both; None without any."""
    found = [(each.before.ids, each.after.ids, each.query.grades) for each in replayed if each.query.grades]
    if not found:
        return None
    return Judged(
        len(found),
        _rounded(mean([ndcg_at(_FIRST, before, grades) for before, _, grades in found])),
        _rounded(mean([ndcg_at(_FIRST, after, grades) for _, after, grades in found])),
        _rounded(mean([recall_at(_FIRST, before, grades) for before, _, grades in found])),
        _rounded(mean([recall_at(_FIRST, after, grades) for _, after, grades in found])),
    )


def distance_shift(queries: Sequence[ComparedQuery]) -> DistanceShift:
    """Return how near the first and the tenth result were and are."""
    return DistanceShift(
        *[
            percentiles([hits[rank - 1].distance for hits in answers if len(hits) >= rank], _DIGITS)
            for rank in (1, _FIRST)
            for answers in (
                [each.replayed.before.hits for each in queries],
                [each.replayed.after.hits for each in queries],
            )
        ]
    )


def percentiles(values: Iterable[float], digits: int) -> Percentiles | None:
    """Return those of `values`, in any order; None without any."""
    ordered = sorted(values)
    if not ordered:
        return None
    found = (percentile(ordered, share) for share in (0.05, 0.25, 0.5, 0.75, 0.95))
    return Percentiles(*(round(each, digits) for each in found))


def shown_ids(queries: Sequence[ComparedQuery]) -> ShownIds:
    """Return which ids the queries show now and would no longer show."""
    before = _first_ids(each.replayed.before for each in queries)
    after = _first_ids(each.replayed.after for each in queries)
    lost, gained = sorted(before - after, key=_id_key), sorted(after - before, key=_id_key)
    return ShownIds(len(before), len(after), len(lost), len(gained), lost[:_EXAMPLES], gained[:_EXAMPLES])


def overlap_histogram(queries: Sequence[ComparedQuery]) -> list[int]:
    """Return how many queries have an overlap@10 of 0, .1, ... 1."""
    counts = Counter(round(each.overlap_at_10 * 10) for each in queries)
    return [counts[tenth] for tenth in range(11)]


def rank_moves(queries: Sequence[ComparedQuery]) -> RankMoves:
    """Return where the first ten went."""
    moves: Counter[str] = Counter()
    for each in queries:
        ranks = {item_id: rank for rank, item_id in enumerate(each.replayed.after.ids)}
        for rank, item_id in enumerate(each.replayed.before.ids[:_FIRST]):
            moves[_move(rank, ranks.get(item_id))] += 1
    return RankMoves(**{name: moves[name] for name in RankMoves.__slots__})


def changed_most(queries: Sequence[ComparedQuery]) -> list[ComparedQuery]:
    """Return the queries whose answers differ most, most first; those that did not change are left out."""
    changed = [each for each in queries if each.replayed.before.ids != each.replayed.after.ids]
    return sorted(changed, key=lambda each: (round(each.rbo, 9), each.replayed.query.label))[:_CHANGED]


def newly_empty(queries: Sequence[ComparedQuery]) -> list[str]:
    """Return the first queries, by label, that found something before and find nothing after."""
    return sorted(each.replayed.query.label for each in queries if each.is_newly_empty)[:_EXAMPLES]


def side_by_side(query: ComparedQuery, titles: Mapping[Id, str]) -> ChangedQuery:
    """Return the first ten of both. titles: by id."""
    replayed = query.replayed
    return ChangedQuery(
        replayed.query.label,
        replayed.query.kind,
        replayed.query.language,
        _rounded(query.overlap_at_10),
        _rounded(query.rbo),
        _shown(replayed.before.hits, replayed.after.ids, titles),
        _shown(replayed.after.hits, replayed.before.ids, titles),
    )


def slowest(replayed: Iterable[ReplayedQuery]) -> list[SlowQuery]:
    """Return the queries that took longest in either, the slowest first."""
    ordered = sorted(replayed, key=lambda each: -max(each.before.seconds, each.after.seconds))
    return [
        SlowQuery(each.query.label, round(each.before.seconds * 1e3, 3), round(each.after.seconds * 1e3, 3))
        for each in ordered[:_SLOWEST]
    ]


def first_ids(query: ComparedQuery) -> set[Id]:
    """Return the ids that `side_by_side` shows."""
    return _first_ids([query.replayed.before, query.replayed.after])


def _first_ids(answers: Iterable[ReplayedAnswer]) -> set[Id]:
    return {item_id for answer in answers for item_id in answer.ids[:_FIRST]}


def _shown(hits: Sequence[Hit], others: Sequence[Id], titles: Mapping[Id, str]) -> list[ShownHit]:
    ranks = {item_id: rank for rank, item_id in enumerate(others, start=1)}
    return [
        ShownHit(hit.id, _rounded(hit.distance), titles.get(hit.id, ""), ranks.get(hit.id))
        for hit in hits[:_FIRST]
    ]


def _move(before: int, after: int | None) -> str:
    if after is None:
        return "left"
    down = after - before
    if down <= 0:
        return "up" if down else "same"
    return "down_1_to_3" if down <= 3 else "down_4_to_9" if down <= 9 else "down_10_or_more"


def _is_found(answer: ReplayedAnswer) -> bool:
    return answer.own_rank is not None and answer.own_rank <= _FIRST


def _id_key(item_id: Id) -> tuple[int, Id]:
    return (0, item_id) if isinstance(item_id, int) else (1, item_id)


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
