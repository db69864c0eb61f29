"""The products that the demo can draw. Numbers are hundredths of the picture, y grows downwards."""

from __future__ import annotations

from math import cos, pi, sin

from service.demo.pictures import DARK, LIGHT, METAL, WHITE, WOOD, Box, Oval, Pen, Points, Poly

_GROUND = (246, 246, 243)


def mug(pen: Pen) -> None:
    """Draw a mug with a handle."""
    pen.shadow(18, 82, 84)
    pen.arc(Oval(60, 38, 88, 72), 250, 110, 6, pen.darker(0.85))
    pen.surface(Box(24, 28, 70, 84, 7), roundness=0.5)
    pen.part(Oval(24, 22, 70, 35), pen.lighter(0.35))
    pen.part(Oval(28, 24.5, 66, 33), pen.darker(0.5))
    pen.contour(Oval(24, 22, 70, 35))


def bottle(pen: Pen) -> None:
    """Draw a bottle with a cap."""
    pen.shadow(28, 72, 92)
    pen.part(Box(43, 6, 57, 18, 2), DARK)
    pen.part(Box(45, 17, 55, 30), METAL)
    pen.surface(Poly([(45, 26), (55, 26), (66, 38), (66, 40), (34, 40), (34, 38)]), Box(34, 36, 66, 92, 6))
    pen.part(Box(38, 42, 40.5, 84, 1), pen.lighter(0.7))
    pen.line([(43, 12), (57, 12)], 0.8, METAL)


def gift_box(pen: Pen) -> None:
    """Draw a box with a ribbon."""
    pen.shadow(14, 90, 88)
    pen.surface(Poly([(18, 42), (60, 50), (60, 92), (18, 80)]), roundness=0.15)
    pen.surface(Poly([(60, 50), (86, 40), (86, 78), (60, 92)]), roundness=0.75)
    pen.surface(Poly([(18, 42), (45, 33), (86, 40), (60, 50)]), roundness=0.1)
    for ribbon in (
        [(36, 45.5), (36, 85)],
        [(74, 44.8), (74, 84.5)],
        [(36, 45.5), (66, 36.5)],
        [(31, 37.5), (74, 44.8)],
    ):
        pen.line(ribbon, 3.6, WHITE)
    for bow in (Oval(34, 20, 52, 38), Oval(52, 22, 70, 40)):
        pen.part(bow, WHITE)
        pen.contour(bow)
    pen.part(Oval(48, 30, 56, 40), WHITE)
    pen.contour(Oval(48, 30, 56, 40))


def tote(pen: Pen) -> None:
    """Draw a bag with two handles."""
    pen.shadow(16, 84, 90)
    pen.arc(Oval(34, 12, 66, 74), 180, 360, 3.4, pen.darker(0.7))
    pen.surface(Poly([(25, 40), (75, 40), (81, 90), (19, 90)]), roundness=0.3)
    pen.line([(25, 45), (75, 45)], 0.8, pen.darker(0.6))
    pen.line([(34, 42), (34, 51)], 3.4, pen.darker(0.7))
    pen.line([(66, 42), (66, 51)], 3.4, pen.darker(0.7))


def shirt(pen: Pen) -> None:
    """Draw a shirt with short sleeves."""
    left: Points = [(40, 16), (26, 20), (8, 38), (17, 52), (28, 44), (28, 90)]
    right: Points = [(100 - x, y) for x, y in reversed(left)]
    pen.surface(Poly([*left, *right]), roundness=0.35)
    pen.part(Oval(39, 9, 61, 25), _GROUND)
    pen.arc(Oval(38, 8, 62, 26), 12, 168, 2, pen.darker(0.7))
    for side in (28, 72):
        pen.line([(side, 46), (side, 60)], 0.7, pen.darker(0.55))


def sneaker(pen: Pen) -> None:
    """Draw a shoe from the side."""
    pen.shadow(6, 94, 82)
    pen.surface(
        Poly(
            [
                (11, 46),
                (15, 38),
                (26, 36),
                (34, 44),
                (46, 40),
                (60, 54),
                (80, 60),
                (91, 67),
                (93, 76),
                (9, 76),
            ]
        )
    )
    pen.part(Box(7, 74, 95, 84, 4), WHITE)
    pen.contour(Box(7, 74, 95, 84, 4))
    pen.line([(9, 79), (93, 79)], 0.9, pen.darker(0.8))
    pen.part(Poly([(80, 60), (91, 67), (93, 74), (77, 74)]), WHITE)
    pen.part(Poly([(11, 46), (15, 38), (20, 37), (20, 74), (9, 74)]), pen.darker(0.6))
    for step in range(4):
        pen.line([(41 + 5 * step, 52 + 3.6 * step), (49 + 5 * step, 44 + 4 * step)], 1.8, WHITE)


def lamp(pen: Pen) -> None:
    """Draw a table lamp."""
    pen.shadow(24, 76, 90)
    pen.part(Oval(30, 44, 70, 56), LIGHT)
    pen.line([(50, 48), (50, 86)], 3, METAL)
    pen.surface(Poly([(36, 12), (64, 12), (80, 50), (20, 50)]), roundness=0.4)
    pen.part(Oval(30, 83, 70, 92), DARK)
    pen.line([(62, 51), (62, 62)], 0.6, METAL)
    pen.part(Oval(60.6, 61, 63.4, 64), METAL)


def plate(pen: Pen) -> None:
    """Draw a plate from above."""
    pen.part(Oval(9, 13, 93, 94), (226, 226, 222))
    pen.surface(Oval(8, 9, 92, 92), roundness=0.2)
    pen.part(Oval(24, 25, 76, 76), pen.lighter(0.72))
    pen.contour(Oval(24, 25, 76, 76), 1)
    pen.arc(Oval(30, 31, 70, 70), 190, 280, 1.4, WHITE)


def phone_case(pen: Pen) -> None:
    """Draw the back of a phone case."""
    pen.part(Box(31, 9, 72, 94, 9), (222, 222, 218))
    pen.surface(Box(29, 6, 70, 92, 9), roundness=0.2)
    pen.part(Box(33, 10, 52, 30, 5), DARK)
    for lens in (Oval(35, 12, 42, 19), Oval(43, 20, 50, 27), Oval(35, 21, 42, 28)):
        pen.part(lens, (24, 24, 28))
        pen.arc(lens, 0, 360, 0.8, METAL)
    pen.part(Oval(45, 13.5, 48, 16.5), LIGHT)


def backpack(pen: Pen) -> None:
    """Draw a backpack from the front."""
    pen.shadow(18, 82, 91)
    pen.arc(Oval(40, 6, 60, 30), 180, 360, 3, DARK)
    for strap in (Box(17, 40, 27, 80, 5), Box(73, 40, 83, 80, 5)):
        pen.part(strap, pen.darker(0.55))
    pen.surface(Box(23, 15, 77, 91, 18), roundness=0.4)
    pen.arc(Oval(27, 22, 73, 66), 190, 350, 1.4, DARK)
    pen.part(Box(29, 56, 71, 86, 7), pen.darker(0.8))
    pen.contour(Box(29, 56, 71, 86, 7))
    pen.line([(32, 63), (68, 63)], 1.2, DARK)
    pen.line([(64, 63), (64, 69)], 1.6, METAL)


def umbrella(pen: Pen) -> None:
    """Draw an open umbrella."""
    pen.line([(50, 8), (50, 84)], 2.2, METAL)
    pen.arc(Oval(50, 76, 64, 92), 0, 180, 2.8, WOOD)
    canopy = [(50 + 42 * cos(pi + pi * t / 40), 52 + 38 * sin(pi + pi * t / 40)) for t in range(41)]
    hem = [(92 - 84 * t / 48, 52 - 5 * abs(sin(pi * t / 12))) for t in range(49)]
    pen.surface(Poly([*canopy, *hem]), roundness=0.45)
    for foot in (29, 50, 71):
        pen.line([(50, 14), ((50 + foot) / 2 + (foot - 50) * 0.22, 30), (foot, 52)], 0.8, pen.darker(0.6))
    pen.part(Oval(48.4, 7, 51.6, 15), METAL)


def cushion(pen: Pen) -> None:
    """Draw a square cushion."""
    pen.shadow(14, 86, 88)
    side = [(14 + 72 * t / 24, 18 + 3.5 * sin(pi * t / 24)) for t in range(25)]
    outline = side
    for _ in range(3):
        side = [(100 - y + 4, x + 4) for x, y in side]
        outline = [*outline, *side]
    pen.surface(Poly(outline), roundness=0.4)
    pen.contour(Poly(outline), 1.6)


def clock(pen: Pen) -> None:
    """Draw a wall clock."""
    pen.part(Oval(12, 14, 92, 94), (226, 226, 222))
    pen.surface(Oval(9, 9, 91, 91), roundness=0.35)
    pen.part(Oval(19, 19, 81, 81), WHITE)
    pen.contour(Oval(19, 19, 81, 81))
    for hour in range(12):
        angle = pi * hour / 6
        inner = 24 if hour % 3 else 21
        pen.line(
            [(50 + r * sin(angle), 50 - r * cos(angle)) for r in (inner, 28)], 1.2 if hour % 3 else 2.2, DARK
        )
    pen.line([(50, 50), (37, 41)], 2.6, DARK)
    pen.line([(50, 50), (63, 31)], 1.8, DARK)
    pen.part(Oval(47, 47, 53, 53), pen.darker(0.9))


def cap(pen: Pen) -> None:
    """Draw a cap with a visor."""
    pen.shadow(10, 92, 76)
    dome = [(42 + 30 * cos(pi + pi * t / 30), 66 + 44 * sin(pi + pi * t / 30)) for t in range(31)]
    pen.part(Poly([(50, 62), (74, 59), (90, 66), (95, 74), (70, 72), (44, 72)]), pen.darker(0.65))
    pen.surface(Poly([*dome, (60, 71), (42, 72), (24, 71)]), roundness=0.5)
    pen.part(Oval(39, 19, 45, 24), pen.darker(0.6))
    pen.line([(42, 22), (46, 44), (45, 71)], 0.8, pen.darker(0.6))
    pen.line([(42, 22), (25, 46), (22, 70)], 0.8, pen.darker(0.6))


def pot(pen: Pen) -> None:
    """Draw a pot with a lid."""
    pen.shadow(14, 86, 84)
    for handle in (Box(8, 50, 24, 57, 3), Box(76, 50, 92, 57, 3)):
        pen.part(handle, DARK)
    pen.surface(Box(18, 42, 82, 84, 9), roundness=0.5)
    lid = [(50 + 34 * cos(pi + pi * t / 30), 42 + 16 * sin(pi + pi * t / 30)) for t in range(31)]
    pen.part(Poly(lid), (206, 209, 213))
    pen.contour(Poly(lid))
    pen.line([(15, 42), (85, 42)], 2.4, METAL)
    pen.part(Box(44, 18, 56, 27, 3), DARK)
