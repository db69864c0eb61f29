"""The service as a process of its own, on a free port of this machine."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import command_of, free_port

ROOT = Path(__file__).parents[2]
START_S_MAX = 60
PATIENT = {"SEARCH_DEADLINE_MS": "60000", "QUEUE_MS_MAX": "60000"}
"""Refusals for want of time would only tell how busy the machine is."""


BROKEN = (OSError, http.client.HTTPException, ValueError)
"""How a request to a service fails that is not there yet, or is killed meanwhile: refused, reset, a broken
pipe; no status line, half a body, half a document."""


def listed_ids(connection: Connection, collection: str, id_field: str = "id", live: str = "any") -> list[Any]:
    """The ids of all stored items, page by page."""
    found: list[Any] = []
    path = following = f"/v1/items?collection={collection}&live={live}&limit=70"
    while True:
        status, page = connection.ask("GET", following)
        assert status == 200, page
        found += [item[id_field] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        following = f"{path}&cursor={page['next_cursor']}"


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int, timeout_s: float = 30) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        head = {"content-type": "application/json", **(headers or {})}
        self._connection.request(method, path, data, head)
        answer = self._connection.getresponse()
        text = answer.read()
        is_json = "json" in (answer.headers["content-type"] or "")
        return answer.status, json.loads(text) if is_json else text.decode()

    def send(self, data: bytes) -> None:
        """Part of a request, as it goes over the wire."""
        assert self._connection.sock is not None
        self._connection.sock.sendall(data)

    def local_port(self) -> int:
        assert self._connection.sock is not None
        return int(self._connection.sock.getsockname()[1])

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        return self.ask("POST", path, body)

    def close(self) -> None:
        self._connection.close()


class ServiceProcess:
    """`python -m service` with embedders that need no files."""

    def __init__(
        self,
        data_dir: Path,
        environ: Mapping[str, str] | None = None,
        port: int | None = None,
        log_dir: Path | None = None,
    ) -> None:
        """log_dir: where its output goes; beside the data directory without it."""
        self.port = port or free_port()
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.environ = {
            **inherited,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "DATA_DIR": str(data_dir),
            "TEXT_MODEL": "builtin:hashed-ngrams",
            "IMAGE_MODEL": "builtin:descriptor",
            "LOG_LEVEL": "warning",
            "KEYLESS_WRITES": "loopback",
            **PATIENT,
            **(environ or {}),
        }
        self.log = (log_dir or data_dir.parent) / f"service-{self.port}.log"

    def start(self, *, until_ready: bool = True, ready_s_max: float = START_S_MAX) -> ServiceProcess:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=ROOT,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if until_ready:
            self.wait_until_ready(ready_s_max)
        return self

    def wait_until_ready(self, ready_s_max: float = START_S_MAX) -> None:
        give_up = time.monotonic() + ready_s_max
        while time.monotonic() < give_up:
            assert self.process.poll() is None, self.log.read_text()
            try:
                connection = Connection(self.port, timeout_s=5)
                status, _ = connection.ask("GET", "/readyz")
                connection.close()
                if status == 200:
                    return
            except BROKEN:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not ready within {ready_s_max} s: {self.log.read_text()}")

    def worker_ids(self) -> list[int]:
        """Process ids of the serving workers; the parent's own when it serves by itself."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in command_of(int(child))] or [
            self.process.pid
        ]

    def kill(self) -> None:
        """kill -9 of the whole process group: no handler runs, nothing is flushed."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        finally:
            if self.process.poll() is None:
                self.kill()
