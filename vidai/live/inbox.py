"""Decoded frames on their way from a stream's reader to the thread that goes on with them."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from vidai.live.output import Media
from vidai.types import Frame

NEWEST_AGE = 0.25  # s by which frames may lie behind the newest where the newest wins
NEWEST_COUNT = 8  # of them: a burst of the network


class Arrived(NamedTuple):
    """A frame and when its packet came: s of time.monotonic. decoded: the s that it took. media:
    the connection that it came by."""

    frame: Frame
    arrived: float
    decoded: float
    media: Media


class Inbox:
    """Bounded. Where it is full, the oldest frame is dropped ("newest"), or the reader waits
    ("every"), which holds the camera back: at most `max_delay` s of frames lie here."""

    def __init__(self, *, newest: bool, max_delay: float) -> None:
        self._newest = newest
        self._age = NEWEST_AGE if newest else max_delay
        self._waiting: deque[Arrived] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, arrived: Arrived) -> int:
        """How many frames were dropped for it."""
        dropped = 0
        with self._changed:
            while self._full(arrived) and not self._closed:
                if self._newest:
                    self._waiting.popleft()
                    dropped += 1
                else:
                    self._changed.wait()
            self._waiting.append(arrived)
            self._changed.notify_all()
        return dropped

    def _full(self, arrived: Arrived) -> bool:
        if not self._waiting:
            return False
        age = arrived.arrived - self._waiting[0].arrived
        return age > self._age or (self._newest and len(self._waiting) >= NEWEST_COUNT)

    def get(self) -> Arrived | None:
        """The oldest, waited for; None once it is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            first = self._waiting.popleft()
            self._changed.notify_all()
            return first

    def close(self) -> None:
        """What is in it can still be got; nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
