"""Which generation of a collection is current, next and former: one small file, replaced by one rename."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from index_store import hints
from index_store.catalog.quarantine import GENERATION, generations_in, holds_rows, quarantined_in
from index_store.errors import PointerLost, UnknownFormat
from index_store.record.pointer import GenerationName, Pointer
from index_store.storage.durable_files import publish

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
POINTER_FILE = "generations.json"
BACKUP_FILE = "generations.backup.json"
ADVANCE_LOCK = "advance.lock"
"""Held while the pointer is moved."""


class OtherFormat(ValueError):
    """Raised for a sound pointer file of another format_version than this program reads."""


def read_pointer(directory: Path) -> Pointer:
    """The pointer of a collection; an empty one where none was written yet. A damaged file is answered
    from the copy written right after it. Raises PointerLost when both are damaged, and when both are missing
    beside a store that holds rows; UnknownFormat when another release wrote it, whatever the copy says."""
    path = directory / POINTER_FILE
    try:
        return decode(path.read_bytes())
    except OtherFormat as exc:
        raise UnknownFormat(f"{path}: {exc}; nothing was changed", hints.OTHER_RELEASE) from exc
    except FileNotFoundError:
        if not (directory / BACKUP_FILE).exists():
            return _pointer_of_new_collection(directory)
        problem = "it is missing"
    except ValueError as exc:
        problem = str(exc)
    try:
        pointer = decode((directory / BACKUP_FILE).read_bytes())
    except OtherFormat as exc:
        text = f"{path} is damaged ({problem}), {BACKUP_FILE}: {exc}; nothing was changed"
        raise UnknownFormat(text, hints.OTHER_RELEASE) from exc
    except (OSError, ValueError) as exc:
        text = f"{path} is damaged ({problem}) and so is its copy ({exc}); nothing was changed"
        raise PointerLost(text, hint=hints.repoint(directory)) from exc
    log.error("pointer_damaged", extra={"path": str(path), "problem": problem})
    return pointer


def _pointer_of_new_collection(directory: Path) -> Pointer:
    """The pointer of a collection that is new: no file of it, and no row either."""
    if not directory.is_dir():
        return Pointer()
    held = [path.name for path in generations_in(directory) if holds_rows(path)]
    held += [one.path.name for one in quarantined_in(directory)]
    if not held:
        return Pointer()
    what = f"{directory / POINTER_FILE} and {BACKUP_FILE} are missing beside {', '.join(held)}"
    raise PointerLost(
        f"{what}: which of them to serve is unknown; nothing was changed", hint=hints.repoint(directory)
    )


def write_pointer(directory: Path, pointer: Pointer) -> None:
    """The one rename that moves a collection. Raises OSError."""
    content = encode(pointer)
    publish(directory / POINTER_FILE, content)
    publish(directory / BACKUP_FILE, content)


def encode(pointer: Pointer) -> bytes:
    """Return the pointer file's bytes: JSON, then the SHA-256 of that JSON on a line of its own."""
    roles = {"current": pointer.current, "next": pointer.next, "former": pointer.former}
    body: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "counter": pointer.counter,
        "generations": {
            role: {"name": m.name, "embedding_version": m.embedding_version} for role, m in roles.items() if m
        },
    }
    if pointer.former and pointer.former_since:
        body["former_since"] = pointer.former_since
    text = json.dumps(body, indent=1, sort_keys=True)
    return f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n".encode()


def decode(content: bytes) -> Pointer:
    """Raises ValueError, and OtherFormat for a sound one of another format_version."""
    text, _, checksum = content.decode().removesuffix("\n").rpartition("\n")
    if hashlib.sha256(text.encode()).hexdigest() != checksum or not content.endswith(b"\n"):
        raise ValueError("its checksum is wrong")
    body = json.loads(text)
    if body["format_version"] != FORMAT_VERSION:
        raise OtherFormat(
            f"its format_version is {body['format_version']}, this program reads {FORMAT_VERSION}"
        )
    members = {}
    for role, found in body["generations"].items():
        if not GENERATION.fullmatch(found["name"]):
            raise ValueError(f"{found['name']!r} is no name of a generation")
        members[role] = GenerationName(found["name"], found["embedding_version"])
    return Pointer(
        members.get("current"),
        members.get("next"),
        members.get("former"),
        counter=body["counter"],
        former_since=float(body.get("former_since", 0.0)),
    )
