"""Vectors for benchmarks and recall tests: real ones where they lie beside the project, else synthetic."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index_store.ann.rerank import Matrix

REAL = Path(__file__).parents[2] / "shared" / "data" / "wordnet384_f16.npy"
HELD_OUT = 2000


@dataclass(frozen=True, slots=True)
class Dataset:
    """Unit rows, and queries from the same source that are not among them."""

    name: str
    rows: Matrix
    queries: Matrix


def load(rows: int, queries: int, seed: int = 5, synthetic: bool = False) -> Dataset:
    """Return a set, and print which. Synthetic: points of a 24-dimensional mixture bent into 384."""
    if REAL.exists() and not synthetic:
        stored = np.load(REAL, mmap_mode="r")
        rows = min(rows, len(stored) - HELD_OUT)
        print(f"data: {rows} real sentence vectors (wordnet384)")
        every = np.concatenate([stored[:rows], stored[len(stored) - HELD_OUT :][:queries]])
        unit = _unit(every.astype(np.float32))
        return Dataset("wordnet384", unit[:rows], unit[rows:])
    print(f"data: {rows} synthetic low-rank vectors")
    random = np.random.default_rng(seed)
    centres = random.normal(size=(200, 24))
    latent = centres[random.integers(0, 200, rows + queries)] + random.normal(size=(rows + queries, 24))
    hidden = np.maximum(latent @ random.normal(size=(24, 128)), 0)
    unit = _unit((hidden @ random.normal(size=(128, 384))).astype(np.float32))
    return Dataset("synthetic", unit[:rows], unit[rows:])


def drawn_base64(random: np.random.Generator, dim: int) -> str:
    """Return a unit vector in no special direction, as the wire takes it: base64 of little-endian float32."""
    vector = random.standard_normal(dim)
    return base64.b64encode((vector / np.linalg.norm(vector)).astype("<f4").tobytes()).decode()


def _unit(vectors: Matrix) -> Matrix:
    unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
