"""How `python -m index_store rebuild` asks the process that maintains a data directory, and what it answers.

DATA_DIR/rebuild.request     the name of a request that no process has taken yet
DATA_DIR/rebuild.answer      the newest status: running, or done with what went wrong
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from index_store.storage.durable_files import publish

REQUEST_FILE = "rebuild.request"
ANSWER_FILE = "rebuild.answer"


@dataclass(frozen=True, slots=True)
class RebuildStatus:
    """process_id: of the process that works on it. problems: sentences, empty when all went well."""

    request: str
    process_id: int
    is_done: bool
    problems: Sequence[str] = ()


def request_rebuild(data_dir: Path) -> str:
    """Leave a request and return its name; the name of the one that waits already, if there is one.
    Raises OSError."""
    name = uuid.uuid4().hex[:12]
    try:
        descriptor = os.open(
            data_dir / REQUEST_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
        )
    except FileExistsError:
        return pending_request(data_dir) or name
    with os.fdopen(descriptor, "w") as file:
        file.write(name)
    return name


def pending_request(data_dir: Path) -> str:
    """The name of the request that waits; '' for none."""
    try:
        return (data_dir / REQUEST_FILE).read_text().strip()
    except OSError:
        return ""


def withdraw_request(data_dir: Path) -> None:
    """Remove the request that waits; nothing happens where there is none. Raises OSError."""
    with suppress(FileNotFoundError):
        (data_dir / REQUEST_FILE).unlink()


class RebuildQueue:
    """The side of the one process that maintains; belongs to one thread."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._unwritten_status: RebuildStatus | None = None

    def serve(self, rebuild: Callable[[], Sequence[str]]) -> None:
        """Do a waiting request and write its status. A request is taken once: a build that ends the process
        must not end every one that follows. Raises OSError, on a full disk for instance: call it again later,
        a request waits as it is, and an answer that could not be written is kept."""
        if self._unwritten_status is not None:
            _write_status(self._data_dir, self._unwritten_status)
            self._unwritten_status = None
        name = pending_request(self._data_dir)
        if not name:
            return
        _write_status(self._data_dir, RebuildStatus(name, os.getpid(), is_done=False))
        withdraw_request(self._data_dir)
        answer = self._unwritten_status = RebuildStatus(
            name, os.getpid(), is_done=True, problems=list(rebuild())
        )
        _write_status(self._data_dir, answer)
        self._unwritten_status = None


def status_of(data_dir: Path, request: str) -> RebuildStatus | None:
    """Return the newest status if it is about `request`, else None; an unreadable file is no status yet."""
    try:
        told = json.loads((data_dir / ANSWER_FILE).read_text())
        answer = RebuildStatus(
            told["request"], int(told["process_id"]), bool(told["is_done"]), told["problems"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answer if answer.request == request else None


def _write_status(data_dir: Path, answer: RebuildStatus) -> None:
    body = {
        "request": answer.request,
        "process_id": answer.process_id,
        "is_done": answer.is_done,
        "problems": list(answer.problems),
    }
    publish(data_dir / ANSWER_FILE, json.dumps(body).encode())
