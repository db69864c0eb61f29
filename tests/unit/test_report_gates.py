"""Gates, their worst kind, and their configuration; the language of a query."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.app.report.compare import distance_shift, rank_moves, shown_ids
from service.app.report.gates import failing, gate_results
from service.app.report.queries import language_of
from service.app.report.result import (
    FORMAT_VERSION,
    Agreement,
    ComparedGeneration,
    Judged,
    KnownItems,
    Report,
    ReportTiming,
)
from service.collections import Gates, read_collections
from service.errors import BadConfiguration
from service.settings import Settings

ROW = Agreement(100, 0.9, 0.8, 0.8, 0.85, 0, 0, 0)
SIDE = ComparedGeneration("g000001", "a", 1, 1)
REPORT = Report(
    FORMAT_VERSION, "recipes", SIDE, SIDE, {}, "", {}, ROW, {"text": ROW}, {},
    {"text": KnownItems(100, 1.0, 0.98)}, None, distance_shift([]), shown_ids([]), [0] * 11, rank_moves([]),
    [], [], ReportTiming("", 0.0, None, None, []),
)  # fmt: skip


def broken(report: Report, gates: Gates) -> list[tuple[str, str]]:
    return [(each.name, each.kind) for each in failing(gate_results(report, gates))]


def test_the_worst_kind_decides() -> None:
    shuffled = replace(ROW, overlap_at_10=0.02)
    report = replace(REPORT, by_kind={"id": ROW, "picture": shuffled, "text": replace(shuffled, queries=9)})
    gates = Gates(overlap_at_10_min=0.3)
    assert broken(report, gates) == [("overlap_at_10_min", "picture")]
    assert broken(REPORT, gates) == []
    known = {"picture": KnownItems(50, 1.0, 0.3), "text": KnownItems(50, 1.0, 1.0)}
    (outcome,) = failing(gate_results(replace(REPORT, known_items=known), Gates()))
    assert outcome.sentence == "known_item_loss_max is 0.7 for picture queries, at most 0.05 is wanted"


def test_kinds_of_few_queries_count_in_the_whole() -> None:
    few = replace(ROW, queries=9, overlap_at_10=0.0)
    report = replace(REPORT, overall=replace(ROW, overlap_at_10=0.4), by_kind={"text": ROW, "picture": few})
    assert broken(report, Gates(overlap_at_10_min=0.5)) == [("overlap_at_10_min", "")]


def test_at_its_limit_a_gate_holds_and_beyond_it_does_not() -> None:
    judged = Judged(10, 0.8, 0.78, 1.0, 1.0)
    assert broken(replace(REPORT, judged=judged), Gates()) == []
    assert broken(replace(REPORT, judged=replace(judged, ndcg_at_10_after=0.77)), Gates()) == [
        ("ndcg_loss_max", "")
    ]
    assert broken(replace(REPORT, overall=replace(ROW, zero_new=1)), Gates()) == [("zero_results_max", "")]
    assert broken(replace(REPORT, overall=replace(ROW, zero_new=1)), Gates(zero_results_max=1)) == []
    assert broken(REPORT, Gates(overlap_at_10_min=0.8)) == []


def test_what_could_not_be_measured_holds() -> None:
    empty = replace(REPORT, overall=None, by_kind={}, known_items={})
    results = gate_results(empty, Gates(overlap_at_10_min=1.0))
    assert [(each.value, each.holds) for each in results] == [(None, True)] * 4


def test_limits_are_configured_by_collection(tmp_path: Path) -> None:
    file = tmp_path / "collections.toml"
    settings = Settings.from_environ({"COLLECTIONS_FILE": str(file)})
    file.write_text(
        "[collections.recipes.gates]\noverlap_at_10_min = 0.4\nzero_results_max = 3\n[collections.a]\n"
    )
    found = read_collections(settings)
    assert [each.gates for each in found.collections] == [
        Gates(overlap_at_10_min=0.4, zero_results_max=3),
        Gates(),
    ]


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("overlap_min = 0.4", "gates: unknown key 'overlap_min'; did you mean 'overlap_at_10_min'?"),
        ("overlap_at_10_min = 1.5", "gates: overlap_at_10_min must be a number from 0 to 1"),
        ("ndcg_loss_max = true", "gates: ndcg_loss_max must be a number from 0 to 1"),
        ("zero_results_max = 0.5", "gates: zero_results_max must be a whole number from 0"),
    ],
)
def test_a_wrong_limit_stops_the_start(tmp_path: Path, line: str, mistake: str) -> None:
    file = tmp_path / "collections.toml"
    file.write_text(f"[collections.recipes.gates]\n{line}\n")
    with pytest.raises(BadConfiguration) as caught:
        read_collections(Settings.from_environ({"COLLECTIONS_FILE": str(file)}))
    assert caught.value.mistakes[0].endswith(mistake)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("김치찌개 1kg", "korean"),
        ("LG 냉장고 신형", "korean"),
        ("beef stew", "english"),
        ("crème brûlée", "english"),
        ("肉じゃが", "other"),
        ("42 !", "other"),
        ("tv 티비", "korean"),
    ],
)
def test_the_script_of_most_letters_is_the_language(text: str, language: str) -> None:
    assert language_of(text) == language
