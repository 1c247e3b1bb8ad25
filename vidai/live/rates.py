"""Figures of the last seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

SECONDS = 5.0  # over which a rate is told
KEPT = 200  # latencies


class Rate:
    """How often something happened a second, over the last seconds. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._times: deque[float] = deque(maxlen=5000)
        self._lock = threading.Lock()

    def count(self) -> None:
        with self._lock:
            self._times.append(self._clock())
            self._forget()

    @property
    def per_second(self) -> float:
        with self._lock:
            self._forget()
            passed = min(SECONDS, self._clock() - self._began)
            return len(self._times) / passed if passed > 0 else 0.0

    def _forget(self) -> None:
        oldest = self._clock() - SECONDS
        while self._times and self._times[0] < oldest:
            self._times.popleft()


class Latencies:
    """The last of them, in s. Safe from any thread."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        with self._lock:
            self._last.append(seconds)

    def summary(self) -> dict[str, float]:
        """{"p50", "p95", "max"} in s; {} where there are none."""
        with self._lock:
            ordered = sorted(self._last)
        if not ordered:
            return {}
        return {
            "p50": ordered[len(ordered) // 2],
            "p95": ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))],
            "max": ordered[-1],
        }

    def clear(self) -> None:
        with self._lock:
            self._last.clear()


class Batches:
    """What the batches of the last seconds were like. Safe from any thread."""

    def __init__(self) -> None:
        self.fill = 0.0
        self._frames = 0
        self._busy = 0.0
        self._lock = threading.Lock()

    def count(self, size: int, seconds: float, max_batch: int) -> None:
        with self._lock:
            self._frames += size
            self._busy += seconds
            self.fill += 0.05 * (size / max_batch - self.fill)

    def take(self) -> tuple[int, float]:
        """Frames, and s that their batches took in sum, since this was last asked."""
        with self._lock:
            taken = self._frames, self._busy
            self._frames, self._busy = 0, 0.0
            return taken
