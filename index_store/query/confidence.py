"""How likely each hit is what was asked for: by the curve of its query, which belongs to query and collection
alone, so that filters, exclusions and pages change no hit's confidence.

The index knows what similarities are usual, and whoever asks makes a curve of that (`CurveSource`).
"""

from __future__ import annotations

import numpy as np

from index_store.ann.background import RowSample
from index_store.ann.rerank import Distances
from index_store.errors import WordsNotSealed
from index_store.query.fusion import word_shares
from index_store.query.view import View, live_count
from index_store.request.confidence import ConfidenceQuery, Curve
from index_store.types import SearchRequest

_ODDS_MAX = 700.0
"""Of log odds: beyond, exp overflows."""


def curve_of(view: View, request: SearchRequest, asked: ConfidenceQuery) -> Curve:
    """Return the curve of the page before, else that of this query. Raises InvalidRequest where the version's
    is not known."""
    if request.after is not None and request.after.curve is not None:
        return request.after.curve
    text = asked.text if request.text is None else request.text.text
    background = _sample(view).background(request.vector)
    background = background._replace(size=live_count(view), share=_share(view, text))
    return asked.curve_of(request.embedding_version or "", text, background)


def confidences(curve: Curve, scores: Distances) -> Distances:
    """Return the confidence of each score, 0 to 1."""
    odds = np.clip(curve.slope * scores + curve.offset, -_ODDS_MAX, _ODDS_MAX)
    found: Distances = 1.0 / (1.0 + np.exp(-odds))
    return found


def _share(view: View, text: str) -> float | None:
    """Of words that wait to be sealed nothing is known; searches by vectors alone don't wait for them."""
    if not view.delta.lexical_version:
        return None
    try:
        return word_shares(view, [text])[0]
    except WordsNotSealed:
        return None


def _sample(view: View) -> RowSample:
    """Where the most rows were sealed, else those in memory."""
    if view.pool is not None:
        return view.pool.fetcher.usual_similarities()
    most = max((one.segment.reader for one in view.segments), key=lambda each: each.rows, default=None)
    return view.delta.sample() if most is None else most.sample
