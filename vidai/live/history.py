"""The events of earlier runs, so that a page tells of them after a restart."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from vidai.live.events import KEPT, Event


class History:
    """A file of JSON lines, an event in each; never more than twice KEPT of them.

    What cannot be written is not told: events are in the log, too, and go on without. Safe from
    any thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._lines = 0
        self._lock = threading.Lock()

    def read(self) -> list[Event]:
        """The last of them, oldest first."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        events = []
        for line in lines:
            with suppress(ValueError, TypeError):  # the power failed while it was written
                events.append(Event(**json.loads(line)))
        return sorted(events, key=lambda event: event.number)[-KEPT:]

    def add(self, event: Event) -> None:
        with self._lock, suppress(OSError):
            if self._file is None or self._lines >= 2 * KEPT:
                self._begin()
            assert self._file is not None
            self._file.write(_line(event))
            self._file.flush()
            self._lines += 1

    def _begin(self) -> None:
        """Anew, with the last of what there is."""
        self._close()
        kept = self.read()
        part = self._path.with_name(f"{self._path.name}.part")
        part.write_text("".join(map(_line, kept)), encoding="utf-8")
        os.replace(part, self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._lines = len(kept)

    def close(self) -> None:
        """Until the next event."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()


def _line(event: Event) -> str:
    return json.dumps(vars(event), separators=(",", ":"), default=str) + "\n"
