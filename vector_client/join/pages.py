"""A page of rows for the ids of a search: in their order, what is missing told, and refilled on request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from vector_client.recommend.port import Neighbours
from vector_client.types import Id

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = Mapping[Any, Sequence[Row]]
"""Rows by id; several rows of one id in the database's order."""

Fetch: TypeAlias = Callable[[Sequence[Id]], Awaitable[Rows]]
FetchNow: TypeAlias = Callable[[Sequence[Id]], Rows]
Ask: TypeAlias = Callable[[int, Sequence[Id]], Awaitable[Neighbours]]
"""Searches: how many, and which ids to leave out beyond the caller's own."""
AskNow: TypeAlias = Callable[[int, Sequence[Id]], Neighbours]

BLOCK_IDS = 500
"""Ids in one statement."""
ROUNDS_MAX = 5
"""Searches for one page: a table that has lost everything must not be searched for ever."""


@dataclass(frozen=True, slots=True)
class Joined:
    """neighbours: (id, distance) of the ids that have rows, nearest first. rows: theirs, in that order, the
    rows of one id together. missing: ids that the search found and the table has not.
    is_full: as many ids as asked for, or nothing more to find."""

    neighbours: Neighbours
    rows: list[Row]
    missing: list[Any]
    is_full: bool = True


@dataclass(slots=True)
class _Gathered:
    neighbours: Neighbours = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    missing: list[Any] = field(default_factory=list)

    def take(self, found: Neighbours, rows: Rows, top_k: int) -> None:
        for item_id, distance in found:
            if item_id not in rows:
                self.missing.append(item_id)
            elif len(self.neighbours) < top_k:
                self.neighbours.append((item_id, distance))
                self.rows.extend(rows[item_id])


async def joined(found: Neighbours, fetch: Fetch, block_ids: int = BLOCK_IDS) -> Joined:
    """Return the rows of a search's answer, read in blocks."""
    gathered = _Gathered()
    for block in _blocks(found, block_ids):
        gathered.take(block, await fetch([item_id for item_id, _ in block]), len(found))
    return Joined(gathered.neighbours, gathered.rows, gathered.missing)


def joined_now(found: Neighbours, fetch: FetchNow, block_ids: int = BLOCK_IDS) -> Joined:
    """The same for a blocking driver."""
    gathered = _Gathered()
    for block in _blocks(found, block_ids):
        gathered.take(block, fetch([item_id for item_id, _ in block]), len(found))
    return Joined(gathered.neighbours, gathered.rows, gathered.missing)


async def full_page(ask: Ask, fetch: Fetch, top_k: int, block_ids: int = BLOCK_IDS) -> Joined:
    """Return `top_k` ids that have rows: what is missing is made up for by searches for the next ids."""
    steps = _page_steps(top_k, block_ids)
    step = next(steps)
    while True:
        try:
            if isinstance(step, _Search):
                step = steps.send(await ask(step.k, step.exclude_ids))
            else:
                step = steps.send(await fetch(step.ids))
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def full_page_now(ask: AskNow, fetch: FetchNow, top_k: int, block_ids: int = BLOCK_IDS) -> Joined:
    """The same for blocking calls."""
    steps = _page_steps(top_k, block_ids)
    step = next(steps)
    while True:
        try:
            if isinstance(step, _Search):
                step = steps.send(ask(step.k, step.exclude_ids))
            else:
                step = steps.send(fetch(step.ids))
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Search:
    k: int
    exclude_ids: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Read:
    ids: Sequence[Any]


def _page_steps(top_k: int, block_ids: int) -> Generator[_Search | _Read, Any, Joined]:
    gathered = _Gathered()
    seen: list[Any] = []
    is_full = False
    for _ in range(ROUNDS_MAX):
        wanted = top_k - len(gathered.neighbours)
        found: Neighbours = yield _Search(wanted, tuple(seen))
        for block in _blocks(found, block_ids):
            rows: Rows = yield _Read([item_id for item_id, _ in block])
            gathered.take(block, rows, top_k)
        seen += [item_id for item_id, _ in found]
        is_full = len(gathered.neighbours) >= top_k or len(found) < wanted
        if is_full:
            break
    return Joined(gathered.neighbours, gathered.rows, gathered.missing, is_full)


def _blocks(found: Neighbours, block_ids: int) -> list[Neighbours]:
    return [found[start : start + block_ids] for start in range(0, len(found), block_ids)]
