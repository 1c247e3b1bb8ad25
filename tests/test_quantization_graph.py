from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vidai.device import Device
from vidai.devices.cpu.session import open_model
from vidai.errors import ModelError
from vidai.models.model import Model
from vidai.ops.candidates import Candidates
from vidai.quantization.graph import Layer, Network
from vidai.quantization.quantizer import fit_layers
from vidai.quantization.running import Runner
from vidai.types import InputSpec

Array = npt.NDArray[Any]
node = helper.make_node


class Plain(Model):
    """Of no family: what its outputs mean is not asked."""

    def candidates(
        self, device: Device, outputs: list[Any], size: tuple[int, int], conf: float
    ) -> list[Candidates]:
        raise NotImplementedError


def plain_model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any],
    outputs: Sequence[str] = ("y",),
    *,
    shape: Sequence[int | str] = (1, 24, 6, 5),
    opset: int = 19,
    ir_version: int = 9,
    inputs: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> Model:
    """A model that takes x. inputs: constants that are declared as inputs, too."""
    value = helper.make_tensor_value_info
    weights = {
        name: numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    }
    graph = helper.make_graph(
        nodes,
        "plain",
        [value("x", TensorProto.FLOAT, shape)]
        + [value(name, weights[name].data_type, weights[name].dims) for name in inputs],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        list(weights.values()),
    )
    imports = [helper.make_opsetid("", opset)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    helper.set_model_props(proto, dict(metadata or {}))
    proto = onnx.shape_inference.infer_shapes(proto)  # of the outputs
    return Plain("plain", InputSpec(0, 0), (), proto.SerializeToString())


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def computed(model: bytes, inputs: Mapping[str, Array], names: Sequence[str] = ("y",)) -> Any:
    """The named outputs, by ONNX Runtime as it comes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(list(names), dict(inputs))


def only_layer(model: Model) -> tuple[Network, Layer]:
    network = Network(model)
    (layer,) = network.layers
    return network, layer


@pytest.fixture
def runner() -> Iterator[Runner]:
    with closing(Runner(1)) as runner:
        yield runner


def test_an_old_model_is_brought_to_the_opset_and_computes_the_same() -> None:
    """From opset 11, with constants as nodes and weights as inputs, as old exporters wrote them."""
    axes = numpy_helper.from_array(np.array([0.5], np.float32), "inside")
    model = plain_model(
        [
            node("Constant", [], ["half"], value=axes),
            node("Conv", ["x", "weights"], ["made"], name="first"),
            node("Squeeze", ["made"], ["flat"], axes=[0]),
            node("Mul", ["flat", "half"], ["y"], name="last"),
        ],
        {"weights": drawn(32, 24, 1, 1)},
        opset=11,
        ir_version=3,
        inputs=["weights"],
        metadata={"names": "{0: 'one'}", "stride": "32"},
    )
    network = Network(model)
    onnx.checker.check_model(network.proto, full_check=True)
    assert [(o.domain, o.version) for o in network.proto.opset_import] == [("", 19)]
    assert network.proto.ir_version >= 9  # of the first with FLOAT8E4M3FN
    assert not [n for n in network.nodes if n.op_type == "Constant"]
    assert [n.name for n in network.nodes] == ["0 Conv", "1 Squeeze", "2 Mul"]
    assert [v.name for v in network.proto.graph.input] == ["x"] == [network.input]
    assert {m.key: m.value for m in network.proto.metadata_props} == {
        "names": "{0: 'one'}",
        "stride": "32",
    }
    np.testing.assert_array_equal(network.array("half"), np.array([0.5], np.float32))
    x = drawn(1, 24, 6, 5)
    (expected,) = computed(model.onnx, {"x": x})
    (found,) = computed(network.proto.SerializeToString(), {"x": x})
    assert found.shape == (32, 6, 5)
    np.testing.assert_array_equal(found, expected)


def test_a_later_opset_is_kept() -> None:
    model = plain_model([node("Relu", ["x"], ["y"])], {}, opset=21, ir_version=10)
    network = Network(model)
    assert (network.proto.opset_import[0].version, network.proto.ir_version) == (21, 10)


def test_layers_go_by_their_nodes_names_or_by_what_they_make() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["between"], name="stem/conv"),
        node("Conv", ["between", "w"], ["y"]),
    ]
    network = Network(plain_model(nodes, {"w": drawn(24, 24, 1, 1)}))
    assert [(layer.node, layer.name) for layer in network.layers] == [(0, "stem/conv"), (1, "y")]


def test_what_no_output_needs_is_left_out() -> None:
    """What ends nowhere; but not what only a branch of an If reads."""
    branch = helper.make_graph(
        [node("Neg", ["inside"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Conv", ["x", "w"], ["aside"]),
        node("Conv", ["x", "w"], ["inside"]),
        node("Relu", ["aside"], ["nowhere"]),
        node("If", ["true"], ["y"], then_branch=branch, else_branch=branch),
    ]
    model = plain_model(nodes, {"w": drawn(24, 24, 1, 1), "true": np.array(True)})
    network = Network(model)
    assert [one.output[0] for one in network.nodes] == ["inside", "y"]
    assert [(layer.node, layer.output) for layer in network.layers] == [(0, "inside")]
    x = drawn(1, 24, 6, 5)
    (expected,) = computed(model.onnx, {"x": x})
    (found,) = computed(network.proto.SerializeToString(), {"x": x})
    np.testing.assert_array_equal(found, expected)


def convolution(shape: Sequence[int], **attributes: Any) -> tuple[onnx.NodeProto, dict[str, Array]]:
    return node("Conv", ["x", "w"], ["y"], **attributes), {"w": drawn(*shape)}


def product(op: str, shape: Sequence[int], **attributes: Any) -> Any:
    return node(op, ["x", "w"], ["y"], **attributes), {"w": drawn(*shape)}


UNFIT: list[tuple[str, Any]] = [
    ("depthwise", convolution((24, 1, 3, 3), group=24)),
    ("grouped", convolution((24, 12, 3, 3), group=2)),
    ("16 channels or fewer", convolution((17, 16, 1, 1))),
    ("16 channels or fewer", convolution((16, 17, 1, 1))),
    ("a kernel of 6 × 6", convolution((24, 24, 6, 6))),
    ("a kernel of 33 × 1", convolution((24, 24, 33, 1))),
    ("a transposed convolution", product("ConvTranspose", (24, 24, 2, 2))),
    ("not two-dimensional", convolution((24, 24, 3))),
    ("padded automatically", convolution((24, 24, 3, 3), auto_pad="SAME_UPPER")),
    ("padded automatically", convolution((24, 24, 3, 3), auto_pad="VALID")),
    ("scaled or transposed", product("Gemm", (24, 24), alpha=0.5)),
    ("scaled or transposed", product("Gemm", (24, 24), beta=0.0)),
    ("scaled or transposed", product("Gemm", (24, 24), transA=1)),
    ("its weights are no matrix", product("MatMul", (2, 24, 24))),
    ("its weights are no matrix", product("MatMul", (24,))),
    ("16 channels or fewer", product("MatMul", (24, 16))),
    ("16 channels or fewer", product("Gemm", (16, 24))),
]
FIT = {
    "1 × 1": convolution((17, 17, 1, 1)),
    "3 × 3": convolution((32, 24, 3, 3), strides=[2, 2], pads=[1, 0, 1, 0], dilations=[1, 2]),
    "4 × 8": convolution((24, 24, 4, 8), group=1, auto_pad="NOTSET"),
    "MatMul": product("MatMul", (24, 17)),
    "Gemm": product("Gemm", (17, 24), transB=1, alpha=1.0, beta=1.0, transA=0),
}


@pytest.mark.parametrize(("why", "case"), UNFIT)
def test_a_layer_that_is_unfit_says_why(why: str, case: Any) -> None:
    one, constants = case
    _, layer = only_layer(plain_model([one], constants))
    assert layer.why == why


@pytest.mark.parametrize("case", FIT)
def test_a_layer_that_is_fit(case: str) -> None:
    one, constants = FIT[case]
    _, layer = only_layer(plain_model([one], constants))
    assert (layer.why, layer.op, layer.input, layer.output) == ("", one.op_type, "x", "y")
    assert (layer.weights, layer.shape, layer.bias) == ("w", constants["w"].shape, "")


def test_what_varies_is_unfit() -> None:
    constants = {"w": drawn(24, 24, 1, 1), "b": drawn(24), "m": drawn(5, 24), "v": drawn(24, 24)}
    nodes = [
        node("Abs", ["w"], ["other w"]),
        node("Abs", ["b"], ["other b"]),
        node("Conv", ["x", "other w"], ["1"]),
        node("Conv", ["x", "w", "other b"], ["2"]),
        node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["x", "turned"], ["3"]),
        node("MatMul", ["m", "v"], ["4"]),
        node("Conv", ["x", "w", "b"], ["5"]),
        node("Conv", ["x", "w", ""], ["6"]),
    ]
    network = Network(plain_model(nodes, constants, list("123456")))
    assert {layer.output: layer.why for layer in network.layers} == {
        "1": "its weights are not constant",
        "2": "its bias is not constant",
        "3": "its weights are not constant",
        "4": "its input is constant",
        "5": "",
        "6": "",
    }


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((), True),
        ((1,), True),
        ((32,), True),
        ((1, 32), True),
        ((1, 1), True),
        ((32, 1), False),
        ((32, 32), False),
    ],
)
def test_a_bias_of_a_gemm_is_one_number_an_output(shape: Sequence[int], fits: bool) -> None:
    """ONNX lets it differ between rows, too, here as many as outputs."""
    one = node("Gemm", ["x", "w", "b"], ["y"])
    constants = {"w": drawn(24, 32), "b": drawn(*shape)}
    model = plain_model([one], constants, shape=[32, 24])
    network, layer = only_layer(model)
    assert layer.why == ("" if fits else "its bias differs between rows")
    if fits:
        x = drawn(32, 24)
        (expected,) = computed(model.onnx, {"x": x})
        found = x @ network.matrix(layer).T + network.bias(layer)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_one_by_one_without_padding_is_pointwise() -> None:
    def pointwise(*case: Any, **attributes: Any) -> bool:
        one, constants = convolution(*case, **attributes)
        return only_layer(plain_model([one], constants))[1].pointwise

    assert pointwise((24, 24, 1, 1), strides=[2, 2], pads=[0, 0, 0, 0])
    assert not pointwise((24, 24, 1, 1), pads=[0, 0, 0, 1])
    assert not pointwise((24, 24, 3, 3))
    assert not pointwise((24, 24, 1, 3))
    for op in ("MatMul", "Gemm"):
        one, constants = product(op, (24, 24))
        assert only_layer(plain_model([one], constants))[1].pointwise


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm", "Gemm transposed"])
def test_matrix_and_bias_are_those_of_the_product(op: str, biased: bool) -> None:
    """(outputs, inputs): its product with the input, and the bias, is what ONNX Runtime makes."""
    shape = {"Conv": (40, 24, 1, 1), "Gemm transposed": (40, 24)}.get(op, (24, 40))
    x = drawn(1, 24, 6, 5) if op == "Conv" else drawn(7, 24)
    biased = biased and op != "MatMul"
    one = node(op.split()[0], ["x", "w", *(["b"] if biased else [])], ["y"])
    if op == "Gemm transposed":
        one.attribute.append(helper.make_attribute("transB", 1))
    model = plain_model([one], {"w": drawn(*shape), "b": drawn(40)}, shape=x.shape)
    network, layer = only_layer(model)
    assert (layer.outputs, layer.inputs) == (40, 24)
    assert (layer.axis, layer.shape[layer.axis]) == (shape.index(40), 40)
    assert network.matrix(layer).dtype == network.bias(layer).dtype == np.float64
    columns = x.reshape(24, -1) if op == "Conv" else x.T
    found = network.matrix(layer) @ columns + network.bias(layer)[:, None]
    (expected,) = computed(model.onnx, {"x": x})
    expected = expected.reshape(40, -1) if op == "Conv" else expected.T
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_kernel_is_one_row_a_channel() -> None:
    one, constants = convolution((32, 24, 3, 2))
    network, layer = only_layer(plain_model([one], constants))
    assert (layer.outputs, layer.inputs, layer.others) == (32, 144, (24, 3, 2))
    np.testing.assert_array_equal(network.matrix(layer), constants["w"].reshape(32, 144))


def tangled() -> Model:
    """Branches, a skip connection, an output that is made early and one that is read on, an input
    that is read late, and an If whose branches read what was made outside."""
    value = helper.make_tensor_value_info
    then = helper.make_graph(
        [node("Mul", ["a", "two"], ["twice"]), node("Add", ["twice", "r"], ["then"])],
        "then",
        [],
        [value("then", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [node("Neg", ["r"], ["other"])], "else", [], [value("other", TensorProto.FLOAT, None)]
    )
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Sigmoid", ["a"], ["early"]),
        node("Relu", ["a"], ["r"]),
        node("ReduceMean", ["x"], ["mean"], keepdims=0),
        node("Greater", ["mean", "zero"], ["bright"]),
        node("Conv", ["r", "v"], ["b"]),
        node("Add", ["b", "r"], ["skipped"]),
        node("If", ["bright"], ["i"], then_branch=then, else_branch=other),
        node("Conv", ["i", "w"], ["c"]),
        node("Add", ["c", "skipped"], ["d"]),
        node("Add", ["d", "x"], ["y"]),
    ]
    constants = {
        "w": drawn(24, 24, 1, 1),
        "v": drawn(24, 24, 1, 1, seed=1),
        "two": np.float32(2),
        "zero": np.float32(0),
    }
    return plain_model(nodes, constants, ["early", "skipped", "y"])


@pytest.mark.parametrize("cut", range(12))
def test_a_model_in_two_parts_computes_what_it_did(cut: int, runner: Runner) -> None:
    model = tangled()
    network = Network(model)
    assert len(network.nodes) == 11
    live = network.live(cut)
    before = network.made_between(0, cut)
    after = network.made_between(cut, len(network.nodes))
    assert sorted(before + after) == sorted(network.outputs)
    for shift in (1, -1):  # both branches
        x = drawn(1, 24, 6, 5) + np.float32(shift)
        tensors = {"x": x}
        names = list(dict.fromkeys(n for n in live + before if n != "x"))
        if names:
            first = open_model(network.part(network.nodes[:cut], tensors, names))
            tensors |= runner.run(first, tensors, names)
        found = {name: tensors[name] for name in before}
        if after:
            given = {name: tensors[name] for name in live}
            second = network.part(network.nodes[cut:], given, after)
            found |= runner.run(open_model(second), given, after)
        expected = computed(model.onnx, {"x": x}, network.outputs)
        for name, array in zip(network.outputs, expected, strict=True):
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", range(11))
def test_what_is_live_is_needed(cut: int, runner: Runner) -> None:
    network = Network(tangled())
    live = network.live(cut)
    assert len(live) == len(set(live)) > 0
    given: dict[str, Any] = {name: drawn(1, 24, 6, 5) for name in live}
    given |= {name: np.float32(1) for name in live if name == "mean"}
    given |= {name: np.bool_(True) for name in live if name == "bright"}
    after = network.made_between(cut, 11)
    open_model(network.part(network.nodes[cut:], given, after))
    for name in live:
        less = {other: array for other, array in given.items() if other != name}
        with pytest.raises(ModelError, match="cannot load"):
            open_model(network.part(network.nodes[cut:], less, after))


def test_a_part_has_constants_of_its_own(runner: Runner) -> None:
    network = Network(tangled())
    other = numpy_helper.from_array(np.float32(3), "three")
    part = network.part([node("Mul", ["a", "three"], ["y"])], {"a": drawn(2, 3)}, ["y"], [other])
    found = runner.run(open_model(part), {"a": drawn(2, 3)}, ["y"])
    np.testing.assert_array_equal(found["y"], 3 * drawn(2, 3))


def test_a_float16_model_is_refused() -> None:
    model = tangled()
    model = replace(model, spec=replace(model.spec, dtype="float16"))
    with pytest.raises(ModelError, match=r"plain takes float16 pictures: quantise the float32"):
        Network(model)


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_a_quantised_model_is_refused(op: str) -> None:
    nodes = [node(op, ["q" if op == "DequantizeLinear" else "x", "scale"], ["z"])]
    nodes += [node("Cast", ["z"], ["f"], to=TensorProto.FLOAT), node("Add", ["x", "f"], ["y"])]
    model = plain_model(nodes, {"scale": np.float32(0.1), "q": np.uint8(3)})
    with pytest.raises(ModelError, match=r"plain is quantised already: quantise the model that"):
        Network(model)


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_broken_bytes_are_refused(damage: str) -> None:
    model = tangled()
    broken = model.onnx[:-7] if damage == "cut" else b"\xff" * 99
    with pytest.raises(ModelError, match="model plain cannot be read") as raised:
        Network(replace(model, onnx=broken))
    assert "\n" not in str(raised.value)


def test_nodes_in_any_order_are_sorted() -> None:
    """ONNX Runtime takes them so, and tools write them so."""
    model = plain_model(
        [node("Relu", ["x"], ["a"]), node("Conv", ["a", "w"], ["b"]), node("Relu", ["b"], ["y"])],
        {"w": drawn(32, 24, 1, 1)},
    )
    proto = onnx.load_from_string(model.onnx)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    network = Network(replace(model, onnx=proto.SerializeToString()))
    assert [n.name for n in network.nodes] == ["0 Relu", "1 Conv", "2 Relu"]
    onnx.checker.check_model(network.proto, full_check=True)


def test_weights_of_another_type_are_left_alone() -> None:
    model = plain_model(
        [
            node("Cast", ["x"], ["a"], to=TensorProto.FLOAT16),
            node("Conv", ["a", "half"], ["b"]),
            node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
        ],
        {"half": drawn(32, 24, 1, 1).astype(np.float16)},
    )
    assert [layer.why for layer in Network(model).layers] == ["not float32"]


def test_weights_that_are_no_numbers_are_refused() -> None:
    weights = drawn(32, 24, 1, 1)
    weights[3, 4] = np.nan
    model = plain_model([node("Conv", ["x", "w"], ["y"], name="first")], {"w": weights})
    with pytest.raises(ModelError, match="layer first has weights that are not finite"):
        Network(model)


def test_weights_in_another_file_are_refused() -> None:
    model = plain_model([node("Conv", ["x", "w"], ["y"])], {"w": drawn(32, 24, 1, 1)})
    proto = onnx.load_from_string(model.onnx)
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], "weights.bin")
    proto.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(ModelError, match="keeps its weights in a file of their own"):
        Network(replace(model, onnx=proto.SerializeToString()))


def test_an_operator_that_the_old_opset_has_not_is_refused() -> None:
    model = plain_model([node("Nonsense", ["x"], ["y"])], {}, opset=11)
    with pytest.raises(ModelError, match=r"plain cannot be brought to opset 19.*Nonsense"):
        Network(model)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([node("Relu", ["x"], ["y"])], "has no convolution or matrix product with weights"),
        (
            [
                node("Conv", ["x", "each"], ["a"], group=24),
                node("Conv", ["a", "each"], ["b"], group=24),
                node("Conv", ["b", "few"], ["y"]),
            ],
            "none is fit: depthwise (2); 16 channels or fewer (1)",
        ),
    ],
)
def test_a_model_without_a_layer_to_quantise_is_refused(
    nodes: list[onnx.NodeProto], said: str
) -> None:
    model = plain_model(nodes, {"each": drawn(24, 1, 1, 1), "few": drawn(8, 24, 1, 1)})
    with pytest.raises(ModelError, match=re.escape(said)):
        fit_layers(Network(model))
