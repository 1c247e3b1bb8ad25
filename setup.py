"""Builds the CPU form of the kernels with g++; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("kernels")
FLAGS = [
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
# One library for each instruction set worth having; vidai.devices.cpu picks at load time,
# so that an environment built on one machine runs on another.
VARIANTS: dict[str, list[str]] = {"baseline": []}
if platform.machine() == "x86_64":
    VARIANTS["x86-64-v3"] = ["-march=x86-64-v3"]


class BuildKernels(build_ext):  # type: ignore[misc]  # setuptools has no types
    """Every kernels/*.cu and *.cpp in one shared library per variant, loaded with ctypes."""

    def get_ext_filename(self, name: str) -> str:
        package, _, variant = name.rpartition(".")
        return os.path.join(*package.split("."), f"libkernels-{variant}.so")

    def build_extension(self, extension: Extension) -> None:
        compiler = shlex.split(os.environ.get("CXX", "g++"))
        if shutil.which(compiler[0]) is None:
            raise SystemExit(
                f"vidai compiles its kernels when it is installed and found no C++ compiler "
                f"({compiler[0]}): install one with `apt install g++` (Debian, Ubuntu) or "
                f"`dnf install gcc-c++` (Fedora), then install vidai again."
            )
        out = Path(self.get_ext_fullpath(extension.name))
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [*compiler, *FLAGS, *extension.extra_compile_args, "-x", "c++"]
        if subprocess.run([*command, *extension.sources, "-o", str(out)]).returncode:
            raise SystemExit(
                f"{compiler[0]} could not compile vidai's kernels: its words are above"
            )


setup(
    ext_modules=[
        Extension(
            f"vidai.{variant}",
            sources=sorted(str(p) for p in KERNELS.iterdir() if p.suffix in {".cu", ".cpp"}),
            depends=[str(p) for p in KERNELS.glob("*.h")],
            extra_compile_args=flags,
        )
        for variant, flags in VARIANTS.items()
    ],
    cmdclass={"build_ext": BuildKernels},
)
