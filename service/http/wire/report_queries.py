"""Queries and judgements that a report is asked for with."""

from __future__ import annotations

from collections.abc import Mapping

from index_store.types import Id
from item_rules.ids import INT64_MAX, INT64_MIN
from service.app.report.queries import DEPTH, ReplayQuery, label_of, replay_search
from service.app.report.replay import SearchChange
from service.collections import Catalogue, Collection
from service.errors import InvalidInput
from service.http.wire.schemas import ChangeIn, JudgementIn, ReportIn, ReportQueryIn, SearchIn
from service.http.wire.search import SearchLimits, SearchReader
from service.http.wire.values import in_range, read_text, read_vector

_GRADES_MAX = 1000
_DIGITS_MAX = 20


def read_report_queries(
    body: ReportIn, collection: Collection, catalogue: Catalogue, limits: SearchLimits, queries_max: int
) -> list[ReplayQuery]:
    """Return the queries, then those of the judgements. Raises InvalidInput naming the line."""
    in_range("queries", len(body.queries), 0, queries_max)
    in_range("judgements", len(body.judgements), 0, queries_max)
    queries: list[ReplayQuery] = []
    reader = SearchReader(catalogue, limits)
    for place, query in enumerate(body.queries):
        try:
            queries.append(_read_query(query, place, collection, catalogue, limits, reader))
        except InvalidInput as exc:
            raise InvalidInput(("queries", place, *exc.loc), exc.msg, exc.code) from exc
    for place, judgement in enumerate(body.judgements):
        try:
            queries.append(_read_judgement(judgement, collection, limits))
        except InvalidInput as exc:
            raise InvalidInput(("judgements", place, *exc.loc), exc.msg, exc.code) from exc
    return queries


EF_MIN, EF_MAX = DEPTH + 1, 4096
"""A walk gives no more results than it is broad: each query is asked for DEPTH and its own item."""


def read_change(change: ChangeIn, limits: SearchLimits) -> SearchChange:
    """Return the change of a rehearsal. Raises InvalidInput."""
    found = SearchChange(change.exact, change.ef, change.max_distance, change.query_template)
    if not found.changes():
        raise InvalidInput("change", "must name exact, ef, max_distance or query_template")
    if change.ef is not None and not EF_MIN <= change.ef <= EF_MAX:
        raise InvalidInput(("change", "ef"), f"must be {EF_MIN} to {EF_MAX}")
    if change.ef is not None and change.exact:
        raise InvalidInput(("change", "ef"), "is the breadth of a graph, which an exact search does not walk")
    template = change.query_template
    if template is not None:
        read_text(template, limits.query_chars_max, ("change", "query_template"))
        if "{query}" not in template:
            raise InvalidInput(("change", "query_template"), "must hold {query}")
    return found


def _read_query(
    query: ReportQueryIn,
    place: int,
    collection: Collection,
    catalogue: Catalogue,
    limits: SearchLimits,
    reader: SearchReader,
) -> ReplayQuery:
    if query.collection not in (None, collection.name):
        raise InvalidInput("collection", f"must be {collection.name!r} or left out")
    asked = SearchIn(
        query=query.query,
        image=query.image,
        vector=query.vector,
        like_ids=query.like_ids,
        unlike_ids=query.unlike_ids,
        collection=collection.name,
        top_k=min(DEPTH, limits.top_k_max),
        exclude_ids=query.exclude_ids,
        filter=query.filter,
        max_distance=query.max_distance,
        mode="dense",
    )
    search = reader.parse(asked)
    next_vector = None
    if query.next_vector is not None:
        if query.vector is None:
            raise InvalidInput("next_vector", "needs vector: the same content by the model of before")
        next_vector = read_vector(query.next_vector, catalogue.dims_of(collection, None), "next_vector")
    return ReplayQuery(label_of(search, f"of line {place + 1}"), "given", search, next_vector)


def _read_judgement(judgement: JudgementIn, collection: Collection, limits: SearchLimits) -> ReplayQuery:
    text = read_text(judgement.query, limits.query_chars_max, "query")
    in_range("grades", len(judgement.grades), 1, _GRADES_MAX)
    grades = _read_grades(judgement.grades, collection)
    if not any(grade > 0 for grade in grades.values()):
        raise InvalidInput("grades", "must hold one above 0: else every answer is as good as another")
    search = replay_search(collection, content=text)
    return ReplayQuery(label_of(search, ""), "judged", search, grades=grades)


def _read_grades(grades: Mapping[str, float], collection: Collection) -> dict[Id, float]:
    """The keys of an object are texts: digits name an int64 id where the collection has those."""
    if collection.id_type == "string":
        return {str(key): grade for key, grade in grades.items()}
    return {_int64(key): grade for key, grade in grades.items()}


def _int64(key: str) -> int:
    digits = key.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        raise InvalidInput(("grades", key), "must be named by the item's id, a whole number", "invalid_id")
    value = int(key)
    if not INT64_MIN <= value <= INT64_MAX:
        raise InvalidInput(("grades", key), "must be named by an id of 64 bits", "invalid_id")
    return value
