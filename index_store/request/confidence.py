"""How likely a hit is what was asked for: what the index knows, and who makes a probability of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias


class Background(NamedTuple):
    """What is usual for a query. rows: how many stored vectors were looked at. middle, spread: of the
    similarities of their pairs, the 50th percentile, and how far above it the 99.9th lies. of_query: their
    mean similarity with the query. size: how many items are live. share: how much of the query's words occurs
    in any item, 0 to 1; None where that is not known: items have no words, or these wait to be sealed."""

    rows: int
    middle: float
    spread: float
    of_query: float
    size: int = 0
    share: float | None = None


class Curve(NamedTuple):
    """Log odds of a score (without words, of a similarity): slope, above 0, x score + offset. The higher a
    score, the likelier its hit."""

    slope: float
    offset: float


CurveSource: TypeAlias = Callable[[str, str, Background], Curve]
"""Of an embedding_version, the text that is searched, and its background. Raises InvalidRequest where nobody
knows the curve of that version."""


@dataclass(frozen=True, slots=True)
class ConfidenceQuery:
    """That each hit is to be told how likely it is what `text` asks for. minimum: hits less likely are left
    out; 0 leaves all in."""

    text: str
    curve_of: CurveSource
    minimum: float = 0.0
