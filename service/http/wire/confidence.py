"""What of a search asks how likely each hit is what its text asks for."""

from __future__ import annotations

from functools import partial

from index_store.errors import InvalidRequest
from index_store.request.confidence import Background, ConfidenceQuery, Curve
from service.collections import Collection, SearchMode
from service.confidence.calibration import Calibration, Mode, calibration_of
from service.errors import InvalidInput
from service.http.wire.schemas import SearchIn


def asks_confidence(body: SearchIn) -> bool:
    """Whether hits are to be told, or left out, by their confidence."""
    return body.min_confidence is not None or (body.include is not None and "confidence" in body.include)


def read_confidence(body: SearchIn, collection: Collection, mode: SearchMode, text: str) -> ConfidenceQuery:
    """text: the query as it is searched. For a search that asks for it by `include` or `min_confidence`;
    raises InvalidInput naming that field where nothing is known of such a search."""
    field = "include" if body.min_confidence is None else "min_confidence"
    minimum = body.min_confidence or 0.0
    if not 0 <= minimum <= 1:
        raise InvalidInput(field, "must be 0 to 1")
    if body.query is None or body.vector is not None:
        raise InvalidInput(field, "asks for confidence, which needs query alone: it is known of texts only")
    if mode == "lexical" or body.degrade is not None:
        raise InvalidInput(field, "asks for confidence, which needs vectors: it is not known of words alone")
    if body.hybrid is not None and body.hybrid.alpha not in (None, 1.0):
        raise InvalidInput(field, "asks for confidence, which is known of hybrid.alpha 1 only")
    return ConfidenceQuery(text, partial(_curve, collection, mode, field), minimum)


def _curve(
    collection: Collection, mode: Mode, field: str, embedding_version: str, text: str, background: Background
) -> Curve:
    found: Calibration | None = calibration_of(embedding_version, collection.confidence)
    curve = None if found is None else found.curve(mode, text, background)
    if curve is None:
        raise InvalidRequest(
            f"{field} asks for confidence, which nobody has calibrated for {embedding_version!r} in mode "
            f"{mode}: name a file in the collection's `confidence`",
            field,
        )
    return curve
