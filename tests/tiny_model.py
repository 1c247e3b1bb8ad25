"""Small ONNX models whose detections are known: hand-set weights, or outputs baked in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

SIDE = 128  # px of the tiny detector's input
SQUARE = 16  # px of what it finds
NAMES = ("red", "green", "blue")

Array = npt.NDArray[Any]


def write_tiny_model(path: Path, *, batch: int | str = "N", dtype: str = "float32") -> None:
    """A detector of red, green and blue squares (classes 0, 1, 2), in YOLOX's form.

    Takes (N, 3, 128, 128), BGR 0–255, and gives (N, 336, 8). Every square of 16 × 16 model
    px whose left and top are multiples of 8 is found once, exactly at its place, with a
    score of min(1, 4 s - 3), where s is the mean over it of its own channel less half of
    the other two, divided by 255: 1 for a pure colour, 0.9 where s is 0.975, nothing for
    grey, white or three quarters of a square.
    """
    cells = SIDE // 8
    # One cell of stride 8 looks at the square that begins with it. Channels of the result:
    # box (one cell right and down of the cell's corner, ln 2: twice the stride), objectness
    # 1, classes. Clipping to 0–1 leaves the first five as they are.
    weights = np.zeros((8, 3, 1, 1))
    for class_id in range(3):
        weights[5 + class_id, :, 0, 0] = -0.5
        weights[5 + class_id, 2 - class_id, 0, 0] = 1  # input channels are B, G, R
    weights *= 4 / 255
    bias = np.array([1, 1, np.log(2), np.log(2), 1, -3, -3, -3])
    constants = {
        "weights": weights.astype(dtype),
        "bias": bias.astype(dtype),
        "zero": np.array(0, dtype),
        "one": np.array(1, dtype),
        "flat": np.array([0, 8, cells * cells]),
        "no_cells_of_16_and_32": np.array([0, 0, 0, 0, cells * cells * 5 // 16, 0]),
    }
    pool = {"kernel_shape": [SQUARE, SQUARE], "strides": [8, 8], "pads": [0, 0, 8, 8]}
    nodes = [
        helper.make_node("AveragePool", ["images"], ["mean"], count_include_pad=1, **pool),
        helper.make_node("Conv", ["mean", "weights", "bias"], ["raw"]),
        helper.make_node("Clip", ["raw", "zero", "one"], ["clipped"]),
        helper.make_node("Reshape", ["clipped", "flat"], ["channels"]),
        helper.make_node("Transpose", ["channels"], ["anchors"], perm=[0, 2, 1]),
        helper.make_node("Pad", ["anchors", "no_cells_of_16_and_32"], ["output"]),
    ]
    _write(
        path,
        nodes,
        {"images": (dtype, [batch, 3, SIDE, SIDE])},
        {"output": (dtype, [batch, cells * cells * 21 // 16, 8])},
        constants,
        {"names": repr(dict(enumerate(NAMES)))},
    )


def picture(
    squares: Iterable[tuple[int, int, int]], width: int = SIDE, height: int = SIDE
) -> Array:
    """An RGB picture (height, width, 3) uint8, black but for squares (x, y, class)."""
    rgb = np.zeros((height, width, 3), np.uint8)
    for x, y, class_id in squares:
        rgb[y : y + SQUARE, x : x + SQUARE, class_id] = 255
    return rgb


def write_constant_model(
    path: Path,
    outputs: Mapping[str, Array],
    *,
    input_dims: Sequence[int | str],
    input_dtype: str = "float32",
    dims: Mapping[str, Sequence[int | str]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """A model that answers every picture with the same arrays. dims: declared, if not theirs."""
    declared = {name: (dims or {}).get(name, array.shape) for name, array in outputs.items()}
    _write(
        path,
        [helper.make_node("Identity", [f"{name}_baked"], [name]) for name in outputs],
        {"images": (input_dtype, input_dims)},
        {name: (str(array.dtype), declared[name]) for name, array in outputs.items()},
        {f"{name}_baked": array for name, array in outputs.items()},
        metadata or {},
    )


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, tuple[str, Sequence[int | str]]],
    constants: Mapping[str, Array],
    metadata: Mapping[str, str],
) -> None:
    def values(tensors: Mapping[str, tuple[str, Sequence[int | str]]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(dims)
            )
            for name, (dtype, dims) in tensors.items()
        ]

    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)
