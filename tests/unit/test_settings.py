"""Settings and collections: bounds, all mistakes at once, misspelt names, and the documentation."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from service.collections import CLIP_MODEL, PLACEHOLDER_MODEL, read_collections
from service.errors import BadConfiguration
from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]


def mistakes_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(BadConfiguration) as caught:
        Settings.from_environ(environ)
    return list(caught.value.mistakes)


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environ({"PATH": "/bin", "PORT": "", "HOSTNAME": "a1b2"})
    assert settings == Settings()
    assert (settings.port, settings.workers, settings.default_top_k) == (8080, 1, 5)


def test_every_number_is_refused_outside_its_bounds_and_taken_at_them() -> None:
    checked = 0
    for setting in fields(Settings):
        bounds = re.fullmatch(r"(\d+) to (\d+)", setting.metadata["bounds"])
        if bounds is None:
            continue
        low, high = int(bounds[1]), int(bounds[2])
        name = variable(setting)
        for value in (low, high):
            assert getattr(Settings.from_environ({name: str(value)}), setting.name) == value
        for value in (str(low - 1), str(high + 1), "x", "1.5"):
            assert mistakes_of({name: value})[0].startswith(name)
        checked += 1
    assert checked > 20


def test_all_mistakes_come_in_one_message() -> None:
    found = mistakes_of({"PORT": "x", "WORKERS": "0", "ENABLE_CLIP": "maybe", "LOG_LEVEL": "loud"})
    assert [mistake.split()[0] for mistake in found] == ["PORT", "WORKERS", "ENABLE_CLIP", "LOG_LEVEL"]


@pytest.mark.parametrize(
    "name", ["WORKER", "DATADIR", "COLLECTION_FILE", "SEARCH_API_KEYS", "UPSERT_MAX", "EMBED_SIZE"]
)
def test_a_misspelt_name_stops_the_start(name: str) -> None:
    assert mistakes_of({name: "1"})[0].startswith(f"{name} is not a setting")


def test_names_of_others_are_left_alone() -> None:
    environ = {
        "SRC_DB_HOST": "a", "TGT_DB_PASS": "b", "ML_TIMEOUT": "3.0", "MARIADB_SERVICE_URL": "c",
        "SEARCH_SERVICE_HOST": "10.0.0.1", "SEARCH_PORT": "tcp://10.0.0.1:80", "SEARCH_PORT_80_TCP": "x",
    }  # fmt: skip
    assert Settings.from_environ(environ) == Settings()


def test_a_key_never_shows_in_a_message_or_a_repr() -> None:
    settings = Settings.from_environ({"WRITE_API_KEY": "correct-horse,old-battery"})
    assert settings.write_api_key == ("correct-horse", "old-battery")
    assert "horse" not in repr(settings)
    assert "secret" not in mistakes_of({"WRITE_API_KEY": "secret"})[0]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://shop:hunter2@10.0.0.7:5432/vectors",
        "postgres://shop:h%40nter%2F2@[::1]/vectors?sslmode=verify-full",
        "postgresql://a,b:5433/vectors?options=-csearch_path%3Dshop&target_session_attrs=read-write",
        "postgresql:///vectors?host=/run/postgresql",
    ],
)
def test_an_index_url_is_taken_and_never_shows(url: str) -> None:
    settings = Settings.from_environ({"INDEX_URL": url})
    assert settings.index_url == url
    assert url not in repr(settings) and "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://shop:hunter2@db/vectors",
        "hunter2",
        "postgresql://shop:hunter2/x@db/vectors",
        "postgresql://shop:12/hunter2@db/vectors",
        "postgresql://shop:hunter2@x@db/vectors",
        "postgresql://shop:hunter2#@db/vectors",
        "postgresql://shop:hunter2?x=y@db/vectors",
        "postgresql://shop:12?hunter2@db/vectors",
        "postgresql://shop:hunter2%zz@db/vectors",
        "postgresql://db:port/hunter2",
        "postgresql://db/vectors?password",
    ],
)
def test_no_part_of_a_wrong_index_url_is_told(url: str) -> None:
    (mistake,) = mistakes_of({"INDEX_URL": url})
    assert mistake.startswith("INDEX_URL must be postgresql://")
    assert "hunter2" not in mistake and "shop" not in mistake


def test_a_path_is_no_address() -> None:
    assert mistakes_of({"DATA_DIR": "postgresql://shop:hunter2@db/vectors"}) == [
        "DATA_DIR must be a path, got an address"
    ]


def test_a_name_of_a_key_stands_once_in_a_list() -> None:
    one, two = "feeder:0123456789abcdef", "feeder:fedcba9876543210"
    (mistake,) = mistakes_of({"WRITE_API_KEY": f"{one},{two}"})
    assert "'feeder' twice" in mistake and "0123" not in mistake
    assert Settings.from_environ({"WRITE_API_KEY": one, "ADMIN_API_KEY": two}).write_api_key == (one,)
    assert mistakes_of({"ADMIN_API_KEY": "ops:change-me-0123456"})[0].startswith(
        "ADMIN_API_KEY is the key of"
    )


def test_keys_that_everybody_can_read_are_refused_outside_loopback() -> None:
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text("utf-8").splitlines()
        if re.match(r"\w+_API_KEY=", line)
    )
    assert set(example) == {"WRITE_API_KEY", "ADMIN_API_KEY"}
    for name, key in example.items():
        assert mistakes_of({name: key})[0].startswith(f"{name} is the key of .env.example")
        assert mistakes_of({name: f"correct-horse,{key.upper()}", "HOST": "10.0.0.1"})
        for host in ("127.0.0.1", "::1", "localhost"):
            assert Settings.from_environ({name: key, "HOST": host}).host == host


def test_who_may_call_in_words() -> None:
    open_one = Settings.from_environ({"KEYLESS_WRITES": "loopback"}).access()
    assert open_one["write"] == open_one["admin"] == "every program on this machine, a proxy included"
    assert Settings().access()["write"] == "nobody: no key is set"
    written = Settings.from_environ({"ADMIN_API_KEY": "correct-horse"}).access()
    assert written == {"search": written["search"], "write": "who sends a key", "admin": "who sends a key"}


def test_documentation_lists_exactly_the_settings() -> None:
    document = (ROOT / "docs/SETTINGS.md").read_text("utf-8")
    table = document.partition("<!-- service settings")[2].partition("<!-- end of service settings -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    documented = {row[0].strip("`"): tuple(row[1:]) for row in rows}
    assert documented == {
        variable(setting): (
            setting.metadata["unit"],
            "unset" if setting.default in (None, (), "") else str(setting.default),
            setting.metadata["bounds"].replace("|", "or") or "any",
            setting.metadata["meaning"],
        )
        for setting in fields(Settings)
    }


def test_built_in_collections() -> None:
    recipes, products = read_collections(Settings()).collections
    assert (recipes.id_field, recipes.id_type, recipes.dim, recipes.metric) == (
        "recipe_id",
        "int64",
        384,
        "l2",
    )
    assert (products.id_field, products.id_type, products.dim, products.metric) == (
        "product_id",
        "string",
        512,
        "l2",
    )
    assert recipes.model.startswith("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2@")


def test_the_environment_chooses_the_models() -> None:
    environ = {"TEXT_MODEL": "builtin:multilingual-e5-small", "EMBED_DIM": "256"}
    recipes, products = read_collections(Settings.from_environ(environ)).collections
    assert (recipes.model, products.dim) == ("builtin:multilingual-e5-small", 256)
    assert read_collections(Settings(enable_clip=True)).collections[1].model == CLIP_MODEL
    assert read_collections(Settings(enable_clip=False)).collections[1].model == PLACEHOLDER_MODEL


def test_a_collections_file_is_the_whole_list(tmp_path: Path) -> None:
    file = tmp_path / "collections.toml"
    file.write_text(
        '[collections.recipes]\ntext_template = "{title}"\n'
        '[collections.recipes.source.vectors]\ntable = "x"\n'
        '[collections.kok_products]\nid_field = "kok_product_id"\n'
        'model = "builtin:hashed-ngrams"\ndefault = true\n'
    )
    catalogue = read_collections(Settings(collections_file=file))
    recipes, kok = catalogue.collections
    assert (recipes.id_field, recipes.text_template, recipes.dim) == ("recipe_id", "{title}", 384)
    assert (kok.id_field, kok.id_type, catalogue.default, catalogue.default_of("text")) == (
        "kok_product_id",
        "int64",
        kok,
        kok,
    )
    assert catalogue.default_of("image") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "at least one"),
        ("collections = 3", "at least one"),
        ("x = ", "is not TOML"),
        ("[collections.a]\n[other]\n", "unknown key 'other'"),
        ("[collections.a]\ndims = 3\n", "unknown key 'dims'"),
        ("[collections.a]\ndim = 0\n", "dim must be 1 to 4096"),
        ("[collections.a]\ndim = true\n", "dim must be a int"),
        ('[collections.a]\nmetric = "dot"\n', "metric must be one of"),
        ('[collections.a]\nid_field = "distance"\n', "not a usable field name"),
        ('[collections.a]\nid_field = "confidence"\n', "not a usable field name"),
        ('[collections.a]\nconfidence = "missing.json"\n', "missing.json can't be read"),
        ("[collections.a]\ngood_match_min = 1.5\n", "good_match_min must be 0 to 1"),
        ("[collections.A]\n", "a name has"),
        ("[collections.a]\ndefault=true\n[collections.b]\ndefault=true\n", "only one text collection"),
    ],
)
def test_a_wrong_collections_file_is_refused_by_name(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "collections.toml"
    file.write_text(text)
    with pytest.raises(BadConfiguration, match=re.escape(expected)):
        read_collections(Settings(collections_file=file))
    with pytest.raises(BadConfiguration, match="can't be read"):
        read_collections(Settings(collections_file=tmp_path / "missing.toml"))
