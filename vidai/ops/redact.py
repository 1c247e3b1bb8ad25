"""Regions of a frame made unrecognisable, where it lies."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.errors import ConfigError
from vidai.native import load_kernels
from vidai.ops.overlay import surface_args
from vidai.types import Frame

STYLES = ("pixelate", "blur")  # numbered as in kernels/redact.cu
SHAPES = ("box", "ellipse")
_COLUMNS = 14  # of a region, see kernels/redact.cu


def redact(
    frame: Frame,
    boxes: npt.NDArray[np.float32],
    *,
    style: str = "blur",
    shape: str = "ellipse",
    grow: float = 1.0,
    cells: int = 8,
) -> Frame:
    """Blurs or pixelates regions beyond recovery.

    Of each region only the means of square blocks are kept, at most `cells` along its longer
    side and at least 4 px each, so at most cells² values a plane survive however large the
    region is; there is nothing for deconvolution to bring back, as there is in a Gaussian
    blur. This holds for one picture: over many, a moving region shows many such grids.

    boxes: (K, 4) x1 y1 x2 y2 in display px, rounded outwards; one that is empty, inverted or
    not finite is skipped, what lies outside the picture is cut off. Where regions overlap
    the last one shows. style: "pixelate" paints each block with its mean, "blur" interpolates
    the means bilinearly between block centres. shape: the whole "box", or the "ellipse" in
    it. grow: scales each box about its centre.

    Returns the frame itself if it is writable or has no region, else a private copy. Raises
    ConfigError for an option of no meaning.
    """
    check_redaction(style, shape, grow, cells)
    boxes = np.asarray(boxes, np.float32)
    if boxes.shape != (len(boxes), 4):
        raise ValueError(f"redact needs boxes of shape (K, 4): got {boxes.shape}")
    info = frame.info
    regions = np.empty((len(boxes), _COLUMNS), np.int32)
    needed = (ctypes.c_int64 * 5)()
    kept = _redact_regions()(
        boxes.tobytes(),
        len(boxes),
        grow,
        cells,
        info.width,
        info.height,
        info.orientation,
        regions.ctypes.data,
        needed,
    )
    if not kept:
        return frame

    sums_length, means_length, columns, rows, pairs = needed
    device, frame = frame.device, frame.device.writable(frame)
    sums = device.empty((sums_length,), np.int32)
    means = device.empty((means_length,), np.int32)
    table, count = device.to_device(regions[:kept], "redact regions"), np.int32(kept)
    surface, height, width = surface_args(frame), frame.surface.height, frame.surface.width

    grid = (kept, pairs, columns * 3)
    device.launch("redact_rows", grid, *surface, table, *map(np.int32, grid), sums)
    grid = (kept, rows, columns * 3)
    sizes = (np.int32(width), np.int32(height))
    device.launch("redact_means", grid, *sizes, table, *map(np.int32, grid), sums, means)
    numbers = (count, np.int32(STYLES.index(style)), np.int32(SHAPES.index(shape)))
    grid = (1, (height + 1) // 2, (width + 1) // 2)
    device.launch("redact_apply", grid, *surface, table, *numbers, means)
    return frame


def check_redaction(style: str, shape: str, grow: float, cells: int) -> None:
    """Raises ConfigError for an option that would not redact."""
    if style not in STYLES:
        raise ConfigError(f"redact: there is no style {style!r}: use {' or '.join(STYLES)}")
    if shape not in SHAPES:
        raise ConfigError(f"redact: there is no shape {shape!r}: use {' or '.join(SHAPES)}")
    if not 0 < grow <= 100:
        raise ConfigError(f"redact: grow scales a box, by more than 0 up to 100, not {grow}")
    if not (isinstance(cells, int) and 1 <= cells <= 64):
        raise ConfigError(f"redact: cells is a whole number of blocks from 1 to 64, not {cells}")


@cache
def _redact_regions() -> Any:
    """The function of kernels/items.cpp. It keeps the GIL: to get it back would take longer."""
    address, number = ctypes.c_void_p, ctypes.c_int32
    kinds = (address, number, ctypes.c_double, *[number] * 4, address, address)
    return ctypes.PYFUNCTYPE(number, *kinds)(("redact_regions", load_kernels()))
