"""What ops must give, in plain float64 NumPy, straight from the definitions.

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


def as_stored(shown: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """The stored picture of a display one: what `upright` undoes."""
    if orientation & 4:
        shown = shown.swapaxes(0, 1)
    if orientation & 2:
        shown = shown[::-1]
    return shown[:, ::-1] if orientation & 1 else shown


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


def to_yuv(frame: Frame, picture: npt.NDArray[np.uint8]) -> tuple[Floats, Floats, Floats]:
    """The planes, not rounded, of an upright picture (H, W, 3) R'G'B' 0–255: H.273 again.

    A chroma sample is the mean over the pixels of its 2 × 2 cell that there are.
    """
    color, depth = frame.info.color, frame.info.bit_depth
    kr, kb = PRIMARIES[color.matrix]
    rgb = as_stored(picture, frame.info.orientation) / 255
    luma = rgb @ (kr, 1 - kr - kb, kb)
    cb, cr = (rgb[..., 2] - luma) / (2 - 2 * kb), (rgb[..., 0] - luma) / (2 - 2 * kr)
    rows, columns = luma.shape
    padding = ((0, rows % 2), (0, columns % 2))
    cells = ((rows + 1) // 2, 2, (columns + 1) // 2, 2)
    cb, cr = (
        np.nanmean(np.pad(c, padding, constant_values=np.nan).reshape(cells), (1, 3))
        for c in (cb, cr)
    )
    if color.range == 2:
        top, middle = 2**depth - 1, 2 ** (depth - 1)
        return luma * top, np.minimum(cb * top + middle, top), np.minimum(cr * top + middle, top)
    step = 2.0 ** (depth - 8)
    return (219 * luma + 16) * step, (224 * cb + 128) * step, (224 * cr + 128) * step


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


def lanczos(picture: npt.NDArray[Any], width: int, height: int) -> Floats:
    """The picture (H, W, 3) resized by windowed sinc of 3 lobes, widened where it shrinks."""
    for size in (height, width):  # each axis in turn comes first
        scale = picture.shape[0] / size
        reach = max(scale, 1)
        distance = np.arange(picture.shape[0]) + 0.5 - (np.arange(size)[:, None] + 0.5) * scale
        x = distance / reach
        weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        weights /= weights.sum(1, keepdims=True)
        picture = np.tensordot(weights, picture, 1).swapaxes(0, 1)
    result: Floats = np.clip(picture, 0, 255)
    return result


def warp(picture: npt.NDArray[Any], matrix: npt.NDArray[Any]) -> Floats:
    """The picture (H, W, 3) where the matrix takes it, bilinear, on black."""
    height, width = picture.shape[:2]
    framed = np.zeros((height + 2, width + 2, 3))
    framed[1:-1, 1:-1] = picture
    y, x = np.mgrid[:height, :width] + 0.5
    at = np.linalg.inv(matrix) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    x, y = (at[:2] / at[2] + 0.5).clip([[0], [0]], [[width + 1], [height + 1]])
    left, top = (np.minimum(v.astype(int), n) for v, n in ((x, width), (y, height)))
    across, down = (x - left)[:, None], (y - top)[:, None]
    upper, lower = (
        framed[row, left] * (1 - across) + framed[row, left + 1] * across for row in (top, top + 1)
    )
    result: Floats = (upper * (1 - down) + lower * down).reshape(height, width, 3)
    return result


def gaussian(picture: npt.NDArray[Any], sigma: float) -> Floats:
    """The picture (H, W, 3) blurred, its edges repeated."""
    reach = int(np.ceil(5 * sigma))
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    result = picture.astype(float)
    for _ in range(2):  # each axis in turn comes first
        framed = np.pad(result, ((reach, reach), (0, 0), (0, 0)), "edge")
        blurred = sum(w * framed[i : i + len(result)] for i, w in enumerate(weights))
        result = np.asarray(blurred).swapaxes(0, 1)
    return result
