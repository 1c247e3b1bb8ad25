"""Builds the simulated driver's libraries with g++, once for each state of their sources."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "src"
KERNELS = ROOT / "kernels"
CACHE = ROOT / ".simdriver"

COMPILE = [
    *("g++", "-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-ftls-model=initial-exec", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations"),
]
INCLUDE = [f"-I{SOURCES}", f"-I{KERNELS}"]
# Sources of the other libraries begin with these names; the rest is libcuda.so.1.
VIDEO = {"libnvcuvid.so.1": "cuvid", "libnvidia-encode.so.1": "nvenc"}
CUDA = "libcuda.so.1"
LIBAV = ["-lavcodec", "-lavutil"]
HOST_KERNELS = "libkernels-sim.so"
LIBRARIES = [CUDA, *VIDEO, HOST_KERNELS]  # in the order in which they can be loaded


class Missing(Exception):
    """This machine lacks something that the build needs; the message says what to install."""


def build() -> Path:
    """The folder that holds the libraries, compiled unless an earlier call did.

    Raises Missing, and RuntimeError with g++'s words where the sources do not compile.
    """
    folder = CACHE / _digest()
    with _cache_lock():
        if not folder.exists():
            _check_tools()
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                done = Path(work) / "done"
                done.mkdir()
                _build_into(done, Path(work))
                done.rename(folder)
    return folder


def _digest() -> str:
    digest = hashlib.sha256(repr((COMPILE, LIBAV, platform.machine())).encode())
    for path in [Path(__file__), *sorted(SOURCES.iterdir()), *sorted(KERNELS.iterdir())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _cache_lock() -> Iterator[None]:
    """One process at a time; a second finds the first one's work done."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_tools() -> None:
    headers = ["libavcodec/avcodec.h", "libavutil/avutil.h"]
    probe = "".join(f"#include <{header}>\n" for header in headers)
    if shutil.which("g++"):
        command = ["g++", "-fsyntax-only", "-x", "c++", "-"]
        if subprocess.run(command, input=probe.encode(), capture_output=True).returncode == 0:
            return
    raise Missing(
        "the simulated driver is compiled with g++ and FFmpeg's headers, which are missing "
        "here: apt install g++ libavcodec-dev libavutil-dev"
    )


def _build_into(done: Path, work: Path) -> None:
    parts = _sources(work)
    # The longest first, so that both processors end at about the same time.
    sources = sorted(chain(*parts.values()), key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: _compile(path, work), sources))
    for library in LIBRARIES:
        if objects := [work / f"{path.stem}.o" for path in parts[library]]:
            _link(done, library, objects)


def _sources(work: Path) -> dict[str, list[Path]]:
    """What each library is compiled from; host builds of kernels get theirs in `work`."""
    parts: dict[str, list[Path]] = {library: [] for library in LIBRARIES}
    for path in sorted(SOURCES.glob("*.cpp")):
        library = (name for name, prefix in VIDEO.items() if path.name.startswith(prefix))
        parts[next(library, CUDA)].append(path)
    for path in sorted([*KERNELS.glob("*.cu"), *SOURCES.glob("*.cu")]):
        source = work / f"{path.stem}.cpp"
        source.write_text(host_kernels(path))
        parts[HOST_KERNELS].append(source)
    return parts


def host_kernels(path: Path) -> str:
    """C++ that compiles a .cu file's CUDA form and registers the kernels that it defines."""
    command = ["g++", "-std=c++17", "-E", "-P", "-D__CUDACC__", *INCLUDE, "-x", "c++", str(path)]
    text = _run(command)
    if "__syncthreads" in text or "__shared__" in text:
        raise RuntimeError(
            f"{path}: the simulated driver runs a block's threads one after another, so that "
            f"kernels cannot use __shared__ memory or __syncthreads"
        )
    kernels = re.findall(r"__global__\s+void\s+__launch_bounds__\((\d+)\)\s+(\w+)\s*\(", text)
    registrations = [f"SIM_KERNEL({name}, {threads})" for threads, name in kernels]
    return "\n".join(['#include "sim_kernel.h"', f'#include "{path}"', *registrations, ""])


def _compile(path: Path, work: Path) -> None:
    _run([*COMPILE, *INCLUDE, "-c", str(path), "-o", str(work / f"{path.stem}.o")])


def _link(done: Path, library: str, objects: list[Path]) -> None:
    needed = [] if library == CUDA else [str(done / CUDA), "-Wl,-rpath,$ORIGIN"]
    if library in VIDEO:
        needed += LIBAV
    command = ["g++", "-shared", "-Wl,--no-undefined", f"-Wl,-soname,{library}"]
    _run([*command, *map(str, objects), *needed, "-pthread", "-ldl", "-o", str(done / library)])


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout
