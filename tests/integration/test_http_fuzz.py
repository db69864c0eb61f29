"""schemathesis over openapi.yaml: whatever it makes up, no answer is a 5xx or an undocumented shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.test_http_openapi import ROOT
from tests.http_app import HttpApp, running_app, seed
from tests.integration.service_process import PATIENT

SCHEMA = schemathesis.openapi.from_path(ROOT / "openapi.yaml")
CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance)
EXAMPLES = 15


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("data"), {"MIN_SEQ_WAIT_MS": "0", **PATIENT}) as running:
        seed(running)
        yield running


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
def test_made_up_requests(case: Any, app: HttpApp) -> None:
    arguments = case.as_transport_kwargs(base_url="http://localhost")
    prepared = requests.Session().prepare_request(requests.Request(**_known(arguments)))
    answer = app.request(
        str(prepared.method),
        str(prepared.url),
        content=prepared.body if isinstance(prepared.body, bytes) else str(prepared.body or "").encode(),
        headers={name: value for name, value in prepared.headers.items() if name.lower() != "content-length"},
    )
    if answer.status_code == 503 and answer.json().get("code") == "min_seq_timeout":
        return  # it asked for a seq that no write has reached
    case.validate_response(schemathesis.Response.from_any(answer), checks=list(CHECKS))


def _known(arguments: dict[str, Any]) -> dict[str, Any]:
    names = ("method", "url", "headers", "files", "data", "json", "params", "auth", "cookies")
    return {name: value for name, value in arguments.items() if name in names}
