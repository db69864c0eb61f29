"""What a search is ranked by, out of its body. What the values must be, the index says: it compiles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from index_store.request.ranking import POOL, POOL_MAX, POOL_MIN, Boost, Decay, GroupBy, Linear, Ranking
from service.errors import InvalidInput
from service.http.wire.body import check_depth
from service.http.wire.schemas import BoostIn, SearchIn
from service.http.wire.values import in_range

RANKING_FIELDS = ("boost", "group_by", "collapse", "diversity")


def read_ranking(body: SearchIn, clock: Callable[[], float]) -> Ranking | None:
    """Return how hits are ranked beyond the order of the search; None where nothing asks for it.
    clock: seconds since the epoch. Raises InvalidInput."""
    if body.pool is not None and not body.boost and not body.diversity:
        raise InvalidInput("pool", "needs boost or diversity, which weigh its items")
    if body.boost is None and body.group_by is None and body.collapse is None and body.diversity is None:
        return None
    ranking = Ranking(
        boosts=[_boost(place, each) for place, each in enumerate(body.boost or ())],
        group=None if body.group_by is None else GroupBy(body.group_by.key, body.group_by.most),
        collapse=None if body.collapse is None else body.collapse.distance,
        diversity=body.diversity or 0.0,
        pool=POOL if body.pool is None else in_range("pool", body.pool, POOL_MIN, POOL_MAX),
        now=clock(),
    )
    if body.recommend in ("best", "each"):
        raise InvalidInput("recommend", "can't be ranked further unless it is mean")
    asks = ranking.boosts or ranking.diversity or ranking.group is not None or ranking.collapse is not None
    return ranking if asks else None


def _boost(place: int, boost: BoostIn) -> Boost:
    terms: dict[str, Any] = {"linear": boost.linear, "decay": boost.decay, "if": boost.condition}
    given = [name for name, term in terms.items() if term is not None]
    if len(given) != 1:
        raise InvalidInput(("boost", place), "must hold exactly one of linear, decay and if")
    if boost.linear is not None:
        return Boost(boost.weight, Linear(boost.linear.key, boost.linear.low, boost.linear.high))
    if boost.decay is not None:
        decay = boost.decay
        return Boost(boost.weight, Decay(decay.key, decay.scale, decay.origin, decay.shape))
    check_depth(boost.condition, ("boost", place, "if"))
    return Boost(boost.weight, boost.condition or {})
