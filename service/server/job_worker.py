"""The process that does the jobs: built as a worker is, without a port (see `app/rebuild/job_process`)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

from service.app.rebuild.job_process import WorkerSearches
from service.settings import Settings

COMMAND = "do-jobs"
_NICE = "10"


def low_priority(command: Sequence[str]) -> list[str]:
    """Return `command` at low priority, from its first import on: that is half a second of a core. As a batch
    it does not keep a core from who wakes up beside it (docs/decisions/0132)."""
    prefixes = (["nice", "-n", _NICE], ["chrt", "--batch", "0"])
    return [word for prefix in prefixes if _works(prefix) for word in prefix] + list(command)


def _works(prefix: Sequence[str]) -> bool:
    """Whether a command runs behind it: some sandboxes know no batches, and `chrt` ends there without it."""
    if not shutil.which(prefix[0]):
        return False
    return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0


def job_command(settings: Settings) -> list[str]:
    """Return what starts this process; nothing where whoever started the service wants none beside it."""
    if settings.maintenance == "off":
        return []
    return low_priority([sys.executable, "-m", "service", COMMAND])


def do_jobs(settings: Settings) -> None:
    """Work at the jobs of the data directory until all are over, or standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the worker gets it too, and ends this one
    searches = WorkerSearches(sys.stdin, lambda: os._exit(0))
    asyncio.run(_do_jobs(settings, searches))


async def _do_jobs(settings: Settings, searches: WorkerSearches) -> None:
    from service.wiring import build
    from service.wiring_rebuild import JobPlace

    service = build(settings, place=JobPlace(worker_searches=searches.take_reported))
    async with service.lifecycle.opened():
        await service.lifecycle.wait()
        models = asyncio.create_task(service.rebuild.models.run())
        try:
            await service.rebuild.runner.run_jobs()
        finally:
            models.cancel()
