"""Recommendations, in any history of an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from index_store.errors import PageExpired
from index_store.port import VectorIndex
from index_store.request.recommendation import Recommendation
from index_store.types import CollectionSpec, SearchRequest
from tests.reference_index import ReferenceIndex
from tests.reference_recommendation import recommended
from tests.simulation.index_values import IDS, vector_of

NUMBERS = st.integers(0, 12)


class RecommendationRules(RuleBasedStateMachine):
    """Two handles of one index, and the reference that holds the same."""

    engines: Sequence[VectorIndex]
    reference: ReferenceIndex
    spec: CollectionSpec

    def named(self, number: int) -> Any:
        raise NotImplementedError

    def dim(self) -> int:
        raise NotImplementedError

    @rule(
        which=st.integers(0, 1),
        mode=st.sampled_from(["best", "each"]),
        likes=st.lists(st.tuples(NUMBERS, st.sampled_from([1.0, 0.5, 3.0])), min_size=1, max_size=4),
        unlikes=st.lists(NUMBERS, max_size=2),
        k=st.integers(1, 8),
        excluded=st.lists(IDS, max_size=4),
    )
    def recommend(
        self,
        which: int,
        mode: Literal["best", "each"],
        likes: list[tuple[int, float]],
        unlikes: list[int],
        k: int,
        excluded: list[int],
    ) -> None:
        """One page, and the next by the other handle."""
        dim, hidden = self.dim(), {self.named(i) for i in excluded}
        asked = Recommendation(
            mode,
            np.stack([vector_of(number, dim) for number, _ in likes]),
            tuple(weight for _, weight in likes),
            np.array([vector_of(number, dim) for number in unlikes], np.float32).reshape(-1, dim),
        )
        stored = self.reference.get("things", [self.named(i) for i in range(15)])
        vectors = {
            item.id: item.vector
            for item in stored
            if item is not None and item.is_live and item.vector is not None and item.id not in hidden
        }
        wanted = recommended(asked, self.spec.metric, vectors)
        request = SearchRequest(asked.likes[0], k, sorted(hidden), recommendation=asked)
        (got,) = self.engines[which].search("things", [request])
        assert [(hit.id, hit.like) for hit in got.hits] == [(each, like) for each, _, like in wanted[:k]]
        assert np.allclose([hit.distance for hit in got.hits], [each for _, each, _ in wanted[:k]], atol=1e-9)
        assert got.exhausted == (len(wanted) <= k) == (got.next_page is None)
        if got.next_page is None:
            return
        try:
            (more,) = self.engines[1 - which].search("things", [replace(request, after=got.next_page)])
        except PageExpired:
            note("page expired")  # allowed for what this handle has not seen; a wrong page never is
            return
        assert [hit.id for hit in more.hits] == [each for each, _, _ in wanted[k : 2 * k]]
