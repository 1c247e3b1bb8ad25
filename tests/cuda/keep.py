"""A sink that keeps the pictures it is given, whatever device they are on."""

from __future__ import annotations

import ctypes
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vidai.device import Device
from vidai.sources.file import FileSource
from vidai.types import Detections, Frame

Planes = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


class Keep:
    """Implements vidai.pipeline.Sink. kept: (pts, planes, detections) of each frame."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.kept: list[tuple[int, Planes, Detections]] = []

    def check(self, source: FileSource, device: Device) -> None: ...

    def open(self, source: FileSource, device: Device) -> None: ...

    def write(self, frame: Frame, detections: Detections) -> None:
        self.kept.append((frame.pts, planes_of(frame), detections))

    def write_packet(self, packet: av.Packet[Any]) -> None: ...

    def close(self, *, partial: bool = False) -> str:
        return ""

    def abort(self) -> None: ...


def planes_of(frame: Frame) -> Planes:
    """Copies of the sample values y, u, v."""
    s = frame.surface
    if frame.device.name == "cpu":
        rows, columns = (s.height + 1) // 2, (s.width + 1) // 2
        return (
            _plane(s.y, s.y_pitch, 1, s.height, s.width, s.bit_depth) >> s.shift,
            _plane(s.u, s.c_pitch, s.c_step, rows, columns, s.bit_depth) >> s.shift,
            _plane(s.v, s.c_pitch, s.c_step, rows, columns, s.bit_depth) >> s.shift,
        )
    host = frame.device.to_host(s.owner) >> s.shift
    chroma = host[s.height + s.height % 2 :]
    rows, columns = (s.height + 1) // 2, (s.width + 1) // 2
    y = host[: s.height, : s.width]
    return y, chroma[:rows, 0 : 2 * columns : 2], chroma[:rows, 1 : 2 * columns : 2]


def _plane(
    address: int, pitch: int, step: int, rows: int, columns: int, bit_depth: int
) -> npt.NDArray[Any]:
    dtype = np.dtype(np.uint8 if bit_depth == 8 else np.uint16)
    size = pitch * (rows - 1) + ((columns - 1) * step + 1) * dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    strides = (pitch, step * dtype.itemsize)
    return np.ndarray((rows, columns), dtype, memoryview(memory), strides=strides).copy()
