"""Every release opens the data directory of each earlier one, answers as that one did, and takes writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from index_store.maintenance.backup import restore_data
from index_store.maintenance.check import check
from tests.fixtures.golden.release import COLLECTIONS, RELEASES, differences, noted, questions
from tests.http_app import HttpApp, running_app
from tests.tidy.source import read
from tests.tidy.tables import headings


@pytest.fixture(params=RELEASES, ids=lambda directory: directory.name)
def release(request: pytest.FixtureRequest) -> Path:
    directory: Path = request.param
    return directory


@contextmanager
def serving(data: Path, release: Path) -> Iterator[HttpApp]:
    with running_app(data, {"COLLECTIONS_FILE": str(release / COLLECTIONS)}) as app:
        yield app
    assert check(data) == []


def answer(app: HttpApp, question: dict[str, Any]) -> Any:
    answer = app.request(question["method"], question["path"], json=question["body"])
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.long
def test_a_release_s_directory_answers_as_it_did_and_takes_writes(release: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(release, data)
    assert check(data) == []
    with serving(data, release) as app:
        assert [found for one in noted(release) for found in differences(one, answer(app, one))] == []
        assert app.get("/health").json()["status"] == "ok"
        new = {"recipe_id": 1000, "text": "콩나물국밥"}
        assert app.post("/v1/upsert", {"items": [new], "delete_ids": [60]}).status_code == 200
    with serving(data, release) as app:
        results = app.post("/v1/search", {"query": "콩나물국밥", "top_k": 100}).json()["results"]
        assert results[0]["recipe_id"] == 1000
        assert 60 not in [each["recipe_id"] for each in results]


def test_a_release_s_backup_is_restored(release: Path, tmp_path: Path) -> None:
    (backup,) = (release / "backups").iterdir()
    restore_data(backup, tmp_path / "data")
    with serving(tmp_path / "data", release) as app:
        assert [found for one in noted(release) for found in differences(one, answer(app, one))] == []


def test_every_release_has_its_directory() -> None:
    versions = [title.split(" - ")[0] for level, title in headings(read("CHANGELOG.md")) if level == 2]
    assert {f"release-{version}" for version in versions if version != "Unreleased"} == {
        directory.name for directory in RELEASES
    }, "make record RELEASE=N.N.N, at the commit that gives the release its number"


def test_another_answer_is_found() -> None:
    was = {"results": [{"recipe_id": 1, "distance": 0.5}], "seq": 3}
    question = {**questions()[0], "answer": was}
    assert not differences(question, {**was, "took_ms": 1.0})
    assert not differences(question, {"results": [{"recipe_id": 1, "distance": 0.5 + 1e-9}], "seq": 3})
    for other in ({**was, "seq": 4}, {"seq": 3}, {**was, "results": []}):
        assert differences(question, other)
    assert differences(question, {"results": [{"recipe_id": 1, "distance": 0.5001}], "seq": 3})
