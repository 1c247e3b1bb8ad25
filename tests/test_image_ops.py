"""Operators on RGB pictures against plain NumPy (tests/gold.py), and the steps made of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import yaml

import vidai
from tests import gold
from tests.media import ORIENTATIONS, display_matrix, make_clip
from tests.surfaces import cpu, planes_of, random_frame
from tests.test_overlay import same
from vidai.devices.cpu import CpuDevice
from vidai.errors import ConfigError, DeviceUnavailable
from vidai.ops import gaussian, hq_resize, rotate, warp, write_rgb
from vidai.steps import Gaussian, Rotate, Warp, steps_from
from vidai.types import FLIP_Y, TRANSPOSE, Detections

SIZES = [(53, 37), (37, 37), (16, 90), (1, 1), (1, 9)]
SHIFT = [[1, 0, 3], [0, 1, -2], [0, 0, 1]]


def noise(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def near(picture: npt.NDArray[np.uint8], truth: npt.NDArray[Any], error: float) -> None:
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert picture.flags.writeable
    np.testing.assert_allclose(picture, truth, rtol=0, atol=error)


@pytest.mark.parametrize("size", [(20, 14), (26, 18), (53, 37), (80, 20), (7, 90), (1, 1)])
def test_hq_resize_is_lanczos_and_antialiased(size: tuple[int, int]) -> None:
    picture = noise(53, 37) // 2 + 64  # overshoot between the two axes has room
    near(hq_resize(cpu(), picture, *size), gold.lanczos(picture, *size), 1.2)


@pytest.mark.parametrize("size", SIZES)
def test_turns_by_a_quarter_are_exact_and_counter_clockwise(size: tuple[int, int]) -> None:
    picture = noise(*size)
    near(rotate(cpu(), picture, 0), picture, 0)
    near(rotate(cpu(), picture, -720), picture, 0)
    near(rotate(cpu(), picture, 180), picture[::-1, ::-1], 0)
    square = picture[: min(size), : min(size)]
    near(rotate(cpu(), square, 90), np.rot90(square), 0)
    near(rotate(cpu(), square, -90), np.rot90(square, -1), 0)


@pytest.mark.parametrize("degrees", [1, -33.3, 45, 170])
def test_rotate_turns_about_the_centre(degrees: float) -> None:
    picture = noise(53, 37)
    angle = np.deg2rad(-degrees)  # seen with y upwards
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([26.5, 18.5])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, centre - turn @ centre
    near(rotate(cpu(), picture, degrees), gold.warp(picture, matrix), 0.51)


def test_a_shift_moves_pixels_and_leaves_black() -> None:
    picture = noise(53, 37)
    expected = np.zeros_like(picture)
    expected[:-2, 3:] = picture[2:, :-3]
    near(warp(cpu(), picture, SHIFT), expected, 0)
    half = warp(cpu(), picture, [[1, 0, 0.5], [0, 1, 0], [0, 0, 1]])
    left = np.pad(picture.astype(int), ((0, 0), (1, 0), (0, 0)))
    near(half, (left[:, :-1] + left[:, 1:]) / 2, 0.51)


@pytest.mark.parametrize("seed", range(6))
def test_warp_takes_points_where_the_matrix_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.eye(3) + rng.normal(0, 0.1, (3, 3)) * [[1, 1, 50], [1, 1, 50], [0.01, 0.01, 0]]
    picture = noise(53, 37, seed)
    warped = warp(cpu(), picture, matrix)
    near(warped, gold.warp(picture, matrix), 0.51)
    assert warped.any()
    near(warp(cpu(), picture, (-3 * matrix).tolist()), warped, 1)  # the same mapping


def test_warp_maps_a_corner_to_the_horizon() -> None:
    """The inverse's last coefficient is 0, by which libraries like to divide."""
    matrix = np.linalg.inv([[0.3, 0, 1], [0, 0.3, 1], [0.01, 0.02, 0]])
    picture = noise(53, 37)
    near(warp(cpu(), picture, matrix), gold.warp(picture, matrix), 0.51)


@pytest.mark.parametrize("sigma", [1, 2.5, 6])
def test_gaussian_blurs_and_repeats_edges(sigma: float) -> None:
    picture = noise(61, 47)
    near(gaussian(cpu(), picture, sigma), gold.gaussian(picture, sigma), 4)
    ramp = (np.arange(61) * 4)[None, :, None].repeat(47, 0).repeat(3, 2).astype(np.uint8)
    near(gaussian(cpu(), ramp, sigma), gold.gaussian(ramp, sigma), 3)
    even = np.full((20, 30, 3), (7, 100, 255), np.uint8)
    near(gaussian(cpu(), even, sigma), even, 0)


def test_any_view_is_a_picture() -> None:
    picture = noise(40, 30)[::-1, ::2]
    copy = picture.copy()
    for result, expected in (
        (hq_resize(cpu(), picture, 9, 8), hq_resize(cpu(), copy, 9, 8)),
        (warp(cpu(), picture, SHIFT), warp(cpu(), copy, SHIFT)),
        (gaussian(cpu(), picture, 2), gaussian(cpu(), copy, 2)),
    ):
        near(result, expected, 0)


@pytest.mark.parametrize("picture", [np.zeros(4), np.zeros((4, 4)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    for operate, options in (
        (hq_resize, (2, 2)),
        (rotate, (5,)),
        (warp, (SHIFT,)),
        (gaussian, (1,)),
    ):
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8: got \("):
            operate(cpu(), picture, *options)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, -1), (1 << 15, 5)])
def test_a_size_that_cannot_be_is_refused(width: int, height: int) -> None:
    with pytest.raises(ConfigError, match=r"hq_resize: .* px, not"):
        hq_resize(cpu(), noise(8, 8), width, height)


def test_without_cv_cuda_the_device_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvcuda", None)
    monkeypatch.delitem(sys.modules, "vidai.devices.cuda.image", raising=False)
    device: Any = CpuDevice()
    device.name = "cuda:1"
    with pytest.raises(DeviceUnavailable, match=r"CV-CUDA.*pip install"):
        gaussian(device, noise(8, 8), 1)


def test_steps_come_from_yaml() -> None:
    text = """
    - gaussian: {sigma: 2.5}
    - rotate: {degrees: -90}
    - warp: {matrix: [[1, 0, 3], [0, 1, -2], [0, 0, 1]]}
    """
    assert steps_from(yaml.safe_load(text)) == [Gaussian(2.5), Rotate(-90), Warp(SHIFT)]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("gaussian", "gaussian needs sigma"),
        ({"rotate": None}, "rotate needs degrees"),
        ({"warp": {"matrx": SHIFT}}, "warp has no option 'matrx': use matrix"),
        ({"gaussian": {"sigma": 0}}, "gaussian: sigma.*not 0"),
        ({"gaussian": {"sigma": float("nan")}}, "sigma.*not nan"),
        ({"gaussian": {"sigma": "much"}}, "gaussian.*much"),
        ({"rotate": {"degrees": float("inf")}}, "degrees.*not inf"),
        ({"rotate": {"degrees": "left"}}, "rotate.*left"),
        ({"warp": {"matrix": [[1, 0], [0, 1]]}}, "three rows of three"),
        ({"warp": {"matrix": [[1, 0, 0], [0, 1], [0, 0, 1]]}}, "three rows of three"),
        ({"warp": {"matrix": "flat"}}, "three rows of three.*flat"),
        ({"warp": {"matrix": [[1, 0, 0], [0, 1, float("nan")], [0, 0, 1]]}}, "finite"),
        ({"warp": {"matrix": [[1, 2, 3], [2, 4, 6], [0, 0, 1]]}}, "no inverse"),
        ({"warp": {"matrix": [[0, 0, 0]] * 3}}, "no inverse"),
    ],
)
def test_a_wrong_option_is_refused(config: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        steps_from([config])


@pytest.mark.parametrize("orientation", [0, 6])
def test_steps_do_what_their_operators_do(orientation: int) -> None:
    def fresh() -> Any:
        return random_frame(52, 38, "NV12", orientation=orientation, writable=True)

    picture = fresh().rgb()
    for step, expected in (
        (Gaussian(2), gaussian(cpu(), picture, 2)),
        (Rotate(30), rotate(cpu(), picture, 30)),
        (Warp(SHIFT), warp(cpu(), picture, SHIFT)),
    ):
        got = step(fresh(), Detections.empty())
        same(planes_of(got), planes_of(write_rgb(fresh(), expected)))


def test_a_phones_video_is_moved_as_it_is_seen(tmp_path: Path) -> None:
    """Right and up in the picture that a player shows; the container's rotation stays."""
    matrix = display_matrix(*ORIENTATIONS["turned 90"])
    clip, out = make_clip(tmp_path / "in.mp4", frames=3, matrix=matrix), tmp_path / "out.mp4"
    shift = Warp([[1, 0, 16], [0, 1, -8], [0, 0, 1]])
    vidai.Pipeline(str(clip), steps=[shift], sinks=[vidai.VideoFile(out, quality=10)]).run()
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        for a, b in zip(before.decode(video=0), after.decode(video=0), strict=True):
            assert a.rotation == b.rotation != 0
            seen, moved = (
                gold.upright(x.to_ndarray(format="rgb24"), TRANSPOSE | FLIP_Y).astype(int)
                for x in (a, b)
            )
            assert np.abs(moved[:-8, 16:] - seen[8:, :-16]).mean() < 4
            assert moved[-7:].max() < 40
            assert moved[:, :15].max() < 40
