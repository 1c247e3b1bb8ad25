"""Where streams meet: frames of all pipelines that share a detector, on their way through it.

Two ways, of which the device decides. On a device that computes while its verbs run, `Workers`
keep every core busy with a frame of its own. On an asynchronous one, whose verbs only queue
work, a `Batcher` gathers frames of all streams into batches, without a thread of its own: whoever
brings the frame that fills a batch starts it, and whoever first needs a result waits for it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from vidai.errors import located
from vidai.turns import Turns
from vidai.types import Detections, Frame

Detected = tuple[Detections, float]  # and the seconds that it took
Run = TypeVar("Run")


class Pending(Protocol):
    """Detections that are on their way."""

    def result(self) -> Detected:
        """Waits for them. Raises what went wrong, with the frame's stream and time."""
        ...

    def cancel(self) -> None:
        """Nobody wants them any more."""
        ...


class Ready:
    """The answer for a frame when there is no detector."""

    def result(self) -> Detected:
        return Detections.empty(), 0.0

    def cancel(self) -> None:
        """There is nothing to be done."""


class Workers:
    """Threads that run a detector on one frame each.

    They are daemons, unlike those of concurrent.futures, for which the interpreter waits at its
    end: a program that leaves a loop over results unfinished would never end.
    """

    def __init__(self, detect: Callable[[Sequence[Frame]], list[Detections]], count: int) -> None:
        self._detect = detect
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [daemon("vidai-detector", self._serve) for _ in range(count)]

    def submit(self, frame: Frame) -> Pending:
        job = _Job(frame)
        self._jobs.put(job)
        return job

    def close(self) -> None:
        """End the threads once their current frame is done; what waits is forgotten."""
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run(self._detect)
            del job  # else the last frame's memory stays until the next


class _Job:
    """Implements Pending for one frame."""

    def __init__(self, frame: Frame) -> None:
        self._frame: Frame | None = frame
        self._outcome: Detected | BaseException | None = None
        self._done = threading.Event()

    def run(self, detect: Callable[[Sequence[Frame]], list[Detections]]) -> None:
        frame = self._frame
        if frame is not None:
            start = time.perf_counter()
            try:
                (found,) = detect([frame])
                self._outcome = found, time.perf_counter() - start
            except BaseException as error:
                self._outcome = located(frame, error)
        self._frame = None
        self._done.set()

    def result(self) -> Detected:
        self._done.wait()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None, "the frame was cancelled"
        return self._outcome

    def cancel(self) -> None:
        self._frame = None


class Starter(Protocol[Run]):
    """A detector whose runs have a beginning and an end: see vidai.detector.Detector."""

    def start(self, frames: Sequence[Frame]) -> Run: ...

    def finish(self, run: Run) -> list[Detections]: ...


class Batcher(Generic[Run]):
    """Gathers frames into batches, see above.

    key: frames of one key may share a batch. in_flight: how many batches may be under way. turns:
    of the threads that use the device.
    """

    def __init__(
        self,
        detector: Starter[Run],
        key: Callable[[Frame], Hashable],
        *,
        max_batch: int,
        in_flight: int,
        turns: Turns,
    ) -> None:
        self._detector = detector
        self._key = key
        self._max_batch = max_batch
        self._in_flight = in_flight
        self._turns = turns
        self._gathering: dict[Hashable, _Batch[Run]] = {}
        self._under_way: deque[_Batch[Run]] = deque()
        self._lock = threading.Lock()  # of the batches that gather, and their frames
        self._starting = threading.Lock()  # of those under way; one batch begins at a time

    def submit(self, frame: Frame) -> Pending:
        key = self._key(frame)
        with self._lock:
            batch = self._gathering.get(key)
            if batch is None:
                batch = self._gathering[key] = _Batch(key)
            place = batch.add(frame)
            full = batch.places == self._max_batch
            if full:
                del self._gathering[key]
        if full:
            self._start(batch)
        return _Place(self, batch, place)

    def cancel(self, batch: _Batch[Run], place: int) -> None:
        """Let a frame go. Once its batch is on its way it goes with the others."""
        with self._lock:
            if self._gathering.get(batch.key) is batch:
                batch.frames.pop(place, None)
                if not batch.frames:
                    del self._gathering[batch.key]

    def finish(self, batch: _Batch[Run]) -> None:
        """Wait until its results are there."""
        if not batch.begun:
            self._start(batch)
        self._end(batch)

    def close(self) -> None:
        """Let what is under way come to its end."""
        with self._turns.holding(self._starting):
            while self._under_way:
                self._end(self._under_way.popleft())

    def _start(self, batch: _Batch[Run]) -> None:
        """Queue its work on the device, as it is; only the first call does something."""
        with self._lock:
            if self._gathering.get(batch.key) is batch:
                del self._gathering[batch.key]
        with self._turns.holding(self._starting):
            if batch.begun:
                return
            if len(self._under_way) == self._in_flight:
                self._end(self._under_way.popleft())
            batch.begin(self._detector)
            self._under_way.append(batch)

    def _end(self, batch: _Batch[Run]) -> None:
        """Only the first call does something; others wait for it."""
        with self._turns.holding(batch.ending):
            if batch.outcomes is None:
                batch.end(self._detector)


class _Batch(Generic[Run]):
    """Frames, then the run on them, then what was found in each, by their places.

    The batcher's `_lock` is of the frames while it gathers; from then on they stay as they are.
    """

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.places = 0  # that were given
        self.frames: dict[int, Frame] = {}
        self.begun = False
        self.ending = threading.Lock()
        self.outcomes: dict[int, Detections | BaseException] | None = None
        self.seconds = 0.0  # a frame
        self._run: Run | None = None

    def add(self, frame: Frame) -> int:
        """The frame's place. Needs the batcher's `_lock`."""
        place = self.places
        self.frames[place] = frame
        self.places += 1
        return place

    def begin(self, detector: Starter[Run]) -> None:
        """Once, when it gathers no more. Needs the batcher's `_starting`."""
        started = time.perf_counter()
        try:
            self._run = detector.start(list(self.frames.values()))
        except Exception as error:
            self._settle(self._one_by_one(detector, error))
        self.seconds = (time.perf_counter() - started) / len(self.outcomes or self.frames)
        self.begun = True

    def end(self, detector: Starter[Run]) -> None:
        """Once, after `begin`. Needs `ending`."""
        assert self._run is not None
        started = time.perf_counter()
        try:
            self._settle(detector.finish(self._run))
        except Exception as error:
            self._settle(self._one_by_one(detector, error))
        self.seconds += (time.perf_counter() - started) / max(1, len(self.outcomes or ()))

    def _settle(self, outcomes: Sequence[Detections | BaseException]) -> None:
        self.outcomes = dict(zip(self.frames, outcomes, strict=True))
        self.frames, self._run = {}, None  # their memory may go

    def _one_by_one(
        self, detector: Starter[Run], error: Exception
    ) -> list[Detections | BaseException]:
        """What becomes of a batch that failed. Where streams share it each is tried on its own,
        so that one stream's trouble does not end the others."""
        frames = list(self.frames.values())
        lanes = {id(frame.device) for frame in frames}
        outcomes: dict[int, Detections | BaseException] = {}
        for lane in lanes:
            own = [frame for frame in frames if id(frame.device) == lane]
            try:
                if len(lanes) == 1:
                    raise error
                found: Sequence[Detections] = detector.finish(detector.start(own))
                outcomes |= {id(frame): what for frame, what in zip(own, found, strict=True)}
            except Exception as failure:
                outcomes |= {id(frame): located(frame, failure) for frame in own}
        return [outcomes[id(frame)] for frame in frames]


class _Place(Generic[Run]):
    """Implements Pending for one frame of a batch."""

    def __init__(self, batcher: Batcher[Run], batch: _Batch[Run], place: int) -> None:
        self._batcher = batcher
        self._batch = batch
        self._place = place

    def result(self) -> Detected:
        batch = self._batch
        if batch.outcomes is None:
            self._batcher.finish(batch)
        assert batch.outcomes is not None
        outcome = batch.outcomes[self._place]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome, batch.seconds

    def cancel(self) -> None:
        """The rest of the batch runs to its end, or nobody starts it."""
        self._batcher.cancel(self._batch, self._place)


def daemon(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    """A started thread that does not keep the program alive."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread
