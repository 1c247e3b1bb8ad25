"""Models on the CPU, with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import onnxruntime

from vidai.device import Device
from vidai.errors import ModelError

# Optimisations of ONNX Runtime's after which a quantised model computes something else than its
# file says: they take out a Relu or Clip before an FP8 quantiser, as if it cut at zero as uint8
# does; quantise weights and biases that the file leaves in floating point; add quantisers, of
# another type where int8 becomes uint8; merge two quantisers into a third. A model without
# quantisers has none of them.
UNFAITHFUL = (
    "ReluQuantRewrite",
    "ClipQuantRewrite",
    "WeightBiasQuantization",
    "QDQPropagationTransformer",
    "DoubleQDQPairsRemover",
)


@contextmanager
def onnx_errors(what: str) -> Iterator[None]:
    """ONNX Runtime's errors have no base class of their own but Exception."""
    try:
        yield
    except Exception as error:
        reason = (str(error).split(" : ", 3)[-1].strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{what}: {reason[:300]}") from error


def open_model(model: bytes) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on one thread that computes what the file says.

    Raises ModelError.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Else the input of a matrix product with INT8 weights is rounded, to what no file says.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    with onnx_errors("cannot load the model"):
        return onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=UNFAITHFUL
        )


class OnnxSession:
    """Implements vidai.device.Session on one thread: a pipeline has one for each core."""

    def __init__(self, device: Device, model: bytes) -> None:
        self.device = device
        self.notes: list[str] = []
        self._session = open_model(model)
        self._input = self._session.get_inputs()[0].name

    def layer_precisions(self) -> dict[str, int]:
        """ONNX Runtime does not tell."""
        return {}

    def run(self, data: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """The raw outputs, in the order of the model file. Raises ModelError."""
        with onnx_errors(f"the model cannot run on a {data.dtype} input of shape {data.shape}"):
            outputs: list[npt.NDArray[Any]] = self._session.run(None, {self._input: data})
        return outputs
