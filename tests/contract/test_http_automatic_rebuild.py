"""ON_MODEL_CHANGE=rebuild: a changed model is rebuilt without being asked for, once for each change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.rebuild_steps import CHANGED, ended, generations, let_it_look, search, step, until
from tests.http_app import HttpApp, running_app, seed

ON = {"ON_MODEL_CHANGE": "rebuild"}

pytestmark = pytest.mark.long


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with running_app(tmp_path / "data", ON) as app:
        seed(app)
        let_it_look(app)
        assert jobs(app) == [], "nothing has changed"
    return tmp_path / "data"


def jobs(app: HttpApp) -> list[dict[str, Any]]:
    return list(app.get("/v1/jobs").json()["jobs"])


def begun(app: HttpApp) -> dict[str, Any]:
    (job,) = until(app, lambda: jobs(app))
    return ended(app, job)


def begins_nothing(data: Path, environ: dict[str, str], known: int) -> None:
    with running_app(data, environ) as app:
        let_it_look(app)
        assert len(jobs(app)) == known


def test_a_changed_model_is_rebuilt_and_promoted_by_people(data: Path) -> None:
    with running_app(data, {**CHANGED, **ON}) as app:
        old = search(app, query="국")["embedding_version"]
        job = begun(app)
        assert (job["state"], job["done"], job["collection"]) == ("ready", 30, "recipes")
        assert search(app, query="국")["embedding_version"] == old
    begins_nothing(data, {**CHANGED, **ON}, known=1)
    with running_app(data, {**CHANGED, **ON}) as app:
        step(app, "promote")
        assert search(app, query="국")["embedding_version"] == job["embedding_version"]
        step(app, "rollback")
    begins_nothing(data, {**CHANGED, **ON}, known=1)


def test_what_was_aborted_is_not_begun_again_until_the_configuration_changes(data: Path) -> None:
    with running_app(data, {**CHANGED, **ON}) as app:
        begun(app)
        step(app, "abort")
        let_it_look(app)
        assert generations(app).keys() == {"current"}
    begins_nothing(data, {**CHANGED, **ON}, known=1)
    begins_nothing(data, ON, known=1)  # the old model is configured again: nothing is asked for
    with running_app(data, {**CHANGED, **ON}) as app:
        assert len(until(app, lambda: jobs(app)[1:])) == 1, "and now again"


def test_keep_begins_nothing_and_forgets(data: Path) -> None:
    with running_app(data, {**CHANGED, **ON}) as app:
        begun(app)
        step(app, "abort")
    begins_nothing(data, CHANGED, known=1)
    with running_app(data, {**CHANGED, **ON}) as app:
        assert len(until(app, lambda: jobs(app)[1:])) == 1


def test_a_model_that_is_not_here_is_told_and_not_begun(data: Path, tmp_path: Path) -> None:
    missing = {"TEXT_MODEL": str(tmp_path / "nothing-here"), **ON}
    with running_app(data, missing) as app:
        let_it_look(app)
        assert jobs(app) == []
        (reason,) = app.get("/health").json()["reasons"]
        assert reason["code"] == "model_change_pending" and "can't be used" in reason["reason"]
