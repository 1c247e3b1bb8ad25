"""write_rgb against plain NumPy (tests/gold.py), and against rgb, whose way back it is."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import gold
from tests.surfaces import LAYOUTS, make_frame, planes_of, random_frame
from vidai.ops.rgb import rgb
from vidai.ops.yuv import write_rgb
from vidai.types import Color, Frame

Picture = npt.NDArray[np.uint8]


def noise(frame: Frame, seed: int = 0) -> Picture:
    """Every colour, pure ones above all."""
    rng = np.random.default_rng(seed)
    size = (frame.height, frame.width, 3)
    pure, any_ = rng.choice([0, 255], size), rng.integers(0, 256, size)
    return np.where(rng.random(size) < 0.5, pure, any_).astype(np.uint8)


def smooth(width: int, height: int) -> Picture:
    """A picture that halved chroma can hold."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 20 + y / 35), np.cos(y / 25), np.sin((x - y) / 30)]
    return np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8)


def check(frame: Frame, seed: int = 0) -> None:
    picture = noise(frame, seed)
    assert write_rgb(frame, picture) is frame
    for plane, truth in zip(planes_of(frame), gold.to_yuv(frame, picture), strict=True):
        assert np.abs(plane - truth).max() <= 0.503  # half of it is the rounding


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_orientation_at_odd_sizes(layout: str, orientation: int) -> None:
    for seed, size in enumerate([(1, 1), (2, 2), (7, 5), (64, 48), (1, 50), (50, 1), (33, 31)]):
        how = {"orientation": orientation, "padding": 2 * seed, "writable": True}
        check(random_frame(*size, layout, seed, **how), seed)


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("range_", [1, 2])
@pytest.mark.parametrize("layout", ["NV12", "I010"])
def test_every_color_matrix_and_range(matrix: int, range_: int, layout: str) -> None:
    check(random_frame(24, 18, layout, color=Color(matrix=matrix, range=range_), writable=True))


@pytest.mark.parametrize(
    ("color", "samples"),
    [
        ((0, 0, 0), (16, 128, 128)),
        ((255, 255, 255), (235, 128, 128)),
        ((255, 0, 0), (63, 102, 240)),
        ((0, 255, 0), (173, 42, 26)),
        ((0, 0, 255), (32, 240, 118)),
    ],
)
def test_bars_of_bt709_are_the_well_known_samples(color: Any, samples: Any) -> None:
    frame = random_frame(6, 4, writable=True)
    y, u, v = planes_of(write_rgb(frame, np.full((4, 6, 3), color, np.uint8)))
    assert [set(plane.ravel().tolist()) for plane in (y, u, v)] == [{s} for s in samples]


@pytest.mark.parametrize(("layout", "top"), [("NV12", 255), ("P010", 1023)])
def test_pure_colours_end_at_the_largest_sample(layout: str, top: int) -> None:
    """Of full range they are half a step beyond it."""
    frame = random_frame(6, 4, layout, color=Color(matrix=1, range=2), writable=True)
    for color, plane in (((0, 0, 255), 1), ((255, 0, 0), 2)):
        write_rgb(frame, np.full((4, 6, 3), color, np.uint8))
        assert (planes_of(frame)[plane] == top).all()


@pytest.mark.parametrize("orientation", [0, 3, 6])
@pytest.mark.parametrize(("layout", "error"), [("I420", 0.4), ("NV12", 0.4), ("P010", 0.1)])
def test_a_smooth_picture_comes_back(layout: str, error: float, orientation: int) -> None:
    frame = random_frame(97, 65, layout, orientation=orientation, writable=True)
    picture = smooth(frame.width, frame.height)
    change = rgb(write_rgb(frame, picture)).astype(int) - picture
    assert np.abs(change).max() <= 3
    assert np.abs(change).mean() <= error
    assert np.abs(change.mean((0, 1))).max() <= error / 4  # no colour drifts


def test_full_range_grey_comes_back_unchanged() -> None:
    frame = random_frame(16, 16, color=Color(matrix=1, range=2), writable=True)
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    np.testing.assert_array_equal(rgb(write_rgb(frame, picture)), picture)


def test_a_frame_that_others_see_is_copied() -> None:
    frame = random_frame(31, 17, "NV12")
    before, picture = planes_of(frame), smooth(31, 17)
    written = write_rgb(frame, picture)
    assert written.writable
    assert np.abs(rgb(written).astype(int) - picture).max() <= 3
    for old, new in zip(before, planes_of(frame), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_written_between_rows(layout: str) -> None:
    frame = random_frame(33, 21, layout, padding=6, writable=True)
    s = frame.surface
    sample = 1 if s.bit_depth == 8 else 2
    planes = ((s.y, s.y_pitch, 33, 21), (s.u, s.c_pitch, 17 * s.c_step, 11))

    def gaps() -> list[bytes]:
        return [
            ctypes.string_at(address + row * pitch + samples * sample, 6)
            for address, pitch, samples, rows in planes
            for row in range(rows - 1)
        ]

    before = gaps()
    write_rgb(frame, noise(frame))
    assert gaps() == before


def test_twelve_bits_are_written_in_ten() -> None:
    ten = random_frame(20, 12, "I010", writable=True)
    y, u, v = planes_of(ten)
    twelve = make_frame(y, u, v, "I010", writable=True)
    twelve = replace(twelve, surface=replace(twelve.surface, bit_depth=12))
    picture = noise(ten)
    write_rgb(twelve, picture)
    for a, b in zip(planes_of(twelve), planes_of(write_rgb(ten, picture)), strict=True):
        np.testing.assert_array_equal(a, 4 * b)


def test_any_view_of_an_array_is_a_picture() -> None:
    picture = noise(random_frame(12, 10))
    frame, twin = random_frame(12, 10, writable=True), random_frame(12, 10, writable=True)
    write_rgb(frame, picture[::-1, ::-1])
    write_rgb(twin, picture[::-1, ::-1].copy())
    for a, b in zip(planes_of(frame), planes_of(twin), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((12, 10, 3), np.uint8), "10 rows and 12 columns: got 12 and 10"),
        (np.zeros((10, 12), np.uint8), r"\(H, W, 3\) uint8: got \(10, 12\)"),
        (np.zeros((10, 12, 4), np.uint8), r"got \(10, 12, 4\)"),
        (np.zeros((10, 12, 3), np.float32), "float32"),
    ],
)
def test_what_is_no_picture_of_the_frame_is_refused(picture: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        write_rgb(random_frame(12, 10, writable=True), picture)
