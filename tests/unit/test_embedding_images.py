"""Picture bytes: what is read, what is refused, and that refusing costs nothing."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.embedding.pictures.images import decode_image
from service.errors import InvalidImage

KINDS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """A smooth picture: JPEG keeps it within a few steps of brightness."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 // max(1, width - 1), rows * 255 // max(1, height - 1)
    return Image.fromarray(np.stack([red, green, np.full_like(red, 128)], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    if kind == "HEIF":
        pillow_heif.register_heif_opener()  # here to write; the service registers nothing
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def refusal(data: bytes, **limits: int) -> str:
    with pytest.raises(InvalidImage) as caught:
        decode_image(data, **limits)
    assert str(caught.value).endswith(".")
    return caught.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_reads_each_format_by_its_content(kind: str) -> None:
    pixels = decode_image(encoded(picture(), kind))
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
    most = 56 if kind == "GIF" else 24  # a palette of 256 colours
    assert np.abs(pixels.astype(int) - np.asarray(picture()).astype(int)).max() < most


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_other_modes_come_back_as_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(picture().convert(mode), kind)).shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_steps(kind: str) -> None:
    grey = (np.arange(48 * 64).reshape(48, 64) * 20).astype(np.uint16)
    pixels = decode_image(encoded(Image.fromarray(grey), kind))
    np.testing.assert_array_equal(pixels[:, :, 0], grey >> 8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("side", [895, 896, 1400])
def test_sixteen_bit_grey_of_any_size(side: int, kind: str) -> None:
    grey = np.linspace(0, 65_535, side * side).reshape(side, side).astype(np.uint16)
    high = decode_image(encoded(Image.fromarray((grey >> 8).astype(np.uint8)), kind))
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(grey), kind)), high)


def test_sixteen_bit_grey_of_big_endian_tiff() -> None:
    grey = (np.arange(48 * 64).reshape(48, 64) * 20).astype(">u2")
    image = Image.frombytes("I;16B", (64, 48), grey.tobytes())
    assert image.mode == "I;16B"
    np.testing.assert_array_equal(decode_image(encoded(image, "TIFF"))[:, :, 0], grey >> 8)


def test_thirty_two_bits_a_channel_are_refused_by_name() -> None:
    assert refusal(encoded(Image.new("F", (20, 20)), "TIFF")) == "image_format"


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "AVIF"])
def test_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode_image(data)[10, 10].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_other_formats_come_back_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    flat = picture(64, 32)
    data = encoded(flat, kind, exif=exif)
    expected = flat.transpose(TURNS[orientation]) if orientation in TURNS else flat
    pixels = decode_image(data)
    assert pixels.shape == np.asarray(expected).shape
    assert np.abs(pixels.astype(int) - np.asarray(expected).astype(int)).max() < 32


@pytest.mark.long
@pytest.mark.parametrize("progressive", [False, True])
def test_a_photo_of_fifty_megapixels_is_reduced_while_it_is_decoded(progressive: bool) -> None:
    photo = encoded(picture(80, 60).resize((8160, 6120)), "JPEG", progressive=progressive)
    pixels = decode_image(photo)
    assert pixels.shape == (765, 1020, 3)


@pytest.mark.long
def test_a_jpeg_has_a_bound_as_well() -> None:
    small = encoded(picture(60, 50), "JPEG")
    assert refusal(small, pixels_max=749) == "image_pixels"  # 4 x 749 < 3000
    assert refusal(small, pixels_max=750) == "image_pixels"  # so small a picture is not reduced
    large = picture(1792, 1344)
    whole, kept = encoded(large, "JPEG"), encoded(large, "JPEG", progressive=True, subsampling=0)
    assert decode_image(whole, pixels_max=610_000).shape == (672, 896, 3)
    assert refusal(kept, pixels_max=1_000_000) == "image_pixels", "14 MB of coefficients"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_other_formats_have_the_same_bound(kind: str) -> None:
    assert refusal(encoded(picture(60, 50), kind), pixels_max=2999) == "image_pixels"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    layered = Image.new(mode, (20, 10), (0, 0) if mode == "LA" else (0, 0, 0, 0))
    assert (decode_image(encoded(layered, "PNG")) == 255).all()


def test_a_transparent_palette_colour_becomes_white() -> None:
    flat = Image.new("P", (20, 10), 3)
    flat.putpalette([0, 0, 0] * 256)
    assert (decode_image(encoded(flat, "PNG", transparency=3)) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_comes_back_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = picture(40, 30)
    data = encoded(turned, "JPEG", exif=exif, quality=95)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_large_pictures_come_back_reduced_but_not_below_what_models_read(kind: str) -> None:
    pixels = decode_image(encoded(picture(3000, 2000), kind))
    assert 448 <= min(pixels.shape[:2]) < 896
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(1.5, rel=0.01)


def test_refuses_too_many_bytes() -> None:
    assert refusal(encoded(picture(), "PNG"), bytes_max=100) == "image_too_large"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_refuses_too_many_pixels_by_the_header(kind: str) -> None:
    assert refusal(encoded(picture(60, 50), kind), pixels_max=2999) == "image_pixels"
    assert decode_image(encoded(picture(60, 50), kind), pixels_max=3000).shape == (50, 60, 3)


@pytest.mark.parametrize("lossless", [True, False])
def test_the_size_in_every_kind_of_webp_header_counts(lossless: bool) -> None:
    for image in (picture(60, 50), picture(60, 50).convert("RGBA")):
        data = encoded(image, "WEBP", lossless=lossless, exif=b"Exif\0\0")
        assert refusal(data, pixels_max=2999) == "image_pixels"


def test_refuses_a_thread_of_a_picture() -> None:
    assert refusal(encoded(Image.new("RGB", (1000, 2)), "PNG")) == "image_pixels"


@pytest.mark.parametrize("kind", ["PPM", "TGA", "JPEG2000", "ICO"])
def test_refuses_other_formats(kind: str) -> None:
    assert refusal(encoded(picture(), kind)) == "image_format"


@pytest.mark.parametrize(
    "data", [b"", b"a shopping list, named .jpg", b"<svg/>", b"\xff\xd8", b"RIFF....WAVE"]
)
def test_refuses_what_is_no_picture(data: bytes) -> None:
    assert refusal(data) == "image_format"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_refuses_moving_pictures(kind: str) -> None:
    frames = [picture(), picture().rotate(90)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert refusal(data) == "image_animated"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_refuses_what_is_cut_short(kind: str) -> None:
    rng = np.random.default_rng(2)
    data = encoded(Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)), kind)
    for share in (0.2, 0.5, 0.9):
        assert refusal(data[: int(len(data) * share)]) == "image_truncated"
    assert refusal(data[:24]) == "image_truncated"


def test_broken_camera_notes_do_no_harm() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_image(data).shape == (48, 64, 3)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    place=st.floats(0, 0.999),
    value=st.integers(0, 255),
)
def test_any_flipped_byte_gives_pixels_or_a_refusal(kind: str, place: float, value: int) -> None:
    data = bytearray(encoded(picture(), kind))
    data[int(place * len(data))] = value
    try:
        assert decode_image(bytes(data)).ndim == 3
    except InvalidImage as exc:
        assert exc.code.startswith("image_")


def bomb(side: int) -> bytes:
    """A PNG of side x side white pixels in a few hundred kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    packer = zlib.compressobj(1)
    row = b"\0" + b"\xff" * (3 * side)
    body = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()
    size = side.to_bytes(4, "big")
    header = size + size + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.long
def test_a_huge_png_is_refused_at_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(13_000))
    assert path.stat().st_size < 20_000_000
    program = """
        import pathlib, resource, sys
        from service.embedding.pictures.images import decode_image
        from service.errors import InvalidImage
        data = pathlib.Path(sys.argv[1]).read_bytes()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            decode_image(data)
        except InvalidImage as exc:
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(exc.code, (after - before) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    code, rise_mib = done.stdout.split()
    assert code == "image_pixels"
    assert int(rise_mib) < 50
