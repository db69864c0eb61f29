"""Rows of numbers under names, added to by one process and summed over all that share a folder.

For what every request counts: an addition is a tenth of what prometheus_client's takes over its shared files
(docs/decisions/0075). The names stand in the memory itself, so any process can read what another wrote, also
once it has ended.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from index_store.processes import is_running

_NAME_BYTES: Final = 120
_NAME_DOUBLES: Final = _NAME_BYTES // 8
_OTHERS: Final = "(others)"


def memory_on_disk(path: Path | None, size: int) -> bytearray | mmap.mmap:
    """Return zeros that whoever maps the file can read; of this process alone without a path."""
    if path is None:
        return bytearray(size)
    with path.open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk later would end the process: SIGBUS
        return mmap.mmap(file.fileno(), size)


class SharedRows:
    """`row` and the writes to `values` belong to one thread, `summed` to any."""

    def __init__(self, kind: str, width: int, rows_max: int, shared_dir: Path | None) -> None:
        """kind: names the files. width: numbers of a row. rows_max: names beyond it count as one."""
        self._kind = kind
        self._step = _NAME_DOUBLES + width
        self._rows_max = rows_max
        self._shared_dir = shared_dir
        path = None if shared_dir is None else shared_dir / f"{kind}-{os.getpid()}.rows"
        self._memory = memory_on_disk(path, rows_max * self._step * 8)
        self.values = memoryview(self._memory).cast("d")
        """Of all rows; `row` says where one begins."""
        self._places: dict[str, int] = {}

    def row(self, name: str) -> int:
        """Return where the numbers of `name` begin in `values`."""
        place = self._places.get(name)
        if place is None:
            if len(self._places) >= self._rows_max - 1 and name != _OTHERS:
                return self.row(_OTHERS)
            start = len(self._places) * self._step
            data = name.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
            self._memory[start * 8 : start * 8 + _NAME_BYTES] = data
            place = self._places[name] = start + _NAME_DOUBLES
        return place

    def summed(self, *, running_only: bool = False) -> dict[str, npt.NDArray[np.float64]]:
        """Return the sums by name. running_only: without processes that have ended."""
        total: dict[str, npt.NDArray[np.float64]] = {}
        for block in self._blocks(running_only=running_only):
            rows = np.frombuffer(block[: len(block) // (self._step * 8) * self._step * 8], np.float64)
            for row in rows.reshape(-1, self._step):
                name = row[:_NAME_DOUBLES].tobytes().rstrip(b"\0").decode(errors="replace")
                if not name:
                    break  # rows are given out in order
                total[name] = total.get(name, 0) + row[_NAME_DOUBLES:]
        return total

    def _blocks(self, *, running_only: bool) -> Iterator[bytes]:
        if self._shared_dir is None:
            yield bytes(self._memory)
            return
        for file in self._shared_dir.glob(f"{self._kind}-*.rows"):
            if not running_only or is_running(int(file.stem.rpartition("-")[2])):
                yield file.read_bytes()
