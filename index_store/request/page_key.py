"""Where a page of a search ended. No behaviour, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from index_store.request.confidence import Curve
from index_store.request.ranking import RankedPage
from index_store.request.recommendation import LikesPage


@dataclass(frozen=True, slots=True)
class PageKey:
    """Where a page ended: the next one holds only what comes after (distance, id), as of `seq`. Where words
    are searched or boosts added, `distance` is minus the score of the last hit, and text_weight what its page
    multiplied the text scores by. likes: of a recommendation, whose `distance` is weighed in mode best.
    curve: what its page told confidence by; None where it told none. ranked: of a search with a ranking.
    now: when the first page began, where the collection has a lifetime. scoring: of words, by what they were
    scored, as `index_store.lexical.scores.SCORING` has it; 0: before there was one."""

    generation: str
    seq: int
    distance: float
    id: int | str
    text_weight: float = 0.0
    likes: LikesPage | None = None
    curve: Curve | None = None
    ranked: RankedPage | None = None
    now: float | None = None
    scoring: int = 0
