"""Judgements and clicks of a file, and what they say of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.app.report.ranking_metrics import interval_of_means, reciprocal_rank_at
from service.ops.evaluation import gate_results, measures_of, qualities
from service.ops.judgement_file import JudgedSearch, read_judgements


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "judged.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", "utf-8")
    return path


def test_judgements_of_one_question_are_joined(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"query": "국", "relevant": [7, "b"], "kind": "name"},
        {"query": "국", "grades": {"7": 3, "9": 0}, "kind": "name"},
        {"query": "국", "relevant": {"7": 2}, "search": {"filter": {"price": 1}}, "language": "ko"},
    )
    found = read_judgements(path, 1.0)
    assert found.clicks == 0
    assert found.searches == [
        JudgedSearch("국", {"7": 3.0, "b": 1.0, "9": 0.0}, "name"),
        JudgedSearch("국", {"7": 2.0}, language="ko", fields={"filter": {"price": 1}}),
    ]


def test_a_click_far_down_counts_for_more_unless_bias_is_nought(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"query": "국", "clicked": 5, "shown": [5, 6, 7]},
        {"query": "국", "clicked": 7, "shown": [5, 6, 7]},
        {"query": "국", "clicked": [5], "rank": 1},
        {"query": "국", "clicked": 8, "rank": 400},
    )
    found = read_judgements(path, 1.0)
    assert found.clicks == 4
    assert found.searches[0].grades == {"5": 0.2, "7": 0.3, "8": 1.0}
    assert read_judgements(path, 0.0).searches[0].grades == {"5": 1.0, "7": 0.5, "8": 0.5}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], "must be an object"),
        ({"relevant": [1]}, "query must be a text"),
        ({"query": " ", "relevant": [1]}, "query must be a text"),
        ({"query": "국"}, "must have relevant"),
        ({"query": "국", "relevant": [1], "grades": {"1": 1}}, "must have relevant"),
        ({"query": "국", "relevant": []}, "must be ids, or an object"),
        ({"query": "국", "relevant": 3}, "must be ids, or an object"),
        ({"query": "국", "relevant": [1.5]}, "an id must be"),
        ({"query": "국", "relevant": {"1": 0}}, "a grade above 0"),
        ({"query": "국", "relevant": {"1": "2"}}, "a grade must be a number"),
        ({"query": "국", "relevant": {"1": True}}, "a grade must be a number"),
        ({"query": "국", "relevant": {str(id): 1 for id in range(1001)}}, "more than 1000 ids"),
        ({"query": "국", "relevant": [1], "search": 3}, "search must be an object"),
        ({"query": "국", "clicked": []}, "clicked must name an id"),
        ({"query": "국", "clicked": 3, "shown": [1, 2]}, "clicked 3 is not among shown"),
        ({"query": "국", "clicked": 3, "shown": 3}, "shown must be ids"),
        ({"query": "국", "clicked": 3, "rank": 0}, "rank must be a whole number"),
        ({"query": "국", "clicked": 3}, "judgements and clicks"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, said: str) -> None:
    path = written(tmp_path, {"query": "밥", "relevant": [1]}, row)
    with pytest.raises(ValueError, match=said) as caught:
        read_judgements(path, 1.0)
    assert f"{path}:2: " in str(caught.value)


def test_no_json_and_no_line_are_told(tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    path.write_text('{"query"', "utf-8")
    with pytest.raises(ValueError, match=r"jsonl:1: "):
        read_judgements(path, 1.0)
    path.write_text("\n\n", "utf-8")
    with pytest.raises(ValueError, match="has no line"):
        read_judgements(path, 1.0)


def test_measures_of_one_answer() -> None:
    grades = {"a": 1.0, "b": 1.0, "c": 0.0}
    assert measures_of(["a", "b"], grades) == (1.0, 1.0, 1.0, 0.0)
    assert measures_of([], grades) == (0.0, 0.0, 0.0, 1.0)
    ndcg, recall, reciprocal, is_empty = measures_of(["c", "x", "b"], grades)
    assert (recall, reciprocal, is_empty) == (0.5, 1 / 3, 0.0) and 0 < ndcg < 0.5
    assert reciprocal_rank_at(2, ["c", "x", "b"], grades) == 0.0


def test_intervals_hold_the_mean_and_narrow_with_more_queries() -> None:
    few, many = (np.tile([[0.0, 0.5], [1.0, 0.5]], (n, 1)) for n in (10, 1000))
    low, high = interval_of_means(few)
    assert low[0] < 0.5 < high[0] and low[1] == pytest.approx(0.5) == high[1]
    assert np.ptp(interval_of_means(many)[:, 0]) < 0.2 * (high[0] - low[0])
    assert (interval_of_means(few) == interval_of_means(few)).all()


def searches(count: int, kind: str) -> list[JudgedSearch]:
    return [JudgedSearch(f"국 {place}", {"a": 1.0}, kind) for place in range(count)]


def test_kinds_and_languages_have_rows_and_changes() -> None:
    asked = [
        *searches(2, "name"),
        JudgedSearch("soup", {"a": 1.0}, language="en"),
        JudgedSearch("x", {"a": 1.0}),
    ]
    rows = qualities(asked, [["a"], ["a"], [], ["b", "a"]], [["a"], [], [], ["a"]])
    by_name = {row.name: row for row in rows}
    assert list(by_name) == ["all", "kind name", "korean", "en", "english"]
    assert by_name["all"].queries == 4 and by_name["all"].measured["zero_results"].mean == 0.25
    name = by_name["kind name"]
    assert name.against is not None and name.change is not None
    assert (name.measured["mrr_at_10"].mean, name.against["mrr_at_10"].mean) == (1.0, 0.5)
    assert name.change["ndcg_at_10"].mean == 0.5
    assert qualities(asked, [[]] * 4, None)[0].change is None


def test_a_broken_kind_breaks_the_gate_behind_a_good_mean() -> None:
    asked = [*searches(50, "name"), *searches(200, "rest"), *searches(49, "few")]
    before = [["a"]] * 50 + [["b"]] * 200 + [["a"]] * 49
    after = [["b", "a"]] * 50 + [["a"]] * 200 + [["b"]] * 49
    rows = qualities(asked, after, before)
    ndcg, loss = gate_results(rows, 0.7, 0.01)
    assert ndcg.holds and ndcg.value == pytest.approx(0.7743, abs=1e-3)
    assert not loss.holds and (loss.kind, loss.value) == ("kind name", pytest.approx(0.3691, abs=1e-3))
    assert gate_results(rows, None, None) == []
    assert not gate_results(rows, 0.99, None)[0].holds
