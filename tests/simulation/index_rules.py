"""What happens to any index in a history of it, and what it has to hold: the same as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from index_store.errors import GenerationConflict
from index_store.port import VectorIndex
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, NewGeneration, WriteBatch
from tests.reference_index import ReferenceIndex
from tests.simulation.index_values import CONDITIONS, DIM, OTHER_DIM, deletes, items
from tests.simulation.paging_rules import PagingRules
from tests.simulation.recommendation_rules import RecommendationRules


class IndexRules(PagingRules, RecommendationRules):
    """Two handles of one index stand for two processes. `begin` comes first."""

    engines: Sequence[VectorIndex]
    made: int

    def begin(self, spec: CollectionSpec, some: list[ItemWrite]) -> None:
        """Begin a history with a few items; the handles are open."""
        self.spec = spec
        self.reference = ReferenceIndex([spec])
        self.engines[0].advance("things", "begin", "v0")
        self.reference.advance("things", "begin", "v0")
        self.made = 0
        self.pages = []
        self.write(0, some, [], 0, None)

    def named(self, number: int) -> Any:
        return number if self.spec.id_kind == "int64" else f"상품-{number:02}"

    def dim(self) -> int:
        """Of the current generation."""
        return next(iter(self.reference.dims_by_version("things").values()))

    def versions(self) -> list[str]:
        status = self.reference.status("things")
        assert status.current is not None
        return [status.current.embedding_version, *(other.embedding_version for other in status.others)]

    @rule(
        which=st.integers(0, 1),
        some=st.lists(items, max_size=6),
        gone=st.lists(deletes, max_size=2),
        choice=st.integers(0, 2),
        condition=st.none() | CONDITIONS,
    )
    def write(
        self, which: int, some: list[ItemWrite], gone: list[ItemDelete], choice: int, condition: Any
    ) -> None:
        versions = self.versions()
        version = versions[choice % len(versions)] if any(i.vector is not None for i in some) else None
        dim = self.reference.dims_by_version("things").get(version or "")
        batch = WriteBatch(
            [
                replace(i, id=self.named(int(i.id)), vector=None if i.vector is None else i.vector[:dim])
                for i in some
            ],
            [ItemDelete(self.named(int(d.id)), d.source_version) for d in gone],
            version,
            {"source": str(len(some))},
            only_where=condition,
        )
        got, wanted = self.engines[which].write("things", batch), self.reference.write("things", batch)
        seen, expected = (
            (
                *(ack.upserted, ack.deleted, ack.stale_ignored, ack.vanished, ack.reappeared),
                *(ack.passed_over, set(ack.unknown_ids)),
            )
            for ack in (got, wanted)
        )
        assert seen == expected

    @rule(
        which=st.integers(0, 1),
        step=st.sampled_from(["begin", "promote", "rollback", "abort", "retire"]),
        choice=st.integers(0, 3),
        dim=st.none() | st.sampled_from([DIM, OTHER_DIM]),
    )
    def advance(self, which: int, step: Any, choice: int, dim: int | None) -> None:
        versions = [*self.versions(), f"v{self.made + 1}"]
        version = versions[-1] if step == "begin" else versions[choice % len(versions)]
        outcomes = []
        for index in (self.engines[which], self.reference):
            try:
                index.advance("things", step, version, NewGeneration(dim))
                outcomes.append("moved")
            except GenerationConflict:
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1]
        self.made += step == "begin" and outcomes[0] == "moved"

    @invariant()
    def every_handle_agrees(self) -> None:
        if not hasattr(self, "reference"):
            return
        names = [self.named(i) for i in range(15)]
        wanted = self.reference.get("things", names)
        digest = self.reference.digest("things")
        status = self.reference.status("things")
        for engine in self.engines:
            for got, want in zip(engine.get("things", names), wanted, strict=True):
                assert (got is None) == (want is None)
                if got is not None and want is not None:
                    assert (got.active, got.metadata, got.source_version, got.content_hash) == (
                        want.active,
                        want.metadata,
                        want.source_version,
                        want.content_hash,
                    )
                    assert np.array_equal(got.vector, want.vector)  # type: ignore[arg-type]
            assert engine.digest("things").root == digest.root
            found = engine.status("things")
            assert found.problem is None and found.current is not None and status.current is not None
            for got_one, want_one in zip(
                [found.current, *found.others], [status.current, *status.others], strict=True
            ):
                assert (
                    got_one.role,
                    got_one.embedding_version,
                    got_one.items,
                    got_one.live,
                    got_one.cursors,
                ) == (
                    want_one.role,
                    want_one.embedding_version,
                    want_one.items,
                    want_one.live,
                    want_one.cursors,
                )
