"""Items for tests of the console: dishes and cups, hostile texts among them, an id beyond 2^53, twins."""

from __future__ import annotations

import time
from pathlib import Path

from tests.fixtures.calibration import write_calibration
from tests.http_app import DISHES, picture
from tests.integration.service_process import Connection

HOSTILE = "<img src=x onerror=\"window.broken='{}'\"><script>window.broken=1</script>"
PICTURE = "/console/icon.svg"


COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
id_type = "int64"
[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
[collections.goods]
lexical = ["title"]
confidence = "goods.json"
"""
"""The built-in ones, and one that is searched by words too and whose model is calibrated."""


def write_collections(folder: Path) -> str:
    """Return the path of a collections file."""
    write_calibration(folder / "goods.json")
    (folder / "collections.toml").write_text(COLLECTIONS)
    return str(folder / "collections.toml")


def seed(port: int) -> None:
    connection = Connection(port)
    recipes = [
        {
            "recipe_id": number,
            "text": f"{DISHES[number % len(DISHES)]} {number}",
            "metadata": {
                "title": f"{DISHES[number % len(DISHES)]} {number}",
                "category": ("국", "찌개", "밥")[number % 3],
                "minutes": number,
            },
        }
        for number in range(1, 41)
    ]
    recipes.append(
        {
            "recipe_id": 9007199254740993,
            "text": "위험한 요리",
            "metadata": {"title": HOSTILE.format("title"), HOSTILE.format("key"): HOSTILE.format("value")},
        }
    )
    products = [
        {
            "product_id": f"p-{number}",
            "image": picture(number),
            "metadata": {"name": f"컵 {number}", "image_url": PICTURE, "price": 1000 * number},
        }
        for number in range(1, 31)
    ]
    products.append({"product_id": "p-1-again", "image": picture(1), "metadata": {"name": "컵 1, 다시"}})
    products[0]["metadata"] = {"name": "먼 사진", "image_url": "https://img.example/a.png"}
    products[1]["metadata"] = {"name": "나쁜 주소", "image_url": "javascript:window.broken=2"}
    goods = [
        {
            "id": number,
            "text": f"{DISHES[number % 5]} {number}호",
            "metadata": {"title": f"{DISHES[number % 5]} {number}호", "seller": f"가게 {number % 3}"},
        }
        for number in range(1, 21)
    ]
    for body in ({"items": recipes}, {"items": products}, {"collection": "goods", "items": goods}):
        status, answer = connection.post("/v1/upsert", body)
        assert status == 200, answer
    connection.close()


def wait_for_counts(port: int) -> None:
    """/health tells counts of its last probe; the page begins with a collection that holds something."""
    connection = Connection(port)
    give_up = time.monotonic() + 30
    while not connection.ask("GET", "/health")[1]["collections"]["products"]["count"]:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    connection.close()
