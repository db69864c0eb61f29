"""One collection in one process: the generations that its pointer names, opened once and closed when the last
call that uses them has ended."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from index_store import hints
from index_store.catalog.pointer import ADVANCE_LOCK, POINTER_FILE, read_pointer, write_pointer
from index_store.catalog.quarantine import retire_or_remove, retire_unnamed
from index_store.diagnosis import another_shape, hint_of, unavailable
from index_store.engine.generation import Generation
from index_store.engine.generation_copy import copy_without_vectors
from index_store.engine.open_generations import (
    OpenGenerations,
    Stamp,
    is_lasting,
    log_unopened,
    unopened_generations,
)
from index_store.engine.step_guard import nothing_shown_again, store_of
from index_store.errors import StoreDamaged, StoreUnavailable, Unavailable, WriteFailed
from index_store.record.pointer import GenerationName, Pointer
from index_store.storage.durable_files import locked, sync_directory
from index_store.storage.schema import STORE_FILE, Connector, create_store
from index_store.storage.sealed_directory import new_directory, publish, quarantine
from index_store.storage.store import Store
from index_store.types import ALIKE, CollectionSpec, NewGeneration

log = logging.getLogger(__name__)

Step: TypeAlias = Literal["begin", "promote", "rollback", "abort", "retire"]
MakeStore: TypeAlias = Callable[[Path, str], Store]

_OPEN_TRIES = 5
_RETRY_PAUSE_S = 1.0
"""After a failure: each try may read a whole store, and searches of other collections wait for it."""


class AcquiredGenerations:
    """The context of `Collection.members`; by hand, for a generator's takes twice as long."""

    __slots__ = ("_collection", "_members")

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def __enter__(self) -> OpenGenerations:
        self._members = self._collection.acquire()
        return self._members

    def __exit__(self, *_raised: object) -> None:
        self._collection.release(self._members)


class Collection:
    """Opens the generations of one collection, follows its pointer when another process moves it, and moves
    it.

    Every method is safe from any thread. open_generations: as they were last looked at, by `acquire`.
    """

    def __init__(
        self,
        directory: Path,
        spec: CollectionSpec,
        make_store: MakeStore,
        connect: Connector,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """clock: seconds that only go forward. now: seconds since the epoch."""
        self.spec = spec
        self._directory = directory
        self._pointer_path = str(directory / POINTER_FILE)
        self._make_store = make_store
        self._connect = connect
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self.open_generations = OpenGenerations(Pointer(), (0, 0, 0), {})
        self._still_used: list[OpenGenerations] = []
        self._is_open = False
        self._unreadable: set[str] = set()
        self._failure: Unavailable | None = None
        self._failed_at: tuple[Stamp, float] = ((0, 0, 0), 0.0)
        self._open_again_at = 0.0

    def open(self) -> None:
        """Open what the pointer names; does nothing when it is open already. Raises Unavailable,
        StoreDamaged, StoreUnavailable: callers of `members` get the same until a later try succeeds."""
        if self._is_open:
            return
        try:
            self._open()
        except (Unavailable, OSError) as exc:
            failure = self._translate_error(exc)
            self.close()
            self._failure = failure
            raise failure from exc
        self._failure = None

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        sync_directory(self._directory.parent)
        with locked(self._directory / ADVANCE_LOCK):
            retire_unnamed(self._directory, read_pointer(self._directory).names, self._now())
        with self._lock:
            self._open_pointed()
            self._require_known_dim()
            self._is_open = True
        self._quarantine_unreadable()

    def _require_known_dim(self) -> None:
        """Refuse a configured dim that no generation has. One that another generation than the current one
        has is no mistake: a model was promoted while this process started."""
        current, dims = self.open_generations.current, self.open_generations.dims
        if current is not None and self.spec.dim not in dims.values():
            path = current.store.directory / STORE_FILE
            raise another_shape(path, self.spec, "dim", current.dim, self.spec.dim)

    def _translate_error(self, error: Unavailable | OSError) -> Unavailable:
        """Return the error that callers get: with the file and what helps."""
        if isinstance(error, OSError):
            return unavailable(self._directory, error)
        return error

    def _quarantine_unreadable(self) -> None:
        """Quarantine generations that can't be read and are not current, so that the collection opens."""
        if not self._unreadable:
            return
        with locked(self._directory / ADVANCE_LOCK):
            pointer = read_pointer(self._directory)
            for name in sorted(self._unreadable - {pointer.current.name if pointer.current else ""}):
                write_pointer(self._directory, pointer := pointer.without(name))
                if (self._directory / name).is_dir():
                    quarantine(self._directory / name)

    def close(self) -> None:
        """Close every generation; later calls of `members` raise Unavailable."""
        with self._lock:
            self._is_open = False
            everyone = {
                g.name: g for m in (*self._still_used, self.open_generations) for g in m.generations.values()
            }
            self._still_used.clear()
            self.open_generations = OpenGenerations(Pointer(), (0, 0, 0), {})
        for generation in everyone.values():
            generation.close()

    def newest_seq(self) -> int | None:
        """The newest seq that the current generation is known to have; None where the pointer has moved and
        somebody has to follow it first. Takes no lock (3 us)."""
        members = self.open_generations
        try:
            if _stamp(self._pointer_path) != members.stamp:
                return None
        except OSError:
            return None
        current = members.current
        return 0 if current is None else current.newest_seq()

    def is_caught_up(self) -> bool:
        """Whether a search now would neither follow the pointer nor apply a commit. Takes no lock (3 us)."""
        members = self.open_generations
        if not self._is_open or members.current is None or not members.current.is_caught_up():
            return False
        try:
            return _stamp(self._pointer_path) == members.stamp
        except OSError:
            return False

    def members(self) -> AcquiredGenerations:
        """The generations as of now; none of them is closed while the context lasts."""
        return AcquiredGenerations(self)

    def acquire(self) -> OpenGenerations:
        """For `AcquiredGenerations`. Raises Unavailable, StoreUnavailable, StoreDamaged."""
        try:
            stamp = _stamp(self._pointer_path)  # before the lock: the system may take its time
        except OSError as exc:
            raise self._translate_error(exc) from exc
        with self._lock:
            if not self._is_open:
                raise self._closed_error()
            if stamp != self.open_generations.stamp:
                self._follow_moved_pointer(stamp)
            self.open_generations.users += 1
            return self.open_generations

    def _closed_error(self) -> Unavailable:
        failure = self._failure
        if failure is None:
            return Unavailable(f"collection {self.spec.name!r} is closed", hints.TRY_AGAIN)
        return type(failure)(str(failure), failure.hint)

    def _follow_moved_pointer(self, stamp: Stamp) -> None:
        """Follow a pointer that has moved; what failed a moment ago is not tried again at once. Lock held."""
        failed, at = self._failed_at
        if self._failure is not None and failed == stamp and self._clock() < at + _RETRY_PAUSE_S:
            raise self._closed_error()
        try:
            self._open_pointed()
        except (Unavailable, OSError) as exc:
            self._failure, self._failed_at = self._translate_error(exc), (stamp, self._clock())
            log.error("collection_not_followed", extra={"collection": self.spec.name, "error": str(exc)})
            raise self._failure from exc
        self._failure = None

    def open_remaining(self) -> None:
        """Try once more, at most once a second, to open what could not be opened when the pointer moved, and
        quarantine what is damaged. What can't be opened stays in the members' `unopened`. Raises as
        `acquire`."""
        with self.members() as members:
            if not members.unopened:
                return
        try:
            self._quarantine_unreadable()
        except OSError as exc:
            raise self._translate_error(exc) from exc
        with self._lock:
            if self._is_open and self.open_generations.unopened and self._clock() >= self._open_again_at:
                self._follow_moved_pointer(self.open_generations.stamp)

    def release(self, members: OpenGenerations) -> None:
        """End one use of `members`, which `acquire` gave; closes generations that nobody uses any more."""
        with self._lock:
            members.users -= 1
            unused = self._take_unused() if self._still_used else ()  # almost every search ends here
        for generation in unused:
            generation.close()

    def apply_step(
        self, step: Step, embedding_version: str, begins: NewGeneration = ALIKE, *, is_forced: bool = False
    ) -> None:
        """One step, by one rename. is_forced: whatever is shown again by it. Raises GenerationConflict,
        WriteFailed, Unavailable."""
        if step in ("promote", "rollback"):
            with self.members() as members:
                members.follow_others({embedding_version})
        try:
            with locked(self._directory / ADVANCE_LOCK):
                self._take_step(step, embedding_version, begins, is_forced=is_forced)
                retire_unnamed(self._directory, read_pointer(self._directory).names, self._now())
        except OSError as exc:
            text = f"the step {step!r} of {self.spec.name!r} failed, repeating it is safe: {exc}"
            raise WriteFailed(text, hint_of(exc, self._directory)) from exc
        log.info(
            "generation_advanced",
            extra={"collection": self.spec.name, "step": step, "embedding_version": embedding_version},
        )

    def _take_step(
        self, step: Step, embedding_version: str, begins: NewGeneration, *, is_forced: bool
    ) -> None:
        """Advance lock held."""
        pointer = read_pointer(self._directory)
        if step == "begin":
            self._begin(pointer, embedding_version, begins)
            return
        moved, before = pointer.after_step(step, embedding_version), pointer.current
        if moved.former != pointer.former:
            moved = replace(moved, former_since=self._now())
        with ExitStack() as guard:
            if moved.current and before and moved.current != before and not is_forced:
                opened = guard.enter_context(self.members()).generations
                stores = [store_of(opened, each.name) for each in (before, moved.current)]
                guard.enter_context(nothing_shown_again(*stores))
            write_pointer(self._directory, moved)

    def _begin(self, pointer: Pointer, embedding_version: str, begins: NewGeneration) -> None:
        member, pointer = pointer.with_new_generation(embedding_version)
        directory = self._directory / member.name
        if directory.exists():  # a pointer that was put back has counted less than there is
            retire_or_remove(directory, self._now())
        unpublished = new_directory(self._directory, member.name)
        with self.members() as members:
            dim = begins.dim or next(iter(members.dims.values()), self.spec.dim)
        spec = replace(self.spec, dim=dim)
        create_store(unpublished, spec, embedding_version)
        publish(unpublished, directory)  # whole: a store without rows is told from one that can't be read
        if pointer.current is None:
            write_pointer(self._directory, pointer.with_next(member))
            return
        fresh = self._make_store(directory, embedding_version)
        with self.members() as members:
            fresh.open(spec)
            try:
                current = members.generations[pointer.current.name].store
                publish_it = partial(write_pointer, self._directory, pointer.with_next(member))
                copy_without_vectors(current, fresh, publish_it, with_contents=begins.with_contents)
            finally:
                fresh.close()

    def _open_pointed(self) -> None:
        """Open what the pointer names now, keep what is open already. Lock held."""
        for _ in range(_OPEN_TRIES):
            stamp = _stamp(self._pointer_path)
            pointer = read_pointer(self._directory)
            if self.open_generations.pointer.members and not pointer.members:
                raise StoreUnavailable(
                    f"{self._pointer_path} is gone: the directory was removed or is not mounted any more",
                    f"mount the disk of {self._directory} again, or restore a backup",
                )
            generations: dict[str, Generation] = {}
            damaged: dict[str, Unavailable | OSError] = {}
            for member in pointer.members:
                try:
                    generations[member.name] = self._open_generation(
                        member, is_current=member == pointer.current
                    )
                except (StoreDamaged, StoreUnavailable, OSError) as exc:
                    damaged[member.name] = exc
            if damaged and _stamp(self._pointer_path) != stamp:
                self._close_unneeded(generations)
                continue  # one was dropped between reading its name and opening it
            if pointer.current is not None and pointer.current.name in damaged:
                self._close_unneeded(generations)
                raise damaged[pointer.current.name]
            unopened = unopened_generations(self._directory, pointer, damaged)
            log_unopened(self.spec.name, self.open_generations.unopened, unopened)
            self._unreadable = {name for name in damaged if is_lasting(self._directory / name, damaged[name])}
            self._open_again_at = self._clock() + _RETRY_PAUSE_S
            for name in damaged:
                pointer = pointer.without(name)
            self._still_used.append(self.open_generations)
            self.open_generations = OpenGenerations(pointer, stamp, generations, unopened)
            for generation in self._take_unused():
                generation.close()
            return
        raise Unavailable(
            f"the generations of {self.spec.name!r} change faster than they can be opened", hints.TRY_AGAIN
        )

    def _close_unneeded(self, generations: Mapping[str, Generation]) -> None:
        """Close what was opened for nothing."""
        for generation in generations.values():
            if generation.name not in self.open_generations.generations:
                generation.close()

    def _open_generation(self, member: GenerationName, *, is_current: bool) -> Generation:
        """Only of the current one the rows are read: of another one when it is to become that."""
        known = self.open_generations.generations.get(member.name)
        if known is not None:
            if is_current:
                known.read_into_memory()
            return known
        store = self._make_store(self._directory / member.name, member.embedding_version)
        generation = Generation(
            member.name, member.embedding_version, self.spec, store, connect=self._connect, clock=self._clock
        )
        try:
            generation.open()
            if is_current:
                generation.read_into_memory()
        except BaseException:
            generation.close()
            raise
        return generation

    def _take_unused(self) -> list[Generation]:
        """Take out the generations that no user and no pointer holds any more. Lock held."""
        idle = [members for members in self._still_used if members.users == 0]
        self._still_used = [members for members in self._still_used if members.users]
        held = {
            name for members in (*self._still_used, self.open_generations) for name in members.generations
        }
        dropped = {g.name: g for m in idle for g in m.generations.values() if g.name not in held}
        return list(dropped.values())


def _stamp(path: str) -> Stamp:
    """Changes with every rename of the pointer file (2 us; through a Path object 8)."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
