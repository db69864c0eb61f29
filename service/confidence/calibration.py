"""How likely a hit is what a text asks for: the numbers, by model and by mode, that make a probability of
what the index knows of a query.

They were fitted to judged queries by `benchmarks/fit_confidence.py`; a collection may bring its own in a file
(docs/SETTINGS.md). A model whose numbers nobody fitted gets no probability: a guess would look like one.
"""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from index_store.request.confidence import Background, Curve
from service.errors import BadConfiguration

Mode: TypeAlias = Literal["dense", "hybrid"]
_SAMPLE_FULL: Final = 256
"""So many stored vectors tell what is usual in a collection; of fewer the model's figures count as well."""
_SPREAD_MIN: Final = 1e-6
_BYTES_MAX: Final = 64 << 10
_HANGUL: Final = ("\uac00", "\ud7a3")


class Coefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log odds are the sum of each coefficient times what it is named after, and of the constant. score: the
    hit's; background: the query's mean similarity with stored vectors; both less the middle similarity, in
    spreads of it (`Background`). korean: 1 for a text with Hangul, else 0. length: the logarithm of how many
    characters it has, without spaces. size: the logarithm of how many items are live: among more, the first
    one is nearer by chance. share: how much of the text's words occurs in any item,
    where that is known."""

    score: Annotated[float, msgspec.Meta(gt=0)]
    background: float
    korean: float
    length: float
    size: float
    share: float
    constant: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one model. embedding_version: how those it holds for begin. middle, spread: see `Background`, where
    it was fitted. dense_with_words: for dense answers where the share of words is known; hybrid, that: None
    where it was fitted without words."""

    embedding_version: Annotated[str, msgspec.Meta(min_length=1)]
    middle: float
    spread: Annotated[float, msgspec.Meta(gt=0)]
    dense: Coefficients
    dense_with_words: Coefficients | None = None
    hybrid: Coefficients | None = None

    def curve(self, mode: Mode, text: str, background: Background) -> Curve | None:
        """Return the curve of a query; None where the mode was not fitted."""
        fitted = self.dense if mode == "dense" else self.hybrid
        if mode == "dense" and background.share is not None and self.dense_with_words is not None:
            fitted = self.dense_with_words
        if fitted is None:
            return None
        own = min(1.0, background.rows / _SAMPLE_FULL)
        middle = own * background.middle + (1 - own) * self.middle
        spread = max(_SPREAD_MIN, own * background.spread + (1 - own) * self.spread)
        usual = background._replace(middle=middle, spread=spread)
        known = query_features(text, usual)
        coefficients = (fitted.background, fitted.korean, fitted.length, fitted.size, fitted.share)
        offset = fitted.constant - fitted.score * middle / spread
        offset += sum(map(operator.mul, coefficients, known))
        return Curve(fitted.score / spread, offset)


def query_features(text: str, usual: Background) -> tuple[float, float, float, float, float]:
    """Return what is known of a query, from background to share, as `Coefficients` names it."""
    letters = sum(not letter.isspace() for letter in text)
    return (
        (usual.of_query - usual.middle) / usual.spread,
        float(_has_hangul(text)),
        math.log(max(1, letters)),
        math.log(max(1, usual.size)),
        usual.share or 0.0,
    )


def _has_hangul(text: str) -> bool:
    return any(_HANGUL[0] <= letter <= _HANGUL[1] for letter in text)


BUILTIN: Final = (
    Calibration(
        "me5s-q4-",
        0.8734,
        0.0915,
        Coefficients(10.698, -6.786, -0.494, 0.238, -0.492, 0.0, -0.235),
        Coefficients(7.314, -3.335, 1.706, 0.251, -0.589, 4.236, -2.176),
        Coefficients(4.735, -0.775, 4.03, 2.051, -0.566, 3.936, -6.257),
    ),
)


def calibration_of(embedding_version: str, own: Calibration | None) -> Calibration | None:
    """Return what holds for a version: what the collection brings, else what comes along; None where neither
    does."""
    known = BUILTIN if own is None else (own, *BUILTIN)
    return next((each for each in known if embedding_version.startswith(each.embedding_version)), None)


def read_calibration(reference: str, beside: Path | None) -> Calibration:
    """Return what a JSON file holds. beside: a file whose folder relative paths begin in. Raises
    BadConfiguration."""
    file = (beside.parent if beside else Path()) / reference
    try:
        data = file.read_bytes()
        if len(data) > _BYTES_MAX:
            raise BadConfiguration([f"confidence {file} has more than {_BYTES_MAX >> 10} KiB"])
        return msgspec.json.decode(data, type=Calibration)
    except OSError as exc:
        raise BadConfiguration([f"confidence {file} can't be read: {exc.strerror}"]) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadConfiguration([f"confidence {file}: {exc}"]) from exc
