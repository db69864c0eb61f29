"""A fault proxy between client and service: an answer or one typed error within the deadline, always; and
with a fall-back never an error while the other path lives."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from tests.integration.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.integration.service_process import ServiceProcess
from tests.waiting import PATIENCE_S
from vector_client.async_client import AsyncVectorClient
from vector_client.errors import (
    BadAnswer,
    BadRequest,
    Disconnected,
    NoAnswer,
    Refused,
    TimedOut,
    Unavailable,
    VectorClientError,
)
from vector_client.http import VectorClient
from vector_client.recommend.pgvector import Statement
from vector_client.retries import Limits
from vector_client.transport import Transport
from vector_client.types import Item, Keys, Query
from vector_client.wiring import Backend, Recommenders

DEADLINE_S = 1.0
SLACK_S = 9.0
"""For a machine under load. What this must tell apart is a call that ends and one that does not."""
FAULTS = [fault for fault in get_args(Fault) if fault != "none"]
MEANT: dict[str, tuple[type[VectorClientError], ...]] = {
    "delay": (TimedOut,), "half_open": (TimedOut,), "dead_pool": (TimedOut,),
    "dripping_head": (TimedOut,), "dripping_body": (TimedOut,),
    "endless_head": (TimedOut, Disconnected, BadAnswer),
    "reset_at_once": (NoAnswer,), "reset_in_answer": (Disconnected,), "closed_at_once": (Disconnected,),
    "truncated": (Disconnected,), "broken_chunks": (Disconnected, BadAnswer),
    "status_500": (Unavailable,), "status_502": (Unavailable,), "status_503": (Unavailable,),
    "status_431": (BadRequest,), "status_413": (BadRequest,), "redirect": (BadAnswer,),
    "wrong_json": (BadAnswer,), "other_json": (BadAnswer,), "empty": (BadAnswer,),
    "not_http": (Disconnected, BadAnswer), "refused": (NoAnswer,),
}  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder: Path = tmp_path_factory.mktemp("faults")
    process = ServiceProcess(folder / "data").start()
    with VectorClient.to(f"http://127.0.0.1:{process.port}") as client:
        client.upsert("recipes", [Item(n, text=f"요리 {n}") for n in range(1, 21)])
    yield process
    process.stop()


@pytest.fixture
def proxy(service: ServiceProcess) -> Iterator[FaultProxy]:
    with fault_proxy(service.port) as opened:
        yield opened


LIMITS = Limits(deadline_s=DEADLINE_S, retries=2, backoff_s=0.01)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_blocking_client_answers_or_tells_why(proxy: FaultProxy, fault: Fault) -> None:
    if fault != "refused":
        client = VectorClient.to(proxy.url, limits=LIMITS)
        assert client.search(Query(text="요리", k=3)).hits  # the pool holds a connection that was good
    proxy.fault = fault
    if fault == "refused":
        client = VectorClient.to(proxy.url, limits=LIMITS)
    began = time.monotonic()
    with pytest.raises(MEANT[fault]):
        client.search(Query(text="요리", k=3))
    assert time.monotonic() - began < DEADLINE_S + SLACK_S
    proxy.fault = "none"
    if fault != "refused":
        assert len(client.search(Query(text="요리", k=3)).hits) == 3, "the pool is not spoilt"
    client.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_async_client_answers_or_tells_why(proxy: FaultProxy, fault: Fault) -> None:
    async def run() -> None:
        if fault == "refused":
            proxy.fault = fault
        async with AsyncVectorClient.to(proxy.url, limits=LIMITS) as client:
            if fault != "refused":
                assert (await client.search(Query(text="요리", k=3))).hits
            proxy.fault = fault
            began = time.monotonic()
            with pytest.raises(MEANT[fault]):
                await client.search(Query(text="요리", k=3))
            assert time.monotonic() - began < DEADLINE_S + SLACK_S
            proxy.fault = "none"
            if fault != "refused":
                assert len((await client.search(Query(text="요리", k=3))).hits) == 3

    asyncio.run(run())


class OtherPath:
    """The backend's own path, whatever it is made of: a database that answers."""

    async def rows(self, _session: Any, statement: Statement) -> list[tuple[int, float]]:
        return [(n, n / 10) for n in range(1, statement.limit + 1)]


@pytest.mark.parametrize("rollout", ["100", "0"])
@pytest.mark.parametrize("fault", FAULTS)
def test_with_a_fall_back_no_fault_is_an_error(proxy: FaultProxy, fault: Fault, rollout: str) -> None:
    async def run() -> None:
        if fault == "refused":
            proxy.fault = fault
        environ = {
            "ML_MODE": "remote_store", "ML_FALLBACK_MODE": "db", "ML_INFERENCE_URL": proxy.url,
            "ML_TIMEOUT": str(DEADLINE_S), "ML_BREAKER_FAILURES": "2", "ML_BREAKER_REST_S": "0.01",
            "ML_ROLLOUT_PERCENT": rollout, "ML_SHADOW_PERCENT": "100",
        }  # fmt: skip
        backend = Backend(encode=lambda _: [1.0], rows=OtherPath().rows)
        async with Recommenders.from_env(backend, environ) as held:
            proxy.fault = fault
            for _ in range(4):
                began = time.monotonic()
                found = await held.searcher.find_similar_ids(None, "요리", 3)
                assert len(found) == 3
                assert time.monotonic() - began < DEADLINE_S + SLACK_S
            if fault != "refused" and rollout == "100":
                proxy.fault = "none"
                give_up = time.monotonic() + PATIENCE_S
                while [each for _, each in found] == [0.1, 0.2, 0.3]:
                    assert time.monotonic() < give_up, "the new path never answers again"
                    await asyncio.sleep(0.02)  # the breaker's rest
                    found = await held.searcher.find_similar_ids(None, "요리", 3)

    asyncio.run(run())


@contextmanager
def silent_listener(accepts: bool) -> Iterator[int]:
    """A port that takes connections and never reads; or that no longer takes any: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        queue = [] if accepts else [socket.socket() for _ in range(3)]
        for each in queue:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        yield port
        for each in queue:
            each.close()


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_body_that_nobody_reads_ends_in_time(kind: str, accepts: bool) -> None:
    """urllib3 gives the time limit to connecting, and once more to the body."""
    items = [Item(n, bytes(2048)) for n in range(5000)]
    with silent_listener(accepts) as port:
        url = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        with pytest.raises(TimedOut):
            if kind == "blocking":
                VectorClient.to(url, limits=LIMITS).upsert("recipes", items)
            else:
                asyncio.run(upsert_once(url, items))
    assert time.monotonic() - began < DEADLINE_S + SLACK_S


async def upsert_once(url: str, items: list[Item]) -> None:
    async with AsyncVectorClient.to(url, limits=LIMITS) as client:
        await client.upsert("recipes", items)


@pytest.mark.parametrize("alive", [True, False])
def test_a_name_of_two_addresses_gets_one_deadline(service: ServiceProcess, alive: bool) -> None:
    """urllib3 gives each address of a name the whole time limit; a silent one must not cost the other."""
    with silent_listener(accepts=False) as silent:
        ports = [silent, service.port if alive else silent]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        limits = Limits(deadline_s=4, retries=0)
        transport = Transport("http://vector.example", limits, resolve=lambda *_, **__: found)
        client = VectorClient(transport, Keys())
        began = time.monotonic()
        if alive:
            assert client.search(Query(text="요리", k=3)).hits
        else:
            with pytest.raises(TimedOut):
                client.search(Query(text="요리", k=3))
        assert time.monotonic() - began < 8, "not twice the deadline"


@contextmanager
def self_signed_server(folder: Path) -> Iterator[str]:
    """TLS with a certificate that nobody vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
         "1", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    with suppress(OSError), near:
                        context.wrap_socket(near, server_side=True).close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://localhost:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_certificate_that_nobody_vouches_for_is_one_typed_error(kind: str, tmp_path: Path) -> None:
    with self_signed_server(tmp_path) as url, pytest.raises(NoAnswer, match="certificate"):
        if kind == "blocking":
            VectorClient.to(url, limits=LIMITS).upsert("recipes", [])
        else:
            asyncio.run(upsert_once(url, []))


def test_a_cancelled_call_leaves_no_connection_behind(proxy: FaultProxy) -> None:
    async def run() -> None:
        async with AsyncVectorClient.to(proxy.url, limits=replace(LIMITS, deadline_s=PATIENCE_S)) as client:
            await client.health()
            session = client._transport._session
            assert session is not None
            connector: Any = session.connector
            proxy.fault = "half_open"
            calls = [asyncio.ensure_future(client.search(Query(text="요리"))) for _ in range(20)]
            while not connector._acquired:
                await asyncio.sleep(0.01)
            for call in calls:
                call.cancel()
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError)
            assert len(connector._acquired) == 0
            proxy.fault = "none"
            assert (await client.search(Query(text="요리", k=3))).hits

    asyncio.run(run())


def test_a_hedge_answers_where_one_connection_is_dead(proxy: FaultProxy) -> None:
    async def run() -> None:
        limits = Limits(deadline_s=30, retries=0, hedge_s=0.1)
        async with AsyncVectorClient.to(proxy.url, limits=limits) as client:
            await client.search(Query(text="요리", k=3))
            proxy.fault = "dead_pool"
            call = asyncio.ensure_future(client.search(Query(text="요리", k=3)))
            await asyncio.sleep(0.05)
            proxy.fault = "none"
            assert len((await asyncio.wait_for(call, 20)).hits) == 3

    asyncio.run(run())


def test_calls_leave_nothing_behind(service: ServiceProcess) -> None:
    """benchmarks/bench_client.py makes 100,000 of them."""

    async def run() -> None:
        environ = {
            "ML_MODE": "remote_store", "ML_FALLBACK_MODE": "db", "ML_TIMEOUT": "30",
            "ML_ROLLOUT_PERCENT": "50", "ML_SHADOW_PERCENT": "100",
            "ML_INFERENCE_URL": f"http://127.0.0.1:{service.port}",
        }  # fmt: skip
        backend = Backend(encode=lambda _: [1.0], rows=OtherPath().rows)
        async with Recommenders.from_env(backend, environ) as held:

            async def calls(count: int) -> tuple[int, int, int]:
                for start in range(0, count, 50):
                    asked = (
                        held.searcher.find_similar_ids(None, f"요리 {n % 20}", 3)
                        for n in range(start, start + 50)
                    )
                    await asyncio.gather(*asked)
                await held.searcher._shadow.finish()  # type: ignore[attr-defined]
                await asyncio.sleep(0)
                gc.collect()
                return len(gc.get_objects()), psutil.Process().num_fds(), len(asyncio.all_tasks())

            before, after = await calls(500), await calls(2000)
            assert after[0] - before[0] < 500, "an object a call would be 2,000"
            assert after[1:] == before[1:]

    asyncio.run(run())


@pytest.mark.parametrize("code", ["unknown_collection", "invalid_request"])
def test_a_refusal_says_what_the_service_says(service: ServiceProcess, code: str) -> None:
    query = {
        "unknown_collection": Query(text="a", collection="nowhere"),
        "invalid_request": Query(text="a", k=0),
    }
    with (
        VectorClient.to(f"http://127.0.0.1:{service.port}") as client,
        pytest.raises(Refused) as failure,
    ):
        client.search(query[code])
    assert failure.value.code == code
    assert failure.value.request_id
