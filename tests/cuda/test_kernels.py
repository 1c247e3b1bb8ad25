"""Every kernel on the GPU gives what it gives on the CPU, bit for bit, on noise.

Frames keep the layout of their planes on the way to the GPU, so that it sees all four; what
its own decoder delivers is NV12 and P010.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.surfaces import LAYOUTS, Plane, planes_of, random_frame
from tests.test_candidates import SIZE, laid_out, raw_output
from vidai.devices.cpu import CpuDevice
from vidai.devices.cuda import CudaDevice
from vidai.devices.cuda.surface import upload
from vidai.ops import View, candidates, draw, letterbox, redact, rgb, write_rgb
from vidai.types import Frame, InputSpec

SIZES = [(1, 1), (2, 2), (33, 31), (101, 47)]  # stored px
ORIENTATIONS = range(8)
BOXES = np.array(
    [[3.4, 2, 30, 29.5], [-9, 20, 12, 70], [25, 8, 500, 40], [5, 5, 4, 9], [7, np.nan, 9, 9]],
    np.float32,
)


def pair(gpu: CudaDevice, size: tuple[int, int], layout: str, **how: Any) -> tuple[Frame, Frame]:
    """The same noise on the GPU and on the CPU, to be drawn on."""
    frame = random_frame(*size, layout, sum(size), writable=True, **how)
    return on_gpu(gpu, frame), frame


def on_gpu(gpu: CudaDevice, frame: Frame) -> Frame:
    """A frame of tests.surfaces, its planes as they lie, in device memory."""
    arrays = [gpu.to_device(plane) for plane in frame.surface.owner]
    y, u = arrays[:2]
    planar = len(arrays) == 3
    surface = replace(
        frame.surface,
        y=y.ptr,
        u=u.ptr,
        v=arrays[2].ptr if planar else u.ptr + u.dtype.itemsize,
        y_pitch=y.shape[1] * y.dtype.itemsize,
        c_pitch=u.shape[1] * u.dtype.itemsize,
        owner=arrays,
    )
    return replace(frame, surface=surface, device=gpu)


def on_host(frame: Frame) -> tuple[Plane, Plane, Plane]:
    """What planes_of gives, of a frame made by on_gpu."""
    owner = [frame.device.to_host(array) for array in frame.surface.owner]
    return planes_of(replace(frame, surface=replace(frame.surface, owner=owner)))


def expect_equal(found: Frame, expected: Frame, before: Frame) -> None:
    """The planes of the two are equal, and no longer those of `before`."""
    planes = planes_of(expected)
    for plane, truth in zip(on_host(found), planes, strict=True):
        np.testing.assert_array_equal(plane, truth)
    assert any((a != b).any() for a, b in zip(planes, planes_of(before), strict=True))


def tensors(gpu: CudaDevice, frame: Frame, spec: InputSpec) -> tuple[bytes, bytes]:
    """What letterbox writes of the frame, a `pair`'s second, on either device."""
    shape = (2, 3, spec.height, spec.width)
    found, truth = gpu.empty(shape, spec.dtype), np.empty(shape, spec.dtype)
    for slot in (1, 0):
        placement = letterbox(on_gpu(gpu, frame), found, slot, spec)
        assert placement == letterbox(frame, truth, slot, spec)
    return gpu.to_host(found).tobytes(), truth.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_letterbox(layout: str, gpu: CudaDevice) -> None:
    spec = InputSpec(48, 40, scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    for orientation, size in product(ORIENTATIONS, SIZES):
        frame = random_frame(*size, layout, orientation=orientation)
        found, truth = tensors(gpu, frame, spec)
        assert found == truth, (orientation, size)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_letterbox_in_every_form(channels: Any, dtype: Any, gpu: CudaDevice) -> None:
    places: tuple[Any, ...] = ("top-left", "center", "stretch")
    frames = (("NV12", (201, 99)), ("P010", (37, 45)))  # area mean, bilinear
    for place, (layout, size) in product(places, frames):
        spec = InputSpec(64, 32, channels, place=place, dtype=dtype)
        found, truth = tensors(gpu, random_frame(*size, layout), spec)
        assert found == truth, (place, size)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rgb_and_back(layout: str, gpu: CudaDevice) -> None:
    rng = np.random.default_rng(2)
    for orientation, size in product(ORIENTATIONS, SIZES):
        found, truth = pair(gpu, size, layout, orientation=orientation)
        np.testing.assert_array_equal(gpu.to_host(rgb(found)), rgb(truth))

        before = random_frame(*size, layout, sum(size), orientation=orientation)
        picture = rng.integers(0, 256, (found.height, found.width, 3), np.uint8)
        expect_equal(write_rgb(found, gpu.to_device(picture)), write_rgb(truth, picture), before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_overlay(layout: str, gpu: CudaDevice) -> None:
    colors = np.random.default_rng(1).integers(0, 256, (len(BOXES), 3), np.uint8)
    labels = ["cat 0.9", "", "dog", "empty", "not a number"]
    for orientation, size in product(ORIENTATIONS, SIZES[2:]):
        found, truth = pair(gpu, size, layout, orientation=orientation)
        before = random_frame(*size, layout, sum(size))
        drawn = [draw(frame, BOXES, colors, labels, alpha=0.6) for frame in (found, truth)]
        expect_equal(drawn[0], drawn[1], before)


@pytest.mark.parametrize(("style", "shape"), [("blur", "ellipse"), ("pixelate", "box")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_redact(layout: str, style: str, shape: str, gpu: CudaDevice) -> None:
    how: dict[str, Any] = {"style": style, "shape": shape, "grow": 1.2, "cells": 5}
    for orientation, size in product(ORIENTATIONS, SIZES[2:]):
        found, truth = pair(gpu, size, layout, orientation=orientation)
        before = random_frame(*size, layout, sum(size))
        expect_equal(redact(found, BOXES, **how), redact(truth, BOXES, **how), before)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("coding", ["xyxy", "cxcywh", "cxcywh-unit", "yolox", "centerface"])
def test_candidates(coding: str, dtype: Any, gpu: CudaDevice) -> None:
    for logits, layout in product([False, True], ["anchor-major", "channel-major"]):
        raw = raw_output(coding, 1 if coding == "centerface" else 7, logits, seed=5)
        if coding != "centerface":
            del raw["offsets"]
        views = {name: laid_out(array, layout, dtype) for name, array in raw.items()}
        how = {"coding": coding, "size": SIZE.get(coding, (97, 61)), "conf": 0.3, "logits": logits}
        counts = dict(zip(("anchors", "classes"), raw["scores"].shape, strict=True))
        expect_equal_rows(gpu, views, pictures=1, **counts, **how)


def test_candidates_of_a_batch_that_has_more_than_expected(gpu: CudaDevice) -> None:
    """More rows than there is room for at first, from many threads at once."""
    output = np.random.default_rng(6).random((3, 2000, 9), np.float32)
    views = {"boxes": View(output, 0, 9, 1, 18000), "scores": View(output, 4, 9, 1, 18000)}
    how = {"coding": "cxcywh", "size": (64, 64), "conf": 0.5}
    expect_equal_rows(gpu, views, pictures=3, anchors=2000, classes=5, **how)


def expect_equal_rows(gpu: CudaDevice, views: dict[str, View], **how: Any) -> None:
    """Views of host arrays give the same candidates on both devices, and more than a few."""
    sent = {name: replace(v, array=gpu.to_device(v.array)) for name, v in views.items()}
    options: dict[str, Any] = {**views, **how}
    truth = candidates(CpuDevice(), **options)
    found = candidates(gpu, **{**options, **sent})
    for ours, theirs in zip(found, truth, strict=True):
        assert len(theirs.scores) > 5
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [(33, 31), (33, 30), (32, 31), (32, 30)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pad_and_upload(layout: str, size: tuple[int, int], gpu: CudaDevice) -> None:
    """The surfaces of the decoder and the encoder: semi-planar, and of even sides."""
    width, height = size
    frame = random_frame(width, height, layout)
    s = upload(gpu, frame).surface
    sizes = map(np.int32, (s.y_pitch, s.bit_depth > 8, width, height))
    gpu.launch("pad", (1, 2, max(size) + 1), s.y, *sizes)
    y, u, v = planes_of(frame)
    y = np.pad(y, [(0, height % 2), (0, width % 2)], mode="edge")
    uv = np.stack([u, v], -1).reshape(len(u), -1)
    found = gpu.to_host(s.owner) >> s.shift
    np.testing.assert_array_equal(found, np.concatenate([y, uv]))
