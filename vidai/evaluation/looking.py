"""What models find in frames that come one by one, on all workers of a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from vidai.detector import Detector
from vidai.types import Detections, Frame

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threshold(NamedTuple):
    """conf: least score of a box. iou: overlap above which the weaker of two of a class goes."""

    conf: float
    iou: float

    def replaced(self, conf: float | None, iou: float | None) -> Threshold:
        """With those that are given."""
        return Threshold(self.conf if conf is None else conf, self.iou if iou is None else iou)


def seen(detector: Detector, frame: Frame, also: Sequence[Threshold]) -> list[Detections]:
    """What the detector finds, and what it would at each of those thresholds, by one run."""
    run = detector.start([frame])
    height, width = run.batch.data.shape[2:]
    others = [
        detector.model.detections(
            run.session.device,
            run.outputs,
            size=(width, height),
            placements=run.batch.placements,
            pictures=[(frame.width, frame.height)],
            conf=threshold.conf,
            iou=threshold.iou,
        )[0]
        for threshold in also
    ]
    return [*detector.finish(run), *others]


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """The result of each item, in their order, by that many threads.

    Of items and results few are held at a time, however many there are.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="vidai-evaluation")
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
