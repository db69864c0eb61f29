"""Processes as the system tells of them in /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


class ProcessFootprint(NamedTuple):
    """What one process takes. cpu_s: its own seconds and those of children that it waited for. own_bytes:
    resident pages that are no file's. file_bytes: those that may be shared. started_at: since 1970."""

    cpu_s: float
    own_bytes: int
    file_bytes: int
    files: int
    started_at: float


def footprint_of(process_id: int) -> ProcessFootprint | None:
    """Return what a process takes; None once it has ended."""
    directory = _PROC / str(process_id)
    stat = _text(directory / "stat").rpartition(")")[2].split()  # the fields from the third on
    if not stat:
        return None
    pages = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in _text(directory / "status").splitlines())
        if name.startswith("Rss")
    }
    booted = [line.split()[1] for line in _text(_PROC / "stat").splitlines() if line.startswith("btime ")]
    return ProcessFootprint(
        cpu_s=sum(map(int, stat[11:15])) / _TICKS_A_SECOND,
        own_bytes=pages.get("RssAnon", 0),
        file_bytes=pages.get("RssFile", 0) + pages.get("RssShmem", 0),
        files=len(_entries(directory / "fd")),
        started_at=(float(booted[0]) if booted else 0.0) + int(stat[19]) / _TICKS_A_SECOND,
    )


def process_tree(root: int) -> list[int]:
    """Return `root` and the processes below it, `root` first; nothing where the system does not tell."""
    found, waiting = [], [root]
    while waiting:
        process_id = waiting.pop()
        if not (_PROC / str(process_id)).exists():
            continue
        found.append(process_id)
        for task in _entries(_PROC / str(process_id) / "task"):
            waiting.extend(int(child) for child in _text(task / "children").split())
    return found


def _text(path: Path) -> str:
    """The file's text; none of a process that has ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
