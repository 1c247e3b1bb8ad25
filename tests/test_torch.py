"""Frames as torch tensors, and torch modules as detectors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest

import vidai.ops
from tests.squares import boxes_at, squares_clip
from tests.surfaces import random_frame
from tests.test_decode import frames_of
from tests.tiny_model import NAMES, SIDE, SQUARE, picture
from vidai import Detector
from vidai.device import Device
from vidai.errors import ConfigError, ModelError, VidaiError
from vidai.models import model_of
from vidai.types import Frame

pytest.importorskip("torch", reason="torch is not installed: the extra `torch`")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: the extra `torch`")

import torch

from vidai.torch import export_module

CELLS = SIDE // 8


# DLPack.


def test_a_picture_and_its_tensor_are_one_memory() -> None:
    image = random_frame(20, 10).rgb()
    before = image.copy()
    tensor = torch.from_dlpack(image)
    assert tensor.data_ptr() == image.ctypes.data
    assert (tensor.numpy() == before).all()
    tensor[3, 4, 1] = 255 - int(before[3, 4, 1])
    assert image[3, 4, 1] == 255 - before[3, 4, 1]


@pytest.mark.parametrize("consumer", [torch.from_dlpack, np.from_dlpack])
def test_a_frame_is_handed_over_without_a_copy(
    consumer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def recorded(frame: Frame) -> Any:
        made.append(rgb(frame))
        return made[-1]

    rgb = vidai.ops.rgb
    monkeypatch.setattr(vidai.ops, "rgb", recorded)
    frame = random_frame(20, 10)
    taken = np.asarray(consumer(frame))
    assert taken.shape == (10, 20, 3)
    assert taken.ctypes.data == made[0].ctypes.data


@pytest.mark.parametrize("how", [{}, {"copy": True}, {"copy": False}, {"device": "cpu"}])
def test_a_frame_takes_what_torch_asks_for(how: dict[str, Any]) -> None:
    frame = random_frame(20, 10)
    tensor = torch.from_dlpack(frame, **how)
    assert (tensor.dtype, tensor.device.type) == (torch.uint8, "cpu")
    assert (tensor.numpy() == frame.rgb()).all()


# Tiny detectors of squares as torch modules: like tests/tiny_model.py, in each layout.


class Squares(torch.nn.Module):  # type: ignore[misc]
    """Scores (N, 3, cells) of the squares that begin at each cell of 8 px, from RGB 0–1."""

    def __init__(self) -> None:
        super().__init__()
        self.color = torch.nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.color.weight[:] = (6 * torch.eye(3) - 2)[:, :, None, None]
            self.color.bias[:] = -3
        self.dropout = torch.nn.Dropout(0.9)  # tells eval mode from training

    def scores(self, images: Any) -> Any:
        images = torch.nn.functional.pad(self.dropout(images), (0, 8, 0, 8))
        mean = torch.nn.functional.avg_pool2d(images, SQUARE, 8)
        return self.color(mean).clamp(0, 1).flatten(2)

    def boxes(self) -> Any:
        """(cells, 4): centre and size in px."""
        y, x = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
        size = torch.full((CELLS * CELLS,), float(SQUARE))
        return torch.stack([8.0 * x.flatten() + 8, 8.0 * y.flatten() + 8, size, size], 1)


class Yolox(Squares):
    def forward(self, images: Any) -> Any:
        classes = self.scores(images.flip(1) / 255).transpose(1, 2)
        box = torch.tensor([1, 1, np.log(2), np.log(2), 1.0], dtype=torch.float32)
        rows = torch.cat([box.expand(classes.shape[0], CELLS * CELLS, 5), classes], 2)
        return torch.nn.functional.pad(rows, (0, 0, 0, CELLS * CELLS * 5 // 16))


class Yolov8(Squares):
    """Answers like Ultralytics' own modules: with the maps of its heads as well."""

    def forward(self, images: Any) -> Any:
        classes = self.scores(images)
        boxes = self.boxes().T.expand(classes.shape[0], 4, CELLS * CELLS)
        rows = torch.cat([boxes, classes], 1)
        return torch.nn.functional.pad(rows, (0, CELLS * CELLS * 5 // 16)), [classes]


class Yolov5(Squares):
    """Three anchors a cell, of which one finds something; known by `names` and `stride`."""

    names: ClassVar = dict(enumerate(NAMES))
    stride = torch.tensor([8.0, 16.0, 32.0])

    def forward(self, images: Any) -> Any:
        classes = self.scores(images).transpose(1, 2)
        boxes = self.boxes().expand(classes.shape[0], CELLS * CELLS, 4)
        rows = torch.cat([boxes, torch.ones_like(boxes[:, :, :1]), classes], 2)
        return torch.nn.functional.pad(rows, (0, 0, 0, 3 * CELLS * CELLS * 21 // 16 - CELLS**2))


class Yolov10(Squares):
    """The best 50 and nothing to suppress."""

    names: ClassVar = list(NAMES)
    stride = torch.tensor([8.0, 16.0, 32.0])

    def forward(self, images: Any) -> Any:
        best, class_ids = self.scores(images).max(1)
        scores, cells = best.topk(50)
        centres, half = self.boxes()[cells], SQUARE / 2
        corners = torch.cat([centres[:, :, :2] - half, centres[:, :, :2] + half], 2)
        found = [scores, class_ids.gather(1, cells).float()]
        return torch.cat([corners, torch.stack(found, 2)], 2)


class Torchvision(Squares):
    """A dict a picture, as many rows as there are squares, labels from 1 on."""

    names = ("background", *NAMES)

    def forward(self, images: Any) -> Any:
        found = []
        for scores in self.scores(images):
            best, class_ids = scores.max(0)
            cells = torch.nonzero(best > 0.3)[:, 0]
            centres, half = self.boxes()[cells], SQUARE / 2
            found.append(
                {
                    "boxes": torch.cat([centres[:, :2] - half, centres[:, :2] + half], 1),
                    "labels": class_ids[cells] + 1,
                    "scores": best[cells],
                }
            )
        return found


def example(height: int = SIDE, width: int = SIDE) -> Any:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


def pictures(*positions: tuple[int, int, int]) -> Any:
    """A picture a square, (N, 3, H, W) float32 RGB 0–1."""
    return torch.stack(
        [torch.tensor(picture([p]) / 255).permute(2, 0, 1).float() for p in positions]
    )


def run(model: bytes, images: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return outputs


MODULES = (Yolox, Yolov8, Yolov5, Yolov10, Torchvision)


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_finds_what_its_onnx_twin_finds(
    kind: type[Squares], device: Device, tiny_model: Path, tmp_path: Path
) -> None:
    names = None if hasattr(kind, "names") else NAMES
    detector = Detector.from_torch(kind(), example(), names=names, device=device)
    twin = Detector(tiny_model, device=device)
    for index, frame in enumerate(frames_of(squares_clip(tmp_path / "in.mp4", frames=4), device)):
        (found,), (expected,) = detector([frame]), twin([frame])
        order, twins = np.argsort(found.class_ids), np.argsort(expected.class_ids)
        assert [found.name(i) for i in found.class_ids[order]] == list(NAMES)
        boxes = [box for _, box in boxes_at(index)]
        np.testing.assert_allclose(found.boxes[order], boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores[order], expected.scores[twins], atol=1e-5)


@pytest.mark.parametrize("kind", [Yolox, Yolov8, Yolov5, Yolov10])
def test_the_batch_is_free_where_the_module_allows_it(kind: type[Squares]) -> None:
    module = kind().eval()
    model = model_of(export_module(module, example()))
    assert model.max_batch is None
    images = pictures((8, 16, 0), (64, 0, 1), (112, 112, 2))
    for count in (1, 3):
        expected = module(images[:count])
        expected = expected[0] if isinstance(expected, tuple) else expected
        (output,) = run(model.onnx, images[:count])
        if kind is Yolov10:  # the order of rows that found nothing is nobody's
            output, expected = output[:, :1], expected[:, :1]
        np.testing.assert_allclose(output, expected.detach().numpy(), atol=1e-4)


class OneByOne(Yolov8):
    def forward(self, images: Any) -> Any:
        return torch.cat([super(OneByOne, self).forward(image[None])[0] for image in images])


class OnlyOne(Yolov8):
    def forward(self, images: Any) -> Any:
        if images.shape[0] > 1:
            raise ValueError("one picture at a time")
        return super().forward(images)[0]


class Unbatched(Yolov8):
    def forward(self, images: Any) -> Any:
        return super().forward(images.view(3, SIDE, SIDE)[None])[0]


@pytest.mark.parametrize("kind", [OneByOne, OnlyOne, Unbatched])
def test_the_batch_is_one_where_the_module_settles_for_it(kind: type[Squares]) -> None:
    module = kind().eval()
    model = model_of(export_module(module, example()))
    assert model.max_batch == 1
    images = pictures((64, 24, 1))
    (output,) = run(model.onnx, images)
    assert output.shape == (1, 7, 336)
    np.testing.assert_allclose(output, module(images).detach().numpy(), atol=1e-4)


def test_a_dict_a_picture_may_have_any_number_of_rows() -> None:
    module = Torchvision().eval()
    file = export_module(module, example())
    assert [output.name for output in file.outputs] == ["boxes", "labels", "scores"]
    assert (file.inputs[0].dims, model_of(file).max_batch) == ((1, 3, SIDE, SIDE), 1)
    for squares in ([], [(64, 24, 1)], [(0, 0, 0), (64, 24, 1), (112, 112, 2)]):
        image = torch.tensor(picture(squares) / 255).permute(2, 0, 1)[None].float()
        (expected,) = module(image)
        assert len(expected["scores"]) == len(squares)
        for output, tensor in zip(run(file.data, image), expected.values(), strict=True):
            assert output.shape == tensor.shape
            np.testing.assert_allclose(output, tensor.detach().numpy(), atol=1e-4)


def test_a_dict_names_the_outputs(device: Device) -> None:
    class Detr(Squares):
        """Boxes from 0 to 1 and logits, the form of the family detr."""

        def forward(self, images: Any) -> Any:
            scores = self.scores(images).transpose(1, 2)
            boxes = (self.boxes() / SIDE).expand(scores.shape[0], -1, -1)
            return {"logits": 20 * scores - 10, "pred_boxes": boxes, "loss": None}

    file = export_module(Detr(), example(), NAMES)
    assert [output.name for output in file.outputs] == ["logits", "pred_boxes"]
    model = model_of(file)
    assert (type(model).__name__, model.max_batch, model.names) == ("Detr", None, NAMES)


def test_a_half_module_becomes_a_half_model() -> None:
    model = model_of(export_module(Yolov8().half(), example().half(), NAMES))
    assert model.spec.dtype == "float16"


# What the module and the file are left with.


def test_the_module_is_left_as_it_was() -> None:
    module = Yolov8().train()
    module.dropout.eval()  # a part that is frozen stays so
    modes = [part.training for part in module.modules()]
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export_module(module, example())
    with pytest.raises(ModelError):
        export_module(module, example().double())
    assert [part.training for part in module.modules()] == modes == [True, True, False]
    assert all((tensor == weights[name]).all() for name, tensor in module.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in module.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("names", [NAMES, list(NAMES), dict(enumerate(NAMES))])
def test_class_names_are_in_the_file(names: Any) -> None:
    file = export_module(Yolov8(), example(), names)
    assert model_of(file).names == NAMES
    (written,) = onnx.load_from_string(file.data).metadata_props
    assert written.key == "names"


def test_given_names_go_before_the_modules_own() -> None:
    given = ("rot", "grün", "blau")
    assert model_of(export_module(Yolov5(), example(), given)).names == given
    assert model_of(export_module(Yolov5(), example())).names == NAMES


def test_options_are_the_detectors(device: Device) -> None:
    detector = Detector.from_torch(
        Yolox(), example(), names=NAMES, device=device, conf=0.6, iou=0.1, classes=["green"]
    )
    assert (detector.conf, detector.iou, detector.classes) == (0.6, 0.1, frozenset({1}))
    assert detector.device is device
    assert detector.model.name == "Yolox"


# What cannot work.


class Branching(Squares):
    def forward(self, images: Any) -> Any:
        return self.scores(images) if images.sum() > 0 else images


class Unknown(Squares):
    def forward(self, images: Any) -> Any:
        return torch.linalg.eigh(images[:, :, :3, :3])[0]


class Narrow(Squares):
    def forward(self, images: Any) -> Any:
        return torch.nn.functional.linear(images, torch.zeros(5, 7))


class Words(Squares):
    def forward(self, images: Any) -> Any:
        return ["red", "green"]


class Decoded(Yolox):
    """Like YOLOX's own module as it is by default."""

    head: Any

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Identity()
        self.head.decode_in_inference = True


class Classifier(Squares):
    def forward(self, images: Any) -> Any:
        return self.scores(images).mean(2)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("yolo.pt", r"a torch\.nn\.Module is needed, not a str"),
        (Squares, r"a torch\.nn\.Module is needed, not a type"),
        (Branching(), "Branching cannot be exported to ONNX: Could not guard on data-dependent"),
        (Unknown(), r"Unknown cannot be exported to ONNX: .*linalg_eigh"),
        (Narrow(), "Narrow cannot run on the example: .*shapes cannot be multiplied"),
        (Words(), "Words gives no tensor"),
        (Decoded(), r"set module\.head\.decode_in_inference = False"),
        (Classifier(), r"Classifier fits no known family: .*output float32 \(\S*×3\)"),
    ],
)
def test_a_module_that_is_no_detector(module: Any, message: str, device: Device) -> None:
    with pytest.raises(ModelError, match=message) as error:
        Detector.from_torch(module, example(), device=device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1, 3, 64, 64), np.float32), "not ndarray"),
        (torch.zeros(3, 64, 64), r"not float32 \(3, 64, 64\)"),
        (torch.zeros(2, 3, 64, 64), r"not float32 \(2, 3, 64, 64\)"),
        (torch.zeros(1, 64, 64, 3), r"not float32 \(1, 64, 64, 3\)"),
        (torch.zeros(1, 3, 0, 64), r"not float32 \(1, 3, 0, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"not uint8 \(1, 3, 64, 64\)"),
    ],
)
def test_an_example_that_is_no_picture(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"float tensor \(1, 3, height, width\), {message}"):
        Detector.from_torch(Yolov8(), given)


@pytest.mark.parametrize("names", ["red", 3])
def test_names_that_are_none(names: Any) -> None:
    with pytest.raises(ConfigError, match="names is a list of class names"):
        Detector.from_torch(Yolov8(), example(), names=names)


def test_an_unknown_family() -> None:
    with pytest.raises(ModelError, match="no model family 'yolo9'"):
        Detector.from_torch(Yolov8(), example(), family="yolo9")


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vidai.torch")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(VidaiError, match=rf"{package}: pip install 'vidai\[torch\]'"):
        Detector.from_torch(Yolov8(), example())
