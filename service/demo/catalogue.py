"""What the demo holds: recipes as text, products as drawn pictures. Pure data, the same on every call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from service.demo import shapes
from service.demo.pictures import COLOURS, PATTERNS, draw

CATEGORIES = {
    shapes.mug: ("머그컵", "주방"),
    shapes.shirt: ("티셔츠", "의류"),
    shapes.lamp: ("스탠드 조명", "조명"),
    shapes.tote: ("에코백", "가방"),
    shapes.bottle: ("물병", "주방"),
    shapes.sneaker: ("운동화", "신발"),
    shapes.plate: ("접시", "주방"),
    shapes.phone_case: ("휴대폰 케이스", "액세서리"),
    shapes.backpack: ("백팩", "가방"),
    shapes.umbrella: ("우산", "잡화"),
    shapes.cushion: ("쿠션", "침구"),
    shapes.clock: ("벽시계", "인테리어"),
    shapes.cap: ("야구모자", "의류"),
    shapes.pot: ("냄비", "주방"),
    shapes.gift_box: ("선물 상자", "포장"),
}
"""shape -> (name of the product, its category)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One dish. minutes: cooking time."""

    recipe_id: int
    title: str
    category: str
    minutes: int
    description: str
    ingredients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One product with its picture. image_url: a path that names the picture; nothing is served there."""

    product_id: str
    name: str
    category: str
    colour: str
    pattern: str
    image_url: str
    jpeg: bytes


def recipes() -> list[Recipe]:
    rows = json.loads(files("service.demo").joinpath("recipes.json").read_text("utf-8"))
    return [Recipe(**{**row, "ingredients": tuple(row["ingredients"])}) for row in rows]


def products() -> Iterator[Product]:
    """Yield each shape in each colour, the pattern changing along; drawn one by one."""
    number = 0
    for row, colour in enumerate(COLOURS):
        for column, (shape, (noun, category)) in enumerate(CATEGORIES.items()):
            number += 1
            pattern = PATTERNS[(row + column) % len(PATTERNS)]
            product_id = f"P{number:04d}"
            yield Product(
                product_id=product_id,
                name=f"{colour.adjective} {pattern.name} {noun}",
                category=category,
                colour=colour.name,
                pattern=pattern.name,
                image_url=f"/demo/{product_id}.jpg",
                jpeg=draw(shape, colour, pattern, scale=0.90 + 0.025 * (number % 5)),
            )
