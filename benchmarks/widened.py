"""A network with every channel twice that computes the same: for times at another size.

Of YOLOX-nano it makes one with about the work of YOLOX-s, whose weights this project does not
have to fetch: what takes time does not depend on what the numbers are. Channel c becomes 2c and
2c + 1, which always carry the same values. Each weight is split into two parts of random
proportion, one for either copy of its input; the sum is what it was. Depthwise convolutions become
dense ones, with zeros between what were different channels, as YOLOX-s has dense ones there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]


def widened(model: onnx.ModelProto, side: int, seed: int = 0) -> onnx.ModelProto:
    """A YOLOX of any width, with every channel twice, for pictures of side × side px."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    graph = proto.graph
    rng = np.random.default_rng(seed)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first, last = ends(graph)
    made: dict[str, Array] = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        name, *bias = node.input[1:]
        made[name] = doubled(
            densified(weights[name], group_of(node)),
            rng,
            inputs=node.output[0] not in first,
            outputs=node.output[0] not in last,
        )
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = 1
        for vector in bias:
            made[vector] = weights[vector].repeat(1 if node.output[0] in last else 2)
    for tensor in graph.initializer:
        if tensor.name in made:
            tensor.CopyFrom(numpy_helper.from_array(made[tensor.name], tensor.name))
    resize(graph, side)
    onnx.checker.check_model(proto)
    return proto


def ends(graph: onnx.GraphProto) -> tuple[set[str], set[str]]:
    """Outputs of the convolutions that see the picture itself, and of those that no other sees."""
    first: set[str] = set()
    last: set[str] = set()
    sources: dict[str, set[str]] = {}  # of each tensor: the convolutions nearest before it
    for node in graph.node:
        before = {source for name in node.input for source in sources.get(name, ())}
        if node.op_type == "Conv":
            last -= before
            last.add(node.output[0])
            if not before:
                first.add(node.output[0])
            before = {node.output[0]}
        sources |= dict.fromkeys(node.output, before)
    return first, last


def group_of(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def densified(weights: Array, groups: int) -> Array:
    """Weights (outputs, inputs / groups, height, width) for all inputs."""
    outputs, inputs, *kernel = weights.shape
    dense = np.zeros((groups, outputs // groups, groups, inputs, *kernel), weights.dtype)
    own = np.arange(groups)
    dense[own, :, own] = weights.reshape(groups, outputs // groups, inputs, *kernel)
    return dense.reshape(outputs, groups * inputs, *kernel)


def doubled(weights: Array, rng: np.random.Generator, *, inputs: bool, outputs: bool) -> Array:
    """inputs, outputs: whether those are there twice."""
    if outputs:
        weights = weights.repeat(2, axis=0)
    if not inputs:
        return weights
    part = rng.uniform(0.25, 0.75, weights.shape).astype(weights.dtype)
    rows, columns, *kernel = weights.shape
    halves = np.stack([weights * part, weights * (1 - part)], axis=2)
    return halves.reshape(rows, 2 * columns, *kernel)


def resize(graph: onnx.GraphProto, side: int) -> None:
    """Declare another size; nothing inside depends on it."""
    del graph.value_info[:]
    for axis in (2, 3):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    anchors = sum((side // stride) ** 2 for stride in (8, 16, 32))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = anchors


def macs(proto: onnx.ModelProto) -> int:
    """Multiply-accumulates of the convolutions for one picture."""
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    dims = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(
        int(np.prod(dims[node.input[1]])) * int(np.prod(shapes[node.output[0]][2:]))
        for node in graph.node
        if node.op_type == "Conv"
    )
