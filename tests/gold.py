"""What letterbox and rgb must give, in plain float64 NumPy, straight from the definitions.

Slow, and shares nothing with the code under test.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.types import Frame, InputSpec

Floats = npt.NDArray[np.float64]

# ITU-T H.273 Table 4: matrix code point -> (KR, KB).
PRIMARIES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    9: (0.2627, 0.0593),
}


def upright(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """The display picture of a stored one, from the meaning of FLIP_X, FLIP_Y, TRANSPOSE."""
    if orientation & 1:
        stored = stored[:, ::-1]
    if orientation & 2:
        stored = stored[::-1]
    return stored.swapaxes(0, 1) if orientation & 4 else stored


def filter_matrix(samples: int, span: float, outputs: int) -> Floats:
    """(outputs, samples): the weights that shrink or enlarge `span` samples to `outputs`."""
    matrix = np.zeros((outputs, samples))
    scale = span / outputs
    for i in range(outputs):
        if scale <= 2:
            position = (i + 0.5) * scale - 0.5
            for k in (int(np.floor(position)), int(np.floor(position)) + 1):
                matrix[i, min(max(k, 0), samples - 1)] += 1 - abs(position - k)
        else:
            for k in range(int(i * scale), min(samples, int(np.ceil((i + 1) * scale)) + 1)):
                matrix[i, k] = max(0.0, min(k + 1, (i + 1) * scale) - max(k, i * scale)) / scale
    return matrix


def to_rgb(frame: Frame, y: Floats, u: Floats, v: Floats) -> Floats:
    """(H, W, 3) R'G'B' 0–255, clipped, from the equations of H.273 for the frame's tags."""
    color, depth = frame.info.color, min(frame.info.bit_depth, 16)
    kr, kb = PRIMARIES[color.matrix]
    step = 2.0 ** (depth - 8)
    if color.range == 2:
        luma = y / (2**depth - 1)
        cb, cr = ((c - 2 ** (depth - 1)) / (2**depth - 1) for c in (u, v))
    else:
        luma = (y - 16 * step) / (219 * step)
        cb, cr = ((c - 128 * step) / (224 * step) for c in (u, v))
    red = luma + 2 * (1 - kr) * cr
    blue = luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    rgb: Floats = np.clip(np.stack([red, green, blue], -1) * 255, 0, 255)
    return rgb


def resized(frame: Frame, planes: tuple[npt.NDArray[Any], ...], width: int, height: int) -> Floats:
    """The upright picture, resized: (height, width, 3) R'G'B' 0–255."""
    orientation = frame.info.orientation
    across, down = (height, width) if orientation & 4 else (width, height)
    sizes = planes[0].shape
    values = []
    for plane, part in zip(planes, (1, 2, 2), strict=True):
        rows = filter_matrix(plane.shape[0], sizes[0] / part, down)
        columns = filter_matrix(plane.shape[1], sizes[1] / part, across)
        values.append(upright(rows @ plane @ columns.T, orientation))
    return to_rgb(frame, *values)


def letterbox(
    frame: Frame, planes: tuple[npt.NDArray[Any], ...], spec: InputSpec, width: int, height: int
) -> Floats:
    """The (3, height, width) slot."""
    rows, columns = planes[0].shape
    pixel = frame.info.sample_aspect_ratio or Fraction(1)
    wide, high = Fraction(columns) * pixel, Fraction(rows)
    if frame.info.orientation & 4:
        wide, high = high, wide
    if spec.place == "stretch":
        new_width, new_height = width, height
    else:
        new_width, new_height = (
            (width, max(1, round(high * width / wide)))
            if width / wide <= height / high
            else (max(1, round(wide * height / high)), height)
        )
    centred = spec.place == "center"
    left, top = ((width - new_width) // 2, (height - new_height) // 2) if centred else (0, 0)
    picture = np.empty((height, width, 3))
    picture[:] = spec.pad if spec.channels == "rgb" else spec.pad[::-1]
    picture[top : top + new_height, left : left + new_width] = resized(
        frame, planes, new_width, new_height
    )
    if spec.channels == "bgr":
        picture = picture[:, :, ::-1]
    slot: Floats = (picture * spec.scale - spec.mean) / spec.std
    return slot.transpose(2, 0, 1)
