"""Surfaces in device memory: NV12, or P010 with 10 bit in the upper bits of 16.

A surface is one array of even sides: luma rows, then half as many chroma rows, without
padding, as NVDEC's wrapper delivers and NVENC's takes it. The picture may end one column or
row earlier.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from vidai.errors import DeviceError
from vidai.types import Frame, Surface

if TYPE_CHECKING:
    from vidai.devices.cuda import CudaDevice

_SHIFT = 6  # of 10 bits in 16


def even(side: int) -> int:
    return side + side % 2


def new_surface(lane: CudaDevice, width: int, height: int, bit_depth: int) -> Surface:
    """A surface for a picture of width × height px, in memory of its own."""
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    array = lane.empty((even(height) * 3 // 2, even(width)), dtype)
    return surface_of(array, width, height)


def surface_of(array: Any, width: int, height: int) -> Surface:
    """The planes of a picture in an array as described above."""
    sample = array.dtype.itemsize
    pitch = array.shape[1] * sample
    chroma = array.ptr + pitch * even(height)
    return Surface(
        width=width,
        height=height,
        y=array.ptr,
        u=chroma,
        v=chroma + sample,
        y_pitch=pitch,
        c_pitch=pitch,
        c_step=2,
        bit_depth=8 if sample == 1 else 10,
        shift=0 if sample == 1 else _SHIFT,
        owner=array,
    )


def fill(lane: CudaDevice, surface: Surface, source: int, pitch: int) -> None:
    """Copy a picture within device memory: luma rows, then chroma rows, `pitch` bytes each."""
    if pitch != surface.y_pitch:
        raise DeviceError(
            f"NVDEC delivered rows of {pitch} bytes for a picture {surface.width} px wide, "
            f"{surface.y_pitch} were expected: this version of PyNvVideoCodec is not known"
        )
    what = "decoded picture"
    luma, chroma = surface.height * pitch, (surface.height + 1) // 2 * pitch
    if surface.u == surface.y + luma:
        lane.gpu.copy_within(surface.y, source, luma + chroma, lane.stream, what)
    else:
        lane.gpu.copy_within(surface.y, source, luma, lane.stream, what)
        lane.gpu.copy_within(surface.u, source + luma, chroma, lane.stream, what)


def upload(lane: CudaDevice, frame: Frame) -> Frame:
    """The frame, whose planes are in host memory, in device memory: one copy."""
    s = frame.surface
    dtype = np.uint8 if s.bit_depth == 8 else np.uint16
    host = np.zeros((even(s.height) * 3 // 2, even(s.width)), dtype)
    shift = (0 if s.bit_depth == 8 else _SHIFT) - s.shift
    rows, columns = (s.height + 1) // 2, (s.width + 1) // 2
    chroma = host[even(s.height) :]
    host[: s.height, : s.width] = _host_plane(s.y, s.y_pitch, 1, s.height, s.width, dtype) << shift
    for at, plane in enumerate((s.u, s.v)):
        samples = _host_plane(plane, s.c_pitch, s.c_step, rows, columns, dtype)
        chroma[:rows, at : 2 * columns : 2] = samples << shift
    array = lane.to_device(host, "picture decoded on the CPU")
    surface = surface_of(array, s.width, s.height)
    return replace(frame, surface=surface, device=lane, writable=True)


def download(lane: CudaDevice, frame: Frame, full_range: bool) -> VideoFrame:
    """The frame as a planar picture in host memory: one copy."""
    s = frame.surface
    host = lane.to_host(s.owner, "picture for the encoder on the CPU") >> s.shift
    name = "yuv420p10le" if s.bit_depth > 8 else "yuvj420p" if full_range else "yuv420p"
    picture = VideoFrame(s.width, s.height, name)
    chroma = host[even(s.height) :]
    planes = (host, chroma[:, 0::2], chroma[:, 1::2])
    for to, samples in zip(picture.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(to), host.dtype).reshape(to.height, -1)
        rows[:, : to.width] = samples[: to.height, : to.width]
    return picture


def _host_plane(
    address: int, pitch: int, step: int, rows: int, columns: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """A view of every step-th sample of a plane in host memory."""
    sample = np.dtype(dtype)
    size = pitch * (rows - 1) + ((columns - 1) * step + 1) * sample.itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    strides = (pitch, step * sample.itemsize)
    return np.ndarray((rows, columns), sample, memoryview(memory), strides=strides)
