"""Boxes and labels, drawn on the planes of a frame where it lies."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.errors import ConfigError
from vidai.glyphs import SOLID, Atlas, atlas
from vidai.types import FLIP_X, FLIP_Y, TRANSPOSE, Color, Frame, StreamInfo

Ints = npt.NDArray[np.int32]
Rgb = tuple[int, int, int]

# Hand-chosen for the first classes: bright enough for dark scenes, far from each other and
# from skin, sky and grass; after them hues a golden angle apart.
_FIRST: tuple[Rgb, ...] = (
    (255, 56, 92),
    (22, 178, 255),
    (255, 180, 0),
    (20, 205, 130),
    (155, 93, 255),
    (255, 122, 40),
    (0, 206, 209),
    (240, 80, 200),
    (160, 220, 40),
    (80, 110, 255),
    (184, 154, 98),
    (186, 98, 130),
    (60, 235, 60),
    (132, 100, 180),
    (225, 215, 95),
    (178, 70, 45),
    (255, 160, 145),
    (80, 140, 110),
    (170, 205, 255),
    (120, 135, 40),
)
_WHITE, _BLACK = (255, 255, 255), (16, 16, 16)
# Columns of an item, as in kernels/overlay.cu.
_COLOR, _ALPHA, _START, _STEP_X, _STEP_Y, _COLUMNS = slice(4, 7), 7, 8, 9, 10, 11
_FAR = 1 << 20  # px; a box that reaches further is cut there, so that its corners are integers


@lru_cache(maxsize=4096)
def color_for(class_id: int) -> Rgb:
    """A colour (red, green, blue, 0–255) for a class or track: always the same, well separated."""
    if 0 <= class_id < len(_FIRST):
        return _FIRST[class_id]
    turn = class_id * 0.6180339887498949 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.7, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(
    frame: Frame,
    boxes: npt.NDArray[np.float32],
    colors: npt.NDArray[np.uint8],
    labels: Sequence[str] | None = None,
    *,
    thickness: int | None = None,
    alpha: float = 1.0,
    font_size: int | None = None,
) -> Frame:
    """Draws outlined boxes, and over each its label on a ground of the same colour.

    boxes: (K, 4) x1 y1 x2 y2 in display px; one that is empty, inverted or not finite is
    skipped. colors: (K, 3) uint8 RGB. labels: K strings, an empty one is not drawn. Earlier
    boxes lie on top of later ones, and every label on top of every box. thickness: of the
    outline, px, by default 1/360 of the picture's shorter side. alpha: opacity, 0–1.
    font_size: px per em, by default 1/45 of the shorter side, at least 12.

    Returns the frame itself if it is writable or nothing is drawn, else a drawn private copy.
    Raises ConfigError for an option out of range, ValueError for arrays of different lengths.
    """
    short = min(frame.width, frame.height)
    thickness = max(1, round(short / 360)) if thickness is None else thickness
    font_size = max(12, round(short / 45)) if font_size is None else font_size
    check_drawing(thickness, alpha, font_size)
    boxes, colors = np.asarray(boxes, np.float32), np.asarray(colors, np.uint8)
    if boxes.shape != (len(boxes), 4) or colors.shape != (len(boxes), 3):
        raise ValueError(
            f"draw needs boxes (K, 4) and colors (K, 3): got {boxes.shape}, {colors.shape}"
        )
    if labels is not None and len(labels) != len(boxes):
        raise ValueError(f"draw needs a label for each box: got {len(labels)} for {len(boxes)}")

    # From the last to the first, so that the first is drawn over the others.
    kept = np.flatnonzero(drawable(boxes))[::-1]
    if not len(kept):
        return frame
    outer = _outer(boxes[kept], thickness)
    fills, inks = to_yuv(_with_text_colors(colors[kept]), frame)
    items = [_filled(_outline(outer, thickness), fills.repeat(4, 0))]
    glyphs = atlas(font_size)
    texts = [] if labels is None else [labels[k] for k in kept]
    shown = [k for k, text in enumerate(texts) if text]
    if shown:
        parts = [_label(glyphs, texts[k]) for k in shown]
        sizes = np.array([part[0, 2:4] for part in parts])
        corners = _corners(outer[shown], thickness, (frame.width, frame.height), sizes)
        items.append(_labels(parts, corners, fills[shown], inks[shown]))
    return _launch(frame, np.concatenate(items), round(alpha * 256), glyphs)


def check_drawing(thickness: int | None, alpha: float, font_size: int | None) -> None:
    """Raises ConfigError for an option that cannot be drawn with."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"overlay: alpha is an opacity from 0 to 1, not {alpha}")
    for name, value in (("thickness", thickness), ("font_size", font_size)):
        if value is not None and not (isinstance(value, int) and 1 <= value <= 1000):
            raise ConfigError(f"overlay: {name} is a whole number from 1 to 1000 px, not {value}")


def drawable(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which boxes (K, 4) are finite and hold an area."""
    finite = np.isfinite(boxes).all(1)
    return np.asarray(finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def to_stored(rectangles: Ints, info: StreamInfo) -> Ints:
    """Rectangles (K, 4), half open, from display to stored px."""
    if not info.orientation:
        return rectangles
    x0, y0, x1, y1 = rectangles.T
    if info.orientation & TRANSPOSE:
        x0, y0, x1, y1 = y0, x0, y1, x1
    if info.orientation & FLIP_X:
        x0, x1 = info.width - x1, info.width - x0
    if info.orientation & FLIP_Y:
        y0, y1 = info.height - y1, info.height - y0
    return np.stack([x0, y0, x1, y1], 1)


def to_yuv(colors: npt.NDArray[np.uint8], frame: Frame) -> Ints:
    """RGB colours (..., 3) as samples (y, u, v) of the frame's surface."""
    bit_depth = frame.surface.bit_depth  # of a 12-bit stream's converted pictures: 10
    matrix, offset = _yuv_matrix(frame.info.color.resolved(frame.info.height), bit_depth)
    samples = np.floor(colors @ matrix + offset)
    return np.minimum(samples, (1 << bit_depth) - 1).astype(np.int32)


@lru_cache
def _yuv_matrix(
    color: Color, bit_depth: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """samples = floor(rgb @ matrix + offset): ITU-T H.273, section 8.3, rounded to nearest."""
    kr, kb = color.luma_weights
    y = np.array([kr, 1 - kr - kb, kb])
    u, v = ([0, 0, 1] - y) / (2 - 2 * kb), ([1, 0, 0] - y) / (2 - 2 * kr)
    unit, top = 1 << (bit_depth - 8), (1 << bit_depth) - 1
    spans = np.array([top] * 3 if color.full_range else [219 * unit, 224 * unit, 224 * unit])
    offset = np.array([0 if color.full_range else 16 * unit, 128 * unit, 128 * unit])
    return np.stack([y, u, v], 1) * spans / 255, offset + 0.5


def _outer(boxes: npt.NDArray[np.float32], thickness: int) -> Ints:
    """The outlines' outer edges: boxes to the nearest px, at least one px, half the line out."""
    outer = np.floor(np.clip(boxes, -_FAR, _FAR) + np.float32(0.5)).astype(np.int32)
    outer[:, 2:] = np.maximum(outer[:, 2:], outer[:, :2] + 1)
    half = thickness // 2
    return np.asarray(outer + np.array([-half, -half, half, half], np.int32))


def _outline(outer: Ints, thickness: int) -> Ints:
    """For each box four rectangles that do not overlap: top, bottom, left, right."""
    x0, y0, x1, y1 = outer.T
    top, left = np.minimum(y0 + thickness, y1), np.minimum(x0 + thickness, x1)
    bottom, right = np.maximum(y1 - thickness, top), np.maximum(x1 - thickness, left)
    sides = [x0, y0, x1, top, x0, bottom, x1, y1, x0, top, left, bottom, right, top, x1, bottom]
    return np.array(sides, np.int32).T.reshape(-1, 4)


def _filled(rectangles: Ints, samples: Ints) -> Ints:
    """Items that fill rectangles evenly."""
    items = np.zeros((len(rectangles), _COLUMNS), np.int32)
    items[:, :4] = rectangles
    items[:, _COLOR] = samples
    items[:, _START] = SOLID
    return items


@lru_cache(maxsize=4096)
def _label(glyphs: Atlas, text: str) -> Ints:
    """Items of a label whose top left corner is at 0, 0: the ground, then its glyphs."""
    across, above = max(2, glyphs.ascent // 3), max(1, glyphs.ascent // 6)
    pen, baseline, items = across, above + glyphs.ascent, []
    for glyph in map(glyphs.glyph, text):
        x, y = pen + glyph.left, baseline + glyph.top
        where = (x, y, x + glyph.width, y + glyph.height)
        items.append((*where, 0, 0, 0, 0, glyph.start - x - y * glyph.width, 1, glyph.width))
        pen += glyph.advance
    bottom = baseline + glyphs.descent + above
    ground = (0, 0, pen + across, bottom, 0, 0, 0, 0, SOLID, 0, 0)
    return np.array([ground, *items], np.int32)


def _labels(parts: list[Ints], corners: Ints, fills: Ints, inks: Ints) -> Ints:
    """Items of labels, moved to their corners and coloured."""
    items = np.concatenate(parts)
    lengths = np.array([len(part) for part in parts])
    x, y = corners.repeat(lengths, 0).T
    items[:, :4] += np.array([x, y, x, y]).T
    items[:, _START] -= x * items[:, _STEP_X] + y * items[:, _STEP_Y]
    items[:, _COLOR] = inks.repeat(lengths, 0)
    items[lengths.cumsum() - lengths, _COLOR] = fills
    return items


def _corners(outer: Ints, thickness: int, picture: tuple[int, int], size: Ints) -> Ints:
    """Where labels go: on the box's top edge, or inside it where the picture ends above."""
    corner = outer[:, :2].copy()
    corner[:, 1] -= size[:, 1]
    inside = corner[:, 1] < 0
    corner[inside] = np.maximum(outer[inside, :2], 0) + thickness
    return np.asarray(np.maximum(np.minimum(corner, np.array(picture, np.int32) - size), 0))


def _with_text_colors(colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(2, K, 3): the colours, and for text on them white or near black, what stands out more."""
    light = colors @ np.array([0.299, 0.587, 0.114]) > 150
    return np.stack([colors, np.where(light[:, None], _BLACK, _WHITE).astype(np.uint8)])


def _launch(frame: Frame, items: Ints, alpha: int, glyphs: Atlas) -> Frame:
    """Cuts items to the picture, turns them to stored px, and draws them."""
    info = frame.info
    edges = np.array([frame.width, frame.height] * 2, np.int32)
    items[:, :4] = np.minimum(np.maximum(items[:, :4], 0), edges)
    items = items[(items[:, 0] < items[:, 2]) & (items[:, 1] < items[:, 3])]
    if not len(items):
        return frame
    items[:, _ALPHA] = alpha
    items[:, :4] = to_stored(items[:, :4], info)
    if info.orientation & TRANSPOSE:
        items[:, [_STEP_X, _STEP_Y]] = items[:, [_STEP_Y, _STEP_X]]
    flips = ((FLIP_X, _STEP_X, info.width), (FLIP_Y, _STEP_Y, info.height))
    for flip, step, length in flips:
        if info.orientation & flip:
            items[:, _START] += (length - 1) * items[:, step]
            items[:, step] *= -1
    device, frame = frame.device, frame.device.writable(frame)
    device.launch(
        "overlay",
        (1, (info.height + 1) // 2, (info.width + 1) // 2),
        *surface_args(frame),
        device.to_device(items, "overlay items"),
        np.int32(len(items)),
        glyphs.on_device(device),
    )
    return frame


def surface_args(frame: Frame) -> tuple[Any, ...]:
    """A surface as the drawing kernels take it."""
    s = frame.surface
    numbers = (s.y_pitch, s.c_pitch, s.c_step, s.bit_depth > 8, s.shift, s.width, s.height)
    return (s.y, s.u, s.v, *map(np.int32, numbers))
