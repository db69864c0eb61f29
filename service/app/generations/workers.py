"""Which models each worker of a data directory has loaded, told from process to process.

    workers/<8 hex>.lock    held by a worker as long as it lives; the kernel lets go of it when it dies
    workers/<8 hex>.json    by collection: the versions that it has loaded, why it can't load others, and
                            the generations that are in its memory, by version
    workers/<8 hex>-<n>.wanted   which generation is about to become current

A step that makes a generation current waits until every worker could serve it, so that none has to refuse its
next request, or to read the generation's rows before it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

log = logging.getLogger(__name__)

OpenFile: TypeAlias = Callable[[Path, int, int], int]

_LOCK_TRIES = 100
_WANTED = ".wanted"


@dataclass(frozen=True, slots=True)
class OpenModels:
    """Of one collection in one worker. missing: versions whose model can't be loaded, and why. in_memory:
    versions of the other generations than the current one whose rows are in memory."""

    loaded: Sequence[str]
    missing: Mapping[str, str]
    in_memory: Sequence[str] = ()


class WorkerModels:
    """One worker's entry, and its view of the others'. Blocking. `tell` and `withdraw` are used from one
    thread at a time, all else from any."""

    def __init__(self, directory: Path, open_file: OpenFile = os.open) -> None:
        """open_file: as os.open."""
        self._open_file = open_file
        self._directory = directory
        self._name = secrets.token_hex(4)
        self._descriptor: int | None = None
        self._told: Mapping[str, OpenModels] | None = None
        self._numbers = itertools.count()

    def tell(self, models: Mapping[str, OpenModels]) -> None:
        """Let the others know what is loaded here, by collection. Raises OSError."""
        if self._descriptor is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._descriptor = _own_lock(self._path(".lock"), self._open_file)
            self._told = None
        if models == self._told:
            return
        told = {
            name: {"loaded": list(m.loaded), "missing": dict(m.missing), "in_memory": list(m.in_memory)}
            for name, m in models.items()
        }
        temporary = self._path(".tmp-")
        temporary.write_text(json.dumps(told, ensure_ascii=False))
        temporary.replace(self._path(".json"))
        self._told = dict(models)

    def withdraw(self) -> None:
        """This worker ends: nobody has to wait for it."""
        for suffix in (".json", ".lock"):
            with contextlib.suppress(OSError):
                self._path(suffix).unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def not_loaded(self, collection: str, embedding_version: str) -> list[str]:
        """Return of each other living worker that does not have the model of that version why; empty for one
        that is still loading it. What dead workers have left is removed."""
        found = []
        for told in self._others(collection):
            if told is None:
                found.append("")
            elif embedding_version not in told.loaded:
                found.append(told.missing.get(embedding_version, ""))
        return found

    def not_in_memory(self, collection: str, embedding_version: str) -> int:
        """Return how many other living workers have not read the rows of that generation into memory."""
        told = list(self._others(collection))
        return sum(each is None or embedding_version not in each.in_memory for each in told)

    @contextmanager
    def wanting(self, collection: str, embedding_version: str) -> Iterator[None]:
        """Ask every worker meanwhile to read the rows of that generation into memory. Raises OSError."""
        path = self._directory / f"{self._name}-{next(self._numbers)}{_WANTED}"
        self._directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([collection, embedding_version]))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    def wanted(self, collection: str) -> set[str]:
        """Return the versions of the generations that any worker wants to be in memory."""
        found = set()
        for path in self._directory.glob(f"*{_WANTED}"):
            try:
                name, version = json.loads(path.read_text())
            except (OSError, ValueError, TypeError):
                continue  # it is being written: seen at the next look
            if name == collection:
                found.add(str(version))
        return found

    def _others(self, collection: str) -> Iterator[OpenModels | None]:
        """Yield what each other living worker tells; None where it has told nothing yet."""
        for lock in sorted(self._directory.glob("*.lock")):
            if lock.stem == self._name or not self._is_alive(lock):
                continue
            try:
                told = json.loads(lock.with_suffix(".json").read_text())[collection]
                missing = {str(version): str(why) for version, why in told["missing"].items()}
                yield OpenModels(list(told["loaded"]), missing, list(told["in_memory"]))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                yield None

    def _is_alive(self, lock: Path) -> bool:
        try:
            descriptor = _locked(lock)
        except FileNotFoundError:
            return False
        if descriptor is None:
            return True
        wanted = self._directory.glob(f"{lock.stem}-*{_WANTED}")
        for path in (*wanted, lock.with_suffix(".json"), lock):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(descriptor)
        return False

    def _path(self, suffix: str) -> Path:
        return self._directory / f"{self._name}{suffix}"


def _own_lock(path: Path, open_file: OpenFile) -> int:
    """Return a descriptor that holds the lock of this worker's file, which is there. Until it is locked
    another worker may take it for a dead one's and remove it. Raises OSError."""
    for _ in range(_LOCK_TRIES):
        descriptor = _locked(path, os.O_CREAT, open_file)
        if descriptor is None:
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
    raise OSError(errno.EAGAIN, "other workers hold it again and again", str(path))


def _locked(path: Path, flags: int = 0, open_file: OpenFile = os.open) -> int | None:
    """Return a descriptor that holds the lock of `path`, None where another process holds it. A lock of the
    process, which no child that lives on keeps. Raises OSError."""
    descriptor = open_file(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
