"""Engines of the CUDA device, as far as they go without a GPU: ONNX Runtime's binding by
address runs for real, on the CPU's own memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.test_session import Graph
from tests.tiny_model import write_constant_model, write_tiny_model
from vidai.errors import DeviceUnavailable, ModelError
from vidai.types import InputSpec

pytest.importorskip("cuda.core")

from vidai.devices.cuda import onnx_gpu
from vidai.devices.cuda.engine import (
    EngineSettings,
    GpuInfo,
    count_precisions,
    open_engine,
)
from vidai.devices.cuda.onnx_gpu import BoundEngine

Array = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng(7)


def bound(path: Path, waited: list[int] | None = None) -> BoundEngine:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    settle = (waited if waited is not None else []).append
    return BoundEngine(session, ("cpu", 0), settle, path.stem)


def run(engine: BoundEngine, data: Array) -> list[Array]:
    """Through addresses alone, as the device does it."""
    shapes = engine.output_shapes(data.shape)
    outputs = [
        np.full(shape, 77, spec.dtype) for shape, spec in zip(shapes, engine.outputs, strict=True)
    ]
    addresses = [output.ctypes.data for output in outputs]
    engine.enqueue(data.shape, data.ctypes.data, addresses, 5)
    return outputs


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_bound_run_gives_what_a_plain_one_gives(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "tiny.onnx"
    write_tiny_model(path, dtype=dtype)
    waited: list[int] = []
    engine = bound(path, waited)
    assert engine.input == ("images", np.dtype(dtype))
    assert engine.outputs == (("output", np.dtype(dtype)),)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for pictures in (3, 1, 3):
        data = RNG.uniform(0, 255, (pictures, 3, 128, 128)).astype(dtype)
        (output,) = run(engine, data)
        np.testing.assert_array_equal(output, session.run(None, {"images": data})[0])
    assert waited == [5, 5, 5]


def test_outputs_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    outputs: dict[str, Array] = {
        "second": np.arange(6, dtype=np.int64).reshape(1, 6),
        "first": RNG.uniform(size=(1, 2, 3)).astype(np.float32),
    }
    path = tmp_path / "two.onnx"
    write_constant_model(path, outputs, input_dims=["N", 3, "H", "W"])
    engine = bound(path)
    assert [output.name for output in engine.outputs] == ["second", "first"]
    given = run(engine, np.zeros((1, 3, 64, 96), np.float32))
    for output, expected in zip(given, outputs.values(), strict=True):
        np.testing.assert_array_equal(output, expected)
        assert output.dtype == expected.dtype


def test_a_shape_that_the_model_does_not_take_is_a_model_error(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"model tiny cannot run on .* shape \(1, 3, 64, 64\)"):
        bound(tiny_model).output_shapes((1, 3, 64, 64))


def test_numbers_that_no_kernel_reads_are_a_model_error(tmp_path: Path) -> None:
    path = tmp_path / "bytes.onnx"
    write_constant_model(path, {"labels": np.zeros((1, 4), np.uint8)}, input_dims=[1, 3, 64, 64])
    with pytest.raises(ModelError, match=r"model bytes has tensor\(uint8\) for labels"):
        bound(path)


def test_without_any_engine_one_is_told_what_to_install(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceUnavailable) as told:
        open_engine(tiny_model.read_bytes(), EngineSettings(8), GpuInfo(0, "none", (8, 9)))
    assert "TensorRT cannot be imported" in str(told.value)
    assert "the installed onnxruntime has no CUDA" in str(told.value)
    assert "pip install 'vidai[cuda]'" in str(told.value)


def test_an_activation_before_an_fp8_quantiser_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the CPU device; the session that is opened for the GPU is opened on the CPU here."""
    opened: list[Any] = []

    class OnCpu(onnxruntime.InferenceSession):  # type: ignore[misc, unused-ignore]
        def __init__(self, model: bytes, options: Any, providers: Any, **more: Any) -> None:
            super().__init__(model, options, providers=["CPUExecutionProvider"], **more)
            opened.append(self)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    graph = Graph("fp8", "float32")
    model = graph.model(graph.quantised(graph.op("Relu", "x")))
    onnx_gpu.open_engine(model, EngineSettings(8), GpuInfo(0, "none", (8, 9)))
    x = np.zeros((1, 4, 8, 8), np.float32)
    x[0, 0, 0, :3] = -1, 0, 2
    (output,) = opened[0].run(None, {"x": x})
    assert output[0, 0, 0, :3].tolist() == [0, 0, 2]


def test_a_fixed_size_stays_in_every_profile() -> None:
    settings = EngineSettings(8, spec=InputSpec(640, 384))
    assert settings.shapes((-1, 3, 384, 640)) == (
        *((1, 3, 384, 640), (8, 3, 384, 640), (8, 3, 384, 640)),
    )
    # A file that leaves its size free is built for that of the spec alone.
    assert settings.shapes((-1, 3, -1, -1)) == settings.shapes((-1, 3, 384, 640))
    assert settings.shapes((1, 3, -1, -1)) == ((1, 3, 384, 640),) * 3


def test_a_free_size_goes_from_one_multiple_to_the_longest() -> None:
    settings = EngineSettings(4, spec=InputSpec(0, 0, multiple=32, longest=960))
    smallest, best, largest = settings.shapes((-1, 3, -1, -1))
    assert (smallest, best, largest) == ((1, 3, 32, 32), (4, 3, 544, 960), (4, 3, 960, 960))
    for width, height in ((1920, 1080), (1080, 1920), (3000, 3000), (17, 5), (10000, 10)):
        across, down = settings.spec.size_for(width, height)
        assert smallest[2] <= down <= largest[2]
        assert smallest[3] <= across <= largest[3]


def test_layers_count_as_the_narrowest_of_their_inputs() -> None:
    def layer(*types: str) -> dict[str, Any]:
        return {"Name": "layer", "Inputs": [{"Format/Datatype": kind} for kind in types]}

    layers = [
        layer("Row major linear FP32"),
        layer("Float"),
        layer("Half", "Float"),
        layer("Channel major FP16 format where channel % 8 == 0"),
        layer("Row major linear BFloat16"),
        layer("FP8", "Half"),
        layer("Thirty-two wide channel vectorized row major Int8 format", "Float"),
        layer("Int64"),
        layer(),
        "a name",
    ]
    counts = count_precisions(json.dumps({"Layers": layers, "Bindings": ["images"]}))
    assert counts == {"fp32": 2, "fp16": 2, "bf16": 1, "fp8": 1, "int8": 1}
