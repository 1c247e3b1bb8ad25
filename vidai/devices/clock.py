"""Presentation times as an encoder needs them."""

from __future__ import annotations


class Clock:
    """Makes pts that only go forward. moved: how many did not come after the one before."""

    def __init__(self) -> None:
        self.moved = 0
        self._last: int | None = None

    def next(self, pts: int) -> int:
        """The pts itself, or the tick after the last one."""
        if self._last is not None and pts <= self._last:
            self.moved += 1
            pts = self._last + 1
        self._last = pts
        return pts
