"""Stored reports: whole or not there, one a generation, and none of a generation that is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.app.report.result import Report
from service.app.report.store import ReportStore
from tests.unit.test_report_gates import REPORT
from tests.unit.test_report_page import full

FULL = replace(full("갈비탕"), collection="recipes", after=REPORT.after, rehearsed={"exact": True})


@pytest.mark.parametrize("report", [REPORT, FULL])
def test_a_report_comes_back_as_it_was(tmp_path: Path, report: Report) -> None:
    store = ReportStore(tmp_path)
    store.save_report(report, ["g000001"])
    assert store.find_report("recipes", "g000001") == report
    assert [path.suffix for path in (tmp_path / "recipes").iterdir()] == [".json"]


def test_reports_of_generations_that_are_gone_go(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    for number in (2, 3):
        after = replace(REPORT.after, generation=f"g00000{number}")
        store.save_report(replace(REPORT, after=after), ["g000003"] if number == 3 else ["g000002"])
    assert store.find_report("recipes", "g000002") is None
    assert store.find_report("recipes", "g000003") is not None
    assert store.find_report("others", "g000003") is None


@pytest.mark.parametrize("data", [b"", b"no report", b'{"format_version":1}', b"\xff"])
def test_what_can_not_be_read_counts_as_none(tmp_path: Path, data: bytes) -> None:
    store = ReportStore(tmp_path)
    store.save_report(REPORT, ["g000001"])
    (file,) = (tmp_path / "recipes").iterdir()
    file.write_bytes(data)
    assert store.find_report("recipes", "g000001") is None


def test_a_report_of_another_format_counts_as_none(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    store.save_report(replace(REPORT, format_version=2), ["g000001"])
    assert store.find_report("recipes", "g000001") is None
