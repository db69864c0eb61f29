"""One form of a text, whoever typed it."""

from __future__ import annotations

import unicodedata


def normalise_text(text: str) -> str:
    """Return `text` without surrounding white space, in NFC: Hangul arrives composed and decomposed."""
    return unicodedata.normalize("NFC", text).strip()
