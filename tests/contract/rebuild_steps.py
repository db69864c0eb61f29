"""What tests of a model change do over HTTP: begin one, wait for its job, take a step, and search."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.http_app import HttpApp
from tests.waiting import PATIENCE_S

CHANGED = {"TEXT_MODEL": "builtin:placeholder"}
"""Its vectors depend on the whole text, so an equal text is found first and nothing else is near."""


LOOK_S = 1.0
"""Between two looks of what works at jobs."""


def until(app: HttpApp, found: Callable[[], Any]) -> Any:
    """Ask until the answer is true, and return it. The service's looks come as often as it is asked."""
    give_up = time.monotonic() + PATIENCE_S
    while not (answer := found()):
        assert time.monotonic() < give_up, "it never came"
        app.loop.pass_time(LOOK_S)
        time.sleep(0.02)
    return answer


def let_it_look(app: HttpApp) -> None:
    """Let the service look once more than at its start, and begin what it finds to do."""
    time.sleep(0.3)
    app.loop.pass_time(LOOK_S)
    time.sleep(0.3)


def rebuild(app: HttpApp, **body: Any) -> dict[str, Any]:
    answer = app.post("/v1/rebuild", {"collection": "recipes", **body})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()["job"]
    return job


def ended(app: HttpApp, job: dict[str, Any]) -> dict[str, Any]:
    def over() -> Any:
        told = app.get(f"/v1/jobs/{job['id']}").json()
        return told if told["state"] not in ("queued", "running") else None

    return dict(until(app, over))


def generations(app: HttpApp, collection: str = "recipes") -> dict[str, dict[str, Any]]:
    told = app.get(f"/v1/collections/{collection}/generations").json()["generations"]
    return {each["role"]: each for each in told}


def search(app: HttpApp, **body: Any) -> dict[str, Any]:
    answer = app.post("/v1/search", {"top_k": 3, **body})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def first(app: HttpApp, **body: Any) -> Any:
    return next(iter(search(app, **body)["results"][0].values()))


def step(app: HttpApp, name: str, status: int = 200, **body: Any) -> Any:
    answer = app.post(f"/v1/{name}", {"collection": "recipes", **body})
    assert answer.status_code == status, answer.text
    return answer.json()
