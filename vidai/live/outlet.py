"""An output's own thread, and the bounded queue before it: a slow one costs its stream nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from vidai.batcher import daemon
from vidai.errors import sentence
from vidai.live.events import Event
from vidai.live.output import Media, Output, OutputStatus, Record, Sample

MOST_BYTES = 32 << 20  # that may wait for an output
MOST_ITEMS = 3000
SLOW = "output too slow"
CLOSED = "output closed"
SAME_ERROR = 60.0  # s before an error is told again, if it is the same
MOST_ERRORS = 5  # different ones that are told within that time


class _End(NamedTuple):
    """The samples of a Media have ended."""


Item = Media | Sample | _End | Record | Event


class Outlet:
    """Gives an output what is for it, in its own thread, and drops what it is too slow for.

    A video goes on with a keyframe after that; what is left out until then is lost too. What the
    output raises is told once as an event, and again when it is another error or a minute has
    passed. All but `close` returns at once, and may be called from any thread.
    """

    def __init__(self, kind: str, output: Output, emit: Callable[..., Event]) -> None:
        self.kind = kind
        self.output = output
        self._emit = emit
        self._counted = Sample if output.pictures else Record
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._lost: Counter[str] = Counter()
        self._accepted = 0  # the most that `status` told
        self._begun = False  # by a keyframe
        self._cut = False  # by a loss, until a keyframe
        self._closing = self._closed = False
        self._told: dict[str, float] = {}  # errors of the last minute
        self._changed = threading.Condition()
        self._thread = daemon(f"vidai-{kind}", self._serve)

    def begin(self, media: Media) -> None:
        with self._changed:
            self._begun = self._cut = False
            self._put(media)

    def end(self) -> None:
        with self._changed:
            self._begun = self._cut = False
            if not self._withdraw():
                self._put(_End())

    def record(self, record: Record) -> None:
        with self._changed:
            self._put_or_lose(record)

    def event(self, event: Event) -> None:
        with self._changed:
            self._put_or_lose(event)

    def sample(self, sample: Sample) -> None:
        """Begins with a keyframe; so does all after something was dropped."""
        with self._changed:
            if sample.kind == "video" and sample.is_keyframe:
                self._begun, self._cut = True, False
            if self._cut:
                self._lose(sample)
            elif self._begun:
                self._cut = not self._put_or_lose(sample)

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
        status = replace(self.output.status(), kind=self.kind)
        with self._changed:
            waiting = sum(isinstance(item, self._counted) for item in self._queue)
            status.waiting_bytes += self._bytes
            status.lost = status.lost + self._lost
            status.accepted += waiting + self._lost.total()
            # One that was just taken may be in neither count; what is told never falls.
            between = max(0, self._accepted - status.accepted)
            self._accepted = status.accepted = status.accepted + between
        status.waiting += waiting + between
        return status

    # What follows needs the lock.

    def _put_or_lose(self, item: Sample | Record | Event) -> bool:
        if self._closed or self._bytes > MOST_BYTES or len(self._queue) > MOST_ITEMS:
            self._lose(item)
            return False
        self._put(item)
        return True

    def _put(self, item: Item) -> None:
        if not self._closed:
            self._queue.append(item)
            self._bytes += _size(item)
            self._changed.notify()

    def _lose(self, item: Item) -> None:
        if isinstance(item, self._counted):
            self._lost[CLOSED if self._closed else SLOW] += 1

    def _withdraw(self) -> bool:
        """Take back a Media of which no sample came, or they would pile up before an output that
        hangs, one for every connection; whether there was one."""
        for index in reversed(range(len(self._queue))):
            item = self._queue[index]
            if isinstance(item, Media):
                del self._queue[index]
                return True
            if isinstance(item, (Sample, _End)):
                break
        return False

    # The output's thread.

    def _serve(self) -> None:
        ticked = time.time()
        while not self._closed:
            with self._changed:
                if not self._queue and not self._closing:
                    self._changed.wait(1.0)
                item = self._queue.popleft() if self._queue else None
                self._bytes -= _size(item)
                self._closed = item is None and self._closing
            if item is not None:
                self._try(self._give, item)
            del item  # else the last picture's memory stays until the next
            if not self._closed and ((now := time.time()) - ticked >= 1.0 or now < ticked):
                ticked = now
                self._try(self.output.tick, now)
        self._try(self.output.close)

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
        except BaseException as error:  # one of a program's own function must not end this thread
            self._tell(sentence(error))

    def _tell(self, error: str) -> None:
        now = time.monotonic()
        self._told = {text: at for text, at in self._told.items() if now - at < SAME_ERROR}
        if error not in self._told and len(self._told) < MOST_ERRORS:
            self._told[error] = now
            self._emit("output-failed", f"{self.kind}: {error}")


def _size(item: Item | None) -> int:
    return item.packet.size if isinstance(item, Sample) else 0
