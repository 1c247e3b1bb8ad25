"""Where FP8's noise comes from, and what takes it away: signal to noise at the layers' outputs.

    python benchmarks/fp8_noise.py [--model NAME|FILE] [--pictures FOLDER]

Each layer that FP8 may make faster is computed from what it sees on the pictures, once exactly and
once with its input or its weights in FP8, each prepared in another way. The figures are decibels of
the output's variance over that of the error, whose mean the bias takes in all cases: the median
layer, and the worst. 6 dB are a factor of two.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fp8 import cpu_name
from rich.console import Console
from rich.table import Table

from vidai.device import open_device
from vidai.models import load_model
from vidai.quantization.calibration import Seen, look
from vidai.quantization.formats import FORMATS
from vidai.quantization.graph import Layer, Network
from vidai.quantization.layers import compensated
from vidai.quantization.running import Item, Runner
from vidai.sources.media import media_files, sample

SHARED = Path(__file__).parents[2] / "shared"
FORM = FORMATS["fp8"]
Array = npt.NDArray[Any]


def decibels(exact: Array, off: Array) -> float:
    return float(10 * np.log10(exact.var(1).sum() / max(off.var(1).sum(), 1e-30)))


def in_fp8(values: Array, scale: Array | float) -> Array:
    return FORM.rounded(values / scale) * scale


def inputs(weights: Array, layer: Layer, seen: Seen) -> Iterator[tuple[str, float]]:
    """The input in FP8, the weights exact."""
    columns = seen.columns.astype(np.float64)
    exact = weights @ columns
    largest = float(np.abs(columns).max())
    each = np.abs(columns).max(1, keepdims=True).clip(1e-12)

    def noise(rounded: Array) -> float:
        return decibels(exact, weights @ (rounded - columns))

    yield "largest magnitude", noise(in_fp8(columns, largest / FORM.largest))
    yield "half of it", noise(in_fp8(columns, largest / 2 / FORM.largest))
    yield "a power of two", noise(in_fp8(columns, float(FORM.scale(2 * largest))))
    yield "channels equalised", noise(in_fp8(columns, each / FORM.largest))
    if layer.pointwise:
        middle = columns.mean(1, keepdims=True)
        scale = float(FORM.scale(2 * np.abs(columns - middle).max()))
        yield "channels centred", noise(in_fp8(columns - middle, scale) + middle)


def weights_alone(weights: Array, seen: Seen) -> Iterator[tuple[str, float]]:
    """The weights in FP8, the input exact."""
    columns = seen.columns.astype(np.float64)
    exact = weights @ columns
    rows = np.abs(weights).max(1, keepdims=True).clip(1e-12)
    power = FORM.scale(rows[:, 0])
    centred = columns - columns.mean(1, keepdims=True)

    def noise(rounded: Array) -> float:
        return decibels(exact, (rounded - weights) @ columns)

    yield "nearest", noise(in_fp8(weights, rows / FORM.largest))
    yield "nearest, a power of two", noise(in_fp8(weights, power[:, None]))
    repaired = compensated(weights, centred, power, FORM) * power[:, None]
    yield "compensated, a power of two", noise(repaired)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="yolox-nano", metavar="NAME|FILE")
    parser.add_argument("--pictures", type=Path, default=SHARED / "images", metavar="FOLDER")
    options = parser.parse_args()
    model = load_model(options.model)
    device = open_device("cpu")
    frames, _ = sample(media_files([options.pictures]), device, 24)
    network = Network(model)
    layers = [layer for layer in network.layers if not layer.why]
    found: dict[tuple[str, str], list[float]] = {}
    with closing(Runner(device.workers)) as runner:
        items = [Item.of(frame, model) for frame in frames]
        for layer, seen in look(network, layers, items, runner, lambda part: None):
            weights = network.matrix(layer)
            for name, value in inputs(weights, layer, seen):
                found.setdefault(("input in FP8", name), []).append(value)
            for name, value in weights_alone(weights, seen):
                found.setdefault(("weights in FP8", name), []).append(value)
    shown = Table(title=f"{model.name}, {len(layers)} layers, {len(items)} pictures")
    for column in ("", "scale", "median dB", "worst dB", "layers"):
        shown.add_column(column, justify="left" if column in ("", "scale") else "right")
    for (what, how), values in found.items():
        shown.add_row(what, how, f"{np.median(values):.1f}", f"{min(values):.1f}", str(len(values)))
    console = Console(highlight=False)
    console.print(cpu_name())
    console.print(shown)


if __name__ == "__main__":
    main()
