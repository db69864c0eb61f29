"""Which words occur in the items of the current generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from index_store.engine.collection import Collection
from index_store.query.fusion import word_shares


class WordReader:
    """Fits `index_store.port.WordSource`. Safe from any thread."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        """collections: raises UnknownCollection for a name that it does not have."""
        self._collections = collections

    def word_shares(self, collection: str, texts: Sequence[str]) -> list[float]:
        """See `WordSource`."""
        with self._collections[collection].members() as members:
            if members.current is None:
                return [0.0] * len(texts)
            return word_shares(members.current.refresh(), texts)
