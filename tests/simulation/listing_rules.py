"""Lists, counts and writes by filter, in any history of an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from index_store.listings import FacetsRequest, ItemsRequest
from index_store.port import ItemIndex
from index_store.types import ItemDelete, ItemWrite, SearchRequest, WriteBatch
from tests.reference_filter import matches
from tests.reference_index import ReferenceIndex
from tests.simulation.index_values import CONDITIONS, PATCHES, vector_of

ACTIONS = st.sampled_from(["merge", "hide", "delete"])


class ListingRules(RuleBasedStateMachine):
    """Two handles of one index, and the reference that holds the same. listing: of `turn_list_page`,
    where it is, what it gave, and what was there all the while."""

    engines: Sequence[ItemIndex]
    reference: ReferenceIndex
    listing: tuple[Any, list[Any], set[Any]]

    def begin_listing(self) -> None:
        """No page was asked for yet."""
        self.listing = (None, [], set())

    @invariant()
    def listing_knows_what_went(self) -> None:
        if hasattr(self, "reference"):
            self.listing[2].intersection_update(self.stored(None))

    def named(self, number: int) -> Any:
        raise NotImplementedError

    def dim(self) -> int:
        raise NotImplementedError

    def stored(self, condition: Any, is_live: bool | None = None) -> list[Any]:
        """Ids that a list should give, in order."""
        found = self.reference.get("things", [self.named(i) for i in range(15)])
        return [
            item.id
            for item in found
            if item is not None
            and is_live in (None, item.is_live)
            and (condition is None or matches(condition, item.metadata or {}))
        ]

    @rule(
        which=st.integers(0, 1),
        condition=CONDITIONS,
        is_live=st.none() | st.booleans(),
        rows_max=st.integers(1, 20),
        items_max=st.integers(1, 5),
    )
    def list_and_count(
        self, which: int, condition: Any, is_live: bool | None, rows_max: int, items_max: int
    ) -> None:
        source = self.engines[which].item_source()
        listed: list[Any] = []
        request = ItemsRequest(None, condition, is_live, items_max=items_max, rows_max=rows_max)
        while True:
            page = source.list_items("things", request)
            listed += [item.id for item in page.items]
            if page.next_after is None:
                break
            request = replace(request, after=page.next_after)
        assert listed == self.stored(condition, is_live)
        counted = source.count_values("things", FacetsRequest(condition, ["shade"]))
        live = self.stored(condition, is_live=True)
        assert counted.counted.live == len(live)
        shades = Counter(
            (item.metadata or {}).get("shade") for item in self.reference.get("things", live) if item
        )
        assert dict(counted.facets[0].values) == {
            shade: n for shade, n in shades.items() if shade is not None
        }

    @rule(
        which=st.integers(0, 1),
        condition=CONDITIONS,
        patch=PATCHES,
        action=st.sampled_from(["merge", "hide", "delete"]),
    )
    def write_by_filter(self, which: int, condition: Any, patch: dict[str, Any], action: str) -> None:
        """As a route does: the ids that a list gives, written where they still pass."""
        ids = self.engines[which].item_source().list_ids("things", ItemsRequest(filter=condition)).ids
        assert ids == self.stored(condition)
        if action == "delete":
            batch = WriteBatch((), [ItemDelete(i) for i in ids], only_where=condition)
        elif action == "merge":
            batch = WriteBatch([ItemWrite(i, merge=patch) for i in ids], only_where=condition)
        else:
            batch = WriteBatch([ItemWrite(i, active=False) for i in ids], only_where=condition)
        got, wanted = self.engines[1 - which].write("things", batch), self.reference.write("things", batch)
        assert (got.upserted, got.deleted, got.passed_over) == (wanted.upserted, wanted.deleted, 0)
        if action != "merge":
            everything = self.engines[which].search("things", [SearchRequest(vector_of(0, self.dim()), 100)])[
                0
            ]
            assert not {hit.id for hit in everything.hits} & set(ids)

    @rule(which=st.integers(0, 1), items_max=st.integers(1, 4))
    def turn_list_page(self, which: int, items_max: int) -> None:
        """One page of a list that goes on while everything else happens."""
        after, seen, throughout = self.listing
        page = (
            self.engines[which].item_source().list_items("things", ItemsRequest(after, items_max=items_max))
        )
        seen = [*seen, *(item.id for item in page.items)]
        assert seen == sorted(set(seen))
        self.listing = (page.next_after, seen, throughout)
        if page.next_after is None:
            assert throughout <= set(seen)
            self.listing = (None, [], set(self.stored(None)))
