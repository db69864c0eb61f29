"""Jobs as files below DATA_DIR/jobs: any worker answers for them, and whoever works goes on after a crash.

One writer at a time: who makes a job writes it first, then only who holds the runner's lock (runner.py). A
cancellation is a file of its own, so that it never meets a write of the runner.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

log = logging.getLogger(__name__)

JobState: TypeAlias = Literal["queued", "running", "ready", "failed", "cancelled"]
JobPhase: TypeAlias = Literal["waiting", "loading", "copying", "embedding", "sealing", "report", "done"]

_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
_KEPT_MAX = 100
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Job:
    """One rebuild of one collection. model: the reference of the new one. embedding_version: of the
    generation that is filled. dim: of its vectors; 0, of a job made before that could change, is that of the
    current generation. done, total: items with a vector, items with content. rate: items a second;
    eta_s: seconds left; both None while unknown. missing: items that a search finds now and would not find
    after the promotion. errors: items that could not be embedded, by reason. reason, hint: why it
    failed, what helps."""

    id: str
    collection: str
    model: str
    text_template: str
    embedding_version: str
    created_at: str
    state: JobState = "queued"
    phase: JobPhase = "waiting"
    done: int = 0
    total: int = 0
    rate: float | None = None
    eta_s: float | None = None
    missing: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    hint: str = ""
    updated_at: str = ""
    dim: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody works at it any more."""
        return self.state in ("ready", "failed", "cancelled")

    def to_wire(self) -> dict[str, Any]:
        """Return it as the wire tells it."""
        told = asdict(self)
        return told if self.reason or self.hint else {k: v for k, v in told.items() if k not in _WHY}


_WHY = frozenset(("reason", "hint"))


class JobStore:
    """The job files of one data directory. Safe from any thread and process under the rule above."""

    def __init__(self, directory: Path, now: Callable[[], datetime]) -> None:
        self._directory = directory
        self._now = now

    def create_job(
        self, collection: str, model: str, text_template: str, embedding_version: str, dim: int
    ) -> Job:
        """Return a new job, queued and on disk. Raises OSError."""
        at = _text(self._now())
        job_id = f"{self._now().astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        job = Job(
            job_id, collection, model, text_template, embedding_version, created_at=at, updated_at=at, dim=dim
        )
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write(job)
        self._prune()
        return job

    def save_job(self, job: Job) -> Job:
        """Put `job` in place of its former state and return it, stamped. Raises OSError."""
        stamped = replace(job, updated_at=_text(self._now()))
        self._write(stamped)
        return stamped

    def find_job(self, job_id: str) -> Job | None:
        """Return the job of that id, if there is one that can be read."""
        return _read(self._directory / f"{job_id}.json") if _ID.fullmatch(job_id) else None

    def all(self) -> list[Job]:
        """Return every job, the newest first."""
        found = [job for path in self._files() if (job := _read(path)) is not None]
        return sorted(found, key=lambda job: job.id, reverse=True)

    def request_end(self, job_id: str) -> None:
        """Ask whoever works at the job to end it. Raises OSError."""
        (self._directory / f"{job_id}.cancel").touch()

    def is_cancelled(self, job_id: str) -> bool:
        """Whether somebody has asked for its end."""
        return (self._directory / f"{job_id}.cancel").exists()

    def _files(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return [path for path in self._directory.glob("*.json") if _ID.fullmatch(path.stem)]

    def _write(self, job: Job) -> None:
        path = self._directory / f"{job.id}.json"
        temporary = path.with_suffix(".tmp-")
        body = {"format_version": FORMAT_VERSION, **asdict(job)}
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(body, indent=1, ensure_ascii=False))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _prune(self) -> None:
        over = [job for job in self.all() if job.is_over]
        for job in over[_KEPT_MAX:]:
            for path in self._directory.glob(f"{job.id}.*"):
                path.unlink(missing_ok=True)


def _read(path: Path) -> Job | None:
    try:
        body = json.loads(path.read_text("utf-8"))
        if body.pop("format_version") != FORMAT_VERSION:
            raise ValueError("unknown format_version")
        return Job(**body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as exc:
        log.warning("job_not_read", extra={"path": str(path), "error": str(exc)})
        return None


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
