"""Torchvision's detectors (Faster R-CNN, RetinaNet, FCOS, SSD …): outputs of one picture.

boxes (K, 4), corners in px of the input; labels (K,) integers; scores (K,): known by their
dtypes and dimensions, and by these names where other outputs (masks, keypoints) are alike.
The model resizes, normalises and suppresses by itself.

Without names of the file's own, labels are taken for COCO's category ids, as torchvision's
weights give them. The tests make outputs of this form by hand, in ONNX and in torch; they
do not run torchvision itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vidai.device import Device
from vidai.models.coco import CATEGORIES, COCO
from vidai.models.model import Model, class_names
from vidai.models.onnx_file import OnnxFile
from vidai.ops.candidates import Candidates
from vidai.types import InputSpec

NAME = "torchvision"

_LONGEST = 1333  # px, to which torchvision's own resize keeps the longer side
_MEAN_COLOUR = (123.675, 116.28, 103.53)  # ImageNet's, which the model turns to 0

_FLOATS = ("float32", "float16")
_FORMS = {"boxes": (_FLOATS, 2), "labels": (("int64", "int32"), 1), "scores": (_FLOATS, 1)}


def matches(file: OnnxFile) -> bool:
    return _outputs(file) is not None


def load(file: OnnxFile) -> Model:
    """names of the file: of the labels from 0 on, as in torchvision's "categories"."""
    boxes, labels, scores = _outputs(file) or (0, 1, 2)
    return Torchvision(
        name=file.name,
        spec=InputSpec(
            *file.size,
            scale=1 / 255,
            pad=_MEAN_COLOUR,
            place="top-left",
            dtype=file.dtype,
            multiple=1,
            longest=_LONGEST,
        ),
        names=class_names(file, len(file.names) or len(COCO)),
        onnx=file.data,
        max_batch=file.max_batch or 1,
        boxes=boxes,
        labels=labels,
        scores=scores,
        by_category=not file.names,
    )


@dataclass(frozen=True)
class Torchvision(Model):
    """Pictures are RGB, 0–1, top left, padded with the mean colour, one at a time.

    boxes, labels, scores: their places in the outputs. by_category: labels are COCO's
    category ids, not indices into names.
    """

    overlapping = False
    ranked = True
    boxes: int = 0
    labels: int = 1
    scores: int = 2
    by_category: bool = True

    def candidates(
        self, device: Device, outputs: list[Any], size: tuple[int, int], conf: float
    ) -> list[Candidates]:
        boxes, labels, scores = (
            device.to_host(outputs[place]) for place in (self.boxes, self.labels, self.scores)
        )
        boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
        class_ids = _numbers(labels) if self.by_category else labels
        kept = np.isfinite(boxes).all(axis=1) & (scores >= np.float32(conf)) & (class_ids >= 0)
        order = np.flatnonzero(kept)[np.argsort(-scores[kept], kind="stable")]
        class_ids = class_ids[order].astype(np.int32)
        return [Candidates(boxes[order], scores[order], class_ids, order.astype(np.int32))]


def _numbers(labels: Any) -> Any:
    """COCO's category ids as numbers of its 80 classes, -1 for those of no class."""
    known = (labels >= 0) & (labels < len(CATEGORIES))
    return np.where(known, np.array(CATEGORIES)[np.where(known, labels, 0)], -1)


def _outputs(file: OnnxFile) -> tuple[int, int, int] | None:
    """Where in the file's outputs boxes, labels and scores are."""
    places = [_place(file, name, *form) for name, form in _FORMS.items()]
    return None if None in places else tuple(places)  # type: ignore[return-value]


def _place(file: OnnxFile, name: str, dtypes: tuple[str, ...], rank: int) -> int | None:
    """The one output of this form, or of those the one of this name."""
    fitting = [
        place
        for place, output in enumerate(file.outputs)
        if output.dtype in dtypes
        and len(output.dims) == rank
        and (rank == 1 or output.dims[1] == 4 or isinstance(output.dims[1], str))
    ]
    named = [place for place in fitting if file.outputs[place].name == name]
    (place,) = named or fitting if len(named or fitting) == 1 else (None,)
    return place
