"""What Ultralytics exports for detection, from YOLOv5 on: one output, boxes in model px.

(N, 4 + classes, anchors): centre, size and class scores (YOLOv8 and later);
(N, anchors, 5 + classes): the same with an objectness (YOLOv5);
(N, objects, 6): corners, score and class, nothing left to suppress (YOLOv10, YOLO26,
and any exported with nms=True).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.device import Device
from vidai.errors import ModelError
from vidai.models.model import Model, class_names, grid_cells
from vidai.models.onnx_file import OnnxFile
from vidai.ops.candidates import Candidates, View, candidates
from vidai.types import InputSpec

NAME = "ultralytics"


def matches(file: OnnxFile) -> bool:
    """One output of three dimensions, and either the exporter's metadata or its layout."""
    dims = [output.dims for output in file.outputs]
    if len(dims) != 1 or len(dims[0]) != 3:
        return False
    if "names" in file.metadata and "stride" in file.metadata:
        return file.metadata.get("task", "detect") == "detect"
    _, rows, anchors = dims[0]
    return anchors == grid_cells(*file.size) and isinstance(rows, int) and rows > 4


def load(file: OnnxFile) -> Model:
    width, height = file.size
    if not width:
        side = file.literal("imgsz", 640)
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
    _, rows, columns = file.outputs[0].dims
    classes = len(file.names) or (rows - 4 if isinstance(rows, int) else 0)
    kind: type[Model]
    if rows == 4 + classes:
        kind = AnchorFree
    elif columns == 6 and rows != 3 * grid_cells(width, height):
        kind = EndToEnd
    elif columns == 5 + classes:
        kind = WithObjectness
    else:
        raise ModelError(
            f"model {file.name} names {classes} classes, which its output {file.outputs[0]} does "
            f"not fit: export it again for detection"
        )
    return kind(
        name=file.name,
        spec=InputSpec(width, height, scale=1 / 255, dtype=file.dtype),
        names=class_names(file, classes),
        onnx=file.data,
        max_batch=file.max_batch,
    )


class AnchorFree(Model):
    """YOLOv8 and later. Pictures are RGB, 0–1, centred, padded with 114, as for all here."""

    def candidates(
        self, device: Device, outputs: list[Any], size: tuple[int, int], conf: float
    ) -> list[Candidates]:
        (output,) = outputs
        pictures, channels, anchors = output.shape
        step = channels * anchors
        return candidates(
            device,
            pictures=pictures,
            anchors=anchors,
            classes=channels - 4,
            boxes=View(output, 0, 1, anchors, step),
            scores=View(output, 4 * anchors, 1, anchors, step),
            coding="cxcywh",
            size=size,
            conf=conf,
        )


class WithObjectness(Model):
    """YOLOv5."""

    def candidates(
        self, device: Device, outputs: list[Any], size: tuple[int, int], conf: float
    ) -> list[Candidates]:
        (output,) = outputs
        pictures, anchors, channels = output.shape
        step = anchors * channels
        return candidates(
            device,
            pictures=pictures,
            anchors=anchors,
            classes=channels - 5,
            boxes=View(output, 0, channels, 1, step),
            objectness=View(output, 4, channels, 1, step),
            scores=View(output, 5, channels, 1, step),
            coding="cxcywh",
            size=size,
            conf=conf,
        )


class EndToEnd(Model):
    """YOLOv10 and later without NMS: a few hundred finished rows, so NumPy will do."""

    overlapping = False
    ranked = True

    def candidates(
        self, device: Device, outputs: list[Any], size: tuple[int, int], conf: float
    ) -> list[Candidates]:
        pictures = device.to_host(outputs[0], "finished detections").astype(np.float32)
        return [_finished(rows, conf) for rows in pictures]


def _finished(rows: npt.NDArray[np.float32], conf: float) -> Candidates:
    kept = np.flatnonzero(np.isfinite(rows).all(axis=1) & (rows[:, 4] >= np.float32(conf)))
    order = kept[np.argsort(-rows[kept, 4], kind="stable")].astype(np.int32)
    rows = rows[order]
    return Candidates(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int32), order)
