from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import gold_detect
from vidai.ops.nms import nms


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
