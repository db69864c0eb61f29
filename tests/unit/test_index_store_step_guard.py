"""What the serving generation hides is shown by no promotion and no rollback, whoever fills the other one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.engine.step_guard import nothing_shown_again
from index_store.errors import GenerationConflict
from index_store.storage.store import Store
from index_store.types import CollectionSpec, Id, ItemDelete, ItemWrite, SearchRequest, WriteBatch
from item_rules.ids import IdKind

NAME = "things"
OTHER = {"v1": "v2", "v2": "v1"}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    index = EmbeddedIndex(tmp_path, [CollectionSpec(NAME, "int64", 4, "l2")])
    index.open()
    index.advance(NAME, "begin", "v1")
    items = [ItemWrite(n, vector(n), True) for n in range(1, 9)]
    index.write(NAME, WriteBatch(items, embedding_version="v1"))
    index.advance(NAME, "begin", "v2")
    index.write(NAME, WriteBatch(items, embedding_version="v2"))
    yield index
    index.close()


def vector(number: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[number % 4] * np.float32(number)


def apart(
    index: EmbeddedIndex, version: str, *, hides: tuple[int, ...] = (), deletes: tuple[int, ...] = ()
) -> None:
    """Hide and delete in the generation of this version alone, as its own follower does."""
    batch = WriteBatch(
        [ItemWrite(n, active=False) for n in hides],
        [ItemDelete(n) for n in deletes],
        version,
        except_versions=[OTHER[version]],
    )
    index.write(NAME, batch)


def shown(index: EmbeddedIndex) -> set[Id]:
    return {hit.id for hit in index.search(NAME, [SearchRequest(vector(1), 99)])[0].hits}


@pytest.mark.long
@pytest.mark.parametrize("how", ["hides", "deletes"])
def test_a_step_that_would_show_again_is_refused_and_names_it(index: EmbeddedIndex, how: str) -> None:
    apart(index, "v1", **{how: (3,)})  # type: ignore[arg-type]
    with pytest.raises(GenerationConflict, match=r"1 item.*as 3$"):
        index.advance(NAME, "promote", "v2")
    assert shown(index) == {1, 2, 4, 5, 6, 7, 8}
    index.advance(NAME, "promote", "v2", is_forced=True)
    assert 3 in shown(index)
    apart(index, "v2", **{how: (3, 5)})  # type: ignore[arg-type]
    with pytest.raises(GenerationConflict, match=r"1 item.*as 5$"):
        index.advance(NAME, "rollback", "v1")
    apart(index, "v1", hides=(5,))
    index.advance(NAME, "rollback", "v1")
    assert shown(index) == {1, 2, 4, 6, 7, 8}


def test_what_one_generation_alone_holds_is_no_reason(index: EmbeddedIndex) -> None:
    for version, item_id in (("v2", 20), ("v1", 30)):
        batch = WriteBatch([ItemWrite(item_id, vector(1))], (), version, except_versions=[OTHER[version]])
        index.write(NAME, batch)
    index.advance(NAME, "promote", "v2")
    assert 20 in shown(index) and 30 not in shown(index)
    index.advance(NAME, "rollback", "v1")


def test_whoever_fills_the_other_one_is_waited_for(index: EmbeddedIndex) -> None:
    apart(index, "v1", hides=(3,), deletes=(4,))
    late = threading.Timer(0.1, lambda: apart(index, "v2", hides=(3,), deletes=(4,)))
    late.start()
    index.advance(NAME, "promote", "v2")
    late.join()
    assert shown(index) == {1, 2, 5, 6, 7, 8}


def test_what_is_hidden_or_shown_while_it_waits_counts(index: EmbeddedIndex) -> None:
    """The first look reads every row, each later one what was committed since."""
    now = [0.0]
    shown_again = WriteBatch([ItemWrite(3, active=True)], [ItemDelete(5)], "v2", except_versions=["v1"])
    steps = iter(
        [
            lambda: apart(index, "v1", hides=(5,)),  # nobody holds the lock between two tries
            lambda: apart(index, "v2", hides=(3,)),
            lambda: index.write(NAME, shown_again),
        ]
    )

    def pause(seconds: float) -> None:
        now[0] += seconds
        if seconds >= 0.2:
            next(steps, lambda: None)()

    apart(index, "v1", hides=(3,))
    with ExitStack() as opened:
        generations = opened.enter_context(index._collections[NAME].members()).in_order()
        stores: list[Store] = [each.store for each in generations]
        with (
            pytest.raises(GenerationConflict, match=r"1 item.*as 3$"),
            nothing_shown_again(*stores, clock=lambda: now[0], pause=pause, wait_s=3),
        ):
            raise AssertionError("3 was shown again")
        apart(index, "v2", hides=(3,))
        with nothing_shown_again(*stores, clock=lambda: now[0], pause=pause, wait_s=3):
            pass


def test_nobody_commits_to_the_serving_generation_in_that_moment(index: EmbeddedIndex) -> None:
    with ExitStack() as opened:
        generations = opened.enter_context(index._collections[NAME].members()).in_order()
        stores: list[Store] = [each.store for each in generations]
        writer = threading.Thread(target=lambda: apart(index, "v1", hides=(7,)))
        with nothing_shown_again(*stores):
            writer.start()
            writer.join(0.1)
            assert writer.is_alive() and 7 in shown(index)
        writer.join()
        assert 7 not in shown(index)


@pytest.mark.parametrize("ids", [[1, 2, 10, 2**62], ["a", "가", "a b", "A"]])
def test_lost_ids_are_those_that_only_the_current_one_shows_in_order(tmp_path: Path, ids: list[Any]) -> None:
    directory = tmp_path / "100% #1?"  # its name is part of an address that SQLite reads
    kind: IdKind = "int64" if ids[0] == 1 else "string"
    index = EmbeddedIndex(directory, [CollectionSpec(NAME, kind, 4, "l2")])
    index.open()
    index.advance(NAME, "begin", "v1")
    index.write(NAME, WriteBatch([ItemWrite(each, vector(1), True) for each in ids], embedding_version="v1"))
    index.advance(NAME, "begin", "v2")
    assert index.find_lost(NAME, "v2") == sorted(ids)
    index.write(NAME, WriteBatch([ItemWrite(ids[1], vector(1))], embedding_version="v2"))
    assert index.find_lost(NAME, "v2") == sorted({*ids} - {ids[1]})
    apart(index, "v2", hides=(ids[1],))
    apart(index, "v1", deletes=(ids[0],))
    assert index.find_lost(NAME, "v2") == sorted({*ids} - {ids[0]})
    index.close()
