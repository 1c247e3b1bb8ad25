"""What happened, in order, for logs, pages and outputs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

KEPT = 1000  # events that are remembered


@dataclass(frozen=True)
class Event:
    """kind: a word ("connected", "lost", "rate", "rule", "clip", …). text: a sentence without
    passwords. stream: its name, None for the worker itself. time: s since 1970. number: rises by
    one. data: more, JSON-ready."""

    number: int
    time: float
    kind: str
    text: str
    stream: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Events:
    """The last events, and who wants to hear of new ones. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._next = 1
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._listeners: list[Callable[[Event], None]] = []
        self._lock = threading.Lock()

    def restore(self, earlier: Sequence[Event]) -> None:
        """Begin with these, of a run before, and count on from there. Nobody is told of them."""
        with self._lock:
            self._kept.extend(earlier)
            self._next = max((event.number for event in earlier), default=0) + 1

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call it with every event from now on, in the thread that tells of it."""
        self._listeners.append(listener)

    def emit(self, kind: str, text: str, stream: str | None = None, **data: Any) -> Event:
        with self._lock:
            event = Event(self._next, self._clock(), kind, text, stream, data)
            self._next += 1
            self._kept.append(event)
        for listener in self._listeners:
            listener(event)
        return event

    def since(self, number: int = 0) -> list[Event]:
        """The kept events after that number, oldest first."""
        with self._lock:
            return [event for event in self._kept if event.number > number]
