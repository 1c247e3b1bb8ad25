"""Models on ONNX Runtime's CUDA provider, for machines without TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import onnxruntime
from cuda.core import Stream

from vidai.devices.cpu.session import UNFAITHFUL, onnx_errors
from vidai.devices.cuda.engine import EngineSettings, GpuInfo, TensorSpec
from vidai.errors import DeviceUnavailable, ModelError

_PROVIDER = "CUDAExecutionProvider"
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class BoundEngine:
    """Implements vidai.devices.cuda.engine.Engine with the memory that it is given.

    device: where the session computes and the addresses lie, ("cuda", 0). settle: waits until
    what is queued on a CUDA stream is done. ONNX Runtime has a stream of its own and waits for
    its end, so that all happens in order.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        device: tuple[str, int],
        settle: Callable[[int], None],
        name: str,
    ) -> None:
        self.notes: list[str] = []
        self._session = session
        self._device = device
        self._settle = settle
        self._name = name
        (self.input,) = map(self._spec, session.get_inputs())
        self.outputs = tuple(map(self._spec, session.get_outputs()))
        self._shapes: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {}

    def output_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """As a run on an empty picture shows them, since the file may leave them open."""
        if shape not in self._shapes:
            with self._running(shape):
                binding = self._session.io_binding()
                blank = np.zeros(shape, self.input.dtype)
                value = onnxruntime.OrtValue.ortvalue_from_numpy(blank, *self._device)
                binding.bind_ortvalue_input(self.input.name, value)
                for output in self.outputs:
                    binding.bind_output(output.name, *self._device)
                self._session.run_with_iobinding(binding)
                self._shapes[shape] = tuple(tuple(v.shape()) for v in binding.get_outputs())
        return self._shapes[shape]

    def enqueue(
        self, shape: tuple[int, ...], data: int, outputs: Sequence[int], stream: int
    ) -> None:
        shapes = self.output_shapes(shape)
        self._settle(stream)
        with self._running(shape):
            binding = self._session.io_binding()
            name, dtype = self.input
            binding.bind_input(name, *self._device, dtype, shape, data)
            for (name, dtype), dims, address in zip(self.outputs, shapes, outputs, strict=True):
                binding.bind_output(name, *self._device, dtype, dims, address)
            self._session.run_with_iobinding(binding)

    def layer_precisions(self) -> dict[str, int]:
        return {}

    def _spec(self, tensor: Any) -> TensorSpec:
        if tensor.type not in _TYPES:
            raise ModelError(
                f"model {self._name} has {tensor.type} for {tensor.name}: export it for float32 "
                f"or float16"
            )
        return TensorSpec(tensor.name, np.dtype(_TYPES[tensor.type]))

    def _running(self, shape: tuple[int, ...]) -> AbstractContextManager[None]:
        return onnx_errors(f"model {self._name} cannot run on an input of shape {shape}")


def open_engine(model: bytes, settings: EngineSettings, gpu: GpuInfo) -> BoundEngine:
    """Raises DeviceUnavailable where ONNX Runtime cannot use the GPU, else as the protocol says."""
    if _PROVIDER not in onnxruntime.get_available_providers():
        raise DeviceUnavailable("the installed onnxruntime has no CUDA, as onnxruntime-gpu has")
    onnxruntime.preload_dlls()  # of the NVIDIA wheels, which are on no search path
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    provider = (_PROVIDER, {"device_id": gpu.index, "use_tf32": 0})  # float32 is float32
    with onnx_errors(f"cannot load model {settings.name}"):
        session = onnxruntime.InferenceSession(
            model, options, providers=[provider], disabled_optimizers=UNFAITHFUL
        )
    if session.get_providers()[0] != _PROVIDER:  # it falls back to the CPU and only logs it
        raise DeviceUnavailable(
            "onnxruntime-gpu cannot use the GPU: the CUDA or cuDNN that it was built for is missing"
        )
    return BoundEngine(session, ("cuda", gpu.index), _wait_for, settings.name)


def _wait_for(stream: int) -> None:
    Stream.from_handle(stream).sync()
