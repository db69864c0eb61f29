"""Picture bytes to pixels: bounded, by content, upright, on white.

Nothing is decoded before the header has been read and found within the limits: a small file can hold a
picture that needs a gigabyte. Large pictures come back reduced (shorter side still 448 or more): no model
here reads more, decoding costs a fifth, and what waits in a queue stays small.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from service.embedding.port import Pixels
from service.errors import InvalidImage

BYTES_MAX = 20_000_000
PIXELS_MAX = 25_000_000
DRAFT_SIDE = 448
ASPECT_MAX = 200
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises on broken files, beside its own OSError."""
_ORIENTATION = 0x0112
_UPRIGHT: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)


def decode_image(data: bytes, *, bytes_max: int = BYTES_MAX, pixels_max: int = PIXELS_MAX) -> Pixels:
    """Return the picture as (height, width, 3) uint8 RGB. Releases the GIL while it decodes.

    Raises InvalidImage: image_too_large (bytes), image_format (not JPEG, PNG or WEBP by content),
    image_animated, image_pixels (more than pixels_max, or thinner than 1:200), image_truncated (can't be
    decoded to the end).
    """
    if len(data) > bytes_max:
        raise InvalidImage(
            "image_too_large", f"The picture has {len(data)} bytes; at most {bytes_max} are read."
        )
    try:
        image = _open(data, pixels_max)
        _check_header(image, pixels_max)
        orientation = _orientation(image)
        if image.format == "JPEG":
            image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
        image.load()
        flat = _on_white(_reduced(image))
    except _BROKEN as exc:
        raise InvalidImage(
            "image_truncated", "The picture is broken or cut short and can't be decoded."
        ) from exc
    turn = _UPRIGHT.get(orientation)
    return np.asarray(flat.transpose(turn) if turn is not None else flat)


def _open(data: bytes, pixels_max: int) -> ImageFile.ImageFile:
    """Open by the first bytes; only the three plugins below ever see the data."""
    stream = io.BytesIO(data)
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(stream)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile(stream)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # The WEBP plugin allocates the canvas when it opens, so its size is read here first.
        _check_size(_webp_size(data), pixels_max)
        return WebPImagePlugin.WebPImageFile(stream)
    raise InvalidImage("image_format", "The content is not a JPEG, PNG or WEBP picture.")


def _webp_size(data: bytes) -> tuple[int, int]:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise ValueError("no room for a header")
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("unknown kind of WEBP")


def _check_header(image: ImageFile.ImageFile, pixels_max: int) -> None:
    _check_size(image.size, pixels_max)
    if getattr(image, "n_frames", 1) != 1:
        raise InvalidImage("image_animated", "The picture has several frames; send one.")


def _check_size(size: tuple[int, int], pixels_max: int) -> None:
    width, height = size
    if width * height > pixels_max:
        raise InvalidImage(
            "image_pixels", f"The picture is {width} x {height}; at most {pixels_max} pixels are decoded."
        )
    if max(size) > ASPECT_MAX * max(1, min(size)):
        raise InvalidImage("image_pixels", f"The picture is {width} x {height}: too thin to show anything.")


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 where the tag is missing or the block is broken."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1  # broken camera notes don't make the picture unreadable
    return value if isinstance(value, int) else 1


def _reduced(image: Image.Image) -> Image.Image:
    """Average whole blocks of pixels while the shorter side keeps DRAFT_SIDE, as draft does for JPEG."""
    factor = min(image.size) // DRAFT_SIDE
    if factor < 2:
        return image
    if image.mode in ("P", "1", "PA"):  # averaging palette places would invent colours
        image = image.convert("RGBA")
    return image.reduce(factor)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion cuts them off at 255
        high = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(high).convert("RGB")
    if "A" not in image.getbands() and "a" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    ground = Image.new("RGB", layered.size, (255, 255, 255))
    ground.paste(layered, mask=layered.getchannel("A"))
    return ground
