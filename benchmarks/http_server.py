"""Servers under measurement: processes of their own on free ports, with a fresh or a prepared directory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_load import one_by_one

_START_S_MAX = 120


@dataclass(frozen=True, slots=True)
class Server:
    process_id: int
    port: int


@contextmanager
def serving(
    module: str, arguments: Sequence[str], environ: Mapping[str, str], port: int, log: Path, first: bytes
) -> Iterator[Server]:
    """Run `python -m module arguments`; it is up once it answers `first` with 200."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**inherited, **environ},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_up(process, port, first, log)
        yield Server(process.pid, port)
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, first: bytes, log: Path) -> None:
    give_up = time.monotonic() + _START_S_MAX
    while True:
        try:
            list(one_by_one(port, [first]))
            return
        except (OSError, AssertionError) as exc:
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{log}: {log.read_text()[-2000:]}") from exc
            time.sleep(0.1)
