"""The answer to a write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from index_store.types import Ack, Id
from item_rules.ids import int64_fault
from service.errors import Reject

_TOLD_CHARS_MAX = 1024


def written(ack: Ack, rejects: Sequence[Reject]) -> dict[str, Any]:
    """Return its document."""
    return {
        "upserted": ack.upserted,
        "deleted": ack.deleted,
        "stale_ignored": ack.stale_ignored,
        "rejected": [rejected_item(each) for each in rejects],
        "unknown_ids": ack.unknown_ids,
        "seq": ack.seq,
        "version": ack.embedding_version,
        "vanished": ack.vanished,
        "reappeared": ack.reappeared,
    }


def rejected_item(reject: Reject) -> dict[str, Any]:
    """Return one entry of `rejected`."""
    return {
        "id": reject.id if _is_encodable(reject.id) else None,
        "code": reject.code,
        "detail": reject.detail,
        "loc": ["body", *reject.loc],
    }


def _is_encodable(id: Id | None) -> bool:
    """An answer has no room for every number and every text; `loc` says which one it was."""
    if isinstance(id, int):
        return int64_fault(id) is None
    return id is None or len(id) <= _TOLD_CHARS_MAX
