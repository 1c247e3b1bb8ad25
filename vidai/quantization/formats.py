"""Numbers of eight bits, in NumPy: FP8 E4M3 and INT8, as ONNX's QuantizeLinear rounds to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LEAST_SCALE, _LARGEST_SCALE = 2.0**-24, 2.0**15  # that a float16 holds


class Format(ABC):
    """How a layer's inputs and weights are stored; zero is always zero.

    largest: its greatest number. onnx_type: of its codes, in onnx.TensorProto.DataType. rest:
    what the layers around it compute in. input_clips, weight_clips: parts of the largest value to
    try as the largest number; what is beyond is cut.
    """

    name: ClassVar[Literal["fp8", "int8"]]
    largest: ClassVar[float]
    onnx_type: ClassVar[int]
    rest: ClassVar[Literal["float16", "float32"]]
    input_clips: ClassVar[tuple[float, ...]]
    weight_clips: ClassVar[tuple[float, ...]]

    @abstractmethod
    def rounded(self, values: Array) -> Array:
        """The nearest numbers of the format, ties to even, in the values' own dtype; what is out
        of range becomes the largest."""

    @abstractmethod
    def encoded(self, numbers: Array) -> Array:
        """The codes, one byte each, of numbers of the format."""

    @abstractmethod
    def scale(self, largest: Array | float) -> Array:
        """The scale, float32, at which values up to `largest` fit; a tiny one for 0."""


class E4M3(Format):
    """FLOAT8E4M3FN: sign, four bits of exponent of bias 7, three of mantissa; no infinity, and NaN
    where all seven bits are set (Micikevicius et al., FP8 Formats for Deep Learning, 2022)."""

    name = "fp8"
    largest = 448.0
    onnx_type = 17
    rest = "float16"
    # An octave of room for larger values than those seen costs a float nothing.
    input_clips = (2.0,)
    weight_clips = (1.0,)

    def rounded(self, values: Array) -> Array:
        values = np.clip(values, -self.largest, self.largest)
        step = np.ldexp(np.ones_like(values), _exponents(values) - 3)
        return np.asarray(np.rint(values / step) * step)

    def encoded(self, numbers: Array) -> Array:
        magnitude, exponents = np.abs(numbers), _exponents(numbers)
        eighths = np.ldexp(magnitude, 3 - exponents).astype(np.int64)  # 8–15; below: subnormal
        field = np.where(eighths >= 8, exponents + 7, 0)
        return np.asarray(np.signbit(numbers) * 0x80 + field * 8 + eighths % 8, np.uint8)

    def scale(self, largest: Array | float) -> Array:
        """A power of two. The numbers are as fine at any scale, so that costs nothing, and dividing
        by one is exact: float16, float32, ONNX Runtime, the reference evaluator and a GPU then
        round every value alike."""
        fitting = np.asarray(largest, np.float64) / self.largest
        exponents = np.ceil(np.log2(np.clip(fitting, _LEAST_SCALE, _LARGEST_SCALE)))
        return np.asarray(2.0**exponents, np.float32)


class Int8(Format):
    """INT8, symmetric: -127 to 127."""

    name = "int8"
    largest = 127.0
    onnx_type = 3
    rest = "float32"
    input_clips = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    weight_clips = (1.0, 0.9, 0.8, 0.7, 0.6)

    def rounded(self, values: Array) -> Array:
        return np.asarray(np.rint(np.clip(values, -self.largest, self.largest)))

    def encoded(self, numbers: Array) -> Array:
        return np.asarray(numbers, np.int8)

    def scale(self, largest: Array | float) -> Array:
        fitting = np.asarray(largest, np.float64) / self.largest
        return np.asarray(np.maximum(fitting, _LEAST_SCALE), np.float32)


def _exponents(values: Array) -> Array:
    """Of E4M3's normal numbers: floor(log2 |value|), at least -6."""
    _, exponents = np.frexp(values)  # value = mantissa × 2 ** exponent, 0.5 ≤ |mantissa| < 1
    return np.asarray(np.maximum(exponents - 1, -6))


FORMATS: dict[str, Format] = {form.name: form for form in (E4M3(), Int8())}
