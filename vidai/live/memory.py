"""Memory of a process that works for months."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
LARGE = 1 << 16  # bytes: encoders, frames in transit, packets of keyframes
KEPT = 1 << 17  # free bytes at the end of an arena
ARENAS = 2


def give_back_large() -> None:
    """Have large pieces of memory go back to the system as soon as they are free.

    By default glibc learns to keep them, in an arena for each of many threads, where what comes
    and goes with connections and encoders leaves holes: memory grows for hours before it levels
    off. Elsewhere than on glibc this does nothing.
    """
    with suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(M_MMAP_THRESHOLD, LARGE)
        set_option(M_TRIM_THRESHOLD, KEPT)
        set_option(M_ARENA_MAX, ARENAS)


def keep_for_good() -> None:
    """What is there now stays: `collect` need not look at it, and takes a millisecond."""
    gc.collect()
    gc.freeze()


def collect() -> None:
    """Let go of what ended with a connection. PyAV's streams and their containers refer to each
    other, so codecs, of megabytes each, live until someone looks for such circles."""
    gc.collect()
