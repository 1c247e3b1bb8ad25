"""Models on the simulated GPU: ONNX Runtime, reading and writing simulated device memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from tests import simdriver
from vidai.devices.cuda import engine as engines
from vidai.devices.cuda.engine import EngineSettings, GpuInfo, Progress, TensorSpec
from vidai.errors import ModelError

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class SimEngine:
    """Implements vidai.devices.cuda.engine.Engine.

    It waits for its stream and for nothing else, and writes its outputs in stream order: in
    deferred mode a missing event shows as a picture that is not there yet. Pictures run one by
    one, so that results are those of the CPU device bit for bit.
    """

    def __init__(self, model: bytes, idle: bool) -> None:
        self.notes: list[str] = []
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(f"the model cannot be loaded: {error}") from error
        (self.input,) = (_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        self._idle = idle
        self._shapes: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {}

    def output_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        if shape not in self._shapes:
            outputs = self._run(np.zeros(shape, self.input.dtype))
            self._shapes[shape] = tuple(array.shape for array in outputs)
        return self._shapes[shape]

    def enqueue(
        self,
        shape: tuple[int, ...],
        input: int,  # noqa: A002 (the protocol's name)
        outputs: Sequence[int],
        stream: int,
    ) -> None:
        if self._idle:
            return
        simdriver.wait(stream)
        results = self._run(simdriver.read(input, shape, self.input.dtype))
        for address, array in zip(outputs, results, strict=True):
            simdriver.write(stream, address, array)

    def layer_precisions(self) -> dict[str, int]:
        return {}

    def _run(self, pictures: np.ndarray) -> list[np.ndarray]:
        runs = [
            self._session.run(None, {self.input.name: pictures[n : n + 1]})
            for n in range(len(pictures))
        ]
        return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    return TensorSpec(value.name, np.dtype(_TYPES[value.type]))


def install(*, idle: bool = False) -> None:
    """Let the CUDA device of this process run its models here."""

    def open_engine(
        model: bytes, settings: EngineSettings, gpu: GpuInfo, progress: Progress | None = None
    ) -> SimEngine:
        return SimEngine(model, idle)

    engines.open_engine = open_engine
