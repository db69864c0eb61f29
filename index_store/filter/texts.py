"""A filter over rows that stand in no column yet: their metadata as JSON texts."""

from __future__ import annotations

import json
from collections.abc import Sequence

from index_store.filter.columns import MetadataColumns
from index_store.filter.compile import FilterNode, evaluate, keys_of
from index_store.filter.key_paths import heads_of


def passing_texts(node: FilterNode, texts: Sequence[str | None]) -> list[bool]:
    """Return which of these metadata the condition holds for. A text that has rotted into no JSON object
    passes nothing."""
    columns, heads = MetadataColumns(), heads_of(keys_of(node))
    try:
        columns.add_texts(0, texts, heads)
        is_readable = [True] * len(texts)
    except (TypeError, ValueError, AttributeError, RecursionError):
        is_readable = [text is None or _is_object(text) for text in texts]
        columns = MetadataColumns()
        sound = [text if fine else None for text, fine in zip(texts, is_readable, strict=True)]
        columns.add_texts(0, sound, heads)
    found: list[bool] = evaluate(node, columns, 0, len(texts)).tolist()
    return [passes and fine for passes, fine in zip(found, is_readable, strict=True)]


def _is_object(text: object) -> bool:
    try:
        return isinstance(json.loads(str(text)), dict)
    except (ValueError, RecursionError):
        return False
