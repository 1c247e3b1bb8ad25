"""The CPU device: PyAV's codecs, kernels built by g++, ONNX Runtime. The embedded default."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from vidai.device import FREE_SIZE, Device, EncoderSettings
from vidai.devices.cpu.codecs import CpuDecoder, CpuEncoder, private_copy
from vidai.devices.cpu.session import OnnxSession
from vidai.errors import DeviceUnavailable, KernelError
from vidai.native import load_kernels
from vidai.transfers import Transfers
from vidai.turns import Turns
from vidai.types import Frame, InputSpec, StreamInfo

_PASSED = {np.int32: ctypes.c_int32, np.float32: ctypes.c_float}


def pack(arg: Any) -> Any:
    """One kernel argument as ctypes passes it: arrays and addresses become pointers."""
    if isinstance(arg, np.ndarray):
        return ctypes.c_void_p(arg.ctypes.data)
    if isinstance(arg, int):
        return ctypes.c_void_p(arg)
    return _PASSED[type(arg)](arg)


class CpuDevice:
    """Implements vidai.device.Device on the host. Arrays are NumPy's."""

    name = "cpu"
    dlpack_device = (1, 0)

    asynchronous = False
    strict = False
    max_batch = 1  # one picture a core is faster than several on all of them

    def __init__(self) -> None:
        self.library = load_kernels()
        self.workers = len(os.sched_getaffinity(0))
        self.transfers = Transfers()
        self.turns = Turns()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CpuDevice)  # there is one CPU

    def __hash__(self) -> int:
        return hash(CpuDevice)

    @property
    def main(self) -> CpuDevice:
        return self

    def lane(self) -> CpuDevice:
        return self

    def after(self, other: Device) -> None:
        """Whatever was asked for is done."""

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return np.empty(shape, dtype)

    def to_host(self, array: npt.NDArray[Any], what: str = "array") -> npt.NDArray[Any]:
        return array

    def to_device(self, array: npt.NDArray[Any], what: str = "array") -> npt.NDArray[Any]:
        return np.ascontiguousarray(array)

    constant = to_device

    def borrow(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(array)

    def launch(self, kernel: str, extent: tuple[int, int, int], *args: Any) -> None:
        """One ctypes call; it releases the GIL and runs on the calling thread (see grid.h)."""
        try:
            function = getattr(self.library, kernel)
        except AttributeError:
            raise KernelError(f"no kernel {kernel!r} in {self.library._name}") from None
        function(*map(pack, args))

    def writable(self, frame: Frame) -> Frame:
        return frame if frame.writable else private_copy(frame)

    def decoder(
        self, stream: VideoStream, info: StreamInfo, *, low_delay: bool = False
    ) -> CpuDecoder:
        return CpuDecoder(self, stream, info, low_delay=low_delay)

    def encoder(self, info: StreamInfo, settings: EncoderSettings) -> CpuEncoder:
        return CpuEncoder(info, settings)

    def session(
        self,
        model: bytes,
        spec: InputSpec = FREE_SIZE,
        name: str = "model",
        progress: Callable[[str, float], None] | None = None,
    ) -> OnnxSession:
        return OnnxSession(self, model)

    def synchronize(self) -> None:
        """Launches have returned when they are done."""


def open(index: int = 0) -> CpuDevice:  # noqa: A001 (the name that open_device looks for)
    """The CPU device; there is one."""
    if index:
        raise DeviceUnavailable(f"there is one CPU device, not cpu:{index}: use cpu")
    return CpuDevice()
