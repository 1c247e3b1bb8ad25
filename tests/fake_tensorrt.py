"""TensorRT where there is none: the real bindings, and behind them a builder that builds nothing.

Only what needs libnvinfer or a driver is imitated: the network is the shapes in its profile, a
plan says what it was built for, and a run is noted in `RUNS`. That the real bindings have these
signatures is checked in tests/test_engine_types.py.
"""

from __future__ import annotations

import json
from typing import Any

from tensorrt_bindings import *  # noqa: F403
from tensorrt_bindings import Dims, TensorIOMode, float32
from tensorrt_bindings import __version__ as __version__
from tensorrt_bindings import nptype as nptype

BUILDS: list[dict[str, Any]] = []
RUNS: list[tuple[tuple[int, ...], dict[str, int], int]] = []
LAUNCHES: list[int] = []  # of graphs: how many runs each held
RECORDING: list[list[Any]] = []
SCRATCH = 1 << 20


class _Any:
    """Takes every attribute and call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


class _Tensor:
    name = "images"
    shape = Dims((-1, 3, 128, 128))


class _Network:
    num_inputs = 1

    def get_input(self, index: int) -> _Tensor:
        return _Tensor()


class _Profile:
    shapes: list[list[int]]

    def set_shape(self, name: str, *shapes: Dims) -> None:
        self.shapes = [list(shape[:]) for shape in shapes]


class _TimingCache:
    def __init__(self, known: bytes) -> None:
        self.known = known

    def serialize(self) -> bytes:
        return self.known + b"learnt "


class _Config(_Any):
    profile: _Profile
    timings: _TimingCache

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profile = profile
        return 0

    def create_timing_cache(self, known: bytes) -> _TimingCache:
        return _TimingCache(known)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        self.timings = cache
        return not cache.known.startswith(b"foreign")


class Builder:
    def __init__(self, logger: Any) -> None: ...

    def create_network(self, flags: int) -> _Network:
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: Any) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("build", None, 2)
        if not monitor.step_complete("build", 0):
            return None
        built = {"shapes": config.profile.shapes, "known": config.timings.known.decode()}
        BUILDS.append(built)
        return json.dumps(built).encode()


class OnnxParser(_Any):
    num_errors = 0

    def __init__(self, network: _Network, logger: Any) -> None: ...

    def parse(self, model: bytes) -> bool:
        return True


class Runtime:
    def __init__(self, logger: Any) -> None: ...

    def deserialize_cuda_engine(self, data: bytes) -> _Engine | None:
        try:
            return _Engine(json.loads(data)["shapes"])
        except ValueError:
            return None


class _Engine:
    num_io_tensors = 2
    device_memory_size_v2 = 4096

    def __init__(self, shapes: list[list[int]]) -> None:
        self.shapes = shapes

    def create_execution_context(self, strategy: Any) -> _Context:
        return _Context(self)

    def get_tensor_name(self, index: int) -> str:
        return ("output", "images")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return float32

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(shape) for shape in self.shapes]


class _Context:
    """Whatever is done to a context after a graph was recorded from it is an error."""

    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.recorded = False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert (memory, size) == (SCRATCH, self.engine.device_memory_size_v2)
        self.addresses["scratch"] = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.recorded
        low, _, high = self.engine.shapes
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        self.shape = shape if fits else self.shape
        return fits

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims((self.shape[0], 336, 8))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert not self.recorded
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert not self.recorded
        run = (self.shape, dict(self.addresses), stream_handle)
        self.recorded = len(RECORDING) > 0
        (RECORDING[0] if RECORDING else RUNS).append(run)
        return True


class Stream:
    """Of cuda.core, with its graph builder and graph: what is recorded is what is launched."""

    fails = False

    @staticmethod
    def from_handle(handle: int) -> Stream:
        return Stream()

    def create_graph_builder(self) -> Stream:
        self.runs: list[Any] = []
        return self

    def begin_building(self, mode: str) -> None:
        if Stream.fails:
            raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        RECORDING.append(self.runs)

    def end_building(self) -> None:
        RECORDING.pop()

    def complete(self) -> Stream:
        return self

    def launch(self, stream: Stream) -> None:
        RUNS.extend(self.runs)
        LAUNCHES.append(len(self.runs))


class Gpu:
    """Of vidai.devices.cuda.driver."""

    ptr = SCRATCH

    @staticmethod
    def open(index: int) -> Gpu:
        return Gpu()

    def allocate_shared(self, shape: tuple[int, ...], dtype: Any) -> Gpu:
        assert shape == (_Engine.device_memory_size_v2,)
        return self
