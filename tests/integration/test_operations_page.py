"""The pages' way to change a model, run as it stands there: each command of the block, in order."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from index_store.maintenance.check import check
from tests.integration.service_process import ROOT, Connection, ServiceProcess
from tests.tidy.tables import code_blocks

KEYS = {"ADMIN_API_KEY": "an-administrator-of-this-test", "WRITE_API_KEY": "a-writer-of-this-test"}
OLD, CONFIGURED = "builtin:placeholder", "builtin:hashed-ngrams"
DISHES = ("갈비탕", "김치찌개", "된장찌개", "비빔밥", "떡볶이", "잡채")
PAGES = {
    "docs/OPERATIONS.md": "## Changing a model",
    "README.md": "Another model, while everything is served",
}
SECONDS_MAX = 600


def commands(page: str) -> list[list[str]]:
    """The commands of the first block behind the page's words on it, as a shell reads them."""
    text = (ROOT / page).read_text("utf-8")
    block = next(iter(code_blocks(text[text.index(PAGES[page]) :])))
    return [shlex.split(line, comments=True) for line in block.lines if line.strip()]


def run(service: ServiceProcess, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run one command with what an operator has set: the service's PORT and the key."""
    assert Path(words[0]).name == "python", words
    return subprocess.run(
        [sys.executable, *words[1:]],
        cwd=ROOT,
        env={**os.environ, **KEYS, "PYTHONPATH": str(ROOT), "PORT": str(service.port)},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def asked(service: ServiceProcess, path: str) -> Any:
    status, answer = Connection(service.port).ask(
        "GET", path, headers={"authorization": f"Bearer {KEYS['ADMIN_API_KEY']}"}
    )
    assert status == 200, answer
    return answer


def roles(service: ServiceProcess) -> dict[str, str]:
    told = asked(service, "/v1/collections/recipes/generations")["generations"]
    return {each["role"]: each["embedding_version"] for each in told}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """Filled under one model, started again with another, as the page begins."""
    data = tmp_path / "data"
    first = ServiceProcess(data, {"TEXT_MODEL": OLD, **KEYS}).start()
    try:
        items = [{"recipe_id": n, "text": dish} for n, dish in enumerate(DISHES)]
        header = {"authorization": f"Bearer {KEYS['WRITE_API_KEY']}"}
        assert Connection(first.port).ask("POST", "/v1/upsert", {"items": items}, header)[0] == 200
    finally:
        assert first.stop() == 0
    service = ServiceProcess(data, {"TEXT_MODEL": CONFIGURED, "WORKERS": "2", **KEYS}, first.port).start()
    yield service
    assert service.stop() == 0
    assert check(data) == []


@pytest.mark.parametrize("page", PAGES)
def test_each_command_does_what_the_page_says(service: ServiceProcess, page: str) -> None:
    health = asked(service, "/health")
    assert [each["code"] for each in health["reasons"]] == ["model_change_pending"]
    began = time.monotonic()
    before = roles(service)
    lines = commands(page)
    assert [words[3] for words in lines[:2]] == ["rebuild", "rebuild"] and len(lines) >= 3
    for words in lines:
        done = run(service, words)
        assert done.returncode == 0, (words, done)
        step, now = words[3], roles(service)
        if "--dry-run" in words:
            assert now == before and "It fits." in done.stdout, done
        elif step == "rebuild":
            assert set(now) == {"current", "next"} and "ready" in done.stdout, done
        elif step == "promote":
            assert now == {"current": before["next"], "former": before["current"]}
        elif step == "rollback":
            assert now == {"current": before["former"], "former": before["current"]}
        elif step == "retire":
            assert now == {"current": before["current"]}
        else:
            assert step == "report" and now == before and done.stdout, done
        before = now
        for number, dish in enumerate(DISHES):  # text search answers all the way through
            status, answer = Connection(service.port).post("/v1/search", {"query": dish, "top_k": 1})
            assert (status, answer["embedding_version"]) == (200, now["current"])
            assert answer["results"][0]["recipe_id"] == number
    assert time.monotonic() - began < SECONDS_MAX
