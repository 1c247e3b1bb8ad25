"""Greedy non-maximum suppression, and what becomes of candidates on the picture, on the host."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.native import load_kernels
from vidai.types import Placement

_POINTER = ctypes.c_void_p


def nms(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    iou: float,
) -> npt.NDArray[np.intp]:
    """Indices (best first) of the boxes that no better box of their class suppresses.

    boxes: (K, 4) x1 y1 x2 y2. scores: (K,), equal ones in their given order. class_ids:
    (K,). A kept box suppresses a later one of its class when their intersection over
    union is greater than `iou`. Boxes that are empty, inverted or NaN overlap nothing.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_boxes = np.ascontiguousarray(boxes[order], np.float32)
    sorted_classes = np.ascontiguousarray(class_ids[order], np.int32)
    keep = np.empty(len(order), np.uint8)
    load_kernels().nms(
        *(array.ctypes.data_as(_POINTER) for array in (sorted_boxes, sorted_classes)),
        len(order),
        ctypes.c_float(iou),
        keep.ctypes.data_as(_POINTER),
    )
    kept: npt.NDArray[np.intp] = order[keep.astype(bool)]
    return kept


def place(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    placement: Placement,
    picture: tuple[int, int],
    iou: float | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Candidates of one picture as what it shows: boxes (K, 4), scores (K,), class_ids (K,).

    Given best first, with boxes in model px. Suppressed as in `nms` where iou is given; then boxes
    in the picture's px, clipped to its (width, height). What is empty is dropped, the order stays.
    """
    count = len(scores)
    out_boxes, out_scores = np.empty((count, 4), np.float32), np.empty(count, np.float32)
    out_ids = np.empty(count, np.int32)
    numbers = (placement.scale_x, placement.pad_x, placement.scale_y, placement.pad_y)
    left = _place()(
        boxes.tobytes(),
        scores.tobytes(),
        class_ids.tobytes(),
        count,
        iou is not None,
        iou or 0.0,
        (ctypes.c_float * 4)(*numbers),
        *picture,
        out_boxes.ctypes.data,
        out_scores.ctypes.data,
        out_ids.ctypes.data,
    )
    return out_boxes[:left], out_scores[:left], out_ids[:left]


@cache
def _place() -> Any:
    """The function of kernels/nms.cpp. It keeps the GIL: to get it back would take longer."""
    address, number, real = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float
    kinds = (*[address] * 3, number, number, real, address, real, real, *[address] * 3)
    return ctypes.PYFUNCTYPE(number, *kinds)(("place", load_kernels()))
