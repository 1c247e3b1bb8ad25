"""Arrays in device memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from cuda.core import Stream
from cuda.core.utils import StridedMemoryView

if TYPE_CHECKING:
    from cuda.core import Buffer

_LEGACY_STREAM = 1  # what DLPack's stream=None means


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

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
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

        Raises BufferError for a copy, or another device than this one.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("this array is given without a copy, on the GPU where it is")
        if self.stream is not None and stream != -1:
            Stream.from_handle(stream or _LEGACY_STREAM).wait(self.stream)
        view = StridedMemoryView.from_buffer(self.buffer, self.shape, dtype=self.dtype)
        return view.__dlpack__(max_version=max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.index

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        raise TypeError("this array is in GPU memory: Device.to_host(array) copies it to the host")
