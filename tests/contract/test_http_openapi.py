"""openapi.yaml and the running app agree, both ways, and every example does what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from tests.contract.openapi_document import DOCUMENT, OPERATIONS, ROOT, check_schema, filled_path
from tests.http_app import HttpApp, application_of, picture_bytes, running_app, seed


def _examples() -> list[Any]:
    cases = []
    for path, method, operation in OPERATIONS:
        content = operation.get("requestBody", {}).get("content", {})
        found = [
            (kind, name, example)
            for kind, body in content.items()
            for name, example in body.get("examples", {}).items()
        ]
        for kind, name, example in found or [("", "call", _called(operation))]:
            for prefix in _prefixes(path):
                label = f"{method} {prefix}{path} {name}"
                # What writes takes an application of its own.
                marks = [] if _reads(path, method) else [pytest.mark.long]
                cases.append(pytest.param(path, method, kind, example, prefix, id=label, marks=marks))
    return cases


def _reads(path: str, method: str) -> bool:
    """Whether the operation changes nothing."""
    return method == "get" or DOCUMENT["paths"][path][method]["x-role"] in ("none", "search")


def _called(operation: dict[str, Any]) -> dict[str, Any]:
    """An operation without a body, which an empty service may answer with another status than 200."""
    return {"x-status": operation["x-status"]} if "x-status" in operation else {}


def _prefixes(path: str) -> list[str]:
    servers = DOCUMENT["paths"][path].get("servers", DOCUMENT["servers"])
    return [server["url"].rstrip("/") for server in servers]


@pytest.fixture(scope="module")
def read_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    """An application that is only read from."""
    with running_app(tmp_path_factory.mktemp("read")) as running:
        seed(running)
        yield running


@pytest.fixture
def new_app(seeded: Path) -> Iterator[HttpApp]:
    with running_app(seeded) as running:
        yield running


@pytest.fixture
def app(request: pytest.FixtureRequest) -> HttpApp:
    """The application for an example: one of its own where the operation writes."""
    given = request.node.callspec.params
    found = request.getfixturevalue("read_app" if _reads(given["path"], given["method"]) else "new_app")
    assert isinstance(found, HttpApp)
    return found


def test_document_is_valid_openapi() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_app_and_document_list_the_same_routes(tmp_path: Path) -> None:
    with running_app(tmp_path) as running:
        served = application_of(running).routes()
    documented = sorted((method.upper(), path) for path, method, _ in OPERATIONS)
    assert served == documented


@pytest.mark.long
def test_every_v1_path_answers_under_both_prefixes_and_both_slash_spellings(new_app: HttpApp) -> None:
    for path, method, operation in OPERATIONS:
        for prefix in _prefixes(path):
            for slash in ("", "/"):
                answer = new_app.request(method, prefix + filled_path(path, operation) + slash)
                assert answer.status_code not in (307, 308, 405), (prefix, path, slash)
                assert answer.status_code != 404 or answer.json()["code"] != "unknown_route", (prefix, path)
        assert ("/api" in _prefixes(path)) == path.startswith("/v1/")


@pytest.mark.parametrize(("path", "method", "kind", "example", "prefix"), _examples())
def test_example_does_what_it_says(
    app: HttpApp, path: str, method: str, kind: str, example: dict[str, Any], prefix: str
) -> None:
    operation = DOCUMENT["paths"][path][method]
    answer = app.request(method, prefix + filled_path(path, operation), **_body(kind, example))
    expected = example.get("x-status", 200)
    assert answer.status_code == expected, answer.text
    described = _resolved(operation["responses"][str(expected)])
    assert set(described["content"]) == {answer.headers["content-type"].partition(";")[0]}
    assert answer.headers["x-request-id"]
    if answer.headers["content-type"].endswith("json"):
        check_schema(answer.json(), next(iter(described["content"].values()))["schema"])


def test_the_document_itself_is_served(read_app: HttpApp) -> None:
    assert read_app.request("get", "/openapi.yaml").content == (ROOT / "openapi.yaml").read_bytes()


def test_every_documented_answer_example_fits_its_schema() -> None:
    checked = 0
    for _, _, operation in OPERATIONS:
        for response in operation["responses"].values():
            for body in _resolved(response).get("content", {}).values():
                for example in body.get("examples", {}).values():
                    check_schema(example["value"], body["schema"])
                    checked += 1
    assert checked > 5


def test_every_success_example_of_a_request_fits_its_schema() -> None:
    for _, _, operation in OPERATIONS:
        for kind, body in operation.get("requestBody", {}).get("content", {}).items():
            for example in body.get("examples", {}).values():
                if "x-status" not in example and kind == "application/json":
                    check_schema(example["value"], body["schema"])


def test_every_operation_names_its_key() -> None:
    for path, _, operation in OPERATIONS:
        assert operation["x-role"] in ("none", "search", "write", "admin"), path
        is_open = {} in operation["security"] or operation["security"] == []
        assert is_open == (operation["x-role"] in ("none", "search")), path


def _body(kind: str, example: dict[str, Any]) -> dict[str, Any]:
    if kind == "application/json":
        return {"content": json.dumps(example["value"]).encode(), "headers": {"content-type": kind}}
    if kind == "multipart/form-data":
        fields = dict(example["value"])
        name = fields.pop("file")
        return {"files": {"file": (name, picture_bytes(3, kind="JPEG"))}, "data": fields}
    return {}


def _resolved(part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    found: Any = DOCUMENT
    for step in part["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)
