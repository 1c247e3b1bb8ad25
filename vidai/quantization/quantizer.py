"""The steps from a model to a quantised one: calibrate, measure, search, make."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper

from vidai.devices.cpu.session import open_model
from vidai.errors import ModelError
from vidai.models.half import half
from vidai.models.model import Model
from vidai.precision import f1
from vidai.quantization.calibration import look, work
from vidai.quantization.damage import damages
from vidai.quantization.formats import Format
from vidai.quantization.graph import Layer, Network, node_name
from vidai.quantization.layers import QuantizedLayer, quantized
from vidai.quantization.notebook import Notebook
from vidai.quantization.qdq import rewrite
from vidai.quantization.record import METADATA_KEY, LayerRecord, QuantizationRecord
from vidai.quantization.running import Item, Judge, Runner
from vidai.quantization.search import Choice, search
from vidai.types import Detections

Progress = Callable[[float], None]  # called with how much is done, 0–1

# Agreement in the search is the mean of the F1 at thresholds around the detector's, by these parts
# of its distance to 0 or 1: at one alone a box more or less would decide.
AROUND = (-0.2, -0.1, 0.0, 0.1, 0.2)

DAMAGE_PICTURES = 48  # at most, evenly: their tensors are in memory all at once


class Quantizer:
    """A float32 model on its way to eight bits.

    network: that model, taken apart. calibrating, searching: the pictures for each. notebook: what
    is known already.
    """

    def __init__(
        self,
        model: Model,
        network: Network,
        form: Format,
        *,
        calibrating: Sequence[Item],
        searching: Sequence[Item],
        judge: Judge,
        runner: Runner,
        notebook: Notebook,
    ) -> None:
        self.model, self.form, self.judge = model, form, judge
        self.calibrating, self.searching = calibrating, searching
        self.runner, self.notebook = runner, notebook
        self.network = network
        self.layers = {node_name(layer.node, layer.op): layer for layer in fit_layers(network)}
        self.work = work(self.network, calibrating[0], runner)
        self.quantized: dict[str, QuantizedLayer] = {}
        self.damages: dict[str, float] = {}

    def calibrate(self, progress: Progress) -> None:
        """Find each layer's form in eight bits."""
        missing = [layer for node, layer in self.layers.items() if not self._recalled(node)]
        looked, made = 0.0, 0

        def looking(part: float) -> None:
            nonlocal looked
            looked = part
            progress((looked + made / len(missing)) / 2)

        for layer, seen in look(self.network, missing, self.calibrating, self.runner, looking):
            node = node_name(layer.node, layer.op)
            self._check_range(layer, seen.low, seen.high)
            self.quantized[node] = quantized(self.network, layer, seen, self.form)
            self._check_range(layer, self.quantized[node].bias)
            self.notebook.keep_arrays(f"layer {node}", asdict(self.quantized[node]))
            made += 1
            progress((looked + made / len(missing)) / 2)

    def _check_range(self, layer: Layer, *numbers: npt.NDArray[Any]) -> None:
        """Raises ModelError for numbers that the other layers' type cannot hold."""
        largest = max(float(np.abs(part).max()) for part in numbers)
        if largest > float(np.finfo(self.form.rest).max):
            raise ModelError(
                f"model {self.network.name}: layer {layer.name} has numbers up to {largest:.3g}, "
                f"beyond {self.form.rest}, in which what is not {self.form.name} would compute: "
                f"such a model can only be quantised to int8"
            )

    def _recalled(self, node: str) -> bool:
        kept = self.notebook.arrays(f"layer {node}") or {}
        if {*kept} != {field.name for field in fields(QuantizedLayer)}:
            return False
        self.quantized[node] = QuantizedLayer(**kept)
        return True

    def measure(self, progress: Progress) -> None:
        """Find what each layer in eight bits does to what is found."""
        self.damages = damages(
            self.network,
            self._chosen(self.layers),
            self.form,
            self.searching[:: -(-len(self.searching) // DAMAGE_PICTURES)],
            self.judge,
            self.runner,
            self.notebook.number,
            progress,
        )

    def search(self, progress: Progress) -> list[Choice]:
        """Sets of layers with their agreement, by falling share of the work."""
        references: list[list[Detections]] = []

        def agreement(layers: frozenset[str]) -> float:
            if not references:
                references.extend(self._found(frozenset()))
            return mean(map(f1, references, self._found(layers)))

        def known(layers: frozenset[str]) -> float:
            digest = hashlib.sha256("\n".join(sorted(layers)).encode()).hexdigest()[:16]
            return self.notebook.number(f"agreement {digest}", lambda: agreement(layers))

        macs = {node: self.work[layer.node] for node, layer in self.layers.items()}
        return search(self.damages, macs, known, progress)

    def _found(self, layers: frozenset[str]) -> list[list[Detections]]:
        """Detections in the search's pictures, as they are and mirrored, for each threshold."""
        session = open_model(self._network(layers, self.network.proto, "float32"))
        names = self.network.outputs
        conf = self.judge.conf
        room = min(conf, 1 - conf)

        def found(item: Item) -> list[Detections]:
            outputs = self.runner.run(session, {self.network.input: item.data}, names)
            return [
                self.judge.detections(item, list(outputs.values()), conf + part * room)
                for part in AROUND
            ]

        pictures = [*self.searching, *(item.mirrored() for item in self.searching)]
        return [list(one) for one in zip(*self.runner.map(found, pictures), strict=True)]

    def make(self, layers: frozenset[str]) -> Model:
        """The model with these layers in eight bits, and the rest as the format says."""
        given = replace(self.model, onnx=self.network.proto.SerializeToString())
        rest = half(given) if self.form.rest == "float16" else given
        proto = onnx.load_from_string(rest.onnx)
        return replace(rest, onnx=self._network(layers, proto, self.form.rest))

    def _network(self, layers: frozenset[str], proto: onnx.ModelProto, dtype: str) -> bytes:
        made = onnx.ModelProto()
        made.CopyFrom(proto)
        rewrite(made.graph, self._chosen(layers), self.form, dtype)
        serialized: bytes = made.SerializeToString()
        return serialized

    def _chosen(self, layers: Iterable[str]) -> dict[str, tuple[Layer, QuantizedLayer]]:
        return {node: (self.layers[node], self.quantized[node]) for node in layers}

    def records(self, choice: Choice) -> tuple[LayerRecord, ...]:
        """What became of every layer with weights, in the order of the model."""
        rest = {"float16": "fp16", "float32": "fp32"}[self.form.rest]
        found = []
        for layer in self.network.layers:
            node = node_name(layer.node, layer.op)
            inside = node in choice.layers
            why = layer.why or ("" if inside else "too much damage for its work")
            found.append(
                LayerRecord(
                    name=layer.name,
                    op=layer.op,
                    macs=self.work[layer.node],
                    precision=self.form.name if inside else rest,
                    why=why,
                    damage=self.damages.get(node),
                    centred=inside and len(self.quantized[node].centre) > 0,
                )
            )
        return tuple(found)


def fit_layers(network: Network) -> list[Layer]:
    """The layers that may be quantised. Raises ModelError where there is none."""
    fit = [layer for layer in network.layers if not layer.why]
    if not fit and not network.layers:
        raise ModelError(
            f"model {network.name} has no convolution or matrix product with weights: there is "
            f"nothing to quantise"
        )
    if not fit:
        reasons = Counter(layer.why for layer in network.layers)
        told = "; ".join(f"{why} ({count})" for why, count in reasons.most_common())
        raise ModelError(
            f"model {network.name} has no layer that eight bits could make faster: of its "
            f"convolutions and matrix products none is fit: {told}"
        )
    return fit


def with_record(model: Model, record: QuantizationRecord) -> bytes:
    """The model's file, with the record in its metadata beside what was there."""
    proto = onnx.load_from_string(model.onnx)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, metadata | {METADATA_KEY: record.to_metadata()})
    serialized: bytes = proto.SerializeToString()
    return serialized
