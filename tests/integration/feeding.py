"""A real service process and a real feeder process, for tests that look at what a shop's operator gets."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from index_store.storage.digest import BUCKETS, ShareHasher, bucket_of, root_of
from tests.integration.databases import free_port
from vector_client.errors import VectorClientError
from vector_client.http import VectorClient
from vector_client.transport import Limits
from vector_client.types import Id

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS_MAX = 60.0


class ServiceProcess:
    """`python -m service` over a directory of its own; it can be killed and started again."""

    def __init__(self, folder: Path, collections: str, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.collections = folder / "collections.toml"
        self.collections.write_text(collections, encoding="utf-8")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = VectorClient.to(self.url, limits=Limits(timeout_s=60, retries=0))
        self._environ = dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None

    def environ(self) -> dict[str, str]:
        """Return what points a feeder at this service."""
        return {"COLLECTIONS_FILE": str(self.collections), "ML_INFERENCE_URL": self.url}

    def start(self) -> None:
        names = {"PATH", "HOME", "LANG", "TMPDIR", "MODELS_DIR"}
        environ = {name: value for name, value in os.environ.items() if name in names}
        environ |= self._environ | self.environ()
        environ |= {"PORT": str(self.port), "DATA_DIR": str(self.folder / "data")}
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=ROOT, env=environ, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "service.log").read_text()[-4000:])
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return all(state.version for state in self.client.status().values())
        except VectorClientError:
            return False

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self.client.close()

    def embed(self, collection: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the service's own document vectors, as (n, dim) float32."""
        rows: list[Sequence[float]] = []
        for start in range(0, len(texts), 100):
            rows += self.client.embed_batch(texts[start : start + 100], collection, role="document").vectors
        return np.array(rows, dtype=np.float32)

    def version(self, collection: str) -> str:
        return self.client.status()[collection].version or ""


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    output: str
    errors: str

    def count(self, name: str) -> int:
        """Return a number out of the printed table."""
        found = re.search(rf"^  {name} +([\d,]+)", self.output, re.MULTILINE)
        assert found, f"no {name!r} in {self.output!r}"
        return int(found[1].replace(",", ""))


def feeder_process(environ: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "feeder", *arguments], cwd=ROOT, env=kept | dict(environ), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run_feeder(environ: Mapping[str, str], *arguments: str) -> Outcome:
    with feeder_process(environ, *arguments) as process:
        output, errors = process.communicate(timeout=240)
        return Outcome(process.returncode, output, errors)


def expected_root(rows: Iterable[tuple[Id, bool, npt.NDArray[np.float32]]], version: str) -> str:
    """Return the digest that a service holding exactly these items must give."""
    hasher = ShareHasher(version)
    buckets = np.zeros(BUCKETS, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for item_id, active, vector in rows:
            share = hasher.share(item_id, active, vector.astype("<f4").tobytes(), None)
            buckets[bucket_of(item_id)] += np.uint64(share)
    return root_of(buckets)


def as_text(vector: npt.NDArray[np.float32]) -> str:
    """Return pgvector's text form, exact to the last bit of a float32."""
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


def insert(db: psycopg.Connection[Any], table: str, columns: str, rows: Iterable[Sequence[Any]]) -> None:
    with db.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def korean_names(count: int, seed: int) -> list[str]:
    """Return product-like Korean names, some of them repeated, some in decomposed Hangul (NFD)."""
    rng = np.random.default_rng(seed)
    kinds = "매운 담백한 구수한 얼큰한 달콤한 시원한 고소한 국내산 유기농 냉동 즉석 수제"
    dishes = "갈비탕 김치찌개 된장국 비빔밥 잡채 불고기 떡볶이 순대 만두 칼국수 냉면 삼계탕 파전 김밥"
    names = []
    for number in range(count):
        name = f"{rng.choice(kinds.split())} {rng.choice(dishes.split())} {rng.integers(1, 12) * 100}g"
        names.append(unicodedata.normalize("NFD", name) if number % 10 == 3 else name)
    return names
