"""The demo catalogue: the same on every call, varied, and drawn fast enough for a first start."""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.types import Ack
from service.app.ingest import Intake
from service.collections import Catalogue, Collection
from service.demo import shapes
from service.demo.catalogue import CATEGORIES, DemoPictures, Product, products, recipes
from service.demo.greeting import QUERY_PICTURE, greeting
from service.demo.loading import keep_pictures, load_demo
from service.demo.pictures import COLOURS, PATTERNS, PIXELS, draw
from service.embedding.text import normalise_text
from service.errors import Reject
from tests.http_app import running_app

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def drawn() -> list[Product]:
    return list(products())


def test_recipes_are_whole_and_varied() -> None:
    dishes = recipes()
    assert 140 <= len(dishes) <= 170
    assert len({dish.recipe_id for dish in dishes}) == len({dish.title for dish in dishes}) == len(dishes)
    assert len(Counter(dish.category for dish in dishes)) >= 10
    for dish in dishes:
        assert dish.recipe_id > 0
        assert 5 <= dish.minutes <= 300
        assert len(dish.description) >= 15
        assert 4 <= len(dish.ingredients) <= 8
        assert all(part == part.strip() != "" for part in dish.ingredients)
        assert re.search("[가-힣]", dish.title)
        for text in (dish.title, dish.description, *dish.ingredients):
            assert text == normalise_text(text), f"{dish.title}: not in NFC"


def test_every_shape_comes_in_every_colour(drawn: list[Product]) -> None:
    assert len(drawn) == len(COLOURS) * len(CATEGORIES) == 150
    assert [product.product_id for product in drawn[:2]] == ["P0001", "P0002"]
    assert len({product.product_id for product in drawn}) == 150
    assert len({product.name for product in drawn}) == 150
    assert {product.pattern for product in drawn} == {pattern.name for pattern in PATTERNS}
    assert all(product.image_url == f"/demo/{product.product_id}.jpg" for product in drawn)


def test_pictures_are_jpegs_of_one_size_and_all_different(drawn: list[Product]) -> None:
    for product in drawn:
        with Image.open(io.BytesIO(product.jpeg)) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (PIXELS, PIXELS), "RGB")
    assert len({product.jpeg for product in drawn}) == 150
    assert sum(len(product.jpeg) for product in drawn) < 4_000_000


def test_pictures_show_their_colour_on_a_light_ground(drawn: list[Product]) -> None:
    """A product fills a fair part of its picture; the corners are ground."""
    for product in drawn:
        pixels = np.asarray(Image.open(io.BytesIO(product.jpeg)), dtype=np.int16)
        corners = pixels[[2, 2, -3, -3], [2, -3, 2, -3]]
        assert corners.min() > 225, f"{product.name}: reaches the corners"
        differs = (np.abs(pixels - corners[0]).max(axis=2) > 12).mean()
        assert 0.10 < differs < 0.75, f"{product.name}: {differs:.2f} of the picture is drawn"


def test_the_same_picture_is_drawn_each_time(drawn: list[Product]) -> None:
    assert [product.jpeg for product in products()] == [product.jpeg for product in drawn]


def test_drawing_is_quick() -> None:
    """Processor time, so that a busy machine does not fail it; measured: 0.6 s."""
    start = time.process_time()
    assert len(list(products())) == 150
    assert time.process_time() - start < 2.0


def test_the_query_picture_is_not_in_the_catalogue(drawn: list[Product]) -> None:
    blue = next(colour for colour in COLOURS if colour.name == "파랑")
    striped = next(pattern for pattern in PATTERNS if pattern.name == "줄무늬")
    stored = Image.open(ROOT / QUERY_PICTURE).convert("RGB")
    fresh = Image.open(io.BytesIO(draw(shapes.mug, blue, striped))).convert("RGB")
    # Another version of the JPEG library may round differently, by a few steps of 255.
    assert np.abs(np.asarray(stored, np.int16) - np.asarray(fresh, np.int16)).max() <= 24
    names = {product.name for product in drawn}
    assert "파란 줄무늬 머그컵" not in names
    assert {"파란 체크무늬 머그컵", "노란 줄무늬 머그컵"} <= names


def test_the_greeting_names_the_address_and_three_commands() -> None:
    text = greeting(9123)
    assert text.count("curl ") == 3
    assert text.split()[:3] == ["Ready", "at", "http://localhost:9123/console"]
    assert text.count("http://localhost:9123") == 4
    assert (ROOT / QUERY_PICTURE).is_file()


class RecordingIngester:
    """Keeps what it is given; ids it has seen count as nothing new."""

    def __init__(self) -> None:
        self.intakes: list[Intake] = []

    async def ingest(self, intake: Intake, *, partial: bool) -> tuple[Ack, Sequence[Reject]]:
        assert not partial, "the demo has no item that may be left out"
        self.intakes.append(intake)
        return Ack(len(intake.items), 0, 0, len(self.intakes), "v"), ()


RECIPES = Collection(
    "recipes", id_field="recipe_id", text_template="{title}: {description}. 재료: {ingredients}", model="m"
)
PRODUCTS = Collection(
    "products", id_field="product_id", id_type="string", modality="image", dim=512, model="m"
)


def load(*collections: Collection) -> tuple[int, list[Intake]]:
    ingester = RecordingIngester()
    written = asyncio.run(load_demo(ingester, Catalogue(collections)))
    return written, ingester.intakes


def test_loading_sends_every_item_with_its_metadata() -> None:
    written, intakes = load(RECIPES, PRODUCTS)
    items = [item for intake in intakes for item in intake.items]
    assert written == len(items) == len(recipes()) + 150
    first, last = items[0], items[-1]
    assert first.text is not None
    assert first.text.startswith("김치찌개: 잘 익은 김치와")
    assert first.text.endswith("김치, 돼지고기, 두부, 대파, 고춧가루")
    assert first.metadata is not None
    assert first.metadata["minutes"] == 30
    assert last.picture is not None
    assert last.metadata is not None
    assert last.metadata["image_url"] == "/demo/P0150.jpg"
    assert all(len({item.place for item in intake.items}) == len(intake.items) for intake in intakes)


def test_collections_of_other_meaning_are_left_alone() -> None:
    others = Collection("recipes", id_field="id", text_template="{title}", model="m")
    assert load(others) == (0, [])
    assert load(PRODUCTS)[0] == 150


def test_pictures_are_kept_again_where_they_are_still_the_demos(drawn: list[Product]) -> None:
    """A directory of a release that kept none: nothing else is written, and nothing comes back."""
    ingester = RecordingIngester()
    asyncio.run(keep_pictures(ingester, Catalogue((RECIPES, PRODUCTS))))
    assert ingester.intakes == [], "the collection keeps no pictures"
    asyncio.run(keep_pictures(ingester, Catalogue((RECIPES, replace(PRODUCTS, keep_content=True)))))
    items = [item for intake in ingester.intakes for item in intake.items]
    assert [(item.id, item.picture) for item in items] == [(each.product_id, each.jpeg) for each in drawn]
    assert all(item.metadata is None and item.active is None for item in items)
    shown = [url for intake in ingester.intakes for url in intake.only_where["image_url"]["$in"]]
    assert shown == [each.image_url for each in drawn]


def test_every_image_url_leads_to_its_picture(tmp_path: Path, drawn: list[Product]) -> None:
    with running_app(tmp_path, demo_picture=DemoPictures().jpeg) as app:
        for product in drawn[::37]:
            answer = app.get(product.image_url)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
            assert answer.content == product.jpeg
            assert Image.open(io.BytesIO(answer.content)).size == (PIXELS, PIXELS)
        for wrong in ("/demo/P0000.jpg", "/demo/P0151.jpg", "/demo/P1.jpg", "/demo/recipes.json"):
            assert app.get(wrong).json()["code"] == "unknown_item", wrong


def test_without_the_demo_no_picture_of_it_is_served(tmp_path: Path) -> None:
    with running_app(tmp_path) as app:
        assert app.get("/demo/P0001.jpg").json()["code"] == "unknown_route"
