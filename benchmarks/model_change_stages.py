"""The stages of a model change on a running service, each under load and judged at its end."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.model_change_load import Caller, Happened, Load, Pace, taken_step
from benchmarks.model_change_pauses import Span, Turns, parts
from benchmarks.model_change_shop import Embed, Shop, Step
from service.embedding.catalog.loader import load_embedder

OLD, NEW = "builtin:hashed-ngrams", "builtin:placeholder"
SETTLE_S = 5.0
"""Belongs to a step: what a search notices of a promotion it notices soon after it."""
_MODELS_DIR = Path(".models")
_DIM = 384
_RECALL_SAMPLE = 40
_AWAITING_S_MAX = 120.0
_LOOK_S = 0.1
_SEED = 20_261_128


@dataclass
class Watched:
    """What was seen from the first stage to the last. spans: when each stage was, on the load's clock. busy,
    quiet: its parts, and times beside it in which nothing but the load was at work."""

    spans: dict[str, Span] = field(default_factory=dict)
    busy: dict[str, list[Span]] = field(default_factory=dict)
    quiet: dict[str, list[Span]] = field(default_factory=dict)
    latencies: list[tuple[float, float]] = field(default_factory=list)  # of searches that are not exact
    steps: list[Step] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    answers: int = 0
    exact: int = 0
    recalled: int = 0
    recallable: int = 0
    changes: int = 0

    def took_ms(self, spans: Sequence[Span]) -> list[float]:
        """Return how long the searches took that were due within any of `spans`."""
        return [took for due, took in self.latencies if any(first <= due < last for first, last in spans)]


def embed_of(reference: str) -> Embed:
    """Return what a text model does."""
    embedder = load_embedder(reference, "text", models_dir=_MODELS_DIR, dim=_DIM, threads=1)
    return lambda texts: embedder.embed(list(texts), "document").vectors


def both_versions(port: int) -> tuple[str, str]:
    """Return the version that serves, and the one that a rebuild would give."""
    status, answer = Caller(port).ask("GET", "/v1/collections/recipes/generations")
    serving = json.loads(answer)["generations"][0]["embedding_version"]
    body = {"collection": "recipes", "model": NEW, "dry_run": True}
    status, answer = Caller(port).post("/v1/rebuild", body)
    if status != 200:
        raise RuntimeError(f"{status} {answer!r}")
    return str(serving), str(json.loads(answer)["embedding_version"])


class Stages:
    """One model change on a running service; the load runs within each stage and rests between them."""

    def __init__(self, port: int, turns: Turns, data_dir: Path, items: int, pace: Pace) -> None:
        self.port = port
        self._turns = turns
        self.old, self.new = both_versions(port)
        self.shop = Shop(items, {self.old: embed_of(OLD), self.new: embed_of(NEW)}, self.old)
        self.load = Load(port, self.shop.items, pace, _SEED)
        self.watched = Watched()
        self._folder = data_dir / "collections" / "recipes"

    def quiet(self, seconds: float) -> None:
        with self.load.running():
            time.sleep(1.0)  # until all of them send
            self._quiet_beside("quiet", seconds)
        self._stop()

    def rebuild(self) -> dict[str, Any]:
        """Rebuild; return the job when it is ready."""
        with self.load.running(), self._turns.taken():
            time.sleep(1.0)  # until all of them send
            body = {"collection": "recipes", "model": NEW}
            status, answer = Caller(self.port).post("/v1/rebuild", body)
            if status != 202:
                raise RuntimeError(f"{status} {answer!r}")
            job_id = json.loads(answer)["job"]["id"]
            while (job := self._asked(f"/v1/jobs/{job_id}"))["state"] in ("queued", "running"):
                now = time.monotonic()
                began, _ = self.watched.spans.get(job["phase"], (now, now))
                time.sleep(_LOOK_S)
                self.watched.spans[job["phase"]] = (began, time.monotonic())
        if job["state"] != "ready":
            raise RuntimeError(f"the job is {job}")
        paused = self._turns.paused
        for name, span in self.watched.spans.items():
            self.watched.busy[name], quiet = parts(span, paused)
            self.watched.quiet[name] = quiet or paused
        self._stop()
        return job

    def step(self, step: str, name: str) -> None:
        with self.load.running():
            time.sleep(1.0)  # until all of them send
            self._quiet_beside(name, SETTLE_S)
            began = time.monotonic()
            self.watched.steps.append(taken_step(self.port, step))
            time.sleep(SETTLE_S)
            self.watched.spans[name] = (began, time.monotonic())
            self.watched.busy[name] = [self.watched.spans[name]]
        self._stop()

    def _quiet_beside(self, name: str, seconds: float) -> None:
        began = time.monotonic()
        time.sleep(seconds)
        self.watched.quiet[name] = [(began, time.monotonic())]

    def _stop(self) -> None:
        """Judge what happened, and compare every generation with the source."""
        happened = self.load.take()
        self._judge(happened)
        deadline = time.monotonic() + _AWAITING_S_MAX
        while any(each["awaiting"] for each in self._generations()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"items wait for their vectors: {self._generations()}")
            time.sleep(_LOOK_S)
        for each in self._generations():
            directory, version = self._folder / each["generation"], each["embedding_version"]
            self.watched.differences += self.shop.differences(directory, version)

    def _judge(self, happened: Happened) -> None:
        watched = self.watched
        findings = self.shop.judge(happened.changes, happened.searches, watched.steps, _RECALL_SAMPLE)
        watched.problems += findings.problems()
        watched.failures += [each.what for each in happened.failures]
        watched.latencies += [(each.due, each.latency_ms) for each in happened.searches if not each.exact]
        watched.answers += findings.answers
        watched.exact += findings.exact
        watched.recalled += findings.recalled
        watched.recallable += findings.recallable
        watched.changes += len(happened.changes)

    def _generations(self) -> list[dict[str, Any]]:
        return list(self._asked("/v1/collections/recipes/generations")["generations"])

    def _asked(self, path: str) -> dict[str, Any]:
        status, answer = Caller(self.port).ask("GET", path)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer!r}")
        return dict(json.loads(answer))
