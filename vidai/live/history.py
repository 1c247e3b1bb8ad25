"""The events of earlier runs, so that a page tells of them after a restart."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from vidai.batcher import daemon
from vidai.live.events import KEPT, Event

EVENT = TypeAdapter(Event)
CLOSE = 1.0  # s to write what waits


class History:
    """A file of JSON lines, an event in each; never more than twice KEPT of them.

    Written by a thread of its own between `open` and `close`, since a disk may hang. What cannot
    be written is not told: events are in the log, too, and go on without. `add` may be called from
    any thread, and does not wait.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[Event] = deque()
        self._closed = True
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def read(self) -> list[Event]:
        """The last of them, oldest first."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return []
        events = []
        for line in lines:
            with suppress(ValidationError):  # the power failed while it was written
                events.append(EVENT.validate_json(line))
        return sorted(events, key=lambda event: event.number)[-KEPT:]

    def open(self) -> None:
        self._closed = False
        self._thread = daemon("vidai-history", self._serve)

    def add(self, event: Event) -> None:
        with self._changed:
            if not self._closed and len(self._waiting) < KEPT:
                self._waiting.append(event)
                self._changed.notify()

    def close(self) -> None:
        """Events that come later are not kept: the folder may be another's then."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE)

    def _next(self) -> Event | None:
        """Waited for; None after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popleft() if self._waiting else None

    def _serve(self) -> None:
        while True:
            with suppress(OSError):
                kept = self.read()
                self._write(kept)
                with self._path.open("a", encoding="utf-8") as file:
                    for _ in range(2 * KEPT - len(kept)):
                        if (event := self._next()) is None:
                            return
                        file.write(_line(event))
                        file.flush()
                continue
            if self._next() is None:  # is lost, and the disk may take the next
                return

    def _write(self, events: Iterable[Event]) -> None:
        part = self._path.with_name(f"{self._path.name}.part")
        part.write_text("".join(map(_line, events)), encoding="utf-8")
        os.replace(part, self._path)


def _line(event: Event) -> str:
    return json.dumps(vars(event), separators=(",", ":"), default=str) + "\n"
