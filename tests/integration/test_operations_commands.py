"""Every command and route of docs/OPERATIONS.md is typed as it stands there; what can't be is listed here.

Relative paths are those of an operator's folder that holds `.data`. Not commands, and not read here:
the configuration of nginx, one line of SQL and an editor, beside the commands that NEXT runs.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from index_store.maintenance.check import check
from tests.integration.service_process import ROOT, Connection, ServiceProcess
from tests.tidy.tables import code_blocks
from tests.waiting import until

PAGE = (ROOT / "docs/OPERATIONS.md").read_text("utf-8")
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:python|make|docker|df|du|ls|ulimit|curl)(?=\s|$)")
ROUTE = re.compile(r"(GET|POST) (/\S+)|(/(?:livez|readyz|health|metrics))")
KEYS = {"ADMIN_API_KEY": "an-administrator-of-this-test", "WRITE_API_KEY": "a-writer-of-this-test"}
ADMIN = {"authorization": f"Bearer {KEYS['ADMIN_API_KEY']}"}
CHANGE = "tests/integration/test_operations_page.py::test_each_command_does_what_the_page_says"
NEXT = "tests/integration/test_feeder_next_generation.py"
BRAKE = "tests/integration/test_feeder_brake.py::test_a_followed_mass_delete_is_held_until_it_is_forced"
START = "setting up this environment has run it"

ELSEWHERE = {
    "python -m service rebuild recipes --dry-run": CHANGE,
    "python -m service rebuild recipes": CHANGE,
    "python -m service report recipes": CHANGE,
    "python -m service promote recipes": CHANGE,
    "python -m service rollback recipes": CHANGE,
    "python -m service retire recipes": CHANGE,
    "python -m service rebuild": CHANGE,
    "python -m service rollback": CHANGE,
    "python -m service retire": CHANGE,
    "python -m service": "every test of this folder starts it",
    "python -m service evaluate FILE": "tests/contract/test_evaluate.py, against a service of its own",
    "python -m service do-jobs": "the service starts it; tests/integration/test_service_rebuild.py kills it",
    "python -m service models build|fetch|adopt": "stands for three; the Makefile runs `build`",
    "python -m index_store compile": START,
    "python -m index_store maintain .data": "the service starts it",
    "python -m feeder import": "tests/integration/test_feeder_import.py",
    "python -m feeder sync": BRAKE,
    "python -m feeder status": BRAKE,
    "python -m feeder reconcile": BRAKE,
    "python -m feeder reconcile --force": BRAKE,
    "python -m feeder verify": NEXT,
    "python -m feeder reconcile recipes.next": NEXT,
    "python -m feeder import products.next": NEXT,
    "python -m service rebuild products --model siglip-base --dry-run": NEXT,
    "python -m service rebuild products --model siglip-base": NEXT,
    "python -m service report products --fresh": NEXT,
    "python -m service promote products": NEXT,
    "make run": START,
    "make serve": "tests/tidy/test_docker.py holds that it starts the same program",
    "make lock": "asks a package registry",
    "make pin": "asks an image registry; tests/tidy/test_docker.py runs its script with another docker",
    "METRICS_KEY=... docker compose --profile observe up -d": "needs a Docker engine",
    "ulimit -n": "a builtin of the shell",
}


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def typed() -> set[str]:
    """What the page says to type in a shell."""
    blocks = (line for block in code_blocks(PAGE) for line in block.lines)
    fenced = {one_line(re.sub(r"(^|\s)#.*", "", line)) for line in blocks}
    return {each for each in fenced | spans() if PROGRAM.match(each)}


def spans() -> set[str]:
    """What stands between backquotes outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    return {one_line(each) for each in re.findall(r"`([^`]+)`", prose)}


def routes() -> set[tuple[str, str]]:
    found = (match for match in map(ROUTE.fullmatch, spans()) if match)
    return {(match[1] or "GET", match[2] or match[3]) for match in found}


class Operator:
    """Types commands in a folder that holds `.data`, beside a running service."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / ".data"
        models = {"MODELS_DIR": str(folder / "models")}
        self.service = ServiceProcess(self.data, {**KEYS, **models}).start()
        self._environ = {
            **os.environ,
            **KEYS,
            **models,
            "PYTHONPATH": str(ROOT),
            "PORT": str(self.service.port),
        }
        self.typed: set[str] = set()

    def types(self, command: str) -> str:
        """Run a command of the page; return what it printed. It must succeed."""
        assert command in typed(), command
        self.typed.add(command)
        here = {"DATA_DIR": ".data", "MOUNT_POINT": ".", "PID": str(self.service.process.pid)}
        line = re.sub(r"^(\.venv/bin/)?python\b", shlex.quote(sys.executable), command)
        for word, value in here.items():
            line = re.sub(rf"\b{word}\b", value, line)
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (command, done)
        return done.stdout

    def search_answers(self) -> bool:
        with closing(Connection(self.service.port)) as connection:
            status, answer = connection.post("/v1/search", {"query": "갈비탕", "top_k": 1})
        return status == 200 and answer["results"][0]["recipe_id"] == 123


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    operator = Operator(tmp_path_factory.mktemp("operator"))
    header = {"authorization": f"Bearer {KEYS['WRITE_API_KEY']}"}
    with closing(Connection(operator.service.port)) as connection:
        items = [{"recipe_id": 123, "text": "갈비탕"}, {"recipe_id": 124, "text": "냉면"}]
        assert connection.ask("POST", "/v1/upsert", {"items": items}, header)[0] == 200
    yield operator
    operator.service.stop()


def test_each_route_answers(operator: Operator) -> None:
    with closing(Connection(operator.service.port)) as connection:
        for method, path in sorted(routes()):
            there = path.replace("{name}", "recipes").replace("갈비탕", "%EA%B0%88%EB%B9%84%ED%83%95")
            status, answer = connection.ask(method, there, {} if method == "POST" else None, ADMIN)
            assert status == 200, (method, path, answer)
    assert len(routes()) > 8


def test_the_runbooks_commands_in_the_order_in_which_they_are_wanted(operator: Operator) -> None:
    for command in (
        "df -h DATA_DIR",
        "du -ax MOUNT_POINT | sort -n | tail",
        "ls /proc/PID/fd",
        "python -m service jobs",
        "python -m service models verify",
    ):
        operator.types(command)
    operator.types("python -m index_store rebuild DATA_DIR")
    operator.types("python -m index_store rebuild .data")
    operator.types(".venv/bin/python -m index_store backup .data backups/monday")
    operator.types(".venv/bin/python -m index_store check backups/monday")
    operator.types(".venv/bin/python -m index_store check .data")
    for pointer in (operator.data / "collections/recipes").glob("generations*.json"):
        pointer.unlink()
    operator.types(".venv/bin/python -m index_store repoint .data recipes")
    until(operator.search_answers, "the collection under its new pointer")
    assert operator.service.stop() == 0
    (operator.data / "collections").rename(operator.folder / "moved-away")
    operator.types(".venv/bin/python -m index_store restore backups/monday .data")
    assert check(operator.data) == []
    operator.service.start()
    assert operator.search_answers()
    assert operator.typed | set(ELSEWHERE) == typed(), "type it here, or say in ELSEWHERE who does or why not"
    assert not operator.typed & set(ELSEWHERE)


def test_who_is_said_to_run_a_command_is_there() -> None:
    for command, why in ELSEWHERE.items():
        for path, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", why):
            assert f"def {name}" in (ROOT / path).read_text("utf-8"), (command, why)
