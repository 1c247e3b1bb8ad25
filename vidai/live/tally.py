"""The counts of an output, taken in its thread and read in any."""

from __future__ import annotations

import threading
from collections import Counter

from vidai.live.output import OutputStatus


class Tally:
    """accepted = delivered + waiting + lost at any moment that `status` sees.

    state, waiting_bytes: as in OutputStatus, set by the output.
    """

    def __init__(self, kind: str, detail: str, state: str = "ok") -> None:
        self.state = state
        self.waiting_bytes = 0
        self._kind, self._detail = kind, detail
        self._accepted = self._delivered = 0
        self._lost: Counter[str] = Counter()
        self._lock = threading.Lock()

    def accept(self) -> None:
        with self._lock:
            self._accepted += 1

    def deliver(self, count: int = 1) -> None:
        with self._lock:
            self._delivered += count

    def lose(self, reason: str, count: int = 1) -> None:
        if count:
            with self._lock:
                self._lost[reason] += count

    def lose_the_rest(self, reason: str) -> None:
        """All that was accepted and not delivered: nothing more becomes of it."""
        with self._lock:
            rest = self._accepted - self._delivered - self._lost.total()
            if rest:
                self._lost[reason] += rest

    def status(self) -> OutputStatus:
        with self._lock:
            return OutputStatus(
                kind=self._kind,
                detail=self._detail,
                state=self.state,
                accepted=self._accepted,
                delivered=self._delivered,
                waiting=self._accepted - self._delivered - self._lost.total(),
                waiting_bytes=self.waiting_bytes,
                lost=Counter(self._lost),
            )
