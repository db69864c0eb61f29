"""The answer to one search out of one view: every part gives its nearest, the nearest of those are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_store.ann.rerank import Distances, similarities
from index_store.delta.id_index import RowNumbers
from index_store.errors import AnswerLimitExceeded, PageExpired
from index_store.explanation import WordMatch
from index_store.filter.cache import CompiledFilter, compiled_filter
from index_store.lexical.matches import matched_words, query_words
from index_store.lexical.scores import SCORING
from index_store.query.allowed import allowed_rows
from index_store.query.candidates import nearest
from index_store.query.confidence import confidences, curve_of
from index_store.query.fusion import fused_rows, text_parts
from index_store.query.ranking.ranked import RankedAnswer, ranked_answer
from index_store.query.recommend import recommended_rows
from index_store.query.view import View, by_part, has_key, vectors_at
from index_store.request.confidence import ConfidenceQuery, Curve
from index_store.request.ranking import Ranking
from index_store.request.recommendation import LikesPage, Recommendation
from index_store.types import Id, SearchRequest, TextQuery, Vector
from item_rules.metadata import text_bytes

_EXCLUDED_CHECKED_MAX = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """Nearest first, ties by id. part: index of the segment that holds the row, -1 for the delta.
    unknown_keys: of the filter, those that no row has. scored: where words were searched or boosts added.
    recommended: of a recommendation, which is not ordered by distance. confidence: where it was asked for.
    ranked: of a search with a ranking."""

    ids: list[Id]
    distances: Distances
    parts: npt.NDArray[np.int64]
    rows: RowNumbers
    exhausted: bool
    unknown_keys: Sequence[str]
    scored: AnswerScores | None = None
    recommended: AnswerLikes | None = None
    confidence: AnswerConfidence | None = None
    ranked: RankedAnswer | None = None


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """What an answer is ordered by, and what the words of each of its items score, None without words.
    text_weight, scoring: as `types.PageKey`."""

    scores: list[float]
    texts: Sequence[float | None]
    text_weight: float
    scoring: int = SCORING


@dataclass(frozen=True, slots=True)
class AnswerLikes:
    """Of each item of a recommendation, which liked one it was found for. key: what orders the last of them.
    page: where it ends."""

    likes: list[int]
    key: float
    page: LikesPage


@dataclass(frozen=True, slots=True)
class AnswerConfidence:
    """Of each item, and what it was told by."""

    values: list[float]
    curve: Curve


def answer(view: View, request: SearchRequest) -> Answer:
    """view: knows the page's seq, if the request is for one. Raises PageExpired, InvalidFilter,
    WordsNotSealed."""
    if request.text is not None and request.after is not None and request.after.scoring != SCORING:
        raise PageExpired(
            "the release that gave this page scored words in another way; search again without a cursor",
            "cursor",
        )
    condition = None if request.filter is None else compiled_filter(request.filter)
    if request.ranking is not None:
        found = _answer_by_rank(view, request, request.ranking, condition)
    elif request.text is not None:
        found = _answer_by_words(view, request, request.text, condition)
    elif request.recommendation is not None:
        found = _answer_by_likes(view, request, request.recommendation, condition)
    else:
        found = _answer_by_distance(view, request, condition)
    _check_answer(request, found.ids)
    return found


def _answer_by_distance(view: View, request: SearchRequest, condition: CompiledFilter | None) -> Answer:
    wanted = request.offset + request.k
    found = nearest(view, request, allowed_rows(view, request, condition), wanted + 1)
    distances = found.distances
    stop, exhausted = page_end(request, distances)
    confidence = None
    if request.confidence is not None:
        scores = similarities(distances, view.delta.metric)
        confidence, within = _confidence(view, request, request.confidence, scores, stop)
        exhausted = exhausted or within <= wanted
        stop = min(stop, within)
    page = slice(request.offset, stop)
    ids: list[Id] = found.ids[page].tolist()
    unknown = unknown_keys(view, condition)
    return Answer(
        ids, distances[page], found.numbers[page], found.rows[page], exhausted, unknown, confidence=confidence
    )


def page_end(request: SearchRequest, distances: Distances) -> tuple[int, bool]:
    """Return where the page of a search by distance ends among the nearest rows, and whether nothing comes
    after it. distances: of the first `offset + k + 1`, nearest first; of all where they are fewer."""
    wanted = request.offset + request.k
    if request.max_distance is None:
        return wanted, len(distances) <= wanted
    within = int(np.searchsorted(distances, request.max_distance, side="right"))
    return min(wanted, within), within <= wanted


def _confidence(
    view: View, request: SearchRequest, asked: ConfidenceQuery, scores: Distances, stop: int
) -> tuple[AnswerConfidence, int]:
    """That of the answer's items, and how many of `scores` reach the minimum. scores: best first, from the
    first one before the page. stop: where the page ends at the latest."""
    curve = curve_of(view, request, asked)
    values = confidences(curve, scores)
    within = int(np.count_nonzero(values >= asked.minimum))  # the first ones: they fall with the scores
    return AnswerConfidence(values[request.offset : min(stop, within)].tolist(), curve), within


def _answer_by_words(
    view: View, request: SearchRequest, text: TextQuery, condition: CompiledFilter | None
) -> Answer:
    wanted = request.offset + request.k
    found, weight = fused_rows(view, request, text, condition, wanted + 1)
    exhausted = len(found.rows) <= wanted
    stop = min(wanted, len(found.rows))
    confidence = None
    if request.confidence is not None:
        confidence, within = _confidence(view, request, request.confidence, -found.keys, stop)
        exhausted = exhausted or within <= wanted
        stop = min(stop, within)
    page = found.at(slice(request.offset, max(request.offset, stop)))
    ids: list[Id] = page.ids.tolist()
    unknown = unknown_keys(view, condition)
    scored = AnswerScores((-page.keys).tolist(), page.texts.tolist(), weight)
    return Answer(
        ids, page.distances, page.numbers, page.rows, exhausted, unknown, scored, confidence=confidence
    )


def _answer_by_likes(
    view: View, request: SearchRequest, asked: Recommendation, condition: CompiledFilter | None
) -> Answer:
    wanted = request.offset + request.k
    rows = recommended_rows(view, request, asked, condition, wanted + 1)
    before = None if request.after is None else request.after.likes
    exhausted = len(rows.keys) <= wanted
    shown = rows.take_items(slice(0, wanted))
    page = rows.take_items(slice(request.offset, wanted))
    ids: list[Id] = page.found.ids.tolist()
    likes = None
    if ids:
        end = shown.page_after(before, len(asked.likes))
        likes = AnswerLikes(page.likes.tolist(), float(page.keys[-1]), end)
    unknown = unknown_keys(view, condition)
    numbers, found_rows, distances, _ = page.found
    return Answer(ids, distances, numbers, found_rows, exhausted, unknown, recommended=likes)


def _answer_by_rank(
    view: View, request: SearchRequest, ranking: Ranking, condition: CompiledFilter | None
) -> Answer:
    curve = None if request.confidence is None else curve_of(view, request, request.confidence)
    ranked = ranked_answer(view, request, ranking, condition, curve)
    unknown = unknown_keys(view, condition)
    rows = ranked.rows
    if rows is None:
        nothing = np.empty(0, np.int64)
        return Answer([], np.empty(0), nothing, nothing, True, unknown, ranked=ranked)
    confidence = None
    if curve is not None:  # boosts say nothing of what was asked for
        bases = similarities(rows.distances, view.delta.metric)
        bases += 0.0 if request.text is None else ranked.weight * rows.texts
        confidence = AnswerConfidence(confidences(curve, bases).tolist(), curve)
    ids: list[Id] = rows.ids.tolist()
    scored = None
    if ranking.boosts or request.text is not None:
        texts: Sequence[float | None] = [None] * len(ids) if request.text is None else rows.texts.tolist()
        scored = AnswerScores(rows.scores.tolist(), texts, ranked.weight)
    exhausted = ranked.page is None
    return Answer(
        ids,
        rows.distances,
        rows.numbers,
        rows.rows,
        exhausted,
        unknown,
        scored,
        confidence=confidence,
        ranked=ranked,
    )


def unknown_keys(view: View, condition: CompiledFilter | None) -> Sequence[str]:
    """Return the keys of a filter that no row has."""
    return () if condition is None else [key for key in condition.keys if not has_key(view, key)]


def _check_answer(request: SearchRequest, ids: Sequence[Id]) -> None:
    """The last look before an answer leaves. It can only fail by our own mistake."""
    assert len(set(ids)) == len(ids), "an id was found twice"
    if 0 < len(request.exclude_ids) <= _EXCLUDED_CHECKED_MAX:
        assert set(ids).isdisjoint(np.asarray(request.exclude_ids).tolist()), "an excluded id was found"


def texts_of(view: View, found: Answer, bytes_max: int | None) -> list[str | None]:
    """The metadata of the rows found, as JSON texts. Raises AnswerLimitExceeded before more than `bytes_max`
    are read."""
    texts: list[str | None] = [None] * len(found.rows)
    taken = 0
    for number, positions, rows in by_part(found.parts, found.rows):
        taken += _metadata_bytes(view, number, rows)
        if bytes_max is not None and taken > bytes_max:
            raise AnswerLimitExceeded(
                f"top_k asks for more than {bytes_max} bytes of metadata: ask for fewer items", "top_k"
            )
        for position, text in zip(positions.tolist(), _metadata_texts(view, number, rows), strict=True):
            texts[position] = text
    return texts


def _metadata_bytes(view: View, number: int, rows: RowNumbers) -> int:
    if number >= 0:
        return view.segments[number].segment.metadata.bytes_of(rows)
    return sum(text_bytes(text) for text in view.delta.metadata_texts(rows) if text is not None)


def _metadata_texts(view: View, number: int, rows: RowNumbers) -> list[str | None]:
    if number >= 0:
        return view.segments[number].segment.metadata.texts(rows)
    return view.delta.metadata_texts(rows)


def word_matches(view: View, request: SearchRequest, found: Answer) -> list[Sequence[WordMatch]]:
    """Return of each row found which words of the request's text it holds."""
    assert request.text is not None
    query = query_words(request.text.text)
    sources = [view.pool.postings()] if view.pool else [each.source for each in text_parts(view, None)]
    matches: list[Sequence[WordMatch]] = [()] * len(found.rows)
    for number, positions, rows in by_part(found.parts, found.rows):
        for position, held in zip(
            positions.tolist(), matched_words(query, sources[number], rows), strict=True
        ):
            matches[position] = held
    return matches


def vectors_of(view: View, found: Answer) -> Vector:
    """(found, dim) copies of the vectors of the rows found."""
    return vectors_at(view, found.parts, found.rows)
