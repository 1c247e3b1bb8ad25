"""rgb against plain NumPy (tests/gold.py), and one form of the kernel against the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import gold
from tests.builds import gpu_form
from tests.surfaces import LAYOUTS, make_frame, planes_of, random_frame
from vidai.ops.letterbox import letterbox
from vidai.ops.rgb import rgb
from vidai.types import Color, Frame, InputSpec


def run(frame: Frame) -> npt.NDArray[np.uint8]:
    """The picture that both forms of the kernel agree on."""
    picture: npt.NDArray[Any] = rgb(frame)
    np.testing.assert_array_equal(picture, rgb(replace(frame, device=gpu_form())))
    return picture


def check(frame: Frame) -> None:
    picture = run(frame)
    truth = gold.resized(frame, planes_of(frame), frame.width, frame.height)
    assert picture.dtype == np.uint8
    assert np.abs(picture - truth).max() <= 0.6  # half of it is the rounding to a whole number


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_orientation_at_odd_sizes(layout: str, orientation: int) -> None:
    for seed, size in enumerate([(1, 1), (2, 2), (7, 5), (64, 48), (1, 50), (50, 1), (33, 31)]):
        check(random_frame(*size, layout, seed, orientation=orientation, padding=2 * seed))


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("range_", [1, 2])
@pytest.mark.parametrize("layout", ["NV12", "I010"])
def test_every_color_matrix_and_range(matrix: int, range_: int, layout: str) -> None:
    check(random_frame(24, 18, layout, color=Color(matrix=matrix, range=range_)))


def test_full_range_grey_passes_unchanged() -> None:
    y = np.arange(256).reshape(16, 16)
    grey = np.full((8, 8), 128)
    picture = run(make_frame(y, grey, grey, color=Color(matrix=9, range=2)))
    np.testing.assert_array_equal(picture, np.repeat(y[:, :, None], 3, 2))


def test_ten_bits_round_to_eight() -> None:
    y = np.arange(64, 941).reshape(1, -1)
    grey = np.full((1, 439), 512)
    picture = run(make_frame(y, grey, grey, "P010"))
    assert np.abs(picture[0, :, 0] - (y[0] - 64) * 255 / 876).max() < 0.53  # sums are in 32nds


def test_twelve_bits_are_read_in_ten() -> None:
    frame = random_frame(20, 12, "I010", seed=2)
    y, u, v = (4 * plane for plane in planes_of(frame))
    twelve = make_frame(y, u, v, "I010")
    twelve = replace(twelve, surface=replace(twelve.surface, bit_depth=12))
    np.testing.assert_array_equal(run(twelve), run(frame))


def test_primaries_come_out_as_themselves() -> None:
    """Colour bars, R'G'B' to Y'CbCr by the equations of BT.709, limited range."""
    colors = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)])
    luma = colors @ (0.2126, 0.7152, 0.0722) / 255
    cb = (colors[:, 2] / 255 - luma) / 1.8556
    cr = (colors[:, 0] / 255 - luma) / 1.5748
    y, u, v = (np.rint(p).astype(int) for p in (16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr))
    wide = [np.tile(np.repeat(p, n), (n, 1)) for p, n in ((y, 8), (u, 4), (v, 4))]
    picture = run(make_frame(wide[0], wide[1], wide[2]))
    assert np.abs(picture[4, 4::8].astype(int) - colors).max() <= 2


def test_it_is_what_letterbox_gives_at_the_same_size() -> None:
    frame = random_frame(30, 22, "NV12", orientation=6)
    batch = np.empty((1, 3, 30, 22), np.float32)
    letterbox(frame, batch, 0, InputSpec(22, 30))
    assert np.abs(rgb(frame) - batch[0].transpose(1, 2, 0)).max() <= 0.75


def test_frames_turn_into_arrays() -> None:
    frame = random_frame(8, 6)
    np.testing.assert_array_equal(np.asarray(frame), rgb(frame))
    np.testing.assert_array_equal(np.from_dlpack(frame), rgb(frame))
