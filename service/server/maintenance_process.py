"""Starts, watches and ends the process that seals and merges segments while the workers serve."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.app.health.maintenance_status import STATUS_FILE

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_END_S_MAX = 5.0
_STATUS_BYTES = 128


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
        """Start the child. If that fails it is retried: searches work without it."""
        try:
            self._spawn()
        except OSError:
            log.exception("maintenance_not_started")
        self._thread.start()

    def close(self) -> None:
        """End the process and the thread that watches it; kill it if it does not end in time."""
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
        self._write_status({"pid": 0, "restarts": self._restarts})

    def _spawn(self) -> None:
        with self._lock:
            if self._is_closing.is_set():
                return
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            status = {"pid": self._child.pid, "restarts": self._restarts}
        self._write_status(status)

    def _write_status(self, status: Mapping[str, int]) -> None:
        """Overwrite the status in place, for a full disk takes no other file. A failure is only logged."""
        text = json.dumps(status).ljust(_STATUS_BYTES).encode()
        try:
            descriptor = os.open(self._status_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.pwrite(descriptor, text, 0)
            finally:
                os.close(descriptor)
        except OSError as exc:
            extra = {"path": str(self._status_file), "error": str(exc)}
            log.error("maintenance_status_not_written", extra=extra)

    def _watch(self) -> None:
        pause_s = self._pause_s
        while not self._is_closing.is_set():
            code = self._child.wait() if self._child is not None else None
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
