"""What becomes of a stream's frames once they are decoded, in their order.

    inbox ──▶ ask: is it due? ──▶ under way ──▶ answer: track, tell, draw, encode
                 └──▶ Gatherer ──────────────────▶┘

Two threads: a stream alone keeps all workers of the device busy, however long its model takes,
and a picture is drawn and encoded while the next is looked at.
"""

from __future__ import annotations

import io
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Semaphore, Thread
from typing import NamedTuple

import numpy as np
from PIL import Image

from vidai.batcher import daemon
from vidai.device import Device
from vidai.errors import sentence
from vidai.live.annotated import Annotated
from vidai.live.events import Event, Events
from vidai.live.gatherer import Gatherer, Pending
from vidai.live.inbox import Arrived, Inbox
from vidai.live.metrics import Metrics
from vidai.live.outlet import Outlet
from vidai.live.output import Record
from vidai.live.rates import Latencies, Rate
from vidai.live.rules import RuleState
from vidai.live.status import StreamStatus
from vidai.live.tracing import Tracer
from vidai.tracking import Tracker
from vidai.types import Detections, Frame

UNDER_WAY = 4  # frames that at most lie between the two threads, or as many as there are workers
AWAY = 5.0  # s without a frame after which a camera's files are closed
TOLD_AGAIN = 60.0  # s before the same failure of frames is told again
SNAPSHOT_QUALITY = 80  # of JPEG

Stages = dict[str, tuple[float, float]]  # when each began and ended, s of time.monotonic


@dataclass
class Shared:
    """What the streams of a worker have in common. workers: batches that its device runs at one
    time. names: of the model's classes."""

    device: Device
    workers: int
    gatherer: Gatherer
    names: tuple[str, ...]
    metrics: Metrics
    events: Events
    tracer: Tracer | None


class Pace:
    """Which frames are due, at a rate."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, time: float, fps: float) -> bool:
        """Whether a frame of this time (s, rising) is to be analysed; on average `fps` are."""
        apart = 1 / fps
        # What was missed is not made up for: a stream that is late would stay late.
        if not self._next - 2 * apart < time < self._next + apart:
            self._next = time
        if time < self._next - 0.3 * apart:
            return False
        self._next += apart
        return True


class UnderWay(NamedTuple):
    """A frame that was asked about, if pending, or is to be shown only. asked: when, s of
    time.monotonic."""

    arrived: Arrived
    asked: float
    pending: Pending | None


class Follower:
    """Goes on with the frames of an inbox, from `start` until the inbox is closed and empty.

    granted: analyses a second, set by the worker; None: every frame. status: of the stream; here
    `analysed` and the ledger's `processed` and `failed` are counted.
    """

    def __init__(
        self,
        shared: Shared,
        status: StreamStatus,
        inbox: Inbox,
        *,
        tracker: Tracker | None,
        rules: RuleState | None,
        annotated: Annotated,
        outlets: Sequence[Outlet],
        emit: Callable[..., Event],
    ) -> None:
        self.granted: float | None = None
        self.went, self.analysed = Rate(), Rate()
        self.latencies = Latencies()
        self._waits = Latencies()  # for the detector
        self._name = status.name
        self._shared = shared
        self._status = status
        self._inbox = inbox
        self._annotated = annotated
        self._outlets = outlets
        self._emit = emit
        self._tracker = tracker
        self._rules = rules
        self._pace = Pace()
        self._room = Semaphore(shared.workers)  # frames of this stream that may be analysed
        self._under_way: queue.Queue[UnderWay | None] = queue.Queue(max(UNDER_WAY, shared.workers))
        self._taken = 0  # frames, out of the inbox
        self._shown: tuple[Frame, Detections] | None = None
        self._told: dict[str, float] = {}
        self._threads: list[Thread] = []

    def start(self) -> None:
        self._threads = [
            daemon(f"vidai-ask-{self._name}", self._ask),
            daemon(f"vidai-answer-{self._name}", self._answer),
        ]

    def join(self, timeout: float) -> bool:
        """Wait until all is through, once the inbox is closed; whether it is, after `timeout` s."""
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Frames that are not through yet."""
        ledger = self._status.ledger
        done = ledger.processed + ledger.failed.total()
        return len(self._inbox) + max(0, self._taken - done)

    def wait_times(self) -> dict[str, float]:
        """s that frames waited for the detector since this was last asked, as in Latencies."""
        summary = self._waits.summary()
        self._waits.clear()
        return summary

    def snapshot(self) -> bytes | None:
        """The newest frame as an annotated JPEG; None before there is one."""
        if self._shown is None:
            return None
        drawn = self._annotated.draw(*self._shown)
        file = io.BytesIO()
        Image.fromarray(np.asarray(drawn)).save(file, "JPEG", quality=SNAPSHOT_QUALITY)
        return file.getvalue()

    def _ask(self) -> None:
        try:
            while True:
                # First of all: while there is no room, frames grow old in the inbox, which knows
                # what to do about that.
                self._room.acquire()
                arrived = self._inbox.get()
                if arrived is None:
                    break
                self._taken += 1
                asked, pending, granted = time.monotonic(), None, self.granted
                if granted is None or self._pace.due(arrived.frame.time, granted):
                    pending = self._shared.gatherer.submit(arrived.frame)
                else:
                    self._room.release()
                self._under_way.put(UnderWay(arrived, asked, pending))
                del arrived, pending  # else the last frame's memory stays until the next
        finally:
            self._under_way.put(None)

    def _answer(self) -> None:
        ledger = self._status.ledger
        while True:
            try:
                frame = self._under_way.get(timeout=AWAY)
            except queue.Empty:
                self._end_annotated()
                continue
            if frame is None:
                break
            try:
                self._go_on_with(frame)
                ledger.processed += 1
                self.went.count()
            except Exception as error:
                ledger.failed[type(error).__name__] += 1
                self._failed(error)
            del frame  # as above
        self._end_annotated()

    def _end_annotated(self) -> None:
        """Close what is open of its pictures: files, until there are more."""
        with suppress(Exception):
            self._annotated.end()

    def _go_on_with(self, under_way: UnderWay) -> None:
        arrived, asked, pending = under_way
        frame = arrived.frame
        decoded = arrived.arrived + arrived.decoded
        stages: Stages = {"decode": (arrived.arrived, decoded), "wait": (decoded, asked)}
        if pending is not None:
            detections = self._analysed(frame, asked, pending, stages)
            self._tell(frame, detections)
            total = time.monotonic() - arrived.arrived
            self.latencies.add(total)
            self._shared.metrics.observe(self._name, "total", total)
        else:
            detections = self._carried(frame)
        if pending is not None or not self._annotated.discreet:
            self._shown = frame, detections
            if (times := self._annotated.show(frame, detections, arrived.media)) is not None:
                stages["draw"], stages["encode"] = times
        for stage, (begin, end) in stages.items():
            self._shared.metrics.observe(self._name, stage, end - begin)
        if self._shared.tracer is not None:
            self._shared.tracer.frame(self._name, frame.index, stages)

    def _analysed(self, frame: Frame, asked: float, pending: Pending, stages: Stages) -> Detections:
        """What the model found, with track ids."""
        try:
            found = pending.result()
        finally:
            self._room.release()
        self._waits.add(found.waited)
        begun = asked + found.waited
        stages["wait"] = stages["wait"][0], begun
        stages["detect"] = begun, begun + found.took
        self._status.analysed += 1
        self.analysed.count()
        if self._tracker is None:
            return found.detections
        return self._tracker.update(found.detections, frame.time)

    def _carried(self, frame: Frame) -> Detections:
        """What is believed to be in a frame that the model does not see."""
        if self._tracker is None:
            return self._shown[1] if self._shown else Detections.empty(self._shared.names)
        return self._tracker.carried(frame.time)

    def _tell(self, frame: Frame, detections: Detections) -> None:
        record = Record(self._name, frame.time, frame.index, frame.width, frame.height, detections)
        for outlet in self._outlets:
            outlet.record(record)
        if self._rules is None:
            return
        for match in self._rules.update(record):
            self._emit("rule", match.text, record_time=match.time, **match.to_dict())

    def _failed(self, error: Exception) -> None:
        """Tell of a frame that was lost to an error, but not of each."""
        kind, now = type(error).__name__, time.monotonic()
        if now - self._told.get(kind, -TOLD_AGAIN) >= TOLD_AGAIN:
            self._told[kind] = now
            self._emit("frame-failed", f"{self._name}: {sentence(error)}")
        self._end_annotated()
