"""What a test does with a question on the search page: choose, ask the route, run the code that is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.integration.service_process import ROOT, Connection


def ids_shown(page: Page) -> list[str]:
    return page.locator(".card .id").all_inner_texts()


def choose(page: Page, collection: str, kind: str) -> None:
    page.select_option("#collection", collection)
    page.locator(f"input[name=kind][value={kind}]").check(force=True)


def asked(port: int, body: dict[str, Any]) -> list[Any]:
    status, answer = Connection(port).post("/v1/search", body)
    assert status == 200, answer
    return [next(iter(row.values())) for row in answer["results"]]


def run_snippet(language: str, code: str, folder: Path) -> str:
    """Return what the code prints. language: curl, python or java. folder: where it lies and runs."""
    file = folder / {"curl": "ask.sh", "python": "ask.py", "java": "Search.java"}[language]
    file.write_text(code, "utf-8")
    command = {"curl": ["bash"], "python": [sys.executable], "java": ["java"]}[language]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*command, str(file)], cwd=folder, capture_output=True, timeout=60, env=environ)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
