"""What every `VectorIndex` does alike: one body of tests over the engine and the reference."""

from __future__ import annotations

import numpy as np
import pytest

from index_store.errors import PageExpired, SeqNotReached, UnknownCollection
from index_store.port import VectorIndex
from index_store.postgres.index import PostgresIndex
from index_store.types import (
    ItemDelete,
    ItemWrite,
    PageKey,
    SearchRequest,
    WriteBatch,
)
from tests.contract.vectors import SPECS, AnyIndex, begin_all, fill, find, put, vectors
from tests.reference_distance import distance_of
from tests.reference_index import ReferenceIndex


def test_nearest_first_with_distances_of_the_metric(index: VectorIndex) -> None:
    for spec in SPECS:
        data = fill(index, 300, spec.name)
        query = vectors(1, seed=3)[0]
        hits = index.search(spec.name, [SearchRequest(query, 300)])[0].hits
        by_id = {(f"n{i:04}" if spec.name == "names" else i): data[i] for i in range(300)}
        assert [hit.id for hit in hits] == sorted(
            by_id, key=lambda one: (distance_of(spec.metric, query, by_id[one]), one)
        )
        for hit in hits:
            assert hit.distance == pytest.approx(distance_of(spec.metric, query, by_id[hit.id]), abs=1e-9)


def test_identical_vectors_are_at_distance_zero_and_tie_by_id(index: VectorIndex) -> None:
    same = vectors(1)[0]
    put(index, [ItemWrite(i, same) for i in range(3000, 0, -1)])
    put(index, [ItemWrite(10_000 + i, same + np.float32(1)) for i in range(3000)])
    hits = index.search("numbers", [SearchRequest(same, 7)])[0].hits
    assert [(hit.id, hit.distance) for hit in hits] == [(i, 0.0) for i in range(1, 8)]
    put(index, [ItemWrite(name, same) for name in ("b", "a", "나", "가")], "names")
    hits = index.search("names", [SearchRequest(same * np.float32(3), 3)])[0].hits
    assert [hit.id for hit in hits] == ["a", "b", "가"]
    assert all(hit.distance < 1e-12 for hit in hits)


def test_written_is_found_and_deleted_is_gone_at_once(index: VectorIndex) -> None:
    data = fill(index, 20)
    assert find(index, data[7], 1) == [7]
    ack = index.write("numbers", WriteBatch(deletes=[ItemDelete(7), ItemDelete(999)]))
    assert (ack.upserted, ack.deleted, ack.stale_ignored) == (0, 1, 0)
    assert 7 not in find(index, data[7], 100)
    assert index.get("numbers", [7, 8])[0] is None
    put(index, [ItemWrite(7, data[7])])
    assert find(index, data[7], 1) == [7]


@pytest.mark.parametrize(
    ("batch", "vanished", "reappeared"),
    [
        (WriteBatch(deletes=[ItemDelete(1), ItemDelete(2), ItemDelete(999, 5)]), 2, 0),
        (WriteBatch(items=[ItemWrite(1, active=False), ItemWrite(7, active=False)]), 1, 0),
        (WriteBatch(items=[ItemWrite(1, active=True), ItemWrite(7, active=True)]), 0, 1),
        (WriteBatch(items=[ItemWrite(8, vectors(1)[0])], embedding_version="v1"), 0, 1),
        (WriteBatch(items=[ItemWrite(55, vectors(1)[0])], embedding_version="v1"), 0, 0),
        (WriteBatch(items=[ItemWrite(1, active=False), ItemWrite(1, active=True)]), 0, 0),
    ],
    ids=["deleted", "deactivated", "activated", "deleted before", "new", "twice"],
)
def test_a_write_tells_what_vanished_and_what_came_back(
    index: VectorIndex, batch: WriteBatch, vanished: int, reappeared: int
) -> None:
    """7 is inactive, 8 deleted."""
    data = vectors(10)
    put(index, [ItemWrite(number, data[number], number != 7) for number in range(10)])
    index.write("numbers", WriteBatch(deletes=[ItemDelete(8)]))
    ack = index.write("numbers", batch)
    assert (ack.vanished, ack.reappeared) == (vanished, reappeared)


def test_activity_and_vectors_are_two_facts(index: VectorIndex) -> None:
    data = fill(index, 5)
    index.write("numbers", WriteBatch([ItemWrite(3, active=False)]))
    assert 3 not in find(index, data[3], 10)
    put(index, [ItemWrite(3, data[4])])  # a new vector does not reactivate
    assert 3 not in find(index, data[3], 10)
    index.write("numbers", WriteBatch([ItemWrite(3, active=True)]))
    assert find(index, data[4], 2) == [3, 4]
    status = index.status("numbers").current
    assert status is not None and (status.items, status.live) == (5, 5)


def test_what_is_said_of_an_unknown_id_without_a_vector_is_reported_and_stored_nowhere(
    index: VectorIndex,
) -> None:
    data = fill(index, 5)
    index.write("numbers", WriteBatch(deletes=[ItemDelete(4), ItemDelete(77, 10)]))
    before = index.digest("numbers")
    said = [
        ItemWrite(3, active=True),
        ItemWrite(50, active=True),
        ItemWrite(51, active=False),
        ItemWrite(52, metadata={"n": 1}),
        ItemWrite(53, content_hash=b"x"),
        ItemWrite(4, active=True),  # deleted
        ItemWrite(77, active=True, source_version=11),  # deleted before it came
        ItemWrite(77, active=True, source_version=9),
    ]
    ack = index.write("numbers", WriteBatch(said))
    assert (ack.upserted, ack.stale_ignored) == (1, 0)
    assert sorted(ack.unknown_ids) == [4, 50, 51, 52, 53, 77]
    assert index.get("numbers", [4, 50, 51, 52, 53, 77]) == [None] * 6
    assert index.digest("numbers").root == before.root and index.digest("numbers").items == before.items == 4
    put(index, [ItemWrite(77, data[0], source_version=10)])
    assert index.get("numbers", [77]) == [None], "the tombstone of a delete that came first still holds"


def test_a_batch_knows_its_own_vectors_and_deletes(index: VectorIndex) -> None:
    data = vectors(2)
    batch = WriteBatch(
        [
            ItemWrite(2, active=False),
            ItemWrite(1, data[0]),
            ItemWrite(1, active=False),
            ItemWrite(3, data[1]),
        ],
        [ItemDelete(3)],
        "v1",
    )
    ack = index.write("numbers", batch)
    assert (ack.upserted, list(ack.unknown_ids)) == (3, [2])
    item = index.get("numbers", [1])[0]
    assert item is not None and not item.active
    assert index.write("numbers", WriteBatch([ItemWrite(3, active=True)])).unknown_ids == (3,)


def test_activity_is_told_to_the_next_generation_ahead_of_its_vectors(index: VectorIndex) -> None:
    data = fill(index, 4)
    index.advance("numbers", "begin", "v2")
    put(index, [ItemWrite(1, data[1])], version="v2")
    put(index, [ItemWrite(20, data[0], active=True)], version="v1")  # new while v2 is being built
    put(index, [ItemWrite(30, data[2], active=True)], version="v2")  # so far in v2 alone
    assert index.get("numbers", [30]) == [None]
    ack = index.write("numbers", WriteBatch([ItemWrite(i, active=False) for i in (1, 2, 20, 30, 40)]))
    assert list(ack.unknown_ids) == [40]
    put(index, [ItemWrite(2, data[2]), ItemWrite(20, data[0]), ItemWrite(3, data[3])], version="v2")
    index.advance("numbers", "promote", "v2")
    assert find(index, data[0], 9) == [3], "what went off sale before its vector came stays off sale"
    assert index.get("numbers", [40]) == [None]


def test_an_older_source_version_is_ignored(index: VectorIndex) -> None:
    data = vectors(3)
    put(index, [ItemWrite(1, data[0], source_version=10)])
    ack = index.write(
        "numbers", WriteBatch([ItemWrite(1, data[1], source_version=9)], embedding_version="v1")
    )
    assert (ack.upserted, ack.stale_ignored) == (0, 1)
    put(index, [ItemWrite(1, data[1], source_version=10)])  # equal applies again
    assert find(index, data[1], 1) == [1]
    put(index, [ItemWrite(1, data[2])])  # no version always applies, and keeps the stored one
    item = index.get("numbers", [1])[0]
    assert item is not None and item.source_version == 10
    assert index.write("numbers", WriteBatch(deletes=[ItemDelete(1, 9)])).stale_ignored == 1
    assert index.write("numbers", WriteBatch(deletes=[ItemDelete(1)])).deleted == 1
    for stale in (9, 10):
        ack = index.write(
            "numbers", WriteBatch([ItemWrite(1, data[0], source_version=stale)], embedding_version="v1")
        )
        assert ack.stale_ignored == 1
    assert index.get("numbers", [1]) == [None]
    put(index, [ItemWrite(1, data[0], source_version=11)])
    assert find(index, data[0], 1) == [1]


def test_a_delete_that_comes_first_wins_over_older_writes(index: VectorIndex) -> None:
    ack = index.write("numbers", WriteBatch(deletes=[ItemDelete(5, 100)]))
    assert ack.deleted == 0
    put(index, [ItemWrite(5, vectors(1)[0], source_version=99)])
    assert index.get("numbers", [5]) == [None]


def test_none_keeps_what_is_stored(index: VectorIndex) -> None:
    data = vectors(2)
    put(index, [ItemWrite(1, data[0], metadata={"a": 1}, content_hash=b"x")])
    index.write("numbers", WriteBatch([ItemWrite(1, metadata={"b": 2})]))
    item = index.get("numbers", [1])[0]
    assert item is not None and item.vector is not None
    assert item.metadata == {"b": 2} and item.content_hash == b"x"
    assert np.array_equal(item.vector, data[0])
    put(index, [ItemWrite(1, data[1])])  # the content_hash told of the old vector
    item = index.get("numbers", [1])[0]
    assert item is not None and item.metadata == {"b": 2} and item.content_hash is None


def test_items_then_deletes_in_order_in_one_batch(index: VectorIndex) -> None:
    data = vectors(2)
    batch = WriteBatch(
        [ItemWrite(1, data[0]), ItemWrite(1, data[1]), ItemWrite(2, data[0])], [ItemDelete(2)], "v1"
    )
    ack = index.write("numbers", batch)
    assert (ack.upserted, ack.deleted, ack.seq) == (3, 1, 4)
    assert find(index, data[1], 9) == [1]


def test_excluded_ids_never_come_and_never_shorten_the_answer(index: VectorIndex) -> None:
    data = fill(index, 200)
    everything = find(index, data[0], 200)
    excluded = np.array([*everything[:100], *range(10_000, 200_000)])
    assert find(index, data[0], 50, exclude_ids=excluded) == everything[100:150]
    assert find(index, data[0], 500, exclude_ids=excluded.tolist()) == everything[100:]
    assert find(index, data[0], 5, exclude_ids=everything) == []
    named = fill(index, 30, "names")
    order = find(index, named[0], 30, "names")
    assert find(index, named[0], 30, "names", exclude_ids=order[:10]) == order[10:]


def test_excluded_ids_hold_after_updates_of_the_same_ids(index: VectorIndex) -> None:
    data = fill(index, 50)
    put(index, [ItemWrite(i, data[i] + np.float32(0.01)) for i in range(25)])
    assert set(find(index, data[0], 50, exclude_ids=list(range(20)))) == set(range(20, 50))


def test_offset_and_pages_agree(index: VectorIndex) -> None:
    data = fill(index, 57)
    everything = find(index, data[0], 100)
    assert find(index, data[0], 10, offset=20) == everything[20:30]
    seen, after = [], None
    while True:
        result = index.search("numbers", [SearchRequest(data[0], 10, after=after)])[0]
        seen.extend(hit.id for hit in result.hits)
        assert result.exhausted is (result.next_page is None)
        if result.next_page is None:
            break
        after = result.next_page
    assert seen == everything


def test_pages_neither_repeat_nor_skip_across_writes(index: VectorIndex) -> None:
    data = fill(index, 40)
    everything = find(index, data[0], 40)
    first = index.search("numbers", [SearchRequest(data[0], 10)])[0]
    moved, gone, off = everything[15], everything[17], everything[19]
    put(index, [ItemWrite(moved, data[0]), ItemWrite(everything[3], -data[0]), ItemWrite(500, data[0])])
    index.write("numbers", WriteBatch([ItemWrite(off, active=False)], [ItemDelete(gone)]))
    rest = index.search("numbers", [SearchRequest(data[0], 100, after=first.next_page)])[0]
    assert [hit.id for hit in rest.hits] == [i for i in everything[10:] if i not in (gone, off)]
    assert rest.seq == first.seq and rest.exhausted


@pytest.mark.long
def test_pages_through_ties(index: VectorIndex) -> None:
    same = vectors(1)[0]
    put(index, [ItemWrite(i, same) for i in range(2500)])
    first = index.search("numbers", [SearchRequest(same, 1000)])[0]
    second = index.search("numbers", [SearchRequest(same, 1000, after=first.next_page)])[0]
    third = index.search("numbers", [SearchRequest(same, 1000, after=second.next_page)])[0]
    assert [h.id for r in (first, second, third) for h in r.hits] == list(range(2500))
    assert third.exhausted and not second.exhausted


def test_a_page_of_another_generation_is_refused(index: VectorIndex) -> None:
    data = fill(index, 3)
    for key in (
        PageKey("other", 3, 0.0, 1),
        PageKey(index.search("numbers", [SearchRequest(data[0], 1)])[0].generation, 99, 0.0, 1),
    ):
        with pytest.raises(PageExpired):
            find(index, data[0], 1, after=key)


def test_max_distance_bounds_the_answer(index: VectorIndex) -> None:
    data = fill(index, 50)
    hits = index.search("numbers", [SearchRequest(data[0], 50)])[0].hits
    limit = hits[9].distance
    result = index.search("numbers", [SearchRequest(data[0], 50, max_distance=limit)])[0]
    assert [h.id for h in result.hits] == [h.id for h in hits[:10]] and result.exhausted


def test_hits_carry_what_was_asked_for(index: VectorIndex) -> None:
    data = fill(index, 3)
    bare = index.search("numbers", [SearchRequest(data[1], 1)])[0].hits[0]
    assert bare.metadata is None and bare.vector is None
    full = index.search("numbers", [SearchRequest(data[1], 1, with_metadata=True, with_vectors=True)])[
        0
    ].hits[0]
    assert full.metadata == {"n": 1, "even": False}
    assert full.vector is not None and np.array_equal(full.vector, data[1])


def test_several_requests_are_answered_in_order(index: VectorIndex) -> None:
    data = fill(index, 10)
    results = index.search("numbers", [SearchRequest(data[i], 1) for i in range(10)])
    assert [result.hits[0].id for result in results] == list(range(10))
    assert index.search("numbers", []) == []


def test_large_k_and_empty_collections(index: VectorIndex) -> None:
    query = vectors(1)[0]
    empty = index.search("numbers", [SearchRequest(query, 10_000)])[0]
    assert list(empty.hits) == [] and empty.exhausted and empty.next_page is None
    fill(index, 12)
    result = index.search("numbers", [SearchRequest(query, 10_000, offset=2)])[0]
    assert len(result.hits) == 10 and result.exhausted


def test_min_seq(index: VectorIndex) -> None:
    data = fill(index, 2)
    assert find(index, data[0], 1, min_seq=2) == [0]
    with pytest.raises(SeqNotReached):
        find(index, data[0], 1, min_seq=3)


def test_newest_seq_is_that_of_the_last_write(index: AnyIndex) -> None:
    """Over a server nobody hears of what others commit: a search has to look."""
    is_told = not isinstance(index, PostgresIndex)
    fill(index, 2)
    assert index.newest_seq("numbers") == (2 if is_told else None)
    put(index, [ItemWrite(7, vectors(1)[0])])
    assert index.newest_seq("numbers") == (3 if is_told else None)
    assert index.newest_seq("names") == (0 if is_told else None)
    with pytest.raises(UnknownCollection):
        index.newest_seq("nowhere")


def test_cursors_come_with_the_rows(index: VectorIndex) -> None:
    index.write("numbers", WriteBatch([ItemWrite(1, vectors(1)[0])], (), "v1", {"pg": "0/1", "maria": "x"}))
    index.write("numbers", WriteBatch(cursors={"pg": "0/2"}))
    current = index.status("numbers").current
    assert current is not None and dict(current.cursors) == {"pg": "0/2", "maria": "x"}


def test_digests_are_equal_for_equal_content_only(index: VectorIndex) -> None:
    other = ReferenceIndex(SPECS)
    begin_all(other)
    data = vectors(60)
    put(index, [ItemWrite(i, data[i]) for i in range(60)])
    put(other, [ItemWrite(i, data[i]) for i in reversed(range(70)) if i < 60])
    index.write(
        "numbers",
        WriteBatch([ItemWrite(3, active=False), ItemWrite(7, content_hash=b"c")], [ItemDelete(9, 5)]),
    )
    assert index.digest("numbers").root != other.digest("numbers").root
    other.write("numbers", WriteBatch(deletes=[ItemDelete(9)]))
    other.write("numbers", WriteBatch([ItemWrite(7, content_hash=b"c"), ItemWrite(3, active=False)]))
    mine, theirs = index.digest("numbers"), other.digest("numbers")
    assert mine.root == theirs.root and mine.items == theirs.items == 59
    for bucket in np.flatnonzero(mine.buckets)[:20].tolist():
        rows = sorted(index.digest_rows("numbers", [bucket]), key=lambda row: row.id)
        assert rows == sorted(other.digest_rows("numbers", [bucket]), key=lambda row: row.id)
        assert sum(row.sum for row in rows) % 2**64 == int(mine.buckets[bucket])
    together = list(index.digest_rows("numbers", range(len(mine.buckets))))
    assert len(together) == mine.items and len({row.id for row in together}) == mine.items
    fine = index.digest("numbers", 2**16)
    assert (fine.root, fine.items, fine.seq) == (mine.root, mine.items, mine.seq)
    assert np.array_equal(fine.buckets, other.digest("numbers", 2**16).buckets)
    assert np.array_equal(fine.buckets.reshape(-1, 4096).sum(axis=0), mine.buckets)
    coarse = index.digest("numbers", 2)
    assert coarse.root == mine.root and np.array_equal(coarse.buckets, other.digest("numbers", 2).buckets)
    for part in np.flatnonzero(fine.buckets).tolist():
        rows = list(index.digest_rows("numbers", [part], 2**16))
        assert rows == list(other.digest_rows("numbers", [part], 2**16))
        assert sum(row.sum for row in rows) % 2**64 == int(fine.buckets[part])
    some = np.flatnonzero(fine.buckets)[5:25].tolist()
    listed = {row.id for row in index.digest_rows("numbers", some, 2**16)}
    assert listed == {row.id for row in other.digest_rows("numbers", some, 2**16)}


def test_a_model_change_from_begin_to_rollback(index: VectorIndex) -> None:
    data = fill(index, 10)
    index.write("numbers", WriteBatch([ItemWrite(4, active=False)], [ItemDelete(5, 7)]))
    status = index.advance("numbers", "begin", "v2")
    assert [(s.role, s.embedding_version, s.live) for s in status.others] == [("next", "v2", 0)]
    put(index, [ItemWrite(i, data[9 - i], source_version=6) for i in range(10)], version="v2")
    index.write("numbers", WriteBatch([ItemWrite(6, active=False)], [ItemDelete(7)]))
    put(index, [ItemWrite(11, data[0], active=True)], version="v1")  # v2 has no vector of it
    assert find(index, data[0], 2) == [0, 11]
    index.advance("numbers", "promote", "v2")
    assert find(index, data[0], 1) == [9]
    found = find(index, data[0], 99)
    assert set(found) == {0, 1, 2, 3, 8, 9}  # 4, 6 inactive, 5, 7 deleted, 11 not embedded yet
    index.write("numbers", WriteBatch(deletes=[ItemDelete(0)]))
    index.advance("numbers", "rollback", "v1")
    assert find(index, data[0], 1) == [11]
    assert set(find(index, data[0], 99)) == {1, 2, 3, 8, 9, 11}
    index.advance("numbers", "begin", "v3")
    index.advance("numbers", "abort", "v3")
    assert [s.embedding_version for s in index.status("numbers").others] == ["v2"]


def test_a_page_does_not_outlive_its_generation(index: VectorIndex) -> None:
    data = fill(index, 9)
    page = index.search("numbers", [SearchRequest(data[0], 3)])[0].next_page
    index.advance("numbers", "begin", "v2")
    index.advance("numbers", "promote", "v2")
    with pytest.raises(PageExpired):
        find(index, data[0], 3, after=page)
