"""`python -m index_store move`: an index goes into PostgreSQL and back, whole or not at all."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from index_store.__main__ import main
from index_store.engine.index import EmbeddedIndex
from index_store.errors import StoreDamaged, Unavailable
from index_store.maintenance.check import check
from index_store.moving.data_directory import DirectoryStorage
from index_store.moving.database import DatabaseStorage
from index_store.moving.move import move
from index_store.moving.storages import RowsOfSeq
from index_store.postgres.index import PostgresIndex
from index_store.types import (
    CollectionSpec,
    Content,
    Id,
    ItemDelete,
    ItemWrite,
    SearchRequest,
    WriteBatch,
)
from tests.contract.vectors import SEED, SPECS, AnyIndex, vectors
from tests.integration.databases import PostgresServer

pytestmark = pytest.mark.slow
PAGE_ROWS = 7


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    return postgres.address(postgres.create_database())


@pytest.fixture
def address(database: str) -> Iterator[str]:
    schema = f"move_{secrets.token_hex(6)}"
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {schema}".encode())
        yield f"{database}?options=-csearch_path%3D{schema},public"
        db.execute(f"DROP SCHEMA {schema} CASCADE".encode())


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Three generations with everything that a store can hold; `inner` has none."""
    with closing(EmbeddedIndex(tmp_path / "data", SPECS)) as index:
        assert index.open() == {}
        for name in ("numbers", "names"):
            index.advance(name, "begin", "v1")
            write_history(index, name, "v1", SEED)
        index.advance("numbers", "begin", "v2")
        write_history(index, "numbers", "v2", SEED + 1)
        index.advance("numbers", "promote", "v2", is_forced=True)
        index.advance("numbers", "begin", "v3")
        index.record_origin("numbers", "v2", "a model")
    return tmp_path / "data"


def id_of(name: str, number: int) -> Id:
    return f"이름{number}" if name == "names" else number - 5


def write_history(index: AnyIndex, name: str, version: str, seed: int) -> None:
    """Items with and without contents, rewritten, hidden, deleted; tombstones that know a version."""
    numbers, data = np.random.default_rng(seed), vectors(90, seed)
    for turn, vector in enumerate(data):
        item_id = id_of(name, int(numbers.integers(40)))
        if turn % 9 == 8:
            batch = WriteBatch(deletes=[ItemDelete(item_id, turn)])
        elif turn % 9 == 7:
            batch = WriteBatch([ItemWrite(item_id, active=False, source_version=turn)])
        else:
            content = Content("text", f"글 {turn}".encode()) if turn % 2 else None
            held = None if content is None else bytes([turn]) * 32
            item = ItemWrite(
                item_id,
                vector,
                None,
                {"n": turn, "큰": 2**60 + turn, "x": 1e-300},
                turn,
                content_hash=held,
                content=content,
            )
            batch = WriteBatch([item], embedding_version=version, cursors={"shop": f"{turn}"})
        index.write(name, batch)


def opened(place: Path | str) -> EmbeddedIndex | PostgresIndex:
    index = EmbeddedIndex(place, SPECS) if isinstance(place, Path) else PostgresIndex(place, SPECS)
    assert index.open() == {}
    return index


def facts_of(place: Path | str) -> dict[str, Any]:
    """All that an index tells of its collections, but the names of its generations."""
    found: dict[str, Any] = {}
    with closing(opened(place)) as index:
        for spec in SPECS:
            status = index.status(spec.name)
            for each in status.generations:
                told = [
                    each.role,
                    each.items,
                    each.live,
                    each.seq,
                    each.dim,
                    each.origin,
                    each.contents,
                    each.awaiting,
                ]
                root = index.digest(spec.name, embedding_version=each.embedding_version).root
                found[spec.name, each.embedding_version] = (*told, dict(each.cursors), root)
            if status.current is None:
                continue
            ids = [id_of(spec.name, number) for number in range(40)]
            found[spec.name, "items"] = [repr(item) for item in index.get(spec.name, ids)]
            requests = [SearchRequest(vector, 10, with_metadata=True) for vector in vectors(5, 3)]
            found[spec.name, "found"] = [result.hits for result in index.search(spec.name, requests)]
            if status.in_role("former"):
                found[spec.name, "since"] = status.former_since
    return found


class Killed(Exception):
    pass


class DyingTarget:
    """A target of a move that is killed at its n-th commit."""

    def __init__(self, target: Any, commits: int) -> None:
        self._target = target
        self._left = commits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def put_rows(self, collection: CollectionSpec, name: str, rows: RowsOfSeq) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1
        self._target.put_rows(collection, name, rows)


def test_into_postgresql_and_back_nothing_is_lost_or_changed(
    data_dir: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = facts_of(data_dir)
    assert main(["move", "--from", str(data_dir), "--to", address]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4, "one line for each generation"
    assert facts_of(address) == before
    with closing(opened(address)) as index:
        write_history(index, "names", "v1", SEED + 2)
        index.advance("numbers", "abort", "v3")
        index.advance("numbers", "rollback", "v1", is_forced=True)
    moved = facts_of(address)
    assert moved != before
    assert main(["move", "--from", address, "--to", str(tmp_path / "back")]) == 0
    assert facts_of(tmp_path / "back") == moved
    assert check(tmp_path / "back") == []
    with closing(opened(tmp_path / "back")) as index:
        index.advance("numbers", "begin", "v4")  # its directory is a new one
        write_history(index, "names", "v1", SEED + 3)


@pytest.mark.parametrize("goes_back", [False, True])
def test_a_killed_move_goes_on_and_nobody_serves_what_is_half_there(
    data_dir: Path, address: str, tmp_path: Path, goes_back: bool
) -> None:
    if goes_back:
        main(["move", "--from", str(data_dir), "--to", address])
    with closing(DatabaseStorage(address, PAGE_ROWS)) as database:
        source: Any = DirectoryStorage(data_dir, PAGE_ROWS)
        target: Any = database
        if goes_back:
            source, target = database, DirectoryStorage(tmp_path / "back", PAGE_ROWS)
        kills = 0
        while True:
            try:
                lines = move(source, DyingTarget(target, commits=3), lambda _told: None)
                break
            except Killed:
                kills += 1
                assert len(target.collections()) < 2, "a collection is served before it is whole"
    assert kills >= 3 and len(lines) == 4
    assert facts_of(tmp_path / "back" if goes_back else address) == facts_of(data_dir)


def test_what_is_written_meanwhile_is_brought_too(data_dir: Path, address: str) -> None:
    with closing(opened(data_dir)) as index, closing(DatabaseStorage(address, PAGE_ROWS)) as target:
        writes = iter(range(3))

        def written_to(_told: str) -> None:
            if (turn := next(writes, None)) is not None:
                write_history(index, "numbers", "v2", 100 + turn)

        move(DirectoryStorage(data_dir, PAGE_ROWS), target, written_to)
    assert facts_of(address) == facts_of(data_dir)


def test_a_source_that_is_written_to_for_ever_is_not_published(data_dir: Path, address: str) -> None:
    with closing(opened(data_dir)) as index, closing(DatabaseStorage(address)) as target:
        with pytest.raises(Unavailable, match="names is being written to") as caught:
            move(DirectoryStorage(data_dir), target, lambda _told: write_history(index, "names", "v1", 7))
        assert "run the same move again" in caught.value.hint
        assert target.collections() == []
    assert main(["move", "--from", str(data_dir), "--to", address]) == 0
    assert facts_of(address) == facts_of(data_dir)


def test_what_is_served_already_is_left_alone(
    data_dir: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["move", "--from", str(data_dir), "--to", address]) == 0
    before = facts_of(address)
    assert main(["move", "--from", str(data_dir), "--to", address]) == 0, "there is nothing left to do"
    with closing(opened(data_dir)) as index:
        write_history(index, "names", "v1", SEED + 4)
    for ends in ((str(data_dir), address), (address, str(data_dir))):
        capsys.readouterr()
        assert main(["move", "--from", ends[0], "--to", ends[1]]) == 1
        assert "the target serves names already" in capsys.readouterr().err
    assert facts_of(address) == before


def test_a_damaged_row_is_not_carried_over(data_dir: Path, address: str) -> None:
    store = next(data_dir.glob("collections/names/*/store.sqlite"))
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(
            "UPDATE item SET metadata='{}' WHERE id=(SELECT max(id) FROM item WHERE deleted=0)"
        )
    with closing(DatabaseStorage(address)) as target, pytest.raises(StoreDamaged, match="is damaged"):
        move(DirectoryStorage(data_dir), target, lambda _told: None)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:gogumaro@127.0.0.1:1/x",
        "postgresql://u:gogu/maro@127.0.0.1:1/x",
        "postgresql://u:go@gumaro:1@127.0.0.1:1/x",
        "mysql://u:gogumaro@127.0.0.1/x",
    ],
)
def test_a_password_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("INDEX_URL", address)
    for given in (address, "INDEX_URL"):
        assert main(["move", "--from", str(tmp_path), "--to", given]) == 1
        told = capsys.readouterr()
        assert "what helps:" in told.err and "gumaro" not in told.out + told.err
        assert "maro" not in told.err


def test_an_address_that_is_not_set_is_no_directory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INDEX_URL", raising=False)
    assert main(["move", "--from", "nothing", "--to", "INDEX_URL"]) == 1
    assert "must be postgresql://" in capsys.readouterr().err
