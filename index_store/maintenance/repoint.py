"""Makes the pointer of a collection again from the stores that lie there, when both files of it are lost."""

from __future__ import annotations

import itertools
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from index_store import hints
from index_store.catalog.pointer import ADVANCE_LOCK, BACKUP_FILE, POINTER_FILE, read_pointer, write_pointer
from index_store.catalog.quarantine import generations_in, quarantined_in
from index_store.errors import GenerationConflict, StoreDamaged, UnknownCollection, UnknownFormat
from index_store.maintenance.check import check_store
from index_store.record.pointer import GenerationName, Pointer
from index_store.storage.durable_files import locked
from index_store.storage.schema import SQLITE_ERRORS, STORE_FILE, connect_sqlite
from index_store.storage.sealed_directory import QUARANTINE_MARK, quarantine

log = logging.getLogger(__name__)

_PROBLEMS_MAX = 3


@dataclass(frozen=True, slots=True)
class RepointCandidate:
    """A store that a pointer could name. problems: what is wrong with it, the first few sentences."""

    path: Path
    embedding_version: str
    live: int
    seq: int
    problems: Sequence[str]

    @property
    def member(self) -> GenerationName:
        """The candidate as a pointer would name it."""
        return GenerationName(self.path.name, self.embedding_version)

    def __str__(self) -> str:
        facts = f"{self.embedding_version!r}, {self.live} live items, seq {self.seq}"
        return f"{self.path.name}: {facts}, {'; '.join(self.problems) or 'sound'}"


def repoint(data_dir: Path, collection: str, generation: str | None = None) -> Pointer:
    """Write a pointer whose current generation is the newest store, and return it; the newest sound one of
    another embedding_version is kept beside it. Every row of every store is read first.

    generation: the directory to serve. It has to be named when the newest store is damaged, or holds fewer
    live items than another: it may be one that was still being filled.
    Raises UnknownCollection, GenerationConflict (the pointer is sound), StoreDamaged (name the generation),
    OSError. Other processes follow at their next call."""
    directory = data_dir / "collections" / collection
    if not directory.is_dir():
        raise UnknownCollection(f"{data_dir} holds no collection {collection!r}", "collection")
    with locked(directory / ADVANCE_LOCK):
        _require_lost(directory)
        found = _repoint_candidates(directory)
        chosen = _newest(directory, found) if generation is None else _named(directory, found, generation)
        pointer = _pointer(directory, found, chosen)
        _keep_old_files(directory)
        for one in found:
            if one is not chosen and one.problems:
                quarantine(one.path)  # or the next sweep would retire it, and what is retired is removed
        write_pointer(directory, pointer)
    log.info("pointer_made", extra={"path": str(directory / POINTER_FILE), "current": chosen.path.name})
    return pointer


def describe_pointer(pointer: Pointer) -> str:
    """A line for each role."""
    roles = {"current": pointer.current, "next": pointer.next, "former": pointer.former}
    return "\n".join(f"{role}: {one.name}, {one.embedding_version}" for role, one in roles.items() if one)


def _require_lost(directory: Path) -> None:
    try:
        pointer = read_pointer(directory)
    except UnknownFormat:
        raise
    except StoreDamaged:
        return
    if pointer.members:
        raise GenerationConflict(f"{directory} has a sound pointer; nothing was changed")


def _repoint_candidates(directory: Path) -> list[RepointCandidate]:
    """Newest first; a store that can't be read at all has no version."""
    return [_candidate(path) for path in reversed(generations_in(directory))]


def _candidate(path: Path) -> RepointCandidate:
    try:
        connection = connect_sqlite(path / STORE_FILE)
        try:
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        finally:
            connection.close()
        version = str(meta["embedding_version"])
        problems = list(itertools.islice(check_store(path / STORE_FILE, version), _PROBLEMS_MAX))
        if meta["collection"] != path.parent.name:
            problems.append(f"it says that it belongs to the collection {meta['collection']!r}")
        return RepointCandidate(path, version, int(meta["live"]), int(meta["seq"]), problems)
    except (OSError, *SQLITE_ERRORS, KeyError, TypeError, ValueError) as exc:
        return RepointCandidate(path, "", 0, 0, [f"it can't be read ({exc})"])


def _newest(directory: Path, found: Sequence[RepointCandidate]) -> RepointCandidate:
    if not found:
        quarantined = ", ".join(one.path.name for one in quarantined_in(directory))
        text = f"{directory} holds no store; set aside are: {quarantined or 'none'}. Restore a backup instead"
        raise StoreDamaged(text, hints.command("restore", "BACKUP", "DATA_DIR"))
    newest = found[0]
    if newest.problems or newest.live < max(one.live for one in found):
        why = "is damaged" if newest.problems else "holds fewer live items than another"
        listed = "".join(f"\n  {one}" for one in found)
        fullest = max(found, key=lambda one: one.live)
        raise StoreDamaged(
            f"the newest store, {newest.path.name}, {why}: name the one to serve.{listed}",
            hint=f"{hints.repoint(directory)} --generation {fullest.path.name}",
        )
    return newest


def _named(directory: Path, found: Sequence[RepointCandidate], name: str) -> RepointCandidate:
    for one in found:
        if one.path.name == name:
            if not one.embedding_version:
                raise StoreDamaged(f"{one}; nothing was changed", hints.check(one.path))
            return one
    names = ", ".join(one.path.name for one in found)
    hint = f"{hints.repoint(directory)} --generation NAME, one of: {names or 'none'}"
    raise StoreDamaged(f"{directory} holds no {name!r}; there are: {names or 'none'}", hint)


def _pointer(directory: Path, found: Sequence[RepointCandidate], chosen: RepointCandidate) -> Pointer:
    """Of the other sound stores the newest older one stays as former, the newest newer one as next."""
    position = found.index(chosen)
    others = [one for one in found if not one.problems and one.embedding_version != chosen.embedding_version]
    newer = [one for one in others if found.index(one) < position]
    older = [one for one in others if found.index(one) > position]
    if newer and older and newer[0].embedding_version == older[0].embedding_version:
        older = []
    numbers = [int(path.name[1:]) for path in generations_in(directory)]
    numbers += [int(one.generation[1:]) for one in quarantined_in(directory)]
    return Pointer(
        current=chosen.member,
        next=newer[0].member if newer else None,
        former=older[0].member if older else None,
        counter=max(numbers),
    )


def _keep_old_files(directory: Path) -> None:
    for name in (POINTER_FILE, BACKUP_FILE):
        path = directory / name
        if path.exists():
            path.rename(directory / f"{name}{QUARANTINE_MARK}{uuid.uuid4().hex[:8]}")
