"""A model on the GPU: its engine, with outputs of its own, on a CUDA stream of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidai.devices.cuda import engine as engines
from vidai.devices.cuda.engine import Engine, Progress
from vidai.devices.cuda.memory import DeviceArray
from vidai.types import InputSpec

if TYPE_CHECKING:
    from vidai.devices.cuda import CudaDevice

_MOST_SHAPES = 16  # of inputs, whose outputs are kept


class CudaSession:
    """Implements vidai.device.Session.

    The input is read where it lies: the letterbox kernel has written it there. Outputs stay
    until the next run.
    """

    def __init__(self, lane: CudaDevice, engine: Engine) -> None:
        self.device = lane
        self.notes = engine.notes
        self._engine = engine
        self._outputs: dict[tuple[int, ...], list[DeviceArray]] = {}

    def layer_precisions(self) -> dict[str, int]:
        return self._engine.layer_precisions()

    def run(self, data: DeviceArray) -> list[DeviceArray]:
        """Queue a run; what follows on this session's lane sees its outputs. Raises ModelError."""
        outputs = self._outputs.get(data.shape)
        if outputs is None:
            if len(self._outputs) == _MOST_SHAPES:
                del self._outputs[next(iter(self._outputs))]  # the oldest
            shapes = self._engine.output_shapes(data.shape)
            outputs = self._outputs[data.shape] = [
                self.device.empty(shape, spec.dtype)
                for shape, spec in zip(shapes, self._engine.outputs, strict=True)
            ]
        self.device.gpu.enter()
        addresses = [array.ptr for array in outputs]
        self._engine.enqueue(data.shape, data.ptr, addresses, int(self.device.stream.handle))
        return outputs


def open_session(
    lane: CudaDevice, model: bytes, spec: InputSpec, name: str, progress: Progress | None
) -> CudaSession:
    """Raises ModelError for a model that cannot run, DeviceUnavailable without an engine."""
    gpu = engines.GpuInfo(lane.gpu.index, lane.gpu.name, lane.gpu.capability)
    settings = engines.EngineSettings(lane.max_batch, name, spec)
    lane.gpu.enter()
    return CudaSession(lane, engines.open_engine(model, settings, gpu, progress))
