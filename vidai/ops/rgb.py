"""A frame as an upright RGB picture, and the colour matrices that ops share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from vidai.device import Device
from vidai.types import Color, Frame, Surface

DEPTH = 10  # bits of a sample that kernels have room for; deeper ones lose the rest


class Format(NamedTuple):
    """What the samples of a surface look like, see vidai.types.Surface."""

    width: int
    height: int
    c_step: int
    bit_depth: int
    shift: int

    @classmethod
    def of(cls, surface: Surface) -> Format:
        """The surface's format, in at most DEPTH bits."""
        depth = min(surface.bit_depth, DEPTH)
        shift = surface.shift + surface.bit_depth - depth
        return cls(surface.width, surface.height, surface.c_step, depth, shift)


def rgb(frame: Frame) -> Any:
    """The upright picture: (H, W, 3) uint8, R G B, in the memory of the frame's device.

    Chroma is interpolated bilinearly; a chroma sample lies in the centre of its 2 × 2 luma
    samples. Values are within 1 of ITU-T H.273's, and the same on every device.
    """
    surface, info = frame.surface, frame.info
    extent = (1, frame.height, frame.width)
    out = frame.device.empty((*extent[1:], 3), np.uint8)
    form = _format(frame.device.main, Format.of(surface), info.color, info.orientation)
    pitches = np.int32(surface.y_pitch), np.int32(surface.c_pitch)
    frame.device.launch("rgb", extent, surface.y, surface.u, surface.v, *pitches, out, form)
    return out


@lru_cache(maxsize=256)
def _format(device: Device, form: Format, color: Color, orientation: int) -> Any:
    """struct Format of kernels/rgb.cu, in device memory."""
    matrix = color_matrix(color.resolved(form.height), form.bit_depth)
    unit = 1 << 11 - form.bit_depth
    fields = [
        *(form.width, form.height, orientation, form.bit_depth > 8, form.shift, form.c_step),
        *(matrix.black, 16 * matrix.neutral, unit),
        *(round(weight * (1 << 16) / unit) for weight in matrix.weights),
    ]
    return device.constant(np.array(fields, np.int32), "rgb format")


class ColorMatrix(NamedTuple):
    """From Y'CbCr samples to R'G'B' 0–255: ITU-T H.273, equations for MatrixCoefficients.

    With y = luma - black, b = cb - neutral, r = cr - neutral and the weights in order:
    R = w0 y + w1 r, G = w0 y + w2 b + w3 r, B = w0 y + w4 b.
    """

    black: int
    neutral: int
    weights: tuple[float, float, float, float, float]


def color_matrix(color: Color, bit_depth: int) -> ColorMatrix:
    """The matrix for resolved colour tags and samples of bit_depth bits."""
    kr, kb = color.luma_weights
    kg = 1 - kr - kb
    if color.full_range:
        black, luma_span = 0, (1 << bit_depth) - 1
        chroma_span = luma_span
    else:
        black, luma_span, chroma_span = (v << bit_depth - 8 for v in (16, 219, 224))
    chroma = 255 / chroma_span
    return ColorMatrix(
        black,
        1 << bit_depth - 1,
        (
            255 / luma_span,
            2 * (1 - kr) * chroma,
            -2 * kb * (1 - kb) / kg * chroma,
            -2 * kr * (1 - kr) / kg * chroma,
            2 * (1 - kb) * chroma,
        ),
    )
