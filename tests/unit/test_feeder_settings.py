"""The feeder's environment and collection tables: what is read, and every mistake in one message."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import pytest

from feeder.errors import SettingsWrong
from feeder.settings import Bounds, Settings
from feeder.sources.rows import IdCodec
from feeder.table_mapping import BUILT_IN, COLLECTION_KEYS, parse_collections, parse_identifier
from service.collections import Collection, read_collections
from service.errors import BadConfiguration
from service.settings import Settings as ServiceSettings

TARGET = {"TGT_DB_NAME": "shop", "TGT_DB_USER": "reader", "TGT_DB_PASS": "p@ss"}


def test_the_built_in_collections_are_the_deployed_tables() -> None:
    settings = Settings.from_environ({})
    recipes, products = settings.collections["recipes"], settings.collections["products"]
    assert (recipes.vectors.table, recipes.vectors.key) == (("RECIPE_VECTOR_TABLE",), "VECTOR_ID")
    assert (recipes.id_kind, recipes.dim, products.id_kind, products.dim) == ("int64", 384, "string", 512)
    assert recipes.vectors.text_template == "{title}", "a template whose fields the source lacks was not used"
    assert settings.service_url == "http://127.0.0.1:8080"
    assert settings.vectors is None


def test_both_spellings_of_a_database_are_read() -> None:
    by_parts = Settings.from_environ({**TARGET, "TGT_DB_HOST": "db", "TGT_DB_PORT": "5433"}).vectors
    by_url = Settings.from_environ(
        {"POSTGRES_RECOMMEND_URL": "postgresql+asyncpg://reader:p%40ss@db:5433/shop"}
    ).vectors
    assert by_parts == by_url
    assert str(by_url) == "postgresql://reader@db:5433/shop", "the password stays out of messages"
    assert "p@ss" not in repr(by_url)
    maria = Settings.from_environ({"MARIADB_SERVICE_URL": "mysql+asyncmy://u:p@m/svc"}).mariadb
    assert maria is not None
    assert (maria.engine, maria.port) == ("mariadb", 3306)


def test_all_mistakes_come_in_one_message(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[collections.x]\nid_type = "uuid"\ndim = 0\n'
        '[collections.x.source.vectors]\ntable = "a..b"\n[collections.x.source.items]\n',
        encoding="utf-8",
    )
    environ = {
        "COLLECTIONS_FILE": str(file), "TGT_DB_HOST": "db", "TGT_DB_PORT": "0", "BATCH_SIZE": "5001",
        "FEEDER_PAGE_ROWS": "many", "FEEDER_PAGEROWS": "5", "ML_INFERENCE_URL": "localhost:80",
        "MARIADB_SERVICE_URL": "redis://x", "FEEDER_IMAGE_NETWORKS": "10.0.0.0/40",
    }  # fmt: skip
    with pytest.raises(SettingsWrong) as failure:
        Settings.from_environ(environ)
    message = str(failure.value)
    for expected in (
        "TGT_DB_NAME, TGT_DB_USER: missing", "TGT_DB_PORT", "BATCH_SIZE: 1..5000 items is needed, got '5001'",
        "FEEDER_PAGE_ROWS", "FEEDER_PAGEROWS: unknown; did you mean FEEDER_PAGE_ROWS?",
        "ML_INFERENCE_URL", "MARIADB_SERVICE_URL",
        "FEEDER_IMAGE_NETWORKS", "collections.x.id_type", "collections.x.dim",
        "collections.x.source.vectors.table",
        "collections.x.source.items.table",
    ):  # fmt: skip
        assert expected in message


@pytest.mark.parametrize("bound", fields(Bounds), ids=lambda bound: bound.name)
def test_every_bound_holds_at_its_ends(bound: object) -> None:
    about = bound.metadata  # type: ignore[attr-defined]
    for value in (about["low"], about["high"]):
        Settings.from_environ({about["env"]: str(value)})
    for value in (about["low"] - 1, about["high"] + 1, "nan"):
        with pytest.raises(SettingsWrong, match=about["env"]):
            Settings.from_environ({about["env"]: str(value)})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("FCT_RECIPE", ("FCT_RECIPE",)),
        ('"RECIPE_ID"', ("RECIPE_ID",)),
        ('mall."Weird ""name"". here"', ("mall", 'Weird "name". here')),
        ("`order`.`a``b`", ("order", "a`b")),
    ],
)
def test_names_are_taken_as_written(text: str, parts: tuple[str, ...]) -> None:
    assert parse_identifier(text) == parts


@pytest.mark.parametrize("text", ["", "a b", 'a"; DROP TABLE x', ".a", "a.", '"a', "a..b"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a table"):
        parse_identifier(text)


def test_items_say_which_database_when_there_are_two() -> None:
    both = {"SRC_DB_NAME": "mall", "SRC_DB_USER": "u", "MARIADB_SERVICE_URL": "mysql://u:p@m/svc"}
    settings = Settings.from_environ(both)
    with pytest.raises(SettingsWrong, match="are both set") as caught:
        settings.items_database(settings.collections["recipes"])
    assert "database" in caught.value.hint
    only = Settings.from_environ({"MARIADB_SERVICE_URL": "mysql://u:p@m/svc"})
    assert only.items_database(only.collections["recipes"]) == only.mariadb
    none = Settings.from_environ({})
    with pytest.raises(SettingsWrong, match="SRC_DB"):
        none.items_database(none.collections["recipes"])


def test_a_template_may_only_name_what_the_source_has() -> None:
    mistakes: list[str] = []
    text = """
    [collections.x]
    id_type = "int64"
    modality = "text"
    dim = 3
    text_template = "{title} {ingredients}"
    [collections.x.source.vectors]
    table = "v"
    id = "id"
    vector = "v"
    text_template = "{name}"
    [collections.x.source.items]
    table = "i"
    id = "id"
    content = { title = "t", ingredients = "g" }
    """
    parse_collections(text, mistakes)
    assert len(mistakes) == 1
    assert "text_template" in mistakes[0]
    mistakes.clear()
    found = parse_collections(text.replace('text_template = "{name}"', ""), mistakes)
    assert not mistakes
    assert found["x"].vectors.text_template == "{title} {ingredients}"
    assert found["x"].vectors.key == "id", "without a key the id column orders the pages"


def test_ids_of_numbers_and_texts_meet() -> None:
    text_over_int = IdCodec("string", column_is_int=True)
    assert [text_over_int.to_column(item) for item in ("7", "007", "x", str(2**63))] == [7, None, None, None]
    assert text_over_int.from_column(7) == "7"
    int_over_text = IdCodec("int64", column_is_int=False)
    assert [int_over_text.from_column(value) for value in ("7", "007", "x", None)] == [7, None, None, None]
    assert IdCodec("int64", column_is_int=False).from_column(Decimal("7")) == 7


def test_a_collection_named_like_a_built_in_starts_from_its_values() -> None:
    mistakes: list[str] = []
    found = parse_collections('[collections.products]\nmodel = "builtin:descriptor"\n', mistakes)
    assert not mistakes
    assert found == {"products": parse_collections(BUILT_IN, mistakes)["products"]}


def test_the_page_of_settings_says_what_the_fields_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "SETTINGS.md").read_text(encoding="utf-8")
    rows = [
        f"| `{about['env']}` | {bound.default:,} | {about['low']:,} to {about['high']:,} | {about['unit']}"
        f" {about['says']} |"
        for bound in fields(Bounds)
        for about in [bound.metadata]
    ]
    section = page.split("<!-- feeder bounds")[1].split("<!-- end")[0]
    assert [line for line in section.splitlines() if line.startswith("| `")] == rows


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[collection.x]\ndim = 3", "COLLECTIONS_FILE: collection: unknown; did you mean collections?"),
        ("[collections]\nx = 3", "collections.x: a table is needed, got 3"),
        ("collections = 3", "tables [collections.NAME] are needed"),
        ("[collections.products]\nmodell = 'm'", "collections.products.modell: unknown; did you mean model?"),
        ("[collections.x]\nsorce = {}", "collections.x.sorce: unknown; did you mean source?"),
        ("[collections.x]\nzzz = 1", "collections.x.zzz: unknown; known are id_field, id_type"),
        ("[collections.x.source.vector]\ntable = 't'", "source.vector: unknown; did you mean vectors?"),
        ("[collections.x]\nsource = 'here'", "collections.x.source: vectors and items are tables"),
        ("[collections.x.source.vectors]\ntabel = 't'", "source.vectors.tabel: unknown; did you mean table?"),
        ("[collections.x.source.items]\nactiv = 'a'", "source.items.activ: unknown; did you mean active?"),
        ("[collections.x.source.vectors]\nkey = ['a', 'b']", "source.vectors.key: one column is needed"),
        ("[collections.x.source.vectors]\nkey = 'a, b'", "name one of its columns"),
        ("[collections.x", "COLLECTIONS_FILE: not TOML"),
    ],
)
def test_a_mistake_in_the_file_names_the_key_and_the_nearest_known_one(text: str, says: str) -> None:
    mistakes: list[str] = []
    parse_collections(text, mistakes)
    assert any(says in mistake for mistake in mistakes), mistakes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[collection.x]\ndim = 3", "unknown key 'collection'; did you mean 'collections'?"),
        ("[collections.x]\nmodell = 'm'", "unknown key 'modell'; did you mean 'model'?"),
        ("[collections.x]\nzzz = 1", "unknown key 'zzz'; known: id_field"),
    ],
)
def test_the_service_says_the_same_of_its_part(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadConfiguration) as failure:
        read_collections(ServiceSettings.from_environ({"COLLECTIONS_FILE": str(file)}))
    assert says in str(failure.value)


def test_service_and_feeder_know_the_same_keys_of_a_collection() -> None:
    """The one reads the other's part of the file."""
    known = {field.name for field in fields(Collection)} - {"name"} | {"source"}
    assert known == set(COLLECTION_KEYS)
