"""An RGB picture, back on the planes of a frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from vidai.device import Device
from vidai.ops.rgb import Format, color_matrix
from vidai.types import FLIP_X, FLIP_Y, TRANSPOSE, Color, Frame

_FRACTION = 18  # bits of a weight's fraction, see kernels/yuv.cu


def write_rgb(frame: Frame, rgb: Any) -> Frame:
    """Replaces the frame's picture by an upright one, in the frame's own format.

    rgb: (H, W, 3) uint8, R G B, of the frame's display size: on the frame's device as
    `Frame.rgb` gives it, or a NumPy array. Matrix, range, bit depth, layout and orientation
    of the frame stay. A chroma sample is the mean of its 2 × 2 pixels, at an odd edge of
    fewer. Samples are ITU-T H.273's rounded to nearest, and the same on every device.

    The values have 8 bits: what deeper video had below them is lost.

    Returns the frame itself if it is writable, else a private copy. Raises ValueError for an
    array of another shape or type.
    """
    rgb = picture_on(frame.device, rgb)
    if rgb.shape[:2] != (frame.height, frame.width):
        raise ValueError(
            f"write_rgb needs a picture of the frame's {frame.height} rows and {frame.width} "
            f"columns: got {rgb.shape[0]} and {rgb.shape[1]}"
        )
    device, frame = frame.device, frame.device.writable(frame)
    s, info = frame.surface, frame.info
    target = _target(device.main, Format.of(s), info.color, info.orientation)
    extent = (1, (s.height + 1) // 2, (s.width + 1) // 2)
    pitches = np.int32(s.y_pitch), np.int32(s.c_pitch)
    device.launch("rgb_to_yuv", extent, s.y, s.u, s.v, *pitches, rgb, target)
    return frame


def picture_on(device: Device, rgb: Any) -> Any:
    """An (H, W, 3) uint8 array of any lane, for this one; a NumPy array is brought there.

    Raises ValueError for an array of another shape or type.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape or rgb.dtype != np.uint8:
        raise ValueError(f"a picture is (H, W, 3) uint8: got {tuple(rgb.shape)} {rgb.dtype}")
    return device.to_device(rgb, "picture") if isinstance(rgb, np.ndarray) else device.borrow(rgb)


@lru_cache(maxsize=256)
def _target(device: Device, form: Format, color: Color, orientation: int) -> Any:
    """struct Target of kernels/yuv.cu, in device memory."""
    step_x, step_y, start = 3, 3 * form.width, 0
    if orientation & TRANSPOSE:
        step_x, step_y = 3 * form.height, 3
    if orientation & FLIP_X:
        start, step_x = start + (form.width - 1) * step_x, -step_x
    if orientation & FLIP_Y:
        start, step_y = start + (form.height - 1) * step_y, -step_y

    matrix = color_matrix(color.resolved(form.height), form.bit_depth)
    luma, v_red, u_green, v_green, u_blue = matrix.weights
    to_rgb = np.array([[luma, 0, v_red], [luma, u_green, v_green], [luma, u_blue, 0]])
    zero = np.array([matrix.black, matrix.neutral, matrix.neutral]) + 0.5  # rounds to nearest
    weights = np.column_stack([np.linalg.inv(to_rgb), zero]) * (1 << _FRACTION)
    fields = [
        *(form.width, form.height, form.bit_depth > 8, form.shift, form.c_step),
        *((1 << form.bit_depth) - 1, start, step_x, step_y),
        *np.rint(weights).ravel(),
    ]
    return device.constant(np.array(fields).astype(np.int32), "yuv target")
