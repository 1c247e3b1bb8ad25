"""The kernels compiled for this processor."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from vidai.errors import KernelError


@cache
def load_kernels(folder: Path = Path(__file__).parent) -> ctypes.CDLL:
    """The kernels' shared library, in the best variant that this processor runs.

    Raises KernelError where it was not built or does not load.
    """
    baseline = folder / "libkernels-baseline.so"
    try:
        library = ctypes.CDLL(str(baseline))
    except OSError as error:
        raise KernelError(
            f"the compiled kernels are missing or unusable ({error}): install g++ and "
            f"install vidai again"
        ) from error
    better = folder / "libkernels-x86-64-v3.so"
    if better.exists() and library.runs_x86_64_v3():
        return ctypes.CDLL(str(better))
    return library
