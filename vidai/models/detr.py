"""Detection transformers: logits (N, queries, classes) and boxes (N, queries, 4), 0–1.

D-FINE (Peng et al., 2024), RT-DETR and RF-DETR, as exported by Hugging Face's Optimum
("logits", "pred_boxes") or by RF-DETR's authors ("labels", "dets"). Each query gives its
best class; queries do not overlap, so nothing is suppressed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vidai.device import Device
from vidai.models.coco import CATEGORIES, COCO
from vidai.models.model import Model, class_names
from vidai.models.onnx_file import OnnxFile
from vidai.ops.candidates import Candidates, View, candidates
from vidai.types import InputSpec

NAME = "detr"

_OUTPUTS = (("logits", "pred_boxes"), ("labels", "dets"))
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def matches(file: OnnxFile) -> bool:
    return _outputs(file) is not None


def load(file: OnnxFile) -> Model:
    """RF-DETR is known by its output names, COCO's 91 category ids or the file's name: it
    takes ImageNet's mean and standard deviation, and 560 px where the file leaves it free.
    """
    logits, boxes = _outputs(file) or (0, 1)
    classes = file.outputs[logits].dims[2]
    by_category = classes == len(CATEGORIES)
    is_rf = by_category or file.outputs[logits].name == "labels" or "rfdetr" in _letters(file.name)
    side = 560 if is_rf else 640
    width, height = file.size
    spec = InputSpec(
        width or side, height or side, scale=1 / 255, place="stretch", dtype=file.dtype
    )
    return Detr(
        name=file.name,
        spec=replace(spec, mean=_IMAGENET_MEAN, std=_IMAGENET_STD) if is_rf else spec,
        names=class_names(file, len(COCO) if by_category or isinstance(classes, str) else classes),
        onnx=file.data,
        max_batch=file.max_batch,
        logits=logits,
        boxes=boxes,
    )


@dataclass(frozen=True)
class Detr(Model):
    """Pictures are RGB, 0–1, stretched. logits, boxes: their places in the outputs."""

    overlapping = False
    ranked = True
    logits: int = 0
    boxes: int = 1

    def candidates(
        self, device: Device, outputs: list[Any], size: tuple[int, int], conf: float
    ) -> list[Candidates]:
        logits, points = outputs[self.logits], outputs[self.boxes]
        pictures, queries, classes = logits.shape
        found = candidates(
            device,
            pictures=pictures,
            anchors=queries,
            classes=classes,
            boxes=View(points, 0, 4, 1, queries * 4),
            scores=View(logits, 0, classes, 1, queries * classes),
            coding="cxcywh-unit",
            logits=True,
            size=size,
            conf=conf,
        )
        return [_named(picture) for picture in found] if classes == len(CATEGORIES) else found


def _named(found: Candidates) -> Candidates:
    """COCO's category ids as numbers of its 80 classes, without those of no class."""
    boxes, scores, ids, anchors = found
    class_ids = np.array(CATEGORIES, np.int32)[ids]
    known = class_ids >= 0
    return Candidates(boxes[known], scores[known], class_ids[known], anchors[known])


def _outputs(file: OnnxFile) -> tuple[int, int] | None:
    """Where in the file's outputs logits and boxes are."""
    names = [output.name for output in file.outputs if len(output.dims) == 3]
    if len(names) < len(file.outputs):
        return None
    for logits, boxes in _OUTPUTS:
        if logits in names and boxes in names:
            return names.index(logits), names.index(boxes)
    return None


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
