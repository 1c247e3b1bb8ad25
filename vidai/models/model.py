"""What every model family shares: from raw outputs to detections on the picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from vidai.device import Device
from vidai.models.coco import COCO
from vidai.models.onnx_file import OnnxFile
from vidai.ops.candidates import Candidates
from vidai.ops.nms import place
from vidai.types import Detections, InputSpec, Placement

# The cells of a one-shot detector's three levels, in model px.
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Model(ABC):
    """A detector ready for a session; each family is a subclass in a file of its own.

    onnx: the bytes to load. names: of the classes, () where the file has none.
    max_batch: pictures in one run, None = as many as fit.
    """

    name: str
    spec: InputSpec
    names: tuple[str, ...]
    onnx: bytes = field(repr=False)
    max_batch: int | None = None
    overlapping: ClassVar[bool] = True  # finds an object more than once: NMS is needed
    ranked: ClassVar[bool] = False  # its rows are in the order of scores: they have no place

    @abstractmethod
    def candidates(
        self, device: Device, outputs: list[Any], size: tuple[int, int], conf: float
    ) -> list[Candidates]:
        """What each picture of the batch may show, with a score of at least `conf`."""

    def detections(
        self,
        device: Device,
        outputs: list[Any],
        *,
        size: tuple[int, int],
        placements: Sequence[Placement],
        pictures: Sequence[tuple[int, int]],
        conf: float,
        iou: float,
        classes: frozenset[int] | None = None,
    ) -> list[Detections]:
        """What each picture of a batch shows, best first.

        outputs: as a session returns them, on the device. size: (width, height) of the
        model's input, pictures: of the display pictures, in px. Boxes are in display px,
        clipped to the picture; what lies outside it is dropped. conf: least score.
        iou: overlap above which the weaker of two boxes of a class is dropped, where the
        family needs that. classes: ids to keep, None for all.
        """
        found = self.candidates(device, outputs, size, conf)
        return [
            self._on_picture(candidates, placement, picture, iou, classes)
            for candidates, placement, picture in zip(found, placements, pictures, strict=True)
        ]

    def _on_picture(
        self,
        candidates: Candidates,
        placement: Placement,
        picture: tuple[int, int],
        iou: float,
        classes: frozenset[int] | None,
    ) -> Detections:
        boxes, scores, class_ids, _ = candidates
        if classes is not None:
            wanted = np.isin(class_ids, list(classes))
            boxes, scores, class_ids = boxes[wanted], scores[wanted], class_ids[wanted]
        limit = iou if self.overlapping else None
        shown = place(boxes, scores, class_ids, placement, picture, limit)
        return Detections(*shown, self.names)


def grid_cells(width: int, height: int) -> int:
    """How many cells the strides 8, 16 and 32 have on an input of that size in px."""
    return sum((width // stride) * (height // stride) for stride in STRIDES)


def class_names(file: OnnxFile, count: int) -> tuple[str, ...]:
    """Names of `count` classes: the file's own, else COCO's where there are 80, else none."""
    names = file.names
    if not names:
        return COCO if count == len(COCO) else ()
    return tuple(names.get(i, str(i)) for i in range(count))
