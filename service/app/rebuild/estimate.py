"""What a rebuild will take, before it begins: disk, memory, time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from index_store.footprint import DiskSpace, Footprint
from index_store.types import CollectionStatus, Content
from service.collections import Collection

_DELTA_ROWS = 20_000
"""About as many rows stay in each worker's memory until they are sealed."""
_BYTES_A_NUMBER = 9
"""Of a vector on disk: in the store, in a segment, and its 8-bit code."""
_DISK_RESERVE_BYTES = 64 << 20
_SAMPLE_ITEMS = 8
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Trial:
    """A model opened, tried and closed again. dim: of its vectors. seconds_an_item: of the sample; None
    without one. model_bytes: of its files."""

    embedding_version: str
    dim: int
    seconds_an_item: float | None
    model_bytes: int


TryModel: TypeAlias = Callable[[Collection, str, Sequence[Content]], Trial]
"""Opens the model of a reference for a collection, embeds the contents, closes it. The collection's dim is
what a model that gives any is asked for. Blocking; raises ModelUnavailable."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """items: of the current generation; contents: of those, what can be embedded here. seconds: of
    embedding, undisturbed; None while nothing is there to measure by. *_free: now; None where
    that can't be told from here."""

    items: int
    contents: int
    disk_bytes: int
    disk_bytes_free: int | None
    memory_bytes: int
    memory_bytes_free: int | None
    seconds: float | None

    @property
    def problem(self) -> str:
        """Return what does not fit, or an empty string."""
        free = self.disk_bytes_free
        if free is not None and self.disk_bytes + _DISK_RESERVE_BYTES > free:
            return f"it takes about {_mib(self.disk_bytes)} MiB of disk, {_mib(free)} are free"
        if self.memory_bytes_free is not None and self.memory_bytes > self.memory_bytes_free:
            return (
                f"it takes about {_mib(self.memory_bytes)} MiB of memory, "
                f"{_mib(self.memory_bytes_free)} are free"
            )
        return ""


def sample_size() -> int:
    """Return how many contents a trial embeds."""
    return _SAMPLE_ITEMS


def estimate(
    room: DiskSpace,
    footprints: Sequence[Footprint],
    status: CollectionStatus,
    trial: Trial,
    workers: int,
    *,
    takes_contents: bool,
) -> Estimate:
    """Return what filling a generation beside the current one takes. footprints: of the generations that are
    there. takes_contents: whether it is made of the contents that are kept."""
    current = status.current
    items, contents = (current.items, current.contents if takes_contents else 0) if current else (0, 0)
    its = [each for each in footprints if current is not None and each.generation == current.generation]
    disk = sum(each.store_bytes + each.mapped_bytes for each in its)
    disk += max(0, trial.dim - (current.dim if current else trial.dim)) * items * _BYTES_A_NUMBER
    delta = min(items, _DELTA_ROWS) * trial.dim * 4
    seconds = None if trial.seconds_an_item is None else round(trial.seconds_an_item * contents, 1)
    return Estimate(
        items=items,
        contents=contents,
        disk_bytes=disk,
        disk_bytes_free=room.free_bytes,
        memory_bytes=trial.model_bytes + workers * delta,
        memory_bytes_free=_memory_free(),
        seconds=seconds,
    )


def _memory_free() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _mib(size: int) -> int:
    return -(-size >> 20)
