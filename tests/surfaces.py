"""Frames on the CPU device, made from NumPy planes in every layout that kernels read."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.device import Device, open_device
from vidai.types import FLIP_X, FLIP_Y, TRANSPOSE, Color, Frame, StreamInfo, Surface

Plane = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Layout:
    """How samples lie in memory, see vidai.types.Surface."""

    c_step: int
    bit_depth: int
    shift: int


LAYOUTS = {
    "I420": Layout(1, 8, 0),
    "NV12": Layout(2, 8, 0),
    "I010": Layout(1, 10, 0),
    "P010": Layout(2, 10, 6),
}


@cache
def cpu() -> Device:
    """One CPU device for all tests."""
    return open_device("cpu")


def make_frame(
    y: Plane,
    u: Plane,
    v: Plane,
    layout: str = "I420",
    *,
    orientation: int = 0,
    color: Color = Color(matrix=1, range=1),  # noqa: B008 (frozen)
    sample_aspect_ratio: Fraction = Fraction(1),
    padding: int = 0,
    index: int = 0,
    writable: bool = False,
) -> Frame:
    """A frame from sample values: y (H, W), u and v ((H+1)//2, (W+1)//2), stored orientation.

    padding: bytes after each row but the last, so that a plane ends where its memory does.
    """
    form = LAYOUTS[layout]
    height, width = y.shape
    dtype = np.uint8 if form.bit_depth == 8 else np.uint16
    chroma = [u, v] if form.c_step == 1 else [np.stack([u, v], -1).reshape(u.shape[0], -1)]
    memory = [_plane((p.astype(dtype) << form.shift).astype(dtype), padding) for p in [y, *chroma]]
    u_address = memory[1].ctypes.data
    v_address = memory[2].ctypes.data if form.c_step == 1 else u_address + memory[1].itemsize
    surface = Surface(
        width=width,
        height=height,
        y=memory[0].ctypes.data,
        u=u_address,
        v=v_address,
        y_pitch=memory[0].strides[0],
        c_pitch=memory[1].strides[0],
        c_step=form.c_step,
        bit_depth=form.bit_depth,
        shift=form.shift,
        owner=memory,
    )
    info = StreamInfo(
        name="test",
        codec="rawvideo",
        width=width,
        height=height,
        pixel_format=layout,
        time_base=Fraction(1, 25),
        frame_rate=Fraction(25),
        color=color,
        bit_depth=form.bit_depth,
        sample_aspect_ratio=sample_aspect_ratio,
        display_matrix=display_matrix(orientation),
    )
    return Frame(info, index, index, surface, cpu(), writable)


def random_frame(width: int, height: int, layout: str = "I420", seed: int = 0, **how: Any) -> Frame:
    """Noise over the whole range of sample values; `how` goes to make_frame."""
    rng = np.random.default_rng(seed)
    top = 1 << LAYOUTS[layout].bit_depth
    half = ((height + 1) // 2, (width + 1) // 2)
    shapes = [(height, width), half, half]
    y, u, v = (rng.integers(0, top, shape, np.uint16) for shape in shapes)
    return make_frame(y, u, v, layout, **how)


def planes_of(frame: Frame) -> tuple[Plane, Plane, Plane]:
    """Copies of the sample values y, u, v that a frame made here holds now."""
    s = frame.surface
    y, *chroma = (memory >> s.shift for memory in s.owner)
    if s.c_step == 2:
        chroma = [chroma[0][:, 0::2], chroma[0][:, 1::2]]
    return y, chroma[0], chroma[1]


def display_matrix(orientation: int) -> tuple[int, ...]:
    """The container's matrix for which StreamInfo.orientation gives this one."""
    one = 1 << 16
    x = -one if orientation & FLIP_X else one
    y = -one if orientation & FLIP_Y else one
    corners = (0, x, 0, y, 0, 0) if orientation & TRANSPOSE else (x, 0, 0, 0, y, 0)
    return (*corners, 0, 0, 1 << 30)


def _plane(values: Plane, padding: int) -> Plane:
    """The values in memory of their own: rows `padding` bytes apart, nothing after the last."""
    height, width = values.shape
    pitch = width + padding // values.itemsize
    memory = np.full(pitch * (height - 1) + width, 0x55, values.dtype)
    strides = (pitch * values.itemsize, values.itemsize)
    plane = np.lib.stride_tricks.as_strided(memory, values.shape, strides)
    plane[:] = values
    return plane
