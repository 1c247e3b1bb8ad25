"""A stream's frames on their way through its follower, past a gatherer that answers by hand."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, cast

import av
import pytest

from tests.surfaces import random_frame
from vidai.device import EncoderSettings
from vidai.errors import ModelError
from vidai.live.annotated import Annotated
from vidai.live.follower import Follower, Shared
from vidai.live.gatherer import Found, Pending
from vidai.live.inbox import Arrived, Inbox
from vidai.live.metrics import Metrics
from vidai.live.output import Media, Record
from vidai.live.status import StreamStatus
from vidai.types import Detections, Frame

PATIENCE = 30.0  # s until what must happen counts as never happening
NOTHING = Found(Detections.empty(()), 0.0, 0.0)


@cache
def picture() -> Frame:
    return random_frame(32, 32)  # 25 of them are a second


@cache
def connection() -> Media:
    with av.open(io.BytesIO(), "w", format="matroska") as home:
        return Media(picture().info, home.add_stream("mpeg4", rate=25))


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


class ByHand:
    """In the place of a Gatherer. asked: the frames that came, in order."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._pending: list[Pending] = []

    def submit(self, frame: Frame) -> Pending:
        self._pending.append(Pending(frame, 0.0))
        self.asked.append(frame.index)
        return self._pending[-1]

    def answer(self, frame: int, outcome: Found | Exception = NOTHING) -> None:
        self._pending[self.asked.index(frame)].settle(outcome)


class Told(list[int]):
    """In the place of an Outlet: the frames of the records that it was given."""

    def record(self, record: Record) -> None:
        self.append(record.frame)


class Followed:
    """A follower, and what it does."""

    def __init__(self, workers: int) -> None:
        self.told = Told()
        self.events: list[str] = []
        self.status = StreamStatus("door", "rtsp://door")
        self.gatherer = ByHand()
        self._inbox = Inbox(newest=False, max_delay=1.0)
        nothing = cast("Any", None)
        shared = Shared(
            device=nothing,
            workers=workers,
            gatherer=cast("Any", self.gatherer),
            names=(),
            metrics=Metrics(nothing),
            events=nothing,
            tracer=None,
        )
        self.follower = Follower(
            shared,
            self.status,
            self._inbox,
            tracker=None,
            rules=None,
            annotated=Annotated(nothing, [], EncoderSettings(), []),
            outlets=[cast("Any", self.told)],
            emit=cast("Any", lambda kind, text: self.events.append(text)),
        )

    def put(self, *frames: int) -> None:
        for frame in frames:
            numbered = replace(picture(), index=frame, pts=frame)
            assert self._inbox.put(Arrived(numbered, 0.0, 0.0, connection())) == 0

    def end(self) -> None:
        """All that was asked about is answered, and all goes through."""
        self._inbox.close()
        for frame in self.gatherer.asked:
            self.gatherer.answer(frame)
        assert self.follower.join(PATIENCE)


@contextmanager
def following(workers: int) -> Iterator[Followed]:
    followed = Followed(workers)
    followed.follower.start()
    try:
        yield followed
    finally:
        followed.end()


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_stream_alone_keeps_all_workers_busy_and_its_order(workers: int) -> None:
    with following(workers) as it:
        frames = [*range(2 * workers)]
        it.put(*frames)
        until(lambda: len(it.gatherer.asked) == workers)
        for frame in reversed(frames[1:workers]):
            it.gatherer.answer(frame)
        time.sleep(0.05)  # in which nothing is to happen
        assert it.told == []
        assert it.gatherer.asked == frames[:workers]
        assert it.follower.waiting == 2 * workers
        it.gatherer.answer(0)
        until(lambda: it.gatherer.asked == frames)
        until(lambda: it.told == frames[:workers])
        until(lambda: it.follower.waiting == workers)
    assert it.told == frames
    assert (it.status.ledger.processed, it.follower.waiting) == (2 * workers, 0)


def test_frames_that_are_not_due_leave_the_inbox_beside_one_that_is_analysed() -> None:
    with following(workers=2) as it:
        it.follower.granted = 5.0
        it.put(*range(6))
        until(lambda: it.gatherer.asked == [0, 4])
        assert it.told == []
        it.gatherer.answer(4)
        it.gatherer.answer(0)
        until(lambda: it.told == [0, 4])
        until(lambda: it.status.ledger.processed == 6)
        assert it.status.analysed == 2


def test_a_frame_that_fails_makes_room_and_is_counted() -> None:
    with following(workers=1) as it:
        it.put(0, 1)
        until(lambda: it.gatherer.asked == [0])
        it.gatherer.answer(0, ModelError("no"))
        until(lambda: it.gatherer.asked == [0, 1])
        it.gatherer.answer(1)
        until(lambda: it.told == [1])
        assert it.status.ledger.failed == {"ModelError": 1}
        assert it.events == ["door: no"]
