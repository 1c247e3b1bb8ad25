from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import gold_detect
from vidai.ops.nms import nms, place
from vidai.types import Placement


def arrays(rows: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of x1 y1 x2 y2 score class as nms takes them."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return table[:, :4], table[:, 4], table[:, 5].astype(np.int32)


coordinate = st.integers(0, 12) | st.sampled_from([float("nan"), float("inf"), -1e30, 0.5])
row = st.tuples(*[coordinate] * 4, st.sampled_from([0.1, 0.5, 0.5001, 0.9]), st.integers(0, 2))


@settings(max_examples=200, deadline=None)
@given(st.lists(row.map(list), max_size=25), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_keeps_what_the_plain_form_keeps(rows: list[list[float]], threshold: float) -> None:
    boxes, scores, class_ids = arrays(rows)
    with np.errstate(all="ignore"):
        expected = gold_detect.nms(boxes, scores, class_ids, threshold)
    assert nms(boxes, scores, class_ids, threshold).tolist() == expected


def test_agrees_on_many_random_boxes() -> None:
    rng = np.random.default_rng(3)
    corner = rng.random((300, 2), np.float32) * 100
    boxes = np.hstack([corner, corner + rng.random((300, 2), np.float32) * 40])
    scores, class_ids = rng.random(300, np.float32), rng.integers(0, 3, 300).astype(np.int32)
    kept = nms(boxes, scores, class_ids, 0.4)
    assert kept.tolist() == gold_detect.nms(boxes, scores, class_ids, 0.4)
    assert 20 < len(kept) < 280


def test_an_overlap_of_exactly_the_threshold_is_kept() -> None:
    # 10 × 10 and its upper half: intersection over union is one half.
    boxes, scores, class_ids = arrays([[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 5, 0.8, 0]])
    assert nms(boxes, scores, class_ids, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, class_ids, 0.49).tolist() == [0]


def test_only_boxes_of_one_class_compete() -> None:
    boxes, scores, class_ids = arrays([[0, 0, 9, 9, 0.5, 0], [0, 0, 9, 9, 0.9, 1]])
    assert nms(boxes, scores, class_ids, 0.1).tolist() == [1, 0]


@pytest.mark.parametrize("bad", [[5, 5, 5, 9], [9, 9, 1, 1], [float("nan"), 0, 9, 9]])
def test_a_box_without_area_suppresses_nothing(bad: list[float]) -> None:
    boxes, scores, class_ids = arrays([[*bad, 0.9, 0], [0, 0, 9, 9, 0.8, 0], [*bad, 0.7, 0]])
    assert nms(boxes, scores, class_ids, 0.0).tolist() == [0, 1, 2]


def test_nothing_in_nothing_out() -> None:
    assert len(nms(*arrays([]), 0.5)) == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-50, 250, width=32)] * 4, st.integers(0, 2)), max_size=30),
    st.sampled_from([None, 0.0, 0.3, 1.0]),
    st.sampled_from([(1.0, 1.0, 0.0, 0.0), (0.37, 0.41, 12.0, -3.5), (2.5, 2.5, 0.0, 31.0)]),
)
def test_places_as_plain_numpy_does(
    rows: list[tuple[float, ...]], iou: float | None, numbers: tuple[float, ...]
) -> None:
    table = np.array(rows, np.float32).reshape(-1, 5)
    boxes, class_ids = table[:, :4], table[:, 4].astype(np.int32)
    scores = np.linspace(0.9, 0.1, len(table)).astype(np.float32)
    placement, picture = Placement(*numbers), (160, 90)
    found = place(boxes, scores, class_ids, placement, picture, iou)

    kept = np.arange(len(table))
    if iou is not None:
        kept = np.array(gold_detect.nms(boxes, scores, class_ids, iou), int)
    shown = placement.to_source(boxes[kept]).clip(0, np.array([*picture] * 2, np.float32))
    whole = (shown[:, 2] > shown[:, 0]) & (shown[:, 3] > shown[:, 1])
    assert (found[0] == shown[whole]).all()
    assert (found[1] == scores[kept][whole]).all()
    assert (found[2] == class_ids[kept][whole]).all()
    assert [array.dtype.name for array in found] == ["float32", "float32", "int32"]
