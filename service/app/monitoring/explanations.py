"""Why an item is, or is not, in the answer to a search, in a word and in a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from index_store.errors import VersionMismatch
from index_store.explanation import Explanation
from index_store.port import ExplainSource
from index_store.types import Id, SearchRequest
from service.app.search import ParsedSearch, Searcher
from service.errors import Overloaded

Reason: TypeAlias = Literal[
    "in_answer",
    "unknown",
    "deleted",
    "inactive",
    "not_yet_active",
    "ended",
    "without_vector",
    "excluded",
    "filtered_out",
    "not_indexed",
    "vetoed",
    "too_far",
    "grouped_out",
    "collapsed",
    "before_offset",
    "beyond_top_k",
    "missed_by_graph",
]


@dataclass(frozen=True, slots=True)
class ItemExplanation:
    """detail: the reason in a sentence."""

    reason: Reason
    detail: str
    facts: Explanation


class Explanations:
    """Explains answers, one at a time: each compares every row of a collection. Event loop only."""

    def __init__(self, searcher: Searcher, source: ExplainSource, readers: Executor) -> None:
        self._searcher = searcher
        self._source = source
        self._readers = readers
        self._is_busy = False

    async def explain_search(self, search: ParsedSearch, item_id: Id, caller: str) -> ItemExplanation:
        """search: without a page and without a min_seq. Raises as `Searcher.find`, and Overloaded while
        another item is explained."""
        if self._is_busy:
            raise Overloaded("Another answer is being explained.", reason="explain")
        self._is_busy = True
        try:
            request = await self._searcher.request_of(search, caller)
            call = partial(self._source.explain, search.collection.name, request, item_id)
            facts = await asyncio.get_running_loop().run_in_executor(self._readers, call)
        except VersionMismatch as exc:
            raise self._searcher.translate_error(search, exc) from exc
        finally:
            self._is_busy = False
        reason = reason_of(facts, request)
        return ItemExplanation(reason, _SENTENCES[reason](facts, request), facts)


def reason_of(facts: Explanation, request: SearchRequest) -> Reason:
    """Return the first reason that applies."""
    if facts.answer_rank is not None:
        return "in_answer"
    if facts.state != "live":
        return facts.state
    if facts.is_excluded:
        return "excluded"
    if facts.passes_filter is False:
        return "filtered_out"
    if not facts.is_indexed:
        return "not_indexed"
    if facts.is_vetoed:
        return "vetoed"
    assert facts.distance is not None, "a live item has a vector"
    if request.max_distance is not None and facts.distance > request.max_distance:
        return "too_far"
    if facts.left_out_by is not None:
        return "grouped_out" if facts.left_out_by == "group_by" else "collapsed"
    rank = facts.exact_rank if request.ranking is None else facts.ranking_rank
    if rank is None:
        return "missed_by_graph" if _should_be_ranked(facts, request) else "beyond_top_k"
    if rank > request.offset + request.k:
        return "beyond_top_k"
    return "before_offset" if rank <= request.offset else "missed_by_graph"


def _should_be_ranked(facts: Explanation, request: SearchRequest) -> bool:
    """Whether a ranking has no rank for what exact search finds in the pools that were looked at. An exact
    one orders all rows by score before it makes pools of them."""
    if request.ranking is None or request.exact or facts.exact_rank is None:
        return False
    return facts.exact_rank <= facts.ranking_ranks_seen


_Sentence: TypeAlias = Callable[[Explanation, SearchRequest], str]


def _rank(facts: Explanation) -> str:
    return str(facts.exact_rank) if facts.exact_rank else f"beyond {facts.ranks_seen}"


def _else_rank(facts: Explanation) -> str:
    """What rank it would have; nothing where that is not known."""
    return f"; else its rank would be {_rank(facts)}." if facts.ranks_seen else "."


def _final_rank(facts: Explanation, request: SearchRequest) -> str:
    """Its rank in the order of the answer."""
    if request.ranking is None:
        return _rank(facts)
    seen = facts.ranking_ranks_seen or request.offset + request.k
    return f"{facts.ranking_rank or f'beyond {seen}'} ({_rank(facts)} by distance)"


_SENTENCES: Final[Mapping[Reason, _Sentence]] = {
    "in_answer": lambda facts, _: f"It is in the answer, at rank {facts.answer_rank}.",
    "unknown": lambda _, __: "Nothing is stored under this id.",
    "deleted": lambda facts, _: (
        f"It was deleted by the commit with seq {facts.item_seq}"
        + ("" if facts.source_version is None else f", source_version {facts.source_version}")
        + "."
    ),
    "inactive": lambda facts, _: f"It was deactivated by the commit with seq {facts.item_seq}.",
    "not_yet_active": lambda _, __: "Its metadata say that it is shown later (active_from).",
    "ended": lambda _, __: "Its metadata say that it is over (active_until).",
    "without_vector": lambda _, __: "It has no vector yet: no model has read its content.",
    "excluded": lambda facts, _: f"exclude_ids, like_ids or unlike_ids name it{_else_rank(facts)}",
    "filtered_out": lambda facts, _: f"Its metadata does not pass the filter{_else_rank(facts)}",
    "vetoed": lambda _, __: "It is nearer to one of unlike_ids than to any of like_ids.",
    "not_indexed": lambda _, __: "The store holds it, and the index does not know it: see /health.",
    "too_far": lambda facts, request: (
        f"Its distance is {facts.distance:.6g}, max_distance is {request.max_distance:.6g}."
    ),
    "grouped_out": lambda facts, _: (
        f"group_by has enough hits of its group that come first; by distance its rank is {_rank(facts)}."
    ),
    "collapsed": lambda facts, _: (
        "It is as near as collapse.distance to a hit that comes first; "
        f"by distance its rank is {_rank(facts)}."
    ),
    "before_offset": lambda facts, request: (
        f"Its rank is {_final_rank(facts, request)}: offset {request.offset} skips it."
    ),
    "beyond_top_k": lambda facts, request: (
        f"Its rank is {_final_rank(facts, request)}: the answer ends at rank {request.offset + request.k}."
    ),
    "missed_by_graph": lambda facts, _: (
        f"By exact search its rank is {_rank(facts)}; approximate search missed it, exact=true finds it."
    ),
}
