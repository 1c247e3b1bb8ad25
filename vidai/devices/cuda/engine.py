"""What the CUDA device needs of an inference engine, and the choice of one."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from vidai.errors import DeviceUnavailable
from vidai.types import InputSpec

# Called with what an engine is doing while it is built, and how much of that is done, 0–1.
Progress = Callable[[str, float], None]

# How an inspector writes element types, the narrowest first: a layer computes in that of its
# narrowest input.
_PRECISIONS = {
    "fp8": r"fp8|e4m3",
    "int8": r"int8",
    "fp16": r"\bfp16|\bhalf",
    "bf16": r"bf16|bfloat16",
    "fp32": r"fp32|float",
}


class TensorSpec(NamedTuple):
    """An input or output of a network, by its name in the model file."""

    name: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class GpuInfo:
    """Which GPU. capability: compute capability, (8, 9) for Ada."""

    index: int
    name: str
    capability: tuple[int, int]


class Shapes(NamedTuple):
    """Of the input: the smallest, the one to be fastest at, and the largest."""

    smallest: tuple[int, ...]
    best: tuple[int, ...]
    largest: tuple[int, ...]


@dataclass(frozen=True)
class EngineSettings:
    """What a network is built for. name: the model's, for messages.

    spec: how large its input is; its default leaves the size free.
    """

    max_batch: int
    name: str = "model"
    spec: InputSpec = field(default=InputSpec(0, 0))

    def shapes(self, declared: Sequence[int]) -> Shapes:
        """For an input declared as (batch, channels, height, width), negative where it is free.

        Batches are 1 to max_batch, fastest at the largest. A free size is that of the spec;
        where that is free too, each side is one multiple to the longest, fastest for 16:9.
        """
        spec, longest = self.spec, self.spec.longest
        frees = (
            (1, spec.size_for(1, 1)),
            (self.max_batch, spec.size_for(16 * longest, 9 * longest)),
            (self.max_batch, spec.size_for(longest, longest)),
        )
        return Shapes(
            *(
                tuple(
                    given if given >= 0 else free
                    for given, free in zip(declared, (batch, 3, height, width), strict=True)
                )
                for batch, (width, height) in frees
            )
        )


class Engine(Protocol):
    """A network on one GPU, for one thread at a time, on which that GPU is current."""

    input: TensorSpec
    outputs: tuple[TensorSpec, ...]  # in the order of the model file
    notes: list[str]  # what a user should know: done in another way than asked for

    def output_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Of the outputs for an input of that shape. Raises ModelError where it takes none."""
        ...

    def enqueue(
        self, shape: tuple[int, ...], data: int, outputs: Sequence[int], stream: int
    ) -> None:
        """Queue one run on a CUDA stream (its handle), reading and writing these addresses.

        Raises ModelError for a shape that it does not take, DeviceError where the run fails.
        """
        ...

    def layer_precisions(self) -> dict[str, int]:
        """How many layers compute in "fp8", "fp16" and so on; {} where that cannot be told."""
        ...


def open_engine(
    model: bytes, settings: EngineSettings, gpu: GpuInfo, progress: Progress | None = None
) -> Engine:
    """The ONNX model on TensorRT where that is installed, else on ONNX Runtime's CUDA.

    The first time a model is opened on a kind of GPU, TensorRT needs minutes: progress tells.
    Raises DeviceUnavailable without either engine, ModelError for a model that they refuse.
    """
    try:
        tensorrt = importlib.import_module("vidai.devices.cuda.tensorrt")
    except ImportError as error:
        absent = f"TensorRT cannot be imported ({error})"
    else:
        engine: Engine = tensorrt.open_engine(model, settings, gpu, progress)
        return engine
    onnx_gpu = importlib.import_module("vidai.devices.cuda.onnx_gpu")
    try:
        engine = onnx_gpu.open_engine(model, settings, gpu)
    except DeviceUnavailable as error:
        raise DeviceUnavailable(
            f"no engine for models on the GPU: {absent}, {error}; pip install 'vidai[cuda]'"
        ) from error
    engine.notes.append(f"models run on ONNX Runtime, since {absent}")
    return engine


def count_precisions(inspected: str) -> dict[str, int]:
    """Layers of each precision in what TensorRT's inspector says of an engine, as JSON."""
    counts: Counter[str] = Counter()
    for layer in json.loads(inspected)["Layers"]:
        if not isinstance(layer, dict):  # just its name: the engine was built to say no more
            continue
        types = " ".join(str(tensor.get("Format/Datatype")) for tensor in layer.get("Inputs", []))
        for precision, pattern in _PRECISIONS.items():
            if re.search(pattern, types, re.IGNORECASE):
                counts[precision] += 1
                break
    return dict(counts)
