from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import gold_detect
from vidai.device import Device
from vidai.ops.candidates import Candidates, View, candidates

Array = np.ndarray[Any, np.dtype[Any]]
SIZE = {"yolox": (96, 64), "centerface": (52, 36)}


def anchors_of(coding: str) -> int:
    width, height = SIZE.get(coding, (97, 61))
    if coding == "yolox":
        return len(gold_detect.yolox_cells(width, height))
    return (width // 4) * (height // 4) if coding == "centerface" else 117


def raw_output(coding: str, classes: int, logits: bool, seed: int) -> dict[str, Array]:
    """Arrays (anchors, channels) with plenty above and below any threshold."""
    rng = np.random.default_rng(seed)
    anchors = anchors_of(coding)
    span = 4.0 if logits else 1.0
    return {
        "boxes": rng.normal(0, 1.2, (anchors, 2 if coding == "centerface" else 4)),
        "scores": rng.random((anchors, classes)) * span * (2 if logits else 1) - logits * span,
        "objectness": rng.random((anchors, 1)) * span * (2 if logits else 1) - logits * span,
        "offsets": rng.normal(0, 0.5, (anchors, 2)),
    }


def laid_out(array: Array, layout: str, dtype: Any) -> View:
    """A view of the array inside a larger output, anchor by anchor or channel by channel."""
    anchors, channels = array.shape
    padded = np.full((anchors, channels + 3), np.nan)
    padded[:, 2:-1] = array
    if layout == "anchor-major":
        return View(np.ascontiguousarray(padded, dtype), 2, channels + 3, 1)
    return View(np.ascontiguousarray(padded.T, dtype), 2 * anchors, 1, anchors)


def run(
    device: Device, raw: dict[str, Array], layout: str, dtype: Any = np.float32, **kwargs: Any
) -> Candidates:
    views: dict[str, Any] = {name: laid_out(array, layout, dtype) for name, array in raw.items()}
    anchors, classes = raw["scores"].shape
    (found,) = candidates(device, pictures=1, anchors=anchors, classes=classes, **views, **kwargs)
    return found


def expect_gold(
    found: Candidates, raw: dict[str, Array], dtype: Any = np.float32, **kwargs: Any
) -> None:
    """The result is that of plain NumPy on the same rounded numbers."""
    exact: dict[str, Any] = {n: array.astype(dtype).astype(float) for n, array in raw.items()}
    if "objectness" in exact:
        exact["objectness"] = exact["objectness"][:, 0]
    expected = gold_detect.candidates(**exact, **kwargs)
    boxes, scores, class_ids, anchors = found
    assert anchors.tolist() == [row[0] for row in expected]
    assert class_ids.tolist() == [row[1] for row in expected]
    np.testing.assert_allclose(scores, [row[2] for row in expected], rtol=1e-6)
    np.testing.assert_allclose(boxes, np.array([row[3] for row in expected]), rtol=2e-6, atol=3e-5)
    assert [array.dtype.name for array in found] == ["float32", "float32", "int32", "int32"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("layout", ["anchor-major", "channel-major"])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("with_objectness", [False, True])
@pytest.mark.parametrize("coding", ["xyxy", "cxcywh", "cxcywh-unit", "yolox", "centerface"])
def test_agrees_with_numpy(
    device: Device, coding: str, with_objectness: bool, logits: bool, layout: str, dtype: Any
) -> None:
    raw = raw_output(coding, 1 if coding == "centerface" else 7, logits, seed=1)
    if not with_objectness:
        del raw["objectness"]
    if coding != "centerface":
        del raw["offsets"]
    conf = 0.4 if with_objectness or logits else 0.9
    how = {"coding": coding, "size": SIZE.get(coding, (97, 61)), "conf": conf, "logits": logits}
    found = run(device, raw, layout, dtype, **how)
    assert 5 < len(found.scores) < len(raw["scores"])
    expect_gold(found, raw, dtype, **how)


@pytest.mark.parametrize("layout", ["anchor-major", "channel-major"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_anchors_with_unusable_numbers_are_left_out(
    device: Device, layout: str, bad: float
) -> None:
    raw = {"boxes": np.tile([10.0, 10, 4, 4], (9, 1)), "scores": np.full((9, 3), 0.9)}
    raw["boxes"][2, 1] = raw["boxes"][4, 3] = bad
    raw["scores"][6] = bad
    raw["boxes"][:, 0] = np.arange(9)
    found = run(device, raw, layout, coding="cxcywh", size=(64, 64), conf=0.5)
    assert (found.boxes[:, 0] + 2).tolist() == [0, 1, 3, 5, 7, 8]
    assert found.anchors.tolist() == [0, 1, 3, 5, 7, 8]


@pytest.mark.parametrize("layout", ["anchor-major", "channel-major"])
def test_a_class_that_is_nan_does_not_win(device: Device, layout: str) -> None:
    raw = {"boxes": np.tile([0.0, 0, 4, 4], (2, 1)), "scores": np.array([[np.nan, 0.6, 0.7]] * 2)}
    raw["scores"][1] = 0.7, np.nan, 0.6
    found = run(device, raw, layout, coding="xyxy", size=(64, 64), conf=0.5)
    assert found.class_ids.tolist() == [2, 0]


@pytest.mark.parametrize("layout", ["anchor-major", "channel-major"])
def test_ties_go_to_the_lowest_class_and_the_first_anchor(device: Device, layout: str) -> None:
    raw = {"boxes": np.zeros((5, 4)), "scores": np.full((5, 4), 0.5)}
    raw["boxes"][:, 0] = np.arange(5)
    boxes, scores, class_ids, anchors = run(
        device, raw, layout, coding="xyxy", size=(8, 8), conf=0.5
    )
    assert anchors.tolist() == [0, 1, 2, 3, 4]
    assert boxes[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert class_ids.tolist() == [0] * 5
    assert scores.tolist() == [0.5] * 5  # a score of exactly conf is kept


@pytest.mark.parametrize("layout", ["anchor-major", "channel-major"])
def test_more_than_the_first_buffer_holds_are_all_found(device: Device, layout: str) -> None:
    rng = np.random.default_rng(5)
    raw = {"boxes": rng.random((2600, 4)), "scores": rng.random((2600, 2))}
    how: dict[str, Any] = {"coding": "xyxy", "size": (8, 8), "conf": 0.1}
    found = run(device, raw, layout, **how)
    assert len(found.scores) > 2000
    expect_gold(found, raw, **how)


@pytest.mark.parametrize("layout", ["anchor-major", "channel-major"])
def test_no_candidates_give_empty_arrays(device: Device, layout: str) -> None:
    raw = {"boxes": np.zeros((5, 4)), "scores": np.zeros((5, 2))}
    found = run(device, raw, layout, coding="xyxy", size=(8, 8), conf=0.5)
    assert [array.shape for array in found] == [(0, 4), (0,), (0,), (0,)]


def exp_float(device: Device, values: Array) -> Array:
    """The kernels' exp of each value, through CenterFace's width on a row of cells."""
    count = len(values)
    boxes = np.zeros((2, count), np.float32)
    boxes[1] = values
    zeros = np.zeros((2, count), np.float32)
    zeros[1] = -(np.arange(count) + 0.5)  # centre every box on 0: its corners are ± half
    (found,) = candidates(
        device,
        pictures=1,
        anchors=count,
        classes=1,
        boxes=View(boxes, 0, 1, count),
        scores=View(np.ones(count, np.float32), 0, 1, count),
        offsets=View(zeros, 0, 1, count),
        coding="centerface",
        size=(4 * count, 4),
        conf=0.5,
    )
    return found.boxes[:, 2] / 2  # half the width is exp(v) * 2


def test_the_kernels_exp_is_precise_to_two_parts_in_ten_million(device: Device) -> None:
    values = np.linspace(-87.3, 87.3, 400_001).astype(np.float32)
    truth = np.exp(values.astype(float))
    error = np.abs(exp_float(device, values) / truth - 1)
    assert error.max() <= 2e-7


def test_the_kernels_exp_fades_to_zero_below_the_normal_numbers(device: Device) -> None:
    values = np.array([-88, -95, -103, -103.97, -104.1, -200, -3e38], np.float32)
    found = exp_float(device, values)
    np.testing.assert_allclose(found, np.exp(values.astype(float)), rtol=0, atol=2e-45)
    assert found[-2:].tolist() == [0, 0]


def test_a_box_whose_size_overflows_is_left_out(device: Device) -> None:
    assert len(exp_float(device, np.array([88.8, 200, np.inf], np.float32))) == 0


def test_half_numbers_are_read_exactly(device: Device) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    boxes = np.zeros((len(finite), 4), np.float16)
    boxes[:, 0] = finite
    (found,) = candidates(
        device,
        pictures=1,
        anchors=len(finite),
        classes=1,
        boxes=View(boxes, 0, 4, 1),
        scores=View(np.ones(len(finite), np.float16), 0, 1, 1),
        coding="xyxy",
        size=(8, 8),
        conf=0.5,
    )
    assert found.boxes[:, 0].tobytes() == finite.astype(np.float32).tobytes()
