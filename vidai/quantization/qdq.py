"""Q/DQ nodes: how a quantised layer stands in an ONNX graph.

    x ─[Sub centre]─ QuantizeLinear ─ DequantizeLinear ─┐
    codes of the weights ─────────── DequantizeLinear ──┴─ Conv (+ bias) ─

Activations have one scale, weights one for each output; zero points are 0. This is what TensorRT 11
reads as a layer to compute in eight bits, and what ONNX Runtime executes as written. Layers that
read the same input with the same centre share its nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from vidai.models.nodes import reads
from vidai.quantization.formats import Format
from vidai.quantization.graph import Layer
from vidai.quantization.layers import QuantizedLayer

Array = npt.NDArray[Any]
Chosen = Mapping[str, tuple[Layer, QuantizedLayer]]  # by the node's name


class Rewriter:
    """Nodes of a graph with some of its layers quantised.

    dtype: of the tensors around them, "float32" or "float16". nodes, constants: what was made.
    """

    def __init__(self, form: Format, dtype: str) -> None:
        self.form = form
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._dequantized: dict[tuple[Any, ...], str] = {}

    def add(self, node: onnx.NodeProto, layer: Layer, quantized: QuantizedLayer) -> None:
        """The node, as that layer, in eight bits."""
        output = node.output[0]
        name = f"{output}/{self.form.name}"  # nodes may share a name, outputs do not
        made = onnx.NodeProto()
        made.CopyFrom(node)
        centre = quantized.centre
        if node.op_type == "Conv":
            centre = centre.reshape(-1, 1, 1)  # beside (N, channels, height, width)
        made.input[0] = self._input(node.input[0], quantized.scale, centre)
        made.input[1] = self._weights(name, quantized, layer.axis)
        bias = self._constant(f"{name}/bias", quantized.bias)
        if node.op_type == "MatMul":
            made.output[0] = f"{name}/product"
            self.nodes += [made, _node("Add", [made.output[0], bias], output)]
            return
        del made.input[2:]
        made.input.append(bias)
        self.nodes.append(made)

    def _input(self, name: str, scale: Array, centre: Array) -> str:
        key = name, float(scale), centre.shape, centre.tobytes()
        if key not in self._dequantized:
            made = f"{name}/{self.form.name}{len(self._dequantized)}"
            self._dequantized[key] = f"{made}/dequantized"
            source = name
            if centre.size:
                source = f"{made}/centred"
                middle = self._constant(f"{made}/centre", centre)
                self.nodes.append(_node("Sub", [name, middle], source))
            scaled = [self._constant(f"{made}/scale", scale), self._zero(f"{made}/zero")]
            self.nodes += [
                _node("QuantizeLinear", [source, *scaled], f"{made}/quantized"),
                _node("DequantizeLinear", [f"{made}/quantized", *scaled], f"{made}/dequantized"),
            ]
        return self._dequantized[key]

    def _weights(self, name: str, quantized: QuantizedLayer, axis: int) -> str:
        codes = helper.make_tensor(
            f"{name}/weights",
            self.form.onnx_type,
            quantized.codes.shape,
            np.ascontiguousarray(quantized.codes).tobytes(),
            raw=True,
        )
        zeros = helper.make_tensor(
            f"{name}/weights/zero",
            self.form.onnx_type,
            quantized.weight_scales.shape,
            bytes(len(quantized.weight_scales)),
            raw=True,
        )
        self.constants += [codes, zeros]
        inputs = [codes.name, self._constant(f"{name}/weights/scale", quantized.weight_scales)]
        made = f"{name}/weights/dequantized"
        self.nodes.append(_node("DequantizeLinear", [*inputs, zeros.name], made, axis=axis))
        return made

    def _constant(self, name: str, array: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array, self.dtype), name))
        return name

    def _zero(self, name: str) -> str:
        self.constants.append(helper.make_tensor(name, self.form.onnx_type, [], b"\0", raw=True))
        return name


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def rewrite(graph: onnx.GraphProto, chosen: Chosen, form: Format, dtype: str) -> None:
    """Quantise the chosen layers of a graph in place; weights that nobody reads any more go."""
    rewriter = Rewriter(form, dtype)
    for node in graph.node:
        if node.name in chosen:
            rewriter.add(node, *chosen[node.name])
        else:
            rewriter.nodes.append(node)
    del graph.node[:]
    graph.node.extend(rewriter.nodes)
    graph.initializer.extend(rewriter.constants)
    used = {name for node in graph.node for name in reads(node)}
    used |= {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
