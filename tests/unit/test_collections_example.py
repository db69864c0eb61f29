"""The example of a collections file, as the service and the feeder read it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from feeder.read.text_template import rendered
from feeder.table_mapping import BUILT_IN, parse_collections
from service.collections import read_collections
from service.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "deploy" / "collections.example.toml"
ID_FIELDS = {
    "recipes": "recipe_id",
    "kok": "kok_product_id",
    "homeshopping": "product_id",
    "material": "material_id",
    "products": "product_id",
}


def test_service_and_feeder_read_the_same_collections() -> None:
    catalogue = read_collections(Settings(collections_file=EXAMPLE, text_model="builtin:hashed-ngrams"))
    assert {each.name: each.id_field for each in catalogue.collections} == ID_FIELDS
    assert catalogue.default.name == "recipes"
    by_field = catalogue.by_id_field("product_id")
    assert by_field is not None and by_field.name == "products"
    mistakes: list[str] = []
    tables = parse_collections(EXAMPLE.read_text("utf-8"), mistakes)
    assert not mistakes
    assert tables.keys() == ID_FIELDS.keys()
    for collection in catalogue.collections:
        table = tables[collection.name]
        assert (table.id_kind, table.modality, table.dim) == (
            collection.id_type, collection.modality, collection.dim,
        )  # fmt: skip


def test_each_text_collection_has_a_template_of_its_own() -> None:
    catalogue = read_collections(Settings(collections_file=EXAMPLE, text_model="builtin:hashed-ngrams"))
    texts = {each.name: each for each in catalogue.collections if each.modality == "text"}
    fields = {"title": "국", "description": "맑다", "ingredients": "무, 파", "name": "두부", "store": "콕"}
    made = {name: each.text_template.format(**fields) for name, each in texts.items()}
    assert made == {
        "recipes": "국: 맑다. 재료: 무, 파",
        "kok": "두부 콕",
        "homeshopping": "두부",
        "material": "두부",
    }
    assert all((each.dim, each.metric, each.id_type) == (384, "l2", "int64") for each in texts.values())


def test_built_in_recipes_are_made_alike_in_service_and_feeder() -> None:
    (recipes,) = [each for each in read_collections(Settings()).collections if each.name == "recipes"]
    assert recipes.text_template == tomllib.loads(BUILT_IN)["collections"]["recipes"]["text_template"]
    fields = {"title": "국", "description": "맑다", "ingredients": "무, 파"}
    assert rendered(recipes.text_template, fields) == "국: 맑다. 재료: 무, 파"
