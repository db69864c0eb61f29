"""How far a reader has to go to follow one search: files entered, changes of file, Python calls.

    python -m benchmarks.search_path [--rows 3000] [--list]

One search by vector takes the short way (`service.http.transport.direct_search`) through a real service, from
the bytes that a connection received to those that it sends, over a sealed segment and a few rows that came
since. It is profiled on the event loop and on the search thread. Only functions of the project count; a
change of file is a call into another file than that of the call before. The least of some runs is printed:
the path that a search takes when nothing else is due. `--list` prints that path, call by call.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from uvicorn.config import Config
from uvicorn.server import ServerState

from benchmarks.http_load import post
from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec, ItemWrite, WriteBatch
from service.http.transport.protocol import SearchProtocol
from service.settings import Settings
from service.wiring import Service, build

DIM = 384
RUNS = 200
WARM_UP = 100
LATER_ROWS = 40
_ROOT = Path(__file__).parents[1]
_ROOMS = tuple(f"{_ROOT}/{room}/" for room in ("service", "index_store", "item_rules"))


@dataclass(slots=True)
class SearchPath:
    """What one search ran through. calls: (file, function), in order."""

    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def files(self) -> int:
        """How many files were entered."""
        return len({file for file, _ in self.calls})

    @property
    def changes(self) -> int:
        """How often a call was into another file than the one before."""
        return sum(one != other for (one, _), (other, _) in itertools.pairwise(self.calls))


class Recorder:
    """A profile function for several threads; notes calls while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False
        self.path = SearchPath()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if self.is_on and event == "call":
            file = frame.f_code.co_filename
            if file.startswith(_ROOMS):
                self.path.calls.append((file.removeprefix(f"{_ROOT}/"), frame.f_code.co_qualname))


class Connection(asyncio.Transport):
    """The other end of one connection, in memory."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)})
        self._answered: asyncio.Future[bytes] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take an answer, which the short way sends whole."""
        assert self._answered is not None
        self._answered.set_result(bytes(data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """A socket is not there to be looked at."""
        return None if name == "socket" else super().get_extra_info(name, default)

    def is_reading(self) -> bool:
        """What is sent arrives."""
        return True

    def is_closing(self) -> bool:
        """Nobody hangs up."""
        return False

    async def ask(self, protocol: asyncio.Protocol, request: bytes) -> None:
        """Send a request that must be answered by 200."""
        self._answered = asyncio.get_running_loop().create_future()
        protocol.data_received(request)
        answer = await self._answered
        assert answer.startswith(b"HTTP/1.1 200"), answer


def prepare(data_dir: Path, rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vectors of a collection `recipes` that is sealed in `data_dir`."""
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((rows, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = EmbeddedIndex(data_dir, [CollectionSpec("recipes", "int64", DIM, "l2")])
    index.open()
    index.advance("recipes", "begin", "v1")
    items = [ItemWrite(number, vectors[number]) for number in range(rows)]
    index.write("recipes", WriteBatch(items, embedding_version="v1"))
    index.close()
    subprocess.run(
        [sys.executable, "-m", "index_store", "rebuild", str(data_dir)],
        check=True, stdout=subprocess.DEVNULL, cwd=_ROOT,
    )  # fmt: skip
    index.open()
    later = [ItemWrite(rows + number, vectors[number]) for number in range(LATER_ROWS)]
    index.write("recipes", WriteBatch(later, embedding_version="v1"))
    index.close()
    return vectors


def connected(service: Service, connection: Connection) -> SearchProtocol:
    """Return the server's end of `connection`."""
    config = Config(service.application, http=SearchProtocol, log_config=None, proxy_headers=False)
    config.load()
    protocol = SearchProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(connection)
    return protocol


async def record(data_dir: Path, queries: Sequence[bytes], recorder: Recorder) -> list[SearchPath]:
    """Return the paths of some searches, one at a time, after a warm-up."""
    settings = Settings.from_environ(
        {"DATA_DIR": str(data_dir), "TEXT_MODEL": "none", "IMAGE_MODEL": "none", "LOG_LEVEL": "error"}
    )
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    service = build(settings)
    paths = []
    try:
        async with service.lifecycle.opened():
            await service.lifecycle.wait()
            connection = Connection()
            protocol = connected(service, connection)
            for number in range(WARM_UP):
                await connection.ask(protocol, queries[number % len(queries)])
            for number in range(RUNS):
                recorder.path = SearchPath()
                recorder.is_on = True
                await connection.ask(protocol, queries[number % len(queries)])
                recorder.is_on = False
                paths.append(recorder.path)
                await asyncio.sleep(0.005)
    finally:
        recorder.is_on = False
        sys.setprofile(None)
        threading.setprofile(None)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the three figures of the shortest path that was seen."""
    parser = argparse.ArgumentParser(prog="search_path", description=__doc__)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--list", action="store_true", help="print the path, call by call")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        vectors = prepare(Path(folder), options.rows)
        bodies = [
            json.dumps({"vector": base64.b64encode(row.tobytes()).decode(), "top_k": 25}).encode()
            for row in vectors[:20]
        ]
        queries = [post("/v1/search", body) for body in bodies]
        paths = asyncio.run(record(Path(folder), queries, Recorder()))
    shortest = min(paths, key=lambda path: len(path.calls))
    if options.list:
        for file, function in shortest.calls:
            print(f"{file:45} {function}")
    calls = len(shortest.calls)
    print(f"files entered {shortest.files}, changes of file {shortest.changes}, calls {calls}")


if __name__ == "__main__":
    main()
