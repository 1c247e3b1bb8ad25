"""The packages of the extra `cuda`: which are here, in which version, and whether they import."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from vidai.doctor.finding import Finding

SECTION = "packages"
INSTALL = "pip install 'vidai[cuda]'"

# distribution: the module that shows whether it works.
WHEELS = {
    "cuda-core": "cuda.core",
    "cuda-bindings": "cuda.bindings.driver",
    "nvidia-cuda-nvrtc": "cuda.bindings.nvrtc",
    "pynvvideocodec": "PyNvVideoCodec",
    "tensorrt-cu13": "tensorrt",
    "cvcuda-cu13": "cvcuda",
    "nvidia-ml-py": "pynvml",
}
# These import only where the driver's libraries are.
NEED_DRIVER = ("pynvvideocodec", "tensorrt-cu13", "cvcuda-cu13")
# A run does without these: what they are for.
OPTIONAL = {"cvcuda-cu13": "resize, rotate, warp", "nvidia-ml-py": "the GPU's settings"}
# Pairs that put different files under one name.
_CONFLICTS = {
    "onnxruntime": "onnxruntime-gpu",
    "tensorrt-cu13": "tensorrt-cu12",
    "cvcuda-cu13": "cvcuda-cu12",
}


def installed() -> dict[str, str]:
    """Version by distribution, of those that are here."""
    return {name: found for name in WHEELS if (found := _version(name))}


def missing() -> Iterator[Finding]:
    gone = [name for name in WHEELS if not _version(name)]
    if needed := [name for name in gone if name not in OPTIONAL]:
        yield Finding(SECTION, "not installed", ", ".join(needed), "problem", INSTALL)
    for name in gone:
        if name in OPTIONAL:
            yield Finding(SECTION, name, f"not installed: for {OPTIONAL[name]}", "note", INSTALL)


def conflicts() -> Iterator[Finding]:
    for ours, theirs in _CONFLICTS.items():
        if _version(ours) and _version(theirs):
            value = f"it and {ours} overwrite each other's files"
            advice = f"pip uninstall -y {ours} {theirs}, then pip install {ours}"
            yield Finding(SECTION, theirs, value, "problem", advice)


def imports(name: str) -> Iterator[Finding]:
    """Whether the distribution's module imports. Meant for a process of its own."""
    module = importlib.import_module(WHEELS[name])
    if name == "nvidia-cuda-nvrtc":  # the module is cuda-bindings'; the library loads when used
        module.nvrtcVersion()
    yield Finding(SECTION, name, _version(name) or "")


def _version(name: str) -> str | None:
    try:
        return version(name) or "unknown version"
    except PackageNotFoundError:
        return None
