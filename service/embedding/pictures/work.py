"""What a picture file would cost, told from its structure before a decoder sees it.

Bytes and pixels do not bound the work: 2 MB of JPEG can hold 56,000 passes over all its pixels, a PNG a
million chunks, a block of camera notes 65,535 entries that each read all of it again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import InvalidImage

JPEG_SCANS_MAX = 100
"""Progressive pictures of cameras and encoders have 10, of an optimiser up to 30."""
JPEG_SEGMENTS_MAX = 2000
JPEG_REDUCED_MAX = 4
"""JPEG is reduced while it is decoded: it may be so much larger than what other formats may."""
PROGRESSIVE_BYTES_A_PIXEL = 8
"""A progressive JPEG is kept whole, as coefficients, until its last scan: so many bytes for each pixel of
pixels_max at most. 50 megapixels as telephones write them need 6."""
PNG_CHUNKS_MAX = 2000
PNG_DATA_CHUNKS_MAX = 50_000
EXIF_READ_MAX = 4
"""Camera notes whose entries are together so many times longer than the notes were made to cost."""
_SOF = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_EXIF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


@dataclass(frozen=True, slots=True)
class _Segment:
    """A JPEG marker and what belongs to it, length excluded."""

    marker: int
    start: int
    end: int


def check_jpeg(data: bytes, pixels_max: int) -> None:
    """Raises InvalidImage: image_too_complex, image_pixels."""
    scans = 0
    exif = bytearray()
    for count, segment in enumerate(_segments(data), start=1):
        if count > JPEG_SEGMENTS_MAX:
            raise too_complex(f"has more than {JPEG_SEGMENTS_MAX} segments")
        if segment.marker == 0xDA:
            scans += 1
            if scans > JPEG_SCANS_MAX:
                raise too_complex(f"has more than {JPEG_SCANS_MAX} scans")
        elif segment.marker in _SOF:
            _check_frame(segment.marker, data[segment.start : segment.end], pixels_max)
        elif segment.marker == 0xE1 and data.startswith(b"Exif\0\0", segment.start):
            exif += data[segment.start + 6 : segment.end]
    check_exif(exif)


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield up to the end of what is well-formed; the decoder says what is not."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            found = _NEXT_MARKER.search(data, at)
            if found is None:
                return
            at = found.start()
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            return
        if marker in _BARE or marker == 0x00:
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield _Segment(marker, at + 4, end)
        at = max(end, at + 4)


def _check_frame(marker: int, frame: bytes, pixels_max: int) -> None:
    """frame: precision, height, width, then (id, sampling, table) of each component."""
    if len(frame) < 6:
        return
    height, width, components = struct.unpack_from(">HHB", frame, 1)
    if width * height > JPEG_REDUCED_MAX * pixels_max:
        raise InvalidImage(
            "image_pixels",
            f"The picture is {width} x {height}; at most {JPEG_REDUCED_MAX * pixels_max} pixels of a JPEG "
            "are read.",
        )
    sampling = [(each >> 4, each & 15) for each in frame[7 : 6 + 3 * components : 3]]
    if marker in _PROGRESSIVE and sampling:
        across, down = max(1, *(a for a, _ in sampling)), max(1, *(d for _, d in sampling))
        values = width * height * sum(a * d for a, d in sampling) / (across * down)
        if 2 * values > PROGRESSIVE_BYTES_A_PIXEL * pixels_max:
            raise InvalidImage(
                "image_pixels",
                f"The picture is a progressive JPEG of {width} x {height}: too large to be kept whole; "
                "save it as a baseline JPEG, or smaller.",
            )


def check_png(data: bytes) -> None:
    """Raises InvalidImage: image_too_complex."""
    at, others, parts = 8, 0, 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            parts += 1
        else:
            others += 1
        if others > PNG_CHUNKS_MAX or parts > PNG_DATA_CHUNKS_MAX:
            raise too_complex(f"has more than {PNG_CHUNKS_MAX} chunks beside its data")
        if kind == b"eXIf":
            check_exif(data[at + 8 : at + 8 + length])
        if kind == b"IEND":
            return
        at += 12 + length


def check_exif(block: bytes | bytearray) -> None:
    """Raises InvalidImage (image_too_complex) when reading the entries means reading the block many times."""
    block = bytes(block).removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    if start + 2 > len(block):
        return
    (count,) = struct.unpack_from(f"{order}H", block, start)
    entries = block[start + 2 : start + 2 + 12 * count]
    whole = entries[: len(entries) // 12 * 12]
    wanted = sum(
        _EXIF_SIZES.get(kind, 0) * values for _, kind, values, _ in struct.iter_unpack(f"{order}HHII", whole)
    )
    if wanted > EXIF_READ_MAX * len(block) and wanted > 65_536:
        raise too_complex("has camera notes that repeat themselves")


def too_complex(what: str) -> InvalidImage:
    """Return the refusal of a picture that takes too much work to decode. what: the verb and what it does."""
    return InvalidImage("image_too_complex", f"The picture {what}; it is not decoded. Save it again.")
