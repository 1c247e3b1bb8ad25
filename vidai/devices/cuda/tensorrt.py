"""Models on TensorRT 11: built once for a kind of GPU, kept on disk, run as CUDA graphs.

Networks are strongly typed: a model runs in the precisions that its ONNX file says. TF32 is
off, so that float32 is float32.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, SupportsInt, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np
import tensorrt as trt
from cuda.core import Stream

from vidai.cache import keep, locked
from vidai.devices.cuda.driver import Gpu
from vidai.devices.cuda.engine import (
    EngineSettings,
    GpuInfo,
    Progress,
    TensorSpec,
    count_precisions,
)
from vidai.errors import DeviceError, DeviceUnavailable, ModelError
from vidai.models.onnx_file import parse_onnx
from vidai.resources import cache_folder

_MOST_GRAPHS = 32  # of one session; what else it is asked to run goes without

T = TypeVar("T")


class _Log(trt.ILogger):
    """TensorRT's last errors. One for the process: TensorRT uses the first that it is given."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=3)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self._errors.append(" ".join(msg.split())[:300])

    def reason(self) -> str:
        """The errors since the last call, in one line."""
        said = "; ".join(self._errors)
        self._errors.clear()
        return said or "TensorRT gives no reason"


class BuildProgress(trt.IProgressMonitor):
    """TensorRT's phases, which lie in each other, as how much of the outermost is done.

    What the callback raises, a KeyboardInterrupt too, ends the build: it must not pass through
    TensorRT, so it is kept in `error`. TensorRT calls from threads of its own.
    """

    def __init__(self, progress: Progress) -> None:
        trt.IProgressMonitor.__init__(self)
        self.error: BaseException | None = None
        self._progress = progress
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()

    def phase_start(
        self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt
    ) -> None:
        with self._lock:
            self._phases[phase_name] = _Phase(parent_phase, max(1, int(num_steps)))
        self._tell(phase_name)

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        with self._lock:
            if phase_name in self._phases:
                self._phases[phase_name].done = int(step) + 1
        self._tell(phase_name)
        return self.error is None

    def phase_finish(self, phase_name: str) -> None:
        with self._lock:
            self._phases.pop(phase_name, None)

    def _tell(self, phase: str) -> None:
        try:
            with self._lock:
                name, part = phase, 0.0
                while within := self._phases.get(name):
                    part = min(1.0, (within.done + part) / within.steps)
                    if within.parent not in self._phases:
                        break
                    name = within.parent
            self._progress(name, part)
        except BaseException as error:
            self.error = self.error or error


class _Phase:
    def __init__(self, parent: str | None, steps: int) -> None:
        self.parent, self.steps, self.done = parent, steps, 0


class _Plan:
    """A network in the memory of a GPU; the sessions of a process share it."""

    def __init__(self, runtime: trt.Runtime, engine: trt.ICudaEngine) -> None:
        self.engine = engine
        self._runtime = runtime  # must outlive the engine


_LOG = _Log()
_LOCK = threading.Lock()
_PLANS: WeakValueDictionary[tuple[str, int], _Plan] = WeakValueDictionary()


class TensorRtEngine:
    """Implements vidai.devices.cuda.engine.Engine. All runs are on one stream.

    The second run with the same shape and addresses records a CUDA graph, which later ones
    launch: one call instead of one for each layer. A graph is valid only as long as the context
    it was recorded from stays as it was, so each has a context of its own. They share their
    scratch memory, since runs come one after the other.
    """

    def __init__(
        self, plan: _Plan, gpu: GpuInfo, name: str, outputs: Sequence[str], notes: list[str]
    ) -> None:
        self.notes = notes
        self._name = name
        self._plan = plan
        size = plan.engine.device_memory_size_v2
        self._scratch = Gpu.open(gpu.index).allocate_shared((size,), np.dtype(np.uint8))
        self._context = self._new_context()
        names = [plan.engine.get_tensor_name(i) for i in range(plan.engine.num_io_tensors)]
        inputs = [n for n in names if plan.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        (self.input,) = map(self._spec, inputs)
        self.outputs = tuple(map(self._spec, outputs))
        # Of runs that were made before; None where there is no graph of it (yet).
        self._graphs: dict[tuple[Any, ...], Callable[[], None] | None] = {}
        self._records = True

    def output_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        self._set_shape(self._context, shape)
        shapes = tuple(self._context.get_tensor_shape(o.name)[:] for o in self.outputs)
        for output, dims in zip(self.outputs, shapes, strict=True):
            if any(dim < 0 for dim in dims):
                raise ModelError(
                    f"model {self._name}: the size of output {output.name} depends on what is in "
                    f"the picture; export it without NMS"
                )
        return shapes

    def enqueue(
        self, shape: tuple[int, ...], data: int, outputs: Sequence[int], stream: int
    ) -> None:
        run = (shape, data, *outputs, stream)
        launch = self._graphs.get(run)
        if launch:
            launch()
            return
        to_record = self._records and run in self._graphs
        context = self._new_context() if to_record else self._context
        self._set_shape(context, shape)
        for tensor, address in zip((self.input, *self.outputs), (data, *outputs), strict=True):
            if not context.set_tensor_address(tensor.name, address):
                raise DeviceError(f"model {self._name}: no tensor {tensor.name}: {_LOG.reason()}")
        self._execute(context, stream)
        if to_record:
            self._graphs[run] = self._record(context, stream)
        elif self._records and len(self._graphs) < _MOST_GRAPHS:
            self._graphs[run] = None

    def layer_precisions(self) -> dict[str, int]:
        inspector = self._plan.engine.create_engine_inspector()
        inspector.execution_context = self._context
        return count_precisions(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _spec(self, name: str) -> TensorSpec:
        kind = self._plan.engine.get_tensor_dtype(name)
        try:
            return TensorSpec(name, np.dtype(trt.nptype(kind)))
        except TypeError as error:
            raise ModelError(
                f"model {self._name} has {kind.name} numbers in {name}: export it for float32 or "
                f"float16"
            ) from error

    def _new_context(self) -> trt.IExecutionContext:
        context = self._plan.engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise DeviceError(f"model {self._name} cannot be run: {_LOG.reason()}")
        context.set_device_memory(self._scratch.ptr, self._plan.engine.device_memory_size_v2)
        return context

    def _set_shape(self, context: trt.IExecutionContext, shape: tuple[int, ...]) -> None:
        if not context.set_input_shape(self.input.name, shape):
            smallest, _, largest = (
                "×".join(map(str, dims[:]))
                for dims in self._plan.engine.get_tensor_profile_shape(self.input.name, 0)
            )
            raise ModelError(
                f"model {self._name} takes inputs from {smallest} to {largest}, not "
                f"{'×'.join(map(str, shape))}"
            )

    def _execute(self, context: trt.IExecutionContext, stream: int) -> None:
        if not context.execute_async_v3(stream):
            raise DeviceError(f"model {self._name} failed on the GPU: {_LOG.reason()}")

    def _record(self, context: trt.IExecutionContext, stream: int) -> Callable[[], None] | None:
        """The run that the context has just made, as the launch of a CUDA graph; recording it
        runs nothing."""
        try:
            queue = Stream.from_handle(stream)
            builder = queue.create_graph_builder()
            builder.begin_building("thread_local")  # other threads may allocate meanwhile
            try:
                self._execute(context, stream)
            finally:
                builder.end_building()  # else the stream could do nothing any more
            graph = builder.complete()
        except Exception as error:  # a slower way is left, so none is worth an end
            self._records = False
            self.notes.append(f"model {self._name} runs without CUDA graphs: {error}")
            return None

        def launch(kept: trt.IExecutionContext = context) -> None:
            graph.launch(queue)

        return launch


def open_engine(
    model: bytes, settings: EngineSettings, gpu: GpuInfo, progress: Progress | None
) -> TensorRtEngine:
    """A session of the model, built where no plan of it is kept. See engine.open_engine."""
    file = parse_onnx(model, Path(settings.name))
    notes: list[str] = []
    key = _key(model, settings, gpu)
    with _LOCK:
        plan = _PLANS.get((key, gpu.index))
        if plan is None:
            plan = _kept_or_built(key, model, settings, gpu, progress, notes)
            _PLANS[key, gpu.index] = plan
    outputs = [output.name for output in file.outputs]
    return TensorRtEngine(plan, gpu, settings.name, outputs, notes)


def _key(model: bytes, settings: EngineSettings, gpu: GpuInfo) -> str:
    """Of all that a plan depends on."""
    digest = hashlib.sha256(model)
    built_for = [trt.__version__, gpu.name, settings.shapes((-1, -1, -1, -1))]
    digest.update(json.dumps(built_for).encode())
    return digest.hexdigest()


def _kept_or_built(
    key: str,
    model: bytes,
    settings: EngineSettings,
    gpu: GpuInfo,
    progress: Progress | None,
    notes: list[str],
) -> _Plan:
    path = cache_folder("engines") / f"{key}.plan"
    runtime = _made(lambda: trt.Runtime(_LOG))
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that cannot be used is told of when it is written to
            stack.enter_context(locked(path.with_suffix(".lock")))  # another process builds it
            if path.is_file() and (plan := _loaded(runtime, path.read_bytes())):
                return plan
        data = _build(model, settings, gpu, progress, notes)
        _keep(path, data, notes)
    plan = _loaded(runtime, data)
    if plan is None:
        raise ModelError(f"model {settings.name} was built but cannot be loaded: {_LOG.reason()}")
    return plan


def _keep(path: Path, data: bytes, notes: list[str]) -> None:
    try:
        keep(path, data)
    except OSError as error:
        notes.append(
            f"{path.name} cannot be kept in {path.parent} and must be made again next time: "
            f"{error}; set VIDAI_CACHE to another folder"
        )


def _loaded(runtime: trt.Runtime, data: bytes) -> _Plan | None:
    """The plan, None where this TensorRT cannot read it."""
    engine = runtime.deserialize_cuda_engine(data)
    return None if engine is None else _Plan(runtime, engine)


def _build(
    model: bytes,
    settings: EngineSettings,
    gpu: GpuInfo,
    progress: Progress | None,
    notes: list[str],
) -> bytes:
    """The model as a plan for this GPU. Raises ModelError with TensorRT's reason."""
    trt.init_libnvinfer_plugins(cast(Any, _LOG), "")
    builder = _made(lambda: trt.Builder(_LOG))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, _LOG)
    if not parser.parse(model):
        errors = [parser.get_error(i).desc() for i in range(min(3, parser.num_errors))]
        raise ModelError(
            f"TensorRT cannot read model {settings.name}: {'; '.join(errors) or _LOG.reason()}"
        )
    if network.num_inputs != 1:
        raise ModelError(f"model {settings.name} has {network.num_inputs} inputs: export it with 1")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for layer_precisions
    picture = network.get_input(0)
    declared = picture.shape[:]
    if -1 in declared:
        profile = builder.create_optimization_profile()
        profile.set_shape(picture.name, *map(trt.Dims, settings.shapes(declared)))
        config.add_optimization_profile(profile)
    path = _timings(gpu)
    timings = _timing_cache(config, path)
    monitor = BuildProgress(progress or (lambda phase, part: None))
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.error:
        raise monitor.error
    if plan is None:
        raise ModelError(f"TensorRT cannot build model {settings.name}: {_LOG.reason()}")
    _keep(path, _bytes(timings.serialize()), notes)
    return _bytes(plan)


def _timings(gpu: GpuInfo) -> Path:
    """Where is kept what TensorRT learns of its kernels on this kind of GPU."""
    name = "".join(c if c.isalnum() else "-" for c in f"{gpu.name} {trt.__version__}")
    return cache_folder("engines") / f"{name}.timings"


def _timing_cache(config: trt.IBuilderConfig, path: Path) -> trt.ITimingCache:
    """What earlier builds have learnt, given to this one, which adds to it."""
    if path.is_file():
        cache = config.create_timing_cache(path.read_bytes())
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache


def _bytes(memory: trt.IHostMemory) -> bytes:
    return bytes(cast(Any, memory))  # it is a buffer, which only its documentation says


def _made(make: Callable[[], T]) -> T:
    """A TensorRT object; the bindings answer with a TypeError where TensorRT gives none."""
    try:
        return make()
    except TypeError as error:
        raise DeviceUnavailable(f"TensorRT cannot use the GPU: {_LOG.reason()}") from error
