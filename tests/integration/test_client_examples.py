"""The example backend and the JVM snippet run as they stand, against a running service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks.processes import free_port
from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.kitchen import Kitchen, open_kitchen
from tests.integration.service_process import ROOT

START_S_MAX = 60


@pytest.fixture(scope="module")
def kitchen(
    postgres: PostgresServer, mariadb: MariaDBServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kitchen]:
    with open_kitchen(tmp_path_factory.mktemp("kitchen"), postgres, mariadb) as opened:
        yield opened


@contextmanager
def backend(environ: Mapping[str, str]) -> Iterator[str]:
    """Run the example; give its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--app-dir", "examples/backend", "app:app", "--port", str(port)],
        cwd=ROOT, env={**os.environ, **environ}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        give_up = time.monotonic() + START_S_MAX
        while time.monotonic() < give_up and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert "Traceback" not in output, output


def recipes(url: str, query: str, size: int = 10, user: str = "") -> dict[str, Any]:
    asked = urllib.parse.urlencode({"query": query, "size": size})
    request = urllib.request.Request(f"{url}/recipes?{asked}", headers={"X-User": user})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_the_example_backend_answers_without_a_database(kitchen: Kitchen) -> None:
    environ = {"ML_INFERENCE_URL": kitchen.url, "ML_MODE": "remote_store", "ML_TIMEOUT": "30"}
    with backend(environ) as url:
        found = recipes(url, "갈비탕", 40)
        with pytest.raises(urllib.error.HTTPError) as refusal:
            recipes(url, " ")
        assert refusal.value.code == 422, "the question's fault is no outage"
        typed = ["curl", "-sfG", f"{url}/recipes", "--data-urlencode", "query=갈비탕", "-d", "size=40"]
        if shutil.which("curl") is not None:  # as the example's README has it
            assert json.loads(subprocess.check_output(typed)) == found
    ids = [row["RECIPE_ID"] for row in found["recipes"]]
    assert ids == [n for n, _ in kitchen.nearest("갈비탕", 100) if n % 10][:40]
    assert all(n % 10 == 0 for n in found["missing"])


def test_the_example_backend_goes_over_and_back(kitchen: Kitchen) -> None:
    """Both paths with real databases: the service alone, then dead, with pgvector as what answers instead."""
    environ = {
        "ML_INFERENCE_URL": kitchen.url, "ML_MODE": "remote_store", "ML_FALLBACK_MODE": "remote_embed",
        "ML_ROLLOUT_PERCENT": "50", "ML_TIMEOUT": "30", "PG_URL": kitchen.dsn("asyncpg"),
        "SHOP_URL": kitchen.maria_url("asyncmy"),
    }  # fmt: skip
    truth = [n for n, _ in kitchen.nearest("냉면", 400) if n % 10]
    distances = dict(kitchen.nearest("냉면", 400))
    with backend(environ) as url:
        for user in ("a", "b", "c", "d", "e", "f"):
            found = recipes(url, "냉면", 20, user)["recipes"]
            assert len(found) == 20
            assert all(abs(row["distance"] - distances[row["RECIPE_ID"]]) < 1e-6 for row in found)
            assert {row["RECIPE_ID"] for row in found} <= set(truth)
    with backend({**environ, "ML_INFERENCE_URL": "http://127.0.0.1:1", "ML_TIMEOUT": "1"}) as url:
        with pytest.raises(urllib.error.HTTPError) as failure:
            recipes(url, "냉면")
        assert failure.value.code == 503, "neither path can embed: one typed error, said plainly"


def test_the_snippet_for_the_jvm_runs(kitchen: Kitchen) -> None:
    java = shutil.which("java")
    if java is None or not shutil.which("javac"):
        assert os.environ.get("CI") != "true", "CI runs every test: apt-get install openjdk-17-jdk-headless"
        pytest.skip("a JDK is missing: apt-get install openjdk-17-jdk-headless")
    snippet = ROOT / "examples/jvm/VectorSearch.java"

    def ask(query: str, url: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [java, "-Dfile.encoding=UTF-8", "-Dsun.jnu.encoding=UTF-8", str(snippet), url, query],
            capture_output=True, text=True, timeout=120, env={**os.environ, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip

    for query in ("갈비탕", 'a "quote" and \\ a backslash'):
        done = ask(query, kitchen.url)
        assert done.returncode == 0, done.stderr
        found = [(int(line.split()[0]), float(line.split()[1])) for line in done.stdout.splitlines()]
        kitchen.check(found, query, 3)
    refused = ask("x" * 1001, kitchen.url)
    assert (refused.returncode, "422" in refused.stderr) == (1, True)
