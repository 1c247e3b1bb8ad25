"""What a model's layers see: ranges, means and samples of their inputs on pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.devices.cpu.session import open_model
from vidai.errors import ModelError
from vidai.quantization.graph import Layer, Network
from vidai.quantization.running import Item, Runner

Array = npt.NDArray[Any]

SAMPLES = 4096  # columns of a layer at least, and this many times its inputs:
SAMPLES_PER_INPUT = 3
LARGEST = 1 << 29  # bytes of a layer's samples, at most
MEMORY = 1 << 29  # bytes of samples at a time, where they are not all of one layer


@dataclass(frozen=True)
class Seen:
    """Of a layer's input: mean, low, high (channels,), and columns (inputs of one output, samples)
    float32."""

    mean: Array
    low: Array
    high: Array
    columns: Array


def work(network: Network, item: Item, runner: Runner) -> dict[int, int]:
    """Multiply-accumulates of each layer for that picture, by the node's number."""
    names = {n for layer in network.layers for n in (layer.input, layer.weights, layer.output)}
    wanted = sorted(names.difference(network.weights, [network.input]))
    model = network.part(network.nodes, {network.input: item.data}, wanted)
    tensors = {network.input: item.data}
    tensors |= runner.run(open_model(model), tensors, wanted)
    found = {}
    for layer in network.layers:
        read, weights, made = (
            tensors[name] if name in tensors else network.array(name)
            for name in (layer.input, layer.weights, layer.output)
        )
        # A convolution looks at every place of its output, a transposed one of its input.
        if layer.op == "Conv":
            found[layer.node] = made.size * math.prod(weights.shape[1:])
        elif layer.op == "ConvTranspose":
            found[layer.node] = read.size * math.prod(weights.shape[1:])
        else:
            found[layer.node] = made.size * read.shape[0 if layer.attributes.get("transA") else -1]
    return found


def look(
    network: Network,
    layers: Sequence[Layer],
    items: Sequence[Item],
    runner: Runner,
    progress: Callable[[float], None],
) -> Iterator[tuple[Layer, Seen]]:
    """What each layer sees on the pictures. Raises ModelError where that is not finite."""
    done = 0
    for group in _groups(layers, len(items)):
        views = []
        for view in runner.map(_viewer(network, group, items, runner), enumerate(items)):
            views.append(view)
            progress((done + len(group) * len(views) / len(items)) / len(layers))
        done += len(group)
        for layer, *parts in zip(group, *views, strict=True):
            for item, part in zip(items, parts, strict=True):
                if not np.isfinite(part.mean).all():
                    raise ModelError(
                        f"model {network.name}: layer {layer.name} is given numbers that are not "
                        f"finite on {item.where}: such a model cannot be quantised"
                    )
            yield layer, _together(parts)


def _viewer(
    network: Network, group: Sequence[Layer], items: Sequence[Item], runner: Runner
) -> Callable[[tuple[int, Item]], list[Seen]]:
    """What finds out what some layers see on one picture, which is given with its number."""
    names = list(dict.fromkeys(layer.input for layer in group if layer.input != network.input))
    nodes = network.nodes[: max(layer.node for layer in group)]
    model = network.part(nodes, {network.input: items[0].data}, names)
    session = open_model(model) if names else None

    def view(numbered: tuple[int, Item]) -> list[Seen]:
        number, item = numbered
        tensors = {network.input: item.data}
        if session is not None:
            tensors |= runner.run(session, tensors, names)
        return [_seen(layer, tensors[layer.input], number, len(items)) for layer in group]

    return view


def _groups(layers: Sequence[Layer], pictures: int) -> Iterator[list[Layer]]:
    """The layers, in order, in groups whose samples fit into memory."""
    group: list[Layer] = []
    used = 0
    for layer in layers:
        size = 4 * layer.inputs * pictures * _columns_a_picture(layer.inputs, pictures)
        if group and used + size > MEMORY:
            yield group
            group, used = [], 0
        group.append(layer)
        used += size
    if group:
        yield group


def _columns_a_picture(inputs: int, pictures: int) -> int:
    wanted = max(SAMPLES, SAMPLES_PER_INPUT * inputs)
    return -(-min(wanted, LARGEST // (4 * inputs)) // pictures)


def _seen(layer: Layer, tensor: Array, number: int, pictures: int) -> Seen:
    """Of one picture. number: its place, which seeds the choice of columns."""
    count = _columns_a_picture(layer.inputs, pictures)
    rng = np.random.default_rng((number, layer.node))
    if layer.op == "Conv":
        channels = tensor.transpose(1, 0, 2, 3).reshape(tensor.shape[1], -1)
        columns = _patches(tensor, layer, count, rng)
    else:
        channels = tensor.reshape(-1, tensor.shape[-1]).T
        columns = channels[:, _chosen(channels.shape[1], count, rng)]
    with np.errstate(all="ignore"):  # what is not finite is told by `look`
        mean = channels.mean(1, dtype=np.float64)
    return Seen(mean, channels.min(1), channels.max(1), columns.astype(np.float32))


def _patches(tensor: Array, layer: Layer, count: int, rng: Any) -> Array:
    """Some columns of a convolution's input, as a product with its weights has them."""
    height, width = tensor.shape[2:]
    kernel, attributes = layer.shape[2:], layer.attributes
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    down, across = attributes.get("strides", (1, 1))
    apart_y, apart_x = attributes.get("dilations", (1, 1))
    rows = (height + top + bottom - apart_y * (kernel[0] - 1) - 1) // down + 1
    columns = (width + left + right - apart_x * (kernel[1] - 1) - 1) // across + 1
    chosen = _chosen(rows * columns, count, rng)
    padded = np.pad(tensor[0], ((0, 0), (top, bottom), (left, right)))
    y = (chosen // columns * down)[:, None] + apart_y * np.arange(kernel[0])
    x = (chosen % columns * across)[:, None] + apart_x * np.arange(kernel[1])
    patches = padded[:, y[:, :, None], x[:, None, :]]  # channels, samples, kernel
    return np.asarray(patches.transpose(0, 2, 3, 1).reshape(-1, len(chosen)))


def _chosen(positions: int, count: int, rng: Any) -> Array:
    return np.sort(rng.choice(positions, min(count, positions), replace=False))


def _together(parts: Sequence[Seen]) -> Seen:
    return Seen(
        np.mean([part.mean for part in parts], 0),
        np.min([part.low for part in parts], 0),
        np.max([part.high for part in parts], 0),
        np.hstack([part.columns for part in parts]),
    )
