"""One GPU: its context, memory, copies and kernels. Every copy is counted here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver
from cuda.core import Buffer, Device, Stream, StreamOptions

from vidai.devices.cuda.memory import DeviceArray, current
from vidai.devices.cuda.programs import Programs
from vidai.errors import DeviceError, DeviceUnavailable, VidaiError
from vidai.tags import reason
from vidai.transfers import Direction, Transfers
from vidai.turns import Turns

_OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
# The context is gone: every later call on this GPU fails as well.
_LOST = (
    *("CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_DEVICE_UNAVAILABLE"),
    *("CUDA_ERROR_ECC_UNCORRECTABLE", "CUDA_ERROR_HARDWARE_STACK_ERROR"),
)


class translated:  # noqa: N801 (read as a function: with translated(…))
    """CUDA's errors as vidai's: of this kind, or DeviceErrors where memory is full or the GPU lost.

    what: what was being done, in words, or a function that says it. A class and not a generator
    because every call on a frame's way goes through it.
    """

    def __init__(self, kind: type[VidaiError], what: str | Callable[[], str]) -> None:
        self._kind = kind
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, VidaiError):
            raise self.error(error) from error

    def error(self, error: Exception) -> VidaiError:
        """What to raise for a foreign error; cuda.core's have no public base class."""
        what = self._what if isinstance(self._what, str) else self._what()
        said = self.said(error)
        if _OUT_OF_MEMORY in said or isinstance(error, MemoryError):
            return DeviceError(
                f"{what}: the GPU's memory is full ({said}); run fewer streams, or smaller pictures"
            )
        if any(name in said for name in _LOST):
            return DeviceError(
                f"{what}: the GPU failed ({said}); start again, and if it happens again look at "
                f"`dmesg` and `vidai doctor`"
            )
        return self._kind(f"{what}: {said[:400]}")

    def said(self, error: Exception) -> str:
        """The error's own words, on one line."""
        return " ".join(reason(error).split())


def checked(result: tuple[Any, ...]) -> Any:
    """What a call of cuda.bindings returned; raises RuntimeError with the error's name."""
    code, *values = result
    if int(code):
        raise RuntimeError(f"{code.name} ({int(code)})")
    return values[0] if values else None


class _Shared:
    """Memory that is used on every stream: freed when the whole device is done with it."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self._gpu = gpu
        self.ptr = int(checked(driver.cuMemAlloc(max(1, size))))

    def __del__(self) -> None:
        if hasattr(self, "ptr"):
            with suppress(Exception), current(self._gpu.context):
                driver.cuMemFree(self.ptr)  # waits for what may still read it


class Gpu:
    """A GPU of this process, see `Gpu.open`."""

    def __init__(self, index: int, device: Device) -> None:
        self.index = index
        self.device = device
        self.name = str(device.name)
        capability = device.compute_capability
        self.capability = (int(capability.major), int(capability.minor))
        self.transfers = Transfers()
        self.turns = Turns()
        self._context = driver.CUcontext(int(device.context.handle))
        self._programs = Programs(f"sm_{self.capability[0]}{self.capability[1]}")
        self._kernels: dict[str, Any] = {}
        self._lock = threading.Lock()

    @staticmethod
    @cache
    def open(index: int) -> Gpu:
        """The GPU of that number, the same object each time. Raises DeviceUnavailable."""
        try:
            checked(driver.cuInit(0))
            count = int(checked(driver.cuDeviceGetCount()))
            if not count:
                raise RuntimeError("the driver shows none")
            if index >= count:
                raise DeviceUnavailable(
                    f"there is no cuda:{index}: the last GPU that the driver shows is "
                    f"cuda:{count - 1}"
                )
            device = Device(index)
            device.set_current()
            return Gpu(index, device)
        except VidaiError:
            raise
        except Exception as error:
            said = " ".join(reason(error).split())[:300]
            raise DeviceUnavailable(
                f"no NVIDIA GPU can be used ({said}): `vidai doctor` tells why, --device cpu works "
                f"anywhere"
            ) from error

    @property
    def context(self) -> int:
        """The handle of the GPU's primary context."""
        return int(self._context)

    def enter(self) -> None:
        """Make this GPU the one that the calling thread talks to."""
        code, *_ = driver.cuCtxSetCurrent(self._context)
        if int(code):
            raise DeviceError(f"cuda:{self.index} cannot be used any more: {code.name}")

    def new_stream(self) -> Stream:
        self.enter()
        with translated(DeviceError, "cannot make a CUDA stream"):
            return self.device.create_stream(options=StreamOptions(nonblocking=True))

    def order(self, earlier: Stream, later: Stream) -> None:
        """What is asked of `later` from now on waits for what was asked of `earlier`."""
        if earlier is not later:
            self.enter()
            with translated(DeviceError, "cannot order two streams"):
                later.wait(earlier)

    def kernel(self, name: str) -> Any:
        """A kernel of kernels/*.cu, compiled and loaded at its first use. Raises KernelError."""
        found = self._kernels.get(name)
        if found is None:
            with self._lock:
                found = self._kernels[name] = self._programs.kernel(name)
        return found

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Stream) -> DeviceArray:
        """Memory of the stream: whoever uses it on another one orders the two."""
        self.enter()
        size = max(1, prod(shape) * dtype.itemsize)
        with translated(DeviceError, f"cannot allocate {size} bytes on cuda:{self.index}"):
            buffer = self.device.memory_resource.allocate(size, stream=stream)
        return DeviceArray(int(buffer.handle), shape, dtype, buffer, self.index, stream)

    def allocate_shared(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Memory that every stream may use."""
        self.enter()
        size = prod(shape) * dtype.itemsize
        with translated(DeviceError, f"cannot allocate {size} bytes on cuda:{self.index}"):
            owner = _Shared(self, size)
            buffer = Buffer.from_handle(owner.ptr, max(1, size), owner=owner)
        return DeviceArray(owner.ptr, shape, dtype, buffer, self.index)

    def copy_to_device(
        self, to: int, array: npt.NDArray[Any], stream: Stream, direction: Direction, what: str
    ) -> None:
        """Of a C-contiguous array, which may change or go as soon as this returns."""
        if not array.nbytes:
            return
        self.enter()
        with translated(DeviceError, f"cannot copy {what} to cuda:{self.index}"):
            checked(driver.cuMemcpyHtoDAsync(to, address(array), array.nbytes, stream.handle))
        self.transfers.copied(direction, array.nbytes, what)

    def copy_to_host(self, to: npt.NDArray[Any], source: int, stream: Stream, what: str) -> None:
        """When what is queued on the stream is done: a copy to pageable memory waits for it."""
        if not to.nbytes:
            self.wait(stream)
            return
        self.enter()
        failed = translated(DeviceError, f"cannot copy {what} from cuda:{self.index}")
        with failed, self.turns.apart():
            checked(driver.cuMemcpyDtoHAsync(address(to), source, to.nbytes, stream.handle))
        self.transfers.copied("device_to_host", to.nbytes, what)
        self.transfers.waited("stream")

    def copy_within(self, to: int, source: int, size: int, stream: Stream, what: str) -> None:
        """From device to device memory, in stream order."""
        self.enter()
        with translated(DeviceError, f"cannot copy {what} on cuda:{self.index}"):
            checked(driver.cuMemcpyDtoDAsync(to, source, size, stream.handle))
        self.transfers.copied("device_to_device", size, what)

    def wait(self, stream: Stream) -> None:
        """Until all that is queued on the stream is done."""
        self.enter()
        failed = translated(DeviceError, f"cuda:{self.index} did not finish its work")
        with failed, self.turns.apart():
            stream.sync()
        self.transfers.waited("stream")


def address(array: npt.NDArray[Any]) -> int:
    """Of an array's first element, in host memory."""
    found: int = array.__array_interface__["data"][0]
    return found
