"""`python -m service evaluate`: judgements and clicks put to a service, two settings compared, gates."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.ops.evaluate import add_evaluate
from tests.contract.test_http_report import AppCalls
from tests.http_app import DISHES, HttpApp, running_app, with_collections

pytestmark = pytest.mark.long

COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
lexical = ["title"]
[collections.pictures]
modality = "image"
dim = 512
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    """Recipes 0 to 9, a dish each, and 10 to 19 under titles of their own."""
    folder = tmp_path_factory.mktemp("evaluate")
    with running_app(folder / "data", with_collections(folder, COLLECTIONS)) as app:
        items = [
            {"recipe_id": number, "text": dish, "metadata": {"title": f"<b>{dish}", "price": number}}
            for number, dish in enumerate(DISHES)
        ]
        assert app.post("/v1/upsert", {"items": items}).status_code == 200
        yield app


def command(app: HttpApp, file: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    add_evaluate(parser.add_subparsers())
    given = parser.parse_args(["evaluate", str(file), *words])
    return int(given.run(given, AppCalls(app), None))


def judged(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "judged.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """Each dish by its name, and one as it is typed on the English keyboard, which no vector knows."""
    rows = [{"query": dish, "relevant": [number], "kind": "name"} for number, dish in enumerate(DISHES)]
    return judged(tmp_path, *rows, {"query": "rlaclWlro", "relevant": {"1": 2}, "kind": "keyboard"})


def document(app: HttpApp, capsys: pytest.CaptureFixture[str], file: Path, *words: str) -> tuple[int, Any]:
    code = command(app, file, *words, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_two_modes_are_compared_by_kind_and_language(
    app: HttpApp, names: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = document(app, capsys, names, "--mode", "hybrid", "--against", "mode=dense")
    assert code == 0 and found["collection"] == "recipes" and found["holds"]
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["all", "kind name", "kind keyboard", "korean", "english"]
    keyboard = rows["kind keyboard"]
    assert keyboard["measured"]["ndcg_at_10"]["mean"] == 1.0 > keyboard["against"]["ndcg_at_10"]["mean"]
    assert keyboard["change"]["mrr_at_10"]["mean"] > 0
    assert rows["kind name"]["measured"]["ndcg_at_10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert command(app, names, "--mode", "hybrid", "--against", "mode=dense") == 0
    shown = capsys.readouterr().out
    assert "recipes: 11 queries, mode=hybrid against mode=dense" in shown and "kind keyboard" in shown


def test_gates_tell_by_the_exit_code(app: HttpApp, names: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(app, names, "--mode", "hybrid", "--min-ndcg", "0.99") == 0
    assert "holds  ndcg_at_10_min" in capsys.readouterr().out
    assert command(app, names, "--mode", "dense", "--min-ndcg", "0.99") == 4
    assert "BROKEN ndcg_at_10_min" in capsys.readouterr().out
    lost = ("--mode", "dense", "--against", "mode=hybrid", "--max-loss", "0.001")
    assert command(app, names, *lost) == 4
    assert "BROKEN ndcg_loss_max" in capsys.readouterr().out
    assert command(app, names, "--mode", "hybrid", "--against", "mode=dense", "--max-loss", "0.001") == 0


def test_the_page_shows_what_changed_and_escapes_titles(
    app: HttpApp, names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = ("--mode", "lexical", "--against", "mode=dense", "--min-ndcg", "0.5", "--html", str(page))
    assert command(app, names, *words) == 0
    shown = page.read_text("utf-8")
    assert "recipes: how good its answers are" in shown and "All gates hold" in shown
    assert (
        "rlaclWlro</b>" in shown
        and "nDCG@10 0." in shown
        and "&lt;b&gt;김치찌개" in shown
        and "nan" not in shown
    )
    assert command(app, names, "--html", str(page)) == 0
    assert "Answered worst" in page.read_text("utf-8")
    capsys.readouterr()


def test_fields_of_a_line_and_empty_answers_count(
    app: HttpApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = judged(
        tmp_path,
        {"query": "갈비탕", "relevant": [0]},
        {"query": "갈비탕", "relevant": [0], "search": {"filter": {"price": {"$gt": 90}}}},
    )
    _, found = document(app, capsys, file, "--with", "max_distance=9")
    measured = found["rows"][0]["measured"]
    assert measured["zero_results"]["mean"] == 0.5 == measured["mrr_at_10"]["mean"]
    assert found["setting"]["fields"] == {"max_distance": 9} and found["against"] is None


def test_clicks_become_grades_and_say_so(
    app: HttpApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = judged(
        tmp_path,
        {"query": "갈비탕", "clicked": 0, "shown": [3, 0]},
        {"query": "갈비탕", "clicked": 3, "shown": [3, 0]},
    )
    assert command(app, file) == 0
    assert "grades from 2 clicks, by rank ** 1" in capsys.readouterr().out


def test_generations_are_asked_alike(app: HttpApp, names: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--collection", "recipes", "--with", "mode=lexical", "--against", "generation=current")
    code, found = document(app, capsys, names, *words)
    assert code == 0
    assert found["setting"] == {"fields": {"mode": "lexical"}, "generation": "current"}
    assert found["against"] == {"fields": {}, "generation": "current"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-loss", "0.1"], "--max-loss needs --against"),
        (["--with", "mode"], "must be NAME=VALUE"),
        (["--with", "top_k=3"], "top_k is what the command itself says"),
        (["--position-bias", "3"], "--position-bias must be 0 to 2"),
    ],
)
def test_what_is_not_asked_for_rightly(
    app: HttpApp, names: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert command(app, names, *words) == 2
    assert said in capsys.readouterr().err
    assert command(app, names.with_name("missing.jsonl")) == 2
