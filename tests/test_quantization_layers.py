"""Layers in eight bits, against NumPy's float64 with a table of the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.test_quantization_formats import E4M3, e4m3_codes
from tests.test_quantization_graph import drawn, node, only_layer, plain_model
from vidai.device import Device
from vidai.devices.cpu.session import OnnxSession
from vidai.models.half import half
from vidai.models.model import Model
from vidai.quantization.calibration import Seen, look
from vidai.quantization.formats import FORMATS
from vidai.quantization.graph import Layer, Network
from vidai.quantization.layers import QuantizedLayer, quantized
from vidai.quantization.qdq import Chosen, Rewriter, rewrite
from vidai.quantization.running import Item, Runner
from vidai.types import Placement

Array = npt.NDArray[Any]

NAMES = tuple(FORMATS)
STORED = {"fp8": "uint8", "int8": "int8"}


def nearest(name: str, values: Array, least: float = -127) -> Array:
    """The numbers of a format, float64. least: of INT8's."""
    if name == "fp8":
        return np.asarray(E4M3[e4m3_codes(values)])
    return np.asarray(np.clip(np.rint(np.asarray(values, np.float64)), least, 127))


def decoded(name: str, codes: Array) -> Array:
    """The numbers of codes, float64."""
    return np.asarray(E4M3[codes] if name == "fp8" else codes, np.float64)


def weights_of(name: str, layer: Layer, made: QuantizedLayer) -> Array:
    """In the weights' own shape, float64."""
    scales = made.weight_scales.astype(np.float64)
    along = [1] * len(layer.shape)
    along[layer.axis] = -1
    return decoded(name, made.codes) * scales.reshape(along)


@dataclass(frozen=True)
class Product:
    """A layer that is a product of its weights (outputs, inputs) with columns, and its eight
    bits."""

    name: str
    weights: Array
    bias: Array
    made: QuantizedLayer
    rounded: Array  # the weights

    def shown(self, columns: Array) -> Array:
        """What the eight bits leave of columns, less the centre; float64."""
        centre = self.made.centre[:, None] if self.made.centre.size else np.float32(0)
        scale = float(self.made.scale)
        return scale * nearest(self.name, (columns.astype(np.float32) - centre) / scale)

    def output(self, columns: Array) -> Array:
        product = self.rounded @ self.shown(columns)
        return np.asarray(product + self.made.bias[:, None].astype(np.float64))

    def error(self, columns: Array) -> Array:
        """(outputs, samples) of the output."""
        return np.asarray(self.output(columns) - self.weights @ columns - self.bias[:, None])


def seen(columns: Array, channels: int) -> Seen:
    values = columns.reshape(channels, -1)
    mean = values.mean(1, dtype=np.float64)
    return Seen(mean, values.min(1), values.max(1), columns.astype(np.float32))


def product(
    name: str, weights: Array, columns: Array, bias: Array | None = None, op: str = "Conv"
) -> Product:
    """weights: (outputs, inputs), of a 1 × 1 convolution or as a MatMul or Gemm has them."""
    rows = weights.astype(np.float32)
    inputs = ["x", "w", *(["b"] if bias is not None else [])]
    one = node(op.split()[0], inputs, ["y"])
    stored = {"Conv": rows[:, :, None, None], "Gemm transposed": rows}.get(op, rows.T)
    if op == "Gemm transposed":
        one.attribute.append(helper.make_attribute("transB", 1))
    constants = {"w": stored, "b": np.zeros(len(rows), np.float32) if bias is None else bias}
    network, layer = only_layer(plain_model([one], constants))
    assert layer.pointwise
    made = quantized(network, layer, seen(columns, len(columns)), FORMATS[name])
    assert made.codes.shape == stored.shape
    found = weights_of(name, layer, made)
    found = found[:, :, 0, 0] if op == "Conv" else found if op == "Gemm transposed" else found.T
    return Product(name, rows.astype(np.float64), constants["b"].astype(np.float64), made, found)


def correlated(channels: int, samples: int, rank: int = 6) -> Array:
    """A few causes that all channels show, and a tenth of noise."""
    rng = np.random.default_rng(1)
    causes = rng.normal(size=(channels, rank)) @ rng.normal(size=(rank, samples))
    return np.asarray(causes + 0.1 * rng.normal(size=causes.shape), np.float32)


def energy(errors: Array) -> float:
    return float(np.square(errors).sum())


def weight_errors(one: Product, columns: Array) -> tuple[float, float]:
    """What is off in the output by the weights, as they are and rounded to nearest with the same
    scales; both without its mean, which the bias takes."""
    shown = one.shown(columns)
    shown = shown - shown.mean(1, keepdims=True)
    scales = one.made.weight_scales[:, None].astype(np.float64)
    plain = nearest(one.name, one.weights / scales) * scales
    return energy((one.rounded - one.weights) @ shown), energy((plain - one.weights) @ shown)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_as_its_docstring_says(name: str) -> None:
    columns = correlated(24, 500)
    made = product(name, drawn(40, 24), columns, drawn(40)).made
    assert (made.scale.dtype.name, made.scale.shape) == ("float32", ())
    assert (made.weight_scales.dtype.name, made.weight_scales.shape) == ("float32", (40,))
    assert (made.bias.dtype.name, made.bias.shape) == ("float32", (40,))
    assert made.centre.dtype.name == "float32"
    assert (made.codes.dtype.name, made.codes.shape) == (STORED[name], (40, 24, 1, 1))
    assert not np.isin(made.codes, (0x7F, 0xFF) if name == "fp8" else (-128,)).any()


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_weights_are_taken_up_by_those_of_correlated_inputs(name: str) -> None:
    """Six causes in 64 channels: most of what a weight's rounding does, others can undo."""
    columns = correlated(64, 2000)
    compensated, plain = weight_errors(product(name, drawn(48, 64), columns), columns)
    assert 0 < compensated < 0.2 * plain


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_inputs_does_not_matter(name: str) -> None:
    """They are rounded by their variances, whatever their places."""
    columns, weights = correlated(64, 2000), drawn(48, 64)
    shuffled = np.random.default_rng(2).permutation(64)
    one = product(name, weights, columns)
    other = product(name, weights[:, shuffled], columns[shuffled])
    np.testing.assert_array_equal(other.rounded, one.rounded[:, shuffled])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_compensation_does_no_harm_where_inputs_are_independent(name: str, seed: int) -> None:
    """Then there is nothing to take up, and it is rounding to nearest but for chance: both are a
    sum of squares of as many rounding errors as there are weights, each of a relative deviation
    of at most 2 (of E4M3's, whose steps differ), so they differ by 2 √2 / √weights; three times
    that is allowed."""
    columns = drawn(64, 4000, seed=seed)
    compensated, plain = weight_errors(product(name, drawn(48, 64, seed=seed), columns), columns)
    assert 0 < compensated < (1 + 3 * 2 * np.sqrt(2) / np.sqrt(48 * 64)) * plain


def spacing(values: Array) -> Array:
    """Between the numbers of E4M3 beside values, none of them subnormal."""
    return np.asarray(2.0 ** (np.floor(np.log2(np.abs(values))) - 3))


def test_a_large_mean_is_taken_out_before_it_is_rounded() -> None:
    """A rounding error is uniform in a step: of 4 between 32 and 64, of 1/8 or less near zero. Both
    are divided by the same weights, which are exact, so the output's errors are as the steps."""
    rng = np.random.default_rng(3)
    means = rng.uniform(33, 63, (24, 1))
    columns = (means + rng.normal(size=(24, 4000))).astype(np.float32)
    weights = rng.choice([-1, -0.5, 0.5, 1], (40, 24))
    one = product("fp8", weights, columns)
    np.testing.assert_array_equal(one.rounded, weights)
    np.testing.assert_array_equal(one.made.centre, columns.mean(1).astype(np.float16))
    plain = np.square(spacing(columns)).mean() / 12
    centred = np.square(spacing(columns - one.made.centre[:, None])).mean() / 12
    lone = weights @ (nearest("fp8", columns) - columns)
    lone -= lone.mean(1, keepdims=True)
    found = energy(lone) / energy(one.error(columns))
    assert found > 5**2
    assert plain / centred / 2 < found < plain / centred * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_centre_and_its_bias_are_exact(name: str) -> None:
    """Steps of 1/2 beside a mean of 50, which float16 holds: lost with the mean, exact without."""
    sides = np.random.default_rng(4).permuted(np.tile([-0.5, 0.5], (24, 200)), axis=1)
    columns = (50 + sides).astype(np.float32)
    exact = {"fp8": (-128, -64, 64, 128), "int8": (-127, -64, 64, 127)}[name]
    weights = np.random.default_rng(5).choice(exact, (40, 24)) / 128
    one = product(name, weights, columns, drawn(40))
    np.testing.assert_array_equal(one.made.centre, np.full(24, 50))
    for values in (columns, np.full((24, 1), 50, np.float32)):
        expected = one.weights @ values + one.bias[:, None]
        np.testing.assert_allclose(one.output(values), expected, atol=24 * 50 * 2.0**-23)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_input_gives_what_the_float_layer_gives(name: str) -> None:
    columns = np.repeat(np.random.default_rng(6).uniform(-30, 30, (24, 1)), 50, 1)
    columns = columns.astype(np.float32)
    one = product(name, drawn(40, 24), columns, drawn(40))
    size = np.abs(one.weights) @ np.abs(columns)
    assert (np.abs(one.error(columns)) < 2.0**-22 * size).all()


def test_only_what_pays_is_centred() -> None:
    """A small mean costs no precision, but subtracting it would a pass over the input."""
    rng = np.random.default_rng(7)
    columns = rng.normal(0.2, 1, (24, 2000)).astype(np.float32)
    for name in NAMES:
        assert product(name, drawn(40, 24), columns).made.centre.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kernel", "pads"), [((3, 3), [1, 1, 1, 1]), ((3, 3), [0, 0, 0, 0]), ((1, 1), [1, 0, 0, 1])]
)
def test_other_convolutions_are_never_centred(
    kernel: tuple[int, int], pads: list[int], name: str
) -> None:
    """A padded one would see minus the mean where there are zeros."""
    rng = np.random.default_rng(8)
    places = kernel[0] * kernel[1]
    columns = np.repeat(rng.uniform(33, 63, (24, 1)), places, 0) + rng.normal(size=(1, 900))
    columns = columns.astype(np.float32)
    one = node("Conv", ["x", "w"], ["y"], pads=pads)
    network, layer = only_layer(plain_model([one], {"w": drawn(40, 24, *kernel)}))
    made = quantized(network, layer, seen(columns, 24), FORMATS[name])
    assert made.centre.shape == (0,)
    # The same without padding would be.
    assert product(name, drawn(40, 24), columns[::places]).made.centre.shape == (24,)


@pytest.mark.parametrize("name", NAMES)
def test_the_bias_takes_the_mean_of_the_error(name: str) -> None:
    """Which without it is a part of the error that counts, as values are far from symmetric."""
    rng = np.random.default_rng(9)
    columns = rng.exponential(1, (24, 3000)).astype(np.float32)
    one = product(name, drawn(40, 24), columns, drawn(40))
    error = one.error(columns)
    bare = error - one.made.bias[:, None] + one.bias[:, None]
    assert np.abs(bare.mean(1)).max() > 1e-3
    assert np.abs(error.mean(1)).max() < 2.0**-20
    assert energy(error) < energy(bare)


def test_fp8_weights_that_are_exact_stay_what_they_are() -> None:
    """Any number of the format times any power of two, for each output another; 0 among them."""
    rng = np.random.default_rng(10)
    powers = 2.0 ** rng.integers(-12, 6, (40, 1))
    weights = rng.choice(E4M3[np.isfinite(E4M3) & (np.abs(E4M3) >= 2.0**-6)], (40, 24)) * powers
    weights[:, 3] = 0
    one = product("fp8", weights, correlated(24, 500))
    np.testing.assert_array_equal(one.rounded, weights)


def test_int8_weights_that_are_exact_stay_what_they_are() -> None:
    rng = np.random.default_rng(11)
    weights = rng.integers(-127, 128, (40, 24)) * 2.0 ** rng.integers(-12, 6, (40, 1))
    weights[:, 5] = 127 * 2.0 ** np.round(np.log2(np.abs(weights).max(1) / 127))
    weights = np.clip(weights, -weights[:, 5:6], weights[:, 5:6])
    one = product("int8", weights, correlated(24, 500))
    np.testing.assert_array_equal(one.rounded, weights)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["rows", "inputs", "some inputs", "all", "one sample", "tiny"])
def test_nothing_is_divided_by_zero(case: str, name: str) -> None:
    weights, columns = drawn(40, 24).astype(np.float64), correlated(24, 300)
    if case in ("rows", "all"):
        weights[7:] = 0
    if case in ("inputs", "all"):
        columns = np.zeros_like(columns)
    if case == "some inputs":
        columns[5:] = 0
    if case == "one sample":
        columns = columns[:, :1]
    if case == "tiny":
        weights, columns = weights * 1e-30, columns * np.float32(1e-30)
    one = product(name, weights, columns, drawn(40))
    for field in (one.made.scale, one.made.weight_scales, one.made.bias, one.rounded):
        assert np.isfinite(field).all()
    assert (one.made.scale > 0).all()
    assert (one.made.weight_scales > 0).all()
    size = np.abs(one.weights) @ np.abs(columns) + np.abs(one.bias[:, None])
    assert (np.abs(one.error(columns)) < 0.15 * size).all()
    if case in ("rows", "all"):
        np.testing.assert_array_equal(one.rounded[7:], 0)
        np.testing.assert_array_equal(one.made.bias[7:], one.bias[7:])
    if case in ("inputs", "all"):
        np.testing.assert_array_equal(one.made.bias, one.bias)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm transposed"])
def test_a_product_is_quantised_as_a_convolution_is(op: str, name: str) -> None:
    """By its outputs, on whichever axis they are; there are as many as inputs here."""
    columns = correlated(24, 500) + np.float32(9)
    weights = drawn(24, 24) * (1 + np.arange(24))[:, None]
    bias = None if op == "MatMul" else drawn(24)
    one = product(name, weights, columns, bias, op)
    other = product(name, weights, columns, bias, "Conv")
    np.testing.assert_array_equal(one.rounded, other.rounded)
    for field in ("scale", "centre", "weight_scales", "bias"):
        np.testing.assert_array_equal(getattr(one.made, field), getattr(other.made, field))
    apart = np.abs(one.rounded - one.weights).max(1) / np.abs(one.weights).max(1)
    assert 0 < apart.max() < 0.25


SHAPES = {"a": (32, 24, 1, 1), "c": (32, 32, 3, 3), "m": (32, 40), "g": (48, 40), "y": (48, 20)}


def chain() -> Model:
    """Each kind of layer, with and without a bias; all that they make are outputs."""
    nodes = [
        node("Conv", ["x", "wa", "ba"], ["a"], strides=[1, 2]),
        node("Conv", ["a", "wc"], ["c"], pads=[0, 1, 1, 2], strides=[2, 1], dilations=[1, 2]),
        node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        node("MatMul", ["t", "wm"], ["m"]),
        node("Flatten", ["m"], ["f"], axis=3),
        node("Gemm", ["f", "wg", "bg"], ["g"], transB=1),
        node("Gemm", ["g", "wy"], ["y"]),
    ]
    constants = {f"w{name}": drawn(*shape) / 5 for name, shape in SHAPES.items()}
    constants |= {"ba": drawn(32), "bg": drawn(48)}
    return plain_model(nodes, constants, list(SHAPES), shape=[1, 24, 8, 11])


def item(seed: int) -> Item:
    data = drawn(1, 24, 8, 11, seed=seed) + np.float32(20)
    return Item(data, Placement(1, 1), (11, 8), "here")


@pytest.fixture
def runner() -> Iterator[Runner]:
    with closing(Runner(1)) as runner:
        yield runner


def choose(network: Network, name: str, runner: Runner) -> Chosen:
    """All layers that may be quantised, calibrated."""
    layers = [layer for layer in network.layers if not layer.why]
    looked = look(network, layers, [item(seed) for seed in range(3)], runner, lambda part: None)
    return {
        network.nodes[layer.node].name: (layer, quantized(network, layer, found, FORMATS[name]))
        for layer, found in looked
    }


def rewritten(
    model: Model, name: str, dtype: str, runner: Runner
) -> tuple[onnx.ModelProto, dict[str, tuple[Layer, QuantizedLayer]]]:
    """The model with all of its layers quantised, checked, and those by what they make."""
    network = Network(model)
    chosen = choose(network, name, runner)
    given = replace(model, onnx=network.proto.SerializeToString())
    proto = onnx.load_from_string(half(given).onnx if dtype == "float16" else given.onnx)
    rewrite(proto.graph, chosen, FORMATS[name], dtype)
    onnx.checker.check_model(proto, full_check=True)
    names = [tensor.name for tensor in proto.graph.initializer]
    assert len(names) == len(set(names))
    return proto, {layer.output: (layer, made) for layer, made in chosen.values()}


def run(proto: onnx.ModelProto, data: Array, device: Device) -> dict[str, Array]:
    outputs = OnnxSession(device, proto.SerializeToString()).run(data)
    return dict(zip([output.name for output in proto.graph.output], outputs, strict=True))


def convolved(x: Array, weights: Array, attributes: Mapping[str, Any]) -> Array:
    """One place of the kernel after the other."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    down, across = attributes.get("strides", (1, 1))
    apart = attributes.get("dilations", (1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    kernel = weights.shape[2:]
    height = padded.shape[2] - apart[0] * (kernel[0] - 1)
    width = padded.shape[3] - apart[1] * (kernel[1] - 1)
    return np.asarray(
        sum(
            np.einsum(
                "oc,nchw->nohw",
                weights[:, :, v, u],
                padded[
                    :,
                    :,
                    v * apart[0] : v * apart[0] + height : down,
                    u * apart[1] : u * apart[1] + width : across,
                ],
            )
            for v in range(kernel[0])
            for u in range(kernel[1])
        )
    )


def by_numpy(
    name: str, layer: Layer, made: QuantizedLayer, read: Array, dtype: str
) -> tuple[Array, Array]:
    """What the layer makes of what it reads in eight bits, and the most that sums in float32 can be
    off: a unit of 2⁻²⁴ of the sum of magnitudes for each of its terms. ONNX cuts integers at -128.
    """
    along = (-1, 1, 1) if layer.op == "Conv" else (-1,)
    if made.centre.size:
        read = (read - made.centre.reshape(along)).astype(dtype)
    scale = np.float64(made.scale)
    x = nearest(name, read / made.scale, -128) * scale
    weights = weights_of(name, layer, made)
    bias = made.bias.astype(dtype).astype(np.float64).reshape(along)
    if layer.op == "Gemm" and layer.attributes.get("transB"):
        weights = weights.T

    def multiplied(x: Array, weights: Array) -> Array:
        if layer.op == "Conv":
            return convolved(x, weights, layer.attributes)
        return np.asarray(x @ weights)

    size = multiplied(np.abs(x), np.abs(weights)) + np.abs(bias)
    return multiplied(x, weights) + bias, size * (layer.inputs + 1) * 2.0**-24


CASES = [("fp8", "float16"), ("fp8", "float32"), ("int8", "float32")]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_rewritten_model_computes_what_its_layers_say(
    name: str, dtype: str, device: Device, runner: Runner
) -> None:
    """Each layer by itself, from what it reads in the model. A float16 is off by half of the last
    of its 11 bits, once more where ONNX Runtime adds the bias to a product by itself."""
    model = chain()
    proto, chosen = rewritten(model, name, dtype, runner)
    data = item(9).data.astype(dtype)
    found = run(proto, data, device)
    assert found.keys() == chosen.keys() == SHAPES.keys()
    centred = [output for output, (_, made) in chosen.items() if made.centre.size]
    assert "a" in centred
    assert "c" not in centred
    float_outputs = run(onnx.load_from_string(model.onnx), item(9).data, device)
    tensors = found | {"x": data}
    tensors["t"] = found["c"].transpose(0, 2, 3, 1)
    tensors["f"] = found["m"].reshape(-1, 40)
    for output, (layer, made) in chosen.items():
        expected, allowed = by_numpy(name, layer, made, tensors[layer.input], dtype)
        if dtype == "float16":
            allowed += 2.0**-11 * np.abs(expected) + 2.0**-25
            if layer.op == "MatMul":
                allowed += 2.0**-11 * np.abs(expected - made.bias)
        assert found[output].shape == expected.shape
        assert (np.abs(found[output] - expected) <= allowed).all(), output
        # And so about what the model computed before.
        off = found[output] - float_outputs[output]
        assert 0 < np.std(off) < 0.1 * np.std(float_outputs[output]), output


def initializers(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def maker(proto: onnx.ModelProto, output: str) -> onnx.NodeProto:
    (found,) = (one for one in proto.graph.node if output in one.output)
    return found


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_nodes_are_those_that_tensorrt_wants(name: str, dtype: str, runner: Runner) -> None:
    """One scale for what is read, one for each output's weights, zero points of the codes' type."""
    proto, chosen = rewritten(chain(), name, dtype, runner)
    tensors = initializers(proto)
    codes = {"fp8": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8}[name]
    around = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    layers = [one for one in proto.graph.node if one.op_type in ("Conv", "MatMul", "Gemm")]
    assert len(layers) == len(chosen)
    for one, (layer, made) in zip(layers, chosen.values(), strict=True):
        read, weights = maker(proto, one.input[0]), maker(proto, one.input[1])
        quantizer = maker(proto, read.input[0])
        assert (read.op_type, quantizer.op_type) == ("DequantizeLinear", "QuantizeLinear")
        assert read.input[1:] == quantizer.input[1:]
        assert not read.attribute
        assert not quantizer.attribute
        scale, zero = (tensors[given] for given in read.input[1:])
        assert (scale.data_type, list(scale.dims)) == (around, [])
        assert numpy_helper.to_array(scale) == made.scale
        assert (zero.data_type, list(zero.dims), zero.raw_data) == (codes, [], b"\0")

        stored, scales, zeros = (tensors[given] for given in weights.input)
        assert weights.op_type == "DequantizeLinear"
        assert [(a.name, a.i) for a in weights.attribute] == [("axis", layer.axis)]
        assert (stored.data_type, tuple(stored.dims)) == (codes, SHAPES[layer.output])
        assert stored.raw_data == made.codes.tobytes()
        assert (scales.data_type, list(scales.dims)) == (around, [layer.outputs])
        np.testing.assert_array_equal(numpy_helper.to_array(scales), made.weight_scales)
        assert (zeros.data_type, list(zeros.dims)) == (codes, [layer.outputs])
        assert zeros.raw_data == bytes(layer.outputs)

        adding = one
        if layer.op == "MatMul":
            (adding,) = (other for other in proto.graph.node if one.output[0] in other.input)
            assert adding.op_type == "Add"
        bias = tensors[adding.input[-1]]
        assert (bias.data_type, list(bias.dims)) == (around, [layer.outputs])
        np.testing.assert_array_equal(numpy_helper.to_array(bias), made.bias.astype(dtype))
    # Nothing else is left of the weights, nor does anything else compute.
    assert not {"wa", "ba", "wc", "wm", "wg", "bg", "wy"} & tensors.keys()
    kinds = {"Conv", "MatMul", "Gemm", "Add", "Sub", "Transpose", "Flatten", "Cast"}
    assert {one.op_type for one in proto.graph.node} <= kinds | {
        "QuantizeLinear",
        "DequantizeLinear",
    }


def convolutions(*pairs: tuple[str, str]) -> list[onnx.NodeProto]:
    return [node("Conv", [read, f"w{made}"], [made]) for read, made in pairs]


def kinds(proto: onnx.ModelProto) -> dict[str, int]:
    found = [one.op_type for one in proto.graph.node]
    return {kind: found.count(kind) for kind in dict.fromkeys(found)}


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_read_the_same_share_its_nodes(
    name: str, device: Device, runner: Runner
) -> None:
    """Three of the input, which are centred alike, and two of what one of them makes."""
    nodes = convolutions(("x", "p"), ("x", "q"), ("p", "r"), ("x", "s"), ("p", "t"))
    constants = {f"w{made}": drawn(24, 24, 1, 1, seed=ord(made)) for made in "pqrst"}
    model = plain_model(nodes, constants, list("pqrst"), shape=[1, 24, 8, 11])
    proto, chosen = rewritten(model, name, "float32", runner)
    assert all(made.centre.size for _, made in chosen.values())
    if name == "fp8":  # an integer's scale is each layer's own choice
        assert kinds(proto) == {
            "Sub": 2,
            "QuantizeLinear": 2,
            "DequantizeLinear": 2 + 5,
            "Conv": 5,
        }
    data = item(9).data
    found = run(proto, data, device)
    for output, (layer, made) in chosen.items():
        read = data if layer.input == "x" else found["p"]
        expected, allowed = by_numpy(name, layer, made, read, "float32")
        assert (np.abs(found[output] - expected) <= allowed).all(), output


def stored(network: Network, **changes: Any) -> QuantizedLayer:
    """Any eight bits for the layers of a network whose weights are 24 × 24."""
    shape = network.layers[0].shape
    made = QuantizedLayer(
        scale=np.array(0.5, np.float32),
        centre=np.zeros(0, np.float32),
        codes=np.zeros(shape, np.uint8),
        weight_scales=np.ones(24, np.float32),
        bias=np.zeros(24, np.float32),
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("one", "other", "pairs"),
    [
        ({}, {}, 1),
        ({}, {"weight_scales": np.full(24, 2, np.float32), "bias": np.ones(24, np.float32)}, 1),
        ({}, {"scale": np.array(0.25, np.float32)}, 2),
        ({}, {"centre": np.ones(24, np.float32)}, 2),
        ({"centre": np.ones(24, np.float32)}, {"centre": np.ones(24, np.float32)}, 1),
        ({"centre": np.ones(24, np.float32)}, {"centre": np.full(24, 2, np.float32)}, 2),
    ],
)
def test_only_the_same_scale_and_centre_are_shared(
    one: dict[str, Any], other: dict[str, Any], pairs: int
) -> None:
    nodes = convolutions(("x", "p"), ("x", "q"))
    constants = {"wp": drawn(24, 24, 1, 1), "wq": drawn(24, 24, 1, 1)}
    network = Network(plain_model(nodes, constants, ["p", "q"]))
    rewriter = Rewriter(FORMATS["fp8"], "float32")
    for made, layer, given in zip(network.nodes, network.layers, (one, other), strict=True):
        rewriter.add(made, layer, stored(network, **given))
    assert [made.op_type for made in rewriter.nodes].count("QuantizeLinear") == pairs


def test_a_centre_of_channels_is_not_one_of_columns(device: Device) -> None:
    """A convolution and a matrix product of one tensor, with as many channels as columns: the same
    numbers, subtracted along another axis."""
    nodes = [node("Conv", ["x", "wp"], ["p"]), node("MatMul", ["x", "wq"], ["q"])]
    constants = {"wp": drawn(24, 24, 1, 1), "wq": drawn(24, 24)}
    network = Network(plain_model(nodes, constants, ["p", "q"], shape=[1, 24, 3, 24]))
    centre = np.arange(24, dtype=np.float32)
    chosen = {
        one.name: (
            layer,
            stored(
                network,
                centre=centre,
                codes=e4m3_codes(np.eye(24).reshape(layer.shape)),
                scale=np.float32(1),
            ),
        )
        for one, layer in zip(network.nodes, network.layers, strict=True)
    }
    rewrite(network.proto.graph, chosen, FORMATS["fp8"], "float32")
    onnx.checker.check_model(network.proto, full_check=True)
    found = run(network.proto, np.zeros((1, 24, 3, 24), np.float32), device)
    expected = nearest("fp8", -centre)
    np.testing.assert_array_equal(found["p"][0, :, 1, 5], expected)
    np.testing.assert_array_equal(found["q"][0, 5, 1], expected)


@pytest.mark.parametrize("inside", [True, False])
def test_weights_that_others_read_stay(inside: bool, device: Device, runner: Runner) -> None:
    """Another node, or one within a branch; a layer that is not chosen is left as it was."""
    nodes = convolutions(("x", "p"))
    if inside:
        value = helper.make_tensor_value_info
        branch = helper.make_graph(
            [node("Abs", ["wp"], ["z"])], "branch", [], [value("z", TensorProto.FLOAT, None)]
        )
        nodes += [node("If", ["true"], ["abs"], then_branch=branch, else_branch=branch)]
    else:
        nodes += [node("Abs", ["wp"], ["abs"])]
    nodes += [node("Conv", ["p", "few"], ["y"])]
    constants: dict[str, Any] = {"wp": drawn(24, 24, 1, 1), "few": drawn(8, 24, 1, 1)}
    constants["true"] = np.array(True)
    model = plain_model(nodes, constants, ["abs", "p", "y"], shape=[1, 24, 8, 11])
    proto, chosen = rewritten(model, "fp8", "float32", runner)
    assert [*chosen] == ["p"]
    assert initializers(proto).keys() >= {"wp", "few"}
    found = run(proto, item(9).data, device)
    np.testing.assert_array_equal(found["abs"], np.abs(constants["wp"]))
    expected = convolved(found["p"], constants["few"], {})
    np.testing.assert_allclose(found["y"], expected, rtol=1e-4, atol=1e-3)


def test_layers_of_one_name_have_weights_of_their_own(device: Device, runner: Runner) -> None:
    """One by its node's, and one, whose node has none, by what it makes."""
    nodes = convolutions(("x", "p"), ("p", "q"))
    nodes[0].name = "q"
    constants = {"wp": drawn(24, 24, 1, 1), "wq": drawn(24, 24, 1, 1, seed=1)}
    model = plain_model(nodes, constants, ["p", "q"], shape=[1, 24, 8, 11])
    assert [layer.name for layer in Network(model).layers] == ["q", "q"]
    proto, _ = rewritten(model, "fp8", "float32", runner)
    found = run(proto, item(9).data, device)
    expected = run(onnx.load_from_string(model.onnx), item(9).data, device)
    for output in ("p", "q"):
        off = found[output] - expected[output]
        assert np.std(off) < 0.1 * np.std(expected[output])


def test_nothing_chosen_leaves_the_graph() -> None:
    network = Network(chain())
    before = network.proto.SerializeToString(deterministic=True)
    rewrite(network.proto.graph, {}, FORMATS["fp8"], "float32")
    assert network.proto.SerializeToString(deterministic=True) == before
