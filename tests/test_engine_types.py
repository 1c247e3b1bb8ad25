"""TensorRT's own bindings, without TensorRT: what calls it is checked against their signatures.

The bindings need three libraries only to be imported. Empty ones will do: mypy's stubgen then
reads the signatures, and mypy the calls. What happens between the calls (plans that are kept,
rebuilt and shared) runs on tests/fake_tensorrt.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
ENTRIES = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion"),
    *("getPluginRegistry", "initLibNvInferPlugins"),
)
CONFIG = """
[mypy]
strict = True
disallow_untyped_calls = False
follow_imports = silent
[mypy-tensorrt.*]
ignore_errors = True
[mypy-onnxruntime.*,cuda.*,google.protobuf.*]
ignore_missing_imports = True
follow_imports = skip
"""
WRONG = """
import tensorrt as trt

def f(context: trt.IExecutionContext, config: trt.IBuilderConfig) -> None:
    context.set_tensor_address("images")
    context.execute_async_v3(stream=0)
    config.set_flag(trt.BuilderFlag.FP16)
"""

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_bindings") is None or find_spec("mypy") is None,
    reason="needs the wheel tensorrt-cu13-bindings, and mypy",
)


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `import tensorrt` finds the bindings, and no GPU."""
    folder = tmp_path_factory.mktemp("tensorrt")
    source = folder / "empty.cpp"
    source.write_text("".join(f'extern "C" void *{entry}() {{ return 0; }}\n' for entry in ENTRIES))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.11"
        subprocess.run(
            ["g++", "-shared", "-fPIC", f"-Wl,-soname,{library}", source, "-o", folder / library],
            check=True,
        )
    (folder / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": os.pathsep.join((str(folder), str(HERE))),
        "VIDAI_CACHE": str(folder / "cache"),
    }


@pytest.fixture(scope="module")
def signatures(bindings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bindings' signatures as a package of stubs `tensorrt`."""
    folder = tmp_path_factory.mktemp("stubs")
    command = [sys.executable, "-c", "import mypy.stubgen as s; s.main()", "-q"]
    command += ["-o", str(folder), "-m", "tensorrt_bindings.tensorrt"]
    subprocess.run(command, env=bindings, check=True)
    package = (folder / "tensorrt_bindings").rename(folder / "tensorrt")
    wheel = find_spec("tensorrt_bindings")
    assert wheel
    assert wheel.origin
    shutil.copy(wheel.origin, package)
    stubs = package / "tensorrt.pyi"
    text = stubs.read_text()
    # The bindings have a number type called bool, and defaults before an argument without one.
    text = re.sub(r"^bool: DataType$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^ *def add_scale_nd\(.*$", "", text, flags=re.MULTILINE)
    stubs.write_text(text)
    return folder


def mypy(signatures: Path, file: Path) -> str:
    """What mypy --strict says of the file."""
    config = signatures / "mypy.ini"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", str(config)]
    command += ["--cache-dir", str(signatures / "cache"), str(file)]
    environment = {**os.environ, "MYPYPATH": str(signatures)}
    run = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, check=False
    )
    return run.stdout + run.stderr


def python(bindings: dict[str, str], code: str) -> list[str]:
    """The lines that the code prints, with the bindings at hand."""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=bindings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_calls_of_tensorrt_fit_its_signatures(signatures: Path) -> None:
    said = mypy(signatures, HERE / "vidai" / "devices" / "cuda" / "tensorrt.py")
    assert said.startswith("Success"), said


def test_wrong_calls_of_tensorrt_are_found(signatures: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    said = mypy(signatures, tmp_path / "wrong.py")
    assert 'Missing positional argument "memory" in call to "set_tensor_address"' in said
    assert 'Unexpected keyword argument "stream" for "execute_async_v3"' in said
    assert '"type[BuilderFlag]" has no attribute "FP16"' in said


def test_without_a_gpu_the_device_is_unavailable(
    bindings: dict[str, str], tiny_model: Path
) -> None:
    code = f"""
from vidai.devices.cuda.engine import EngineSettings, GpuInfo, open_engine
from vidai.errors import DeviceUnavailable
try:
    model = open({str(tiny_model)!r}, "rb").read()
    open_engine(model, EngineSettings(8), GpuInfo(0, "none", (8, 9)))
except DeviceUnavailable as error:
    print(error)
"""
    said = python(bindings, code)
    assert said == ["TensorRT cannot use the GPU: TensorRT gives no reason"]


def test_progress_of_a_build_is_that_of_its_outermost_phase(bindings: dict[str, str]) -> None:
    code = """
from vidai.devices.cuda.tensorrt import BuildProgress
monitor = BuildProgress(lambda phase, part: print(phase, round(part, 3)))
monitor.phase_start("build", None, 4)
monitor.step_complete("build", 0)
monitor.phase_start("tactics", "build", 2)
print(monitor.step_complete("tactics", 0))
monitor.phase_finish("tactics")
monitor.step_complete("build", 1)
"""
    said = python(bindings, code)
    assert said == [
        *("build 0.0", "build 0.25", "build 0.25", "build 0.375", "True", "build 0.5"),
    ]


def test_what_a_progress_callback_raises_ends_the_build(bindings: dict[str, str]) -> None:
    code = """
from vidai.devices.cuda.tensorrt import BuildProgress
def stop(phase, part):
    raise KeyboardInterrupt
monitor = BuildProgress(stop)
monitor.phase_start("build", None, 4)
print(monitor.step_complete("build", 0), repr(monitor.error))
"""
    assert python(bindings, code) == ["False KeyboardInterrupt()"]


OPEN = """
import sys
from pathlib import Path
from tests import fake_tensorrt as trt
sys.modules["tensorrt"] = trt
from vidai.devices.cuda import tensorrt as engines
from vidai.devices.cuda.engine import EngineSettings, GpuInfo, open_engine
engines.Stream, engines.Gpu = trt.Stream, trt.Gpu
from vidai.errors import ModelError
from vidai.resources import cache_folder
MODEL = Path({model!r}).read_bytes()
GPU = GpuInfo(0, "NVIDIA L4", (8, 9))
def opened(max_batch=8, gpu=GPU, model=MODEL, progress=None):
    return open_engine(model, EngineSettings(max_batch, "tiny"), gpu, progress)
def plans():
    return sorted(cache_folder("engines").glob("*.plan"))
"""


@pytest.fixture
def on_fake(
    bindings: dict[str, str], tiny_model: Path, tmp_path: Path
) -> Callable[[str], list[str]]:
    """Runs code after OPEN, with an empty cache of the test's own; gives the lines it prints."""
    environment = {**bindings, "VIDAI_CACHE": str(tmp_path / "cache")}
    return lambda code: python(environment, OPEN.format(model=str(tiny_model)) + code)


def test_a_plan_is_built_once_and_kept(on_fake: Callable[[str], list[str]]) -> None:
    code = """
engine = opened()
print(engine.input.name, engine.input.dtype, [o.name for o in engine.outputs], engine.notes)
print(engine.output_shapes((8, 3, 128, 128)))
print(len(trt.BUILDS), len(plans()), opened()._plan is engine._plan)
"""
    assert on_fake(code) == [
        "images float32 ['output'] []",
        "((8, 336, 8),)",
        "1 1 True",
    ]
    again = "opened(); print(len(trt.BUILDS), len(plans()))"
    assert on_fake(again) == ["0 1"]


def test_a_plan_is_for_one_model_gpu_and_batch(on_fake: Callable[[str], list[str]]) -> None:
    code = """
engines = [opened(), opened(4), opened(gpu=GpuInfo(0, "NVIDIA A10", (8, 6)))]
engines.append(opened(model=MODEL + bytes([0x3a, 0])))  # an empty graph appended changes nothing
print(len(trt.BUILDS), len(plans()))
print([built["shapes"][2][0] for built in trt.BUILDS])
"""
    assert on_fake(code) == ["4 4", "[8, 4, 8, 8]"]


def test_a_plan_that_cannot_be_read_is_built_again(on_fake: Callable[[str], list[str]]) -> None:
    on_fake("opened()")
    code = """
(path,) = plans()
path.write_bytes(b"of another version")
opened()
print(len(trt.BUILDS), path.read_bytes().startswith(b"{"))
"""
    assert on_fake(code) == ["1 True"]


def test_a_cache_that_cannot_be_written_is_a_note(on_fake: Callable[[str], list[str]]) -> None:
    code = """
cache_folder("engines").parent.write_text("a file where the folder should be")
engine = opened()
print(len(trt.BUILDS), [note.rpartition("; ")[2] for note in engine.notes])
"""
    assert on_fake(code) == ["1 " + str(["set VIDAI_CACHE to another folder"] * 2)]


def test_timings_are_learnt_from_build_to_build(on_fake: Callable[[str], list[str]]) -> None:
    code = """
opened(1), opened(2)
print([built["known"] for built in trt.BUILDS])
(timings,) = cache_folder("engines").glob("*.timings")
timings.write_bytes(b"foreign")
opened(3)
print(repr(trt.BUILDS[-1]["known"]), timings.read_bytes())
"""
    assert on_fake(code) == ["['', 'learnt ']", "'' b'learnt '"]


def test_a_batch_above_the_profile_is_a_model_error(on_fake: Callable[[str], list[str]]) -> None:
    code = """
for call in ("output_shapes((9, 3, 128, 128))", "enqueue((9, 3, 128, 128), 1, [2], 3)"):
    try:
        eval("opened()." + call)
    except ModelError as error:
        print(error)
print(trt.RUNS)
"""
    said = "model tiny takes inputs from 1×3×128×128 to 8×3×128×128, not 9×3×128×128"
    assert on_fake(code) == [said, said, "[]"]


def test_the_second_run_is_recorded_and_later_ones_launched(
    on_fake: Callable[[str], list[str]],
) -> None:
    """Also when shapes take turns; fake_tensorrt.py sees to it that contexts stay untouched."""
    code = """
engine = opened()
for turn in range(4):
    for pictures in (2, 8):
        engine.enqueue((pictures, 3, 128, 128), 100, [200], 7)
    print(len(trt.RUNS), len(trt.LAUNCHES))
    engine.output_shapes((1, 3, 128, 128))
expected = [
    ((pictures, 3, 128, 128), {"images": 100, "output": 200, "scratch": trt.SCRATCH}, 7)
    for turn in range(4) for pictures in (2, 8)
]
print(trt.RUNS == expected, trt.LAUNCHES, engine.notes)
"""
    assert on_fake(code) == ["2 0", "4 0", "6 2", "8 4", "True [1, 1, 1, 1] []"]


def test_new_addresses_each_time_are_not_recorded(on_fake: Callable[[str], list[str]]) -> None:
    code = """
engine = opened()
for address in range(1000):
    engine.enqueue((1, 3, 128, 128), address, [200], 7)
print(len(trt.RUNS), len(trt.LAUNCHES), len(engine._graphs))
"""
    assert on_fake(code) == ["1000 0 32"]


def test_runs_go_on_without_graphs_where_none_can_be_recorded(
    on_fake: Callable[[str], list[str]],
) -> None:
    code = """
engine = opened()
trt.Stream.fails = True
for _ in range(4):
    engine.enqueue((2, 3, 128, 128), 100, [200], 7)
print(len(trt.RUNS), trt.LAUNCHES, engine.notes)
"""
    note = "model tiny runs without CUDA graphs: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    assert on_fake(code) == [f"4 [] {[note]}"]


def test_an_interrupted_build_leaves_no_plan(on_fake: Callable[[str], list[str]]) -> None:
    code = """
def stop(phase, part):
    raise KeyboardInterrupt
try:
    opened(progress=stop)
except KeyboardInterrupt:
    print(len(trt.BUILDS), plans())
"""
    assert on_fake(code) == ["0 []"]
