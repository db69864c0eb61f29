"""Reader of a torch checkpoint (the format before the zip one) that runs no code from the file.

Only the four names that a plain state dict needs may appear in the pickles; anything else is refused.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from service.embedding.convert.e5_file import BadWeights

Tensors: TypeAlias = dict[str, npt.NDArray[Any]]
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class _Storage:
    """One flat run of numbers, filled after the pickles have been read; tensors are windows on it."""

    def __init__(self, dtype: str, count: int) -> None:
        self.values = np.zeros(count, np.dtype(dtype))


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    item = storage.values.itemsize
    needed = offset + 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if offset < 0 or needed > len(storage.values) or min(stride, default=0) < 0:
        raise BadWeights("a tensor reaches outside its storage")
    return np.lib.stride_tricks.as_strided(
        storage.values[offset:], size, [s * item for s in stride], writeable=False
    )


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _StateDictUnpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], storages: dict[str, _Storage]) -> None:
        super().__init__(stream)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise BadWeights(f"the checkpoint names {module}.{name}, which a state dict does not need")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, count, view = pid
        if kind != "storage" or view is not None:
            raise BadWeights("the checkpoint holds something else than plain storages")
        return self._storages.setdefault(key, _Storage(dtype, count))


def read_state_dict(path: Path) -> Tensors:
    """Return name -> array of the checkpoint at `path`. Raises BadWeights for any other content."""
    storages: dict[str, _Storage] = {}
    with io.BytesIO(path.read_bytes()) as stream:

        def load() -> Any:
            return _StateDictUnpickler(stream, storages).load()

        try:
            return _read(stream, load, storages)
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise BadWeights(f"{path} is not a torch state dict: {exc}") from exc


def _read(stream: IO[bytes], load: Callable[[], Any], storages: dict[str, _Storage]) -> Tensors:
    if load() != _MAGIC or load() != _PROTOCOL:
        raise ValueError("unknown magic number or protocol")
    load()  # the writer's word sizes; the dtypes above fix them
    state = load()
    for key in load():
        storage = storages[key]
        count = int.from_bytes(stream.read(8), "little")
        if count != len(storage.values):
            raise ValueError(f"storage {key} has {count} values, {len(storage.values)} promised")
        raw = stream.read(storage.values.nbytes)
        storage.values[:] = np.frombuffer(raw, storage.values.dtype)
    return {str(name): np.array(values) for name, values in state.items()}
