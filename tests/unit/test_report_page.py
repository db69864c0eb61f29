"""The report's page: whole, self-contained, and no value becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from service.app.report.gates import gate_results
from service.app.report.page import report_page
from service.app.report.reports import FoundReport
from service.app.report.result import ChangedQuery, Judged, Percentiles, Report, ShownHit, ShownIds, SlowQuery
from service.collections import Gates
from tests.unit.test_report_gates import REPORT, ROW

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"
VOID = {"meta", "meter", "rect", "line", "br"}


class Tags(HTMLParser):
    """Collects elements and texts, and checks that each element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    return tags


def full(word: str) -> Report:
    """A report in which `word` stands wherever a caller's or an item's words may."""
    hits = [ShownHit(word, 0.5, word, 2), ShownHit(f"{word}2", 0.6, "", None)]
    side = replace(REPORT.before, generation=word, embedding_version=word)
    return replace(
        REPORT,
        collection=word,
        before=side,
        after=side,
        sources={word: 3},
        skipped={word: 1},
        by_kind={word: ROW},
        by_language={word: replace(ROW, zero_new=2)},
        known_items={word: REPORT.known_items["text"]},
        judged=Judged(3, 0.8, 0.7, 1.0, 0.9),
        shown_ids=ShownIds(30, 30, 25, 25, [word] * 20, [word] * 20),
        zero_new=[word],
        changed=[ChangedQuery(word, word, word, 0.5, 0.5, hits, [])],
        timing=replace(
            REPORT.timing,
            made_at=word,
            before_ms=Percentiles(1, 2, 3, 4, 5),
            after_ms=Percentiles(1, 2, 3, 4, 5),
            slowest=[SlowQuery(word, 1.0, 2.0)],
        ),
    )


def page_of(report: Report, *, is_stale: bool = False) -> str:
    return report_page(FoundReport(report, gate_results(report, Gates()), is_stale))


def test_no_value_becomes_markup() -> None:
    tags = parsed(page_of(full(EVIL)))
    assert not {"script", "img", "a", "link", "iframe", "object"} & set(tags.names)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert sum(EVIL in text for text in tags.texts) >= 15, "it is shown as it is"


def test_the_page_asks_nobody_for_anything() -> None:
    page = page_of(full("갈비탕"))
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|\bhref=", page)
    assert "갈비탕" in page and '<meta charset="utf-8">' in page and "prefers-color-scheme: dark" in page


@pytest.mark.parametrize(
    "report", [REPORT, replace(REPORT, overall=None, by_kind={}, known_items={}), full("갈비탕")]
)
def test_every_report_has_a_page(report: Report) -> None:
    page = page_of(report, is_stale=True)
    parsed(page)
    assert "Something was written" in page
    gates = gate_results(report, Gates())
    assert all(gate.name in page for gate in gates)


def test_a_broken_gate_is_told_first() -> None:
    page = page_of(full("갈비탕"))
    assert "1 of 4 gates do not hold" in page and page.index("✕ broken") < page.index("Agreement")
