"""Numbers of eight bits, in NumPy: FP8 E4M3 and INT8, as ONNX's QuantizeLinear rounds to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MANTISSA = 3  # bits of E4M3
_LEAST_EXPONENT = -6  # of a normal number
_BIAS = 7


@dataclass(frozen=True)
class Format:
    """How a layer's inputs and weights are stored; zero is always zero.

    largest: its greatest number. dtype: of its codes. onnx_type: in onnx.TensorProto.DataType.
    rest: what the layers around it compute in.
    """

    name: Literal["fp8", "int8"]
    largest: float
    dtype: str
    onnx_type: int
    rest: Literal["float16", "float32"]

    def rounded(self, values: Array) -> Array:
        """The nearest numbers of the format, ties to even, in the values' own dtype; what is out
        of range becomes the largest."""
        return self._nearest(np.clip(values, -self.largest, self.largest))

    def _nearest(self, values: Array) -> Array:
        if self.name == "int8":
            return np.asarray(np.rint(values))
        _, exponents = np.frexp(values)  # values = mantissa × 2 ** exponent, 0.5 ≤ |mantissa| < 1
        step = np.ldexp(
            np.ones_like(values), np.maximum(exponents - 1, _LEAST_EXPONENT) - _MANTISSA
        )
        return np.asarray(np.rint(values / step) * step)

    def encoded(self, numbers: Array) -> Array:
        """The codes, in `dtype`, of numbers of the format."""
        if self.name == "int8":
            return np.asarray(numbers, np.int8)
        magnitude = np.abs(numbers)
        _, exponents = np.frexp(magnitude)
        exponents = np.maximum(exponents - 1, _LEAST_EXPONENT)
        units = np.ldexp(magnitude, _MANTISSA - exponents).astype(np.int64)  # 8–15, less: subnormal
        field = np.where(units >= 8, exponents + _BIAS, 0)
        codes = np.signbit(numbers) * 0x80 + field * 8 + units % 8
        return np.asarray(codes, np.uint8)

    def decoded(self, codes: Array) -> Array:
        """The float32 numbers of codes. E4M3 has no infinities; its two NaN codes never occur."""
        if self.name == "int8":
            return np.asarray(codes, np.float32)
        field, mantissa = (codes >> 3) & 15, codes & 7
        units = np.where(field > 0, mantissa + 8, mantissa).astype(np.float32)
        exponents = np.maximum(field.astype(np.int32), 1) - _BIAS - _MANTISSA
        numbers = np.ldexp(np.where(codes & 0x80, -units, units), exponents)
        return np.asarray(numbers, np.float32)

    def scale(self, largest: Array | float) -> Array:
        """The scale, float32, at which values up to `largest` fit; the least one for 0.

        FP8's are powers of two. Its numbers are as fine at any scale, so that costs nothing (see
        docs/quantization.md), and dividing by one is exact: float16, float32, ONNX Runtime, the
        reference evaluator and a GPU then round every value alike.
        """
        fitting = np.asarray(largest, np.float64) / self.largest
        least, most = 2.0**-24, 2.0**15  # that a float16 holds
        if self.name == "fp8":
            fitting = 2.0 ** np.ceil(np.log2(np.maximum(fitting, least)))
        return np.clip(fitting, least, most).astype(np.float32)


FORMATS = {
    "fp8": Format("fp8", 448.0, "uint8", 17, "float16"),  # FLOAT8E4M3FN
    "int8": Format("int8", 127.0, "int8", 3, "float32"),
}
