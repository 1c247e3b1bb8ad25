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
CELLS = SIDE // 8  # of stride 8, on a side
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
    weights, bias = _head()
    constants = {
        "weights": (weights / 255).reshape(8, 3, 1, 1).astype(dtype),
        "bias": bias.astype(dtype),
        "zero": np.array(0, dtype),
        "one": np.array(1, dtype),
        "flat": np.array([0, 8, CELLS * CELLS]),
        "no_cells_of_16_and_32": NO_CELLS_OF_16_AND_32,
    }
    nodes = [
        helper.make_node("AveragePool", ["images"], ["mean"], **POOL),
        helper.make_node("Conv", ["mean", "weights", "bias"], ["raw"]),
        helper.make_node("Clip", ["raw", "zero", "one"], ["clipped"]),
        helper.make_node("Reshape", ["clipped", "flat"], ["channels"]),
        helper.make_node("Transpose", ["channels"], ["anchors"], perm=[0, 2, 1]),
        helper.make_node("Pad", ["anchors", "no_cells_of_16_and_32"], ["output"]),
    ]
    _write_detector(path, nodes, constants, batch, dtype)


# One cell of stride 8 looks at the square that begins with it.
POOL = {
    "kernel_shape": [SQUARE, SQUARE],
    "strides": [8, 8],
    "pads": [0, 0, 8, 8],
    "count_include_pad": 1,
}
NO_CELLS_OF_16_AND_32 = np.array([0, 0, 0, 0, CELLS * CELLS * 5 // 16, 0])


def _head() -> tuple[Array, Array]:
    """(8, 3) and (8,): from a cell's mean of B, G and R, 0–1, to what YOLOX gives, clipped to 0–1.

    That is a box (one cell right and down of the cell's corner, ln 2: twice the stride),
    objectness 1, classes. Clipping leaves the first five as they are.
    """
    weights = np.zeros((8, 3))
    for class_id in range(3):
        weights[5 + class_id] = -0.5
        weights[5 + class_id, 2 - class_id] = 1
    return 4 * weights, np.array([1, 1, np.log(2), np.log(2), 1, -3, -3, -3])


def _write_detector(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Array],
    batch: int | str,
    dtype: str,
) -> None:
    _write(
        path,
        nodes,
        {"images": (dtype, [batch, 3, SIDE, SIDE])},
        {"output": (dtype, [batch, CELLS * CELLS * 21 // 16, 8])},
        constants,
        {"names": repr(dict(enumerate(NAMES)))},
    )


# The deep detector's layers in their order, and why one is not to be quantised, "" where it may be.
DEEP = {
    "spread": "16 channels or fewer",
    "mix": "",
    "each": "depthwise",
    "blend": "",
    "lift": "",
    "brittle": "",
    "settle": "",
    "product": "",
    "head": "16 channels or fewer",
}


def write_deep_model(
    path: Path, *, batch: int | str = "N", dtype: str = "float32", tangled: bool = False
) -> None:
    """The detector of `write_tiny_model`, the same to four digits, with the layers of DEEP.

    Between them a cell has 24 or 32 channels: each a constant, and so much of each colour's mean
    (0–1). The weights of a layer are a random solution of what makes its channels of those before.
    Constants are 0 but those that "brittle" and "settle" read: 20 to 60, beside which eight bits
    lose the colours. "settle" is 1 × 1, so that they can be subtracted before; "brittle" pads.
    tangled: every channel has 20 to 40 times the sum of the colours in it too, which no layer
    bears in eight bits.
    """
    rng = np.random.default_rng(5)

    def code(channels: int, constant: float = 0) -> Array:
        """(channels, 4): of B, G, R and 1 in each channel."""
        colors = rng.uniform(0, 0.1, (channels, 3))
        colors[range(channels), np.arange(channels) % 3] = rng.uniform(0.5, 1, channels)
        if tangled:
            colors += rng.uniform(20, 40, (channels, 1))
        return np.column_stack([colors, constant * rng.uniform(0.5, 1.5, channels)])

    def solution(given: Array, wanted: Array) -> Array:
        """Random weights with `weights @ given = wanted`."""
        weights = rng.normal(0, 0.05, (len(wanted), len(given)))
        return weights + (wanted - weights @ given) @ np.linalg.pinv(given)

    constants = {
        "flat": np.array([0, 24, CELLS * CELLS]),
        "no_cells_of_16_and_32": NO_CELLS_OF_16_AND_32,
        "zero": np.array(0, dtype),
        "one": np.array(1, dtype),
    }
    nodes = [helper.make_node("AveragePool", ["images"], ["mean"], **POOL)]
    last = "mean"  # the tensor
    codes = np.column_stack([255 * np.eye(3), np.zeros(3)])  # what it is

    def add(op: str, *others: str, name: str = "", **attributes: Any) -> None:
        """A node that reads the last tensor, and constants."""
        nonlocal last
        made = name or f"{op} of {last}"
        nodes.append(helper.make_node(op, [last, *others], [made], name=made, **attributes))
        last = made

    def convolution(name: str, wanted: Array, kernel: int = 1) -> None:
        nonlocal codes
        nothing = np.zeros((len(wanted), 4))
        taps = np.stack([solution(codes, nothing) for _ in range(kernel**2)], -1)
        middle = taps[:, :, kernel**2 // 2] = solution(codes[:, :3], wanted[:, :3])
        constants[f"{name} weights"] = taps.reshape(*middle.shape, kernel, kernel).astype(dtype)
        constants[f"{name} bias"] = (wanted - middle @ codes)[:, 3].astype(dtype)
        add("Conv", f"{name} weights", f"{name} bias", name=name, pads=[kernel // 2] * 4)
        codes = wanted

    convolution("spread", code(32))
    add("Relu")
    convolution("mix", code(32))
    add("Relu")
    factors = rng.uniform(0.5, 1, 32)
    constants["each weights"] = np.zeros((32, 1, 3, 3), dtype)
    constants["each weights"][:, 0, 1, 1] = factors
    add("Conv", "each weights", name="each", pads=[1] * 4, group=32)
    codes = factors[:, None] * codes
    convolution("blend", code(32), 3)
    convolution("lift", code(32, 40), 3)
    convolution("brittle", code(32, 40), 3)
    convolution("settle", code(24))
    add("Relu")
    add("Reshape", "flat")
    add("Transpose", perm=[0, 2, 1])
    wanted = code(24)
    constants["product weights"] = solution(codes, wanted).T.astype(dtype)
    add("MatMul", "product weights", name="product")
    weights, bias = _head()
    constants["head weights"] = (weights @ np.linalg.pinv(wanted[:, :3])).T.astype(dtype)
    constants["head bias"] = bias.astype(dtype)
    add("MatMul", "head weights", name="head")
    add("Add", "head bias")
    add("Clip", "zero", "one")
    add("Pad", "no_cells_of_16_and_32", name="output")
    _write_detector(path, nodes, constants, batch, dtype)


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
