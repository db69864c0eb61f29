"""What a call through vector_client costs, beside the bare libraries and beside the first draft's client.

    python -m benchmarks.bench_client [--calls 2000] [--leak-calls 100000] [--only cost pool shadow leak]

A service with the hashed-ngrams model in a process of its own, on the same cores. Contenders take turns in
blocks of BLOCK_CALLS; cost is this process's processor time a call, median of the blocks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import orjson
import psutil
import urllib3

from benchmarks.embedding_service import Report, Row
from benchmarks.http_load import post
from benchmarks.http_server import serving
from benchmarks.processes import free_port
from vector_client.async_client import AsyncVectorClient
from vector_client.http import VectorClient
from vector_client.recommend.pgvector import Statement
from vector_client.retries import Limits
from vector_client.types import Query
from vector_client.wiring import Backend, Recommenders

PARTS = ("cost", "pool", "shadow", "leak")
BLOCK_CALLS = 100
QUESTION = {"query": "겨울에 먹는 국물", "top_k": 25, "exclude_ids": [1, 2, 3]}
QUERY = Query(text="겨울에 먹는 국물", k=25, exclude_ids=(1, 2, 3))
LIMITS = Limits(deadline_s=30)
AT_ONCE = 200
OLD_PATH_S = 0.06
"""What the old path takes in the field at least: embedding 50 ms, pgvector 10 ms."""
SHADOW_CALLS = 300
CALLERS = 4
LEAK_FIRST_CALLS = 10_000
LEAK_AT_ONCE = 40

Call = Callable[[], Awaitable[Any]]


def process_us(began: float, calls: int) -> float:
    return (time.process_time() - began) / calls * 1e6


async def costs_in_turns(contenders: dict[str, Call], calls: int) -> dict[str, tuple[float, float]]:
    """Return for each contender its processor time and its wall time a call, µs, medians of blocks."""
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    for ask in contenders.values():
        for _ in range(BLOCK_CALLS):
            await ask()
    for _ in range(max(1, calls // BLOCK_CALLS)):
        for name, ask in contenders.items():
            began, began_wall = time.process_time(), time.perf_counter()
            for _ in range(BLOCK_CALLS):
                await ask()
            cpu[name].append(process_us(began, BLOCK_CALLS))
            wall[name].append((time.perf_counter() - began_wall) / BLOCK_CALLS * 1e6)
    return {name: (float(np.median(cpu[name])), float(np.median(wall[name]))) for name in contenders}


async def measure_cost(url: str, calls: int) -> dict[str, tuple[float, float]]:
    body, headers = orjson.dumps(QUESTION), {"Content-Type": "application/json"}
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(aiohttp.ClientSession())
        ours = await stack.enter_async_context(AsyncVectorClient.to(url, limits=LIMITS))
        kept = await stack.enter_async_context(httpx.AsyncClient())
        with ExitStack() as blocking:
            pool = blocking.enter_context(urllib3.PoolManager())
            ours_now = blocking.enter_context(VectorClient.to(url, limits=LIMITS))

            async def ask_bare() -> Any:
                data = orjson.dumps(QUESTION)
                async with bare.post(f"{url}/v1/search", data=data, headers=headers) as answer:
                    return orjson.loads(await answer.read())

            async def ask_ours() -> Any:
                return await ours.search(QUERY)

            async def ask_kept() -> Any:
                return (await kept.post(f"{url}/v1/search", json=QUESTION)).json()

            async def ask_draft() -> Any:
                async with httpx.AsyncClient(timeout=3.0) as client:
                    return (await client.post(f"{url}/v1/search", json=QUESTION)).json()

            async def ask_urllib3() -> Any:
                return orjson.loads(pool.request("POST", f"{url}/v1/search", body=body, headers=headers).data)

            async def ask_ours_now() -> Any:
                return ours_now.search(QUERY)

            quick = {
                "aiohttp": ask_bare, "AsyncVectorClient": ask_ours, "httpx, kept": ask_kept,
                "urllib3": ask_urllib3, "VectorClient": ask_ours_now,
            }  # fmt: skip
            found = await costs_in_turns(quick, calls)
            # 60 ms a call, most of it the certificates that each client loads: a tenth of the calls will do.
            return found | await costs_in_turns({"httpx, a client a call": ask_draft}, BLOCK_CALLS)


def cost_rows(url: str, calls: int) -> Iterator[Row]:
    found = asyncio.run(measure_cost(url, calls))
    bare_us, urllib3_us = found["aiohttp"][0], found["urllib3"][0]

    def row(name: str, beside: float, limit: float, at_least: bool = False) -> Row:
        cpu_us, wall_us = found[name]
        detail = f"{cpu_us:.0f} us of processor, {wall_us:.0f} us in all"
        return Row(f"{name}: cost / the bare library's", cpu_us / beside, limit, at_least, detail)

    yield row("aiohttp", bare_us, 1.0)
    yield row("AsyncVectorClient", bare_us, 1.3)
    yield row("urllib3", urllib3_us, 1.0)
    yield row("VectorClient", urllib3_us, 1.3)
    yield row("httpx, kept", bare_us, 1.0, at_least=True)
    yield row("httpx, a client a call", bare_us, 1.0, at_least=True)


async def measure_pool(url: str, rounds: int) -> tuple[float, int]:
    """Return answers a second of AT_ONCE callers over one pool, and the connections that it took."""
    async with AsyncVectorClient.to(url, limits=LIMITS) as client:
        began = time.perf_counter()
        for _ in range(rounds):
            answers = await asyncio.gather(*(client.search(QUERY) for _ in range(AT_ONCE)))
            assert len({len(answer.hits) for answer in answers}) == 1
        took_s = time.perf_counter() - began
        connections = len([c for c in psutil.Process().net_connections() if c.status == "ESTABLISHED"])
        return rounds * AT_ONCE / took_s, connections


def pool_rows(url: str, calls: int) -> Iterator[Row]:
    rate, connections = asyncio.run(measure_pool(url, max(1, calls // AT_ONCE)))
    yield Row(
        f"{AT_ONCE} callers at once: connections", connections, LIMITS.connections_max,
        detail=f"{rate:.0f} answers a second, none failed",
    )  # fmt: skip


async def old_rows(_session: Any, statement: Statement) -> list[tuple[int, float]]:
    """The old path's database, as slow as the field's fastest."""
    await asyncio.sleep(OLD_PATH_S)
    return [(n, n / 100) for n in range(statement.limit)]


def moving(url: str, **environ: str) -> Recommenders:
    settings = {
        "ML_MODE": "remote_store", "ML_FALLBACK_MODE": "db", "ML_ROLLOUT_PERCENT": "0", "ML_TIMEOUT": "30",
        "ML_INFERENCE_URL": url, **environ,
    }  # fmt: skip
    return Recommenders.from_env(Backend(encode=lambda _: [1.0, 0.0], rows=old_rows), settings)


async def asked_s(held: Recommenders, calls: int) -> list[float]:
    """Return seconds of each answer, of CALLERS who ask one after the other."""
    took: list[float] = []

    async def caller() -> None:
        for _ in range(calls // CALLERS):
            began = time.perf_counter()
            await held.searcher.find_similar_ids(None, "겨울에 먹는 국물", 25)
            took.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return took


async def measure_shadow(url: str, percent: str) -> tuple[float, float]:
    """Return the median answer without and with comparisons, ms; they take turns."""
    alone: list[float] = []
    beside: list[float] = []
    async with moving(url) as plain, moving(url, ML_SHADOW_PERCENT=percent) as shadowed:
        for _ in range(5):
            alone += await asked_s(plain, SHADOW_CALLS // 5)
            beside += await asked_s(shadowed, SHADOW_CALLS // 5)
    return float(np.median(alone)) * 1000, float(np.median(beside)) * 1000


def shadow_rows(url: str) -> Iterator[Row]:
    for percent in ("10", "100"):
        alone_ms, beside_ms = asyncio.run(measure_shadow(url, percent))
        yield Row(
            f"shadow of {percent} %: p50 / without", beside_ms / alone_ms, 1.05,
            detail=f"{beside_ms:.2f} ms, {alone_ms:.2f} ms",
        )  # fmt: skip


async def measure_leak(url: str, calls: int) -> tuple[float, int]:
    """Return by how many MB and files this process grew between LEAK_FIRST_CALLS and `calls` calls through
    client, breaker, share and step back."""
    process = psutil.Process()
    first = min(LEAK_FIRST_CALLS, calls // 2)
    stay = {"ML_STEP_BACK_ERRORS_PERCENT": "100", "ML_BREAKER_FAILURES": "1000"}
    async with moving(url, ML_ROLLOUT_PERCENT="100", **stay) as held:
        before: tuple[float, int] = (0.0, 0)
        for done in range(0, calls, LEAK_AT_ONCE):
            if done >= first and not before[1]:
                gc.collect()
                before = process.memory_full_info().uss / 1e6, process.num_fds()
            queries = (f"국물 {(done + n) % 500}" for n in range(LEAK_AT_ONCE))
            await asyncio.gather(*(held.searcher.find_similar_ids(None, query, 5) for query in queries))
        gc.collect()
        return process.memory_full_info().uss / 1e6 - before[0], process.num_fds() - before[1]


def leak_rows(url: str, calls: int) -> Iterator[Row]:
    grown_mb, files = asyncio.run(measure_leak(url, calls))
    yield Row(f"memory grown over {calls} calls, MB", grown_mb, 2.0)
    yield Row(f"open files grown over {calls} calls", files, 0)


@contextmanager
def running_service() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bench-client-") as folder:
        port = free_port()
        environ = {
            "HOST": "127.0.0.1", "PORT": str(port), "DATA_DIR": f"{folder}/data", "LOG_LEVEL": "warning",
            "TEXT_MODEL": "builtin:hashed-ngrams", "IMAGE_MODEL": "builtin:descriptor",
        }  # fmt: skip
        first = post("/v1/search", b'{"query": "soup"}')
        with serving("service", ["--demo"], environ, port, Path(folder) / "log", first):
            yield f"http://127.0.0.1:{port}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--leak-calls", type=int, default=100_000)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    given = parser.parse_args(arguments)
    report = Report("bench_client")
    with running_service() as url:
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            "cost": lambda: cost_rows(url, given.calls),
            "pool": lambda: pool_rows(url, given.calls),
            "shadow": lambda: shadow_rows(url),
            "leak": lambda: leak_rows(url, given.leak_calls),
        }
        for part in given.only:
            report.add(list(parts[part]()))


if __name__ == "__main__":
    main()
