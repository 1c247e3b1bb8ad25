"""What glibc keeps of the memory that is given back to it."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD = -3  # of mallopt(3)
LARGE = 1 << 16  # bytes: encoders, frames in transit, packets of keyframes


def give_back_large() -> None:
    """Have large pieces go back to the system as soon as they are free.

    By default glibc learns to keep them, in an arena for each of many threads, where what comes
    and goes with connections and encoders leaves holes: memory grows for hours before it levels
    off. Elsewhere than on glibc this does nothing.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
