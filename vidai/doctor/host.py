"""This machine without its GPU. Meant for a process of its own, as packages may be broken."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from vidai.doctor.finding import Finding
from vidai.errors import KernelError
from vidai.native import load_kernels

SECTION = "vidai"
_VARIANTS = {
    "libkernels-x86-64-v3.so": "for AVX2 (x86-64-v3)",
    "libkernels-baseline.so": "baseline",
}


def look() -> Iterator[Finding]:
    yield Finding(SECTION, "vidai", f"{version('vidai')} in {Path(__file__).parents[1]}")
    yield Finding(SECTION, "Python", f"{platform.python_version()}, {sys.executable}")
    yield _system()
    yield Finding(SECTION, "processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores")
    yield _kernels()
    import onnxruntime

    yield Finding(SECTION, "ONNX Runtime", str(onnxruntime.__version__))
    yield _encoders()


def _system() -> Finding:
    name = platform.system()
    with suppress(OSError):
        name = platform.freedesktop_os_release().get("PRETTY_NAME", name)
    return Finding(SECTION, "system", f"{name}, kernel {platform.release()}, {platform.machine()}")


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _kernels() -> Finding:
    try:
        file = Path(load_kernels()._name).name
    except KernelError as error:
        advice = "install g++ and install vidai again"
        return Finding(SECTION, "kernels", str(error), "problem", advice)
    return Finding(SECTION, "kernels", _VARIANTS.get(file, file))


def _encoders() -> Finding:
    """What the CPU can encode with. A build of PyAV of one's own may lack some."""
    import av
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    from vidai.devices.cpu.codecs import CODECS

    here, missing = [], []
    for name, codec in CODECS.items():
        try:
            Codec(codec.name, "w")
            here.append(f"{name} ({codec.name})")
        except UnknownCodecError:
            missing.append(f"{name} ({codec.name})")
    value = f"{', '.join(here) or 'none'}; FFmpeg {av.ffmpeg_version_info}, PyAV {av.__version__}"
    if not missing:
        return Finding(SECTION, "encoders", value)
    advice = (
        f"for {', '.join(missing)} install PyAV's own wheel: "
        f"pip install --force-reinstall --only-binary av av"
    )
    return Finding(SECTION, "encoders", value, "note", advice)
