"""Greedy non-maximum suppression on the host."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from vidai.native import load_kernels

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
