"""Where live streams meet: frames of all of them, gathered into batches.

Every stream may have the same few frames here at a time, so first come, first served is fair: who
has just been served stands behind all others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from vidai.batcher import daemon
from vidai.errors import DeviceError, ModelError, located
from vidai.types import Detections, Frame


class Detects(Protocol):
    """See vidai.detector.Detector."""

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]: ...

    def input_size(self, frame: Frame) -> tuple[int, int]: ...


class Found(NamedTuple):
    """waited: s until its batch began. took: s of the batch."""

    detections: Detections
    waited: float
    took: float


class Pending:
    """What is to be found in a frame. size: of the model's input; frames of another size are of
    another batch."""

    def __init__(self, frame: Frame, came: float) -> None:
        self.frame = frame
        self.size = (0, 0)
        self.came = came
        self._outcome: Found | BaseException | None = None
        self._done = threading.Event()

    def settle(self, outcome: Found | BaseException) -> None:
        self._outcome = outcome
        self._done.set()

    def result(self) -> Found:
        """Waits for it; may be asked once. Raises what went wrong, with the frame's stream and
        time, and DeviceError where the gatherer was closed before."""
        self._done.wait()
        # An error's traceback holds all that is named on its way. If that led to the error itself,
        # frames would keep their memory until the garbage collector comes.
        outcome, self._outcome = self._outcome, None
        assert outcome is not None
        if isinstance(outcome, Found):
            return outcome
        try:
            raise outcome
        finally:
            del outcome


class Gatherer:
    """Threads that run a detector on batches.

    A batch goes when it has `max_batch` frames, or when its first has waited for `max_wait` s.
    count: batches at one time. on_batch: called with the frames of each and its seconds.
    """

    def __init__(
        self,
        detector: Detects,
        *,
        max_batch: int,
        max_wait: float,
        count: int,
        on_batch: Callable[[int, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._detector = detector
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._on_batch = on_batch
        self._clock = clock
        self._waiting: deque[Pending] = deque()
        self._changed = threading.Condition()
        self._gathering = threading.Lock()  # one batch at a time
        self._closed = False
        self._threads = [daemon("vidai-detect", self._serve) for _ in range(count)]

    def submit(self, frame: Frame) -> Pending:
        """Does not wait. Whatever goes wrong is told by the result."""
        job = Pending(frame, self._clock())
        try:
            job.size = self._detector.input_size(frame)
        except Exception as error:
            job.settle(located(frame, error))
            return job
        with self._changed:
            if self._closed:
                job.settle(DeviceError("nothing more is analysed: the worker ends"))
            else:
                self._waiting.append(job)
                self._changed.notify_all()
        return job

    def close(self) -> None:
        """End the threads once all that waits is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            with self._gathering:
                batch = self._gather()
            if not batch:
                return
            self._run(batch)
            del batch  # else the last frames' memory stays until the next

    def _gather(self) -> list[Pending]:
        """The next batch, waited for; empty once it is closed."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            until = self._waiting[0].came + self._max_wait
            while len(self._waiting) < self._max_batch and not self._closed:
                left = until - self._clock()
                if left <= 0 or not self._changed.wait(left):
                    break
            size = self._waiting[0].size
            batch = [job for job in self._waiting if job.size == size][: self._max_batch]
            for job in batch:
                self._waiting.remove(job)
            return batch

    def _run(self, batch: list[Pending]) -> None:
        began = self._clock()
        outcomes = self._outcomes([job.frame for job in batch])
        if len(batch) > 1 and isinstance(outcomes[0], BaseException):
            # Each on its own, so that one stream's trouble is not that of the others.
            outcomes = [self._outcomes([job.frame])[0] for job in batch]
        took = self._clock() - began
        for job, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                job.settle(located(job.frame, outcome))
            else:
                job.settle(Found(outcome, began - job.came, took))
        del outcome, outcomes  # see Pending.result
        self._on_batch(len(batch), took)

    def _outcomes(self, frames: Sequence[Frame]) -> Sequence[Detections | Exception]:
        """What is found in each frame, or the same error for all."""
        try:
            found = self._detector(frames)
            if len(found) != len(frames):
                raise ModelError(f"the model gave {len(found)} results for {len(frames)} frames")
            return found
        except Exception as error:
            return [error] * len(frames)
        except BaseException as error:  # would end this thread, and then those of the streams
            broken = DeviceError(f"the detector broke off: {type(error).__name__}: {error}")
            return [broken] * len(frames)
