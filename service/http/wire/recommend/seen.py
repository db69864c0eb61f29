"""What a search that leaves out what was shown may say."""

from __future__ import annotations

from service.errors import InvalidInput
from service.http.wire.schemas import SearchIn

KEY_CHARS_MAX = 256


def check_seen(body: SearchIn) -> None:
    """Raises InvalidInput."""
    if body.seen_key is None:
        if body.seen_reset:
            raise InvalidInput("seen_reset", "needs seen_key")
        return
    if not 1 <= len(body.seen_key) <= KEY_CHARS_MAX:
        raise InvalidInput("seen_key", f"must have 1 to {KEY_CHARS_MAX} characters")
    if body.cursor is not None:
        raise InvalidInput("cursor", "and seen_key exclude each other: what was shown is left out already")
