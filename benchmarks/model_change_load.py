"""Searches and writes at a steady pace against a service that may be killed under them.

A write is one caller's: who gets no answer, or is told to try later, repeats it until it is acknowledged. A
search that fails is noted and not repeated. What failed while an outage was on purpose counts nowhere.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.model_change_shop import Change, Item, Search, Step, text_of

TOP_K = 10
_EXACT_SHARE = 1 / 40
_TIMEOUT_S = 30.0
_STEP_TIMEOUT_S = 120.0
"""A step waits for the models of all workers, one that is just being replaced included."""
_AGAIN_S = 0.05
_GIVE_UP_S = 120.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How many threads, and how often each sends, in seconds."""

    searchers: int = 4
    search_every_s: float = 0.05
    writers: int = 2
    write_every_s: float = 0.1


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not answered 200. began: for a broken connection when it was last known to be whole:
    one that was kept alive breaks with its server, and is found to be broken by the next request."""

    began: float
    ended: float
    what: str


@dataclass(frozen=True, slots=True)
class Happened:
    """What the threads of a load have seen since they were asked last."""

    changes: Sequence[Change]
    searches: Sequence[Search]
    failures: Sequence[Failure]


class Caller:
    """One keep-alive connection, made anew after each failure. One thread.

    sound_at: when the connection was last known to be whole: at its last answer, or when it was begun. One
    that breaks may have been broken at any time since.
    """

    def __init__(
        self, port: int, timeout_s: float = _TIMEOUT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._clock = clock
        self._connection: http.client.HTTPConnection | None = None
        self.sound_at = clock()

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, bytes]:
        """Return status and body. Raises OSError, HTTPException."""
        connection = self._connection
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout_s)
            self.sound_at = self._clock()
        self._connection = None
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        self._connection = connection
        self.sound_at = self._clock()
        return found

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        return self.ask("POST", path, body)


class Load:
    """Threads between `running` and its end; any thread may look at what happened."""

    def __init__(
        self,
        port: int,
        items: Sequence[Item],
        pace: Pace,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """items: as they are stored now."""
        self._port = port
        self._items = list(items)
        self._pace = pace
        self._seed = seed
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: set[int] = set()
        self._changes: list[Change] = []
        self._searches: list[Search] = []
        self._failures: list[Failure] = []
        self._broken: list[BaseException] = []
        self._stop = threading.Event()
        self._turn = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send meanwhile. On return every write is acknowledged. Raises what a thread has raised."""
        self._stop.clear()
        self._turn += 1
        pace = self._pace
        works = [(self._search, pace.search_every_s)] * pace.searchers
        works += [(self._write, pace.write_every_s)] * pace.writers
        threads = [
            threading.Thread(target=self._run, args=(work, every_s, number, len(works)))
            for number, (work, every_s) in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._broken:
            raise self._broken[0]

    def take(self) -> Happened:
        """Return what happened since the last call. Only while nothing runs."""
        found = Happened(self._changes, self._searches, self._failures)
        self._changes, self._searches, self._failures = [], [], []
        return found

    def _run(
        self, work: Callable[[random.Random, Caller, float], None], every_s: float, number: int, of: int
    ) -> None:
        chance = random.Random(f"{self._seed} {self._turn} {number}")
        caller = Caller(self._port, clock=self._clock)
        due = self._clock() + every_s * number / of
        try:
            while not self._stop.wait(max(0.0, due - self._clock())):
                work(chance, caller, due)
                # Callers who could not send for a second have gone elsewhere by then.
                due = max(due + every_s, self._clock() - 1.0)
        except BaseException as exc:
            self._broken.append(exc)

    def _search(self, chance: random.Random, caller: Caller, due: float) -> None:
        number = chance.randrange(len(self._items))
        wording = self._items[number].wording
        text = text_of(number, wording if wording is not None and chance.random() < 0.7 else 10**6)
        exact = chance.random() < _EXACT_SHARE
        began = self._clock()
        query = {"query": text, "top_k": TOP_K, "collection": "recipes", "exact": exact}
        try:
            status, answer = caller.post("/v1/search", query)
        except (OSError, http.client.HTTPException) as exc:
            self._failed(caller.sound_at, f"search: {exc!r}")
            return
        if status != 200:
            self._failed(began, f"search: {status} {answer[:200]!r}")
            return
        self._searches.append(Search(text, TOP_K, exact, due, began, self._clock(), answer))

    def _write(self, chance: random.Random, caller: Caller, due: float) -> None:
        del due
        with self._lock:
            number = chance.randrange(len(self._items))
            if number in self._taken:
                return
            self._taken.add(number)
        item = self._items[number]
        path, body, after = _written(chance, number, item)
        began = self._clock()
        while True:
            attempt = self._clock()
            try:
                status, answer = caller.post(path, body)
                if status == 200:
                    break
                self._failed(attempt, f"{path}: {status} {answer[:200]!r}")
            except (OSError, http.client.HTTPException) as exc:
                self._failed(caller.sound_at, f"{path}: {exc!r}")
            if self._clock() > began + _GIVE_UP_S:
                raise TimeoutError(f"{path} {body} was not acknowledged within {_GIVE_UP_S} s")
            time.sleep(_AGAIN_S)
        self._items[number] = after
        self._changes.append(Change(number, after, began, self._clock()))
        with self._lock:
            self._taken.discard(number)

    def _failed(self, began: float, what: str) -> None:
        self._failures.append(Failure(began, self._clock(), what))


def _written(chance: random.Random, number: int, item: Item) -> tuple[str, dict[str, Any], Item]:
    """Return where a change goes, with what, and what it makes of the item. A text makes its item active
    unless it says otherwise, as the contract has it."""
    kind = chance.choice(("reword", "reword", "reword", "hide", "hide", "delete"))
    ids = {"collection": "recipes", "ids": [number]}
    if item.wording is None or kind == "reword":
        wording = chance.randrange(1, 10**6)
        body: dict[str, Any] = {"recipe_id": number, "text": text_of(number, wording)}
        if chance.random() < 0.5:
            body["active"] = item.active
        after = Item(wording, bool(body.get("active", True)))
        return "/v1/upsert", {"collection": "recipes", "items": [body]}, after
    if kind == "delete":
        return "/v1/delete", ids, Item(None)
    path = "/v1/deactivate" if item.active else "/v1/activate"
    return path, ids, replace(item, active=not item.active)


def fill(port: int, numbers: int, step: int = 500) -> None:
    """Store every item at wording 0."""
    caller = Caller(port)
    for start in range(0, numbers, step):
        items = [{"recipe_id": n, "text": text_of(n, 0)} for n in range(start, min(start + step, numbers))]
        status, answer = caller.post("/v1/upsert", {"collection": "recipes", "items": items})
        if status != 200:
            raise RuntimeError(f"{status} {answer[:300]!r}")


def taken_step(port: int, step: str, clock: Callable[[], float] = time.monotonic) -> Step:
    """Take a promotion or rollback. Raises RuntimeError if it is refused, OSError, HTTPException."""
    began = clock()
    status, answer = Caller(port, _STEP_TIMEOUT_S).post(f"/v1/{step}", {"collection": "recipes"})
    if status != 200:
        raise RuntimeError(f"{step}: {status} {answer[:500]!r}")
    current = next(each for each in json.loads(answer)["generations"] if each["role"] == "current")
    return Step(current["embedding_version"], began, clock())
