"""The CUDA device: NVDEC, kernels compiled by NVRTC, TensorRT, NVENC. Pixels stay on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream
from cuda.core import LaunchConfig, Stream, launch

from vidai.device import FREE_SIZE, Decoder, Device, Encoder, EncoderSettings, Session
from vidai.devices.cuda.decoder import open_decoder
from vidai.devices.cuda.driver import Gpu, translated
from vidai.devices.cuda.encoder import open_encoder
from vidai.devices.cuda.memory import DeviceArray
from vidai.devices.cuda.session import open_session
from vidai.devices.cuda.surface import surface_of
from vidai.errors import KernelError
from vidai.types import Frame, InputSpec, StreamInfo

_THREADS = 256  # a block's, as __launch_bounds__ in grid.h says


class CudaDevice:
    """Implements vidai.device.Device: one lane, which is a CUDA stream, of one GPU.

    strict: what this GPU cannot do itself is an error instead of work for the CPU. main: the
    GPU's own lane, None for that lane itself.
    """

    asynchronous = True
    workers = 2  # one batch is prepared while the other runs
    max_batch = 8

    def __init__(
        self, gpu: Gpu, stream: Stream, *, main: CudaDevice | None = None, strict: bool = False
    ) -> None:
        self.gpu = gpu
        self.main = main or self
        self.stream = stream
        self.strict = strict
        self.name = f"cuda:{gpu.index}"
        self.dlpack_device = (2, gpu.index)
        self.transfers = gpu.transfers
        self.turns = gpu.turns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CudaDevice) and other.gpu is self.gpu

    def __hash__(self) -> int:
        return id(self.gpu)

    def lane(self) -> CudaDevice:
        stream = self.gpu.new_stream()
        return CudaDevice(self.gpu, stream, main=self.main, strict=self.strict)

    def after(self, other: Device) -> None:
        assert isinstance(other, CudaDevice), f"{self.name} cannot wait for {other.name}"
        self.gpu.order(other.stream, self.stream)

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        return self.gpu.allocate(shape, np.dtype(dtype), self.stream)

    def to_host(self, array: DeviceArray, what: str = "array") -> npt.NDArray[Any]:
        if array.stream is not None:
            self.gpu.order(array.stream, self.stream)
        host = np.empty(array.shape, array.dtype)
        self.gpu.copy_to_host(host, array.ptr, self.stream, what)
        return host

    def to_device(self, array: npt.NDArray[Any], what: str = "array") -> DeviceArray:
        array = np.ascontiguousarray(array)
        sent = self.empty(array.shape, array.dtype)
        self.gpu.copy_to_device(sent.ptr, array, self.stream, "host_to_device", what)
        return sent

    def borrow(self, array: DeviceArray) -> DeviceArray:
        if array.stream is None or array.stream is self.stream:
            return array
        self.gpu.order(array.stream, self.stream)
        return array.lent(self.stream)

    def constant(self, array: npt.NDArray[Any], what: str = "table") -> DeviceArray:
        array = np.ascontiguousarray(array)
        kept = self.gpu.allocate_shared(array.shape, array.dtype)
        self.gpu.copy_to_device(kept.ptr, array, self.stream, "setup", what)
        self.synchronize()
        return kept

    def launch(self, kernel: str, extent: tuple[int, int, int], *args: Any) -> None:
        """Asynchronous: an error of the kernel itself shows at a later call."""
        self.gpu.enter()
        packed = (arg.ptr if isinstance(arg, DeviceArray) else arg for arg in args)
        with translated(KernelError, f"kernel {kernel} cannot run"):
            launch(self.stream, _grid(extent), self.gpu.kernel(kernel), *packed)

    def writable(self, frame: Frame) -> Frame:
        if frame.writable:
            return frame
        s = frame.surface
        source = self.borrow(s.owner)
        copy = self.empty(source.shape, source.dtype)
        self.gpu.copy_within(copy.ptr, source.ptr, source.nbytes, self.stream, "private copy")
        surface = surface_of(copy, s.width, s.height)
        return replace(frame, surface=surface, device=self, writable=True)

    def decoder(self, stream: VideoStream, info: StreamInfo, *, low_delay: bool = False) -> Decoder:
        return open_decoder(self.lane(), stream, info, low_delay=low_delay)

    def encoder(self, info: StreamInfo, settings: EncoderSettings) -> Encoder:
        return open_encoder(self, info, settings)

    def session(
        self,
        model: bytes,
        spec: InputSpec = FREE_SIZE,
        name: str = "model",
        progress: Callable[[str, float], None] | None = None,
    ) -> Session:
        return open_session(self.lane(), model, spec, name, progress)

    def synchronize(self) -> None:
        self.gpu.wait(self.stream)


@lru_cache(maxsize=1024)
def _grid(extent: tuple[int, int, int]) -> LaunchConfig:
    """Blocks of neighbours: kernels stride over what the grid does not reach."""
    count, rows, columns = extent
    across = _THREADS if rows == 1 else 32
    down = _THREADS // across
    return LaunchConfig(
        grid=(-(-columns // across), min(-(-rows // down), 65535), min(count, 65535)),
        block=(across, down, 1),
    )


def open(index: int = 0) -> CudaDevice:  # noqa: A001 (the name that open_device looks for)
    """A lane of the GPU of that number. Raises DeviceUnavailable."""
    return _main(Gpu.open(index)).lane()


@cache
def _main(gpu: Gpu) -> CudaDevice:
    return CudaDevice(gpu, gpu.new_stream())
