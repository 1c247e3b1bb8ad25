"""vidai.ops.image on the CPU device, with Pillow. Arrays are checked (H, W, 3) uint8."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from vidai.device import Device

Picture = npt.NDArray[np.uint8]


def hq_resize(device: Device, rgb: Picture, width: int, height: int) -> Picture:
    return np.array(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def warp(device: Device, rgb: Picture, back: npt.NDArray[np.float64]) -> Picture:
    """back: the matrix from points of the result to points of rgb, as in vidai.ops.image."""
    # Pillow repeats an edge for half a pixel and ends there: with a pixel of black around it the
    # picture is blended into black, as on CUDA.
    framed = ImageOps.expand(Image.fromarray(rgb), 1)
    back = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]]) @ back
    data: Any = (back / (back[2, 2] or 1e-12)).ravel()[:8]  # Pillow's last coefficient is 1
    size, how = (rgb.shape[1], rgb.shape[0]), Image.Transform.PERSPECTIVE
    out = np.empty_like(rgb, order="C")
    for channel, band in enumerate(framed.split()):
        # As float, because of bytes Pillow cuts off the fraction.
        plane = band.convert("F").transform(size, how, data, Image.Resampling.BILINEAR)
        out[:, :, channel] = np.asarray(plane) + np.float32(0.5)
    return out


def gaussian(device: Device, rgb: Picture, sigma: float) -> Picture:
    # Pillow blurs by box filters, each of which would repeat an edge of its own.
    reach = math.ceil(3 * sigma)
    framed = np.pad(rgb, ((reach, reach), (reach, reach), (0, 0)), "edge")
    blurred = Image.fromarray(framed).filter(ImageFilter.GaussianBlur(sigma))
    inside = (reach, reach, reach + rgb.shape[1], reach + rgb.shape[0])
    return np.array(blurred.crop(inside))
