"""The console in a real browser: keys, languages, themes, keyboard, phone, accessibility."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.http_app import picture
from tests.integration.browser import Visits, serious_barriers, visits_of
from tests.integration.service_process import Connection, ServiceProcess

KEYS = {"SEARCH_API_KEY": "search-key-1", "WRITE_API_KEY": "write-key-1", "ADMIN_API_KEY": "admin-key-1"}
SHOWN = {
    "search": ".results .summary",
    "collections": ".tile tbody",
    "model": ".panel tbody",
    "health": ".state + .panel",
    "map": ".plane .dot",
}
"""What each page shows once it has its answers."""
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Without keys, for this machine."""
    process = ServiceProcess(tmp_path_factory.mktemp("open") / "data").start()
    try:
        seed(process.port)
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def locked_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("locked") / "data", KEYS).start()
    try:
        yield process
    finally:
        process.stop()


def seed(port: int) -> None:
    metadata = {"name": "긴 이름의 " * 20, "image_url": "/console/icon.svg", "word": "w" * 200}
    items = [
        {"product_id": f"p-{place}", "image": picture(place), "metadata": metadata} for place in range(30)
    ]
    status, answer = Connection(port).post("/v1/upsert", {"items": items})
    assert status == 200, answer


@pytest.fixture
def open_visits(open_service: ServiceProcess, browser: Browser) -> Iterator[Visits]:
    with visits_of(browser, open_service.port) as begin:
        yield begin


@pytest.fixture
def locked_visits(locked_service: ServiceProcess, browser: Browser) -> Iterator[Visits]:
    with visits_of(browser, locked_service.port) as begin:
        yield begin


def wait_for(page: Page, name: str) -> None:
    """Until the page has shown what it asked for."""
    expect(page.locator(SHOWN[name]).first).to_be_visible()


def type_key(page: Page, key: str) -> None:
    page.fill("#key-input", key)
    page.press("#key-input", "Enter")
    expect(page.locator("dialog")).to_have_count(0)


def test_a_key_is_typed_once_and_stays_in_this_tab(locked_visits: Visits) -> None:
    visit = locked_visits()
    visit.keys = [KEYS["SEARCH_API_KEY"], "wrong-key-1"]
    page = visit.open()
    page.locator(".problem button.primary").click()
    type_key(page, "wrong-key-1")
    expect(page.locator(".problem")).to_contain_text("key_refused")
    page.click("#key-button")
    type_key(page, KEYS["SEARCH_API_KEY"])
    wait_for(page, "search")
    page.reload()
    wait_for(page, "search")
    assert page.evaluate("JSON.stringify(localStorage)").find("search-key") == -1
    assert "search-key" in page.evaluate("JSON.stringify(sessionStorage)")
    assert "search-key" not in page.content()
    page.click("#key-button")
    page.get_by_role("button", name="Forget").click()
    expect(page.locator(".problem")).to_contain_text("key_missing")
    other = locked_visits().open()
    expect(other.locator(".problem")).to_contain_text("key_missing")


def test_a_key_that_no_header_can_hold_is_refused_by_the_page(locked_visits: Visits) -> None:
    page = locked_visits().open()
    page.click("#key-button")
    page.fill("#key-input", "비밀열쇠")
    page.press("#key-input", "Enter")
    expect(page.locator("dialog .problem-text")).to_contain_text("ASCII")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", SHOWN)
def test_no_page_has_a_serious_barrier(open_visits: Visits, name: str, theme: str) -> None:
    page = open_visits(color_scheme=theme).open(f"/console#/{name}")
    wait_for(page, name)
    assert serious_barriers(page) == []


@pytest.mark.parametrize("name", SHOWN)
def test_every_page_speaks_both_languages_and_keeps_the_choice(open_visits: Visits, name: str) -> None:
    page = open_visits(language="ko-KR").open(f"/console#/{name}")
    wait_for(page, name)
    korean = page.locator("body").inner_text()
    page.get_by_role("button", name="English").click()
    wait_for(page, name)
    english = page.locator("body").inner_text()
    assert "undefined" not in korean + english
    assert korean != english
    page.reload()
    wait_for(page, name)
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("name", SHOWN)
def test_a_page_fits_a_phone(open_visits: Visits, name: str) -> None:
    page = open_visits(viewport=PHONE, language="ko-KR").open(f"/console#/{name}")
    wait_for(page, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_theme_follows_the_system_until_one_is_chosen(open_visits: Visits) -> None:
    page = open_visits(color_scheme="dark").open()
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Theme").click()
    assert page.evaluate(ground) != dark
    page.reload()
    assert page.evaluate(ground) != dark
    page.get_by_role("button", name="Theme").click()
    assert page.evaluate(ground) == dark


def test_the_keyboard_is_enough(open_visits: Visits) -> None:
    page = open_visits().open()
    wait_for(page, "search")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.hasAttribute('data-first')")
    page.locator(".card .picture").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog pre")).to_contain_text("product_id")
    assert serious_barriers(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_openapi_is_shown_as_a_page(open_visits: Visits) -> None:
    page = open_visits(color_scheme="dark").open("/docs")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    expect(page.locator("#operations-search-post_search")).to_be_visible()
    page.click("#operations-search-post_search .opblock-summary-control")
    expect(page.locator("#operations-search-post_search")).to_contain_text("nearest first, ties by id")
