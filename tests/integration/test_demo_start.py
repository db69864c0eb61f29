"""What a newcomer does first: start with --demo, type the three lines it prints, stop, start again."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
START_S_MAX = 60
WITHOUT_MODEL_FILES = {"TEXT_MODEL": "builtin:hashed-ngrams", "IMAGE_MODEL": "builtin:descriptor"}


class Program:
    """One running `python -m service --demo`, and what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: Path) -> None:
        self.process = process
        self.port = port
        self._output = output

    def output(self) -> str:
        return self._output.read_text("utf-8")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            if "Ready at " in self.output():
                self.get("/readyz")  # what is printed is true: anything but 200 raises
                return
            time.sleep(0.05)
        pytest.fail(f"not ready after {START_S_MAX} s:\n{self.output()}")


def started(data_dir: Path, output: Path) -> Program:
    port = free_port()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environ = {
        **kept,
        **WITHOUT_MODEL_FILES,
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "DATA_DIR": str(data_dir),
    }
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--demo"],
            cwd=ROOT,
            env=environ,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    return Program(process, port, output)


@contextmanager
def demo(data_dir: Path, output: Path) -> Iterator[Program]:
    program = started(data_dir, output)
    try:
        program.wait_until_ready()
        yield program
    finally:
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(30) == 0, program.output()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("demo")
    with demo(folder / "data", folder / "output.txt") as program:
        yield program


def test_the_demo_is_there(running: Program) -> None:
    counts = {name: each["count"] for name, each in running.get("/health")["collections"].items()}
    assert counts == {"recipes": 161, "products": 150}


def test_the_printed_commands_answer(running: Program) -> None:
    """Run exactly as printed, by a shell in the project's folder."""
    joined = running.output().replace("\\\n", " ")
    commands = re.findall(r"^  (curl .*)$", joined, flags=re.MULTILINE)
    assert len(commands) == 3
    text, picture, health = (json.loads(_shell(command)) for command in commands)
    assert [len(row["metadata"]["title"]) > 0 for row in text["results"]] == [True] * 3
    assert text["embedding_version"].startswith("ngram-hash-v1")
    assert [row["rank"] for row in picture] == [1, 2, 3]
    assert all(row["product_id"].startswith("P0") for row in picture)
    assert health["status"] == "ok"


def test_the_demo_finds_words_however_they_are_typed(running: Program) -> None:
    """As README asks: on the keyboard of the other language."""
    asked = json.dumps({"query": "rlaclWlro", "mode": "hybrid", "top_k": 3, "include": ["metadata"]})
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/v1/search", asked.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found = json.loads(answer.read())
    assert found["interpreted_as"] == "김치찌개"
    assert found["results"][0]["metadata"]["title"] == "김치찌개"


def _shell(command: str) -> bytes:
    assert shlex.split(command)[0] == "curl"
    return subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, check=True, timeout=30).stdout


def test_callers_that_hang_up_do_not_end_the_server(running: Program) -> None:
    reset = struct.pack("ii", 1, 0)
    for number in range(200):
        with socket.create_connection(("127.0.0.1", running.port)) as caller:
            if number % 2:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            caller.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    assert running.get("/health")["status"] == "ok"
    assert running.process.poll() is None


def test_a_second_start_finds_the_data_and_loads_nothing(tmp_path: Path) -> None:
    with demo(tmp_path / "data", tmp_path / "first.txt") as first:
        assert first.output().count('"event":"demo_loaded"') == 2
    with demo(tmp_path / "data", tmp_path / "second.txt") as second:
        assert "demo_loaded" not in second.output()
        assert second.get("/health")["collections"]["recipes"]["count"] == 161


def killed_while_loading(data: Path, output: Path) -> bool:
    """Start on an empty directory and kill once the recipes are in; return whether that came in time."""
    killed = started(data, output)
    deadline = time.monotonic() + START_S_MAX
    while '"event":"demo_loaded"' not in killed.output():
        assert killed.process.poll() is None and time.monotonic() < deadline, killed.output()
        time.sleep(0.005)
    killed.process.kill()
    killed.process.wait(30)
    return killed.output().count('"event":"demo_loaded"') == 1


def test_a_start_that_was_killed_while_loading_is_finished_by_the_next(tmp_path: Path) -> None:
    tries = (tmp_path / f"data-{turn}" for turn in range(5))
    data = next(each for each in tries if killed_while_loading(each, each.with_suffix(".txt")))
    with demo(data, tmp_path / "second.txt") as second:
        counts = {name: each["count"] for name, each in second.get("/health")["collections"].items()}
    assert counts == {"recipes": 161, "products": 150}
    with demo(data, tmp_path / "third.txt") as third:
        assert "demo_loaded" not in third.output()
