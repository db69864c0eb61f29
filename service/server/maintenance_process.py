"""The process that seals and merges segments, beside the workers: started, watched, ended with them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)

STATUS_FILE = "maintenance.json"
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_END_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class MaintenanceStatus:
    """up: it runs. down: it should, and is started again soon. off: nobody asked for it."""

    word: Literal["up", "down", "off"]
    restarts: int = 0


class Maintainer:
    """Keeps one child process running. `start` and `close` from one thread, once each.

    The child may be killed at any moment, and a parent that is killed takes it along: the child looks.
    """

    def __init__(self, command: Sequence[str], data_dir: Path, first_pause_s: float = _FIRST_PAUSE_S) -> None:
        self._command = list(command)
        self._status_file = data_dir / STATUS_FILE
        self._pause_s = first_pause_s
        self._restarts = 0
        self._is_closing = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="maintainer", daemon=True)

    def start(self) -> None:
        self._spawn()
        self._thread.start()

    def close(self) -> None:
        self._is_closing.set()
        with self._lock:
            child = self._child
        if child is not None:
            child.terminate()
            try:
                child.wait(_END_S_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._thread.join()
        self._status_file.unlink(missing_ok=True)

    def _spawn(self) -> None:
        with self._lock:
            if self._is_closing.is_set():
                return
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            told = {"pid": self._child.pid, "restarts": self._restarts}
        fresh = self._status_file.with_suffix(".new")
        fresh.write_text(json.dumps(told))
        fresh.replace(self._status_file)

    def _watch(self) -> None:
        pause_s = self._pause_s
        while not self._is_closing.is_set():
            assert self._child is not None
            code = self._child.wait()
            if self._is_closing.is_set():
                return
            log.warning("maintenance_ended", extra={"exit_code": code, "restarts": self._restarts})
            if self._is_closing.wait(pause_s):
                return
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            self._restarts += 1
            try:
                self._spawn()
            except OSError:
                log.exception("maintenance_not_started")


def maintenance_status(data_dir: Path) -> MaintenanceStatus:
    """Return what holds now, from any process that shares `data_dir`."""
    try:
        told = json.loads((data_dir / STATUS_FILE).read_text())
        process_id, restarts = int(told["pid"]), int(told["restarts"])
    except (OSError, ValueError, KeyError, TypeError):
        return MaintenanceStatus("off")
    return MaintenanceStatus("up" if _is_running(process_id) else "down", restarts)


def _is_running(process_id: int) -> bool:
    """An ended child that nobody has waited for yet does not run."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return _answers_signals(process_id) if not Path("/proc/self").exists() else False
    return state not in ("Z", "X")


def _answers_signals(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
