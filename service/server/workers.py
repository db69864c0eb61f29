"""Several serving processes under one parent: how they end with it, and without it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

log = logging.getLogger(__name__)

_CLOSE_S_MAX = 10
"""What a worker may take beyond DRAIN_S to close its files."""


class HealthCheck:
    """Asks workers whether they live, each through its pipe, and waits for no answer. For one thread."""

    def __init__(self, silent_s_max: float, clock: Callable[[], float]) -> None:
        """silent_s_max: how long an answer may take."""
        self._silent_s_max = silent_s_max
        self._clock = clock
        self._asked_at: dict[Connection, float] = {}

    def answers(self, pipe: Connection) -> bool:
        """Read the answer to the question before, if it is there, and ask again. Return False for a worker
        that has been silent for too long, or is not there."""
        now = self._clock()
        try:
            while pipe.poll():
                pipe.recv_bytes()
                self._asked_at.pop(pipe, None)
            if pipe not in self._asked_at:
                pipe.send(b"ping")
                self._asked_at[pipe] = now
        except (OSError, EOFError):
            return False
        return now - self._asked_at[pipe] <= self._silent_s_max

    def drop_worker(self, pipe: Connection) -> None:
        """Forget a worker that has ended."""
        self._asked_at.pop(pipe, None)


class Workers(Multiprocess):
    """uvicorn's parent, which gives up the port when it is told to stop, even while a worker hangs. `run`
    returns at the workers' end."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config, sockets=[listener])
        self._listener = listener
        self._health_check = HealthCheck(config.timeout_worker_healthcheck, time.monotonic)

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended or hang. uvicorn's own waits for each answer: while one worker
        hangs, it hears no signal and replaces no other."""
        for place, worker in enumerate(self.processes):
            if worker.process.is_alive() and self._health_check.answers(worker.parent_conn):
                continue
            self._health_check.drop_worker(worker.parent_conn)
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                log.error("worker_not_started", extra={"worker": worker.pid})
                self.should_exit.set()
            if self.should_exit.is_set():
                return
            log.warning("worker_ended", extra={"worker": worker.pid, "exit_code": worker.exitcode})
            self.processes[place] = Process(self.config, self.sockets)
            self.processes[place].start()

    def terminate_all(self) -> None:
        """End the workers and close the socket: while this process holds it, the system keeps accepting
        connections that no worker will answer."""
        super().terminate_all()
        self._listener.close()


def end_with_parent(drain_s: int) -> None:
    """Drain and end this worker when its parent ends, even by kill -9; it would hold the port for ever
    otherwise. Call once, in a worker."""
    threading.Thread(target=_end_after_parent, args=(drain_s,), name="parent", daemon=True).start()


def _end_after_parent(drain_s: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a worker"
    parent.join()
    log.error("parent_ended", extra={"parent": parent.pid})
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_s + _CLOSE_S_MAX)
    os._exit(1)  # acknowledged writes are on disk
