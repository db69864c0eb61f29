"""Searches and the pages that follow them, in any history of an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from index_store.errors import PageExpired
from index_store.port import VectorIndex
from index_store.request.ranking import Ranking
from index_store.types import ItemDelete, ItemWrite, PageKey, SearchRequest, TextQuery
from tests.reference_index import ReferenceIndex
from tests.simulation.index_values import ASKED, IDS, RANKINGS, SHADES, deletes, items, vector_of

HANDLES = st.integers(0, 1)


class PagingRules(RuleBasedStateMachine):
    """Two handles of one index, and the reference that holds the same. pages: where an answer ended, by
    a handle and by the reference, and what was asked."""

    engines: Sequence[VectorIndex]
    reference: ReferenceIndex
    pages: list[tuple[PageKey, PageKey, SearchRequest]]

    def named(self, number: int) -> Any:
        raise NotImplementedError

    def dim(self) -> int:
        raise NotImplementedError

    def write(
        self, which: int, some: list[ItemWrite], gone: list[ItemDelete], choice: int, condition: Any
    ) -> None:
        raise NotImplementedError

    @rule(
        which=HANDLES,
        query=st.integers(0, 12),
        k=st.sampled_from([1, 2, 3, 5, 8, 20]),
        turns=st.integers(0, 4),
        offset=st.integers(0, 3),
        excluded=st.lists(IDS, max_size=5),
        shade=st.none() | SHADES,
        asked=ASKED,
        ranking=RANKINGS,
        exact=st.booleans(),
    )
    def search(
        self,
        which: int,
        query: int,
        k: int,
        turns: int,
        offset: int,
        excluded: list[int],
        shade: str | None,
        asked: TextQuery | None,
        ranking: Ranking | None,
        exact: bool,
    ) -> None:
        """Some pages, by both handles in turn."""
        condition = None if shade is None else {"shade": {"$ne": shade}}
        excluding = [self.named(i) for i in excluded]
        vector = vector_of(query, self.dim())
        request = SearchRequest(
            vector, k, excluding, condition, offset, exact=exact, text=asked, ranking=ranking
        )
        goes_on = self.search_pages(which, request)
        for turn in range(turns):
            goes_on = goes_on and self.turn_page((which + turn) % 2, len(self.pages) - 1)

    @rule(
        which=HANDLES,
        query=st.integers(0, 12),
        k=st.integers(1, 3),
        asked=ASKED,
        ranking=RANKINGS,
        between=st.lists(
            st.tuples(
                HANDLES,
                HANDLES,
                st.lists(items, max_size=3),
                st.lists(deletes, max_size=2),
                st.integers(0, 2),
            ),
            min_size=1,
            max_size=3,
        ),
    )
    def scroll(
        self,
        which: int,
        query: int,
        k: int,
        asked: TextQuery | None,
        ranking: Ranking | None,
        between: list[tuple[int, int, list[ItemWrite], list[ItemDelete], int]],
    ) -> None:
        """Short pages, one after the other, with a write before each, by and for either handle."""
        request = SearchRequest(vector_of(query, self.dim()), k, text=asked, ranking=ranking)
        goes_on = self.search_pages(which, request)
        for writer, reader, some, gone, choice in between:
            if not goes_on:
                return
            self.write(writer, some, gone, choice, None)
            goes_on = self.turn_page(reader, len(self.pages) - 1)

    @precondition(lambda self: self.pages)
    @rule(which=HANDLES, place=st.integers(0, 100))
    def turn_former_page(self, which: int, place: int) -> None:
        self.turn_page(which, place % len(self.pages))

    def turn_page(self, which: int, place: int) -> bool:
        """Return whether another page follows."""
        mine, theirs, plain = self.pages[place]
        try:
            (got,) = self.engines[which].search("things", [replace(plain, after=mine)])
        except PageExpired:
            note("page expired")  # allowed for what this handle has not seen; a wrong page never is
            return False
        (wanted,) = self.reference.search("things", [replace(plain, after=theirs)])
        assert [hit.id for hit in got.hits] == [hit.id for hit in wanted.hits]
        assert got.exhausted == wanted.exhausted
        return self.note_page(got.next_page, wanted.next_page, plain)

    def search_pages(self, which: int, request: SearchRequest) -> bool:
        """Search, and return whether another page follows."""
        (got,) = self.engines[which].search("things", [request])
        self.reference.text_weight = got.text_weight
        (wanted,) = self.reference.search("things", [request])
        assert [hit.id for hit in got.hits] == [hit.id for hit in wanted.hits]
        seen, expected = [h.distance for h in got.hits], [h.distance for h in wanted.hits]
        assert np.allclose(seen, expected, atol=1e-9, equal_nan=True)
        assert got.exhausted == wanted.exhausted and got.embedding_version == wanted.embedding_version
        return self.note_page(got.next_page, wanted.next_page, replace(request, offset=0))

    def note_page(self, mine: PageKey | None, theirs: PageKey | None, plain: SearchRequest) -> bool:
        """Keep where a page ended, for `turn_page`; return whether another one follows."""
        if mine is None or theirs is None:
            return False
        self.pages.append((mine, theirs, plain))
        return True
