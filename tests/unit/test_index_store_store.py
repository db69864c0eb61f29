"""The store of record: rot, full disks, digests, concurrent callers."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index_store.__main__ import main
from index_store.engine.index import EmbeddedIndex, EngineLimits
from index_store.errors import ReadOnly, StoreDamaged, StoreUnavailable, Unavailable
from index_store.maintenance.check import check
from index_store.record import digest
from index_store.record.digest import BUCKETS, ShareHasher, bucket_of, root_of
from index_store.storage.store import Store
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, SearchRequest, Vector, WriteBatch

SPEC = CollectionSpec("things", "int64", 32, "l2")
NAMED = CollectionSpec("named", "string", 32, "cosine")
SEED = 5_512


def vectors(count: int) -> Vector:
    found: Vector = np.random.default_rng(SEED).standard_normal((count, SPEC.dim), dtype=np.float32)
    return found


def opened(data_dir: Path) -> EmbeddedIndex:
    index = EmbeddedIndex(data_dir, [SPEC, NAMED])
    index.open()
    return index


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    found = opened(tmp_path)
    found.advance("things", "begin", "v1")
    found.advance("named", "begin", "v1")
    yield found
    found.close()
    assert check(tmp_path) == []


def put(index: EmbeddedIndex, count: int) -> Vector:
    data = vectors(count)
    index.write("things", WriteBatch([ItemWrite(i, data[i], True, {"n": i}) for i in range(count)], (), "v1"))
    return data


def store_path(data_dir: Path) -> Path:
    return data_dir / "collections" / "things" / "g000001" / "store.sqlite"


def found_ids(index: EmbeddedIndex, query: Vector, k: int = 10_000) -> list[object]:
    return [hit.id for hit in index.search("things", [SearchRequest(query, k)])[0].hits]


def test_settings_of_the_file(index: EmbeddedIndex, tmp_path: Path) -> None:
    put(index, 3)
    connection = sqlite3.connect(store_path(tmp_path))
    assert connection.execute("PRAGMA page_size").fetchone() == (16384,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(item)")]
    assert columns[-1] == "vector"
    plan = connection.execute("EXPLAIN QUERY PLAN SELECT seq FROM item WHERE seq>1 LIMIT 1").fetchall()
    assert "COVERING INDEX item_seq" in plan[0][-1]
    connection.close()


def test_a_generation_without_vectors_is_opened_without_reading_its_rows(
    index: EmbeddedIndex, tmp_path: Path
) -> None:
    """Searches wait for whoever follows a generation that has just begun with all ids of the current one."""
    put(index, 40)
    index.advance("things", "begin", "v2")
    directory = tmp_path / "collections" / "things"
    for name, version, seq in (("g000001", "v1", None), ("g000002", "v2", 40)):
        store = Store(directory / name, version)
        store.open(SPEC)
        page = store.page_without_vectors()
        assert (None if page is None else (list(page.rows), page.seq, page.live)) == (seq and ([], seq, 0))
        store.close()


def test_seq_is_gapless_in_commit_order(index: EmbeddedIndex) -> None:
    data = vectors(200)
    seqs: list[int] = []

    def write(first: int) -> None:
        for i in range(first, first + 25):
            seqs.append(index.write("things", WriteBatch([ItemWrite(i, data[i])], (), "v1")).seq)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seqs) == list(range(1, 201))


def test_the_digest_can_be_recomputed_from_the_written_rule(index: EmbeddedIndex) -> None:
    """By the words of docs/FORMAT.md alone, in no other way than a feeder would."""
    data = put(index, 50)
    index.write(
        "things",
        WriteBatch([ItemWrite(7, active=False), ItemWrite(8, content_hash=b"abc")], [ItemDelete(9)]),
    )
    sums = [0] * 4096
    rows = [(i, data[i].astype("<f4").tobytes(), 0b10 | (i != 7)) for i in range(50) if i not in (8, 9)]
    rows.append((8, b"abc", 0b111))
    for item_id, content, flags in rows:
        name = item_id.to_bytes(8, "little", signed=True)
        share = hashlib.sha256(b"v1" + b"\0" + name + bytes([flags]) + content).digest()[:8]
        bucket = zlib.crc32(name) & 4095
        sums[bucket] = (sums[bucket] + int.from_bytes(share, "little")) % 2**64
    packed = b"".join(value.to_bytes(8, "little") for value in sums)
    found = index.digest("things")
    assert found.root == hashlib.sha256(packed).hexdigest()
    assert found.buckets.tolist() == sums and found.items == 49


def test_the_examples_of_the_format_page() -> None:
    hasher = ShareHasher("demo-1")
    vector = np.array([1, 2], dtype="<f4").tobytes()
    lines = {
        f"int64 42: bucket {bucket_of(42)}, share {hasher.share(42, True, vector, None)}",
        f"string 상품-7: bucket {bucket_of('상품-7')}, share {hasher.share('상품-7', False, vector, b'abc')}",
        f"empty root: {root_of(np.zeros(BUCKETS, dtype=np.uint64))}",
    }
    page = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text()
    assert [line for line in lines if line not in page] == []


def test_digest_of_nothing_is_that_of_all_deleted(index: EmbeddedIndex) -> None:
    empty = index.digest("things").root
    put(index, 30)
    assert index.digest("things").root != empty
    index.write("things", WriteBatch(deletes=[ItemDelete(i) for i in range(30)]))
    assert index.digest("things").root == empty


def flip(path: Path, place: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))


def test_a_rotten_row_is_never_served_and_a_new_write_mends_it(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("things", "begin", "v1")
    data = put(index, 100)
    root = index.digest("things").root
    index.close()
    path = store_path(tmp_path)
    place = path.read_bytes().index(data[42].tobytes()) + 17
    flip(path, place, 0x10)
    assert [problem for problem in check(tmp_path) if "row 42 fails its checksum" in problem]
    index = opened(tmp_path)
    assert 42 not in found_ids(index, data[42])
    assert len(found_ids(index, data[42])) == 99
    assert index.get("things", [41, 42])[1] is None
    problem = index.status("things").problem
    assert problem is not None and "1 rows fail their checksum" in problem
    assert index.digest("things").root != root  # what can't be served proves nothing
    index.write("things", WriteBatch([ItemWrite(42, active=None, metadata={"n": 42})]))
    assert 42 not in found_ids(index, data[42])  # a part of a row does not make it whole
    index.write("things", WriteBatch([ItemWrite(42, data[42], True, {"n": 42})], (), "v1"))
    assert found_ids(index, data[42], 1) == [42]
    assert index.status("things").problem is None
    assert index.digest("things").root == root
    index.close()
    assert check(tmp_path) == []


@pytest.mark.parametrize("rot", ["id = CAST(x'ff70' AS TEXT)", "id = x'ff'", "share = 'x'", "share = NULL"])
def test_rotten_small_columns_do_not_stop_a_comparison(tmp_path: Path, rot: str) -> None:
    index = opened(tmp_path)
    index.advance("named", "begin", "v1")
    data = vectors(30)
    items = [ItemWrite(f"p{number}", data[number], True) for number in range(30)]
    index.write("named", WriteBatch(items, (), "v1"))
    sound = index.digest("named", 2**16).buckets
    connection = sqlite3.connect(tmp_path / "collections" / "named" / "g000001" / "store.sqlite")
    if "NULL" in rot:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql=replace(sql, 'share INTEGER NOT NULL', 'share')")
        connection.commit()
        connection.close()
        connection = sqlite3.connect(tmp_path / "collections" / "named" / "g000001" / "store.sqlite")
    connection.execute(f"UPDATE item SET {rot} WHERE id = 'p7'")
    connection.commit()
    connection.close()
    wrong = np.flatnonzero(index.digest("named", 2**16).buckets != sound).tolist()
    assert digest.crc_of("p7") % 2**16 in wrong
    listed = {row.id for row in index.digest_rows("named", range(4096))}
    assert {f"p{number}" for number in range(30) if number != 7} <= listed <= {item.id for item in items}
    index.close()


def test_a_rotten_inactive_row_does_not_come_back_active(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("things", "begin", "v1")
    data = put(index, 20)
    index.write("things", WriteBatch([ItemWrite(3, active=False)]))
    index.close()
    path = store_path(tmp_path)
    flip(path, path.read_bytes().index(data[3].tobytes()) + 5, 1)
    index = opened(tmp_path)
    index.write("things", WriteBatch([ItemWrite(3, data[3])], (), "v1"))
    assert 3 not in found_ids(index, data[3])
    index.close()
    assert check(tmp_path) == []


@pytest.mark.long
def test_no_flipped_byte_of_a_row_is_served(tmp_path: Path) -> None:
    """Any byte of the file: an answer is right, short by what is reported, or a StoreDamaged."""
    print(f"seed {SEED}")
    index = opened(tmp_path)
    index.advance("things", "begin", "v1")
    data = put(index, 60)
    index.close()
    path = store_path(tmp_path)
    sound = path.read_bytes()
    chance = random.Random(SEED)
    damaged = refused = harmless = 0
    for _ in range(250):
        path.write_bytes(sound)
        flip(path, chance.randrange(len(sound)), 1 << chance.randrange(8))
        for extra in ("-wal", "-shm"):
            path.with_name(path.name + extra).unlink(missing_ok=True)
        found = EmbeddedIndex(tmp_path, [SPEC])
        try:
            found.open()
            hits = found.search(
                "things", [SearchRequest(data[0], 100, with_vectors=True, with_metadata=True)]
            )[0].hits
            problem = found.status("things").problem
        except (StoreDamaged, StoreUnavailable):
            refused += 1
            continue
        finally:
            found.close()
        for hit in hits:
            assert isinstance(hit.id, int) and hit.vector is not None
            assert np.array_equal(hit.vector, data[hit.id]) and hit.metadata == {"n": hit.id}
        if len(hits) < 60:
            # A missing row is known as damaged, or SQLite's own structure is, which check finds.
            assert problem is not None or check(tmp_path) != []
            damaged += 1
        else:
            harmless += 1
    print(f"{damaged} rows set aside, {refused} stores refused, {harmless} harmless")
    assert damaged > 20


def test_a_nearly_full_disk_stops_writes_and_not_searches(tmp_path: Path) -> None:
    free = [10**9]
    limits = EngineLimits(disk_reserve_bytes=10**6)
    index = EmbeddedIndex(tmp_path, [SPEC], limits=limits, free=lambda _path: free[0])
    index.open()
    index.advance("things", "begin", "v1")
    data = put(index, 5)
    free[0] = 10**5
    with pytest.raises(ReadOnly):
        put(index, 6)
    problem = index.status("things").problem
    assert problem is not None and "nearly full" in problem
    assert found_ids(index, data[0]) == found_ids(index, data[0], 5)
    assert index.get("things", [5]) == [None]
    free[0] = 10**9
    put(index, 6)
    assert len(found_ids(index, data[0])) == 6
    assert index.status("things").problem is None
    index.close()
    assert check(tmp_path) == []


def test_a_closed_index_says_so(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.close()
    with pytest.raises(Unavailable):
        index.search("things", [SearchRequest(vectors(1)[0], 1)])
    index.open()  # and opens again
    index.close()


def test_check_and_stats_from_the_command_line(
    index: EmbeddedIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(index, 4)
    assert main(["check", str(tmp_path)]) == 0
    assert "sound" in capsys.readouterr().out
    assert main(["stats", str(tmp_path)]) == 0
    assert '"live": 4' in capsys.readouterr().out
    assert main(["check", str(tmp_path / "nothing")]) == 2


def test_a_damaged_id_that_is_no_text_is_told_of_again_and_again(tmp_path: Path) -> None:
    spec = replace(SPEC, name="named", id_kind="string")
    index = EmbeddedIndex(tmp_path, [spec])
    index.open()
    index.advance("named", "begin", "v1")
    items = [
        ItemWrite(f"item {n}", vector, True)
        for n, vector in enumerate(np.eye(spec.dim, dtype=np.float32)[:3])
    ]
    index.write("named", WriteBatch(items, embedding_version="v1"))
    index.close()
    with closing(sqlite3.connect(next(tmp_path.glob("**/store.sqlite")))) as connection:
        connection.execute("UPDATE item SET id=CAST(x'6974B96D' AS TEXT) WHERE id='item 1'")
        connection.commit()
    with closing(EmbeddedIndex(tmp_path, [spec])) as found:
        found.open()
        for _ in range(2):
            status = found.status("named")
            assert status.problem is not None and "1 row" in status.problem
