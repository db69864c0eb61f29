"""What a search by stored items may say."""

from __future__ import annotations

from service.errors import InvalidInput
from service.http.wire.schemas import SearchIn
from service.http.wire.values import in_range

LIKE_IDS_MAX = 1000
LIKES_MAX = 100
"""Where each of them is searched by."""
WEIGHT_MIN, WEIGHT_MAX = 0.001, 1000.0


def check_likes(body: SearchIn) -> None:
    """Raises InvalidInput."""
    likes = body.like_ids
    if likes is None:
        if body.unlike_ids is None and body.recommend is None and body.like_weights is None:
            return  # almost every search
        for field in ("unlike_ids", "recommend", "like_weights"):
            if getattr(body, field):
                raise InvalidInput(field, "needs like_ids")
        return
    is_mean = body.recommend in (None, "mean")
    in_range("like_ids", len(likes), 1, LIKE_IDS_MAX if is_mean else LIKES_MAX)
    if body.unlike_ids:
        in_range("unlike_ids", len(body.unlike_ids), 0, LIKE_IDS_MAX if is_mean else LIKES_MAX)
    if body.like_weights:
        if len(body.like_weights) != len(likes):
            raise InvalidInput("like_weights", "must hold one number for each of like_ids")
        for place, weight in enumerate(body.like_weights):
            if not WEIGHT_MIN <= weight <= WEIGHT_MAX:
                raise InvalidInput(("like_weights", place), f"must be {WEIGHT_MIN} to {WEIGHT_MAX:.0f}")
