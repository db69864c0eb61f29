"""Picture bytes to RGB: bounded, by content, upright, on white. Without numpy: decoder processes import it.

Nothing is decoded before the header has been read and found within the limits: a small file can hold a
picture that needs a gigabyte. Large pictures come back reduced (shorter side still 448 or more): no model
here reads more, decoding costs a fifth, and what waits in a queue stays small.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from service.embedding.pictures.work import check_exif, check_jpeg, check_png
from service.errors import InvalidImage

DRAFT_SIDE = 448
ASPECT_MAX = 200
READ = "JPEG, PNG, WEBP, GIF, AVIF, BMP, TIFF or HEIC"
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, RuntimeError,
    AttributeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError,
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
_ONE_FRAME = frozenset(("PNG", "WEBP"))
"""Moving pictures of these are refused, as they always were; of the others the first frame is read."""
_UPRIGHT_ALREADY = frozenset(("TIFF", "HEIF"))
"""Their readers turn the picture themselves."""
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_SHARED_BRANDS = frozenset((b"mif1", b"msf1"))
"""AVIF and HEIC both begin like this; the brands that follow tell which."""


@dataclass(frozen=True, slots=True)
class Picture:
    """rgb: height x width x 3 bytes."""

    width: int
    height: int
    rgb: bytes


def read_picture(data: bytes, *, pixels_max: int) -> Picture:
    """Return the picture that `data` holds. Releases the GIL while it decodes.

    Raises InvalidImage: image_format (none of `READ` by content), image_animated (PNG, WEBP), image_pixels
    (more than pixels_max after what a JPEG decoder reduces by itself, or thinner than 1:200),
    image_too_complex, image_truncated (can't be decoded to the end).
    """
    try:
        image = _open(data, pixels_max)
        if image.format in _ONE_FRAME and getattr(image, "n_frames", 1) != 1:
            raise InvalidImage("image_animated", "The picture has several frames; send one.")
        if image.format != "JPEG":  # its reader may decode to find the orientation
            _check_size(image.size, pixels_max)
        orientation = _orientation(image)
        if image.format == "JPEG":
            image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
            _check_size(image.size, pixels_max)
        image.load()
        flat = _on_white(_reduced(image))
    except MemoryError as exc:
        raise InvalidImage("image_too_complex", "The picture needs too much memory to be decoded.") from exc
    except _BROKEN as exc:
        raise InvalidImage(
            "image_truncated", "The picture is broken or cut short and can't be decoded."
        ) from exc
    turn = _UPRIGHT.get(orientation)
    upright = flat.transpose(turn) if turn is not None else flat
    return Picture(*upright.size, upright.tobytes())


def _open(data: bytes, pixels_max: int) -> ImageFile.ImageFile:
    """Open by the first bytes; only the plugins named below ever see the data."""
    stream = io.BytesIO(data)
    if data.startswith(b"\xff\xd8\xff"):
        check_jpeg(data, pixels_max)
        return JpegImagePlugin.JpegImageFile(stream)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        check_png(data)
        return PngImagePlugin.PngImageFile(stream)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # The WEBP plugin allocates the canvas when it opens, so its size is read here first.
        _check_size(_webp_size(data), pixels_max)
        return WebPImagePlugin.WebPImageFile(stream)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        _check_size(struct.unpack_from("<HH", data, 6), pixels_max)
        return GifImagePlugin.GifImageFile(stream)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return TiffImagePlugin.TiffImageFile(stream)
    if data[:2] == b"BM":
        return BmpImagePlugin.BmpImageFile(stream)
    if data[4:8] == b"ftyp":
        return _open_by_brand(data, stream)
    raise InvalidImage("image_format", f"The content is not a {READ} picture.")


def _open_by_brand(data: bytes, stream: io.BytesIO) -> ImageFile.ImageFile:
    """AVIF and HEIC are boxes of one kind; the brands in the first one tell what is inside."""
    size = min(int.from_bytes(data[:4], "big"), 1024)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    if brands[0] in _AVIF_BRANDS or (brands[0] in _SHARED_BRANDS and _AVIF_BRANDS & set(brands)):
        return AvifImagePlugin.AvifImageFile(stream)
    if not _HEIC_BRANDS & set(brands):
        raise InvalidImage("image_format", f"The content is not a {READ} picture.")
    try:
        heif = import_module("pillow_heif.as_plugin")
    except ImportError as exc:
        raise InvalidImage(
            "image_format",
            "HEIC pictures are not read here: the package pillow-heif is not installed. Send JPEG.",
        ) from exc
    heif.options.DECODE_THREADS = 1
    opened: ImageFile.ImageFile = heif.HeifImageFile(stream)
    return opened


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


def _check_size(size: tuple[int, ...], pixels_max: int) -> None:
    width, height = size
    if width * height > pixels_max:
        raise InvalidImage(
            "image_pixels", f"The picture is {width} x {height}; at most {pixels_max} pixels are decoded."
        )
    if max(size) > ASPECT_MAX * max(1, min(size)):
        raise InvalidImage("image_pixels", f"The picture is {width} x {height}: too thin to show anything.")


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 where the tag is missing or the block is broken."""
    if image.format in _UPRIGHT_ALREADY:
        return 1
    block = image.info.get("exif")
    if isinstance(block, bytes):
        check_exif(block)
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
    elif image.mode.startswith("I;16"):  # Pillow averages no 16 bits
        image = _eight_bits(image)
    return image.reduce(factor)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.mode in ("I", "F"):
        raise InvalidImage("image_format", "The picture has 32 bits a channel; 8 and 16 are read.")
    if "A" not in image.getbands() and "a" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    ground = Image.new("RGB", layered.size, (255, 255, 255))
    ground.paste(layered, mask=layered.getchannel("A"))
    return ground


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the high bytes of 16 bits of grey; Pillow's own conversion cuts them off at 255."""
    low_first = image.mode != "I;16B"
    return Image.frombytes("L", image.size, image.tobytes()[int(low_first) :: 2])
