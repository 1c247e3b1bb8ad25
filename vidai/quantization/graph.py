"""An ONNX model taken apart: its layers with weights, and any part of it as a model of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, version_converter

from vidai.errors import ModelError
from vidai.models.model import Model
from vidai.models.nodes import reads, set_sorted

Array = npt.NDArray[Any]

OPSET = 19  # the first whose QuantizeLinear gives FLOAT8E4M3FN
FEW = 16  # channels: with as many or fewer, tensor cores have no fast path
LARGEST_KERNEL = 32  # weights of one channel, beyond which there is none on Ada

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A node with weights.

    node: its number. shape: of the weights; axis: the one that counts the outputs. pointwise:
    every output looks at one place of the input, without padding. why: it is not to be
    quantised, "" where it is.
    """

    node: int
    name: str
    op: str
    input: str
    output: str
    weights: str
    bias: str
    shape: tuple[int, ...]
    axis: int
    pointwise: bool
    attributes: dict[str, Any] = field(repr=False)
    why: str = ""

    @property
    def outputs(self) -> int:
        return self.shape[self.axis]

    @property
    def others(self) -> tuple[int, ...]:
        """The shape of the weights of one output."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def inputs(self) -> int:
        """Weights of one output."""
        return math.prod(self.others)


class Network:
    """A float32 model of opset ≥ 19, its constants as initializers, its nodes named by number.

    Raises ModelError for a model that is not float32, is quantised already, or cannot be
    brought to that opset.
    """

    def __init__(self, model: Model) -> None:
        if model.spec.dtype != "float32":
            raise ModelError(
                f"model {model.name} takes {model.spec.dtype} pictures: quantise the float32 model "
                f"that it was made from"
            )
        self.name = model.name
        self.proto = _converted(model)
        graph = self.proto.graph
        names = [node.name for node in graph.node]
        for number, node in enumerate(graph.node):
            node.name = node_name(number, node.op_type)
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.input = graph.input[0].name
        self.outputs = [output.name for output in graph.output]
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in self.nodes):
            raise ModelError(
                f"model {model.name} is quantised already: quantise the model that it was made from"
            )
        self.layers = [
            self._layer(number, node, names[number] or node.output[0])
            for number, node in enumerate(self.nodes)
            if node.op_type in WEIGHTED
        ]
        for layer in self.layers:
            self._check_finite(layer)
        self._last_read = {
            name: number for number, node in enumerate(self.nodes) for name in reads(node)
        }
        self._made = {
            name: number for number, node in enumerate(self.nodes) for name in node.output
        }

    def array(self, name: str) -> Array:
        """The values of a constant."""
        return np.asarray(numpy_helper.to_array(self.weights[name]))

    def matrix(self, layer: Layer) -> Array:
        """(outputs, inputs of one output): the layer's weights, float64."""
        weights = np.moveaxis(self.array(layer.weights), layer.axis, 0)
        return weights.reshape(len(weights), -1).astype(np.float64)

    def bias(self, layer: Layer) -> Array:
        """(outputs,) float64, zeros where the layer has none."""
        if not layer.bias:
            return np.zeros(layer.outputs)
        bias = self.array(layer.bias).astype(np.float64).reshape(-1)
        return np.broadcast_to(bias, layer.outputs)

    def live(self, node: int) -> list[str]:
        """What the nodes from that one on read of what those before it, or the input, made."""
        return [
            name
            for name, last in self._last_read.items()
            if last >= node and (name == self.input or self._made.get(name, node) < node)
        ]

    def made_between(self, first: int, last: int) -> list[str]:
        """The model's outputs that the nodes first … last - 1 make."""
        return [name for name in self.outputs if first <= self._made.get(name, -1) < last]

    def part(
        self,
        nodes: Iterable[onnx.NodeProto],
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        constants: Iterable[onnx.TensorProto] = (),
    ) -> bytes:
        """A model of some nodes. inputs: examples, for their types. constants: more of them."""
        nodes = list(nodes)
        read = {name for node in nodes for name in reads(node)}
        graph = helper.make_graph(
            nodes,
            "part",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
                )
                for name, array in inputs.items()
                if name in read
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [tensor for name, tensor in self.weights.items() if name in read] + list(constants),
        )
        model = helper.make_model(
            graph,
            opset_imports=self.proto.opset_import,
            ir_version=self.proto.ir_version,
            functions=self.proto.functions,
        )
        serialized: bytes = model.SerializeToString()
        return serialized

    def _layer(self, number: int, node: onnx.NodeProto, name: str) -> Layer:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        constants = {
            name: list(self.weights[name].dims) for name in node.input if name in self.weights
        }
        shape = constants.get(node.input[1], [])
        transposed = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not attributes.get("transB")
        )
        bias = node.input[2] if len(node.input) > 2 else ""
        axis = 1 if transposed else 0
        whole = node.op_type != "Conv" or (
            shape[2:] == [1, 1] and not any(attributes.get("pads", ()))
        )
        return Layer(
            node=number,
            name=name,
            op=node.op_type,
            input=node.input[0],
            output=node.output[0],
            weights=node.input[1],
            bias=bias,
            shape=tuple(shape),
            axis=axis,
            pointwise=whole,
            attributes=attributes,
            why=self._not_float32(node) or _unfit(node, attributes, constants),
        )

    def _check_finite(self, layer: Layer) -> None:
        for name in (layer.weights, layer.bias):
            if name in self.weights and not np.isfinite(self.array(name)).all():
                raise ModelError(
                    f"model {self.name}: layer {layer.name} has weights that are not finite: such "
                    f"a model cannot be quantised"
                )

    def _not_float32(self, node: onnx.NodeProto) -> str:
        types = {self.weights[name].data_type for name in node.input[1:] if name in self.weights}
        return "not float32" if types - {onnx.TensorProto.FLOAT} else ""


def node_name(number: int, op: str) -> str:
    """What the nodes are called here and in `vidai.models.half`."""
    return f"{number} {op}"


def _unfit(
    node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Mapping[str, list[int]]
) -> str:
    """Why a node is not to be quantised; "" where it may be. constants: the shapes of its own."""
    data, weights, *others = node.input
    shape = constants.get(weights)
    if not shape:
        return "its weights are not constant"
    if data in constants:
        return "its input is constant"
    bias = others[0] if others else ""
    if bias and bias not in constants:
        return "its bias is not constant"
    if node.op_type == "ConvTranspose":
        return "a transposed convolution"
    if node.op_type == "Conv":
        if len(shape) != 4:
            return "not two-dimensional"
        if attributes.get("group", 1) != 1:
            return "depthwise" if shape[1] == 1 else "grouped"
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
            return "padded automatically"
        if shape[2] * shape[3] > LARGEST_KERNEL:
            return f"a kernel of {shape[2]} × {shape[3]}"
    elif len(shape) != 2:
        return "its weights are no matrix"
    if node.op_type == "Gemm" and (
        attributes.get("transA")
        or attributes.get("alpha", 1) != 1
        or attributes.get("beta", 1) != 1
    ):
        return "scaled or transposed"
    if node.op_type == "Gemm" and bias and math.prod(constants[bias][:-1]) != 1:
        return "its bias differs between rows"
    if min(shape[:2]) <= FEW:
        return f"{FEW} channels or fewer"
    return ""


def _converted(model: Model) -> onnx.ModelProto:
    proto = _parsed(model)
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer):
        raise ModelError(
            f"model {model.name} keeps its weights in a file of their own: save it as one file, "
            f"as by onnx.save(onnx.load(path), new_path)"
        )
    try:
        opset = max(
            (o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0
        )
        if opset < OPSET:
            kept = {entry.key: entry.value for entry in proto.metadata_props}
            proto = version_converter.convert_version(proto, OPSET)
            helper.set_model_props(proto, kept)
        proto.ir_version = max(proto.ir_version, 9)
        _hoist_constants(proto.graph)
        set_sorted(proto.graph, list(proto.graph.node))
        _drop_unused(proto.graph)
    except Exception as error:  # of onnx and protobuf, which have no common base
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {model.name} cannot be brought to opset {OPSET}, which quantising needs: {said}"
        ) from error
    return proto


def _parsed(model: Model) -> onnx.ModelProto:
    try:
        return onnx.load_from_string(model.onnx)
    except Exception as error:  # of protobuf
        raise ModelError(f"model {model.name} cannot be read: {error}") from error


def _hoist_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, and initializers are no inputs."""
    kept = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]  # declared for other sizes, sometimes


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes that no output depends on go: nothing shows what a layer among them does."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(reads(node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
