"""Puts the demo into an empty index, through the same path as any other write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from index_store.types import Ack, Filter
from service.app.ingest import Intake, NewItem
from service.collections import Catalogue, Collection
from service.demo.catalogue import Product, Recipe, products, recipes
from service.embedding.text import normalise_text
from service.errors import Reject

log = logging.getLogger(__name__)

_ITEMS_A_WRITE = 50


class Writer(Protocol):
    """The part of the Ingester that the demo needs."""

    async def ingest(self, intake: Intake, *, partial: bool) -> tuple[Ack, Sequence[Reject]]:
        """Embed and store a batch, as `service.app.ingest.Ingester.ingest`."""


async def load_demo(ingester: Writer, catalogue: Catalogue) -> int:
    """Return how many items were written. A collection that is not declared, or holds something else than
    the built-in one does, is left alone. Raises what `ingest` raises; loading again changes nothing."""
    written = 0
    for name, id_field, items in (
        ("recipes", "recipe_id", _recipe_items),
        ("products", "product_id", _product_items),
    ):
        collection = catalogue.get(name)
        if collection is None or collection.id_field != id_field:
            log.info("demo_skipped", extra={"collection": name, "reason": "declared otherwise"})
            continue
        written += await _ingest_all(ingester, name, items(collection))
    return written


async def keep_pictures(ingester: Writer, catalogue: Catalogue) -> None:
    """Send the products' pictures again, so that a directory of a release that kept none can be rebuilt by
    another model. Items that are gone, or whose picture is no longer the demo's, are passed over; nothing but
    the kept picture changes. Raises what `ingest` raises."""
    collection = catalogue.get("products")
    if collection is None or collection.id_field != "product_id" or not collection.keeps_content:
        return
    drawn = list(products())
    for start in range(0, len(drawn), _ITEMS_A_WRITE):
        some = drawn[start : start + _ITEMS_A_WRITE]
        again = [NewItem(place, each.product_id, picture=each.jpeg) for place, each in enumerate(some)]
        shown: Filter = {"image_url": {"$in": [each.image_url for each in some]}}
        await ingester.ingest(Intake(collection.name, again, only_where=shown), partial=False)


async def _ingest_all(ingester: Writer, collection: str, items: list[NewItem]) -> int:
    for start in range(0, len(items), _ITEMS_A_WRITE):
        await ingester.ingest(Intake(collection, items[start : start + _ITEMS_A_WRITE]), partial=False)
    log.info("demo_loaded", extra={"collection": collection, "items": len(items)})
    return len(items)


def _recipe_items(collection: Collection) -> list[NewItem]:
    return [
        NewItem(
            place=place,
            id=recipe.recipe_id,
            text=normalise_text(collection.text_template.format_map(_template_fields(recipe))),
            metadata={
                "title": recipe.title,
                "category": recipe.category,
                "minutes": recipe.minutes,
            },
        )
        for place, recipe in enumerate(recipes())
    ]


def _product_items(_: Collection) -> list[NewItem]:
    return [
        NewItem(place=place, id=product.product_id, picture=product.jpeg, metadata=_product_metadata(product))
        for place, product in enumerate(products())
    ]


def _template_fields(recipe: Recipe) -> dict[str, str]:
    return {
        "title": recipe.title,
        "description": recipe.description,
        "ingredients": ", ".join(recipe.ingredients),
        "category": recipe.category,
    }


def _product_metadata(product: Product) -> dict[str, str]:
    return {
        "name": product.name,
        "category": product.category,
        "colour": product.colour,
        "pattern": product.pattern,
        "image_url": product.image_url,
    }
