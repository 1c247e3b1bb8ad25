"""The family torchvision, on outputs baked into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.surfaces import random_frame
from tests.tiny_model import write_constant_model
from vidai import Detector
from vidai.device import Device
from vidai.errors import ModelError
from vidai.models import families, load_model
from vidai.models.coco import COCO
from vidai.models.onnx_file import read_onnx
from vidai.models.torchvision import Torchvision
from vidai.types import Detections

BOXES = [[8, 8, 24, 40], [9, 8, 24, 40], [50, 20, 70, 90], [0, 0, 4, 4], [0, 0, 4, 4]]
ROWS: dict[str, Any] = {
    "boxes": np.array([*BOXES, [1, 1, 9, np.nan], [30, 30, 40, 40]], np.float32),
    "labels": np.array([1, 1, 90, 12, 0, 1, 2]),  # COCO has no categories 0 and 12
    "scores": np.array([0.7, 0.9, 0.8, 0.99, 0.98, 0.97, 0.1], np.float32),
}


def write(
    path: Path, outputs: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> Path:
    dims = {name: ["K", *array.shape[1:]] for name, array in outputs.items()}
    write_constant_model(
        path, outputs, input_dims=[1, 3, 64, 96], dims=dims, metadata=metadata or {}
    )
    return path


def detect(path: Path, device: Device, conf: float = 0.35) -> Detections:
    (found,) = Detector(path, device=device, conf=conf)([random_frame(96, 64)])
    return found


@pytest.mark.parametrize(
    "order", [("boxes", "labels", "scores"), ("boxes", "scores", "labels")], ids=["R-CNN", "SSD"]
)
@pytest.mark.parametrize("named", [True, False])
def test_labels_are_cocos_categories(
    order: tuple[str, ...], named: bool, device: Device, tmp_path: Path
) -> None:
    outputs = {name if named else str(i): ROWS[name] for i, name in enumerate(order)}
    path = write(tmp_path / "m.onnx", outputs)
    model = load_model(path)
    assert isinstance(model, Torchvision)
    assert (model.names, model.max_batch) == (COCO, 1)
    raw = [ROWS[name] for name in order]
    (candidates,) = model.candidates(device, raw, (96, 64), 0.35)
    assert candidates.anchors.tolist() == [1, 2, 0]
    assert candidates.anchors.dtype == np.int32
    found = detect(path, device)
    assert [found.name(i) for i in found.class_ids] == ["person", "toothbrush", "person"]
    assert found.boxes.tolist() == [[9, 8, 24, 40], [50, 20, 70, 64], [8, 8, 24, 40]]
    assert found.scores == pytest.approx([0.9, 0.8, 0.7])


def test_a_files_own_names_are_those_of_its_labels(device: Device, tmp_path: Path) -> None:
    names = ("background", "cat", "dog")
    path = write(tmp_path / "m.onnx", ROWS, {"names": repr(names)})
    found = detect(path, device, conf=0.05)
    assert found.names == names
    assert [found.name(i) for i in found.class_ids] == [
        *("12", "background", "cat", "90", "cat", "dog")
    ]


def test_nothing_found_is_an_empty_result(device: Device, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", {name: array[:0] for name, array in ROWS.items()})
    assert len(detect(path, device)) == 0


def test_masks_and_keypoints_are_left_out(device: Device, tmp_path: Path) -> None:
    more = {
        "masks": np.zeros((7, 1, 64, 96), np.float32),
        "keypoints": np.zeros((7, 17, 3), np.float32),
        "keypoints_scores": np.zeros((7, 17), np.float32),
    }
    found = detect(write(tmp_path / "m.onnx", {**more, **ROWS}), device)
    assert found.scores == pytest.approx([0.9, 0.8, 0.7])


def test_pictures_keep_their_shape_and_are_padded_with_the_mean(tmp_path: Path) -> None:
    spec = load_model(write(tmp_path / "m.onnx", ROWS)).spec
    assert (spec.width, spec.height, spec.place, spec.channels) == (96, 64, "top-left", "rgb")
    assert spec.scale == 1 / 255
    assert spec.pad == pytest.approx([255 * v for v in (0.485, 0.456, 0.406)])


def test_a_free_size_is_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_constant_model(path, ROWS, input_dims=[1, 3, "h", "w"])
    spec = load_model(path).spec
    assert spec.size_for(641, 359) == (641, 359)
    assert spec.size_for(2666, 1000) == (1333, 500)


@pytest.mark.parametrize(
    "outputs",
    [
        {"boxes": ROWS["boxes"], "scores": ROWS["scores"]},
        {**ROWS, "boxes": ROWS["boxes"][None]},
        {**ROWS, "boxes": np.zeros((7, 5), np.float32)},
        {**ROWS, "labels": ROWS["labels"].astype(np.float32)},
        {"a": ROWS["scores"], "b": ROWS["scores"], "c": ROWS["labels"], "d": ROWS["boxes"]},
    ],
    ids=["no labels", "batched", "five columns", "float labels", "two alike"],
)
def test_other_outputs_fit_no_family(outputs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fits no known family"):
        load_model(write(tmp_path / "m.onnx", outputs))


def test_no_other_family_takes_these_files(tmp_path: Path) -> None:
    file = read_onnx(write(tmp_path / "m.onnx", ROWS))
    assert [name for name, family in families().items() if family.matches(file)] == ["torchvision"]
