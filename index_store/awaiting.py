"""What a rebuild is given of an item."""

from __future__ import annotations

from dataclasses import dataclass

from index_store.types import Content, Id


@dataclass(frozen=True, slots=True)
class AwaitingItem:
    """An item that has content and no vector yet. content: None where it can't be read any more."""

    id: Id
    content_hash: bytes
    content: Content | None
