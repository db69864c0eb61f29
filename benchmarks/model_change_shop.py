"""What a shop must be found to hold through a model change: every write and every search, judged afterwards.

While the load runs nothing is compared: writes and searches are only noted with their times. `judge` then
goes through them in the order of time, keeps the items of both models in memory, and asks of each answer
whether it could have been given. What was under way during a search may be in its answer or not; all else
must be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.contents.table import read_contents
from index_store.record.rows import Row
from index_store.storage.schema import COLUMNS, STORE_FILE, connect_reading, from_columns

Kind: TypeAlias = Literal["reword", "deactivate", "activate", "delete"]
Embed: TypeAlias = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Texts to unit vectors (n, dim), as the service's model makes them."""

TASTES = ("국물이 진한", "담백한", "매운", "고소한", "새콤한", "아이가 좋아하는", "겨울에 먹는", "간단한")
DISHES = (
    "김치찌개",
    "갈비탕",
    "비빔밥",
    "잡채",
    "된장국",
    "파전",
    "떡볶이",
    "냉면",
    "불고기",
    "칼국수",
    "만둣국",
)
NEAR = 1e-5
"""Distances of the wire are float64 over float32 vectors; texts of this shop differ by more."""
_PAGE = 500


def text_of(number: int, wording: int) -> str:
    """Return the text of item `number` in one of its wordings; no two are alike."""
    return f"{TASTES[number % 8]} {DISHES[number % 11]} 상품{number} 판본{wording}호"


@dataclass(frozen=True, slots=True)
class Item:
    """wording: of its text; None once it is deleted."""

    wording: int | None
    active: bool = True

    @property
    def is_live(self) -> bool:
        return self.active and self.wording is not None


@dataclass(frozen=True, slots=True)
class Change:
    """A write of one item and what it makes of it. began, acked: seconds of one clock; a write that is
    repeated until it is acknowledged is one change."""

    number: int
    after: Item
    began: float
    acked: float


@dataclass(frozen=True, slots=True)
class Search:
    """One answered search. due: when it was to be sent. exact: it was asked for a comparison with every
    item."""

    text: str
    top_k: int
    exact: bool
    due: float
    began: float
    ended: float
    answer: bytes

    @property
    def latency_ms(self) -> float:
        """Counted from when it was due, so that one long answer does not hide what waited behind it."""
        return (self.ended - self.due) * 1000


@dataclass(frozen=True, slots=True)
class Step:
    """A promotion or rollback: `version` serves once it is acknowledged."""

    version: str
    began: float
    acked: float


@dataclass
class Findings:
    """Answers that could not have been given, each with why; and how many could be compared."""

    answers: int = 0
    by_version: dict[str, int] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    exact: int = 0
    recalled: int = 0
    recallable: int = 0

    def problems(self) -> list[str]:
        return [*self.mixed, *self.hidden, *self.missing]


class Space:
    """The vectors of all items under one model, row = number of the item."""

    def __init__(self, embed: Embed, numbers: int) -> None:
        self._embed = embed
        texts = [text_of(number, 0) for number in range(numbers)]
        self.vectors = np.concatenate([embed(texts[at : at + _PAGE]) for at in range(0, numbers, _PAGE)])

    def one(self, text: str) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self._embed([text])[0]
        return found

    def distance(self, query: npt.NDArray[np.float32], vector: npt.NDArray[np.float32]) -> float:
        return float(np.linalg.norm(query.astype(np.float64) - vector))


class Shop:
    """Items 0..n-1, each at wording 0 in the beginning. Used by one thread."""

    def __init__(self, numbers: int, models: Mapping[str, Embed], serving: str) -> None:
        """models: by embedding_version. serving: the version that serves in the beginning."""
        self.items = [Item(0)] * numbers
        self.spaces = {version: Space(embed, numbers) for version, embed in models.items()}
        self._live = np.ones(numbers, np.bool_)
        self._serving = serving

    def judge(
        self, changes: Sequence[Change], searches: Sequence[Search], steps: Sequence[Step], sample: int = 1
    ) -> Findings:
        """Judge what happened since the last call, in which all is acknowledged by now. sample: of the
        searches that were not exact, every so-manieth is compared with the exact nearest as well, for its
        recall."""
        findings = Findings()
        by_acked = sorted(changes, key=lambda change: change.acked)
        coming = sorted(changes, key=lambda change: change.began, reverse=True)
        begun: dict[int, list[Change]] = {}
        applied = 0
        for place, search in enumerate(sorted(searches, key=lambda search: search.began)):
            while coming and coming[-1].began < search.ended:
                change = coming.pop()
                begun.setdefault(change.number, []).append(change)
            while applied < len(by_acked) and by_acked[applied].acked <= search.began:
                change = by_acked[applied]
                self._apply(change)
                begun[change.number].remove(change)
                if not begun[change.number]:
                    del begun[change.number]
                applied += 1
            under_way = {
                number: [self.items[number], *(each.after for each in some if each.began < search.ended)]
                for number, some in begun.items()
                if any(each.began < search.ended for each in some)
            }
            self._judge_one(search, under_way, steps, findings, is_compared=place % sample == 0)
        for change in by_acked[applied:]:
            self._apply(change)
        if steps:
            self._serving = steps[-1].version
        return findings

    def _apply(self, change: Change) -> None:
        before, after = self.items[change.number], change.after
        self.items[change.number] = after
        self._live[change.number] = after.is_live
        if after.wording is not None and after.wording != before.wording:
            for space in self.spaces.values():
                space.vectors[change.number] = space.one(text_of(change.number, after.wording))

    def _versions(self, search: Search, steps: Sequence[Step]) -> set[str]:
        """Which versions may have answered."""
        done = [step for step in steps if step.acked <= search.began]
        serving = done[-1].version if done else self._serving
        return {serving, *(s.version for s in steps if s.acked > search.began and s.began < search.ended)}

    def _judge_one(
        self,
        search: Search,
        under_way: Mapping[int, Sequence[Item]],
        steps: Sequence[Step],
        findings: Findings,
        *,
        is_compared: bool,
    ) -> None:
        told: dict[str, Any] = json.loads(search.answer)
        version = told["embedding_version"]
        findings.answers += 1
        findings.by_version[version] = findings.by_version.get(version, 0) + 1
        allowed = self._versions(search, steps)
        if version not in allowed:
            findings.mixed.append(f"{search.text!r} was answered by {version}, {sorted(allowed)} served")
        space = self.spaces[version]
        query = space.one(search.text)
        hits = {int(hit["recipe_id"]): float(hit["distance"]) for hit in told["results"]}
        for number, distance in hits.items():
            may_be = under_way.get(number, [self.items[number]])
            live = [each for each in may_be if each.is_live]
            if not live:
                findings.hidden.append(f"{number} was shown for {search.text!r} by {version}: {may_be}")
            elif not any(abs(distance - self._distance(space, query, number, each)) < NEAR for each in live):
                findings.mixed.append(f"{number} is not at {distance} from {search.text!r} under {version}")
        if search.exact or is_compared:
            self._compare(search, space, query, hits, under_way, findings)

    def _distance(self, space: Space, query: npt.NDArray[np.float32], number: int, item: Item) -> float:
        if item == self.items[number]:
            return space.distance(query, space.vectors[number])
        assert item.wording is not None
        return space.distance(query, space.one(text_of(number, item.wording)))

    def _compare(
        self,
        search: Search,
        space: Space,
        query: npt.NDArray[np.float32],
        hits: Mapping[int, float],
        under_way: Mapping[int, Sequence[Item]],
        findings: Findings,
    ) -> None:
        """Which of the nearest are not in the answer: of an exact search that is a fault."""
        likeness = space.vectors @ query
        likeness[~self._live] = -np.inf
        likeness[list(under_way)] = -np.inf
        wanted = min(search.top_k, int(np.isfinite(likeness).sum()))
        nearest = np.argpartition(-likeness, wanted - 1)[:wanted] if wanted else np.empty(0, np.int64)
        last = max(hits.values(), default=0.0) if len(hits) >= search.top_k else np.inf
        due = [int(n) for n in nearest if space.distance(query, space.vectors[n]) < last - NEAR]
        lost = [number for number in due if number not in hits]
        if search.exact:
            findings.exact += 1
            if lost:
                findings.missing.append(f"{lost} are missing for {search.text!r} under {space}")
        else:
            findings.recallable += search.top_k
            findings.recalled += search.top_k - len(lost)

    def differences(self, generation: Path, version: str, *, is_whole: bool = True) -> Iterator[str]:
        """Yield what the store of a generation holds otherwise than the shop: every row, its vector by its
        own model, its kept text. is_whole: no item waits for its vector."""
        seen = 0
        for row, text in _rows(generation / STORE_FILE):
            number = int(row.id)
            problem = "is not the shop's"
            if number < len(self.items):
                problem = self._difference(number, row, text, version, is_whole=is_whole)
                seen += self.items[number].wording is not None and not row.deleted
            if problem:
                yield f"{number} in {generation.name} of {version}: {problem}"
        wanted = sum(item.wording is not None for item in self.items)
        if seen != wanted:
            yield f"{generation.name} of {version} holds {seen} items, not {wanted}"

    def _difference(self, number: int, row: Row, text: str | None, version: str, *, is_whole: bool) -> str:
        item = self.items[number]
        if row.deleted:
            return "" if item.wording is None else "is deleted"
        if item.wording is None:
            return "is there, though it was deleted"
        expected = text_of(number, item.wording)
        if row.active != item.active:
            return f"active is {row.active}"
        if text != expected or row.content_hash != hashlib.sha256(expected.encode()).digest():
            return f"its text is {text!r}, not {expected!r}"
        if row.vector is None:
            return "waits for its vector" if is_whole else ""
        stored = np.frombuffer(row.vector, "<f4")
        vector = self.spaces[version].vectors[number]
        return "" if np.abs(stored - vector).max() < NEAR else "its vector is not that of its text"


def _rows(store: Path) -> Iterator[tuple[Row, str | None]]:
    """Yield every row of a store with its kept text, as of one moment. Raises AssertionError for damage."""
    connection = connect_reading(store)
    try:
        connection.execute("BEGIN")
        last = -1
        query = f"SELECT {COLUMNS} FROM item WHERE id>? ORDER BY id LIMIT {_PAGE}"
        while page := list(connection.execute(query, (last,))):
            rows = [from_columns(values) for values in page]
            kept = read_contents(connection, [row.id for row, _ in rows])
            for row, is_sound in rows:
                assert is_sound, f"{row.id} is damaged in {store}"
                found = kept.get(row.id)
                yield row, None if found is None else found.content.data.decode()
            last = int(rows[-1][0].id)
    finally:
        connection.close()
