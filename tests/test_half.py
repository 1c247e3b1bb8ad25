from __future__ import annotations

import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.squares import boxes_at, squares_clip
from tests.test_decode import frames_of
from tests.tiny_model import write_tiny_model
from vidai import Detector
from vidai.device import Device
from vidai.errors import ModelError
from vidai.models import Model, load_model
from vidai.models.half import half
from vidai.ops import letterbox
from vidai.precision import f1


def run(model: Model, data: np.ndarray) -> np.ndarray:
    """In the precisions of the file: ONNX Runtime on a CPU computes halves in float32."""
    session = ReferenceEvaluator(onnx.load_from_string(model.onnx))
    with np.errstate(all="ignore"):  # its sigmoid computes a branch too many
        (output,) = session.run(None, {session.input_names[0]: data})
    return np.ascontiguousarray(output)


def test_the_half_model_finds_each_square(device: Device, tiny_model: Path, tmp_path: Path) -> None:
    frames = frames_of(squares_clip(tmp_path / "squares.mp4"), device)
    detector = Detector(half(load_model(tiny_model)), device=device)
    for index, frame in enumerate(frames):
        (found,) = detector([frame])
        order = np.argsort(found.class_ids)
        assert found.class_ids[order].tolist() == [c for c, _ in boxes_at(index)]
        boxes = [box for _, box in boxes_at(index)]
        np.testing.assert_allclose(found.boxes[order], boxes, atol=0.05)


def test_the_half_model_is_float16_but_for_its_outputs(tiny_model: Path) -> None:
    given = load_model(tiny_model)
    made = half(given)
    network = onnx.load_from_string(made.onnx)
    onnx.checker.check_model(network, full_check=True)  # sorted, too
    assert made.spec == replace(given.spec, dtype="float16")
    assert [t.type.tensor_type.elem_type for t in network.graph.input] == [TensorProto.FLOAT16]
    assert [t.type.tensor_type.elem_type for t in network.graph.output] == [TensorProto.FLOAT]
    weights = {w.name: w.data_type for w in network.graph.initializer}
    assert weights["weights"] == TensorProto.FLOAT16
    assert [m.key for m in network.metadata_props] == ["names"]


def test_boxes_decoded_in_the_model_keep_their_fractions(tmp_path: Path, tiny_model: Path) -> None:
    """A convolution gives offsets in cells; then come the anchor and the stride, up to 640 px."""
    weights = np.zeros((4, 3, 1, 1), np.float32)
    weights[:, 0, 0, 0] = 1, 0.5, 0.25, 0.125
    anchors = np.linspace(0.5, 79.5, 80, dtype=np.float32).reshape(1, 1, 80)
    constants = {
        "weights": weights,
        "anchors": anchors,
        "stride": np.float32(8),
        "flat": np.array([0, 4, 80]),
    }
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["cells"]),
        helper.make_node("Reshape", ["cells", "flat"], ["offsets"]),
        helper.make_node("Add", ["offsets", "anchors"], ["points"]),
        helper.make_node("Mul", ["points", "stride"], ["boxes"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "decoding",
        [value("images", TensorProto.FLOAT, ["N", 3, 8, 10])],
        [value("boxes", TensorProto.FLOAT, ["N", 4, 80])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    given = replace(load_model(tiny_model), onnx=network.SerializeToString())
    data = np.random.default_rng(3).uniform(0, 1, (2, 3, 8, 10)).astype(np.float16)

    offsets = np.einsum("oc,nchw->nohw", weights[:, :, 0, 0].astype(float), data.astype(float))
    expected = (offsets.reshape(2, 4, 80) + anchors) * 8
    np.testing.assert_allclose(run(given, data.astype(np.float32)), expected, atol=1e-3)
    np.testing.assert_allclose(run(half(given), data), expected, atol=5e-3)
    assert np.abs(expected.astype(np.float16) - expected).max() > 0.1  # a half output could not


def test_a_real_model_finds_the_same_in_halves(device: Device, shared: Path) -> None:
    given = load_model(shared / "models" / "yolox_nano.onnx")
    (frame,) = islice(frames_of(shared / "clips" / "pedestrians_576p.avi", device, end=0.1), 1)
    (expected,) = Detector(given, device=device)([frame])
    made = half(given)
    data = np.empty((1, 3, 416, 416), np.float16)
    placement = letterbox(frame, data, 0, made.spec)
    (found,) = made.detections(
        device,
        [run(made, data)],
        size=(416, 416),
        placements=[placement],
        pictures=[(frame.width, frame.height)],
        conf=0.35,
        iou=0.45,
    )
    assert len(expected) >= 5
    assert f1([expected], [found]) == 1
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.02)


def test_a_half_model_is_not_made_half_again(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "half.onnx", dtype="float16")
    with pytest.raises(ModelError, match="model half takes float16 already"):
        half(load_model(tmp_path / "half.onnx"))


def test_without_the_package_onnx_one_is_told_to_install_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"without the package onnx: pip install 'vidai\[cuda\]'"):
        half(load_model(tiny_model))


def test_a_model_that_cannot_be_converted_is_a_model_error(tiny_model: Path) -> None:
    broken = replace(load_model(tiny_model), onnx=tiny_model.read_bytes()[:200])
    with pytest.raises(ModelError, match="model tiny cannot be made float16: "):
        half(broken)
