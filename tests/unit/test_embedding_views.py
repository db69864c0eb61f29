"""The second view of a picture: what stands on its ground, brought near, whatever the picture is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.embedding.catalog.builtin import BUILTIN, EFFICIENTNET_VIEWS
from service.embedding.content_view import views_of, views_parts
from service.embedding.manifest import BadModelDirectory, Manifest
from service.embedding.pictures.images import decode_image
from service.embedding.runtimes.onnx_views import OnnxViewsEmbedder
from service.embedding.serving.preparation import PicturePreparation

SIDE = 224
WHITE = (255, 255, 255)


def ware(side: int) -> Image.Image:
    """Stripes in two directions: every part looks different."""
    place = np.linspace(0, 12, side)
    red, green = 120 + 100 * np.sin(place), 120 + 100 * np.cos(place * 0.7)
    pixels = np.stack(
        [np.tile(red, (side, 1)), np.tile(green[:, None], (1, side)), np.full((side, side), 60)], 2
    )
    return Image.fromarray(pixels.astype(np.uint8))


def on_ground(width: int, height: int, side: int, at: tuple[int, int], ground: object = WHITE) -> Image.Image:
    picture = Image.new("RGB", (width, height), ground)  # type: ignore[arg-type]
    picture.paste(ware(side), at)
    return picture


def views(picture: Image.Image) -> list[npt.NDArray[np.uint8]]:
    found = views_of(np.asarray(picture), SIDE)
    assert all(view.shape == (SIDE, SIDE, 3) and view.dtype == np.uint8 for view in found)
    return found


def difference(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Mean, of 255."""
    return float(np.abs(one.astype(np.int16) - other).mean())


@pytest.mark.parametrize(
    ("width", "height", "side", "at"),
    [
        (400, 400, 100, (0, 0)),
        (400, 400, 100, (300, 300)),
        (900, 600, 60, (420, 500)),
        (600, 2000, 300, (100, 900)),
    ],
)
def test_goods_are_brought_to_one_size_wherever_they_stand(
    width: int, height: int, side: int, at: tuple[int, int]
) -> None:
    _, near = views(on_ground(width, height, side, at))
    _, wanted = views(on_ground(448, 448, 200, (124, 124)))
    assert difference(near, wanted) < 4
    rows = np.flatnonzero((near.min(axis=2) < 231).any(axis=1))
    margin = 0.12 / 1.24 * SIDE
    assert rows[0] == pytest.approx(margin, abs=2) and rows[-1] == pytest.approx(SIDE - margin, abs=3)


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (300, 200), WHITE),
        Image.new("RGB", (300, 200), (0, 0, 0)),
        Image.new("RGB", (300, 200), (240, 240, 240)),
        Image.new("RGB", (1, 1), WHITE),
        Image.new("RGB", (1, 1), (9, 9, 9)),
        Image.new("RGB", (200, 1), (9, 9, 9)),
        ware(300),
        on_ground(400, 400, 330, (35, 35)),
    ],
)
def test_what_has_no_ground_or_is_nothing_else_is_seen_once(picture: Image.Image) -> None:
    assert len(views(picture)) == 1


def test_a_frame_around_the_picture_leaves_it_as_it_is() -> None:
    framed = on_ground(400, 400, 100, (150, 150))
    framed.paste((0, 0, 0), (0, 0, 400, 3))
    framed.paste((0, 0, 0), (0, 397, 400, 400))
    assert len(views(framed)) == 1


@pytest.mark.parametrize("ground", [(243, 243, 240), (222, 222, 222), (250, 190, 210), (8, 8, 12)])
def test_goods_on_another_plain_ground_are_brought_near(ground: tuple[int, int, int]) -> None:
    _, near = views(on_ground(500, 400, 100, (20, 30), ground))
    _, wanted = views(on_ground(448, 448, 200, (124, 124), ground))
    assert difference(near, wanted) < 4
    assert near[0, 0].tolist() == list(ground), "also where the picture ends"


def framed(share: float, ground: tuple[int, int, int]) -> Image.Image:
    """Goods in the middle; so much of the picture's edge is of another colour than the ground."""
    picture = on_ground(400, 400, 100, (150, 150), ground)
    picture.paste((0, 80, 0), (0, 0, round(400 * 4 * share), 1))
    return picture


def test_the_edge_tells_the_ground_if_nearly_all_of_it_is_of_one_colour() -> None:
    coloured = (200, 220, 210)
    assert [len(views(framed(share, coloured))) for share in (0.0, 0.2)] == [2, 1]
    reaching = [on_ground(400, 400, 200, (100, 0), ground) for ground in (WHITE, coloured)]
    assert [len(views(each)) for each in reaching] == [2, 1], "else the ground is white"


def test_a_step_more_than_the_ground_may_differ_is_content() -> None:
    plain = Image.new("RGB", (300, 300), (200, 200, 200))
    for level, count in ((224, 1), (225, 2), (176, 1), (175, 2)):
        picture = plain.copy()
        picture.paste((200, level, 200), (100, 100, 140, 140))
        assert len(views(picture)) == count, level


def test_a_single_dark_pixel_is_content() -> None:
    picture = Image.new("RGB", (300, 300), WHITE)
    picture.putpixel((10, 290), (0, 0, 0))
    _, near = views(picture)
    assert near.min() < 128


def test_transparent_ground_is_white_and_a_turned_picture_upright() -> None:
    plain = on_ground(400, 300, 120, (200, 60))
    layered = plain.convert("RGBA")
    layered.putalpha(Image.fromarray(np.where(np.asarray(plain).min(axis=2) < 250, 255, 0).astype(np.uint8)))
    _, wanted = views(plain)
    _, near = views_of(decode_image(saved(layered, "PNG")), SIDE)
    assert difference(near, wanted) < 1
    turned = plain.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    _, near = views_of(decode_image(saved(turned, "PNG", exif=exif)), SIDE)
    assert difference(near, wanted) < 1


def saved(picture: Image.Image, kind: str, **more: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **more)
    return stream.getvalue()


def test_a_very_long_picture_is_seen_in_its_middle() -> None:
    """As the whole view is: and no view takes more memory than the picture."""
    long = Image.new("RGB", (12_000, 300), WHITE)
    long.paste(ware(100), (6_000, 100))
    long.paste(ware(100), (0, 100))
    _, near = views(long)
    _, wanted = views(on_ground(448, 448, 200, (124, 124)))
    assert difference(near, wanted) < 4


def test_a_picture_weighs_as_many_passes_as_its_model_may_take() -> None:
    assert [PicturePreparation(passes_max=passes).weight_of(50_000) for passes in (1, 2)] == [1, 2]


def test_a_model_of_other_views_is_not_opened(tmp_path: Path) -> None:
    model = BUILTIN[EFFICIENTNET_VIEWS]
    parts = {**model.parts, "views": {**views_parts(), "margin": 0.2}}
    other = Manifest(model.name, "r", model.runtime, "image", 512, model.label, parts, model.interface, {})
    with pytest.raises(BadModelDirectory, match="other views"):
        OnnxViewsEmbedder(tmp_path, other, threads=1)
