"""The console's pages for an administrator in a real browser: what is held, what is wrong, a model change."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.http_app import DISHES
from tests.integration.browser import Visits, serious_barriers, visits_of
from tests.integration.service_process import BROKEN, ServiceProcess

SEARCH, WRITE, ADMIN = "a-search-key", "a-write-key", "an-admin-key"
KEYS = {"SEARCH_API_KEY": SEARCH, "WRITE_API_KEY": WRITE, "ADMIN_API_KEY": ADMIN}
OTHER_MODEL = "builtin:placeholder"
BRAKE_HINT = "python -m feeder reconcile"
HOSTILE = "<img src=x onerror=window.broken=1>"


def call(port: int, method: str, path: str, key: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    assert answer.status < 300, document
    connection.close()
    return document


def wait_until_serving(process: ServiceProcess) -> None:
    """It is never ready: one of its collections has no model."""
    give_up = time.monotonic() + 60
    while True:
        assert process.process.poll() is None and time.monotonic() < give_up, process.log.read_text()
        try:
            call(process.port, "POST", "/v1/embed", SEARCH, {"text": "국"})
            return
        except (*BROKEN, AssertionError):
            time.sleep(0.05)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """With keys, and without the files of its picture model."""
    folder: Path = tmp_path_factory.mktemp("operate")
    broken = {"IMAGE_MODEL": "builtin:efficientnet-lite0", "MODELS_DIR": str(folder / "none"), "PROBE_S": "1"}
    process = ServiceProcess(folder / "data", {**KEYS, **broken})
    process.start(until_ready=False)
    try:
        wait_until_serving(process)
        items = [
            {
                "recipe_id": number,
                "text": f"{DISHES[number % 10]} {number}",
                "metadata": {"title": f"{number} {HOSTILE}", "category": ("국", "밥")[number % 2]},
            }
            for number in range(1, 21)
        ]
        report = {"equal": False, "as_of_ms": 1_700_000_000_000, "lag_ms": 4200.0, "quarantined": 3}
        brake = {"why": f"19 % vanished {HOSTILE}", "hint": BRAKE_HINT, "since_ms": 1_700_000_000_000}
        why = {"reasons": [{"why": f"status 404 {HOSTILE}", "count": 3, "ids": [HOSTILE, "7"]}]}
        told = {
            "sync.report": json.dumps(report),
            "sync.brake": json.dumps(brake),
            "sync.quarantine": json.dumps(why),
        }
        call(process.port, "POST", "/v1/upsert", WRITE, {"items": items, "source": told})
        yield process
    finally:
        process.stop()


@pytest.fixture
def visits(service: ServiceProcess, browser: Browser) -> Iterator[Visits]:
    with visits_of(browser, service.port) as begin:
        yield begin


def opened(visits: Visits, path: str, key: str, **arguments: Any) -> Page:
    visit = visits(**arguments)
    visit.keys = [SEARCH, WRITE, ADMIN]
    page = visit.open(path)
    if key:
        page.click("#key-button")
        page.fill("#key-input", key)
        page.press("#key-input", "Enter")
    return page


def test_collections_tell_what_is_held_and_how_it_stands_to_its_source(
    visits: Visits, service: ServiceProcess
) -> None:
    page = opened(visits, "/console#/collections", ADMIN)
    recipes = page.get_by_role("region", name="recipes", exact=True)
    expect(recipes.locator(".figure")).to_contain_text("20")
    expect(recipes).to_contain_text("differs from the source")
    expect(recipes).to_contain_text("4 s")
    expect(recipes).to_contain_text("20 rows not sealed yet, about 30 KiB")
    expect(recipes.locator("dl", has_text="Live recall")).to_contain_text("KiB (store of record")
    expect(recipes.locator(".warning").first).to_contain_text(f"19 % vanished {HOSTILE}")
    expect(recipes.locator(".quarantine")).to_contain_text(f"3 status 404 {HOSTILE} ({HOSTILE}, 7, …)")
    recipes.locator(".quarantine button").click()
    expect(page.locator("#notice")).to_contain_text("asked to try again")
    cursors = call(service.port, "GET", "/v1/sync/status", ADMIN)["collections"]["recipes"]["cursors"]
    assert cursors["sync.retry"].isdigit() and "sync.report" in cursors
    expect(recipes.locator(".command code")).to_have_text(BRAKE_HINT)
    expect(recipes.locator("tbody tr")).to_have_count(1)
    products = page.get_by_role("region", name="products", exact=True)
    expect(products).to_contain_text("not available")
    assert page.evaluate("window.broken") is None


def test_a_search_key_sees_what_is_open_and_is_told_what_more_there_is(visits: Visits) -> None:
    page = opened(visits, "/console#/collections", SEARCH)
    expect(page.locator(".problem")).to_contain_text("key_refused")
    expect(page.get_by_role("region", name="recipes", exact=True)).to_contain_text("ngram-hash")
    page.goto(page.url.replace("collections", "model"))
    expect(page.locator(".problem")).to_contain_text("key_refused")
    expect(page.get_by_role("button", name="Promote")).to_have_count(0)


def test_health_says_what_is_wrong_and_the_command_that_helps(visits: Visits) -> None:
    page = opened(visits, "/console#/health", "")
    expect(page.locator(".state")).to_contain_text("Something is wrong, the rest is served")
    expect(page.locator(".reasons")).to_contain_text("model_unavailable")
    expect(page.locator(".reasons code").first).to_contain_text("build efficientnet-lite0")
    expect(page.get_by_role("heading", name="Answers by route")).to_have_count(0)
    page = opened(visits, "/console#/health", ADMIN)
    expect(page.get_by_role("region", name="Answers by route")).to_contain_text("/v1/upsert")
    expect(page.get_by_role("region", name="What was done last")).to_contain_text("POST /v1/upsert")
    expect(page.get_by_role("region", name="Latency by stage")).to_contain_text("commit of a write")
    expect(page.locator("dl", has_text="Disk free")).to_contain_text("GiB; writes stop below")
    expect(page.get_by_text("who sends a key").first).to_be_visible()


def test_a_page_asks_again_by_itself(visits: Visits, service: ServiceProcess) -> None:
    visit = visits()
    visit.page.clock.install()
    page = opened(lambda: visit, "/console#/collections", ADMIN)
    recipes = page.get_by_role("region", name="recipes", exact=True)
    expect(recipes.locator("tbody tr")).to_have_count(1)
    expect(recipes.locator(".figure")).to_contain_text("20")
    call(service.port, "POST", "/v1/upsert", WRITE, {"items": [{"recipe_id": 21, "text": "냉면 21"}]})
    try:
        page.clock.run_for(11_000)
        expect(recipes.locator(".figure")).to_contain_text("21")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
        page.clock.run_for(60_000)
        assert asked == [], "a hidden tab asks nothing"
        with page.expect_request("**/v1/collections"):  # at once when it is seen again
            page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    finally:
        call(service.port, "POST", "/v1/delete", WRITE, {"ids": [21]})


def confirm(page: Page, button: str, typed: str) -> None:
    page.locator("main").get_by_role("button", name=button, exact=True).click()
    take = page.locator("dialog").get_by_role("button", name=button, exact=True)
    expect(take).to_be_disabled()
    page.fill("#typed-name", typed)
    take.click()
    expect(page.locator("dialog")).to_have_count(0)


def begin(page: Page) -> None:
    page.fill("#new-model", OTHER_MODEL)
    page.get_by_role("button", name="Estimate").click()
    expect(page.locator("dl", has_text="Disk")).to_contain_text("20 of 20 items")
    page.get_by_role("button", name="Begin", exact=True).click()
    expect(page.locator("tbody").first).to_contain_text("next", timeout=30_000)
    expect(page.locator(".job").first).to_contain_text("ready", timeout=30_000)


def test_a_model_is_changed_and_changed_back(visits: Visits, service: ServiceProcess) -> None:
    def current() -> str:
        found = call(service.port, "GET", "/v1/collections/recipes/generations", ADMIN)["generations"]
        return str(next(each["embedding_version"] for each in found if each["role"] == "current"))

    first = current()
    page = opened(visits, "/console#/model", ADMIN)
    page.fill("#new-model", HOSTILE)
    page.get_by_role("button", name="Estimate").click()
    expect(page.locator(".problem")).to_contain_text("img src=x")
    expect(page.get_by_role("button", name="Begin", exact=True)).to_be_disabled()
    begin(page)
    page.get_by_role("button", name="Show the report").click()
    expect(page.locator("table", has_text="overlap_at_10_min")).to_be_visible()
    expect(page.locator(".bars")).to_be_visible()
    page.locator(".changed summary").first.click()
    assert serious_barriers(page) == []
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save it as a page").click()
    assert "<html" in saved.value.path().read_text("utf-8")
    confirm(page, "Promote", "recipes")
    expect(page.locator("tbody").first).to_contain_text("former")
    assert current() != first
    page.locator("main").get_by_role("button", name="Roll back", exact=True).click()
    page.fill("#typed-name", "recipe")
    expect(page.locator("dialog").get_by_role("button", name="Roll back")).to_be_disabled()
    page.keyboard.press("Escape")
    confirm(page, "Roll back", "recipes")
    expect(page.locator("#notice")).to_contain_text("rolled back")
    assert current() == first
    confirm(page, "Retire the former one", "recipes")
    expect(page.locator("#notice")).to_contain_text("retired")
    expect(page.locator("tbody").first).not_to_contain_text("former")
    begin(page)
    confirm(page, "Drop the next one", "recipes")
    expect(page.locator("tbody").first).not_to_contain_text("next")
    assert current() == first
    assert page.evaluate("window.broken") is None


def test_the_map_shows_items_and_leads_to_those_like_one(visits: Visits) -> None:
    page = opened(visits, "/console#/map", "")
    expect(page.locator(".problem")).to_contain_text("key_missing")
    page = opened(visits, "/console#/map", ADMIN)
    expect(page.locator(".plane .dot")).to_have_count(20)
    assert page.locator("#map-key option").all_inner_texts() == ["category", "title"]
    expect(page.locator(".legend li")).to_have_count(2)
    page.fill("#map-query", "국")
    page.press("#map-query", "Enter")
    expect(page.locator(".placed path")).to_have_count(1)
    expect(page.locator(".placed circle")).to_have_count(12)
    page.locator(".neighbours button").first.click()
    expect(page.locator(".told strong")).to_contain_text(HOSTILE)
    assert serious_barriers(page) == []
    page.get_by_role("button", name="Take the question off the map").click()
    expect(page.locator(".placed")).to_have_count(0)
    page.locator(".plane").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".told strong")).to_contain_text(HOSTILE)
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_contain_text("Like ")
    expect(page.locator(".card")).to_have_count(19)
    assert page.evaluate("window.broken") is None
