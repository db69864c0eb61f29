"""Several serving processes under one parent: how they end with it, and without it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time

import uvicorn
from uvicorn.supervisors import Multiprocess

log = logging.getLogger(__name__)

_CLOSE_S_MAX = 10
"""What a worker may take beyond DRAIN_S to close its files."""


class Workers(Multiprocess):
    """uvicorn's parent, which gives up the port when it is told to stop. `run` returns at their end."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config, sockets=[listener])
        self._listener = listener

    def init_processes(self) -> None:
        """Start every worker."""
        super().init_processes()
        self._close_their_ends()

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have ended or do not answer."""
        super().keep_subprocess_alive()
        self._close_their_ends()

    def _close_their_ends(self) -> None:
        """Close this process's copies of the workers' ends of the pipes through which they are asked whether
        they live. With a copy open, a worker that dies while it is asked seems to think about it for
        `timeout_worker_healthcheck`, and none takes its place meanwhile."""
        for process in self.processes:
            process.child_conn.close()

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
