"""Drawn talking faces: eight people whose brows, lids, gaze, mouth and head move with the emotion and the voice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np

from extract.sample.looks import EXPRESSIONS, LOOKS, Colour, Expression, Look

SIZE = 160  # pixels, of what is returned
FPS = 10
CANVAS = 2 * SIZE  # drawn at twice the size, then averaged down
SUBPIXEL = 4  # bits of fraction in OpenCV's coordinates


def film(person: int, emotion: str, strength: float, loudness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Film somebody saying something: ``(frames, 160, 160, 3)`` uint8 RGB at 10 frames a second.

    ``loudness`` is ``(frames,)`` from 0 to 1 and opens the mouth; ``strength`` is 0 for a face at rest and 1 for
    what ``EXPRESSIONS`` says. Light, distance, blur and noise differ from clip to clip.
    """
    look, full = LOOKS[person], _varied(EXPRESSIONS[emotion], strength, rng)
    n = len(loudness)
    drift = np.cumsum(rng.normal(0, 0.012, (n, 2)), axis=0)
    phase, pace = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.8, 1.2, 2)
    blink = set(rng.integers(0, n, size=n // 20).tolist())
    scale, offset = rng.uniform(0.97, 1.03), rng.normal(0, 0.01, 2)
    light = _light(rng)
    blur, grain = rng.uniform(0.0, 0.45), rng.uniform(0.3, 1.0)
    frames = np.empty((n, SIZE, SIZE, 3), np.uint8)
    for i in range(n):
        t = i / FPS
        swell = 0.85 + 0.15 * np.sin(2 * np.pi * 0.5 * t + phase[0])
        face = _scaled(full, swell)
        x = drift[i, 0] + 0.05 * full.shake * np.sin(2 * np.pi * 2.2 * pace[0] * t + phase[0])
        y = drift[i, 1] + 0.04 * full.nod * np.sin(2 * np.pi * 1.6 * pace[1] * t + phase[1])
        x, y = (x, y) + full.tremble * rng.normal(0, 0.018, 2)
        face = replace(face, open=face.open + 0.55 * float(loudness[i]), lid=1.0 if i in blink else face.lid)
        pen = _Pen(look.wall, scale * (1 + full.near), (offset[0] + x, offset[1] + y + 0.05 * face.pitch), face.roll)
        _draw(pen, look, face)
        image: np.ndarray = cv2.resize(pen.image, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
        if blur > 0.3:
            image = cv2.GaussianBlur(image, (0, 0), blur)
        frames[i] = np.clip(image * light + rng.standard_normal(image.shape, np.float32) * np.float32(grain), 0, 255)
    return frames


def _varied(full: Expression, strength: float, rng: np.random.Generator) -> Expression:
    side = rng.choice([-1, 1])
    values = {}
    for name, value in vars(full).items():
        sided = side if name in ("brow_skew", "corner_skew", "gaze_x", "roll") else 1
        values[name] = value * strength * sided * rng.normal(1, 0.10)
    for name in ("brow_in", "brow_out", "lid", "corner", "gaze_x", "gaze_y", "pitch"):
        values[name] += rng.normal(0, 0.08)
    values["roll"] += rng.normal(0, 2)
    values["tears"] *= rng.random() < 0.5
    return Expression(**values)


def _scaled(face: Expression, by: float) -> Expression:
    return Expression(**{name: value * by for name, value in vars(face).items()})


def _light(rng: np.random.Generator) -> np.ndarray:
    """A lamp at a random side: ``(160, 160, 3)`` factors, with a slight colour cast."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    slope = 1 + rng.uniform(0.02, 0.08) * (x * np.cos(angle) + y * np.sin(angle))
    return (slope * rng.uniform(0.94, 1.05))[..., None] * rng.normal(1, 0.006, 3)


def _shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (int(np.clip(c * factor, 0, 255)) for c in colour)
    return r, g, b


class _Pen:
    """Draws in head coordinates: the origin between the eyes, y down, the head about 1 high; clipped to the canvas."""

    def __init__(self, wall: Colour, scale: float, offset: tuple[float, float], roll: float) -> None:
        self.image = np.full((CANVAS, CANVAS, 3), wall, np.uint8)
        self._unit = CANVAS * 0.86 * scale
        self._centre = np.array([0.5 + offset[0] * 0.7, 0.42 + offset[1] * 0.7]) * CANVAS
        angle = np.deg2rad(roll)
        self._turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        at = (points @ self._turn) * self._unit + self._centre
        return np.round(at * 2**SUBPIXEL).astype(np.int32)

    def area(self, points: np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.image, [self._pixels(points)], colour, cv2.LINE_AA, SUBPIXEL)

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        thick = max(1, round(width * self._unit))
        cv2.polylines(self.image, [self._pixels(points)], False, colour, thick, cv2.LINE_AA, SUBPIXEL)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.area(_oval(x, y, rx, ry), colour)

    def blend(self, points: np.ndarray, colour: Colour, weight: float) -> None:
        """A soft-edged, see-through area."""
        part, share = self._mask(points, margin=12)
        share = cv2.GaussianBlur(share, (0, 0), 4)[..., None] * np.float32(weight)
        self.image[part] = self.image[part] * (1 - share) + np.array(colour, np.float32) * share

    @contextmanager
    def within(self, points: np.ndarray) -> Iterator[None]:
        """What is drawn meanwhile shows only inside the outline."""
        before = self.image.copy()
        yield
        part, share = self._mask(points, margin=2)
        inside = self.image[part] * share[..., None] + before[part] * (1 - share[..., None])
        self.image = before
        self.image[part] = inside

    def _mask(self, points: np.ndarray, margin: int) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part of the image about an outline, and how much of each of its pixels lies inside (0 to 1)."""
        mask = np.zeros(self.image.shape[:2], np.uint8)
        pixels = self._pixels(points)
        cv2.fillPoly(mask, [pixels], 255, cv2.LINE_AA, SUBPIXEL)
        (left, top), (right, bottom) = pixels.min(0) >> SUBPIXEL, pixels.max(0) >> SUBPIXEL
        part = (
            slice(max(top - margin, 0), max(bottom + margin, 0)),
            slice(max(left - margin, 0), max(right + margin, 0)),
        )
        return part, mask[part].astype(np.float32) / 255


def _oval(x: float, y: float, rx: float, ry: float, power: float = 2.0) -> np.ndarray:
    """A superellipse: ``(48, 2)`` points; power 2 is an ellipse, more is squarer."""
    a = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    c, s = np.cos(a), np.sin(a)
    return np.stack([x + rx * np.sign(c) * np.abs(c) ** (2 / power), y + ry * np.sign(s) * np.abs(s) ** (2 / power)], 1)


def _curve(*points: tuple[float, float]) -> np.ndarray:
    """A smooth curve through three points: ``(16, 2)``."""
    (ax, ay), (bx, by), (cx, cy) = points
    t = np.linspace(0, 1, 16)
    mx, my = 2 * bx - (ax + cx) / 2, 2 * by - (ay + cy) / 2
    return np.stack(
        [
            (1 - t) ** 2 * ax + 2 * t * (1 - t) * mx + t**2 * cx,
            (1 - t) ** 2 * ay + 2 * t * (1 - t) * my + t**2 * cy,
        ],
        1,
    )


def _draw(pen: _Pen, look: Look, face: Expression) -> None:
    red = 1 + 0.12 * max(face.flush, 0)
    pale = max(-face.flush, 0)
    skin = np.array(look.skin) * [red, 1 - 0.12 * max(face.flush, 0), 1 - 0.12 * max(face.flush, 0)]
    skin = skin * (1 - 0.45 * pale) + 0.45 * pale * np.array([205, 220, 240])
    tone: Colour = tuple(int(np.clip(c, 0, 255)) for c in skin)  # type: ignore[assignment]
    half = look.width / 2
    _behind(pen, look, half)
    pen.area(_oval(0, 1.08, 0.55, 0.36, 2.5), look.shirt)
    pen.area(np.array([(-0.14, 0.4), (0.14, 0.4), (0.17, 0.80), (-0.17, 0.80)]), _shade(tone, 0.86))
    for side in (-1, 1):
        pen.oval(side * half, 0.06, 0.05, 0.10, _shade(tone, 0.92))
    jaw = 0.05 * face.open
    head = _oval(0, 0.08 + jaw / 2, half, 0.52 + jaw / 2, 2.0 + 0.5 * look.chin)
    pen.area(head, tone)
    if face.flush > 0.2:
        for side in (-1, 1):
            pen.blend(_oval(side * 0.2, 0.2, 0.12, 0.09), (225, 60, 60), 0.4 * min(face.flush, 1))
    if look.beard:
        pen.blend(_oval(0, 0.42, half * 0.80, 0.2, 2.6), look.hair, 0.35)
    if look.wrinkles:
        for y in (-0.25, -0.20):
            pen.line(_curve((-0.18, y), (0, y - 0.02), (0.18, y)), _shade(tone, 0.84), 0.008)
        for side in (-1, 1):
            pen.line(_curve((side * 0.12, 0.2), (side * 0.18, 0.26), (side * 0.19, 0.35)), _shade(tone, 0.82), 0.010)
    _front(pen, look, half)
    _nose(pen, tone, face)
    for side in (-1, 1):
        _eye(pen, look, tone, face, side)
    _mouth(pen, look, tone, face)


def _behind(pen: _Pen, look: Look, half: float) -> None:
    if look.style == "long":
        pen.area(_oval(0, 0.22, half + 0.13, 0.75, 2.6), look.hair)
    elif look.style == "bob":
        pen.area(_oval(0, 0.05, half + 0.12, 0.58, 2.8), look.hair)
    elif look.style == "bun":
        pen.oval(0, -0.56, 0.16, 0.14, look.hair)
        pen.area(_oval(0, -0.05, half + 0.06, 0.48), look.hair)
    elif look.style == "curls":
        for a in np.linspace(np.pi * 0.85, np.pi * 2.15, 11):
            pen.oval((half + 0.03) * np.cos(a), 0.02 + 0.48 * np.sin(a), 0.15, 0.15, look.hair)
    elif look.style == "short":
        pen.area(_oval(0, -0.10, half + 0.04, 0.45, 2.4), look.hair)
    else:
        for side in (-1, 1):
            pen.oval(side * half, -0.02, 0.07, 0.16, look.hair)


def _front(pen: _Pen, look: Look, half: float) -> None:
    if look.style == "bald":
        return
    low = {"short": -0.24, "bun": -0.28, "curls": -0.20, "long": -0.26, "bob": -0.18}[look.style]
    top = _oval(0, -0.06, half * 1.03, 0.46, 2.2)[24:]
    fringe = _curve((half * 0.98, -0.06), (0.04, 2 * low + 0.10), (-half * 0.98, -0.06))
    pen.area(np.concatenate([top, fringe]), look.hair)


def _nose(pen: _Pen, tone: Colour, face: Expression) -> None:
    dark = _shade(tone, 0.78)
    up = 0.02 * face.sneer
    pen.line(_curve((-0.06, 0.20 - up), (0, 0.235 - up), (0.06, 0.20 - up)), dark, 0.014)
    pen.line(_curve((0.02, 0.03), (0.04, 0.12), (0.055, 0.19 - up)), _shade(tone, 0.88), 0.010)
    if face.sneer > 0.2:
        for k in range(3):
            y = 0.02 + 0.035 * k
            pen.line(_curve((-0.05, y + 0.012), (0, y), (0.05, y + 0.012)), dark, 0.010 * min(face.sneer, 1))
        for side in (-1, 1):
            fold = _curve((side * 0.07, 0.17), (side * 0.15, 0.20), (side * 0.19, 0.30))
            pen.line(fold, dark, 0.014 * min(face.sneer, 1))


def _eye(pen: _Pen, look: Look, tone: Colour, face: Expression, side: int) -> None:
    x, rx = side * 0.17, 0.10 * look.eye
    upper = 0.072 * look.eye * float(np.clip(1 - face.lid, 0.02, 1.75))
    lower = 0.048 * look.eye * float(np.clip(1 - 0.75 * face.cheek + 0.3 * max(-face.lid, 0), 0.1, 1.4))
    if upper < 0.01:
        lower = 0.006
    top = _curve((x - rx, 0), (x, -upper), (x + rx, 0))
    bottom = _curve((x + rx, 0), (x, lower), (x - rx, 0))
    opening = np.concatenate([top, bottom])
    radius = 0.052 * look.eye
    gx, gy = x + 0.035 * face.gaze_x, 0.03 * face.gaze_y
    with pen.within(opening):
        pen.area(opening, (250, 250, 250))
        pen.oval(gx, gy, radius, radius, look.iris)
        pen.oval(gx, gy, radius * 0.5, radius * 0.5, (10, 10, 10))
        pen.oval(gx + 0.016, gy - 0.018, 0.012, 0.012, (255, 255, 255))
    pen.line(top, (35, 25, 25) if look.lashes else _shade(tone, 0.45), 0.020 if look.lashes else 0.013)
    pen.line(bottom, _shade(tone, 0.7), 0.008 + 0.008 * max(face.cheek, 0))
    if face.cheek > 0.3:
        pen.line(_curve((x - rx, 0.06), (x, 0.085), (x + rx, 0.06)), _shade(tone, 0.8), 0.008)
    if look.glasses:
        rim = np.concatenate([(ring := _oval(x, 0.01, 0.135, 0.11, 2.6)), ring[:1]])
        pen.line(rim, (50, 50, 60), 0.012)
        pen.line(np.array([(side * 0.03, 0.0), (0, -0.005)]), (50, 50, 60), 0.012)
    lift = 0.11 * side * face.brow_skew
    inner = (side * (0.075 + 0.015 * min(face.brow_in, 0)), -0.145 - 0.11 * face.brow_in - lift)
    outer = (side * 0.27, -0.135 - 0.10 * face.brow_out - lift)
    middle = ((inner[0] + outer[0]) / 2, (inner[1] + outer[1]) / 2 - 0.03 + 0.015 * min(face.brow_in, 0))
    brow = _shade(look.hair, 0.75) if look.hair[0] < 180 or look.wrinkles else _shade(look.hair, 0.7)
    pen.line(_curve(inner, middle, outer), brow, look.brow + 0.014)
    if face.brow_in < -0.4:
        pen.line(np.array([(side * 0.025, -0.15), (side * 0.02, -0.06)]), _shade(tone, 0.72), 0.010)
    if face.brow_in > 0.6 and face.brow_out > 0.4 and side > 0:
        for y in (-0.31, -0.275):
            pen.line(_curve((-0.15, y), (0, y - 0.012), (0.15, y)), _shade(tone, 0.82), 0.008)
    if face.tears > 0.2:
        pen.oval(x + side * 0.02, 0.13, 0.018, 0.032, (190, 225, 250))
        pen.line(np.array([(x + side * 0.02, 0.05), (x + side * 0.02, 0.12)]), (200, 225, 245), 0.010)


def _mouth(pen: _Pen, look: Look, tone: Colour, face: Expression) -> None:
    y, half = 0.36, 0.175 * (1 + 0.45 * face.wide)
    gape = 0.15 * max(face.open, 0)
    left = (-half, y - 0.10 * (face.corner - face.corner_skew))
    right = (half, y - 0.10 * (face.corner + face.corner_skew))
    mid = y + 0.045 * face.corner  # a smile's middle hangs, a frown's rises
    top = mid - 0.35 * gape - 0.045 * face.sneer
    low = mid + 0.75 * gape + 0.004
    inner_top, inner_low = _curve(left, (0, top), right), _curve(right, (0, low), left)
    thick = 0.028 if look.lashes else 0.02
    outer_top = _curve(left, (0, top - thick), right)
    outer_low = _curve(right, (0, low + thick * 1.2), left)
    pen.area(np.concatenate([outer_top, outer_low]), look.lips)
    inside = np.concatenate([inner_top, inner_low])
    if gape > 0.012 or face.sneer > 0.3:
        clenched = face.teeth > 0.5 and face.corner < 0
        with pen.within(inside):
            pen.area(inside, (70, 20, 25))
            if face.teeth > 0.3 or face.sneer > 0.3:
                depth = min((0.47 if clenched else 0.4) * (low - top), 0.05)
                pen.area(np.concatenate([inner_top, inner_top[::-1] + np.array([0, depth])]), (245, 243, 235))
                if clenched:  # the lower row too
                    pen.area(np.concatenate([inner_low, inner_low[::-1] - np.array([0, depth])]), (240, 238, 228))
    else:
        pen.line(inner_top, _shade(look.lips, 0.5), 0.012)
    for side, (cx, cy) in ((-1, left), (1, right)):
        pull = face.corner + side * face.corner_skew
        if pull > 0.4:  # the fold that a raised corner pushes into the cheek
            fold = _curve((cx + side * 0.03, cy - 0.06), (cx + side * 0.055, cy), (cx + side * 0.03, cy + 0.05))
            pen.line(fold, _shade(tone, 0.75), 0.014)
    pen.line(_curve((-0.05, low + 0.075), (0, low + 0.085), (0.05, low + 0.075)), _shade(tone, 0.85), 0.010)
