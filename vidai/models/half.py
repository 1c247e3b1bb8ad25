"""A float32 model as a float16 one: half the memory traffic, and tensor cores.

A half has 11 bits: at 640 px it counts in halves of a pixel. So only what leads up to the last
weighted layers is converted. What follows them, where boxes are decoded, stays float32, and so
do the outputs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vidai.errors import ModelError
from vidai.models.model import Model
from vidai.models.nodes import set_sorted

if TYPE_CHECKING:
    import onnx

# Layers with weights: where nearly all the work is, so the way back from an output ends there.
_WEIGHTED = {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}


def half(model: Model) -> Model:
    """The model with a float16 input and float32 outputs.

    Raises ModelError where it cannot be converted, or the package onnx is not installed.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise ModelError(
            f"model {model.name} cannot be made float16 without the package {error.name}: "
            f"pip install 'vidai[cuda]'"
        ) from error
    if model.spec.dtype != "float32":
        raise ModelError(f"model {model.name} takes {model.spec.dtype} already")
    try:
        network = onnx.load_from_string(model.onnx)
        for number, node in enumerate(network.graph.node):
            node.name = f"{number} {node.op_type}"  # the converter goes by names
        network = convert_float_to_float16(
            network,
            keep_io_types=[output.name for output in network.graph.output],
            node_block_list=_decoding(network.graph),
        )
        _without_detours(network.graph)
        onnx.shape_inference.infer_shapes(network, check_type=True)  # raises on mixed types
    except Exception as error:  # of onnx, protobuf and the converter, which have no common base
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"model {model.name} cannot be made float16: {said}") from error
    return replace(
        model, onnx=network.SerializeToString(), spec=replace(model.spec, dtype="float16")
    )


def _decoding(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes between the last weighted layers and the outputs."""
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, Any] = {}
    waiting = [output.name for output in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in found or node.op_type in _WEIGHTED:
            continue
        found[node.name] = node
        waiting += node.input
    return list(found)


def _without_detours(graph: onnx.GraphProto) -> None:
    """Take out what the converter puts between two float32 nodes: to float16 and back.

    And sort the nodes, since it appends its own at the end.
    """
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        before = makers.get(node.input[0]) if node.op_type == "Cast" else None
        if before is not None and before.name.endswith("_cast_to_fp16_node"):
            node.input[0] = before.input[0]  # is float32 already
    used = {name for node in graph.node for name in node.input}
    used |= {output.name for output in graph.output}
    set_sorted(graph, [node for node in graph.node if used.intersection(node.output)])
