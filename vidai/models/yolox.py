"""YOLOX (Ge et al., 2021): one output (N, anchors, 5 + classes), boxes not yet decoded."""

from __future__ import annotations

from typing import Any

from vidai.device import Device
from vidai.models.model import Model, class_names, grid_cells
from vidai.models.onnx_file import OnnxFile
from vidai.ops.candidates import Candidates, View, candidates
from vidai.types import InputSpec

NAME = "yolox"


def matches(file: OnnxFile) -> bool:
    """As many anchors as cells of the strides 8, 16 and 32, each with its numbers in a row."""
    dims = [output.dims for output in file.outputs]
    if len(dims) != 1 or len(dims[0]) != 3:
        return False
    _, anchors, channels = dims[0]
    return anchors == grid_cells(*file.size) and isinstance(channels, int) and channels > 5


def load(file: OnnxFile) -> Model:
    channels = int(file.outputs[0].dims[2])
    return Yolox(
        name=file.name,
        spec=InputSpec(*file.size, channels="bgr", place="top-left", dtype=file.dtype),
        names=class_names(file, channels - 5),
        onnx=file.data,
        max_batch=file.max_batch,
    )


class Yolox(Model):
    """Pictures are BGR, 0–255, top left, padded with 114; scores are probabilities."""

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
            coding="yolox",
            size=size,
            conf=conf,
        )
