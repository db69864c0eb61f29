"""Two generations trade places only in a moment at which nothing is shown again that the serving one hides,
and whoever asks for it is told what searches would lose.

Each may be filled by somebody else, who is a little behind or has stopped, and a write that a kill cut off
may be in one and not in the other. What was taken off sale must not come back by a promotion or a rollback.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from index_store.engine.generation import Generation
from index_store.errors import StoreUnavailable
from index_store.record.pointer import shown_again
from index_store.storage.schema import LIVE, STORE_FILE, Connection
from index_store.storage.store import Store
from index_store.types import Id

_BLOCKED_S = 0.2
"""How long writers wait at a time; one of them that waits longer than its limit is refused."""
_LOOK_S = 0.02
_WAIT_S = 3.0
_IDS_A_SELECT = 500
_HIDDEN = "(deleted=1 OR active=0)"
_LOST = f"SELECT id FROM item WHERE {LIVE} EXCEPT SELECT id FROM target.item WHERE {LIVE} ORDER BY id"
_BEGINNING = -1
"""Before the first seq."""


class _ShownItems:
    """Which ids the current store hides or has deleted while the target store shows them; each look reads
    what was committed since the one before."""

    def __init__(self, current: Store, target: Store) -> None:
        self._current = current
        self._target = target
        self._seen = (_BEGINNING, _BEGINNING)
        self.ids: set[Id] = set()

    def look(self) -> bool:
        """Return whether there are any."""
        with self._current.reading() as current, self._target.reading() as target:
            after, target_after = self._seen
            self._seen = _newest_seq(current), _newest_seq(target)
            suspects = self.ids.union(_ids_that_are(current, _HIDDEN, after))
            if target_after != _BEGINNING:
                suspects.update(_ids_that_are(target, LIVE, target_after))
            self.ids = _among(current, _HIDDEN, _among(target, LIVE, suspects))
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
    found, give_up = _ShownItems(current, target), clock() + wait_s
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
    raise shown_again(found.ids)


def lost_ids(current: Store, target: Store, suspects: Sequence[Id] | None) -> list[Id]:
    """Return the ids, in order, that are live in `current` and not in `target`. suspects: look at these only.
    A write that comes to one after the other is seen in between for a moment."""
    if suspects is not None:
        with current.reading() as before, target.reading() as after:
            return sorted(_among(before, LIVE, suspects) - _among(after, LIVE, suspects))
    file = f"{(target.directory / STORE_FILE).resolve().as_uri()}?mode=ro"
    with current.reading() as connection:
        # Compared by SQLite: to come back for each row is to ask for the interpreter's lock as often, beside
        # searches that want it.
        connection.execute("ATTACH ? AS target", (file,))
        return [row[0] for row in connection.execute(_LOST)]


def store_of(opened: Mapping[str, Generation], name: str) -> Store:
    """Return the store of the generation `name`. Raises StoreUnavailable where it is not among those that are
    open."""
    if name not in opened:
        raise StoreUnavailable(
            f"the generation {name!r} could not be opened: it can't be compared",
            "/health and the log line generation_not_open say why; it is tried again by itself",
        )
    return opened[name].store


def _newest_seq(connection: Connection) -> int:
    """Return the seq of the last commit."""
    (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
    return int(seq)


def _ids_that_are(connection: Connection, condition: str, after_seq: int) -> list[Id]:
    """Return the ids of which the condition (_HIDDEN or LIVE) holds among rows changed after `after_seq`;
    from the beginning on every row is looked at, later the new ones."""
    if after_seq == _BEGINNING:
        return [row[0] for row in connection.execute(f"SELECT id FROM item WHERE {condition}")]
    query = f"SELECT id FROM item INDEXED BY item_seq WHERE seq>? AND {condition}"
    return [row[0] for row in connection.execute(query, (after_seq,))]


def _among(connection: Connection, condition: str, ids: Iterable[Id]) -> set[Id]:
    """Return those of these ids of which the condition holds."""
    wanted, found = sorted(ids), set[Id]()
    for start in range(0, len(wanted), _IDS_A_SELECT):
        some = wanted[start : start + _IDS_A_SELECT]
        marks = ",".join("?" * len(some))
        rows = connection.execute(f"SELECT id FROM item WHERE {condition} AND id IN ({marks})", some)
        found.update(row[0] for row in rows)
    return found
