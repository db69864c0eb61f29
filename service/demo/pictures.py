"""Product pictures without a photographer: a shape, dyed in a colour, with a pattern, on a light ground."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageChops, ImageDraw

PIXELS = 280
_INK = 2 * PIXELS  # drawn at twice the size, then halved: smooth edges
_GROUND = (246, 246, 243)

Rgb: TypeAlias = tuple[int, int, int]
Points: TypeAlias = Sequence[tuple[float, float]]

METAL: Rgb = (150, 154, 160)
DARK: Rgb = (58, 60, 66)
WHITE: Rgb = (250, 250, 248)
WOOD: Rgb = (176, 132, 88)
LIGHT: Rgb = (255, 236, 170)


@dataclass(frozen=True, slots=True)
class Colour:
    """A dye: the Korean noun, the form that stands before a noun, and the shade."""

    name: str
    adjective: str
    rgb: Rgb


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is printed on the cloth. weave draws it with the given dye over a cloth of `_INK` pixels."""

    name: str
    weave: Callable[[ImageDraw.ImageDraw, Rgb], None]


@dataclass(frozen=True, slots=True)
class Oval:
    """Corners of the box around it, in hundredths of the picture."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with rounded corners, in hundredths of the picture."""

    x0: float
    y0: float
    x1: float
    y1: float
    radius: float = 0


@dataclass(frozen=True, slots=True)
class Poly:
    """Corners in order, in hundredths of the picture."""

    points: Points


Outline: TypeAlias = Oval | Box | Poly


class Pen:
    """Draws one product. Coordinates are hundredths of the picture, scaled around its middle."""

    def __init__(self, colour: Colour, pattern: Pattern, scale: float) -> None:
        self.rgb = colour.rgb
        self._scale = scale
        self._image = Image.new("RGB", (_INK, _INK), _GROUND)
        self._draw = ImageDraw.Draw(self._image)
        self._cloth = Image.new("RGB", (_INK, _INK), colour.rgb)
        pattern.weave(ImageDraw.Draw(self._cloth), _print_over(colour.rgb))

    def shadow(self, x0: float, x1: float, y: float) -> None:
        """A soft shadow on the floor at height y."""
        for step in range(5):
            grey = 236 - 7 * step
            shrink = step * 2.2
            self.part(Oval(x0 + shrink, y - 4 + shrink / 3, x1 - shrink, y + 4 - shrink / 3), (grey,) * 3)

    def surface(self, *outlines: Outline, roundness: float = 0.45) -> None:
        """Fill with the patterned cloth, darker towards the sides: 0 flat, 1 a deep round."""
        mask = Image.new("L", (_INK, _INK), 0)
        stencil = ImageDraw.Draw(mask)
        for outline in outlines:
            self._fill(stencil, outline, 255)
        box = mask.getbbox()
        if box is None:
            return
        shade = _side_light(box[2] - box[0], box[3] - box[1], roundness)
        lit = ImageChops.multiply(self._cloth.crop(box), shade)
        self._image.paste(lit, box, mask.crop(box))
        for outline in outlines:
            self.contour(outline)

    def part(self, outline: Outline, rgb: Rgb) -> None:
        """Fill `outline` with one colour."""
        self._fill(self._draw, outline, rgb)

    def contour(self, outline: Outline, width: float = 0.7) -> None:
        """A thin dark rim, so that a white product stands out from the ground."""
        ink, pen = self.darker(0.62), self._length(width)
        if isinstance(outline, Poly):
            corners = self._points(outline.points)
            self._draw.line([*corners, *corners[:2]], fill=ink, width=pen, joint="curve")
        elif isinstance(outline, Oval):
            self._draw.ellipse(self._corners(outline), outline=ink, width=pen)
        else:
            self._draw.rounded_rectangle(
                self._corners(outline), self._length(outline.radius), outline=ink, width=pen
            )

    def line(self, points: Points, width: float, rgb: Rgb) -> None:
        """Draw a line through `points`. width: in percent of the picture."""
        self._draw.line(self._points(points), fill=rgb, width=self._length(width), joint="curve")

    def arc(self, around: Oval, start: float, end: float, width: float, rgb: Rgb) -> None:
        """Degrees clockwise from three o'clock."""
        self._draw.arc(self._corners(around), start, end, fill=rgb, width=self._length(width))

    def darker(self, factor: float = 0.75) -> Rgb:
        """Return the object's colour, darker. factor: 0 is black, 1 the colour itself."""
        red, green, blue = self.rgb
        return int(red * factor), int(green * factor), int(blue * factor)

    def lighter(self, share: float = 0.45) -> Rgb:
        """Return the object's colour, lighter. share: 0 is the colour itself, 1 white."""
        red, green, blue = (int(part + (255 - part) * share) for part in self.rgb)
        return red, green, blue

    def to_jpeg(self) -> bytes:
        """Return the finished picture, reduced by two to smooth its edges."""
        stream = io.BytesIO()
        self._image.reduce(2).save(stream, "JPEG", quality=88)
        return stream.getvalue()

    def _fill(self, draw: ImageDraw.ImageDraw, outline: Outline, ink: int | Rgb) -> None:
        if isinstance(outline, Poly):
            draw.polygon(self._points(outline.points), fill=ink)
        elif isinstance(outline, Oval):
            draw.ellipse(self._corners(outline), fill=ink)
        else:
            draw.rounded_rectangle(self._corners(outline), self._length(outline.radius), fill=ink)

    def _points(self, points: Points) -> list[tuple[float, float]]:
        return [(self._place(x), self._place(y)) for x, y in points]

    def _corners(self, box: Oval | Box) -> tuple[float, float, float, float]:
        return self._place(box.x0), self._place(box.y0), self._place(box.x1), self._place(box.y1)

    def _place(self, hundredths: float) -> float:
        return (50 + (hundredths - 50) * self._scale) * _INK / 100

    def _length(self, hundredths: float) -> int:
        return max(1, round(hundredths * self._scale * _INK / 100))


def draw(shape: Callable[[Pen], None], colour: Colour, pattern: Pattern, *, scale: float = 1.0) -> bytes:
    """Return a JPEG of PIXELS x PIXELS; the same arguments give the same bytes."""
    pen = Pen(colour, pattern, scale)
    shape(pen)
    return pen.to_jpeg()


def _side_light(width: int, height: int, roundness: float) -> Image.Image:
    """A grey cloth to multiply with: light a little left of the middle, dark at the sides."""
    row = Image.new("L", (width, 1))
    for x in range(width):
        off_centre = abs(x / max(1, width - 1) - 0.38) / 0.62
        row.putpixel((x, 0), round(255 * (1 - roundness * off_centre**2.2)))
    return row.resize((width, height)).convert("RGB")


def _print_over(rgb: Rgb) -> Rgb:
    """The second colour of a pattern: white on a dark dye, a dark tone of it on a light one."""
    red, green, blue = rgb
    if 0.3 * red + 0.59 * green + 0.11 * blue < 170:
        return 250, 248, 240
    return int(red * 0.45), int(green * 0.42), int(blue * 0.5)


def _plain(cloth: ImageDraw.ImageDraw, rgb: Rgb) -> None:
    """Nothing printed."""


def _stripes(cloth: ImageDraw.ImageDraw, rgb: Rgb) -> None:
    for y in range(0, _INK, 44):
        cloth.rectangle((0, y, _INK, y + 16), fill=rgb)


def _dots(cloth: ImageDraw.ImageDraw, rgb: Rgb) -> None:
    for row, y in enumerate(range(0, _INK, 38)):
        for x in range(22 * (row % 2), _INK, 44):
            cloth.ellipse((x, y, x + 17, y + 17), fill=rgb)


def _checks(cloth: ImageDraw.ImageDraw, rgb: Rgb) -> None:
    for at in range(0, _INK, 48):
        cloth.rectangle((at, 0, at + 9, _INK), fill=rgb)
        cloth.rectangle((0, at, _INK, at + 9), fill=rgb)


COLOURS = (
    Colour("빨강", "빨간", (206, 48, 52)),
    Colour("노랑", "노란", (244, 198, 52)),
    Colour("초록", "초록색", (56, 138, 82)),
    Colour("파랑", "파란", (44, 88, 172)),
    Colour("분홍", "분홍색", (240, 150, 178)),
    Colour("하늘", "하늘색", (132, 196, 232)),
    Colour("주황", "주황색", (238, 128, 44)),
    Colour("보라", "보라색", (122, 84, 164)),
    Colour("하양", "흰", (238, 238, 234)),
    Colour("검정", "검은", (52, 52, 58)),
)
PATTERNS = (
    Pattern("민무늬", _plain),
    Pattern("줄무늬", _stripes),
    Pattern("물방울무늬", _dots),
    Pattern("체크무늬", _checks),
)
