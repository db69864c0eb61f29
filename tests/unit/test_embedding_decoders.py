"""Decoding in processes: the same pixels, hostile pictures ended, nothing waited for at the close."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.embedding.pictures.decoders import DecodeLimits, Decoders
from service.embedding.pictures.images import decode_image
from service.errors import InvalidImage, Starting
from tests.waiting import PATIENCE_S, until


def encoded(side: int = 60, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def slow_picture(side: int = 2500) -> bytes:
    """A BMP of runs of one pixel each, unpacked in Python: seconds of work that no header shows."""
    runs = b"\x01\x07" * side + b"\0\0"
    data = runs * side + b"\0\1"
    palette = bytes(range(256)) * 4
    start = 14 + 40 + len(palette)
    file = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    return file + header + palette + data


def jpeg_with_scans(count: int) -> bytes:
    """A progressive JPEG whose one scan of coefficients is repeated."""

    def segment(marker: int, body: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body

    data = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    data += segment(0xC2, struct.pack(">BHHB", 8, 8, 8, 1) + b"\1\x11\0")
    data += segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\0")
    data += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\0")
    data += segment(0xDA, b"\1\1\0" + b"\0\0\0") + b"\x7f"
    return data + (segment(0xDA, b"\1\1\0" + bytes([1, 63, 0])) + b"\x7f") * (count - 1) + b"\xff\xd9"


def png_with(chunks: bytes) -> bytes:
    whole = encoded(8, "PNG")
    return whole[:33] + chunks + whole[33:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders(DecodeLimits())
    yield made
    made.close()


def code_of(found: object) -> str:
    assert isinstance(found, InvalidImage), found
    assert str(found).endswith(".")
    return found.code


@pytest.mark.long
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_gives_what_decoding_here_gives(decoders: Decoders, kind: str) -> None:
    data = encoded(900, kind)
    np.testing.assert_array_equal(decoders.decode(data, "query"), decode_image(data))


def test_one_process_serves_picture_after_picture(decoders: Decoders) -> None:
    for _ in range(3):
        decoders.decode(encoded(), "query")
        assert code_of(decoders.decode(b"text", "query")) == "image_format"
    assert len(decoders.processes()) == 1
    decoders.decode(encoded(), "document")
    assert len(decoders.processes()) == 2, "documents have processes of their own priority"


@pytest.mark.long
def test_a_picture_that_takes_too_much_work_is_ended_and_the_next_one_read() -> None:
    decoders = Decoders(DecodeLimits(work_ms_max=100))
    try:
        assert code_of(decoders.decode(slow_picture(), "query")) == "image_too_complex"
        assert isinstance(decoders.decode(encoded(), "query"), np.ndarray)
    finally:
        decoders.close()


def test_closing_ends_what_is_being_decoded() -> None:
    decoders = Decoders(DecodeLimits(work_ms_max=60_000))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(decoders.decode, slow_picture(), "query")
        while not decoders.processes():
            assert not found.done()
            threading.Event().wait(0.01)
        (process_id,) = decoders.processes()
        decoders.close()
        with pytest.raises(Starting):
            found.result(PATIENCE_S)
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
    with pytest.raises(Starting):
        decoders.decode(encoded(), "query")


def test_a_process_that_died_is_replaced(decoders: Decoders) -> None:
    decoders.decode(encoded(), "query")
    (process_id,) = decoders.processes()
    os.kill(process_id, 9)
    until(lambda: isinstance(decoders.decode(encoded(), "query"), np.ndarray), "a picture")
    assert process_id not in decoders.processes()


def test_no_variable_of_ours_reaches_who_reads_strangers_files(decoders: Decoders) -> None:
    os.environ["SEARCH_API_KEY"] = "a-key-to-look-for"
    try:
        decoders.decode(encoded(), "query")
    finally:
        del os.environ["SEARCH_API_KEY"]
    (process_id,) = decoders.processes()
    assert b"a-key-to-look-for" not in Path(f"/proc/{process_id}/environ").read_bytes()


@pytest.mark.long
def test_memory_is_bounded_and_given_back() -> None:
    decoders = Decoders(DecodeLimits(pixels_max=25_000_000))
    try:
        large = io.BytesIO()
        Image.new("RGBA", (5000, 5000)).save(large, "PNG", compress_level=1)
        assert isinstance(decoders.decode(large.getvalue(), "query"), np.ndarray)
        (process_id,) = decoders.processes()
        status = Path(f"/proc/{process_id}/status").read_text()
        facts = dict(line.split(":", 1) for line in status.splitlines())
        assert int(facts["VmRSS"].split()[0]) < 80_000, "what the picture took is kept"
    finally:
        decoders.close()


def test_scans_of_a_jpeg_are_bounded(decoders: Decoders) -> None:
    assert isinstance(decoders.decode(jpeg_with_scans(100), "query"), np.ndarray)
    assert code_of(decoders.decode(jpeg_with_scans(101), "query")) == "image_too_complex"


def test_segments_of_a_jpeg_are_bounded(decoders: Decoders) -> None:
    whole = encoded()
    crowded = whole[:2] + b"\xff\xfe\0\2" * 2000 + whole[2:]
    assert code_of(decoders.decode(crowded, "query")) == "image_too_complex"


@pytest.mark.parametrize("kind", [b"teXt", b"tEXt", b"IDAT"])
def test_chunks_of_a_png_are_bounded(decoders: Decoders, kind: bytes) -> None:
    body = b"k\0v" if kind == b"tEXt" else b""
    count = 50_000 if kind == b"IDAT" else 2001
    assert code_of(decoders.decode(png_with(chunk(kind, body) * count), "query")) == "image_too_complex"


def test_camera_notes_that_read_themselves_again_and_again_are_refused(decoders: Decoders) -> None:
    entries = b"".join(struct.pack(">HHII", place, 7, 60_000, 16) for place in range(1000))
    notes = b"MM\0*\0\0\0\x08" + struct.pack(">H", 1000) + entries + bytes(4)
    whole = encoded()
    noted = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(notes) + 8) + b"Exif\0\0" + notes + whole[2:]
    assert code_of(decoders.decode(noted, "query")) == "image_too_complex"
    assert code_of(decoders.decode(png_with(chunk(b"eXIf", notes)), "query")) == "image_too_complex"
