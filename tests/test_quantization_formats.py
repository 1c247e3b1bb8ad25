"""Eight-bit numbers against tables made by their definition, ONNX Runtime, the reference evaluator
of ONNX and ml_dtypes: all of them, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vidai.devices.cpu.session import UNFAITHFUL
from vidai.quantization.formats import FORMATS

Array = npt.NDArray[Any]

FP8, INT8 = FORMATS["fp8"], FORMATS["int8"]
POWERS = [2.0**exponent for exponent in range(-24, 11)]
DTYPES = ("float16", "float32")


def e4m3(code: int) -> float:
    """The number of a code, by the definition: sign, exponent of bias 7, mantissa of 3 bits."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


E4M3 = np.array([e4m3(code) for code in range(256)])
POSITIVE = E4M3[:127]  # of the codes 0 … 126: 0 … 448, rising
BETWEEN = (POSITIVE[:-1] + POSITIVE[1:]) / 2


def e4m3_codes(values: Array) -> Array:
    """The codes of the nearest numbers, uint8: of two as near the even one, beyond 448 that of 448,
    below zero with the sign's bit, also where that is a zero."""
    magnitude = np.abs(np.asarray(values, np.float64))
    codes = np.searchsorted(BETWEEN, magnitude, side="left")  # a tie: the lower one
    tied = magnitude == BETWEEN[np.minimum(codes, len(BETWEEN) - 1)]
    codes = codes + (tied & (codes % 2 == 1))
    return np.asarray(codes + 0x80 * np.signbit(values), np.uint8)


def halves() -> Array:
    """Every finite float16."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return every[np.isfinite(every)]


def singles(scale: float) -> Array:
    """Finite float32: of all magnitudes, subnormals and the largest included; many within the
    range that a scale gives; each tie and what lies just beside it; both zeros."""
    rng = np.random.default_rng(0)
    every = rng.integers(0, 1 << 32, 20_000, dtype=np.uint32).view(np.float32)
    every = every[np.isfinite(every)]
    inside = rng.uniform(-500, 500, 20_000) * scale
    small = rng.normal(0, 2.0**-6, 20_000) * scale
    ties = (np.concatenate([BETWEEN, POSITIVE]) * scale).astype(np.float32)
    beside = [np.nextafter(ties, np.float32(toward)) for toward in (-np.inf, np.inf)]
    largest = np.finfo(np.float32).max
    corners = np.array([0.0, -0.0, largest, -largest, np.finfo(np.float32).smallest_subnormal])
    values: list[Array] = [
        every,
        inside,
        small,
        ties,
        -ties,
        *beside,
        *(-b for b in beside),
        corners,
    ]
    return np.concatenate(values).astype(np.float32)


def pair(dtype: str, scale: float, onnx_type: int) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear: of x, the codes q and the numbers y."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", kind, ["N"])],
        [
            helper.make_tensor_value_info("q", onnx_type, ["N"]),
            helper.make_tensor_value_info("y", kind, ["N"]),
        ],
        [
            numpy_helper.from_array(np.asarray(scale, dtype), "scale"),
            helper.make_tensor("zero", onnx_type, [], b"\0", raw=True),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def by_onnx_runtime(values: Array, scale: float, onnx_type: int) -> tuple[Array, Array]:
    """Codes (as bytes) and numbers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        pair(values.dtype.name, scale, onnx_type).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(UNFAITHFUL),
    )
    codes, numbers = session.run(["q", "y"], {"x": values})
    return codes.view(np.uint8), numbers


def by_reference(values: Array, scale: float, onnx_type: int) -> tuple[Array, Array]:
    """Codes (as bytes) and numbers."""
    evaluator = ReferenceEvaluator(pair(values.dtype.name, scale, onnx_type))
    with np.errstate(over="ignore"):  # beyond the dtype is beyond the format
        codes, numbers = evaluator.run(["q", "y"], {"x": values})
    return codes.view(np.uint8), numbers


def by_us(values: Array, scale: float, name: str = "fp8") -> tuple[Array, Array]:
    """Codes (as bytes) and numbers."""
    form = FORMATS[name]
    steps = np.asarray(scale, values.dtype)
    with np.errstate(over="ignore"):
        rounded = form.rounded(values / steps)
        numbers = rounded * steps  # from 63 489 on the next is 65 536, which no float16 is
    assert rounded.dtype == values.dtype
    return form.encoded(rounded).view(np.uint8), numbers


def bits(values: Array) -> Array:
    """To be compared with their zeros' signs."""
    return values.view(np.dtype(f"uint{8 * values.itemsize}"))


def same_bits(found: tuple[Array, Array], expected: tuple[Array, Array]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(bits(ours), bits(theirs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", POWERS)
def test_every_half_is_rounded_as_by_onnx_runtime_and_the_reference(
    scale: float, dtype: str
) -> None:
    """The sign of a zero included: what is negative and rounds to zero is a negative zero."""
    values = halves().astype(dtype)
    assert len(values) == 65536 - 2 * 1024  # but for infinities and NaN
    found = by_us(values, scale)
    same_bits(found, by_onnx_runtime(values, scale, TensorProto.FLOAT8E4M3FN))
    same_bits(found, by_reference(values, scale, TensorProto.FLOAT8E4M3FN))


@pytest.mark.parametrize("scale", POWERS)
def test_singles_are_rounded_as_by_onnx_runtime_and_the_reference(scale: float) -> None:
    values = singles(scale)
    found = by_us(values, scale)
    assert len(np.unique(found[0])) == 254  # all but the two NaN
    same_bits(found, by_onnx_runtime(values, scale, TensorProto.FLOAT8E4M3FN))
    same_bits(found, by_reference(values, scale, TensorProto.FLOAT8E4M3FN))


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
def test_rounding_gives_the_nearest_number_of_the_table(dtype: str) -> None:
    values = np.concatenate([halves().astype(dtype), BETWEEN.astype(dtype)])
    rounded = FP8.rounded(values)
    assert rounded.dtype == dtype
    expected = e4m3_codes(values)
    np.testing.assert_array_equal(rounded, E4M3[expected])
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(values))
    np.testing.assert_array_equal(FP8.encoded(rounded), expected)


def test_rounding_agrees_with_ml_dtypes() -> None:
    """Which does not saturate: it is shown values within the range only."""
    float8 = pytest.importorskip("ml_dtypes").float8_e4m3fn
    values = np.clip(np.concatenate([singles(1.0), halves().astype(np.float32)]), -448, 448)
    np.testing.assert_array_equal(
        FP8.encoded(FP8.rounded(values)), values.astype(float8).view(np.uint8)
    )


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
def test_each_number_keeps_its_code(dtype: str) -> None:
    """Both zeros have one."""
    codes = np.arange(256, dtype=np.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]  # without NaN
    numbers = E4M3[codes].astype(dtype)
    encoded = FP8.encoded(numbers)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, codes)
    rounded = FP8.rounded(numbers)
    np.testing.assert_array_equal(bits(rounded), bits(numbers))
    np.testing.assert_array_equal(FP8.encoded(numbers.reshape(2, 127)), codes.reshape(2, 127))


def test_codes_are_read_by_onnx_runtime_as_the_table_says() -> None:
    """A DequantizeLinear of raw bytes, with the scale 1: NaN where the table has it."""
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["codes", "scale"], ["y"])],
        "codes",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [256])],
        [
            helper.make_tensor("codes", FP8.onnx_type, [256], bytes(range(256)), raw=True),
            numpy_helper.from_array(np.float32(1), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(session.run(None, {})[0], E4M3)


def test_a_scale_that_is_no_power_of_two_is_not_rounded_alike_in_float16() -> None:
    """Why FP8 scales are powers of two: with 0.01, ONNX Runtime and the reference evaluator give
    neighbours for one value in some hundred, as a quotient that is rounded twice falls."""
    values = halves()
    codes, _ = by_onnx_runtime(values, 0.01, TensorProto.FLOAT8E4M3FN)
    others, _ = by_reference(values, 0.01, TensorProto.FLOAT8E4M3FN)
    apart = codes != others
    assert 0.001 < apart.mean() < 0.01
    assert (np.abs(codes[apart].astype(int) - others[apart].astype(int)) == 1).all()


@pytest.mark.parametrize("scale", [2.0**-24, 1e-5, 0.01, 1 / 127, 0.3, 1.0, 2.0**10])
def test_integers_are_rounded_as_by_onnx_runtime_and_the_reference(scale: float) -> None:
    """But for what is below -127: ours is symmetric and cuts there, ONNX at -128."""
    rng = np.random.default_rng(1)
    inside = rng.uniform(-130, 130, 50_000)
    ties = np.arange(-130, 130) + 0.5
    values = np.concatenate([inside, ties, np.arange(-130.0, 130)]) * scale
    values = np.append(values, [0.0, -0.0, 1e6 * scale, -1e6 * scale]).astype(np.float32)
    codes, numbers = by_us(values, scale, "int8")
    for theirs, their_numbers in (
        by_onnx_runtime(values, scale, TensorProto.INT8),
        by_reference(values, scale, TensorProto.INT8),
    ):
        signed = theirs.view(np.int8)
        assert signed.min() == -128
        cut = signed == -128
        np.testing.assert_array_equal(codes.view(np.int8), np.maximum(signed, -127))
        np.testing.assert_array_equal(numbers[~cut], their_numbers[~cut])
        np.testing.assert_array_equal(numbers[cut], np.float32(-127) * np.float32(scale))


def test_integers_go_to_the_nearest_ties_to_even() -> None:
    values = np.array([-1e9, -127.5, -126.5, -2.5, -1.5, -0.5, 0.49, 0.5, 1.5, 2.5, 127.4, 1e9])
    expected = [-127, -127, -126, -2, -2, 0, 0, 0, 2, 2, 127, 127]
    np.testing.assert_array_equal(INT8.rounded(values), expected)
    encoded = INT8.encoded(INT8.rounded(values))
    assert encoded.dtype == np.int8
    np.testing.assert_array_equal(encoded, expected)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_rounding_leaves_what_it_is_given(form: Any) -> None:
    values = np.array([0.3, -1000.0], np.float32)
    form.rounded(values)
    np.testing.assert_array_equal(values, np.array([0.3, -1000.0], np.float32))


def test_fp8_scales_are_the_least_powers_of_two_at_which_values_fit() -> None:
    rng = np.random.default_rng(2)
    exact = 448 * 2.0 ** np.arange(-24, 16)
    largest = np.concatenate([2.0 ** rng.uniform(-15, 23, 10_000), exact]).astype(np.float32)
    scales = FP8.scale(largest)
    assert (scales.dtype.name, scales.shape) == ("float32", largest.shape)
    np.testing.assert_array_equal(np.frexp(scales)[0], 0.5)
    assert (largest / scales <= 448).all()
    assert (largest / scales > 224).all()
    np.testing.assert_array_equal(FP8.scale(exact), 2.0 ** np.arange(-24, 16))
    just_more = np.nextafter(exact[:-1].astype(np.float32), np.float32(np.inf))
    np.testing.assert_array_equal(FP8.scale(just_more), 2.0 ** np.arange(-23, 16))


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(0, 2.0**-24), (1e-30, 2.0**-24), (1.0, 2.0**-8), (448.0, 1.0), (449.0, 2.0), (1e9, 2.0**15)],
)
def test_fp8_scales_stay_within_float16(largest: float, expected: float) -> None:
    scale = FP8.scale(largest)
    assert (scale.dtype.name, scale.shape, float(scale)) == ("float32", (), expected)
    assert float(np.float16(scale)) == expected


def test_int8_scales_are_those_at_which_values_fit() -> None:
    largest = np.array([[1e-3, 1.0], [127.0, 1e9]])
    scales = INT8.scale(largest)
    assert (scales.dtype.name, scales.shape) == ("float32", (2, 2))
    np.testing.assert_allclose(scales, largest / 127, rtol=1e-7)
    np.testing.assert_array_equal(INT8.rounded(largest / scales), 127)


@pytest.mark.parametrize("largest", [0, 1e-30])
def test_int8_scales_are_never_zero(largest: float) -> None:
    scale = INT8.scale(largest)
    assert (scale.dtype.name, scale.shape) == ("float32", ())
    assert 0 < scale < 1e-6
    assert INT8.rounded(np.float32(largest) / scale) == 0
