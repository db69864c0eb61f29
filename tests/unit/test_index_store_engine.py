"""The engine: several handles on one directory, threads, generations, exactness at size."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index_store.ann.rerank import rescore
from index_store.catalog.pointer import BACKUP_FILE, POINTER_FILE
from index_store.delta.delta import Delta
from index_store.engine.index import EmbeddedIndex
from index_store.errors import PageExpired, StoreDamaged, WriteFailed
from index_store.maintenance.check import check
from index_store.record.rows import Row
from index_store.storage.commit_marks import SharedSeq
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, Metric, SearchRequest, Vector, WriteBatch
from tests.sealing import generation_of
from tests.waiting import until

DIM = 24
SEED = 8_101
SPECS = [CollectionSpec(metric, "int64", DIM, metric) for metric in ("l2", "cosine", "ip")]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    found = opened(tmp_path)
    for spec in SPECS:
        found.advance(spec.name, "begin", "v1")
    yield found
    found.close()
    assert check(tmp_path) == []


def opened(data_dir: Path) -> EmbeddedIndex:
    index = EmbeddedIndex(data_dir, SPECS)
    index.open()
    return index


def upsert(ids: list[int], data: Vector) -> WriteBatch:
    return WriteBatch([ItemWrite(i, v) for i, v in zip(ids, data, strict=True)], (), "v1")


def found_ids(index: EmbeddedIndex, query: Vector, k: int = 10, collection: str = "l2") -> list[object]:
    return [hit.id for hit in index.search(collection, [SearchRequest(query, k)])[0].hits]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_pruning_loses_no_row(index: EmbeddedIndex, metric: Metric, scale: float) -> None:
    """20,000 rows, many of them equal or equal but for the last bits, against every distance in float64."""
    rng = np.random.default_rng(SEED)
    base = rng.standard_normal((2_000, DIM)) * scale
    data = np.repeat(base, 10, axis=0) * (1 + rng.integers(-1, 2, (20_000, 1)) * 2.0**-22)
    data = data.astype(np.float32)
    ids = rng.permutation(20_000).tolist()
    for start in range(0, 20_000, 5_000):
        index.write(metric, upsert(ids[start : start + 5_000], data[start : start + 5_000]))
    for query in (
        data[77],
        (rng.standard_normal(DIM) * scale).astype(np.float32),
        data[5] * np.float32(1.0001),
    ):
        truth = rescore(query, data, metric)
        order = np.lexsort((ids, truth))
        for k in (1, 10, 137, 15_000):
            hits = index.search(metric, [SearchRequest(query, k)])[0].hits
            assert [hit.id for hit in hits] == [ids[row] for row in order[:k]]
            assert [hit.distance for hit in hits] == truth[order[:k]].tolist()


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_a_limit_takes_away_what_lies_beyond_it_alone(metric: Metric, scale: float) -> None:
    """Of rows in codes and of rows not yet, with equal and nearly equal ones about the limit."""
    rng = np.random.default_rng(SEED)
    data = np.repeat(rng.standard_normal((450, DIM)) * scale, 4, axis=0)
    data = (data * (1 + rng.integers(-1, 2, (len(data), 1)) * 2.0**-22)).astype(np.float32)
    delta = Delta(CollectionSpec("c", "int64", DIM, metric))
    for start, stop in ((0, 1300), (1300, len(data))):
        rows = enumerate(data[start:stop].tolist(), start)
        delta.add_rows(
            [Row(i, i, False, True, None, None, None, 0, np.float32(v).tobytes()) for i, v in rows]
        )
    for query in (data[9], (rng.standard_normal(DIM) * scale).astype(np.float32)):
        for allowed in (np.ones(len(data), np.bool_), rng.random(len(data)) < 0.7):
            whole = delta.nearest_rows(query, 60, allowed, None)
            for limit in whole.distances[::7].tolist():
                found = delta.nearest_rows(query, 60, allowed, None, limit)
                count = int(np.searchsorted(whole.distances, limit, side="right"))
                assert found.rows[:count].tolist() == whole.rows[:count].tolist()
                assert (found.distances[count:] > limit).all()


def test_distances_do_not_depend_on_neighbours() -> None:
    rng = np.random.default_rng(SEED)
    for dim in (3, 24, 384, 512):
        data = rng.standard_normal((501, dim)).astype(np.float32)
        query = rng.standard_normal(dim).astype(np.float32)
        for metric in ("l2", "cosine", "ip"):
            together = rescore(query, data, metric)  # type: ignore[arg-type]
            alone = [rescore(query, data[i : i + 1], metric)[0] for i in range(501)]  # type: ignore[arg-type]
            shifted = rescore(query, np.ascontiguousarray(data[::-1]), metric)[::-1]  # type: ignore[arg-type]
            assert together.tolist() == alone == shifted.tolist()


@pytest.mark.long
def test_another_handle_sees_each_write_in_its_next_search(index: EmbeddedIndex, tmp_path: Path) -> None:
    other = opened(tmp_path)
    rng = np.random.default_rng(SEED)
    handles = [index, other]
    for step in range(500):
        vector = rng.standard_normal(DIM).astype(np.float32)
        writer, reader = handles[step % 2], handles[1 - step % 2]
        writer.write("l2", upsert([step], vector[None, :]))
        assert found_ids(reader, vector, 1) == [step]
        if step % 3 == 0:
            writer.write("l2", WriteBatch(deletes=[ItemDelete(step)]))
            assert step not in found_ids(reader, vector, 1000)
    other.close()


@pytest.mark.long
def test_another_process_sees_each_write_in_its_next_search(tmp_path: Path) -> None:
    """With a clock that stands still: nothing is found by looking now and then."""
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.unit.test_index_store_engine import *\n"
        "index = opened(Path(sys.argv[1]))\n"
        "print('open', flush=True)\n"
        "for line in sys.stdin:\n"
        "    index.write('l2', upsert([int(line)], np.full((1, DIM), 1 + int(line), np.float32)))\n"
        "    print('written', flush=True)\n"
    )
    index = EmbeddedIndex(tmp_path, SPECS, clock=lambda: 1.0)
    index.open()
    for spec in SPECS:
        index.advance(spec.name, "begin", "v1")
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "open\n"
        for step in range(100):
            other.stdin.write(f"{step}\n")
            other.stdin.flush()
            assert other.stdout.readline() == "written\n"
            assert found_ids(index, np.full(DIM, 1 + step, np.float32), 1) == [step]
        other.stdin.close()
    index.close()
    assert check(tmp_path) == []


def test_what_others_would_not_be_told_of_is_not_acknowledged(
    index: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = np.ones((1, DIM), np.float32)
    index.write("l2", upsert([1], vector))
    with monkeypatch.context() as patched:
        patched.setattr(SharedSeq, "publish", _no_room)
        with pytest.raises(WriteFailed, match="repeating it is safe"):
            index.write("l2", upsert([2], vector))
    index.write("l2", upsert([2], vector))
    assert found_ids(index, vector[0]) == [1, 2]


def _no_room(_self: SharedSeq, _seq: int) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_another_handle_follows_the_generations(index: EmbeddedIndex, tmp_path: Path) -> None:
    other = opened(tmp_path)
    vector = np.ones(DIM, dtype=np.float32)
    index.write("l2", upsert([1], vector[None, :]))
    index.advance("l2", "begin", "v2")
    other.write("l2", WriteBatch([ItemWrite(2, vector)], (), "v2"))
    index.advance("l2", "promote", "v2")
    assert found_ids(other, vector) == [2]
    other.advance("l2", "rollback", "v1")
    assert found_ids(index, vector) == [1]
    index.advance("l2", "begin", "v3")
    index.advance("l2", "promote", "v3")  # v2 is retired: its directory goes
    assert not (tmp_path / "collections" / "l2" / "g000002").exists()
    assert found_ids(other, vector) == []
    other.close()


@pytest.mark.slow
def test_searches_go_on_while_rows_change(index: EmbeddedIndex) -> None:
    """Four threads search; one moves, deletes and restores. Every answer is whole and of one moment."""
    rng = np.random.default_rng(SEED)
    data = rng.standard_normal((400, DIM)).astype(np.float32)
    index.write("l2", upsert(list(range(400)), data))
    stop = threading.Event()
    problems: list[str] = []
    answers = [0]

    def look() -> None:
        while not stop.is_set():
            result = index.search("l2", [SearchRequest(data[3], 400, with_vectors=True)])[0]
            ids = [hit.id for hit in result.hits]
            if len(set(ids)) != len(ids) or len(ids) not in (399, 400):
                problems.append(f"{len(ids)} hits")
            for hit in result.hits:
                if hit.vector is None or hit.distance != rescore(data[3], hit.vector[None, :], "l2")[0]:
                    problems.append(f"id {hit.id} is torn")
            answers[0] += 1

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    chance = random.Random(SEED)
    for _ in range(80):
        item_id = chance.randrange(400)
        index.write("l2", WriteBatch(deletes=[ItemDelete(item_id)]))
        index.write("l2", upsert([item_id], data[item_id][None, :] + np.float32(chance.random())))
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == [] and answers[0] > 20


@pytest.mark.slow
def test_rows_are_compacted_and_old_pages_refused(index: EmbeddedIndex) -> None:
    rng = np.random.default_rng(SEED)
    data = rng.standard_normal((6_000, DIM)).astype(np.float32)
    index.write("l2", upsert(list(range(6_000)), data))
    page = index.search("l2", [SearchRequest(data[0], 10)])[0].next_page
    for shift in range(1, 5):
        index.write("l2", upsert(list(range(6_000)), data + np.float32(shift)))
        moved = data + np.float32(shift)
        assert found_ids(index, moved[17], 1) == [17]
        result = index.search("l2", [SearchRequest(data[0], 7_000)])[0]
        assert sorted(int(hit.id) for hit in result.hits) == list(range(6_000))
    generation = generation_of(index, "l2")
    until(lambda: generation.refresh().count < 4 * 6_000)
    with pytest.raises(PageExpired):
        index.search("l2", [SearchRequest(data[0], 10, after=page)])


def test_a_page_from_another_handle_is_right_or_refused(index: EmbeddedIndex, tmp_path: Path) -> None:
    other = opened(tmp_path)
    data = np.arange(1, 11, dtype=np.float32)[:, None] * np.ones(DIM, dtype=np.float32)
    index.write("l2", upsert(list(range(10)), data))
    assert len(found_ids(other, data[0])) == 10
    index.write("l2", upsert([5], data[9][None, :]))
    page = index.search("l2", [SearchRequest(data[0], 4)])[0].next_page
    index.write("l2", upsert([5], data[0][None, :]))
    with pytest.raises(PageExpired):  # it never saw the state that the page is pinned to
        other.search("l2", [SearchRequest(data[0], 10, after=page)])
    rest = index.search("l2", [SearchRequest(data[0], 10, after=page)])[0]
    assert [hit.id for hit in rest.hits] == [4, 6, 7, 8, 5, 9]
    other.close()


@pytest.mark.slow
def test_every_flipped_byte_of_the_pointer_is_found(index: EmbeddedIndex, tmp_path: Path) -> None:
    index.advance("l2", "begin", "v2")
    index.close()
    path = tmp_path / "collections" / "l2" / POINTER_FILE
    backup = path.with_name(BACKUP_FILE)
    sound = path.read_bytes()
    assert backup.read_bytes() == sound
    for place in range(len(sound)):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        assert check(tmp_path) != [], f"byte {place}"
    again = opened(tmp_path)  # the copy serves
    status = again.status("l2")
    assert status.current is not None and status.current.embedding_version == "v1"
    again.close()
    backup.write_bytes(sound[:-9])
    again = opened(tmp_path)
    with pytest.raises(StoreDamaged, match="generations"):
        again.status("l2")
    again.close()
    path.write_bytes(sound)
    backup.write_bytes(sound)


def test_what_a_crash_left_unpublished_is_swept(index: EmbeddedIndex, tmp_path: Path) -> None:
    index.close()
    left = tmp_path / "collections" / "l2" / "g000002"
    left.mkdir()
    (left / "store.sqlite").write_bytes(b"half")
    index.open()
    assert not left.exists()
    index.advance("l2", "begin", "v2")


def test_a_hundred_thousand_excluded_ids(index: EmbeddedIndex) -> None:
    rng = np.random.default_rng(SEED)
    data = rng.standard_normal((3_000, DIM)).astype(np.float32)
    index.write("l2", upsert(list(range(3_000)), data))
    order = found_ids(index, data[0], 3_000)
    excluded = [*range(10_000, 108_000), *(int(i) for i in order[:2_000])]  # type: ignore[call-overload]
    hits = index.search("l2", [SearchRequest(data[0], 3_000, exclude_ids=excluded)])[0].hits
    assert [hit.id for hit in hits] == order[2_000:]


def test_filters_are_remembered_within_a_bound(index: EmbeddedIndex) -> None:
    vector = np.ones(DIM, dtype=np.float32)
    index.write("l2", WriteBatch([ItemWrite(i, vector, True, {"n": i}) for i in range(100)], (), "v1"))
    for bound in range(100):
        request = SearchRequest(vector, 200, filter={"n": {"$lt": bound}})
        assert len(index.search("l2", [request, request])[0].hits) == bound
    index.write("l2", WriteBatch([ItemWrite(500, vector, True, {"n": -1})], (), "v1"))
    request = SearchRequest(vector, 200, filter={"n": {"$lt": 99}})
    assert len(index.search("l2", [request])[0].hits) == 100


@pytest.mark.slow
def test_a_generation_begun_under_writes_misses_none(index: EmbeddedIndex, tmp_path: Path) -> None:
    """Deletes and deactivations that race with `begin`, from two handles, reach the new generation."""
    print(f"seed {SEED}")
    other = opened(tmp_path)
    data = np.random.default_rng(SEED).standard_normal((800, DIM)).astype(np.float32)
    for round_number in range(4):
        index.write("l2", WriteBatch([ItemWrite(i, v, True) for i, v in enumerate(data)], (), "v1"))
        version = f"next-{round_number}"
        begun = threading.Event()

        def change(handle: EmbeddedIndex, first: int, begun: threading.Event = begun) -> None:
            for item_id in range(first, 800, 4):
                if item_id > 700:
                    begun.wait(30)
                if item_id % 3:
                    handle.write("l2", WriteBatch([ItemWrite(item_id, active=False)]))
                else:
                    handle.write("l2", WriteBatch(deletes=[ItemDelete(item_id)]))

        threads = [
            threading.Thread(target=change, args=(handle, first))
            for first, handle in enumerate((index, other, index, other))
        ]
        for thread in threads:
            thread.start()
        index.advance("l2", "begin", version)
        begun.set()
        for thread in threads:
            thread.join()
        index.write("l2", WriteBatch([ItemWrite(i, v) for i, v in enumerate(data)], (), version))
        deleted_or_off = index.status("l2").others[0]
        # Deleted ids come back with the new vectors, deactivated ones must stay off.
        assert deleted_or_off.live == sum(i % 3 == 0 for i in range(800))
        index.advance("l2", "abort", version)
    other.close()


def test_a_handle_is_caught_up_until_there_is_something_to_do(tmp_path: Path) -> None:
    now = [1.0]
    ours, other = EmbeddedIndex(tmp_path, SPECS, clock=lambda: now[0]), opened(tmp_path)
    ours.open()
    query = np.ones(DIM, np.float32)
    assert not ours.is_caught_up("l2"), "there is no generation yet"
    other.advance("l2", "begin", "v1")
    assert not ours.is_caught_up("l2"), "the pointer has moved"

    def search() -> None:
        found_ids(ours, query)
        assert ours.is_caught_up("l2")

    search()
    other.write("l2", upsert([1], query[None, :]))
    assert not ours.is_caught_up("l2"), "another process has committed"
    search()
    now[0] += 10
    assert not ours.is_caught_up("l2"), "it is time to look at the files"
    search()
    other.advance("l2", "begin", "v2")
    assert not ours.is_caught_up("l2"), "the pointer has moved again"
    search()
    ours.close()
    assert not ours.is_caught_up("l2"), "it is closed"
    other.close()
