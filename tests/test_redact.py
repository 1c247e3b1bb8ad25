"""Redaction, against the definition in gold_overlay, and what it must never let through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import gold_overlay as gold
from tests.builds import gpu_form
from tests.surfaces import LAYOUTS, make_frame, planes_of, random_frame
from tests.test_overlay import boxes_of, same, turned, wide
from vidai.errors import ConfigError
from vidai.ops.redact import redact

STYLES = ["blur", "pixelate"]
SHAPES = ["ellipse", "box"]


def redacted(frame: Any, *boxes: tuple[float, ...], **how: Any) -> gold.Planes:
    return planes_of(redact(frame, boxes_of(*boxes), **how))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("size", "box", "cells"),
    [
        ((64, 48), (8, 6, 56, 40), 8),
        ((64, 48), (8, 6, 56, 40), 3),
        ((61, 47), (13, 11, 44, 46), 5),
        ((61, 47), (-20, -9, 31, 29), 6),
        ((61, 47), (30, 20, 99, 200), 4),
        ((61, 47), (-5, -5, 70, 60), 1),
        ((33, 21), (7, 9, 8, 10), 8),
        ((33, 3), (1, 0, 32, 3), 64),
        ((1, 1), (0, 0, 1, 1), 8),
        ((1, 40), (0, 3, 1, 38), 8),
    ],
)
def test_regions_equal_gold(
    layout: str, style: str, shape: str, size: tuple[int, int], box: Any, cells: int
) -> None:
    frame = random_frame(*size, layout, seed=1, padding=6, writable=True)
    expected = gold.redact(planes_of(frame), box, style, shape, cells)
    same(redacted(frame, box, style=style, shape=shape, cells=cells), expected)


@pytest.mark.parametrize("style", STYLES)
def test_of_overlapping_regions_the_last_shows_and_all_means_are_of_the_untouched_picture(
    style: str,
) -> None:
    frame = random_frame(60, 50, seed=2, writable=True)
    source = planes_of(frame)
    boxes = [(4, 4, 40, 40), (20, 10, 58, 44), (25, 2, 35, 48), (30, 20, 38, 26)]
    expected = source
    for box in boxes:
        expected = gold.redact(expected, box, style, "ellipse", 5, source)
    same(redacted(frame, *boxes, style=style, cells=5), expected)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_with_equal_block_means_become_equal(style: str, shape: str) -> None:
    """No information but the means survives: what was where in a block cannot be told."""
    rng = np.random.default_rng(3)
    y, u, v = (rng.integers(0, 256, size) for size in ((48, 64), (24, 32), (24, 32)))
    shuffled = [plane.copy() for plane in (y, u, v)]
    for plane, block in zip(shuffled, (8, 4, 4), strict=True):
        for row in range(0, plane.shape[0], block):
            for column in range(0, plane.shape[1], block):
                part = plane[row : row + block, column : column + block]
                part[:] = rng.permutation(part.ravel()).reshape(part.shape)
    box, how = (0, 0, 64, 48), {"style": style, "shape": shape, "cells": 9}
    first = redacted(make_frame(y, u, v, writable=True), box, **how)
    second = redacted(make_frame(shuffled[0], shuffled[1], shuffled[2], writable=True), box, **how)
    rows, columns = np.mgrid[:48, :64]
    inside = (
        ((columns - 31.5) / 31) ** 2 + ((rows - 23.5) / 23) ** 2 < 1
        if shape == "ellipse"
        else rows >= 0
    )
    np.testing.assert_array_equal(first[0][inside], second[0][inside])
    cells = inside.reshape(24, 2, 32, 2).any((1, 3))
    for a, b in zip(first[1:], second[1:], strict=True):
        np.testing.assert_array_equal(a[cells], b[cells])
    assert (y != shuffled[0]).mean() > 0.9


def test_at_most_cells_squared_values_survive() -> None:
    for side in (33, 64, 127, 200):
        frame = random_frame(210, 210, seed=side, writable=True)
        luma, *_ = redacted(
            frame, (3, 3, 3 + side, 3 + side), shape="box", style="pixelate", cells=6
        )
        part = luma[3 : 3 + side, 3 : 3 + side]
        changes = (np.diff(part.astype(int), axis=1) != 0).any(0).sum()
        assert changes <= 5
        assert len(np.unique(part)) <= 36


def test_nothing_outside_a_region_changes() -> None:
    frame = random_frame(80, 60, seed=4, writable=True)
    before = planes_of(frame)
    after = redacted(frame, (20, 16, 60, 44), shape="ellipse")
    changed = np.argwhere(before[0] != after[0])
    assert changed.min(0).tolist() >= [16, 20]
    assert changed.max(0).tolist() <= [43, 59]
    rows, columns = np.mgrid[:60, :80] + 0.5
    ellipse = ((columns - 40) / 20) ** 2 + ((rows - 30) / 14) ** 2 <= 1
    np.testing.assert_array_equal(before[0][~ellipse], after[0][~ellipse])
    assert (before[0] != after[0])[ellipse].mean() > 0.95


@pytest.mark.parametrize("orientation", range(8))
def test_a_turned_picture_loses_the_same_region(orientation: int) -> None:
    upright = random_frame(64, 48, seed=5, writable=True)
    stored = turned(planes_of(upright), orientation)
    frame = make_frame(*stored, orientation=orientation, writable=True)
    box = (16, 8, 48, 40)  # whole blocks from every side, so that the grids agree
    how = {"style": "pixelate", "cells": 5}
    expected = redacted(upright, box, **how)
    got = redacted(frame, box, **how)
    same(got, turned(expected, orientation))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("style", STYLES)
def test_the_form_that_gpus_run_redacts_the_same(layout: str, style: str) -> None:
    boxes = [(-9, 20, 60, 101), (30, 40, 99, 77), (90, 3, 93, 5)]
    frame = random_frame(113, 97, layout, seed=7, writable=True)
    twin = random_frame(113, 97, layout, seed=7, writable=True)
    expected = redacted(frame, *boxes, style=style)
    same(redacted(replace(twin, device=gpu_form()), *boxes, style=style), expected)


def test_grow_scales_about_the_centre() -> None:
    grown = redacted(random_frame(90, 70, seed=6, writable=True), (30, 20, 50, 40), grow=1.5)
    drawn = redacted(random_frame(90, 70, seed=6, writable=True), (25, 15, 55, 45))
    same(grown, drawn)


def test_a_region_far_larger_than_the_picture_is_cut() -> None:
    cut, box = (-(2**14), -(2**14), 2**15, 2**15), (-1e9, -2e9, 1e10, 3e9)
    got = redacted(random_frame(40, 30, seed=8, writable=True), box, cells=64)
    same(got, redacted(random_frame(40, 30, seed=8, writable=True), cut, cells=64))


def test_hopeless_boxes_are_skipped() -> None:
    nan, inf = float("nan"), float("inf")
    hopeless = [(nan, 1, 5, 5), (1, 1, inf, 5), (9, 9, 3, 3), (4, 4, 4, 8)]
    hopeless += [(50, 50, 60, 60), (4, 50, 20, 60), (-9, 4, 0, 20)]
    frame = random_frame(40, 30)
    assert redact(frame, boxes_of(*hopeless)) is frame
    assert redact(frame, boxes_of()) is frame
    box = (4.0, 4.0, 20.0, 20.0)
    got = redacted(random_frame(40, 30, writable=True), *hopeless, box)
    same(got, redacted(random_frame(40, 30, writable=True), box))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    orientation=st.integers(0, 7),
    boxes=st.lists(st.tuples(*[st.floats(width=32)] * 4), max_size=3),
    style=st.sampled_from(STYLES),
    cells=st.integers(1, 64),
    grow=st.floats(0.01, 100),
)
def test_any_box_is_safe(
    width: int, height: int, orientation: int, boxes: Any, style: str, cells: int, grow: float
) -> None:
    frame = random_frame(width, height, padding=4, orientation=orientation, writable=True)
    before = wide(planes_of(frame))
    after = redacted(frame, *boxes, style=style, cells=cells, grow=grow)
    for old, new in zip(before, after, strict=True):
        assert new.min() >= old.min()
        assert new.max() <= old.max()


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [
        ("style", "smear", "blur"),
        ("shape", "star", "ellipse"),
        ("grow", 0, "0"),
        ("cells", 0, "64"),
        ("cells", 2.5, "64"),
    ],
)
def test_an_option_of_no_meaning_is_refused(option: str, value: Any, known: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){option}.*{known}"):
        redact(random_frame(8, 8), boxes_of((1, 1, 5, 5)), **{option: value})
