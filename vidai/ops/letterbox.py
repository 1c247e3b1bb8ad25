"""A frame, resized and upright, into one slot of a model's input."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vidai.device import Device
from vidai.ops.rgb import Format, color_matrix
from vidai.types import FLIP_X, FLIP_Y, TRANSPOSE, Color, Frame, InputSpec, Placement

WEIGHT = 11  # bits of a weight
UNIT = 1 << WEIGHT  # the sum of one output's weights on one axis
SUM = 24  # bits of a resampled value: what a float holds exactly

_AXIS = [(name, np.int32) for name in ("outputs", "taps", "first", "weights")]
_PLAN = np.dtype(  # struct Plan of kernels/letterbox.cu
    [
        *((name, np.int32) for name in ("height", "width", "top", "left", "rows", "columns")),
        *((name, np.int32) for name in ("stored_width", "transposed")),
        *((name, np.int32) for name in ("wide", "shift", "c_step", "half", "red", "blue")),
        ("excess", np.int32),
        *((name, np.float32) for name in ("black", "neutral")),
        ("matrix", np.float32, 5),
        *((name, np.float32, 3) for name in ("gain", "bias", "pad")),
        *((name, _AXIS) for name in ("luma_x", "luma_y", "chroma_x", "chroma_y")),
    ]
)


class Fit(NamedTuple):
    """Where a picture lies in a model's input, in model px."""

    left: int
    top: int
    width: int
    height: int


def letterbox(frame: Frame, batch: Any, slot: int, spec: InputSpec) -> Placement:
    """Write the upright picture into `batch[slot]`, every element of it.

    batch: (N, 3, h, w) in spec.dtype on the frame's device; its h and w are the size of the
    input. The picture keeps its aspect ratio, in square pixels (unless spec.place is
    "stretch"); the rest is spec.pad.

    Each plane is resampled on its own grid, in the display's axes: bilinear with half-pixel
    centres up to 2 samples per model pixel, above that the exact mean over the pixel's area,
    which is where bilinear begins to skip samples; at 2 both are the same. A chroma sample
    lies in the centre of its 2 × 2 luma samples. Bit for bit equal on every device.
    """
    s = frame.surface
    form = Format.of(s)
    height, width = batch.shape[2:]
    info, main = frame.info, frame.device.main
    seen = info.orientation, info.sample_aspect_ratio, info.color
    plan, placement = _plan(main, *seen, form, spec, height, width)
    pitches = np.int32(s.y_pitch), np.int32(s.c_pitch)
    extent = (1, height, width)
    frame.device.launch("letterbox", extent, s.y, s.u, s.v, *pitches, batch, np.int32(slot), plan)
    return placement


def fit(width: int, height: int, pixel_aspect: Fraction, across: int, down: int, place: str) -> Fit:
    """Where a picture of width × height display px goes in an input of across × down px.

    pixel_aspect: width over height of a display pixel. The larger axis fills the input, the
    other is rounded to the nearest px (a half to even), at least 1. Centred, an odd px of
    padding goes to the right and the bottom.
    """
    if place == "stretch":
        return Fit(0, 0, across, down)
    square = width * pixel_aspect
    scale = min(across / square, Fraction(down, height))
    new_width, new_height = max(1, round(square * scale)), max(1, round(height * scale))
    if place == "top-left":
        return Fit(0, 0, new_width, new_height)
    return Fit((across - new_width) // 2, (down - new_height) // 2, new_width, new_height)


@lru_cache(maxsize=256)
def _plan(
    device: Device,
    orientation: int,
    aspect: Fraction | None,
    color: Color,
    form: Format,
    spec: InputSpec,
    height: int,
    width: int,
) -> tuple[Any, Placement]:
    """The kernel's plan in device memory, and the placement that it amounts to."""
    transposed = bool(orientation & TRANSPOSE)
    shown = (form.height, form.width) if transposed else (form.width, form.height)
    aspect = aspect or Fraction(1)
    place = fit(*shown, 1 / aspect if transposed else aspect, width, height, spec.place)

    plan = np.zeros((), _PLAN)
    plan["height"], plan["width"] = height, width
    plan["left"], plan["top"], plan["columns"], plan["rows"] = place
    plan["stored_width"], plan["transposed"] = form.width, transposed
    plan["wide"], plan["shift"], plan["c_step"] = form.bit_depth > 8, form.shift, form.c_step
    plan["half"] = spec.dtype == "float16"
    plan["red"], plan["blue"] = (0, 2) if spec.channels == "rgb" else (2, 0)
    matrix = color_matrix(color.resolved(form.height), form.bit_depth)
    unit = 1 << SUM - form.bit_depth
    plan["excess"] = 2 * WEIGHT + form.bit_depth - SUM
    plan["black"], plan["neutral"] = matrix.black * unit, matrix.neutral * unit
    plan["matrix"] = np.array(matrix.weights) / unit
    order = slice(None, None, 1 if spec.channels == "rgb" else -1)
    mean, std, pad = (np.array(values)[order] for values in (spec.mean, spec.std, spec.pad))
    plan["gain"], plan["bias"] = spec.scale / std, -mean / std
    plan["pad"] = (pad * spec.scale - mean) / std

    tables: list[npt.NDArray[np.int32]] = []
    end = _PLAN.itemsize // 4
    outputs = (place.height, place.width) if transposed else (place.width, place.height)
    for axis, size, count, flip in zip("xy", form[:2], outputs, (FLIP_X, FLIP_Y), strict=True):
        step = -1 if orientation & flip else 1
        for plane, samples, span in (
            ("luma", size, Fraction(size)),
            ("chroma", (size + 1) // 2, Fraction(size, 2)),
        ):
            first, weights = resampling(samples, span / count, count)
            taps = weights.shape[1]
            plan[f"{plane}_{axis}"] = (count, taps, end, end + count)
            rows = weights[::step].T.ravel()
            if axis == "x":
                rows = rows.astype(np.float32).view(np.int32)
            tables += [first[::step], rows]
            end += count * (1 + taps)
    placement = Placement(place.width / shown[0], place.height / shown[1], place.left, place.top)
    plan_and_tables = np.concatenate([plan.reshape(1).view(np.int32), *tables])
    return device.constant(plan_and_tables, "letterbox plan"), placement


def resampling(
    samples: int, scale: Fraction, outputs: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """How to make `outputs` values from a row of samples, `scale` samples apart.

    Returns first (outputs,) and weights (outputs, taps), int32: value i is the sum over k of
    weights[i, k] * sample[first[i] + k], divided by UNIT, which the weights sum to. No index
    leaves the row: what a weight would take from outside, it takes from the nearest sample.
    """
    step, unit = scale.numerator, scale.denominator  # positions below are in samples / unit
    i = np.arange(outputs, dtype=np.int64)[:, None]
    if step <= 2 * unit:
        twice = (2 * i + 1) * step - unit  # half-pixel centres
        start = twice // (2 * unit)
        second = ((twice - start * 2 * unit) * UNIT + unit) // (2 * unit)
        weights = np.hstack([UNIT - second, second])
    else:
        start = i * step // unit
        edges = (start + np.arange(-(-step // unit) + 2)) * unit - i * step
        # Differences of a rounded running sum: the rounding errors cannot add up.
        weights = np.diff((2 * UNIT * edges.clip(0, step) + step) // (2 * step))
    taps = int(np.flatnonzero(weights.any(0))[-1]) + 1
    index = (start + np.arange(taps)).clip(0, samples - 1)
    first = start.clip(0, max(0, samples - taps))
    inside = np.zeros((outputs, min(taps, samples)), np.int32)
    np.add.at(inside, (i, index - first), weights[:, :taps])
    return first[:, 0].astype(np.int32), inside
