"""A real browser, headless, and what it did while a page was shown."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.waiting import PATIENCE_S

WAIT_MS = PATIENCE_S * 1000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def browser_path() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


@contextmanager
def running_browser(path: str) -> Iterator[Browser]:
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def serious_barriers(page: Page) -> list[str]:
    """Return what axe-core finds of the page as it stands that keeps somebody out: serious and critical."""
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in Axe().run(page).response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


REFUSED_PICTURES = "https://img.example/"
"""Where tests put pictures that no page may load."""


class Visit:
    """One visitor of the service at `port`: a page with nothing kept from before.

    At its end: nothing went to another host, no script failed, the page's policy was violated by nothing but
    REFUSED_PICTURES, and no address held a key out of `keys`.
    """

    def __init__(self, browser: Browser, port: int, *, language: str = "en-US", **context: Any) -> None:
        """context: as Browser.new_context takes it."""
        self.origin = f"http://127.0.0.1:{port}"
        self.context: BrowserContext = browser.new_context(locale=language, **context)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.keys: list[str] = []
        self._sent: list[str] = []
        self._errors: list[str] = []
        self.page.on("requestfinished", lambda request: self._sent.append(request.url))
        self.page.on("requestfailed", self._note_failed)
        self.page.on("pageerror", lambda error: self._errors.append(str(error)))
        self.page.on("console", self._note_said)

    def open(self, path: str = "/console") -> Page:
        self.page.goto(self.origin + path)
        return self.page

    def close(self) -> None:
        self.context.close()
        hosts = {urlsplit(url).netloc for url in self._sent if url.startswith("http")}
        assert hosts <= {urlsplit(self.origin).netloc}, hosts
        assert not [url for url in self._sent for key in self.keys if key in url]
        assert not self._errors

    def _note_failed(self, request: Request) -> None:
        if request.failure != "csp":
            self._sent.append(request.url)

    def _note_said(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text and REFUSED_PICTURES not in message.text:
            self._errors.append(message.text)


Visits = Callable[..., Visit]


@contextmanager
def visits_of(browser: Browser, port: int) -> Iterator[Visits]:
    """Give a function that begins a Visit; all are closed, and held to what a Visit promises, at the end."""
    begun: list[Visit] = []

    def begin(**arguments: Any) -> Visit:
        begun.append(Visit(browser, port, **arguments))
        return begun[-1]

    yield begin
    for visit in begun:
        visit.close()
