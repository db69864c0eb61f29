"""Two generations trade places only in a moment at which nothing is shown again that the serving one hides.

Each may be filled by somebody else, who is a little behind or has stopped, and a write that a kill cut off
may be in one and not in the other. What was taken off sale must not come back by a promotion or a rollback.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from index_store.errors import GenerationConflict
from index_store.storage.hidden_rows import BEGINNING, HIDDEN, LIVE, among, ids_that_are, newest_seq
from index_store.storage.store import Store
from index_store.types import Id

_BLOCKED_S = 0.2
"""How long writers wait at a time; one of them that waits longer than its limit is refused."""
_LOOK_S = 0.02
_WAIT_S = 3.0
_IDS_NAMED = 5


class _ShownAgain:
    """Which ids the current store hides or has deleted while the target store shows them; each look reads
    what was committed since the one before."""

    def __init__(self, current: Store, target: Store) -> None:
        self._current = current
        self._target = target
        self._seen = (BEGINNING, BEGINNING)
        self.ids: set[Id] = set()

    def look(self) -> bool:
        """Return whether there are any."""
        with self._current.reading() as current, self._target.reading() as target:
            after, target_after = self._seen
            self._seen = newest_seq(current), newest_seq(target)
            suspects = self.ids.union(ids_that_are(current, HIDDEN, after))
            if target_after != BEGINNING:
                suspects.update(ids_that_are(target, LIVE, target_after))
            self.ids = among(current, HIDDEN, among(target, LIVE, suspects))
        return bool(self.ids)


@contextmanager
def nothing_shown_again(
    current: Store,
    target: Store,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
    wait_s: float = _WAIT_S,
) -> Iterator[None]:
    """A context in which nobody commits to `current`, and `target` shows nothing that it hides. Waits
    `wait_s` for whoever fills `target`. Raises GenerationConflict, which names some such items."""
    found, give_up = _ShownAgain(current, target), clock() + wait_s
    found.look()  # every row, while others write
    while True:
        with current.commits_blocked():
            blocked_until = clock() + _BLOCKED_S
            while found.look() and clock() < blocked_until:
                pause(_LOOK_S)
            if not found.ids:
                yield
                return
        if clock() >= give_up:
            break
        pause(_BLOCKED_S)
    named = ", ".join(map(str, sorted(found.ids)[:_IDS_NAMED]))
    raise GenerationConflict(
        f"{len(found.ids)} item(s) that are hidden or deleted now would be shown again, as {named}",
        "wait for that generation's feeder, if it has one; or say again what hid them (POST /v1/deactivate,"
        " /v1/delete: every generation takes them); or say force",
    )
