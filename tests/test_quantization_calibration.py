from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tests.test_quantization_graph import computed, drawn, node, plain_model
from vidai.errors import ModelError
from vidai.models.model import Model
from vidai.quantization import calibration
from vidai.quantization.calibration import Seen, look, work
from vidai.quantization.graph import Layer, Network
from vidai.quantization.running import Item, Runner
from vidai.types import Placement

Array = npt.NDArray[Any]


@pytest.fixture
def runner() -> Iterator[Runner]:
    with closing(Runner(2)) as runner:
        yield runner


def items(*pictures: Array) -> list[Item]:
    return [
        Item(data, Placement(1, 1), (5, 6), f"clip.mp4 at {number}.000 s")
        for number, data in enumerate(pictures)
    ]


def looked(model: Model, pictures: Sequence[Item], runner: Runner) -> list[tuple[Layer, Seen]]:
    network = Network(model)
    layers = [layer for layer in network.layers if not layer.why]
    return list(look(network, layers, pictures, runner, lambda part: None))


CONVOLUTIONS = {
    "1 × 1": ((32, 24, 1, 1), {}),
    "1 × 1, every other place": ((32, 24, 1, 1), {"strides": [2, 3]}),
    "1 × 1, padded": ((32, 24, 1, 1), {"pads": [0, 1, 2, 0]}),
    "3 × 3": ((32, 24, 3, 3), {"pads": [1, 1, 1, 1]}),
    "3 × 3, no padding": ((32, 24, 3, 3), {}),
    "3 × 3, uneven": ((32, 24, 3, 3), {"pads": [0, 2, 1, 3], "strides": [2, 1]}),
    "3 × 3, dilated": ((32, 24, 3, 3), {"pads": [2, 1, 2, 1], "dilations": [2, 1]}),
    "2 × 5": ((32, 24, 2, 5), {"pads": [1, 0, 0, 2], "strides": [1, 2], "dilations": [3, 1]}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_columns_times_weights_are_the_outputs_of_a_convolution(case: str, runner: Runner) -> None:
    """All places, where there are fewer than are wanted, in the output's own order."""
    shape, attributes = CONVOLUTIONS[case]
    nodes = [node("Neg", ["x"], ["n"]), node("Conv", ["n", "w"], ["y"], **attributes)]
    model = plain_model(nodes, {"w": drawn(*shape)}, shape=[1, 24, 9, 11])
    pictures = items(drawn(1, 24, 9, 11), drawn(1, 24, 9, 11, seed=1))
    ((layer, seen),) = looked(model, pictures, runner)
    expected = [computed(model.onnx, {"x": item.data})[0].reshape(32, -1) for item in pictures]
    found = Network(model).matrix(layer) @ seen.columns
    assert seen.columns.dtype == np.float32
    np.testing.assert_allclose(found, np.hstack(expected), atol=1e-4)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_choice_of_columns_is_of_different_places(
    case: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "SAMPLES", 9)
    monkeypatch.setattr(calibration, "SAMPLES_PER_INPUT", 0)
    shape, attributes = CONVOLUTIONS[case]
    model = plain_model(
        [node("Conv", ["x", "w"], ["y"], **attributes)],
        {"w": drawn(*shape)},
        shape=[1, 24, 9, 11],
    )
    pictures = items(drawn(1, 24, 9, 11), drawn(1, 24, 9, 11, seed=1))
    ((layer, seen),) = looked(model, pictures, runner)
    assert seen.columns.shape == (layer.inputs, 10)  # 5 of each picture
    found = Network(model).matrix(layer) @ seen.columns
    for number, item in enumerate(pictures):
        outputs = computed(model.onnx, {"x": item.data})[0].reshape(32, -1)
        own = found[:, 5 * number : 5 * number + 5]
        fitting = np.abs(own[:, :, None] - outputs[:, None]).max(0) < 1e-4
        place: int | np.integer = -1
        for places in fitting:  # in padding, many look the same
            place = next((at for at in np.flatnonzero(places) if at > place), outputs.shape[1])
        assert place < outputs.shape[1]


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_columns_of_a_product_are_its_rows(op: str, runner: Runner) -> None:
    shape = [2, 3, 24] if op == "MatMul" else [6, 24]
    nodes = [
        node("Reshape", ["x", "shape"], ["rows"]),
        node(op, ["rows", "w"], ["y"]),
    ]
    constants = {"shape": np.array(shape), "w": drawn(24, 32)}
    model = plain_model(nodes, constants, shape=[1, 24, 2, 3])
    x = drawn(1, 24, 2, 3)
    ((_, seen),) = looked(model, items(x), runner)
    rows = x.reshape(6, 24)
    np.testing.assert_array_equal(seen.columns, rows.T)
    np.testing.assert_allclose(seen.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_array_equal(seen.low, rows.min(0))
    np.testing.assert_array_equal(seen.high, rows.max(0))


def stack() -> Model:
    """Layers that read the input, what others make, and the same as another."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "v"], ["b"]),
        node("Conv", ["r", "v"], ["c"], strides=[2, 2]),
        node("Conv", ["b", "v"], ["y"]),
    ]
    constants = {"w": drawn(24, 24, 3, 3), "v": drawn(24, 24, 1, 1)}
    return plain_model(nodes, constants, ["c", "y"])


def test_means_and_ranges_are_those_of_all_places(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only of those that were chosen as columns, and padding is none."""
    monkeypatch.setattr(calibration, "SAMPLES", 4)
    monkeypatch.setattr(calibration, "SAMPLES_PER_INPUT", 0)
    model = stack()
    pictures = items(*(drawn(1, 24, 6, 5, seed=seed) + np.float32(2) for seed in range(3)))
    found = looked(model, pictures, runner)
    assert [layer.output for layer, _ in found] == ["a", "b", "c", "y"]
    network = Network(model)
    network.proto.graph.output.extend([onnx.ValueInfoProto(name=name) for name in ("r", "b")])
    serialized = network.proto.SerializeToString()
    for layer, seen in found:
        tensors = [
            item.data
            if layer.input == "x"
            else computed(serialized, {"x": item.data}, [layer.input])[0]
            for item in pictures
        ]
        values = np.concatenate(tensors).transpose(1, 0, 2, 3).reshape(24, -1)
        np.testing.assert_allclose(seen.mean, values.mean(1), atol=1e-5)
        np.testing.assert_allclose(seen.low, values.min(1), atol=1e-5)
        np.testing.assert_allclose(seen.high, values.max(1), atol=1e-5)
        assert seen.low.shape == seen.high.shape == seen.mean.shape == (24,)


def same(found: Sequence[tuple[Layer, Seen]], others: Sequence[tuple[Layer, Seen]]) -> None:
    assert len(found) == len(others) > 0
    for (layer, seen), (other, again) in zip(found, others, strict=True):
        assert layer == other
        for name in ("mean", "low", "high", "columns"):
            np.testing.assert_array_equal(getattr(seen, name), getattr(again, name))


def test_the_same_pictures_are_seen_alike_each_time(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of cores, and however few layers fit into memory at a time."""
    monkeypatch.setattr(calibration, "SAMPLES", 12)
    monkeypatch.setattr(calibration, "SAMPLES_PER_INPUT", 0)
    pictures = items(*(drawn(1, 24, 6, 5, seed=seed) for seed in range(5)))
    first = looked(stack(), pictures, runner)
    same(looked(stack(), pictures, runner), first)
    with closing(Runner(1)) as alone:
        same(looked(stack(), pictures, alone), first)
    monkeypatch.setattr(calibration, "MEMORY", 1)
    same(looked(stack(), pictures, runner), first)


@pytest.mark.parametrize("memory", [1, 1 << 29])
def test_progress_rises_to_one(
    memory: int, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MEMORY", memory)
    network = Network(stack())
    told: list[float] = []
    pictures = items(drawn(1, 24, 6, 5), drawn(1, 24, 6, 5))
    seen = look(network, network.layers, pictures, runner, told.append)
    assert len(list(seen)) == 4
    assert told == sorted(told)
    assert len(told) == (8 if memory == 1 else 2)
    assert 0 < told[0] < told[-1] == 1


def test_samples_grow_with_the_inputs_of_a_layer(runner: Runner) -> None:
    nodes = [node("Conv", ["x", "w"], ["y"], pads=[3, 3, 3, 3])]
    one = plain_model(nodes, {"w": drawn(24, 64, 5, 5)}, shape=[1, 64, 80, 80])
    ((layer, seen),) = looked(one, items(drawn(1, 64, 80, 80)), runner)
    assert seen.columns.shape == (layer.inputs, 3 * 1600)


@pytest.mark.parametrize(("op", "value"), [("Sqrt", -1), ("Exp", 1000), ("Log", 0)])
def test_what_is_not_finite_is_told(op: str, value: float, runner: Runner) -> None:
    """NaN, infinity and minus infinity in one place of one picture."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="fine"),
        node(op, ["x"], ["made"]),
        node("Conv", ["made", "w"], ["b"], name="stem/conv"),
        node("Add", ["a", "b"], ["y"]),
    ]
    model = plain_model(nodes, {"w": drawn(24, 24, 1, 1)})
    good, bad = np.ones((1, 24, 6, 5), np.float32), np.ones((1, 24, 6, 5), np.float32)
    bad[0, 7, 3, 2] = value
    assert len(looked(model, items(good), runner)) == 2
    with pytest.raises(ModelError) as raised:
        looked(model, items(good, bad), runner)
    assert str(raised.value) == (
        "model plain: layer stem/conv is given numbers that are not finite on clip.mp4 at 1.000 s: "
        "such a model cannot be quantised"
    )


def counted(nodes: Sequence[Any], constants: Any, outputs: Sequence[str]) -> dict[str, int]:
    """Multiply-accumulates by the layer's output, of an input of (1, 24, 6, 5)."""
    network = Network(plain_model(nodes, constants, outputs))
    with closing(Runner(1)) as runner:
        (item,) = items(drawn(1, 24, 6, 5))
        found = work(network, item, runner)
    return {layer.output: found[layer.node] for layer in network.layers}


def test_the_work_of_convolutions() -> None:
    """Each output sums up the kernel over the channels of its group."""
    nodes = [
        node("Conv", ["x", "3x3"], ["padded"], pads=[1, 1, 1, 1]),  # (1, 32, 6, 5)
        node("Conv", ["x", "3x3"], ["strided"], strides=[2, 2]),  # (1, 32, 2, 2)
        node("Conv", ["x", "each"], ["depthwise"], group=24, pads=[1, 1, 1, 1]),  # (1, 24, 6, 5)
        node("Conv", ["x", "half"], ["grouped"], group=2),  # (1, 32, 6, 4)
        node("ConvTranspose", ["x", "up"], ["up2"], strides=[2, 2]),  # (1, 40, 12, 10)
        node("ConvTranspose", ["x", "up3"], ["up3g"], strides=[2, 2], group=2),
        node("Abs", ["3x3"], ["made"]),
        node("Conv", ["x", "made"], ["varying"], pads=[1, 1, 1, 1]),
    ]
    constants = {
        "3x3": drawn(32, 24, 3, 3),
        "each": drawn(24, 1, 3, 3),
        "half": drawn(32, 12, 1, 2),
        "up": drawn(24, 40, 2, 2),
        "up3": drawn(24, 20, 3, 3),
    }
    outputs = ["padded", "strided", "depthwise", "grouped", "up2", "up3g", "varying"]
    assert counted(nodes, constants, outputs) == {
        "padded": 32 * 6 * 5 * 24 * 9,
        "strided": 32 * 2 * 2 * 24 * 9,
        "depthwise": 24 * 6 * 5 * 9,
        "grouped": 32 * 6 * 4 * 12 * 2,
        "up2": 24 * 6 * 5 * 40 * 4,
        "up3g": 24 * 6 * 5 * 20 * 9,
        "varying": 32 * 6 * 5 * 24 * 9,
    }


def test_the_work_of_products() -> None:
    nodes = [
        node("MatMul", ["x", "5x32"], ["constant"]),  # (1, 24, 6, 32)
        node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["x", "turned"], ["attention"]),  # (1, 24, 6, 6)
        node("MatMul", ["6x6", "x"], ["left"]),  # (1, 24, 6, 5)
        node("MatMul", ["6x6", "6x7"], ["folded"]),
        node("Flatten", ["x"], ["flat"], axis=2),  # (24, 30)
        node("Gemm", ["flat", "30x8"], ["gemm"]),  # (24, 8)
        node("Gemm", ["flat", "8x30"], ["transposed"], transB=1),
        node("Gemm", ["flat", "24x8"], ["both"], transA=1),  # (30, 8)
    ]
    sizes = [(5, 32), (6, 6), (6, 7), (30, 8), (8, 30), (24, 8)]
    constants = {f"{rows}x{columns}": drawn(rows, columns) for rows, columns in sizes}
    outputs = ["constant", "attention", "left", "folded", "gemm", "transposed", "both"]
    assert counted(nodes, constants, outputs) == {
        "constant": 24 * 6 * 32 * 5,
        "attention": 24 * 6 * 6 * 5,
        "left": 24 * 6 * 5 * 6,
        "folded": 6 * 7 * 6,
        "gemm": 24 * 8 * 30,
        "transposed": 24 * 8 * 30,
        "both": 30 * 8 * 24,
    }
