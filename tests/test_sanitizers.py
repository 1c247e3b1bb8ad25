"""The kernels' own tests again, under AddressSanitizer and UndefinedBehaviorSanitizer.

Planes in these tests end where their memory does, so one sample read too far is seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builds import build

ROOT = Path(__file__).parents[1]
TESTS = {  # only these kernels have two forms
    "gpu": ["letterbox", "rgb"],
    "host": ["letterbox", "rgb", "yuv", "candidates", "nms", "overlay", "redact"],
}

RUN = """
import sys
from pathlib import Path
from vidai.native import load_kernels
load_kernels.__wrapped__.__defaults__ = (Path(sys.argv[1]).parent,)
assert load_kernels()._name == sys.argv[1]
"""
# Nothing is compiled in there: the tests that compare two forms get the same one twice.
RUN_TESTS = (
    RUN
    + """
import pytest, tests.builds
from vidai.devices.cpu import CpuDevice
tests.builds.gpu_form = CpuDevice
sys.exit(pytest.main(["-p", "no:cacheprovider", "-x", "-k", sys.argv[2], *sys.argv[3:]]))
"""
)
OVERREAD = (
    RUN
    + """
from dataclasses import replace
from tests.surfaces import random_frame
frame = random_frame(64, 48)
frame = replace(frame, surface=replace(frame.surface, height=49))
frame = replace(frame, info=replace(frame.info, height=49))
from vidai.ops.rgb import rgb
rgb(frame)
"""
)


def sanitized(library: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-c", script, str(library), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.fixture(scope="module", params=["host", "gpu"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("sanitized") / request.param / "libkernels-baseline.so"
    path.parent.mkdir()
    flags = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    try:
        if request.param == "gpu":
            build(path, *flags, "-DVIDAI_DEVICE_FORM", names=TESTS["gpu"])
        else:
            build(path, *flags)
        assert sanitized(path, RUN).returncode == 0
    except (subprocess.CalledProcessError, AssertionError):
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("g++ has no working sanitizers here (package libasan)")
    return path


def test_the_sanitizer_sees_a_read_past_a_plane(library: Path) -> None:
    run = sanitized(library, OVERREAD)
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr


def test_the_kernels_tests_run_clean(library: Path) -> None:
    chosen = "not every_scale and not any_ and not keeps"  # the slowest ones
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in TESTS[library.parent.name]]
    run = sanitized(library, RUN_TESTS, chosen, *files)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
