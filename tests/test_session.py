from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.surfaces import cpu
from tests.tiny_model import picture, write_tiny_model
from vidai.device import Device
from vidai.devices.cpu.session import OnnxSession
from vidai.errors import ModelError


@pytest.fixture
def model(tiny_model: Path) -> bytes:
    return tiny_model.read_bytes()


def as_input(rgb: np.ndarray, dtype: str = "float32") -> np.ndarray:
    return np.ascontiguousarray(rgb[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(dtype))


def test_gives_the_raw_outputs_of_every_picture(device: Device, model: bytes) -> None:
    batch = np.concatenate([as_input(picture([(8, 16, c)])) for c in range(3)])
    (output,) = device.session(model).run(batch)
    assert output.shape == (3, 336, 8)
    best = output[:, :, 5:].argmax(axis=1)
    assert [best[c, c] for c in range(3)] == [2 * 16 + 1] * 3
    assert [output[c, 33, 5 + c] for c in range(3)] == pytest.approx([1, 1, 1])


def test_runs_float16_models(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "half.onnx", dtype="float16")
    session = OnnxSession(cpu(), (tmp_path / "half.onnx").read_bytes())
    (output,) = session.run(as_input(picture([(0, 0, 2)]), "float16"))
    assert output.dtype == np.float16
    assert output[0, 0, 7] == pytest.approx(1, abs=0.01)


def test_sessions_run_side_by_side(model: bytes) -> None:
    results: dict[int, np.ndarray] = {}

    def work(class_id: int) -> None:
        session = OnnxSession(cpu(), model)
        for _ in range(20):
            (results[class_id],) = session.run(as_input(picture([(0, 0, class_id)])))

    threads = [Thread(target=work, args=(c,)) for c in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [int(results[c][0, 0, 5:].argmax()) for c in range(3)] == [0, 1, 2]


def test_a_damaged_model_is_a_model_error(model: bytes) -> None:
    with pytest.raises(ModelError, match=r"cannot load the model: .*protobuf"):
        OnnxSession(cpu(), model[: len(model) // 2])


def test_an_input_of_the_wrong_size_is_a_model_error(model: bytes) -> None:
    with pytest.raises(ModelError, match=r"float32 input of shape \(1, 3, 64, 64\)"):
        OnnxSession(cpu(), model).run(np.zeros((1, 3, 64, 64), np.float32))


# Quantised models: what the file says is what is computed.

Array = npt.NDArray[Any]
KINDS = {"fp8": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8}
STEP = {"fp8": 1 / 64, "int8": 1 / 16}  # scales: 7 is the largest of fp8's, 7.9 of int8's
SIDE = 8


class Graph:
    """A small network of input "x" (1, 4, 8, 8); every method adds nodes, and returns their
    output's name."""

    def __init__(self, kind: str, dtype: str) -> None:
        self.kind, self.dtype = kind, dtype
        self.rng = np.random.default_rng(5)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: Any, dtype: str | None = None) -> str:
        name = f"constant{len(self.constants)}"
        array = np.asarray(values, dtype or self.dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def eight(self, values: Any) -> str:
        """A constant of the quantised type."""
        name, array = f"constant{len(self.constants)}", np.asarray(values)
        made = helper.make_tensor(name, KINDS[self.kind], array.shape, array.ravel().tolist())
        self.constants.append(made)
        return name

    def scale(self, times: float = 1) -> tuple[str, str]:
        return self.constant(STEP[self.kind] * times), self.eight(0)

    def quantised(self, x: str, times: float = 1) -> str:
        made = self.op("QuantizeLinear", x, *self.scale(times))
        return self.op("DequantizeLinear", made, *self.scale(times))

    def conv(self, x: str, *, channels: int = 4, quantised: bool = True) -> str:
        """3 × 3 to four channels; each has a scale of its own where quantised."""
        if quantised:
            codes = self.eight(self.rng.integers(-100, 100, (4, channels, 3, 3)))
            scales = self.constant(self.rng.uniform(0.001, 0.002, 4))
            weights = self.op("DequantizeLinear", codes, scales, self.eight([0] * 4), axis=0)
        else:
            weights = self.constant(self.rng.normal(0, 0.1, (4, channels, 3, 3)))
        bias = self.constant(self.rng.normal(0, 0.5, 4))
        return self.op("Conv", x, weights, bias, pads=[1] * 4)

    def pool(self, x: str) -> str:
        return self.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def model(self, *outputs: str) -> bytes:
        value = helper.make_tensor_value_info
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            self.nodes,
            "quantised",
            [value("x", kind, [1, 4, SIDE, SIDE])],
            [value(name, kind, list("nchw")) for name in outputs],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(made)
        data: bytes = made.SerializeToString()
        return data


def as_written(model: bytes, x: Array) -> list[Array]:
    """What ONNX Runtime computes with every optimisation off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, {"x": x})
    return outputs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("after_conv", [False, True])
@pytest.mark.parametrize(
    ("activation", "limits", "expected"),
    [
        ("Relu", [], [0, 0, 0, 1, 2, 7]),
        ("Clip", [0, 6], [0, 0, 0, 1, 2, 6]),
        ("Clip", [0, 100], [0, 0, 0, 1, 2, 7]),
        ("Clip", [-2, 1.5], [-2, -1, 0, 1, 1.5, 1.5]),
    ],
)
def test_an_activation_before_a_quantiser_is_computed(
    kind: str,
    dtype: str,
    after_conv: bool,
    activation: str,
    limits: list[float],
    expected: list[float],
) -> None:
    graph = Graph(kind, dtype)
    same = graph.constant(np.eye(4)[:, :, None, None])
    source = graph.op("Conv", graph.quantised("x"), same) if after_conv else "x"
    active = graph.op(activation, source, *map(graph.constant, limits))
    session = OnnxSession(cpu(), graph.model(graph.quantised(active)))
    x = np.zeros((1, 4, SIDE, SIDE), dtype)
    x[0, 2, 5, :6] = [-3, -1, 0, 1, 2, 7]  # all of these numbers are exact in each type
    (output,) = session.run(x)
    assert output[0, 2, 5, :6].tolist() == expected


def shared(graph: Graph) -> list[str]:
    """Two layers that read one quantised tensor."""
    x = graph.quantised(graph.op("Relu", graph.conv(graph.quantised("x"))))
    return [graph.quantised(graph.conv(x)), graph.quantised(graph.pool(x))]


def unquantised_between(graph: Graph) -> list[str]:
    """A layer whose weights are to stay as they are, between two quantisers."""
    return [graph.quantised(graph.conv(graph.quantised("x"), quantised=False))]


# By name, what makes the quantised tensors that are looked at.
GRAPHS: dict[str, Callable[[Graph], list[str]]] = {
    "Relu, Conv": lambda g: [g.quantised(g.conv(g.quantised(g.op("Relu", "x"))))],
    "Conv, Relu": lambda g: [g.quantised(g.op("Relu", g.conv(g.quantised("x"))))],
    "Conv, Relu, Conv": lambda g: [
        g.quantised(g.conv(g.quantised(g.op("Relu", g.conv(g.quantised("x"))))))
    ],
    "Conv, Clip": lambda g: [
        g.quantised(g.op("Clip", g.conv(g.quantised("x")), g.constant(0), g.constant(6)))
    ],
    "MaxPool": lambda g: [g.quantised(g.pool(g.quantised("x")))],
    "MaxPool, nothing after": lambda g: [g.pool(g.quantised("x"))],
    "Conv, MaxPool": lambda g: [g.quantised(g.pool(g.conv(g.quantised("x"))))],
    "Reshape": lambda g: [
        g.op("Reshape", g.quantised("x"), g.constant([1, 2, SIDE, 2 * SIDE], "int64"))
    ],
    "Transpose": lambda g: [g.op("Transpose", g.quantised("x"), perm=[0, 2, 3, 1])],
    "Concat, Conv": lambda g: [
        g.quantised(
            g.conv(
                g.op("Concat", g.quantised("x"), g.quantised(g.op("Tanh", "x"), 0.3), axis=1),
                channels=8,
            )
        )
    ],
    "Add": lambda g: [
        g.quantised(g.op("Add", g.quantised("x"), g.quantised(g.op("Tanh", "x"), 0.3)))
    ],
    "quantised twice": lambda g: [g.quantised(g.quantised("x"), 1.7)],
    "shared": shared,
    "unquantised between": unquantised_between,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_quantised_tensors_are_those_of_the_file(name: str, dtype: str, kind: str) -> None:
    """A number on the edge between two steps may fall to the other one: a convolution's last
    bits are free. So a few may be off by one step, which is 1/8 of an FP8 number at most."""
    graph = Graph(kind, dtype)
    model = graph.model(*GRAPHS[name](graph))
    x = np.random.default_rng(7).normal(0, 2, (1, 4, SIDE, SIDE)).astype(dtype)
    expected = as_written(model, x)
    found = OnnxSession(cpu(), model).run(x)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert len(np.unique(other)) > 10
        differ = one != other
        assert differ.mean() <= (0.01 if kind == "fp8" else 0.06)
        step = np.abs(other) / 8 + STEP[kind] / 512 if kind == "fp8" else 1.01 * STEP[kind]
        assert (np.abs(one - other) <= step).all()
