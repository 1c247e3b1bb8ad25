"""The doctor on this machine, on machines that are made up, and with libraries that die."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from vidai import terminal
from vidai.cli import cli
from vidai.device import EncoderSettings
from vidai.devices.cpu import CpuDevice
from vidai.devices.cpu.codecs import CpuDecoder, CpuEncoder
from vidai.devices.cpu.session import OnnxSession
from vidai.doctor import Diagnosis, Finding, child, gpu, smoke, surroundings
from vidai.doctor.child import Job
from vidai.errors import DecodeError, EncodeError, KernelError, ModelError, VidaiError
from vidai.types import Frame, StreamInfo

ROOT = Path(__file__).parents[1]
Done = subprocess.CompletedProcess[str]


def doctor(*args: str, **environ: str) -> Done:
    command = [sys.executable, "-m", "vidai", "doctor", *args]
    env = {**os.environ, **environ}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def find(findings: Any, name: str) -> Any:
    (found,) = (f for f in findings if f["name"] == name)
    return found


def told(done: Done) -> dict[str, Any]:
    """What --json printed, with what holds for every diagnosis."""
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["works"] == (done.returncode == 0)
    assert found["works"] == ("does not" not in found["verdict"])
    for finding in found["findings"]:
        assert finding["value"]
        assert finding["status"] in ("ok", "note", "problem")
        assert finding["advice"] or finding["status"] != "problem"
    return found


@pytest.fixture
def no_gpu() -> None:
    if surroundings.gpu_in_sight():
        pytest.skip("this machine has an NVIDIA GPU")


def needs_wheel(name: str) -> None:
    try:
        version(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")


def site(folder: Path, code: str) -> str:
    """A PYTHONPATH with which every Python process runs this code when it starts."""
    (folder / "sitecustomize.py").write_text(code)
    return os.pathsep.join([str(folder), str(ROOT)])


# The machine of the tests


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_cpu_works_and_the_way_to_a_gpu_is_told() -> None:
    done = doctor()
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "vidai works on cpu"
    assert not [line for line in lines if line.startswith("problem")]
    (line,) = [line for line in lines if "libcuda.so.1" in line]
    assert line.startswith("note")
    assert "driver 580 or newer" in line
    for stage in smoke.STAGES:
        assert re.search(rf"^ok +stages on cpu: {stage}: .*\d ms", done.stdout, re.MULTILINE)


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_asked_for_and_missing_is_a_problem() -> None:
    done = doctor("--device", "cuda:1")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(r"^problem +driver: libraries: libcuda\.so\.1.*; do: ", done.stdout, re.M)
    assert "does not work on cuda:1" in done.stdout.splitlines()[-1]
    assert "stages on cpu" not in done.stdout


def test_json_is_for_programs() -> None:
    found = told(doctor("--device", "cpu", "--json"))
    assert (found["device"], found["uses"], found["works"]) == ("cpu", "cpu", True)
    python = ".".join(map(str, sys.version_info[:3]))
    assert python in find(found["findings"], "Python")["value"]
    assert find(found["findings"], "vidai")["value"].startswith(version("vidai"))
    assert "libx264" in find(found["findings"], "encoders")["value"]


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:", "cuda:x", "auto:0", "cuda:-1"])
def test_a_device_that_is_none_is_one_sentence(device: str) -> None:
    result = CliRunner().invoke(cli, ["doctor", "--device", device])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"vidai: unknown device {device!r}: use auto, cpu, cuda or cuda:N\n"


def test_a_terminal_shows_findings_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    finding = Finding("driver", "[/x]", "[red]gone", "problem", "[/y] again")
    terminal.diagnosis(Diagnosis("cuda", "", False, (finding,)))
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    for text in ("driver", "[/x]", "[red]gone", "→ [/y] again", "does not work on cuda"):
        assert text in shown


# Packages that are broken


BROKEN = """
import os, sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "cuda.bindings.nvrtc":
            raise ImportError("libnvrtc.so.13 is cut short")
        if name == "pynvml":
            os.kill(os.getpid(), 11)

sys.meta_path.insert(0, Broken())
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is told where a package is half installed, another one kills the process, and the
    container got no video libraries."""
    for name in ("cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-ml-py"):
        needs_wheel(name)
    path = site(tmp_path_factory.mktemp("broken"), BROKEN)
    args = ("--device", "cuda", "--json")
    return told(doctor(*args, PYTHONPATH=path, NVIDIA_DRIVER_CAPABILITIES="compute,utility"))


def test_a_half_installed_package_is_told(broken: Any) -> None:
    finding = find(broken["findings"], "nvidia-cuda-nvrtc")
    assert finding["status"] == "problem"
    assert "libnvrtc.so.13 is cut short" in finding["value"]
    assert "--force-reinstall 'vidai[cuda]'" in finding["advice"]
    assert find(broken["findings"], "cuda-bindings")["status"] == "ok"


def test_a_library_that_dies_takes_nothing_with_it(broken: Any) -> None:
    for name in ("NVML", "nvidia-ml-py"):
        assert "died of SIGSEGV" in find(broken["findings"], name)["value"]
    assert find(broken["findings"], "encoders")["status"] == "ok"


def test_wrong_driver_capabilities_are_told(broken: Any) -> None:
    finding = find(broken["findings"], "NVIDIA_DRIVER_CAPABILITIES")
    assert finding["status"] != "ok"
    assert "video missing" in finding["value"]
    assert "compute,utility,video" in finding["advice"]


def test_a_missing_package_of_the_cpu_is_told(tmp_path: Path) -> None:
    path = site(
        tmp_path,
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n",
    )
    done = doctor("--device", "cpu", "--json", PYTHONPATH=path)
    assert done.returncode == 1
    found = told(done)
    assert "onnxruntime" in find(found["findings"], "packages")["value"]


# Processes of their own


def dies() -> Iterator[Finding]:
    yield Finding("s", "before", "seen")
    os.kill(os.getpid(), signal.SIGABRT)


def exits() -> Iterator[Finding]:
    yield Finding("s", "before", "seen")
    os.write(1, b"cuInit failed\n")  # as a library does, past Python
    os._exit(1)


def hangs() -> Iterator[Finding]:
    yield Finding("s", "before", "seen")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(3600)


def refuses() -> Iterator[Finding]:
    yield Finding("s", "before", "seen")
    raise VidaiError("the clip is upside down: turn it")


def fails() -> Iterator[Finding]:
    yield Finding("s", "before", "seen")
    raise ZeroDivisionError("by zero")


def test_every_end_of_a_process_is_a_finding_and_what_came_before_is_kept() -> None:
    looks = {
        dies: "its process died of SIGABRT",
        exits: "its process ended with exit code 1: cuInit failed",
        refuses: "the clip is upside down: turn it",
        fails: "ZeroDivisionError: by zero",
    }
    answers = child.run(*(Job("s", "n", look, "mend it") for look in looks))
    for answer, value in zip(answers, looks.values(), strict=True):
        assert answer == [
            Finding("s", "before", "seen"),
            Finding("s", "n", value, "problem", "mend it"),
        ]


def test_a_process_that_hangs_is_ended_and_told() -> None:
    ((*_, finding),) = child.run(Job("s", "n", hangs, "mend it"), limit=3)
    assert finding == Finding("s", "n", "hangs: no answer in 3 s", "problem", "mend it")


def test_a_problem_without_advice_is_refused() -> None:
    with pytest.raises(ValueError, match="without advice"):
        Finding("s", "n", "v", "problem")


# Machines that are made up

GPU = {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n"}
GPU["sys/bus/pci/devices/0000:01:00.0/class"] = "0x030200\n"
SOUND = {**GPU, "sys/bus/pci/devices/0000:01:00.0/class": "0x040300\n"}
DOCKER = {".dockerenv": ""}
WSL = {"proc/version": "Linux version 5.15-microsoft-standard-WSL2"}


def machine(root: Path, files: dict[str, str], driver: str = "") -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for device in root.glob("sys/bus/pci/devices/*") if driver else ():
        (device / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    return root


@pytest.mark.parametrize(
    ("files", "driver", "environ", "name", "status", "words"),
    [
        ({}, "", {}, "GPU", "note", ["none in sight"]),
        (SOUND, "snd_hda_intel", {}, "GPU", "note", ["none in sight"]),
        (GPU, "", {}, "GPU at 0000:01:00.0", "problem", ["no driver", "nvidia-driver-580"]),
        (GPU, "nouveau", {}, "GPU at 0000:01:00.0", "problem", ["held by nouveau", "580"]),
        (GPU, "nvidia", {}, "GPU at 0000:01:00.0", "ok", ["NVIDIA"]),
        (GPU, "nvidia", {}, "device files", "problem", ["none", "install NVIDIA driver"]),
        (GPU | DOCKER, "nvidia", {}, "device files", "problem", ["none", "--gpus all"]),
        ({"dev/nvidia0": "", "dev/nvidiactl": ""}, "", {}, "device files", "ok", ["nvidia0"]),
        (DOCKER, "", {}, "runs in", "ok", ["container"]),
        ({"run/.containerenv": ""}, "", {}, "runs in", "ok", ["container"]),
        ({"proc/1/cgroup": "0::/kubepods/x"}, "", {}, "runs in", "ok", ["container"]),
        ({}, "", {"container": "podman"}, "runs in", "ok", ["container"]),
        (WSL, "", {}, "runs in", "ok", ["WSL"]),
        (
            *(DOCKER, "", {"NVIDIA_DRIVER_CAPABILITIES": "utility, compute"}),
            *("NVIDIA_DRIVER_CAPABILITIES", "problem", ["video missing", "utility,video"]),
        ),
        (
            *({}, "", {"NVIDIA_DRIVER_CAPABILITIES": ""}),
            *("NVIDIA_DRIVER_CAPABILITIES", "note", ["compute, utility, video missing"]),
        ),
        (
            *(DOCKER, "", {"NVIDIA_DRIVER_CAPABILITIES": "all"}),
            *("NVIDIA_DRIVER_CAPABILITIES", "ok", ["all"]),
        ),
        (
            *(DOCKER, "", {"NVIDIA_DRIVER_CAPABILITIES": "video,utility,compute,graphics"}),
            *("NVIDIA_DRIVER_CAPABILITIES", "ok", ["graphics"]),
        ),
        (
            *(DOCKER, "", {"NVIDIA_VISIBLE_DEVICES": "void"}),
            *("NVIDIA_VISIBLE_DEVICES", "problem", ["no GPU", "--gpus all"]),
        ),
        ({}, "", {"NVIDIA_VISIBLE_DEVICES": "all"}, "NVIDIA_VISIBLE_DEVICES", "ok", ["all"]),
        (
            *({}, "", {"CUDA_VISIBLE_DEVICES": "-1"}),
            *("CUDA_VISIBLE_DEVICES", "problem", ["hides every GPU", "unset"]),
        ),
        (
            *({}, "", {"CUDA_VISIBLE_DEVICES": ""}),
            *("CUDA_VISIBLE_DEVICES", "problem", ["empty", "unset"]),
        ),
        ({}, "", {"CUDA_VISIBLE_DEVICES": "2,0"}, "CUDA_VISIBLE_DEVICES", "note", ["cuda:0 is"]),
        ({}, "", {"CUDA_VISIBLE_DEVICES": "GPU-8f2"}, "CUDA_VISIBLE_DEVICES", "note", ["first"]),
        ({"tmp/nvidia-mps/control": ""}, "", {}, "MPS", "ok", ["control daemon"]),
        ({}, "", {"CUDA_MPS_PIPE_DIRECTORY": "/mps"}, "MPS", "note", ["/mps", "unset it"]),
        (
            *({"mps/control": ""}, "", {"CUDA_MPS_PIPE_DIRECTORY": "/mps"}),
            *("MPS", "ok", ["control daemon"]),
        ),
    ],
)
def test_what_is_around_the_driver(
    files: dict[str, str],
    driver: str,
    environ: dict[str, str],
    name: str,
    status: str,
    words: list[str],
    tmp_path: Path,
) -> None:
    findings = list(surroundings.look(machine(tmp_path, files, driver), environ))
    (found,) = (finding for finding in findings if finding.name == name)
    assert found.status == status
    for word in words:
        assert word in f"{found.value} {found.advice}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every file")
def test_device_files_of_others_are_told(tmp_path: Path) -> None:
    (machine(tmp_path, {"dev/nvidia0": ""}) / "dev/nvidia0").chmod(0)
    found = [f for f in surroundings.look(tmp_path, {}) if f.name == "permission"]
    assert [f.status for f in found] == ["problem"]


@pytest.mark.parametrize(
    ("text", "status"), [("580.65.06", "ok"), ("581.15", "ok"), ("575.57.08", "problem")]
)
def test_the_driver_must_be_new_enough(text: str, status: str, tmp_path: Path) -> None:
    line = f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {text}  Release Build\n"
    machine(tmp_path, {"proc/driver/nvidia/version": line})
    assert surroundings.version_on_disk(tmp_path) == text
    found = surroundings.judged(text, "WSL")
    assert found.status == status
    assert ("in Windows" in found.advice) == (status == "problem")


NVML = r"""
#include <cstdlib>
#include <cstring>
#define API extern "C" __attribute__((visibility("default"))) int
API nvmlInitWithFlags(unsigned) { return atoi(getenv("NVML_INIT")); }
API nvmlSystemGetDriverVersion(char *text, unsigned) { strcpy(text, "570.12.34"); return 0; }
API nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
API nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  *handle = (void *)(index + 1L);
  return 0;
}
API nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **handle) {
  *handle = (void *)1;
  return strcmp(id, "0000:01:00.0") ? 6 : 0;
}
API nvmlDeviceGetName(void *handle, char *text, unsigned) {
  strcpy(text, "NVIDIA L4");
  return handle == (void *)2 ? 15 : 0;  // the second one is lost
}
API nvmlDeviceGetEccMode(void *, int *now, int *pending) { *now = *pending = 1; return 0; }
API nvmlDeviceGetPowerManagementLimit(void *, unsigned *mw) { *mw = 60000; return 0; }
API nvmlDeviceGetPowerManagementDefaultLimit(void *, unsigned *mw) { *mw = 72000; return 0; }
API nvmlDeviceGetMigMode(void *, unsigned *, unsigned *) { return 3; }  // not supported
API nvmlDeviceGetComputeMode(void *, unsigned *mode) { *mode = 3; return 0; }
"""


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """LD_LIBRARY_PATH to a libnvidia-ml.so.1 of an old driver with a healthy and a lost GPU."""
    needs_wheel("nvidia-ml-py")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.cpp").write_text(NVML)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["g++", "-shared", "-fPIC", folder / "nvml.cpp", "-o", library], check=True)
    return str(folder)


def settings(address: str) -> Iterator[Finding]:
    yield from gpu._settings(address)


def test_nvml_tells_the_driver_and_every_gpu(nvml: str) -> None:
    environ = {"LD_LIBRARY_PATH": nvml, "NVML_INIT": "0"}
    (found,) = child.run(Job("driver", "NVML", gpu.nvml, "mend it", environ=environ))
    version, first, second = found
    assert (version.name, version.status) == ("driver", "problem")
    assert "570.12.34, too old" in version.value
    assert (first.value, first.status) == ("NVIDIA L4", "ok")
    assert (second.value, second.status) == ("GPU is lost", "problem")


def test_nvml_tells_settings_as_far_as_there_are_any(nvml: str) -> None:
    environ = {"LD_LIBRARY_PATH": nvml, "NVML_INIT": "0"}
    known = Job("GPU", "x", settings, "mend it", ("0000:01:00.0",), environ)
    other = Job("GPU", "x", settings, "mend it", ("0000:02:00.0",), environ)
    found, unknown = child.run(known, other)
    values = {finding.name: finding.value for finding in found}
    assert values == {
        "ECC": "on",
        "power limit": "60 W of 72 W",
        "MIG": "this GPU has none",
        "compute mode": "exclusive to a process",
    }
    assert [f.status for f in found] == ["ok", "ok", "ok", "note"]
    assert [(f.name, f.value) for f in unknown] == [("settings", "not known: Not Found")]


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [(18, "problem", "restart the machine"), (9, "problem", "driver 580"), (999, "note", "")],
)
def test_why_nvml_does_not_start(nvml: str, code: int, status: str, advice: str) -> None:
    environ = {"LD_LIBRARY_PATH": nvml, "NVML_INIT": str(code)}
    (found,) = child.run(Job("driver", "NVML", gpu.nvml, "mend it", environ=environ))
    assert found[-1].status == status
    assert advice in found[-1].advice


# A simulated GPU


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with which processes see the simulated driver."""
    from tests.simdriver.build import Missing, build

    if surroundings.gpu_in_sight():
        pytest.skip("this machine has an NVIDIA GPU")
    for name in ("cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "pynvvideocodec"):
        needs_wheel(name)
    try:
        build()
    except Missing as error:
        pytest.skip(str(error))
    return site(tmp_path_factory.mktemp("sim"), "from tests import simdriver\nsimdriver.load()\n")


def test_a_gpu_is_described_and_tried(simulated: str) -> None:
    found = told(doctor("--device", "cuda", "--json", PYTHONPATH=simulated))["findings"]
    here = "libcuda.so.1, libnvcuvid.so.1, libnvidia-encode.so.1"
    assert here in [f["value"] for f in found if f["name"] == "libraries"]
    assert find(found, "CUDA")["value"] == "13.0"
    assert find(found, "cuda:0")["value"] == "simulated GPU 0, compute capability 8.9"
    assert find(found, "FP8")["value"] == "yes"
    assert re.fullmatch(r"2048 MiB, \d+ MiB free", find(found, "memory")["value"])
    for engine in ("NVDEC", "NVENC"):
        assert find(found, engine)["status"] == "ok"
        assert "H.264 8 bit, HEVC 8/10" in find(found, engine)["value"]
    stages = {f["name"]: f["status"] for f in found if f["section"] == "stages on cuda:0"}
    assert stages.items() >= {"open": "ok", "kernels": "ok", "decode": "ok", "encode": "ok"}.items()


@pytest.mark.parametrize(
    ("index", "setting", "value", "name", "words"),
    [
        ("0", "FAULT", "cuInit:1:999", "cuda:0", ["CUDA_ERROR_UNKNOWN (999)", "nvidia-modprobe"]),
        ("0", "FAULT", "cuInit:1:100", "cuda:0", ["CUDA_ERROR_NO_DEVICE", "nvidia-smi"]),
        (
            *("0", "FAULT", "cuDevicePrimaryCtxRetain:1:46", "cuda:0"),
            ["CUDA_ERROR_DEVICE_UNAVAILABLE", "end the program that holds"],
        ),
        ("0", "CUDA_VERSION", "12040", "CUDA", ["12.4, too old", "580"]),
        ("0", "CC", "70", "cuda:0", ["capability 7.0, too old", "Turing"]),
        ("2", "DEVICES", "2", "cuda:2", ["there is cuda:0, cuda:1", "choose"]),
    ],
)
def test_why_a_gpu_cannot_be_used(
    index: str, setting: str, value: str, name: str, words: list[str], simulated: str
) -> None:
    environ = {"PYTHONPATH": simulated, f"VIDAI_SIM_{setting}": value}
    (found,) = child.run(Job("GPU", "x", gpu.cuda, "mend it", (index,), environ))
    (told,) = (finding for finding in found if finding.name == name)
    assert told.status == "problem"
    for word in words:
        assert word in f"{told.value} {told.advice}"


# Stages that do not do what they should


class Liar(CpuDevice):
    """A device whose kernels, decoder, sessions and encoder do less than they say."""

    def launch(self, kernel: str, extent: tuple[int, int, int], *args: Any) -> None:
        super().launch(kernel, extent, *args)
        for array in args:
            if isinstance(array, np.ndarray) and array.ndim == 4:
                array[..., -1] += 2

    def decoder(self, stream: Any, info: StreamInfo, **_: Any) -> CpuDecoder:
        class Decoder(CpuDecoder):
            def decode(self, packet: Any) -> list[Frame]:
                return super().decode(packet)[:-1]

        return Decoder(self, stream, info)

    def session(self, model: bytes, *_: Any, **__: Any) -> OnnxSession:
        class Session(OnnxSession):
            def run(self, data: Any) -> list[Any]:
                return [output + 1 for output in super().run(data)]

        return Session(self, model)


class Dimmer(CpuDevice):
    """A device whose encoder loses the last frame."""

    def encoder(self, info: StreamInfo, settings: EncoderSettings) -> CpuEncoder:
        class Encoder(CpuEncoder):
            def encode(self, frame: Frame | None, pts: int | None = None) -> list[Any]:
                return super().encode(frame, pts)[:-1]

        return Encoder(info, settings)


@pytest.mark.parametrize(
    ("device", "stage", "error", "words"),
    [
        (Liar, smoke.kernels, KernelError, "wrong numbers, by up to 2"),
        (Liar, smoke.decode, DecodeError, "of 12 frames"),
        (Liar, smoke.model, ModelError, "wrong numbers"),
        (Dimmer, smoke.encode, EncodeError, "of 12 frames"),
    ],
)
def test_a_stage_that_gives_less_than_it_should_fails(
    device: type[CpuDevice],
    stage: Any,
    error: type[VidaiError],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smoke, "open_device", lambda name: device())
    with pytest.raises(error, match=words):
        list(stage("cpu"))


def test_what_a_stage_does_in_another_way_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noted(CpuDevice):
        def decoder(self, stream: Any, info: StreamInfo, **_: Any) -> CpuDecoder:
            decoder = super().decoder(stream, info)
            decoder.notes.append("decoded elsewhere")
            return decoder

    monkeypatch.setattr(smoke, "open_device", lambda name: Noted())
    (found,) = smoke.decode("cpu")
    assert found.status == "note"
    assert "decoded elsewhere" in found.value


def test_the_model_of_one_operation_is_valid() -> None:
    import onnx

    model = onnx.load_from_string(smoke._averaging_model())
    onnx.checker.check_model(model, full_check=True)
