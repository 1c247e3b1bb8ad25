"""An output's own thread, and the bounded queue before it: a slow one costs its stream nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from vidai.batcher import daemon
from vidai.errors import VidaiError
from vidai.live.events import Event
from vidai.live.output import Media, Output, OutputStatus, Record, Sample

MOST_BYTES = 32 << 20  # that may wait for an output
MOST_ITEMS = 3000
SLOW = "output too slow"
SAME_ERROR = 60.0  # s before an error is told again, if it is the same


class _End(NamedTuple):
    """The samples of a Media have ended."""


Item = Media | Sample | _End | Record | Event


class Outlet:
    """Gives an output what is for it, in its own thread, and drops what it is too slow for.

    A video goes on with a keyframe after that. What the output raises is told once as an event,
    and again when it is another error or a minute has passed.
    """

    def __init__(self, kind: str, output: Output, emit: Callable[..., Event]) -> None:
        self.kind = kind
        self.output = output
        self._emit = emit
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._lost = 0
        self._broken = True  # until a keyframe
        self._closing = False
        self._told = ("", 0.0)
        self._changed = threading.Condition()
        self._thread = daemon(f"vidai-{kind}", self._serve)

    def begin(self, media: Media) -> None:
        self._put(media)
        self._broken = True

    def end(self) -> None:
        self._put(_End())

    def record(self, record: Record) -> None:
        self._put_or_lose(record)

    def event(self, event: Event) -> None:
        self._put_or_lose(event)

    def sample(self, sample: Sample) -> None:
        """Begins with a keyframe; so does all after something was dropped."""
        if self._broken and not (sample.kind == "video" and sample.is_keyframe):
            return
        self._broken = not self._put_or_lose(sample)

    def close(self, timeout: float) -> bool:
        """What waits is written, then the output is closed; whether that was done in time."""
        self.ask_to_close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def ask_to_close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()

    def status(self) -> OutputStatus:
        """The output's, with what waits before it."""
        status = self.output.status()
        lost = self._lost
        with self._changed:
            wanted = Sample if self.output.pictures else Record
            waiting = sum(isinstance(item, wanted) for item in self._queue)
            status.waiting_bytes += self._bytes
        status.kind = self.kind
        status.accepted += waiting + lost
        status.waiting += waiting
        status.lost = Counter(status.lost)
        if lost:
            status.lost[SLOW] += lost
        return status

    def _put_or_lose(self, item: Sample | Record | Event) -> bool:
        if self._bytes > MOST_BYTES or len(self._queue) > MOST_ITEMS:
            self._lost += not isinstance(item, Event)
            return False
        self._put(item)
        return True

    def _put(self, item: Item) -> None:
        with self._changed:
            self._queue.append(item)
            self._bytes += _size(item)
            self._changed.notify()

    def _serve(self) -> None:
        ticked = time.time()
        while True:
            with self._changed:
                if not self._queue and not self._closing:
                    self._changed.wait(1.0)
                item = self._queue.popleft() if self._queue else None
                self._bytes -= _size(item)
                finished = item is None and self._closing
            if item is not None:
                self._try(self._give, item)
            if finished:
                self._try(self.output.close)
                return
            if (now := time.time()) - ticked >= 1.0 or now < ticked:
                ticked = now
                self._try(self.output.tick, now)

    def _give(self, item: Item) -> None:
        output = self.output
        if isinstance(item, Sample):
            output.sample(item)
        elif isinstance(item, Record):
            output.record(item)
        elif isinstance(item, Event):
            output.event(item)
        elif isinstance(item, Media):
            output.begin(item)
        else:
            output.end()

    def _try(self, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception as error:
            told = (
                str(error) if isinstance(error, VidaiError) else f"{type(error).__name__}: {error}"
            )
            before, when = self._told
            if told != before or time.monotonic() - when > SAME_ERROR:
                self._told = told, time.monotonic()
                self._emit("output-failed", f"{self.kind}: {told}")


def _size(item: Item | None) -> int:
    return item.packet.size if isinstance(item, Sample) else 0
