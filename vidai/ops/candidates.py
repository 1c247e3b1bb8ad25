"""From a detector's raw output to the few boxes that score enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vidai.device import Device

# Their order is the kernel's enum.
CODINGS = ("xyxy", "cxcywh", "cxcywh-unit", "yolox", "centerface")

_COLUMNS = 7  # of the kernel's rows: anchor, class, score, x1, y1, x2, y2
_ROOM = 256  # rows (7 KB) that suffice for nearly every picture
_rooms: dict[tuple[str, int], int] = {}  # that were needed, by device name and anchors


class Candidates(NamedTuple):
    """What a model may have found in one picture, best first.

    boxes: (K, 4) float32 x1 y1 x2 y2 in model px. scores: (K,) float32, 0–1. class_ids: (K,)
    int32. anchors: (K,) int32, which of the model's anchors, queries or rows each one is: with
    them two versions of a model are compared number by number.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    anchors: npt.NDArray[np.int32]


@dataclass(frozen=True)
class View:
    """Where numbers lie in an output: element (anchor, channel) of picture n is

    `array.flat[start + anchor * anchor_step + channel * channel_step + n * picture_step]`, of a
    C-contiguous float32 or float16 array on the device.
    """

    array: Any
    start: int
    anchor_step: int
    channel_step: int
    picture_step: int = 0


def candidates(
    device: Device,
    *,
    pictures: int,
    anchors: int,
    classes: int,
    boxes: View,
    scores: View,
    objectness: View | None = None,
    offsets: View | None = None,
    coding: str,
    logits: bool = False,
    size: tuple[int, int],
    conf: float,
) -> list[Candidates]:
    """For each picture the anchors whose best class scores at least `conf`, on the host.

    Boxes are not clipped. Equal scores keep the order of their anchors, equal classes the lowest
    number. Anchors whose box or best score is NaN or infinite are left out.

    All views have one dtype. The score is that of the class, times the objectness where
    there is one (which alone must reach `conf` too: both are 0–1); logits: both pass
    through a sigmoid first. size: (width, height) of the model's input in px.

    coding of the box's channels:
    "xyxy" corners in px; "cxcywh" centre and size in px; "cxcywh-unit" the same as parts
    of `size`. "yolox": offsets from the cell and log size, in cells, of the strides 8, 16
    and 32, one after the other (Ge et al., YOLOX, 2021). "centerface": log height and log
    width in cells of stride 4, with `offsets` y and x from the cell (Xu et al.,
    CenterFace, 2019).
    """
    half = boxes.array.dtype == np.float16
    views = [boxes, scores, objectness, offsets]
    numbers = (
        *map(np.int32, (pictures, anchors, classes, CODINGS.index(coding), logits, *size)),
        np.float32(conf),
    )
    arguments = [argument for view in views for argument in _arguments(view)]
    known = device.name, anchors
    room = _rooms.get(known) or min(anchors, _ROOM)
    while True:
        out = device.empty((pictures, 1 + room, _COLUMNS), np.float32)
        limit = np.int32(room)
        device.launch("candidates_begin", (1, 1, pictures), out, np.int32(pictures), limit)
        device.launch(
            "candidates_half" if half else "candidates",
            (pictures, 1, anchors),
            *arguments,
            *numbers,
            limit,
            out,
        )
        rows = device.to_host(out, "candidates")
        counts = rows[:, 0, 0].view(np.int32).tolist()
        if max(counts) <= room:
            if max(counts) < room // 4:  # the crowd is gone
                _rooms[known] = min(anchors, max(_ROOM, room // 2))
            return [_sorted(rows[n, 1 : 1 + count]) for n, count in enumerate(counts)]
        # The next batches are as crowded.
        room = _rooms[known] = min(anchors, 1 << (max(counts) - 1).bit_length())


def _sorted(rows: npt.NDArray[np.float32]) -> Candidates:
    rows = rows.take(np.lexsort((rows[:, 0], -rows[:, 2])), axis=0)
    class_ids, anchors = rows[:, 1].astype(np.int32), rows[:, 0].astype(np.int32)
    return Candidates(rows[:, 3:], rows[:, 2], class_ids, anchors)


def _arguments(view: View | None) -> tuple[Any, ...]:
    if view is None:
        return 0, *[np.int32(0)] * 4
    steps = (view.start, view.anchor_step, view.channel_step, view.picture_step)
    return view.array, *map(np.int32, steps)
