"""Who may call what: the matrix of all routes in openapi.yaml against all kinds of callers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.openapi_document import OPERATIONS, filled_path
from tests.http_app import HttpApp, running_app

KEYS = {
    "SEARCH_API_KEY": "search-key-1,search-key-2",
    "WRITE_API_KEY": "write-key-1,write-key-2",
    "ADMIN_API_KEY": "admin-key-1",
}
RANK = {"none": 0, "search": 1, "write": 2, "admin": 3}
REFUSALS = {"key_missing", "key_refused", "loopback_only", "no_key_set"}
PROXIED = [
    {"x-forwarded-for": "127.0.0.1"},
    {"x-forwarded-proto": "https"},
    {"x-forwarded-host": "localhost"},
    {"forwarded": "for=127.0.0.1"},
    {"x-real-ip": "::1"},
    {"via": "1.1 cache"},
    {"cf-connecting-ip": "127.0.0.1"},
    {"x-amzn-trace-id": "Root=1"},
]
FOREIGN = [
    {"host": "evil.example"},
    {"host": "127.0.0.1.evil.example:8080"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"sec-fetch-site": "cross-site"},
]
ROUTES = [(method, path, operation) for path, method, operation in OPERATIONS]
LABELS = [f"{method} {path}" for method, path, _ in ROUTES]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("data"), KEYS) as running:
        yield running


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("data"), {"KEYLESS_WRITES": ""}) as running:
        yield running


def refusal(
    app: HttpApp, method: str, path: str, operation: dict[str, object], headers: dict[str, Any]
) -> str:
    """The code of the refusal, or an empty string when the key check let the request pass."""
    answer = app.request(method, filled_path(path, operation), headers=headers)
    is_json = answer.headers["content-type"] == "application/problem+json"
    code = answer.json()["code"] if is_json else ""
    if code in REFUSALS:
        assert answer.status_code == (401 if code == "key_missing" else 403)
        assert (answer.status_code == 401) == ("www-authenticate" in answer.headers)
    return code if code in REFUSALS else ""


@pytest.mark.parametrize(("method", "path", "operation"), ROUTES, ids=LABELS)
def test_with_keys(keyed: HttpApp, method: str, path: str, operation: dict[str, object]) -> None:
    needed = RANK[str(operation["x-role"])]
    callers: list[tuple[dict[str, str], int]] = [
        ({"authorization": "Bearer search-key-1"}, 1),
        ({"x-api-key": "search-key-2"}, 1),
        ({"authorization": "bearer write-key-2"}, 2),
        ({"x-api-key": "admin-key-1"}, 3),
    ]
    for headers, rank in callers:
        expected = "" if rank >= needed else "key_refused"
        assert refusal(keyed, method, path, operation, headers) == expected, headers
    for headers in ({}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer "}):
        assert refusal(keyed, method, path, operation, headers) == ("key_missing" if needed else "")
    for wrong in ("nonsense", "search-key-", "admin-key-11", "search-key-1,search-key-2", b"\xff"):
        expected = "key_refused" if needed else ""
        assert refusal(keyed, method, path, operation, {"x-api-key": wrong}) == expected


@pytest.mark.parametrize(("method", "path", "operation"), ROUTES, ids=LABELS)
def test_without_keys_writes_and_operations_are_for_this_machine(
    keyless: HttpApp, method: str, path: str, operation: dict[str, object]
) -> None:
    shut = "loopback_only" if RANK[str(operation["x-role"])] >= 2 else ""
    for peer in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert refusal(keyless.from_peer(peer), method, path, operation, {}) == "", peer
    for peer in ("10.0.0.5", "192.168.1.9", "::ffff:10.0.0.5", "2001:db8::1", "testclient"):
        assert refusal(keyless.from_peer(peer), method, path, operation, {}) == shut, peer
    for headers in [*PROXIED, *FOREIGN]:
        assert refusal(keyless, method, path, operation, headers) == shut, headers
    for headers in ({"origin": "http://localhost"}, {"sec-fetch-site": "same-origin"}):
        assert refusal(keyless, method, path, operation, headers) == "", headers
    for host in ("localhost:8080", "127.0.0.1", "[::1]:8080", "10.1.2.3"):
        assert refusal(keyless, method, path, operation, {"host": host}) == ""


@pytest.mark.parametrize(("method", "path", "operation"), ROUTES, ids=LABELS)
def test_without_keys_nobody_writes_unless_the_start_says_so(
    shut: HttpApp, method: str, path: str, operation: dict[str, object]
) -> None:
    """A proxy on this machine may add no header at all: it looks like any program here."""
    expected = "no_key_set" if RANK[str(operation["x-role"])] >= 2 else ""
    for peer in ("127.0.0.1", "::1", "10.0.0.5"):
        for headers in ({}, {"host": "127.0.0.1:8080", "connection": "close"}, *PROXIED, *FOREIGN):
            assert refusal(shut.from_peer(peer), method, path, operation, dict(headers)) == expected


def test_a_refusal_says_what_was_in_the_way(keyless: HttpApp, shut: HttpApp) -> None:
    def told(app: HttpApp, headers: dict[str, str]) -> str:
        detail: str = app.post("/v1/delete", {"ids": []}, headers=headers).json()["detail"]
        return detail

    assert "Host header evil.example" in told(keyless, {"host": "evil.example"})
    assert "header via" in told(keyless, {"via": "1.1 cache"})
    assert "Origin https://evil.example" in told(keyless, {"origin": "https://evil.example"})
    assert "another machine" in told(keyless.from_peer("10.0.0.5"), {})
    assert "WRITE_API_KEY" in told(shut, {}) and "KEYLESS_WRITES" in told(shut, {})


def test_health_tells_an_administrator_who_may_call(keyed: HttpApp, keyless: HttpApp, shut: HttpApp) -> None:
    assert "access" not in shut.get("/health").json()
    assert "access" not in keyed.get("/health").json()
    assert "access" not in keyed.get("/health", headers={"x-api-key": "write-key-1"}).json()
    with_keys = keyed.get("/health", headers={"x-api-key": "admin-key-1"}).json()["access"]
    assert set(with_keys.values()) == {"who sends a key"}
    without = keyless.get("/health").json()["access"]
    assert without["search"].startswith("everyone")
    assert without["write"] == without["admin"] == "every program on this machine, a proxy included"


def test_a_key_is_checked_before_the_body_is_read(keyed: HttpApp) -> None:
    read = []

    def body() -> Iterator[bytes]:
        read.append(1)
        yield b"{"

    async def stream() -> object:  # httpx wants an async body
        for part in body():
            yield part

    for path in ("/v1/search", "/v1/upsert", "/v1/embed", "/search_similar", "/v1/promote"):
        answer = keyed.post(path, content=stream(), headers={"content-type": "application/json"})
        assert answer.status_code == 401, path
    assert not read
