"""What a process knows of the generations of a collection in PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

from index_store.postgres.generations import GenerationRecord, collection_record, newest_of
from tests.contract.vectors import SPECS

ROW = (1, None, None, 0.0, 1, "v1", 8, 5, 0, 3, 3, 0, 0, "", 0, 1.0)
KNOWN = collection_record(SPECS[0], [ROW])


def generation(head: int, ef: int = 0) -> GenerationRecord:
    return replace(KNOWN.in_order[0], head=head, ef=ef)


def test_a_head_is_never_taken_back() -> None:
    assert newest_of(KNOWN, generation(4)) == KNOWN
    assert newest_of(KNOWN, generation(6)).in_order == [generation(6)]
    assert newest_of(KNOWN, generation(5, ef=80)).in_order == [generation(5, ef=80)], "measured meanwhile"
    heard = replace(KNOWN, members={"g000001": generation(4)})
    assert newest_of(KNOWN, heard).in_order == [generation(5)]


def test_what_is_heard_of_a_step_holds_and_of_a_dropped_generation_nothing() -> None:
    following = collection_record(
        SPECS[0], [(2, None, 1, 9.0, *ROW[4:]), (2, None, 1, 9.0, 2, "v2", *ROW[6:])]
    )
    assert newest_of(KNOWN, following) == following
    assert [each.number for each in following.in_order] == [2, 1]
    assert newest_of(following, replace(generation(9), number=7)) == following
