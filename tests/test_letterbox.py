"""letterbox against plain NumPy (tests/gold.py), and one form of the kernel against the other."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import gold
from tests.builds import gpu_form
from tests.surfaces import LAYOUTS, make_frame, planes_of, random_frame
from vidai.ops.letterbox import fit, letterbox, resampling
from vidai.types import Color, Frame, InputSpec, Placement

# Weights have 11 bits and columns are rounded to 1/32: a pixel of a picture full of edges is
# within this of the exact mean, in 0–255; longer filters round more often.
TOLERANCE = 0.25
SIZES = [(1, 1), (2, 2), (7, 5), (64, 48), (13, 42), (301, 37), (176, 113)]


def run(
    frame: Frame, spec: InputSpec, width: int, height: int
) -> tuple[npt.NDArray[Any], Placement]:
    """The slot that both forms of the kernel agree on, and the placement."""
    batch = np.full((1, 3, height, width), np.nan, spec.dtype)
    placement = letterbox(frame, batch, 0, spec)
    other = np.full_like(batch, np.nan)
    letterbox(replace(frame, device=gpu_form()), other, 0, spec)
    np.testing.assert_array_equal(batch, other)
    return batch[0], placement


def check(frame: Frame, spec: InputSpec, width: int, height: int, tolerance: float) -> None:
    slot, _ = run(frame, spec, width, height)
    truth = gold.letterbox(frame, planes_of(frame), spec, width, height)
    assert np.abs(slot.astype(np.float64) - truth).max() < tolerance


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_orientation_at_odd_sizes(layout: str, orientation: int) -> None:
    for seed, (width, height) in enumerate(SIZES):
        frame = random_frame(width, height, layout, seed, orientation=orientation, padding=2 * seed)
        check(frame, InputSpec(40, 24), 40, 24, TOLERANCE)


@pytest.mark.parametrize("size", [(1, 500), (500, 1)])
@pytest.mark.parametrize("orientation", [0, 5])
def test_extreme_shapes_keep_at_least_one_pixel(size: tuple[int, int], orientation: int) -> None:
    frame = random_frame(*size, orientation=orientation)
    check(frame, InputSpec(32, 32), 32, 32, 0.5)
    slot, _ = run(frame, InputSpec(32, 32, pad=(-9, -9, -9)), 32, 32)
    assert (slot[0] != -9).sum() == 32


@pytest.mark.parametrize("scale", [0.25, 0.8, 1, 1.5, 2, 2.0005, 3, 4, 4.01, 7.3, 11])
def test_every_scale(scale: float) -> None:
    # A scale just over 2 takes many samples in a row to differ from 2.
    outputs, rows = (2000, 2) if scale == 2.0005 else (100, 30)
    frame = random_frame(round(outputs * scale), rows, seed=3)
    check(frame, InputSpec(outputs, rows, place="stretch"), outputs, rows, 0.3)


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("range_", [1, 2])
@pytest.mark.parametrize("layout", ["I420", "P010"])
def test_every_color_matrix_and_range(matrix: int, range_: int, layout: str) -> None:
    frame = random_frame(24, 18, layout, color=Color(matrix=matrix, range=range_))
    check(frame, InputSpec(24, 18), 24, 18, TOLERANCE)


def test_untagged_color_follows_the_height() -> None:
    small, large = (random_frame(16, height, color=Color()) for height in (718, 720))
    tagged = [Color(matrix=6, range=1), Color(matrix=1, range=1)]
    for frame, color in zip((small, large), tagged, strict=True):
        expected = replace(frame, info=replace(frame.info, color=color))
        spec = InputSpec(16, 16)
        np.testing.assert_array_equal(run(frame, spec, 16, 16)[0], run(expected, spec, 16, 16)[0])


def test_twelve_bits_are_read_in_ten() -> None:
    rng = np.random.default_rng(1)
    y, u, v = (rng.integers(0, 1024, shape, np.uint16) for shape in ((12, 20), (6, 10), (6, 10)))
    ten = make_frame(y, u, v, "I010")
    twelve = make_frame(4 * y + 3, 4 * u + 3, 4 * v + 3, "I010")
    surface = replace(twelve.surface, bit_depth=12)
    twelve = replace(twelve, surface=surface, info=replace(twelve.info, bit_depth=12))
    spec = InputSpec(9, 9)
    np.testing.assert_array_equal(run(ten, spec, 9, 9)[0], run(twelve, spec, 9, 9)[0])


@pytest.mark.parametrize("place", ["top-left", "center", "stretch"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("size", [(50, 20), (21, 60)])
def test_places_channels_and_normalisation(
    place: Any, channels: Any, size: tuple[int, int]
) -> None:
    spec = InputSpec(
        *(32, 33),
        channels=channels,
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        pad=(114, 0, 255),
        place=place,
    )
    check(random_frame(*size), spec, 32, 33, TOLERANCE / 255 / 0.22)


def test_float16_is_the_float32_result_rounded_to_nearest_even() -> None:
    # gain and bias spread the values over normals, subnormals, overflow and both signs.
    for scale, mean in [(1 / 255, 0.5), (1e-7, 1e-5), (1e-9, 0.0), (600.0, 70000.0)]:
        spec = InputSpec(60, 40, scale=scale, mean=(mean, mean, -mean))
        frame = random_frame(90, 60, seed=5)
        single, _ = run(frame, spec, 60, 40)
        half, _ = run(frame, replace(spec, dtype="float16"), 60, 40)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(
                half.view(np.uint16), single.astype(np.float16).view(np.uint16)
            )


def test_at_the_same_size_grey_pixels_pass_unchanged() -> None:
    y = np.arange(256).reshape(16, 16)
    grey = np.full((8, 8), 128)
    frame = make_frame(y, grey, grey, color=Color(matrix=1, range=2))
    slot, placement = run(frame, InputSpec(16, 16), 16, 16)
    assert placement == Placement(1, 1, 0, 0)
    for channel in slot:
        np.testing.assert_array_equal(channel, y)


@pytest.mark.parametrize("size", [(640, 360), (97, 201), (5, 3)])
def test_a_flat_picture_stays_flat_at_every_size(size: tuple[int, int]) -> None:
    y, c = np.full((181, 333), 235), np.full((91, 167), 128)
    slot, _ = run(make_frame(y, c, c), InputSpec(*size, place="stretch"), *size)
    np.testing.assert_array_equal(slot, np.full((3, *size[::-1]), 255))


@pytest.mark.parametrize("scale", [2.5, 3, 4, 7])
def test_a_fine_checkerboard_becomes_grey_when_shrunk(scale: float) -> None:
    rows, columns = np.indices((140, 280))
    board = np.where((rows + columns) % 2, 255, 0)
    grey = np.full((70, 140), 128)
    frame = make_frame(board, grey, grey, color=Color(matrix=1, range=2))
    size = round(280 / scale), round(140 / scale)
    slot, _ = run(frame, InputSpec(*size, place="stretch"), *size)
    assert np.abs(slot - 127.5).max() < 255 / scale**2 / 2 + 1


@pytest.mark.parametrize("orientation", range(8))
def test_turning_the_source_turns_the_result_exactly(orientation: int) -> None:
    stored = random_frame(45, 31, seed=7)
    turned = random_frame(45, 31, seed=7, orientation=orientation)
    size = (20, 17)[:: -1 if orientation & 4 else 1]
    spec = InputSpec(1, 1, place="stretch")
    slot, _ = run(stored, spec, 20, 17)
    expected = gold.upright(slot.transpose(1, 2, 0), orientation).transpose(2, 0, 1)
    np.testing.assert_array_equal(run(turned, spec, *size)[0], expected)


def test_a_slot_leaves_its_neighbours_alone() -> None:
    frame = random_frame(50, 20)
    for dtype in ("float32", "float16"):
        spec = InputSpec(24, 16, dtype=dtype)
        batch = np.full((3, 3, 16, 24), 7, dtype)
        letterbox(frame, batch, 1, spec)
        assert (batch[0] == 7).all()
        assert (batch[2] == 7).all()
        np.testing.assert_array_equal(batch[1], run(frame, spec, 24, 16)[0])


@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    model=st.tuples(st.integers(1, 1300), st.integers(1, 1300)),
    aspect=st.fractions(Fraction(1, 4), Fraction(4), max_denominator=120),
    place=st.sampled_from(["top-left", "center"]),
)
def test_a_fitted_picture_lies_inside_fills_an_axis_and_keeps_its_shape(
    size: tuple[int, int], model: tuple[int, int], aspect: Fraction, place: str
) -> None:
    left, top, width, height = fit(*size, aspect, *model, place)
    assert left >= 0 and top >= 0 and width >= 1 and height >= 1  # noqa: PT018
    assert left + width <= model[0] and top + height <= model[1]  # noqa: PT018
    assert width == model[0] or height == model[1]
    scale = min(Fraction(model[0]) / (size[0] * aspect), Fraction(model[1], size[1]))
    assert abs(width - max(Fraction(1), size[0] * aspect * scale)) <= Fraction(1, 2)
    assert abs(height - max(Fraction(1), size[1] * scale)) <= Fraction(1, 2)
    spare = model[0] - width, model[1] - height
    assert (left, top) == ((spare[0] // 2, spare[1] // 2) if place == "center" else (0, 0))


@given(
    samples=st.integers(1, 400),
    outputs=st.integers(1, 300),
    part=st.sampled_from([1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_resampling_weights_are_the_exact_filter_and_sum_to_one(
    samples: int, outputs: int, part: int
) -> None:
    count = (samples + part - 1) // part
    first, weights = resampling(count, Fraction(samples, part * outputs), outputs)
    assert (weights >= 0).all()
    assert (weights.sum(1) == 2048).all()
    dense = np.zeros((outputs, count))
    for i in range(outputs):
        dense[i, first[i] : first[i] + weights.shape[1]] = weights[i]
    truth = gold.filter_matrix(count, samples / part, outputs)
    # A weight is a difference of two roundings; what overhangs the edge joins the last one.
    assert np.abs(dense / 2048 - truth)[:, : max(1, count - 1)].max() < 1.01 / 2048


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    model=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    orientation=st.integers(0, 7),
    aspect=st.sampled_from([Fraction(1), Fraction(8, 9), Fraction(32, 27), Fraction(0)]),
    place=st.sampled_from(["top-left", "center", "stretch"]),
)
@settings(max_examples=80, deadline=None)
def test_any_geometry_matches_the_definition(
    size: tuple[int, int],
    model: tuple[int, int],
    layout: str,
    orientation: int,
    aspect: Fraction,
    place: Any,
) -> None:
    frame = random_frame(*size, layout, orientation=orientation, sample_aspect_ratio=aspect)
    spec = InputSpec(0, 0, place=place)
    check(frame, spec, *model, 1.0)  # up to 60 taps, each edge rounded
    _, placement = run(frame, spec, *model)
    corners = np.array([[0, 0, frame.width, frame.height]], np.float32)
    scale = np.array([placement.scale_x, placement.scale_y] * 2)
    pad = np.array([placement.pad_x, placement.pad_y] * 2)
    on_model = corners * scale + pad
    np.testing.assert_allclose(on_model, np.round(on_model), atol=1e-3)
    np.testing.assert_allclose(placement.to_source(on_model.astype(np.float32)), corners, atol=1e-3)
