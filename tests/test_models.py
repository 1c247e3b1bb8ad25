from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from tests import gold_detect
from tests.tiny_model import NAMES, picture, write_constant_model
from vidai.device import Device
from vidai.errors import ModelError
from vidai.models import InputSpec, Model, families, load_model
from vidai.models.coco import CATEGORIES, COCO
from vidai.models.onnx_file import read_onnx
from vidai.types import Detections, Placement

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(11)


def detect(
    device: Device,
    model: Model,
    data: Array,
    n: int = 0,
    *,
    placement: Placement = Placement(1, 1),  # noqa: B008 (frozen)
    picture: tuple[int, int] | None = None,
    conf: float = 0.35,
    iou: float = 0.45,
    classes: frozenset[int] | None = None,
) -> Detections:
    """Run the real session and decode picture n."""
    size = (data.shape[3], data.shape[2])
    return model.detections(
        device,
        device.session(model.onnx).run(data),
        size=size,
        placements=[placement] * len(data),
        pictures=[picture or size] * len(data),
        conf=conf,
        iou=iou,
        classes=classes,
    )[n]


def anchors(device: Device, model: Model, data: Array, conf: float) -> list[int]:
    """Which of the first picture's anchors are candidates, best first."""
    outputs = device.session(model.onnx).run(data)
    found = model.candidates(device, outputs, (data.shape[3], data.shape[2]), conf)[0]
    assert found.anchors.dtype == np.int32
    assert found.anchors.shape == found.scores.shape
    return list(map(int, found.anchors))


def expect(
    found: Detections,
    rows: list[tuple[int, int, float, list[float]]],
    *,
    iou: float | None,
    size: tuple[int, int],
) -> None:
    """found is what plain NumPy makes of gold candidates: suppressed, clipped."""
    boxes = np.array([row[3] for row in rows], np.float32).reshape(-1, 4)
    scores, class_ids = np.array([row[2] for row in rows]), np.array([row[1] for row in rows])
    if iou is not None:
        kept = gold_detect.nms(boxes, scores, class_ids, iou)
        assert 3 < len(kept) < len(boxes)
        boxes, scores, class_ids = boxes[kept], scores[kept], class_ids[kept]
    boxes = boxes.clip(0, [*size, *size])
    whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert whole.sum() > 3
    np.testing.assert_allclose(found.boxes, boxes[whole], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found.scores, scores[whole], rtol=1e-5)
    assert found.class_ids.tolist() == class_ids[whole].tolist()


def blank(width: int, height: int, n: int = 1, dtype: str = "float32") -> Array:
    return np.zeros((n, 3, height, width), dtype)


# The tiny detector: known answers through file, family, session and decoding.


def tiny_input(*squares: tuple[int, int, int]) -> Array:
    rgb = picture(squares)
    return np.ascontiguousarray(rgb[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32)


def test_the_tiny_detector_finds_each_square_at_its_place(device: Device, tiny_model: Path) -> None:
    model = load_model(tiny_model)
    found = detect(device, model, tiny_input((8, 24, 1), (64, 0, 0), (112, 112, 2)))
    assert found.names == NAMES
    assert found.scores == pytest.approx([1, 1, 1])
    by_class = found.boxes[np.argsort(found.class_ids)]
    expected = [[64, 0, 80, 16], [8, 24, 24, 40], [112, 112, 128, 128]]
    np.testing.assert_allclose(by_class, expected, atol=1e-3)


def test_boxes_are_mapped_to_the_picture_and_clipped_to_it(
    device: Device, tiny_model: Path
) -> None:
    # A 50 × 40 picture, doubled, shifted by 8 and 16: the square reaches beyond its left.
    found = detect(
        device,
        load_model(tiny_model),
        tiny_input((0, 24, 0), (112, 112, 1)),
        placement=Placement(2, 2, 8, 16),
        picture=(50, 40),
    )
    # The second square is wholly below the picture.
    np.testing.assert_allclose(found.boxes, [[0, 4, 4, 12]], atol=1e-3)


def test_other_classes_are_left_out_before_suppression(device: Device, tiny_model: Path) -> None:
    data = tiny_input((0, 0, 0), (32, 0, 1), (64, 0, 2))
    found = detect(device, load_model(tiny_model), data, classes=frozenset({0, 2}))
    assert sorted(found.class_ids.tolist()) == [0, 2]


def test_nothing_found_is_an_empty_result(device: Device, tiny_model: Path) -> None:
    found = detect(device, load_model(tiny_model), tiny_input())
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_each_picture_of_a_batch_has_its_own_detections(device: Device, tiny_model: Path) -> None:
    model = load_model(tiny_model)
    assert model.max_batch is None
    batch = np.concatenate([tiny_input((8 * n, 0, n)) for n in range(3)])
    for n in range(3):
        found = detect(device, model, batch, n)
        assert found.class_ids.tolist() == [n]
        np.testing.assert_allclose(found.boxes, [[8 * n, 0, 8 * n + 16, 16]], atol=1e-3)


# Families against NumPy, on random outputs baked into a model.


def test_yolox_agrees_with_numpy(device: Device, tmp_path: Path) -> None:
    width, height = 96, 64
    output = RNG.random((1, 126, 5 + 2)).astype(np.float32)
    output[0, :, :4] = RNG.normal(0, 0.8, (126, 4))
    write_constant_model(
        tmp_path / "m.onnx",
        {"output": output},
        input_dims=[1, 3, height, width],
        metadata={"names": "['cat', 'dog']"},
    )
    model = load_model(tmp_path / "m.onnx")
    assert (type(model).__name__, model.max_batch, model.names) == ("Yolox", 1, ("cat", "dog"))
    assert model.spec == InputSpec(width, height, channels="bgr", place="top-left")
    raw = output[0].astype(float)
    rows = gold_detect.candidates(
        raw[:, :4], raw[:, 5:], 0.3, "yolox", (width, height), objectness=raw[:, 4]
    )
    found = detect(device, model, blank(width, height), conf=0.3, iou=0.2)
    expect(found, rows, iou=0.2, size=(width, height))
    assert anchors(device, model, blank(width, height), 0.3) == [row[0] for row in rows]


def ultralytics_metadata(count: int, **other: str) -> dict[str, str]:
    names = {i: f"thing {i}" for i in range(count)}
    return {"names": repr(names), "stride": "32", "task": "detect", **other}


def ultralytics_boxes(anchors: int, width: int, height: int) -> Array:
    """Random centres and sizes, many of them overlapping."""
    boxes = RNG.random((anchors, 4)) * [width, height, 30, 30] + [0, 0, 15, 15]
    return boxes.astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_ultralytics_agrees_with_numpy(
    device: Device, tmp_path: Path, dynamic: bool, dtype: str
) -> None:
    width, height = 160, 96
    boxes, scores = ultralytics_boxes(315, width, height), RNG.random((315, 3))
    output = np.hstack([boxes, scores]).T[None].astype(dtype)
    write_constant_model(
        tmp_path / "m.onnx",
        {"output0": output},
        input_dims=["batch", 3, "height", "width"] if dynamic else [1, 3, height, width],
        input_dtype=dtype,
        dims={"output0": ["batch", 7, "anchors"]} if dynamic else None,
        metadata=ultralytics_metadata(3, imgsz=f"[{height}, {width}]"),
    )
    model = load_model(tmp_path / "m.onnx")
    assert model.names == ("thing 0", "thing 1", "thing 2")
    assert model.max_batch == (None if dynamic else 1)
    assert model.spec == InputSpec(width, height, scale=1 / 255, dtype=dtype)  # type: ignore[arg-type]
    raw = output[0].T.astype(float)
    rows = gold_detect.candidates(raw[:, :4], raw[:, 4:], 0.8, "cxcywh", (width, height))
    found = detect(device, model, blank(width, height, dtype=dtype), conf=0.8)
    expect(found, rows, iou=0.45, size=(width, height))
    data = blank(width, height, dtype=dtype)
    assert anchors(device, model, data, 0.8) == [row[0] for row in rows]


def test_a_stripped_ultralytics_export_is_known_by_its_layout(
    device: Device, tmp_path: Path
) -> None:
    output = RNG.random((1, 84, 126)).astype(np.float32)
    write_constant_model(tmp_path / "m.onnx", {"out": output}, input_dims=[1, 3, 64, 96])
    model = load_model(tmp_path / "m.onnx")
    assert (type(model).__name__, model.names) == ("AnchorFree", COCO)


@pytest.mark.parametrize("classes", [1, 4])
def test_yolov5_agrees_with_numpy(device: Device, tmp_path: Path, classes: int) -> None:
    width, height = 96, 64
    count = 3 * 126
    boxes, scores = ultralytics_boxes(count, width, height), RNG.random((count, 1 + classes))
    output = np.hstack([boxes, scores])[None].astype(np.float32)
    write_constant_model(
        tmp_path / "m.onnx",
        {"output0": output},
        input_dims=[1, 3, height, width],
        metadata=ultralytics_metadata(classes),
    )
    raw = output[0].astype(float)
    rows = gold_detect.candidates(
        raw[:, :4], raw[:, 5:], 0.6, "cxcywh", (width, height), objectness=raw[:, 4]
    )
    model = load_model(tmp_path / "m.onnx")
    found = detect(device, model, blank(width, height), conf=0.6)
    expect(found, rows, iou=0.45, size=(width, height))
    assert anchors(device, model, blank(width, height), 0.6) == [row[0] for row in rows]


@pytest.mark.parametrize("classes", [1, 80])
def test_end_to_end_exports_are_not_suppressed_again(
    device: Device, tmp_path: Path, classes: int
) -> None:
    output = np.zeros((1, 300, 6), np.float32)
    output[0, :4] = [
        [10, 10, 30, 30, 0.7, 0],
        [10, 10, 30, 31, 0.9, 0],  # overlaps the first, and stays
        [50, 20, 70, 99, 0.8, classes - 1],
        [1, 1, 2, np.nan, 0.9, 0],
    ]
    write_constant_model(
        tmp_path / "m.onnx",
        {"output0": output},
        input_dims=[1, 3, 64, 96],
        metadata=ultralytics_metadata(classes),
    )
    model = load_model(tmp_path / "m.onnx")
    assert anchors(device, model, blank(96, 64), 0.35) == [1, 2, 0]
    found = detect(device, model, blank(96, 64))
    assert found.scores == pytest.approx([0.9, 0.8, 0.7])
    assert found.class_ids.tolist() == [0, classes - 1, 0]
    assert found.boxes.tolist() == [[10, 10, 30, 31], [50, 20, 70, 64], [10, 10, 30, 30]]


def detr_outputs(classes: int) -> tuple[Array, Array]:
    logits = RNG.normal(-2, 1.5, (1, 40, classes)).astype(np.float32)
    return logits, RNG.random((1, 40, 4)).astype(np.float32)


def test_d_fine_agrees_with_numpy(device: Device, tmp_path: Path) -> None:
    logits, points = detr_outputs(80)
    # The order of the outputs is the file's: boxes may come first.
    write_constant_model(
        tmp_path / "m.onnx",
        {"pred_boxes": points, "logits": logits},
        input_dims=["batch_size", 3, "height", "width"],
        dims={"logits": ["batch_size", 40, 80]},
    )
    model = load_model(tmp_path / "m.onnx")
    assert model.names == COCO
    assert model.spec == InputSpec(640, 640, scale=1 / 255, place="stretch")
    rows = gold_detect.candidates(points[0], logits[0], 0.7, "cxcywh-unit", (640, 640), logits=True)
    found = detect(device, model, blank(640, 640), conf=0.7)
    expect(found, rows, iou=None, size=(640, 640))
    assert anchors(device, model, blank(640, 640), 0.7) == [row[0] for row in rows]


def test_rf_detr_gives_the_classes_of_coco(device: Device, tmp_path: Path) -> None:
    logits, points = detr_outputs(91)
    logits[0, 0, 12] = logits[0, 1, 0] = 9  # category ids that nothing has
    logits[0, 2, 90] = 8
    points[0, 2] = 0.5
    write_constant_model(
        tmp_path / "m.onnx", {"dets": points, "labels": logits}, input_dims=[1, 3, 560, 560]
    )
    model = load_model(tmp_path / "m.onnx")
    assert model.spec.mean == (0.485, 0.456, 0.406)
    assert (model.spec.width, model.names) == (560, COCO)
    rows = gold_detect.candidates(points[0], logits[0], 0.7, "cxcywh-unit", (560, 560), logits=True)
    rows = [(a, CATEGORIES[c], s, b) for a, c, s, b in rows if CATEGORIES[c] >= 0]
    found = detect(device, model, blank(560, 560), conf=0.7)
    expect(found, rows, iou=None, size=(560, 560))
    assert anchors(device, model, blank(560, 560), 0.7) == [row[0] for row in rows]
    assert found.name(int(found.class_ids[0])) == "toothbrush"


def test_coco_categories_name_what_coco_names() -> None:
    assert len(COCO) == 80
    assert sorted(i for i in CATEGORIES if i >= 0) == list(range(80))
    assert [COCO[CATEGORIES[i]] for i in (1, 13, 44, 67, 90)] == [
        *("person", "stop sign", "bottle", "dining table", "toothbrush")
    ]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_centerface_agrees_with_numpy_at_any_size(
    device: Device, tmp_path: Path, dtype: str
) -> None:
    width, height = 64, 96
    outputs = {
        "heat": RNG.random((1, 1, 24, 16)),
        "sizes": RNG.normal(1, 0.5, (1, 2, 24, 16)),
        "offsets": RNG.normal(0, 0.5, (1, 2, 24, 16)),
        "landmarks": RNG.random((1, 10, 24, 16)),
    }
    outputs = {name: array.astype(dtype) for name, array in outputs.items()}
    write_constant_model(
        tmp_path / "m.onnx",
        outputs,
        input_dims=[10, 3, 32, 32],
        input_dtype=dtype,
        dims={name: [10, array.shape[1], 8, 8] for name, array in outputs.items()},
    )
    model = load_model(tmp_path / "m.onnx")
    assert (model.names, model.max_batch, model.spec.width) == (("face",), None, 0)
    heat, sizes, offsets = (
        outputs[name][0].reshape(-1, 384).T.astype(float) for name in ("heat", "sizes", "offsets")
    )
    rows = gold_detect.candidates(sizes, heat, 0.6, "centerface", (width, height), offsets=offsets)
    data = blank(width, height, dtype=dtype)
    found = detect(device, model, data, conf=0.6, iou=0.3)
    expect(found, rows, iou=0.3, size=(width, height))
    assert anchors(device, model, data, 0.6) == [row[0] for row in rows]


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        ("centerface", {c: (1, n, 16, 24) for c, n in zip("abcd", (1, 2, 2, 10), strict=True)}),
        ("detr", {"logits": (1, 40, 80), "pred_boxes": (1, 40, 4)}),
        ("torchvision", {"boxes": (9, 4), "labels": (9,), "scores": (9,)}),
        ("ultralytics", {"output0": (1, 84, 126)}),
        ("ultralytics", {"output0": (1, 126 * 3, 85)}),
        ("ultralytics", {"output0": (1, 300, 6)}),
        ("yolox", {"output": (1, 126, 85)}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pictures_have_the_dtype_of_the_file(
    family: str, shapes: dict[str, tuple[int, ...]], dtype: str, device: Device, tmp_path: Path
) -> None:
    write_constant_model(
        tmp_path / "m.onnx",
        {
            name: np.zeros(shape, np.int64 if name == "labels" else dtype)
            for name, shape in shapes.items()
        },
        input_dims=[1, 3, 64, 96],
        input_dtype=dtype,
        metadata=ultralytics_metadata(80) if family == "ultralytics" else None,
    )
    model = load_model(tmp_path / "m.onnx", family=family)
    assert model.spec.dtype == dtype
    assert len(detect(device, model, blank(96, 64, dtype=model.spec.dtype))) == 0


# Files that do not fit.


def test_a_model_of_no_family_is_described(tmp_path: Path) -> None:
    path = tmp_path / "classifier.onnx"
    write_constant_model(
        path, {"probabilities": np.zeros((1, 1000), np.float32)}, input_dims=[1, 3, 224, 224]
    )
    with pytest.raises(ModelError) as error:
        load_model(path)
    message = str(error.value)
    assert "images float32 (1×3×224×224)" in message
    assert "probabilities float32 (1×1000)" in message
    for family in ("centerface", "detr", "torchvision", "ultralytics", "yolox"):
        assert family in message
    with pytest.raises(ModelError, match="not yolox"):
        load_model(path, family="yolox")


def test_an_unknown_family_names_the_known_ones(tiny_model: Path) -> None:
    known = "centerface, detr, torchvision, ultralytics, yolox"
    with pytest.raises(ModelError, match=f"'yolo9'.*{known}"):
        load_model(tiny_model, family="yolo9")


def test_every_family_is_found_by_its_file() -> None:
    assert set(families()) == {"centerface", "detr", "torchvision", "ultralytics", "yolox"}


@pytest.mark.parametrize(
    ("dims", "dtype", "message"),
    [([4, 3, 64, 96], "float32", "batch of 1"), ([1, 3, 64, 96], "uint8", "float32 or float16")],
)
def test_inputs_that_no_pipeline_can_feed_are_refused(
    tmp_path: Path, dims: list[int], dtype: str, message: str
) -> None:
    output = np.zeros((dims[0], 126, 6), np.float32)
    write_constant_model(
        tmp_path / "m.onnx", {"output": output}, input_dims=dims, input_dtype=dtype
    )
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("names", ["{0: os.remove}", "{0: 'a'", "7"])
def test_unreadable_class_names_are_a_model_error(tmp_path: Path, names: str) -> None:
    write_constant_model(
        tmp_path / "m.onnx",
        {"output": np.zeros((1, 126, 6), np.float32)},
        input_dims=[1, 3, 64, 96],
        metadata={"names": names},
    )
    with pytest.raises(ModelError, match="metadata 'names'"):
        load_model(tmp_path / "m.onnx")


def test_a_model_without_names_numbers_its_classes(tmp_path: Path) -> None:
    output = np.zeros((1, 126, 9), np.float32)
    write_constant_model(tmp_path / "m.onnx", {"output": output}, input_dims=[1, 3, 64, 96])
    assert load_model(tmp_path / "m.onnx").names == ()


# Reading files.


@pytest.mark.parametrize("content", [b"", b"RIFF\x00\x00AVI LIST", b"\xff" * 40, b"\x08\x08"])
def test_what_is_no_onnx_file_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no ONNX file"):
        load_model(path)


def test_a_truncated_model_is_a_model_error(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_model.read_bytes()[:-30])
    with pytest.raises(ModelError, match=r"m\.onnx is no ONNX file, or a damaged one"):
        load_model(path)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file"):
        load_model(tmp_path)


def test_reads_what_the_onnx_package_reads(tiny_model: Path) -> None:
    file = read_onnx(tiny_model)
    truth = onnx.load(tiny_model)
    assert [t.name for t in file.inputs] == [v.name for v in truth.graph.input]
    assert file.outputs[0].dims == ("N", 336, 8)
    assert file.metadata == {p.key: p.value for p in truth.metadata_props}
    assert file.opset == 13


def test_changed_dims_leave_the_rest_of_the_file_as_it_was(tiny_model: Path) -> None:
    file = read_onnx(tiny_model)
    changed = onnx.load_from_string(file.with_symbolic_dims({"images": ("B", 3, 128, 128)}))
    original = onnx.load(tiny_model)
    assert changed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "B"
    changed.graph.input[0].CopyFrom(original.graph.input[0])
    assert changed == original


# Input sizes.


def test_a_fixed_size_is_the_models() -> None:
    assert InputSpec(416, 416).size_for(1920, 1080) == (416, 416)


@pytest.mark.parametrize(
    ("picture_size", "longest", "expected"),
    [
        ((1920, 1080), None, (960, 544)),
        ((1080, 1920), None, (544, 960)),
        ((640, 272), None, (640, 288)),  # never enlarged but to the next multiple
        ((1, 1), None, (32, 32)),
        ((3840, 2160), 1280, (1280, 736)),
    ],
)
def test_a_free_size_follows_the_picture(
    picture_size: tuple[int, int], longest: int | None, expected: tuple[int, int]
) -> None:
    assert InputSpec(0, 0).size_for(*picture_size, longest=longest) == expected


# The real thing.


def test_yolox_nano_agrees_with_numpy_and_onnxruntime(device: Device, shared: Path) -> None:
    model = load_model(shared / "models" / "yolox_nano.onnx")
    path = shared / "images" / "000000000139.jpg"
    image = Image.open(path).convert("RGB")
    ratio = min(416 / image.width, 416 / image.height)
    width, height = int(image.width * ratio), int(image.height * ratio)
    canvas = np.full((416, 416, 3), 114, np.uint8)
    canvas[:height, :width] = np.asarray(image.resize((width, height)))[:, :, ::-1]
    data = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32)
    found = detect(
        device,
        model,
        data,
        placement=Placement(width / image.width, height / image.height),
        picture=image.size,
    )

    session = onnxruntime.InferenceSession(model.onnx, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": data})
    raw = output[0].astype(float)
    rows = gold_detect.candidates(
        raw[:, :4], raw[:, 5:], 0.35, "yolox", (416, 416), objectness=raw[:, 4]
    )
    boxes = np.array([row[3] for row in rows]) / ([width / image.width, height / image.height] * 2)
    scores, class_ids = np.array([row[2] for row in rows]), np.array([row[1] for row in rows])
    kept = gold_detect.nms(boxes.astype(np.float32), scores, class_ids, 0.45)
    boxes = boxes[kept].clip(0, [*image.size, *image.size])
    np.testing.assert_allclose(found.boxes, boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, scores[kept], atol=1e-4)
    assert found.class_ids.tolist() == class_ids[kept].tolist()
    # What a person sees in the picture: a living room with a television and people.
    assert {"tv", "person", "chair"} <= {found.name(int(i)) for i in found.class_ids}
