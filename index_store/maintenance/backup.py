"""Hot copies of a data directory's stores, and putting them back.

A backup is one flat directory under a manifest of checksums: `<collection>.json`, the pointer's content, and
`<collection>.<generation>.sqlite` for each generation. Segments are not in it: they are made again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index_store import hints
from index_store.catalog.data_directory import collection_directories
from index_store.catalog.pointer import decode, encode, read_pointer, write_pointer
from index_store.diagnosis import what_helps
from index_store.errors import ReadOnly, StoreDamaged, Unavailable, WriteFailed
from index_store.maintenance.check import check, check_store
from index_store.record.pointer import Pointer
from index_store.storage.disk_guard import RESERVE_BYTES, FreeBytes, free_bytes
from index_store.storage.durable_files import sync_directory
from index_store.storage.schema import SQLITE_ERRORS, STORE_FILE, Connector, connect_archived, connect_sqlite
from index_store.storage.sealed_directory import (
    MANIFEST,
    Manifest,
    new_directory,
    publish,
    read_manifest,
    seal,
    verify,
)

log = logging.getLogger(__name__)

_TRIES = 3
_KIND = "backup"
_LEFTOVER_NAME = re.compile(r".+\.tmp-[0-9a-f]{12}")


def backup_data(
    data_dir: Path,
    target: Path,
    connect: Connector = connect_sqlite,
    reserve_bytes: int = RESERVE_BYTES,
    free: FreeBytes = free_bytes,
) -> Manifest:
    """Copy every store as of one commit each, while reads and writes go on; `target` appears whole or not
    at all, and must not exist. reserve_bytes: left free on the disk of `target`. Raises WriteFailed, ReadOnly
    (too little room), StoreDamaged, Unavailable."""
    if target.exists():
        raise WriteFailed(f"{target} exists already", "name a directory that does not exist yet")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_room(data_dir, target.parent, reserve_bytes, free)
        with _staging_directory(target.parent, target.name) as temporary:
            seqs: dict[str, int] = {}
            for collection in collection_directories(data_dir):
                seqs.update(_copy_collection(collection, temporary, connect))
            manifest = seal(temporary, {"kind": _KIND, "seqs": seqs})
            _publish(temporary, target)
    except (OSError, *SQLITE_ERRORS) as exc:
        raise WriteFailed(
            f"the backup to {target} failed and nothing was kept: {exc}", what_helps(exc, target)
        ) from exc
    log.info("backup_made", extra={"target": str(target), "stores": len(seqs)})
    return manifest


def _require_room(data_dir: Path, target: Path, reserve_bytes: int, free: FreeBytes) -> None:
    """A copy must leave the room that the stores need for writes."""
    sizes = [
        path.stat().st_size
        for collection in collection_directories(data_dir)
        for member in read_pointer(collection).members
        for path in (collection / member.name).glob(f"{STORE_FILE}*")
    ]
    needed, left = sum(sizes), free(target)
    if left < needed + reserve_bytes:
        raise ReadOnly(
            f"a copy may take {_mib(needed)} MiB and {_mib(reserve_bytes)} MiB are kept free for writes, "
            f"{_mib(left)} MiB are free on the disk of {target}",
            f"df -h {target}; delete old backups there, or back up to another disk: "
            + hints.command("backup", data_dir, "TARGET"),
        )


def _mib(size: int) -> int:
    return -(-size >> 20)


def _publish(sealed: Path, target: Path) -> None:
    try:
        publish(sealed, target)
    except OSError:
        if not sealed.exists():  # renamed, and then the name could not be made durable
            shutil.rmtree(target, ignore_errors=True)
        raise


@contextmanager
def _staging_directory(parent: Path, name: str) -> Iterator[Path]:
    """A new directory to fill, removed afterwards unless it was published; first removes those of processes
    that were killed. One in use is locked, and the kernel releases the lock of a dead process."""
    for path in parent.iterdir():
        if _LEFTOVER_NAME.fullmatch(path.name) and path.is_dir() and (holder := _try_lock(path)) is not None:
            log.warning("leftover_removed", extra={"path": str(path)})
            shutil.rmtree(path, ignore_errors=True)
            os.close(holder)
    temporary = new_directory(parent, name)
    holder = _try_lock(temporary)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if holder is not None:
            os.close(holder)


def _try_lock(directory: Path) -> int | None:
    """A descriptor that locks the directory; None when another process does, or the disk has no locks."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _copy_collection(collection: Path, into: Path, connect: Connector) -> dict[str, int]:
    """The pointer and the generations that it names; again when it moved meanwhile."""
    for _ in range(_TRIES):
        pointer = read_pointer(collection)
        copies = {member.name: into / f"{collection.name}.{member.name}.sqlite" for member in pointer.members}
        try:
            seqs = {
                path.name: _copy_store(collection / name / STORE_FILE, path, connect)
                for name, path in copies.items()
            }
        except SQLITE_ERRORS:
            if read_pointer(collection) == pointer:
                raise
            seqs = {}
        if read_pointer(collection) == pointer:
            (into / f"{collection.name}.json").write_bytes(encode(pointer))
            return seqs
        for path in copies.values():
            path.unlink(missing_ok=True)
    raise Unavailable(f"the generations of {collection.name!r} move too fast to be copied", hints.TRY_AGAIN)


def _copy_store(source: Path, copy: Path, connect: Connector) -> int:
    connection = connect(source)
    try:
        connection.execute("VACUUM INTO ?", (str(copy),))
    finally:
        connection.close()
    connection = connect(copy)
    try:
        (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
        return int(seq)
    finally:
        connection.close()


def is_backup(directory: Path) -> bool:
    """Whether `directory` is a backup rather than a data directory: whether it has a manifest."""
    return (directory / MANIFEST).is_file()


def check_backup(backup: Path) -> list[str]:
    """One sentence for each thing that is wrong with a backup; an empty list says that it can be restored.
    Reads every byte of every file and every row, where it lies; writes nothing: a read-only disk will do."""
    try:
        manifest = _verified_manifest(backup)
    except (StoreDamaged, OSError) as exc:
        return [str(exc)]
    return [problem for name in _collections(manifest) for problem in _check_copies(backup, name)]


def _check_copies(backup: Path, collection: str) -> Iterator[str]:
    try:
        members = decode((backup / f"{collection}.json").read_bytes()).members
    except ValueError as exc:
        yield f"{backup / collection}.json: {exc}"
        return
    for member in members:
        path = backup / f"{collection}.{member.name}.sqlite"
        try:
            yield from (
                f"{path}: {each}" for each in check_store(path, member.embedding_version, connect_archived)
            )
        except SQLITE_ERRORS as exc:
            yield f"{path}: {exc}"


def _verified_manifest(backup: Path) -> Manifest:
    """Raises StoreDamaged, with what helps against a damaged backup."""
    try:
        manifest = read_manifest(backup)
        verify(backup, manifest)
    except StoreDamaged as exc:
        raise StoreDamaged(str(exc), hints.OLDER_BACKUP) from exc
    if manifest.facts.get("kind") != _KIND:
        raise StoreDamaged(f"{backup} is not a backup", hints.OLDER_BACKUP)
    return manifest


def _collections(manifest: Manifest) -> list[str]:
    return sorted(name.removesuffix(".json") for name in manifest.files if name.endswith(".json"))


def restore_data(backup: Path, data_dir: Path) -> list[str]:
    """Put a backup into a data directory that holds no collections yet; return the collections.
    Every byte of the backup is checked first, every row afterwards. Raises StoreDamaged, WriteFailed."""
    final = data_dir / "collections"
    if final.exists() and any(final.iterdir()):
        raise WriteFailed(
            f"{data_dir} holds collections already; restore into an empty directory",
            hints.command("restore", backup, "EMPTY_DIRECTORY"),
        )
    names = _collections(_verified_manifest(backup))
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _staging_directory(data_dir, "restore") as staging:
            for name in names:
                _restore_collection(backup, staging / "collections" / name)
            problems = check(staging)
            if problems:
                raise StoreDamaged(f"{backup}: {problems[0]}", hints.OLDER_BACKUP)
            sync_directory(staging / "collections")
            if final.exists():
                final.rmdir()
            (staging / "collections").rename(final)
            sync_directory(data_dir)
    except OSError as exc:
        raise WriteFailed(f"the restore into {data_dir} failed: {exc}", what_helps(exc, data_dir)) from exc
    return names


def _restore_collection(backup: Path, directory: Path) -> None:
    directory.mkdir(parents=True)
    try:
        pointer: Pointer = decode((backup / f"{directory.name}.json").read_bytes())
    except (ValueError, json.JSONDecodeError) as exc:
        raise StoreDamaged(f"{backup}: {directory.name}.json: {exc}", hints.OLDER_BACKUP) from exc
    for member in pointer.members:
        into = directory / member.name
        into.mkdir()
        store = into / STORE_FILE
        shutil.copyfile(backup / f"{directory.name}.{member.name}.sqlite", store)
        with store.open("rb+") as file:
            os.fsync(file.fileno())
        sync_directory(into)
    write_pointer(directory, pointer)
