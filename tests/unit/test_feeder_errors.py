"""Each way to stop says when, and what helps; people and programs get it apart from what is wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from feeder import errors
from feeder.__main__ import main
from feeder.errors import BrakeOn, FeederError, ServiceDown, SettingsWrong
from feeder.sink.brake import Brake
from feeder.sink.writer import service_errors
from vector_client.errors import BadRequest, Conflict, KeyRefused, NoAnswer, Unavailable, VectorClientError

LEAVES = [each for each in vars(errors).values() if isinstance(each, type) and each is not FeederError]


@pytest.mark.parametrize("kind", LEAVES)
def test_every_error_says_when_it_is_raised_and_what_helps(kind: type[FeederError]) -> None:
    assert kind.__doc__ and kind.__doc__.startswith(("Raised ", "The outcome of"))
    assert kind("what").hint and kind("what", hint="do this").hint == "do this"
    assert str(kind("what", hint="do this")) == "what"
    assert kind.__name__ in str(errors.__doc__)


def test_the_hint_of_the_service_is_the_feeder_s() -> None:
    helps = "python -m index_store restore /b --to /data"
    refusals: list[VectorClientError] = [
        Unavailable(503, "store_damaged", "page 7", hint=helps),
        Conflict(409, "version_mismatch", "other", hint=helps),
        KeyRefused(401, "unauthorized", "no key", hint=helps),
        BadRequest(422, "invalid_request", "what", hint=helps),
    ]
    for refusal in refusals:
        with pytest.raises(FeederError) as caught, service_errors():
            raise refusal
        assert caught.value.hint == helps
    with pytest.raises(ServiceDown) as caught, service_errors():
        raise NoAnswer("gone")
    assert caught.value.hint == ServiceDown.usual_hint


def test_the_brake_says_what_helps_apart_from_why() -> None:
    with pytest.raises(BrakeOn, match="would vanish") as caught:
        Brake(5.0).check(vanishing=51, held=1000, in_source=1)
    assert "reconcile --force" in caught.value.hint and "reconcile" not in str(caught.value)


def test_people_see_the_hint_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FEEDER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("FEEDER_PAGE_ROWS", "many")
    assert main(["verify"]) == SettingsWrong.exit_code
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("SettingsWrong: FEEDER_PAGE_ROWS") and second.strip() == SettingsWrong.usual_hint


TABLES = """
[collections.recipes]
id_field = "recipe_id"
id_type = "int64"
modality = "text"
dim = 384
[collections.recipes.source.items]
table = "recipe"
id = "id"
content = { title = "title" }

[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 8
[collections.products.source.vectors]
table = "product_vector"
key = "key"
id = "id"
vector = "vector"
"""


@pytest.mark.parametrize(
    ("command", "name", "helps"),
    [
        ("import", "recipes.next", "python -m feeder reconcile recipes.next"),
        ("sync", "recipes.next", "python -m feeder reconcile recipes.next"),
        ("reconcile", "products.next", "source.next of products"),
        ("import", "products.next", "source.next of products"),
        ("reconcile", "shops.next", "add source tables"),
    ],
)
def test_a_next_generation_that_a_command_cannot_take_is_told_with_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
    name: str,
    helps: str,
) -> None:
    (tmp_path / "collections.toml").write_text(TABLES)
    monkeypatch.setenv("COLLECTIONS_FILE", str(tmp_path / "collections.toml"))
    monkeypatch.setenv("FEEDER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("POSTGRES_DSN", "postgresql://127.0.0.1:1/none")
    assert main([command, name]) == SettingsWrong.exit_code
    assert helps in capsys.readouterr().err


def test_programs_get_it_as_a_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FEEDER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("FEEDER_PAGE_ROWS", "many")
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = []  # basicConfig does nothing where there are handlers
    try:
        assert main(["verify", "--log-json"]) == SettingsWrong.exit_code
    finally:
        root.handlers[:] = before
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert line["event"] == "feeder_stopped" and line["hint"] == SettingsWrong.usual_hint
