"""What the demo holds: recipes as text, products as drawn pictures. Pure data, the same on every call."""

from __future__ import annotations

import json
import re
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


_PRODUCTS = len(COLOURS) * len(CATEGORIES)
_PICTURE_NAME = re.compile(r"P([0-9]{4})\.jpg")


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
    """One product with its picture. image_url: the path at which the demo serves the picture."""

    product_id: str
    name: str
    category: str
    colour: str
    pattern: str
    image_url: str
    jpeg: bytes


def recipes() -> list[Recipe]:
    """Return the demo's recipes, read from the package."""
    rows = json.loads(files("service.demo").joinpath("recipes.json").read_text("utf-8"))
    return [Recipe(**{**row, "ingredients": tuple(row["ingredients"])}) for row in rows]


def products() -> Iterator[Product]:
    """Yield each shape in each colour, the pattern changing along; drawn one by one."""
    yield from map(_product, range(1, _PRODUCTS + 1))


def _product(number: int) -> Product:
    """number: from 1."""
    row, column = divmod(number - 1, len(CATEGORIES))
    colour, (shape, (noun, category)) = COLOURS[row], list(CATEGORIES.items())[column]
    pattern = PATTERNS[(row + column) % len(PATTERNS)]
    product_id = f"P{number:04d}"
    return Product(
        product_id=product_id,
        name=f"{colour.adjective} {pattern.name} {noun}",
        category=category,
        colour=colour.name,
        pattern=pattern.name,
        image_url=f"/demo/{product_id}.jpg",
        jpeg=draw(shape, colour, pattern, scale=0.90 + 0.025 * (number % 5)),
    )


class DemoPictures:
    """The products' pictures by file name, each drawn once (some 30 ms). Safe from any thread."""

    def __init__(self) -> None:
        self._drawn: dict[int, bytes] = {}

    def jpeg(self, file_name: str) -> bytes | None:
        """Return the picture that an `image_url` of the demo ends with; None when there is none."""
        named = _PICTURE_NAME.fullmatch(file_name)
        number = int(named[1]) if named else 0
        if not 1 <= number <= _PRODUCTS:
            return None
        if number not in self._drawn:
            self._drawn[number] = _product(number).jpeg
        return self._drawn[number]
