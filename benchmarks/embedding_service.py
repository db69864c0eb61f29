"""The service as a process, contents to embed, and rows of figures with their limits."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path
from types import TracebackType

from benchmarks.http_load import cpu_seconds
from benchmarks.processes import command_of, free_port
from service.demo.catalogue import products, recipes
from service.embedding.catalog.builtin import BUILTIN, E5, MODEL_FILE
from service.embedding.catalog.loader import load_embedder
from service.embedding.pictures.images import BYTES_MAX, PIXELS_MAX, decode_image

ROOT = Path(__file__).parents[1]
OUT = ROOT / ".out"
CORES = os.cpu_count() or 1
WRITES_NICE = 10
_IDLE_S = 4.0
_IDLE_SHARE_MAX = 0.1
WEIGHTS_FILE = "model.onnx_data"
"""As the service keeps them for mapping (docs/decisions/0017)."""
TASTES = ("매운", "담백한", "국물이 진한", "고소한", "새콤한", "간단한", "겨울에 먹는", "아이가 좋아하는")
PLACES = (
    "집에서",
    "캠핑에서",
    "손님상에",
    "아침에",
    "야식으로",
    "도시락으로",
    "명절에",
    "혼자",
    "비 오는 날",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. limit: the most, or with `at_least` the least, that passes."""

    name: str
    value: float
    limit: float
    at_least: bool = False
    detail: str = ""

    @property
    def passes(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Report:
    """Prints rows as they come, each with its limit, and keeps them in .out/NAME.json."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: list[dict[str, object]] = []
        load = os.getloadavg()[0]
        print(f"{CORES} cores, load average {load:.1f}: what else runs takes from every figure of time")

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            sign = ">=" if row.at_least else "<="
            verdict = "PASS" if row.passes else "MISS"
            print(
                f"{verdict}  {row.name:60} {row.value:8.4g}  {sign} {row.limit:<7} {row.detail}", flush=True
            )
            self._found.append({**asdict(row), "passes": row.passes})
        OUT.mkdir(exist_ok=True)
        text = json.dumps(self._found, indent=1, ensure_ascii=False)
        (OUT / f"{self._name}.json").write_text(text + "\n", "utf-8")


def queries() -> Iterator[str]:
    """Yield short Korean queries, none twice."""
    titles = [recipe.title for recipe in recipes()]
    for turn in count():
        for taste, place, title in product(TASTES, PLACES, titles):
            yield f"{place} {taste} {title}" + (f" {turn}" if turn else "")


def texts(number: int) -> list[str]:
    """Return recipes as they are embedded, each with a mark so that none comes twice."""
    rows = recipes()
    return [
        f"{row.title}: {row.description}. 재료: {', '.join(row.ingredients)} {place}"
        for place, row in ((place, rows[place % len(rows)]) for place in range(number))
    ]


def picture_files(number: int) -> list[bytes]:
    files = [each.jpeg for each in products()]
    return [files[place % len(files)] for place in range(number)]


def text_bodies(some: Sequence[str], step: int) -> list[bytes]:
    """Return upserts of `step` texts each."""
    items = [{"recipe_id": place, "text": text} for place, text in enumerate(some)]
    return _bodies("recipes", items, step)


def picture_bodies(files: Sequence[bytes], step: int) -> list[bytes]:
    items = [
        {"product_id": f"p{place}", "image": base64.b64encode(file).decode()}
        for place, file in enumerate(files)
    ]
    return _bodies("products", items, step)


def _bodies(collection: str, items: Sequence[object], step: int) -> list[bytes]:
    return [
        json.dumps({"collection": collection, "items": items[start : start + step]}).encode()
        for start in range(0, len(items), step)
    ]


def offline_texts(some: Sequence[str], models_dir: Path) -> tuple[float, float]:
    """Return the seconds, and those of CPU, of embedding all, nothing else, at the priority of writes."""
    os.nice(WRITES_NICE)
    ref = f"builtin:{E5}"
    embedder = load_embedder(ref, "text", models_dir=models_dir, dim=384, threads=CORES)
    embedder.embed(some[:4], "document")
    began, used = time.perf_counter(), time.process_time()
    for start in range(0, len(some), 200):
        embedder.embed(some[start : start + 200], "document")
    return time.perf_counter() - began, time.process_time() - used


def offline_pictures(files: Sequence[bytes], models_dir: Path) -> tuple[float, float]:
    os.nice(WRITES_NICE)
    ref = "builtin:efficientnet-lite0-views"
    embedder = load_embedder(ref, "image", models_dir=models_dir, dim=512, threads=CORES)
    began, used = time.perf_counter(), time.process_time()
    for start in range(0, len(files), 16):
        some = files[start : start + 16]
        embedder.embed(
            [decode_image(file, bytes_max=BYTES_MAX, pixels_max=PIXELS_MAX) for file in some], "document"
        )
    return time.perf_counter() - began, time.process_time() - used


def bare_load_s(models_dir: Path) -> float:
    """Return the seconds that the two libraries take to open the text model's files."""
    import onnxruntime
    from tokenizers import Tokenizer

    directory = BUILTIN[E5].directory(models_dir)
    began = time.perf_counter()
    Tokenizer.from_file(str(directory / "tokenizer.json"))
    onnxruntime.InferenceSession(str(directory / MODEL_FILE), providers=["CPUExecutionProvider"])
    return time.perf_counter() - began


_BARE = """
import sys
import onnxruntime
from tokenizers import Tokenizer
Tokenizer.from_file(sys.argv[1])
onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
"""


def bare_start_s(models_dir: Path) -> float:
    """Return the seconds of a process that opens the text model's files by the two libraries, and ends."""
    directory = BUILTIN[E5].directory(models_dir)
    files = (str(directory / "tokenizer.json"), str(directory / MODEL_FILE))
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _BARE, *files], check=True)
    return time.perf_counter() - began


class Served:
    """`python -m service` on a free port, with both built-in models unless told otherwise."""

    def __init__(self, data_dir: Path, models_dir: Path, *, log: Path | None = None, **environ: str) -> None:
        """log: where its output goes; to that of this process without it."""
        self._log = log
        self.port = free_port()
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._environ = {
            **kept, "HOST": "127.0.0.1", "PORT": str(self.port), "DATA_DIR": str(data_dir),
            "KEYLESS_WRITES": "loopback",
            "MODELS_DIR": str(models_dir.resolve()), "TEXT_MODEL": f"builtin:{E5}",
            "IMAGE_MODEL": "builtin:efficientnet-lite0-views", "LOG_LEVEL": "warning",
            "SEARCH_DEADLINE_MS": "60000", "QUEUE_MS_MAX": "60000", **environ,
        }  # fmt: skip
        self.ready_s = 0.0

    def __enter__(self) -> Served:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it is ready. Raises RuntimeError."""
        began = time.perf_counter()
        with contextlib.ExitStack() as closing:
            out = closing.enter_context(self._log.open("ab")) if self._log else None
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=ROOT, env=self._environ, start_new_session=True,
                stdout=out, stderr=out,
            )  # fmt: skip
        while not self._is_ready():
            if self._process.poll() is not None or time.perf_counter() - began > 120:
                raise RuntimeError("the service did not come up")
            time.sleep(0.02)
        self.ready_s = time.perf_counter() - began

    def stop(self) -> None:
        """End it as a supervisor does."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9 of all its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        """kill -9 of what is left of it, and start it again."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.start()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def worker_ids(self) -> list[int]:
        """Return the processes that serve beside their parent; Linux only."""
        return [int(each) for each in self._workers() if b"spawn_main" in command_of(int(each))]

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def fill(self, bodies: Sequence[bytes], connections: int = 1) -> None:
        """Send upserts, `connections` at a time."""
        with ThreadPoolExecutor(connections) as senders:
            for said in senders.map(self._upsert, bodies):
                if said:
                    raise RuntimeError(said)

    def _upsert(self, body: bytes) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/v1/upsert", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        said = answer.read().decode()
        connection.close()
        return "" if answer.status == 200 else said

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process that serves."""
        return cpu_seconds(self._process.pid)

    def wait_until_idle(self, seconds_max: float = 300.0) -> None:
        """Return once its processes do next to nothing: what was stored is sealed. Raises TimeoutError."""
        give_up = time.monotonic() + seconds_max
        while time.monotonic() < give_up:
            before = sum(cpu_seconds(int(each)) for each in self._workers())
            time.sleep(_IDLE_S)
            used = sum(cpu_seconds(int(each)) for each in self._workers()) - before
            if used < _IDLE_SHARE_MAX * _IDLE_S:
                return
        raise TimeoutError(f"the service is not idle after {seconds_max} s")

    def weights_mb(self) -> tuple[float, float]:
        """Return (mapped by all workers together, private to one) MB of model weights; Linux only."""
        mapped = private = 0.0
        for process in self._workers():
            is_weights = False
            for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
                name, _, rest = line.partition(":")
                if " " in name:  # the head of the next mapping
                    is_weights = rest.endswith(WEIGHTS_FILE) or name.endswith(WEIGHTS_FILE)
                elif is_weights and name in ("Rss", "Private_Clean", "Private_Dirty"):
                    mapped += int(rest.split()[0]) / 1024 if name == "Rss" else 0.0
                    private += int(rest.split()[0]) / 1024 if name != "Rss" else 0.0
        return mapped, private

    def _workers(self) -> list[str]:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return children or [str(self._process.pid)]

    def memory_mb(self) -> tuple[float, float, float]:
        """Return resident, private and shared MB of the worker that has most; Linux only."""
        found = []
        for process in self._workers():
            sizes = {"Rss": 0.0, "Private_Clean": 0.0, "Private_Dirty": 0.0}
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in sizes:
                    sizes[name] = int(rest.split()[0]) / 1024
            private = sizes["Private_Clean"] + sizes["Private_Dirty"]
            found.append((sizes["Rss"], private, sizes["Rss"] - private))
        return max(found)
