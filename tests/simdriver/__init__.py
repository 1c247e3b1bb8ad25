"""A simulated NVIDIA driver: CUDA, NVDEC and NVENC on host memory, for tests without a GPU.

`load` comes before the first import of an NVIDIA package in a process. Then the unmodified
packages find these libraries in the driver's place, and the other functions here look inside.
See src/sim.h for what the simulation promises.
"""

from __future__ import annotations

import ctypes
import json
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.simdriver.build import LIBRARIES, Missing
from tests.simdriver.build import build as build_libraries

__all__ = [
    "Missing",
    "calls",
    "copies",
    "counters",
    "encoded_pictures",
    "fault",
    "live",
    "load",
    "read",
    "reset",
    "wait",
    "write",
]

_loaded: list[ctypes.CDLL] = []  # libcuda.so.1 first


def load(**settings: int | str) -> None:
    """Build the libraries, set VIDAI_SIM_<SETTING> for each setting, load them.

    Among them: mem_mb (2048), devices (1), cc (89), cuda_version (13000), strict (1), deferred
    (0), idle (0), poison (1: new memory is filled), trace (1: to stderr, or a file), fault. They
    are read when a library is loaded, so a process loads the driver once.

    Raises Missing where it cannot be built, and RuntimeError where a driver is loaded already.
    """
    if driver := _loaded_driver():
        raise RuntimeError(
            f"{driver} is loaded already: load the simulated driver once, before any NVIDIA "
            f"package is imported"
        )
    folder = build_libraries()
    for name, value in settings.items():
        environ[f"VIDAI_SIM_{name.upper()}"] = str(int(value) if isinstance(value, bool) else value)
    # A later dlopen("libcuda.so.1") finds the loaded library by its name. RTLD_LOCAL, since
    # PyNvVideoCodec brings a libavutil of its own, which must not bind to the one used here.
    for name in LIBRARIES:
        if (folder / name).exists():
            _loaded.append(ctypes.CDLL(str(folder / name), ctypes.RTLD_LOCAL))
    _loaded[0].sim_dump.restype = ctypes.c_size_t
    _encoder().sim_nvenc_inputs.restype = ctypes.c_size_t


def _loaded_driver() -> str | None:
    """The path of a libcuda.so in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if Path(path := line.split(maxsplit=5)[-1]).name.startswith("libcuda.so"):
            return path
    return None


def _driver() -> ctypes.CDLL:
    if not _loaded:
        raise RuntimeError("the simulated driver is not loaded: call load() first")
    return _loaded[0]


def _encoder() -> ctypes.CDLL:
    return _loaded[LIBRARIES.index("libnvidia-encode.so.1")]


def _dump() -> dict[str, Any]:
    room = _driver().sim_dump(None, ctypes.c_size_t(0)) + 4096  # others may count meanwhile
    buffer = ctypes.create_string_buffer(room)
    _driver().sim_dump(buffer, ctypes.c_size_t(room))
    dump: dict[str, Any] = json.loads(buffer.value)
    return dump


def counters() -> dict[str, int]:
    """Every counter that is not 0, and what is there now (`memory.live`, `events.live`, …)."""
    numbers: dict[str, int] = _dump()["counters"]
    return numbers


def calls() -> dict[str, int]:
    """Calls of each entry point, by its exported name, and of each kernel, as launch.NAME."""
    numbers: dict[str, int] = _dump()["calls"]
    return numbers


def copies() -> list[tuple[str, int, int, str]]:
    """Every copy in order: kind (h2d, d2h, d2d, h2h), bytes of a row, rows, entry point."""
    return [tuple(copy) for copy in _dump()["copies"]]


def live() -> list[tuple[int, int, str]]:
    """Live allocations of device memory: address, bytes, what allocated it."""
    return [tuple(block) for block in _dump()["live"]]


def reset() -> None:
    """Forget counts, copies, encoded pictures and faults; memory.peak begins anew."""
    _driver().sim_reset()
    _encoder().sim_nvenc_forget()


def encoded_pictures() -> list[tuple[int, int, int, int, str, int]]:
    """What NVENC was given, where the setting keep_input is 1: session (0, 1 … as they were
    opened), index, width, height, format, and the CRC-32 of its rows, luma first."""
    room = _encoder().sim_nvenc_inputs(None, ctypes.c_size_t(0)) + 65536
    buffer = ctypes.create_string_buffer(room)
    _encoder().sim_nvenc_inputs(buffer, ctypes.c_size_t(room))
    return [tuple(json.loads(line)) for line in buffer.value.splitlines()]


def fault(rules: str) -> None:
    """Make calls fail: "function:nth:code[:times],…", nth counted from now; "" ends all faults.

    function is an exported name (cuMemAlloc_v2) or launch.KERNEL, code what it then returns.
    Raises ValueError for a malformed rule or an unknown entry point.
    """
    if not _driver().sim_fault(rules.encode()):
        raise ValueError(f"not function:nth:code[:times] of a known function: {rules!r}")


def read(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A copy of what lies in device memory now, queued work not waited for; not counted.

    Raises ValueError if it is not within one live allocation.
    """
    array = np.empty(shape, dtype)
    room = ctypes.c_size_t(array.nbytes)
    if not _driver().sim_read(ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), room):
        raise ValueError(f"{array.nbytes} bytes at {address:#x} are not in one live allocation")
    return array


def write(stream_handle: int, address: int, array: npt.NDArray[Any]) -> None:
    """Write to device memory in the order of a stream; not counted.

    Raises ValueError if it is not within one live allocation, or there is no such stream.
    """
    packed = np.ascontiguousarray(array)
    where = ctypes.c_void_p(stream_handle), ctypes.c_uint64(address)
    what = ctypes.c_void_p(packed.ctypes.data), ctypes.c_size_t(packed.nbytes)
    if not _driver().sim_write(*where, *what):
        raise ValueError(f"cannot write {packed.nbytes} bytes to {address:#x}")


def wait(stream_handle: int) -> None:
    """Run what is queued in a stream, and what that waits for; not counted."""
    _driver().sim_wait(ctypes.c_void_p(stream_handle))
