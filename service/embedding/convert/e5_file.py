"""Reader of the packed 4-bit file that carries multilingual-e5-small (magic `E5S1`).

Layout, little-endian: magic, u32 version, 7 x i32 (hidden, layers, heads, feed-forward, vocabulary,
positions, token types), f32 epsilon, i32 block size; the tokenizer (5 x i32: pieces, bos, eos, pad, unk;
u64 blob bytes; pieces+1 x u32 offsets; pieces x f32 scores; the blob); a character map (i32 entries, u32
bytes); a directory of tensors (u16 name bytes, name, u8 type, u32 values, u64 offset, u64 bytes). Type 0 is
float32, type 1 is Q4_0: blocks of 32 values as one float16 scale and 16 bytes, low nibbles first, each
value (nibble - 8) * scale.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from service.errors import ModelError

FloatArray: TypeAlias = npt.NDArray[np.float32]
BLOCK = 32
_HEADER = struct.Struct("<4sI7ifi")
_TOKENIZER = struct.Struct("<5iQ")
_ENTRY = struct.Struct("<BIQQ")


class BadWeights(ModelError):
    """A weight file is not what its name says. The message names the file and what was found."""


@dataclass(frozen=True, slots=True)
class Q4:
    """A 4-bit matrix, still packed. nibbles: (rows, blocks, 16) uint8; scales: (rows, blocks) float16."""

    nibbles: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16]

    def values(self) -> FloatArray:
        """Return the (rows, blocks * 32) float32 values, exactly as the format defines them."""
        low = (self.nibbles & 15).astype(np.float32)
        high = (self.nibbles >> 4).astype(np.float32)
        centred = np.concatenate([low, high], axis=2) - np.float32(8)
        return (centred * self.scales.astype(np.float32)[:, :, None]).reshape(len(self.nibbles), -1)


@dataclass(frozen=True, slots=True)
class Unigram:
    """The SentencePiece vocabulary: pieces with log probabilities, and the ids of the special ones."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    bos: int
    eos: int
    pad: int
    unk: int


@dataclass(frozen=True, slots=True)
class E5Weights:
    """The whole encoder. Matrices are (out, in); `dense` holds float32 vectors, `packed` the Q4 matrices."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    epsilon: float
    unigram: Unigram
    dense: dict[str, FloatArray]
    packed: dict[str, Q4]


def read_e5(path: Path) -> E5Weights:
    """Return the weights in the file at `path`. Raises BadWeights for anything that is not this format."""
    data = path.read_bytes()
    try:
        return _parse(data)
    except (struct.error, ValueError, UnicodeDecodeError, KeyError) as exc:
        raise BadWeights(f"{path} is not an E5S1 weight file: {exc}") from exc


def _parse(data: bytes) -> E5Weights:
    magic, version, hidden, layers, heads, feed, vocabulary, positions, _types, epsilon, block = (
        _HEADER.unpack_from(data)
    )
    if magic != b"E5S1" or version != 1 or block != BLOCK:
        raise ValueError(f"magic {magic!r}, version {version}, block {block}")
    unigram, place = _read_unigram(data, _HEADER.size)
    map_entries_and_bytes: tuple[int, int] = struct.unpack_from("<iI", data, place)
    place += 8 + map_entries_and_bytes[1]
    columns = {"fo.w": feed}
    dense: dict[str, FloatArray] = {}
    packed: dict[str, Q4] = {}
    (count,) = struct.unpack_from("<i", data, place)
    place += 4
    for _ in range(count):
        (name_bytes,) = struct.unpack_from("<H", data, place)
        name = data[place + 2 : place + 2 + name_bytes].decode()
        kind, values, offset, size = _ENTRY.unpack_from(data, place + 2 + name_bytes)
        place += 2 + name_bytes + _ENTRY.size
        if kind == 0:
            dense[name] = np.frombuffer(data, "<f4", values, offset)
        else:
            width = columns.get(name.partition(".")[2], hidden)
            packed[name] = _read_q4(data, offset, size, width // BLOCK)
    return E5Weights(hidden, layers, heads, vocabulary, positions, float(epsilon), unigram, dense, packed)


def _read_unigram(data: bytes, place: int) -> tuple[Unigram, int]:
    pieces, bos, eos, pad, unk, blob_bytes = _TOKENIZER.unpack_from(data, place)
    place += _TOKENIZER.size
    offsets = np.frombuffer(data, "<u4", pieces + 1, place)
    place += offsets.nbytes
    scores = np.frombuffer(data, "<f4", pieces, place)
    place += scores.nbytes
    blob = data[place : place + blob_bytes]
    texts = tuple(blob[a:b].decode() for a, b in itertools.pairwise(offsets))
    return Unigram(texts, tuple(float(s) for s in scores), bos, eos, pad, unk), place + blob_bytes


def _read_q4(data: bytes, offset: int, size: int, blocks: int) -> Q4:
    raw = np.frombuffer(data, np.uint8, size, offset).reshape(-1, blocks, 18)
    return Q4(
        nibbles=np.ascontiguousarray(raw[:, :, 2:]),
        scales=np.ascontiguousarray(raw[:, :, :2]).view("<f2")[:, :, 0],
    )
