"""The pages for a browser as they go over the wire: policy, packing, ETag, start, and no file beside them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from service.wiring import build
from tests.http_app import NO_MODEL_FILES, HttpApp, Loop, running_app

CONSOLE = Path(__file__).parents[2] / "service" / "console"
FILES = [path for folder in ("frame", "search", "operate") for path in (CONSOLE / folder).iterdir()]
FIRST_LOAD_BYTES_MAX = 150_000


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    hosts = {"CONSOLE_IMAGE_HOSTS": "img.example,*.cdn.example:8443", "SEARCH_API_KEY": "a-search-key"}
    with running_app(tmp_path_factory.mktemp("data"), hosts) as running:
        yield running


def policy_of(answer: httpx.Response) -> dict[str, list[str]]:
    parts = [part.split() for part in answer.headers["content-security-policy"].split(";")]
    return {name: sources for name, *sources in parts}


def test_a_browser_is_sent_to_the_console_and_a_program_told_where_to_go(app: HttpApp) -> None:
    sent = app.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/console")
    told = app.get("/", headers={"accept": "*/*"}).json()
    assert {app.get(path).status_code for path in told.values()} == {200}


@pytest.mark.parametrize("path", ["/console", "/console/app.js", "/docs", "/console/swagger-ui-bundle.js"])
def test_no_page_may_run_or_load_what_the_service_did_not_serve(app: HttpApp, path: str) -> None:
    answer = app.get(path)
    policy = policy_of(answer)
    assert policy["default-src"] == ["'self'"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == ["'none'"]
    assert "script-src" not in policy and "connect-src" not in policy  # as default-src says
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_pictures_come_from_the_service_and_from_listed_hosts(app: HttpApp) -> None:
    assert policy_of(app.get("/console"))["img-src"] == [
        "'self'",
        "blob:",
        "img.example",
        "*.cdn.example:8443",
    ]
    assert "require-trusted-types-for" in policy_of(app.get("/console"))


def test_files_are_packed_for_who_takes_it_and_sent_once(app: HttpApp) -> None:
    packed = app.get("/console/app.js", headers={"accept-encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    plain = app.get("/console/app.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == packed.content == (CONSOLE / "frame" / "app.js").read_bytes()
    assert plain.headers["vary"] == "Accept-Encoding"
    again = app.get("/console/app.js", headers={"if-none-match": packed.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == packed.headers["etag"]


def test_everything_that_the_console_may_load_is_small() -> None:
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in FILES}
    assert sum(sizes.values()) < FIRST_LOAD_BYTES_MAX, sizes


def test_no_two_files_share_a_name() -> None:
    names = [path.name.removesuffix(".gz") for path in (*FILES, *(CONSOLE / "viewer").iterdir())]
    assert len(names) == len(set(names))


def test_every_file_that_a_page_names_is_there(app: HttpApp) -> None:
    named = set()
    for page in ("/console", "/docs"):
        named |= set(re.findall(r'(?:src|href)="(/[^"]+)"', app.get(page).text))
    for path in (path for path in FILES if path.suffix == ".js"):
        named |= {f"/console/{name}" for name in re.findall(r'from "\./([^"]+)"', path.read_text("utf-8"))}
    assert len(named) > 10
    assert {path: app.get(path).status_code for path in named} == dict.fromkeys(named, 200)


@pytest.mark.parametrize(
    "name", ["..%2ffiles.py", "..%5cfiles.py", "files.py", "%2e%2e", "app.js%00", "app.js.gz", "nothing.js"]
)
def test_nothing_else_is_served(app: HttpApp, name: str) -> None:
    answer = app.get(f"/console/{name}")
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")


def test_pages_are_there_while_the_service_is_still_starting(tmp_path: Path) -> None:
    loop = Loop()
    try:
        settings = Settings.from_environ({**NO_MODEL_FILES, "DATA_DIR": str(tmp_path)})
        unopened = HttpApp(build(settings).application, loop)
        assert {unopened.get(path).status_code for path in ("/console", "/console/app.js", "/docs")} == {200}
        assert unopened.get("/v1/model-info").status_code == 503
    finally:
        loop.close()
