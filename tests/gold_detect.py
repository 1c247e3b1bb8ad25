"""Detection truth in plain NumPy and Python, in double precision and with no haste."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v)) if v > -700 else 0.0


def corners(cx: float, cy: float, w: float, h: float) -> list[float]:
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def yolox_cells(width: int, height: int) -> list[tuple[int, int, int]]:
    """(x, y, stride) of every anchor."""
    return [
        (x, y, stride)
        for stride in (8, 16, 32)
        for y in range(height // stride)
        for x in range(width // stride)
    ]


def decode(
    coding: str, anchor: int, v: Array, offset: Array | None, size: tuple[int, int]
) -> list[float]:
    """Corners in model px of one anchor's box numbers."""
    width, height = size
    a = [float(x) for x in v]
    if coding == "xyxy":
        return a
    if coding == "cxcywh":
        return corners(*a)
    if coding == "cxcywh-unit":
        return corners(a[0] * width, a[1] * height, a[2] * width, a[3] * height)
    if coding == "yolox":
        x, y, s = yolox_cells(width, height)[anchor]
        return corners((a[0] + x) * s, (a[1] + y) * s, math.exp(a[2]) * s, math.exp(a[3]) * s)
    assert offset is not None
    y, x = divmod(anchor, width // 4)
    dy, dx = (float(o) for o in offset)
    return corners((x + dx + 0.5) * 4, (y + dy + 0.5) * 4, math.exp(a[1]) * 4, math.exp(a[0]) * 4)


def candidates(
    boxes: Array,
    scores: Array,
    conf: float,
    coding: str,
    size: tuple[int, int],
    objectness: Array | None = None,
    offsets: Array | None = None,
    logits: bool = False,
) -> list[tuple[int, int, float, list[float]]]:
    """(anchor, class, score, corners), best first, of arrays (anchors, channels)."""
    found = []
    for anchor in range(len(scores)):
        best_class, best = -1, -math.inf
        for class_id, value in enumerate(scores[anchor]):
            if value > best:
                best_class, best = class_id, float(value)
        if not math.isfinite(best):
            continue
        score = sigmoid(best) if logits else best
        if objectness is not None:
            there = float(objectness[anchor])
            score *= sigmoid(there) if logits else there
        offset = None if offsets is None else offsets[anchor]
        if not score >= conf or not np.isfinite(boxes[anchor]).all():
            continue
        box = decode(coding, anchor, boxes[anchor], offset, size)
        found.append((anchor, best_class, score, box))
    return sorted(found, key=lambda row: (-row[2], row[0]))


def iou(a: Array, b: Array) -> float:
    """Intersection over union, 0 where either box has no area; in float32 like the boxes."""
    areas = []
    for box in (a, b):
        if not (box[2] > box[0] and box[3] > box[1]):
            return 0.0
        areas.append((box[2] - box[0]) * (box[3] - box[1]))
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    union = areas[0] + areas[1] - w * h
    return float(w * h / union) if union > 0 else 0.0  # the areas of tiny boxes underflow


def nms(boxes: Array, scores: Array, class_ids: Array, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        rivals = (k for k in kept if class_ids[k] == class_ids[i])
        if not any(iou(boxes[k], boxes[i]) > np.float32(threshold) for k in rivals):
            kept.append(i)
    return kept
