"""Arrays in device memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver
from cuda.core import Buffer, Stream
from cuda.core.utils import StridedMemoryView

_LEGACY_STREAM = 1  # what DLPack's stream=None means


class current:  # noqa: N801 (read as a function: with current(context))
    """With this context as the thread's current one; afterwards it is what it was."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        driver.cuCtxPushCurrent(self._context)

    def __exit__(self, *_: object) -> None:
        driver.cuCtxPopCurrent()


class _Loan:
    """Memory of one stream that another one reads.

    When nothing holds it any more the memory goes back to its own stream, which waits for what
    the reader's has been asked for until then.
    """

    def __init__(self, buffer: Buffer, stream: Stream, reader: Stream) -> None:
        self._buffer = buffer
        self._stream = stream
        self._reader = reader

    def __del__(self) -> None:
        with suppress(Exception), current(self._stream.context.handle):
            self._stream.wait(self._reader)


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A C-contiguous array in the memory of a GPU. It lives as long as something holds it.

    ptr: the device address of its first element. index: the GPU's number. stream: the CUDA
    stream that orders its use, None where any may. Other libraries take it without a copy,
    through DLPack (`torch.from_dlpack`) or `__cuda_array_interface__`.
    """

    ptr: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    buffer: Buffer
    index: int
    stream: Stream | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> DeviceArray:
        """The first rows, `array[:n]`; there is no other indexing."""
        if part.start or part.step or part.stop is None or not 0 <= part.stop <= self.shape[0]:
            raise IndexError(f"only [:n] with n up to {self.shape[0]} can be taken, not {part}")
        return replace(self, shape=(part.stop, *self.shape[1:]))

    def lent(self, reader: Stream) -> DeviceArray:
        """The same for another stream: the memory is used again when that is done with it.

        That stream must have been made to wait for this array's, and must live as long.
        """
        assert self.stream is not None, "what every stream may use needs no loan"
        loan = _Loan(self.buffer, self.stream, reader)
        buffer = Buffer.from_handle(self.ptr, max(1, self.nbytes), owner=loan)
        return replace(self, buffer=buffer, stream=reader)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """It cannot tell when a consumer is done: hold the array until the consumer's stream is."""
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.ptr, False),
            "strides": None,
            "stream": _LEGACY_STREAM if self.stream is None else int(self.stream.handle),
        }

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """stream: the consumer's CUDA stream, which is made to wait for this array's; -1: not.

        The consumer may drop what it was given while its stream, which must still be there then,
        reads: the memory is used again after that. With -1 it orders this itself. Raises
        BufferError for a copy, or another device than this one.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("this array is given without a copy, on the GPU where it is")
        array = self
        if self.stream is not None and stream not in (-1, int(self.stream.handle)):
            reader = Stream.from_handle(stream or _LEGACY_STREAM)
            reader.wait(self.stream)
            array = self.lent(reader)
        view = StridedMemoryView.from_buffer(array.buffer, self.shape, dtype=self.dtype)
        return view.__dlpack__(max_version=max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.index

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        raise TypeError("this array is in GPU memory: Device.to_host(array) copies it to the host")
