"""Kernels built in other ways than the installed library."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from vidai.devices.cpu import CpuDevice

KERNELS = Path(__file__).parents[1] / "kernels"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
FLAGS = ["-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", *WARNINGS, "-x", "c++"]


def build(library: Path, *flags: str, names: list[str] | None = None) -> None:
    """Compile the kernels of these names, or every file, with g++ into a shared library."""
    sources = (
        [KERNELS / f"{name}.cu" for name in names]
        if names
        else sorted(path for path in KERNELS.iterdir() if path.suffix in {".cu", ".cpp"})
    )
    subprocess.run(["g++", *FLAGS, *flags, *map(str, sources), "-o", str(library)], check=True)


@cache
def gpu_form() -> CpuDevice:
    """A CPU device that runs, one pixel after another, what a GPU runs side by side."""
    with TemporaryDirectory() as folder:
        library = Path(folder) / "gpu_form.so"
        build(
            library, "-O1", "-DVIDAI_DEVICE_FORM", names=["letterbox", "overlay", "redact", "rgb"]
        )
        device = CpuDevice()
        device.library = ctypes.CDLL(str(library))
        return device


def int8_saturates() -> bool:
    """Whether this CPU adds products of 8 bits in 16, as x86 without VNNI does: ONNX Runtime's
    INT8 then computes something else than the file says."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx2" in flags and "vnni" not in flags
