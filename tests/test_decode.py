"""Decoding on the CPU against PyAV's own decode of the same file."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from tests.media import make_clip, moving_shapes, open_input, planes_of, to_frame
from vidai.device import Device
from vidai.devices.cpu.codecs import CpuDecoder, private_copy, surface_of
from vidai.sources.file import FileSource
from vidai.types import Color, Frame, StreamInfo

CLIPS = [
    ("h264.mp4", "libx264", "yuv420p"),
    ("h264.mov", "libx264", "yuv420p10le"),
    ("h264.ts", "libx264", "yuv420p"),
    ("h264.avi", "libx264", "yuv420p"),
    ("hevc.mp4", "libx265", "yuv420p"),
    ("hevc.mkv", "libx265", "yuv420p10le"),
    ("hevc.ts", "libx265", "yuv420p"),
    ("av1.mp4", "libsvtav1", "yuv420p10le"),
    ("av1.webm", "libsvtav1", "yuv420p"),
    ("vp8.webm", "libvpx", "yuv420p"),
    ("vp9.webm", "libvpx-vp9", "yuv420p"),
    ("mpeg2.ts", "mpeg2video", "yuv420p"),
    ("mpeg2.mkv", "mpeg2video", "yuv420p"),
    ("mpeg4.avi", "mpeg4", "yuv420p"),
    ("mpeg4.mp4", "mpeg4", "yuv420p"),
    ("mjpeg.avi", "mjpeg", "yuvj420p"),
    ("mjpeg.mov", "mjpeg", "yuvj420p"),
]
CONVERTED = [
    ("yuv422p", "libx264", "yuv420p"),
    ("yuv444p", "libx264", "yuv420p"),
    ("yuv444p10le", "libx264", "yuv420p10le"),
    ("gray", "ffv1", "yuv420p"),
    ("yuvj422p", "mjpeg", "yuvj420p"),
    ("yuv422p10le", "ffv1", "yuv420p10le"),
    ("yuv420p12le", "libx265", "yuv420p10le"),
    ("yuva420p", "ffv1", "yuv420p"),
    ("gray10le", "ffv1", "yuv420p10le"),
]
RGB = [
    ("bgr0", "ffv1"),
    ("rgb24", "qtrle"),
    ("gbrp10le", "ffv1"),
    ("rgb24", "png"),
    ("pal8", "png"),
]


def decoded(source: FileSource, device: Device) -> Iterator[Frame]:
    decoder = CpuDecoder(device, source.video, source.info)
    for packet in source.packets():
        if packet.stream is source.video:
            yield from decoder.decode(packet)
    yield from decoder.decode(None)
    assert decoder.damaged == 0


def frames_of(path: Path, device: Device, **cut: float) -> list[Frame]:
    with FileSource(path, **cut) as source:
        return list(decoded(source, device))


def truth_of(path: Path) -> list[av.VideoFrame]:
    with open_input(path) as container:
        return list(container.decode(container.streams.video[0]))


def surface_planes(frame: Frame) -> list[npt.NDArray[Any]]:
    return planes_of(frame.surface.owner)


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), CLIPS)
def test_planes_and_times_equal_pyav_s(
    name: str, codec: str, pix_fmt: str, device: Device, tmp_path: Path
) -> None:
    path = make_clip(tmp_path / name, codec=codec, pix_fmt=pix_fmt, width=70, height=50)
    truth = truth_of(path)
    frames = frames_of(path, device)
    assert len(frames) == len(truth) == 12
    for index, (frame, expected) in enumerate(zip(frames, truth, strict=True)):
        assert frame.index == index
        assert frame.pts == (expected.dts if expected.pts is None else expected.pts)
        assert not frame.writable
        assert frame.surface.bit_depth == frame.info.bit_depth
        for ours, theirs in zip(surface_planes(frame), planes_of(expected), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("pix_fmt", "codec", "delivered"), CONVERTED)
def test_other_formats_become_420_with_their_luma_kept(
    pix_fmt: str, codec: str, delivered: str, device: Device, tmp_path: Path
) -> None:
    path = make_clip(tmp_path / "clip.mkv", codec=codec, pix_fmt=pix_fmt, frames=3)
    truth = truth_of(path)
    assert truth[0].format.name == pix_fmt
    drop = 2 if pix_fmt.endswith("12le") else 0
    for frame, expected in zip(frames_of(path, device), truth, strict=True):
        assert frame.writable
        assert frame.surface.owner.format.name == delivered
        ours = surface_planes(frame)[0].astype(int)
        theirs = planes_of(expected)[0].astype(int)
        if drop:  # swscale dithers the lost bits
            assert np.abs(ours - theirs / 4).max() <= 1
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("pix_fmt", "codec"), RGB)
@pytest.mark.parametrize("height", [48, 720])
def test_rgb_becomes_limited_range_in_the_matrix_of_its_height(
    pix_fmt: str, codec: str, height: int, device: Device, tmp_path: Path
) -> None:
    def flat(index: int) -> npt.NDArray[Any]:
        return np.full((height, 64, 3), (200, 100, 50), np.uint8)

    path = make_clip(
        tmp_path / f"clip.{'mkv' if codec == 'ffv1' else 'mov'}",
        codec=codec, pix_fmt=pix_fmt, height=height, frames=2, draw=flat,
    )  # fmt: skip
    frame = frames_of(path, device)[0]
    assert (frame.info.color.matrix, frame.info.color.range) == (1 if height == 720 else 6, 1)
    r, g, b = truth_of(path)[0].to_ndarray(format="rgb24")[0, 0].astype(float)
    kr, kb = frame.info.color.luma_weights
    luma = kr * r + (1 - kr - kb) * g + kb * b
    expected = [
        16 + 219 * luma / 255,
        128 + 112 * (b - luma) / (1 - kb) / 255,
        128 + 112 * (r - luma) / (1 - kr) / 255,
    ]
    depth = frame.surface.bit_depth
    found = [plane[0, 0] / 2 ** (depth - 8) for plane in surface_planes(frame)]
    np.testing.assert_allclose(found, expected, atol=1.5)


@pytest.mark.parametrize("size", [(65, 49), (33, 18), (18, 33)])
def test_odd_sizes_have_rounded_up_chroma(
    size: tuple[int, int], device: Device, tmp_path: Path
) -> None:
    width, height = size
    path = make_clip(tmp_path / "clip.webm", codec="libvpx-vp9", width=width, height=height)
    frame = frames_of(path, device)[3]
    assert [p.shape for p in surface_planes(frame)] == [
        (height, width),
        ((height + 1) // 2, (width + 1) // 2),
        ((height + 1) // 2, (width + 1) // 2),
    ]


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p", "nv12", "yuv420p10le", "p010le"])
@pytest.mark.parametrize("size", [(64, 48), (63, 47), (130, 6)])
def test_a_private_copy_is_equal_and_independent(
    name: str, size: tuple[int, int], device: Device
) -> None:
    picture = to_frame(moving_shapes(1, *size), name)
    info = StreamInfo("x", "h264", *size, name, Fraction(1, 25))
    frame = Frame(info, 3, 7, surface_of(picture), device)
    copy = private_copy(frame)
    assert copy.writable
    assert (copy.index, copy.pts, copy.info) == (3, 7, info)
    before = planes_of(picture)
    for ours, theirs in zip(surface_planes(copy), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for plane in copy.surface.owner.planes:
        np.frombuffer(plane, np.uint8)[:] = 99
    for now, then in zip(planes_of(picture), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_size_change_in_mid_stream_renews_the_info(device: Device, tmp_path: Path) -> None:
    small = make_clip(tmp_path / "small.ts", width=64, height=48, frames=5)
    large = make_clip(tmp_path / "large.ts", width=96, height=80, frames=5, start=0.2)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    frames = frames_of(joined, device)
    sizes = [(f.info.width, f.info.height) for f in frames]
    assert sizes == [(64, 48)] * 5 + [(96, 80)] * 5
    assert sizes == [(f.surface.width, f.surface.height) for f in frames]
    assert [f.index for f in frames] == list(range(10))


def test_times_of_a_variable_rate_are_kept(device: Device, tmp_path: Path) -> None:
    pts = [0, 40, 41, 90, 300, 1000]
    path = make_clip(tmp_path / "clip.mkv", pts=pts, time_base=Fraction(1, 1000))
    assert [f.pts * f.info.time_base * 1000 for f in frames_of(path, device)] == pts


def test_flushing_twice_gives_nothing(device: Device, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=2)
    with FileSource(path) as source:
        decoder = CpuDecoder(device, source.video, source.info)
        assert decoder.decode(None) == []
        assert decoder.decode(None) == []


def test_full_range_is_told(device: Device, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.avi", codec="mjpeg", pix_fmt="yuvj420p", frames=2)
    assert frames_of(path, device)[0].info.color.full_range
    tags = (9, 1, 9, 16)
    path = make_clip(tmp_path / "clip.mp4", pix_fmt="yuv420p10le", color=tags, frames=2)
    assert frames_of(path, device)[0].info.color == Color(9, 9, 16, 1)
