"""Ends the waiting of PyAV for a network, from outside.

PyAV asks `time.monotonic` again and again while FFmpeg waits (at least ten times a second), and
interrupts it when its timeout has passed; it has no other way to stop. So this is where a thread
that wants it to stop is heard: for it alone, the clock that PyAV reads runs away.

It is also where a thread is slowed that gets nowhere: FFmpeg asks after each byte when it looks
for RTSP in what is not, and each time needs the interpreter's lock, which others wait for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import av.container.core

LEAP = 1e9  # s, beyond any timeout
PATIENCE = 50_000  # questions of one wait that are answered at once: a keyframe of 4 MB has fewer
STEP, PAUSE = 25, 0.001  # from there on it has to pause (s) after so many of them


class _Clock:
    """The module `time`, as PyAV sees it."""

    def __init__(self) -> None:
        self.local = threading.local()

    def monotonic(self) -> float:
        waiting: Waiting | None = getattr(self.local, "waiting", None)
        return time.monotonic() if waiting is None else waiting.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_clock = _Clock()
av.container.core.time = _clock  # type: ignore[attr-defined]


class Waiting:
    """While this context lasts, what PyAV waits for in this thread is interrupted as soon as
    `over` is true; it takes up to 0.1 s. Only where av.open was given a timeout.

    PyAV raises then, often something else than ExitError, or gives a last packet: ask `ended`.
    """

    def __init__(self, over: Callable[[], bool]) -> None:
        self._over = over
        self._leaps = 0
        self._asked = 0
        self.ended = False

    def is_over(self) -> bool:
        self.ended = self.ended or self._over()
        return self.ended

    def monotonic(self) -> float:
        self._asked += 1
        if self._asked > PATIENCE and self._asked % STEP == 0:
            time.sleep(PAUSE)
        if not self.is_over():
            return time.monotonic()
        self._leaps += 1  # each time anew: PyAV takes both begin and end of its wait from here
        return time.monotonic() + self._leaps * LEAP

    def __enter__(self) -> Waiting:
        _clock.local.waiting = self
        self._asked = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _clock.local.waiting = None


def is_over() -> bool:
    """Whether what this thread waits for is to end: for what waits without FFmpeg."""
    waiting: Waiting | None = getattr(_clock.local, "waiting", None)
    return waiting is not None and waiting.is_over()
