"""The port of a backend's recommendations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from vector_client.types import Id

Neighbours: TypeAlias = list[tuple[Any, float]]
"""(id, distance), nearest first, ties by id; no id twice. Recipe ids are int, product ids str."""


class VectorSearcherPort(Protocol):
    """Finds items near a text. Safe for any number of calls at once in one event loop."""

    async def find_similar_ids(
        self, pg_db: Any, query: str, top_k: int, exclude_ids: Sequence[Id] | None = None
    ) -> Neighbours:
        """Return up to `top_k` live items that are not excluded; exclude_ids of any number.

        pg_db: the request's database session; a path that asks no database leaves it alone.
        Raises VectorClientError.
        """
        ...
