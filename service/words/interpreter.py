"""What a text was meant to say: typed on the keyboard of the other language, or in words that the collection
has others for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from index_store.port import WordSource
from service.words.keyboard import as_hangul, as_latin
from service.words.synonyms import Synonyms

_SHARE_MIN: Final = 0.5
"""Of what a text would say on the other keyboard, so much must occur in the collection."""
READ_CHARS_MAX: Final = 256
"""Longer texts mean what they say: words are searched for in half of that, and an event loop looks at it."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """source: knows which words occur. synonyms: by collection, of those that have some."""

    source: WordSource
    synonyms: Mapping[str, Synonyms]

    def may_mean_other(self, collection: str, text: str) -> bool:
        """Return whether `meaning` might say something else (10 us, for an event loop)."""
        return len(text) <= READ_CHARS_MAX and (
            self._reading(collection, text) is not None
            or as_hangul(text) is not None
            or as_latin(text) is not None
        )

    def meaning(self, collection: str, text: str, *, is_certain: bool = False) -> str:
        """Return what `text` means, mostly itself. May read from disk. is_certain: it was found to mean
        something else before, when the collection held other words. Raises Unavailable."""
        if len(text) > READ_CHARS_MAX:
            return text
        typed = as_hangul(text) or as_latin(text)
        known = self._reading(collection, text)
        if known is not None or typed is None:
            return known or text
        typed = self._reading(collection, typed) or typed
        if not is_certain:
            as_it_stands, as_typed = self.source.word_shares(collection, [text, typed])
            if as_typed < _SHARE_MIN or as_typed <= as_it_stands:
                return text
        return typed

    def _reading(self, collection: str, text: str) -> str | None:
        known = self.synonyms.get(collection)
        return None if known is None else known.reading(text)
