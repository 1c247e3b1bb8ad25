"""Regions of a frame made unrecognisable, where it lies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidai.errors import ConfigError
from vidai.ops.overlay import drawable, surface_args, to_stored
from vidai.types import Frame

STYLES = ("pixelate", "blur")  # numbered as in kernels/redact.cu
SHAPES = ("box", "ellipse")
_SMALLEST = 4  # px of a block's side


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
    regions = _regions(frame, boxes[drawable(boxes)], grow, cells)
    if not len(regions):
        return frame

    block, columns, rows = regions[:, 8], regions[:, 9], regions[:, 10]
    device, frame = frame.device, frame.device.writable(frame)
    sums = device.empty((int((columns * rows * block // 2).sum()) * 3,), np.int32)
    means = device.empty((int((columns * rows).sum()) * 3,), np.int32)
    table, count = device.to_device(regions, "redact regions"), np.int32(len(regions))
    surface, height, width = surface_args(frame), frame.surface.height, frame.surface.width

    grid = (len(regions), int((rows * block // 2).max()), int(columns.max()) * 3)
    device.launch("redact_rows", grid, *surface, table, *map(np.int32, grid), sums)
    grid = (len(regions), int(rows.max()), int(columns.max()) * 3)
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


def _regions(
    frame: Frame, boxes: npt.NDArray[np.float32], grow: float, cells: int
) -> npt.NDArray[np.int32]:
    """The kernels' regions (R, 14): those of the boxes that touch the picture."""
    info = frame.info
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    middle, half = (low + high) / 2, (high - low) / 2 * grow
    # Cut before the kernel's integers end; an ellipse that large is flat in the picture.
    far = max(info.width, info.height, 1 << 14)
    asked = np.concatenate([np.floor(middle - half), np.ceil(middle + half)], 1)
    asked = to_stored(np.clip(asked, -far, 2 * far).astype(np.int32), info)

    inside = np.clip(asked, 0, [info.width, info.height] * 2).astype(np.int32)
    touches = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    asked, inside = asked[touches], inside[touches]
    # One px more, because the grid may begin one px before the region; even, see the kernel.
    longer = (asked[:, 2:] - asked[:, :2]).max(1, initial=0) + 1
    block = np.maximum(-(-longer // cells), _SMALLEST)
    block += block % 2
    begin = inside[:, :2] // 2 * 2
    grid = -(-(inside[:, 2:] - begin) // block[:, None])
    step = -(-(1 << 32) // block.astype(np.int64))

    blocks = grid.prod(1)
    sums, means = blocks * (block // 2) * 3, blocks * 3
    columns = [block, *grid.T, step, np.cumsum(sums) - sums, np.cumsum(means) - means]
    return np.concatenate([inside, asked, np.stack(columns, 1)], 1).astype(np.int32)
