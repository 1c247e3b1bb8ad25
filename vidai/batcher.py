"""Where streams meet: frames of all pipelines that share a detector become batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

from vidai.errors import located
from vidai.types import Detections, Frame

Detected = tuple[Detections, float]  # and the seconds that it took
Detect = Callable[[Sequence[Frame]], Sequence[Detections]]


class Batcher:
    """Threads that run a detector on the frames they are given, and answer with futures.

    A free thread takes the oldest frame that waits, and with it whatever else waits and may go
    into the same batch, up to `max_batch`. It never waits for more: while the device is busy
    frames gather by themselves, so batches are as large as they need to be and no larger.

    key: frames of one key may share a batch. The threads are daemons, unlike those of
    concurrent.futures, for which the interpreter waits at its end: a program that leaves a loop
    over results unfinished would never end.
    """

    def __init__(
        self, detect: Detect, key: Callable[[Frame], Hashable], *, workers: int, max_batch: int
    ) -> None:
        self._detect = detect
        self._key = key
        self._max_batch = max_batch
        self._jobs: deque[tuple[Frame, Future[Detected]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [daemon("vidai-detector", self._serve) for _ in range(workers)]

    def submit(self, frame: Frame) -> Future[Detected]:
        """The frame's detections; cancel the future of a frame that is no longer wanted."""
        future: Future[Detected] = Future()
        with self._changed:
            self._jobs.append((frame, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the threads once their current batch is done; what waits is forgotten."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while batch := self._next():
            self._run(batch)
            del batch  # else the last frames' memory stays until the next

    def _next(self) -> list[tuple[Frame, Future[Detected]]]:
        """The next batch; empty at the end."""
        with self._changed:
            while not self._closed:
                batch = self._take()
                if batch:
                    return batch
                self._changed.wait()
        return []

    def _take(self) -> list[tuple[Frame, Future[Detected]]]:
        batch: list[tuple[Frame, Future[Detected]]] = []
        key: Hashable = None
        left: deque[tuple[Frame, Future[Detected]]] = deque()
        while self._jobs and len(batch) < self._max_batch:
            frame, future = self._jobs.popleft()
            if batch and self._key(frame) != key:
                left.append((frame, future))
            elif future.set_running_or_notify_cancel():
                batch.append((frame, future))
                key = self._key(frame)
        self._jobs.extendleft(reversed(left))
        return batch

    def _run(self, batch: list[tuple[Frame, Future[Detected]]]) -> None:
        start = time.perf_counter()
        results = self._results([frame for frame, _ in batch])
        seconds = (time.perf_counter() - start) / len(batch)
        for (frame, future), result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(located(frame, result))
            else:
                future.set_result((result, seconds))

    def _results(self, frames: list[Frame]) -> Sequence[Detections | BaseException]:
        """What became of each frame. Where streams share a batch that fails, each is tried on
        its own, so that one stream's trouble does not end the others."""
        try:
            return self._detect(frames)
        except BaseException as error:
            lanes = {id(frame.device): frame.device for frame in frames}
            if len(lanes) == 1:
                return [error] * len(frames)
        results: dict[int, Detections | BaseException] = {}
        for lane in lanes.values():
            own = [frame for frame in frames if frame.device is lane]
            results |= zip(map(id, own), self._results(own), strict=True)
        return [results[id(frame)] for frame in frames]


def daemon(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    """A started thread that does not keep the program alive."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread
