"""Optional operators on RGB pictures: resize, rotate, warp and blur.

A picture is an (H, W, 3) uint8 array, as `Frame.rgb` gives it, on the device, or a NumPy
array, which is brought there; the result is another on the device. Each device has a library
for them, behind `vidai.devices.<kind>.image`: CV-CUDA or Pillow. Unlike the project's own
kernels these round in their own ways: devices agree within a few of 255 levels.

`vidai.ops.write_rgb` puts a result back on a frame. They raise ValueError for what is no picture,
ConfigError for an option of no meaning, DeviceUnavailable where the library is missing.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vidai.device import Device
from vidai.errors import ConfigError
from vidai.ops.yuv import picture_on

Matrix: TypeAlias = "Sequence[Sequence[float]] | npt.NDArray[np.floating[Any]]"

_LONGEST = 1 << 14  # px of a side
_NARROWEST, _WIDEST = 0.5, 100  # px of a sigma


def hq_resize(device: Device, rgb: Any, width: int, height: int) -> Any:
    """The picture at width × height px, by Lanczos' filter of 3 lobes, antialiased.

    `vidai.ops.letterbox` is what detectors are fed with, and faster; this is for what else
    wants a picture of a certain size.
    """
    for name, size in (("width", width), ("height", height)):
        if not 1 <= size <= _LONGEST:
            raise ConfigError(f"hq_resize: {name} is from 1 to {_LONGEST} px, not {size}")
    return _library(device).hq_resize(device, picture_on(device, rgb), width, height)


def rotate(device: Device, rgb: Any, degrees: float) -> Any:
    """The picture turned counter-clockwise, as seen, about its centre: same size, black outside.

    The rotation that a container asks for is no matter of this: `Frame.rgb` is upright.
    """
    check_degrees(degrees)
    rgb = picture_on(device, rgb)
    height, width = rgb.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])  # y runs down
    return warp(device, rgb, _moved(width / 2, height / 2) @ turn @ _moved(-width / 2, -height / 2))


def warp(device: Device, rgb: Any, matrix: Matrix) -> Any:
    """The picture in perspective: same size, bilinear, black outside and blended at the edge.

    matrix: 3 × 3, from points of the picture to where they go: w (x', y', 1) = matrix (x, y, 1)
    in px, with 0, 0 at the corner of the picture and its pixels' centres at .5, as in boxes.
    It is not antialiased: what it shrinks to less than half, it samples.
    """
    back = np.linalg.inv(check_matrix(matrix))
    back /= np.abs(back).max()  # any multiple is the same mapping; floats hold this one
    return _library(device).warp(device, picture_on(device, rgb), back)


def gaussian(device: Device, rgb: Any, sigma: float) -> Any:
    """The picture blurred by a Gaussian of this standard deviation in px, its edges repeated.

    Pillow approximates it: from 1 px up within 4 levels on most pictures. This hides nothing
    for good, see `vidai.ops.redact`.
    """
    check_sigma(sigma)
    return _library(device).gaussian(device, picture_on(device, rgb), sigma)


def check_sigma(sigma: float) -> None:
    """Raises ConfigError for a blur of no meaning."""
    if not _NARROWEST <= sigma <= _WIDEST:
        raise ConfigError(f"gaussian: sigma is from {_NARROWEST} to {_WIDEST} px, not {sigma}")


def check_degrees(degrees: float) -> None:
    """Raises ConfigError for an angle that is not finite."""
    if not math.isfinite(degrees):
        raise ConfigError(f"rotate: degrees is a finite angle, not {degrees}")


def check_matrix(matrix: Matrix) -> npt.NDArray[np.float64]:
    """The matrix as an array. Raises ConfigError for one that does not map the plane."""
    try:
        array = np.array(matrix, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape != (3, 3) or not np.isfinite(array).all():
        raise ConfigError(f"warp: matrix is three rows of three finite numbers, not {matrix}")
    if np.linalg.matrix_rank(array) < 3:
        raise ConfigError(f"warp: matrix has no inverse, it maps the picture to a line: {matrix}")
    return array


def _moved(x: float, y: float) -> npt.NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def _library(device: Device) -> Any:
    """The device's module of the same operators, without the checks."""
    return importlib.import_module(f"vidai.devices.{device.name.partition(':')[0]}.image")
