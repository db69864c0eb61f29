"""How much may vanish from search before the feeder stops and asks a person.

A comparison counts before it writes. What is followed comes in small writes, so it is counted over a window
of time; the service stores the count in the same commit as the rows, so it survives a restart.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from feeder.changes import Changes
from feeder.digest import Sums
from feeder.errors import BrakeOn
from feeder.sink.writer import WriteResult, joined
from feeder.state.cursor_names import BRAKE_CURSOR, WINDOW_CURSOR
from vector_client.types import CollectionState, Differing, Digest, Id

log = logging.getLogger(__name__)

WINDOW_BUCKETS = 60
WARNED_SHARE = 0.5
"""Of what may vanish: from here on the log says so."""
PERCENT_OFF = 100.0


class Store(Protocol):
    """The service's side of one collection."""

    def state(self) -> CollectionState:
        """Return what the service holds of the collection. Raises ServiceDown, SettingsWrong."""

    def apply(self, changes: Changes, cursors: Mapping[str, str]) -> WriteResult:
        """Store changes and cursors in one commit. Raises ServiceDown, ImportRefused, BrakeOn."""

    def digest(self) -> Digest:
        """Return the sums of what the service holds. Raises ServiceDown."""

    def differing(self, sums: Sums) -> Differing:
        """Return what it holds where its sums are not these."""

    def showing(self, ids: Sequence[Id]) -> int:
        """Return how many of these items a search can return."""


def nothing_vanished() -> int:
    """Stands for the count of a window where none is kept."""
    return 0


@dataclass(frozen=True, slots=True)
class Brake:
    """What may be taken out of the search in one pass: `percent` of what the service holds, and always
    `rows_min`; 100 % is no limit. lately: what has vanished within the window already, which counts.
    is_forced lets more go, except to nothing at all: a source without a single item is never believed."""

    percent: float
    rows_min: int = 10
    is_forced: bool = False
    vanished_before: Callable[[], int] = nothing_vanished

    @property
    def is_off(self) -> bool:
        """Whether any number of items may vanish."""
        return self.is_forced or self.percent >= PERCENT_OFF

    def allowed(self, held: int) -> int:
        """Return how many of `held` items may vanish."""
        return max(self.rows_min, int(self.percent * held / 100))

    def check(self, *, vanishing: int, held: int, in_source: int) -> None:
        """Raises BrakeOn."""
        if held and not in_source:
            raise BrakeOn(
                f"the source holds no item at all, the index {held:,}; nothing was changed",
                hint="Is this the wrong database? To empty a collection on purpose, delete its items through"
                " the service.",
            )
        if vanishing and not self.is_off and vanishing + self.vanished_before() > self.allowed(held):
            raise self.brake_error(vanishing, held)

    def brake_error(self, vanishing: int, held: int) -> BrakeOn:
        """Return the error that says why it holds."""
        vanished_before = self.vanished_before()
        share = 100 * vanishing / held if held else 100.0
        before = (
            f" after {vanished_before:,} within the window (FEEDER_BRAKE_WINDOW_S)" if vanished_before else ""
        )
        return BrakeOn(
            f"{vanishing:,} of {held:,} items ({share:.1f} %) would vanish{before}, at most"
            f" {self.percent:g} % may; nothing was changed"
        )


def brake_cursor(exc: BrakeOn, clock: Callable[[], float]) -> dict[str, str]:
    """Return the cursor that tells everybody that the brake holds."""
    return {
        BRAKE_CURSOR: json.dumps(
            {"why": str(exc), "hint": exc.hint, "since_ms": int(clock() * 1000)}, ensure_ascii=False
        )
    }


class BrakeWindow:
    """How many items vanished within the last `seconds`, net of those that came back. For one thread.

    clock: seconds since 1970, so that a count survives a restart. held: items of the index when it began.
    is_unsaved: the service does not hold it under the embedding_version that it serves now.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self.held = 0
        self._clock = clock
        self._buckets: list[tuple[int, int]] = []
        self._version: str | None = None
        self.is_unsaved = False

    def load(self, text: str | None, version: str | None) -> None:
        """Take over what the service stored under `version`; what another program wrote counts as nothing.

        Another version than before has cursors of its own (a promoted model): the items are the same, so what
        was counted stays, and has to be stored there.
        """
        stored = _parsed(text)
        is_other = self._version is not None and version != self._version
        self._version = version
        if is_other and self.total() > self._total_of(stored[1]):
            self.is_unsaved = True
        else:
            self.held, self._buckets = stored

    def as_cursor(self, more: int = 0) -> str:
        """Return it as the service stores it. more: what vanishes with the same write."""
        buckets = _increased(self._recent(), more, self._bucket_end()) if more else self._recent()
        return json.dumps({"held": self.held, "parts": buckets}, separators=(",", ":"))

    def total(self) -> int:
        """Return how many items vanished within the window, net."""
        return self._total_of(self._buckets)

    def note_vanished(self, net: int) -> None:
        """net: below 0 where more came back; they are taken off what vanished first."""
        live = self._recent()
        self._buckets = _increased(live, net, self._bucket_end()) if net > 0 else _reduced(live, -net)

    def _total_of(self, buckets: list[tuple[int, int]]) -> int:
        oldest = self._clock() - self.seconds
        return sum(count for at, count in buckets if at > oldest)

    def _recent(self) -> list[tuple[int, int]]:
        oldest = self._clock() - self.seconds
        return [(at, count) for at, count in self._buckets if at > oldest]

    def _bucket_end(self) -> int:
        """Return the end of the part of the window that it is: nothing is forgotten early."""
        step = max(1, int(self.seconds / WINDOW_BUCKETS))
        return (int(self._clock()) // step + 1) * step


def _parsed(text: str | None) -> tuple[int, list[tuple[int, int]]]:
    try:
        body = json.loads(text or "{}")
        return int(body.get("held", 0)), [(int(at), int(count)) for at, count in body.get("parts", ())]
    except (ValueError, TypeError, AttributeError):
        log.warning("cursor_not_understood", extra={"cursor": str(text)[:200]})
        return 0, []


def _increased(buckets: list[tuple[int, int]], count: int, at: int) -> list[tuple[int, int]]:
    if buckets and buckets[-1][0] == at:
        return [*buckets[:-1], (at, buckets[-1][1] + count)]
    return [*buckets, (at, count)]


def _reduced(buckets: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    left: list[tuple[int, int]] = []
    for at, held in buckets:
        taken = min(held, count)
        count -= taken
        if held > taken:
            left.append((at, held - taken))
    return left


class BrakedStore:
    """Fits Store. Nothing written through it makes more vanish within the window than the brake allows.

    What may vanish goes in one commit with its count, so that a kill loses neither: `batch_items` of it at a
    time, which the store sends in its last request.
    """

    def __init__(
        self, collection: str, store: Store, brake: Brake, window: BrakeWindow, *, batch_items: int
    ) -> None:
        self._collection = collection
        self._store = store
        self._brake = brake
        self._window = window
        self._batch_items = batch_items
        self._is_loaded = False

    def state(self) -> CollectionState:
        """Return what the service holds; the first call takes over the window that it stored."""
        state = self._store.state()
        if not self._is_loaded:
            self._window.load(state.cursors.get(WINDOW_CURSOR), state.version)
            self._is_loaded = True
        return state

    def apply(self, changes: Changes, cursors: Mapping[str, str]) -> WriteResult:
        """Store everything, then the cursors. Raises BrakeOn before anything is written."""
        if self._brake.is_off:
            return self._store.apply(changes, cursors)
        hidden = [item for item in changes.items if not item.active]
        hiding = [*changes.delete_ids, *(item.id for item in hidden)]
        expected = self._allowed_now(hiding) if hiding else 0
        done: list[WriteResult] = []
        while len(hidden) > self._batch_items:
            some, hidden = hidden[: self._batch_items], hidden[self._batch_items :]
            part = replace(changes, items=some, delete_ids=(), rows=0)
            done.append(self._counted(part, {}, min(expected, len(some))))
        if done:
            changes = replace(changes, items=[*(item for item in changes.items if item.active), *hidden])
        expected = min(expected, len(changes.delete_ids) + len(hidden))
        return joined([*done, self._counted(changes, cursors, expected)])

    def digest(self) -> Digest:
        """Return the sums of what the service holds. Raises ServiceDown."""
        return self._store.digest()

    def differing(self, sums: Sums) -> Differing:
        """Return what the service holds where its sums are not these. Raises ServiceDown."""
        return self._store.differing(sums)

    def showing(self, ids: Sequence[Id]) -> int:
        """Return how many of these items a search can return. Raises ServiceDown."""
        return self._store.showing(ids)

    def _counted(self, changes: Changes, cursors: Mapping[str, str], expected: int) -> WriteResult:
        """Write, and count what vanished by it. expected: how many can, at the most."""
        window = self._window
        counted = {WINDOW_CURSOR: window.as_cursor(expected)} if expected or window.is_unsaved else {}
        applied = self._store.apply(changes, {**cursors, **counted})
        known = applied.vanished is not None and applied.reappeared is not None
        net = (applied.vanished or 0) - (applied.reappeared or 0) if known else expected
        self._note(net)
        if net != expected:
            self._store.apply(Changes(), {WINDOW_CURSOR: window.as_cursor()})
        window.is_unsaved = False
        return applied

    def _allowed_now(self, ids: Sequence[Id]) -> int:
        """Return how many of these may vanish now, at the most. Asks the service only when it could be too
        many. Raises BrakeOn."""
        brake, window = self._brake, self._window
        if len(ids) <= self._room():
            return len(ids)
        held = self._store.digest().items
        window.held = max(window.held, held) if window.total() else held
        if len(ids) <= self._room():
            return len(ids)
        vanishing = self._store.showing(ids)
        if vanishing > max(0, self._room()):
            raise brake.brake_error(vanishing, window.held)
        return vanishing

    def _room(self) -> int:
        return self._brake.allowed(self._window.held) - self._window.total()

    def _note(self, net: int) -> None:
        window = self._window
        before = window.total()
        if not net:
            return
        window.note_vanished(net)
        warned_at = WARNED_SHARE * self._brake.allowed(window.held)
        if before <= warned_at < window.total():
            log.warning(
                "many_items_vanished",
                extra={
                    "collection": self._collection,
                    "vanished": window.total(),
                    "may_vanish": self._brake.allowed(window.held),
                    "within_s": window.seconds,
                },
            )
