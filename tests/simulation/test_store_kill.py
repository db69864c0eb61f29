"""kill -9 under 32 concurrent upserters: nothing acknowledged is lost, and what is left serves."""

from __future__ import annotations

import os
import random
import select
import sqlite3
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from index_store.contents.table import read_contents
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.types import SearchRequest
from tests.simulation.forking import FORKING
from tests.simulation.upserting import IDS_A_THREAD, SPEC, THREADS, text_of, upsert_until_killed

SEED = 4_410
KILLS = 30


def read_some(pipe: Connection) -> bytes:
    """What the writers say next; nothing once the last of them is dead."""
    ready, _, _ = select.select([pipe], [], [], 60)
    assert ready, "the writers made no progress for a minute"
    return os.read(pipe.fileno(), 65_536)


def acknowledged_until_killed(data_dir: Path, first: int, acks: int) -> dict[int, int]:
    """Newest acknowledged version of each id; the process dies after about `acks` of them."""
    pipe, end = FORKING.Pipe(duplex=False)
    child = FORKING.Process(target=upsert_until_killed, args=(data_dir, first, end))
    child.start()
    end.close()
    seen = b""
    while seen.count(b"\n") < acks:
        more = read_some(pipe)
        assert more, "the writers died by themselves"
        seen += more
    child.kill()
    child.join()
    while more := read_some(pipe):
        seen += more
    pipe.close()
    newest: dict[int, int] = {}
    for line in seen.splitlines():
        item_id, version = map(int, line.split())
        newest[item_id] = max(version, newest.get(item_id, -1))
    return newest


def in_flight(found: dict[int, int], first: int) -> dict[int, int]:
    """The one write a thread may have sent without hearing back: version by id."""
    out = {}
    for thread in range(THREADS):
        ids = range(thread * IDS_A_THREAD, (thread + 1) * IDS_A_THREAD)
        step = max((found[item_id] - first + 1 for item_id in ids if item_id in found), default=0)
        out[ids[step % IDS_A_THREAD]] = first + step
    return out


def lost(index: EmbeddedIndex, newest: dict[int, int], sent: dict[int, int]) -> list[int]:
    """Ids whose stored state is neither what was acknowledged last nor what was on its way after it.
    What was on its way and is stored becomes the newest of its id."""
    wrong = []
    ids = sorted({*newest, *sent})
    for item_id, item in zip(ids, index.get("things", ids), strict=True):
        possible = [version[item_id] for version in (newest, sent) if item_id in version]
        if item is not None:
            assert item.vector is not None and item.vector[0] == (item.source_version or 0) + 1
            matching = [version for version in possible if version == item.source_version]
        else:
            matching = [version for version in possible if version % 7 == 0]
        if matching:
            newest[item_id] = max(matching)
        elif item_id in newest or item is not None:
            wrong.append(item_id)
    return wrong


def contents_of_others(data_dir: Path, index: EmbeddedIndex) -> list[int]:
    """Even ids whose kept content is not that of the version that is stored, and odd ones that have any."""
    ids = list(range(THREADS * IDS_A_THREAD))
    connection = sqlite3.connect(data_dir / "collections" / "things" / "g000001" / "store.sqlite")
    kept = read_contents(connection, ids)
    connection.close()
    items = zip(ids, index.get("things", ids), strict=True)
    wanted = {i: text_of(item.source_version or 0) for i, item in items if item is not None and i % 2 == 0}
    return [i for i in ids if (kept[i].content.data if i in kept else None) != wanted.get(i)]


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    index = EmbeddedIndex(tmp_path, [SPEC])
    index.open()
    index.advance("things", "begin", "v1")
    index.close()
    newest: dict[int, int] = {}
    acks = 0
    for kill in range(KILLS):
        first = kill * 10**5  # float32 vectors tell versions up to 2**24
        found = acknowledged_until_killed(tmp_path, first, acks=chance.randrange(40, 900))
        acks += len(found)
        newest.update(found)
        index.open()
        assert lost(index, newest, in_flight(found, first)) == []
        assert contents_of_others(tmp_path, index) == []
        current = index.status("things").current
        assert current is not None
        query = np.ones(SPEC.dim, dtype=np.float32)
        hits = index.search("things", [SearchRequest(query, THREADS * IDS_A_THREAD)])[0].hits
        assert len(hits) == current.live
        index.close()
        assert check(tmp_path) == []
    print(f"{KILLS} kills, {acks} acknowledged states, 0 lost")
