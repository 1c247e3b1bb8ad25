"""What overlay and redact must do, from their definitions, one sample at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.surfaces import Plane

Planes = tuple[Plane, Plane, Plane]
Yuv = tuple[int, int, int]


def paint(planes: Planes, coverage: Plane, left: int, top: int, color: Yuv, alpha: float) -> None:
    """Blends a colour in place, through 8-bit coverage whose corner lies at (left, top).

    Alphas are 256ths, rounded to nearest; a chroma sample takes the mean of the alphas of the
    luma samples of its 2x2 cell, those outside the coverage being 0.
    """
    y, u, v = planes
    height, width = y.shape
    alphas = np.zeros((height, width), int)
    for row, column in np.argwhere(coverage):
        if 0 <= top + row < height and 0 <= left + column < width:
            c = int(coverage[row, column])
            share = c if c < 128 else c + 1
            alphas[top + row, left + column] = (round(alpha * 256) * share + 128) // 256
    for cy, cx in {(row // 2, column // 2) for row, column in np.argwhere(alphas).tolist()}:
        cell = alphas[2 * cy : 2 * cy + 2, 2 * cx : 2 * cx + 2]
        mean = int(2 * cell.sum() + cell.size) // (2 * cell.size)
        u[cy, cx] = _blend(u[cy, cx], color[1], mean)
        v[cy, cx] = _blend(v[cy, cx], color[2], mean)
    y[:] = (y * (256 - alphas) + color[0] * alphas + 128) // 256


def fill(planes: Planes, rectangle: tuple[int, ...], color: Yuv, alpha: float = 1.0) -> None:
    """Fills x0, y0, x1, y1 (half open)."""
    x0, y0, x1, y1 = rectangle
    solid = np.full((max(0, y1 - y0), max(0, x1 - x0)), 255)
    paint(planes, solid, x0, y0, color, alpha)


def outline(
    planes: Planes, box: tuple[int, ...], thickness: int, color: Yuv, alpha: float = 1.0
) -> None:
    """An outline of which half (rounded down) lies outside the box."""
    out = thickness // 2
    x0, y0, x1, y1 = box[0] - out, box[1] - out, box[2] + out, box[3] + out
    upper, lower = min(y0 + thickness, y1), max(y1 - thickness, min(y0 + thickness, y1))
    fill(planes, (x0, y0, x1, upper), color, alpha)
    fill(planes, (x0, lower, x1, y1), color, alpha)
    inner = min(x0 + thickness, x1)
    fill(planes, (x0, upper, inner, lower), color, alpha)
    fill(planes, (max(x1 - thickness, inner), upper, x1, lower), color, alpha)


def text_mask(text: str, size: int) -> tuple[Plane, int]:
    """The coverage of a line of text as Pillow renders it, and the row of its baseline."""
    font = ImageFont.load_default(size)
    baseline = 2 * size
    image = Image.new("L", (size * (len(text) + 2), 3 * size))
    ImageDraw.Draw(image).text((size, baseline), text, 255, font, anchor="ls")
    return np.asarray(image)[:, size:], baseline


def redact(
    planes: Planes,
    box: tuple[int, int, int, int],
    style: str,
    shape: str,
    cells: int,
    source: Planes | None = None,
) -> Planes:
    """The planes with one region redacted; its means are taken from `source`."""
    source = planes if source is None else source
    y, u, v = (plane.astype(int) for plane in planes)
    height, width = y.shape
    x0, y0, x1, y1 = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
    block = math.ceil((max(box[2] - box[0], box[3] - box[1]) + 1) / cells)
    block = max(4, block + block % 2)
    left, top = x0 - x0 % 2, y0 - y0 % 2
    rows, columns = -(-(y1 - top) // block), -(-(x1 - left) // block)
    means = [
        block_means(plane, left // scale, top // scale, block // scale)[:rows, :columns]
        for plane, scale in zip(source, (1, 2, 2), strict=True)
    ]
    for cy in range(top // 2, (y1 + 1) // 2):
        for cx in range(left // 2, (x1 + 1) // 2):
            inside = [
                (py, px)
                for py in (2 * cy, 2 * cy + 1)
                for px in (2 * cx, 2 * cx + 1)
                if x0 <= px < x1 and y0 <= py < y1
                if shape == "box" or _in_ellipse(px, py, box)
            ]
            if not inside:
                continue
            down = Fraction(2 * cy + 1 - top, block)
            across = Fraction(2 * cx + 1 - left, block)
            values = [_sample(plane, down, across, style) for plane in means]
            for py, px in inside:
                y[py, px] = values[0]
            u[cy, cx], v[cy, cx] = values[1:]
    return y, u, v


def block_means(plane: Plane, left: int, top: int, block: int) -> Plane:
    """Means of the square blocks from (left, top) to the plane's end, rounded half up."""
    height, width = plane.shape
    rows, columns = range(top, height, block), range(left, width, block)
    means = [
        [math.floor(plane[r : r + block, c : c + block].mean() + 0.5) for c in columns]
        for r in rows
    ]
    return np.array(means)


def _in_ellipse(x: int, y: int, box: tuple[int, int, int, int]) -> bool:
    a, b = box[2] - box[0], box[3] - box[1]
    across, down = 2 * x + 1 - box[0] - box[2], 2 * y + 1 - box[1] - box[3]
    return across**2 * b**2 + down**2 * a**2 <= a**2 * b**2


def _sample(means: Plane, down: Fraction, across: Fraction, style: str) -> int:
    if style == "pixelate":
        return int(means[int(down), int(across)])
    total = 0
    for row, share in _neighbours(down, means.shape[0]):
        for column, part in _neighbours(across, means.shape[1]):
            total += int(means[row, column]) * share * part
    return (total + 32768) // 65536


def _neighbours(place: Fraction, count: int) -> list[tuple[int, int]]:
    """The block centres on both sides of a place (in blocks), with their weights in 256ths."""
    place = min(max(place - Fraction(1, 2), Fraction(0)), Fraction(count - 1))
    first = int(place)
    part = int((place - first) * 256)
    return [(first, 256 - part), (min(first + 1, count - 1), part)]


def _blend(old: int, new: int, alpha: int) -> int:
    return (int(old) * (256 - alpha) + new * alpha + 128) // 256
