"""Boxes and labels, drawn on the planes of a frame where it lies."""

from __future__ import annotations

import colorsys
import ctypes
from array import array
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.errors import ConfigError
from vidai.glyphs import Atlas, atlas
from vidai.native import load_kernels
from vidai.types import Color, Frame

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
_COLUMNS = 11  # of an item, see kernels/overlay.cu


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
    info = frame.info
    short = min(info.width, info.height)
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

    glyphs = atlas(font_size)
    items = _items(frame, boxes, colors, labels, glyphs, thickness, round(alpha * 256))
    if not len(items):
        return frame
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


def check_drawing(thickness: int | None, alpha: float, font_size: int | None) -> None:
    """Raises ConfigError for an option that cannot be drawn with."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"overlay: alpha is an opacity from 0 to 1, not {alpha}")
    for name, value in (("thickness", thickness), ("font_size", font_size)):
        if value is not None and not (isinstance(value, int) and 1 <= value <= 1000):
            raise ConfigError(f"overlay: {name} is a whole number from 1 to 1000 px, not {value}")


def _items(
    frame: Frame,
    boxes: npt.NDArray[np.float32],
    colors: npt.NDArray[np.uint8],
    labels: Sequence[str] | None,
    glyphs: Atlas,
    thickness: int,
    alpha: int,
) -> Ints:
    """The kernel's items (N, 11), in the order in which they are drawn. alpha: 0–256."""
    info = frame.info
    text = None if labels is None else b"".join([_numbers(glyphs, label) for label in labels])
    length = len(text or b"") // 4
    items = np.empty((4 * len(boxes) + length, _COLUMNS), np.int32)
    count = _overlay_items()(
        boxes.tobytes(),
        _samples(colors, frame),
        len(boxes),
        text,
        length,
        glyphs.table,
        glyphs.ascent,
        glyphs.descent,
        info.width,
        info.height,
        info.orientation,
        thickness,
        alpha,
        items.ctypes.data,
    )
    return items[:count]


@cache
def _overlay_items() -> Any:
    """The function of kernels/items.cpp. It keeps the GIL: to get it back would take longer."""
    address, number = ctypes.c_void_p, ctypes.c_int32
    kinds = (address, address, number, address, number, address, *[number] * 7, address)
    return ctypes.PYFUNCTYPE(number, *kinds)(("overlay_items", load_kernels()))


@lru_cache(maxsize=4096)
def _numbers(glyphs: Atlas, text: str) -> bytes:
    """The numbers of a label's glyphs, then how many they are, int32."""
    return array("i", [*map(glyphs.number, text), len(text)]).tobytes()


def _samples(colors: npt.NDArray[np.uint8], frame: Frame) -> bytes:
    """Of each colour (K, 3) two samples (y, u, v), int32: its own, and that of text on it."""
    rgb, info, bit_depth = colors.tobytes(), frame.info, frame.surface.bit_depth
    each = (rgb[k : k + 3] for k in range(0, len(rgb), 3))
    return b"".join([_sample_pair(c, info.color, info.height, bit_depth) for c in each])


@lru_cache(maxsize=4096)
def _sample_pair(rgb: bytes, color: Color, height: int, bit_depth: int) -> bytes:
    red, green, blue = rgb
    light = 299 * red + 587 * green + 114 * blue > 150_000
    pair = np.array([(red, green, blue), _BLACK if light else _WHITE], np.uint8)
    return _to_yuv(pair, color.resolved(height), bit_depth).tobytes()


def _to_yuv(colors: npt.NDArray[np.uint8], color: Color, bit_depth: int) -> Ints:
    """RGB colours (..., 3) as samples (y, u, v), by resolved colour tags.

    bit_depth: of the surface, which is 10 where a stream of 12 bits was converted.
    """
    matrix, offset = _yuv_matrix(color, bit_depth)
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


def surface_args(frame: Frame) -> tuple[Any, ...]:
    """A surface as the drawing kernels take it."""
    s = frame.surface
    form = (s.y_pitch, s.c_pitch, s.c_step, s.bit_depth > 8, s.shift, s.width, s.height)
    return (s.y, s.u, s.v, *_by_value(form))


@lru_cache
def _by_value(numbers: tuple[int, ...]) -> tuple[np.int32, ...]:
    return tuple(map(np.int32, numbers))
