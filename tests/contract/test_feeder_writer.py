"""What the feeder's writer makes of rows that the service does not take: it sets each aside alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from feeder.changes import Changes
from feeder.errors import ImportRefused
from feeder.sink.brake import Brake, BrakedStore, BrakeWindow
from feeder.sink.generation_state import WrittenGeneration
from feeder.sink.writer import Writer
from feeder.state.cursor_names import WINDOW_CURSOR
from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec
from tests.http_app import HttpApp, running_app, unit
from vector_client.http import VectorClient
from vector_client.protocol.call import Answer, Call
from vector_client.retries import Limits
from vector_client.transport import Transport
from vector_client.types import Item, Keys

RNG = np.random.default_rng(5)


class InProcess(Transport):
    """The application in this process instead of a socket. calls: how many were sent."""

    def __init__(self, app: HttpApp) -> None:
        super().__init__("http://localhost", Limits())
        self._app = app
        self.calls = 0

    def exchange(self, call: Call[Answer]) -> Answer:
        self.calls += 1
        answer = self._app.request(call.method, call.path, content=call.body, headers=call.headers())
        return call.answer(answer.status_code, answer.headers, answer.content)


@contextmanager
def a_writer(folder: Path, collection: str = "recipes", **environ: str) -> Iterator[tuple[Writer, InProcess]]:
    with running_app(folder, environ) as app:
        transport = InProcess(app)
        client = VectorClient(transport, Keys())
        writer = Writer(client, collection, dim=384, batch_items=8, connections=2)
        writer.start()
        yield writer, transport
        writer.close()


def vector() -> bytes:
    return unit(RNG, 384).astype("<f4").tobytes()


def scaled(length: float) -> bytes:
    return (unit(RNG, 384) * np.float32(length)).astype("<f4").tobytes()


@pytest.mark.long
def test_one_bad_row_is_set_aside_and_the_rest_is_stored(tmp_path: Path) -> None:
    bad: list[Item] = [
        Item(101, scaled(1e-13)),
        Item(102, scaled(1e13)),
        Item(103, bytes(384 * 4)),
        Item(104, scaled(float("nan"))),
        Item(105, vector()[:-4]),
        Item(106, vector(), metadata={"a": 10**30}),
        Item(107, vector(), metadata={"a": "\ud83d"}),
        Item(108, vector(), metadata=json.loads('{"a":' * 300 + "1" + "}" * 300)),
        Item(109, vector(), metadata=json.loads('{"a":' * 20 + "1" + "}" * 20)),
        Item(110, vector(), metadata={"a": "가" * 30_000}),
        Item(111, vector(), source_version=2**63),
        Item(2**63, vector()),
        Item("7", vector()),
    ]
    good = [Item(number, vector()) for number in range(1, 31)]
    items = [each for pair in zip(good, bad, strict=False) for each in pair] + good[len(bad) :]
    with a_writer(tmp_path) as (writer, _):
        changes = Changes(items, [5, 2**63, "x"], writer.state().version, delete_version=9)
        applied = writer.apply(changes, {"sync": "7"})
        assert (applied.upserted, applied.deleted) == (30, 1)
        assert {row.id for row in applied.rejected} == {"x"} | {item.id for item in bad}
        assert all(row.detail for row in applied.rejected)
        assert writer.state().cursors == {"sync": "7"}
        assert writer.digest().items == 29
        assert writer.showing([1, 2, 5, 2**63, 2**70]) == 2


def begun(data_dir: Path, version: str) -> None:
    """Begin a generation beside the service, as another worker would."""
    index = EmbeddedIndex(data_dir, [CollectionSpec("recipes", "int64", 384, "l2")])
    index.open()
    index.advance("recipes", "begin", version)
    index.close()


def test_each_of_two_generations_is_written_and_proven_alone(tmp_path: Path) -> None:
    with a_writer(tmp_path) as (current, transport):
        client, old = VectorClient(transport, Keys()), current.state().version or ""
        current.apply(Changes([Item(n, vector()) for n in range(9)], embedding_version=old), {})
        begun(tmp_path, "new.2")
        both = []
        for version, other in ((old, "new.2"), ("new.2", old)):
            generation = WrittenGeneration(version, version, [other])
            both.append(
                Writer(client, "recipes", dim=384, batch_items=4, connections=1, generation=generation)
            )
        before, after = both
        for each in both:
            each.start()
        items = [Item(n, vector(), active=n != 3) for n in range(3, 9)]
        applied = after.apply(Changes(items, [1], "new.2"), {"sync": "new"})
        assert (applied.upserted, applied.deleted, applied.vanished) == (6, 1, 0)
        assert after.state().version == "new.2" and after.state().cursors == {"sync": "new"}
        assert before.state().version == old and before.state().cursors == {}
        assert before.digest().items == 9 and after.digest().items == 8
        assert before.showing(range(9)) == 9 and after.showing(range(9)) == 5
        before.apply(Changes((), [4, 5]), {"sync": "old"})
        assert after.showing([4, 5]) == 2 and before.showing([4, 5]) == 0
        rows = {row.id for row in after.differing(np.zeros(1, np.uint64)).rows if row.has_vector}
        assert rows == set(range(3, 9))
        for each in both:
            each.close()


def test_an_id_that_no_index_can_hold_is_neither_sent_nor_looked_up(tmp_path: Path) -> None:
    with a_writer(tmp_path, "products") as (writer, transport):
        long, nul = "x" * 256, "a\0b"
        applied = writer.apply(Changes([Item(long, None), Item(nul, None)], [long, nul, "\ud83d"], None), {})
        assert [row.code for row in applied.rejected] == ["invalid_id", "invalid_id"]
        calls = transport.calls
        assert writer.showing([long, nul, ""]) == 0 and transport.calls == calls


@pytest.mark.long
@pytest.mark.parametrize("limits", [{"UPSERT_BYTES_MAX": "9000"}, {"UPSERT_ITEMS_MAX": "3"}])
def test_a_batch_that_is_too_large_goes_in_halves(tmp_path: Path, limits: dict[str, str]) -> None:
    with a_writer(tmp_path, **limits) as (writer, _):
        items = [Item(number, vector()) for number in range(40)]
        if "UPSERT_BYTES_MAX" in limits:
            items.insert(17, Item(99, vector(), metadata={"a": "b" * 9000}))
        applied = writer.apply(Changes(items, [3], writer.state().version, delete_version=9), {"sync": "7"})
        assert (applied.upserted, applied.deleted) == (40, 1)
        expected = [(99, "body_too_large")] if "UPSERT_BYTES_MAX" in limits else []
        assert [(row.id, row.code) for row in applied.rejected] == expected
        assert writer.digest().items == 39 and writer.state().cursors == {"sync": "7"}


def test_what_concerns_the_whole_request_is_not_sent_in_halves(tmp_path: Path) -> None:
    with a_writer(tmp_path) as (writer, transport):
        with pytest.raises(ImportRefused):
            too_many = {str(number): "" for number in range(17)}
            writer.apply(Changes([Item(1, vector()), Item(2, vector())]), too_many)
        assert transport.calls == 1


@pytest.mark.long
def test_items_are_parted_by_what_their_metadata_weighs(tmp_path: Path) -> None:
    with a_writer(tmp_path, METADATA_BYTES_MAX="1000000", UPSERT_BYTES_MAX=str(64 << 20)) as (
        writer,
        transport,
    ):
        heavy = {"a": "가" * 300_000}
        items = [Item(number, vector(), metadata=heavy) for number in range(80)]
        big = Writer(writer._client, "recipes", dim=384, batch_items=5000, connections=1)
        big.start()
        changes = Changes(items, embedding_version=writer.state().version)
        before = transport.calls
        applied = big.apply(changes, {})
        big.close()
        assert applied.upserted == 80 and not applied.rejected and transport.calls == before + 2


def test_what_the_service_does_not_know_is_told(tmp_path: Path) -> None:
    with a_writer(tmp_path) as (writer, _):
        writer.apply(Changes([Item(1, vector())], embedding_version=writer.state().version), {})
        said = [Item(1, None, active=False), Item(2, None), Item(3, None, metadata={"a": 1})]
        applied = writer.apply(Changes(said), {})
        assert (applied.upserted, list(applied.unknown_ids)) == (1, [2, 3])


class Dies(Exception):
    """The feeder is killed."""


@pytest.mark.long
@pytest.mark.parametrize("killed_at", range(8))
@pytest.mark.parametrize("hidden", [6, 20])
def test_what_vanished_and_its_count_survive_a_kill_together(
    tmp_path: Path, killed_at: int, hidden: int
) -> None:
    """A page of an import is several requests of 8 items; `hidden` of them are taken off sale."""
    numbers = range(40)
    with a_writer(tmp_path) as (writer, transport):
        version = writer.state().version
        writer.apply(Changes([Item(n, vector()) for n in numbers], embedding_version=version), {})
        page = Changes(
            [Item(n, vector(), active=n % 40 >= hidden) for n in numbers], embedding_version=version
        )
        calls, exchange = transport.calls, transport.exchange

        def exchange_or_die(call: Call[Answer]) -> Answer:
            if transport.calls - calls > killed_at:
                raise Dies
            return exchange(call)

        def stored() -> tuple[int, int]:
            """What vanished, and what the service has counted of it."""
            gone = len(numbers) - writer.showing(list(numbers))
            window = BrakeWindow(600, lambda: 5.0)
            window.load(writer.state().cursors.get(WINDOW_CURSOR), version)
            return gone, window.total()

        for is_killed in (True, False):
            window = BrakeWindow(600, lambda: 5.0)
            brake = Brake(60, rows_min=0, vanished_before=window.total)
            store = BrakedStore("recipes", writer, brake, window, batch_items=writer.batch_items)
            if is_killed:
                store.state()
                calls = transport.calls
                transport.exchange = exchange_or_die  # type: ignore[method-assign]
                with suppress(Dies):
                    store.apply(page, {"import": "here"})
                transport.exchange = exchange  # type: ignore[method-assign]
                gone, counted = stored()
                assert gone <= counted, "nothing vanishes uncounted"
            else:
                store.state()
                store.apply(page, {"import": "here"})
        assert stored() == (hidden, hidden) and writer.state().cursors["import"] == "here"
