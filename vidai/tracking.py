"""Which detection of this frame is which of the frames before: ids that stay with an object.

ByteTrack of the package trackers does it, with two things added: a box is looked for the wider
the longer ago the last look was, and every box has an id from its first frame on. What was
compared, and how well it works: docs/tracking.md.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.errors import ConfigError
from vidai.types import Detections

LOST = 3.0  # s that a track is remembered which is not found
RATE = 10.0  # frames a second that the library's noises are meant for
LEAST_OVERLAP = 0.1  # IoU of a widened box with that where its track should be
APART = 1e5  # px between the places of two classes, which so can never overlap


class Tracker:
    """Gives the detections of one stream ids. Not for several threads at once.

    A detection is matched with a track of its class only: a person never becomes a car. A track
    that is not found for LOST s is forgotten, and its id is never given again. Memory is bounded
    by what was found in the last LOST s.

    counts: how many tracks there were, by class name; one found in a single frame is not counted.
    Raises ConfigError where the package trackers is missing.
    """

    def __init__(self) -> None:
        self._supervision, self._trackers = _libraries()
        # All boxes are of one rank (what is too weak was dropped by the detector), and every box
        # without a track begins one.
        self._engine = self._trackers.ByteTrackTracker(
            frame_rate=RATE,
            lost_track_buffer=round(30 * LOST),  # in frames of 1/30 s, whatever the rate
            track_activation_threshold=0.0,
            high_conf_det_threshold=0.0,
            minimum_consecutive_frames=1,
            minimum_iou_threshold=LEAST_OVERLAP,
        )
        self.counts: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._once: set[int] = set()  # ids that were given and not found again yet
        self._time: float | None = None  # of the last update
        self._clock = 0.0  # s of all updates; never goes back, as a camera's clock may
        self._last = Detections.empty()

    def update(self, detections: Detections, time: float) -> Detections:
        """The same detections, in their order, each with a track id from 1 up.

        time: s, when the frame was taken. Call it for frames without detections, too: tracks grow
        old by time. One that is not after the last counts as a tenth of a second after it.
        """
        elapsed = self._advance(time)
        # Between two looks a box goes no farther than its own size a second, most of the time.
        self._engine.iou = self._trackers.BIoU(float(np.clip(elapsed - 1 / RATE, 0, 1)))
        boxes = detections.boxes.astype(np.float64)
        boxes[:, 0::2] += APART * detections.class_ids[:, None]
        rows = np.flatnonzero(np.isfinite(boxes).all(1))
        found = self._engine.update(
            self._supervision.Detections(
                xyxy=boxes[rows], confidence=detections.scores[rows], data={"row": rows}
            ),
            timestamp=self._clock,
        )
        ids = np.zeros(len(detections), np.int64)
        if len(found):
            ids[found.data["row"]] = found.tracker_id
        known = ids[ids > 0].tolist()
        new = found.data["row"][found.tracker_id < 0] if len(found) else rows
        begun = [track for track in self._engine.tracks if track.tracker_id < 0]
        for row, track in zip(new, begun, strict=True):  # both in the order of detections
            ids[row] = track.tracker_id = next(self._numbers)
        for row in np.flatnonzero(ids < 1):  # no box at all: an id that is not seen again
            ids[row] = next(self._numbers)
        self._count(detections, ids, known)
        self._last = replace(detections, track_ids=ids)
        return self._last

    def carried(self, time: float) -> Detections:
        """What was found last, moved on to where it is believed to be at a later time, s.

        For drawing on frames that are not analysed: each box goes on as fast as it went and keeps
        its size. After LOST s there is nothing.
        """
        gone = 0.0 if self._time is None else max(0.0, time - self._time)
        last = self._last
        if gone > LOST or last.track_ids is None:
            return last[:0]
        speeds = {track.tracker_id: _speed(track) for track in self._engine.tracks}
        shifts = [speeds.get(track_id, (0.0, 0.0)) for track_id in last.track_ids.tolist()]
        moved = last.boxes + np.array(shifts, np.float32).reshape(-1, 2)[:, [0, 1, 0, 1]] * gone
        return replace(last, boxes=moved.astype(np.float32))

    def _advance(self, time: float) -> float:
        """How long ago the last update was, s."""
        elapsed = 1 / RATE if self._time is None else time - self._time
        if elapsed <= 0:
            elapsed = 1 / RATE
        self._time = time
        self._clock += elapsed
        return elapsed

    def _count(self, detections: Detections, ids: npt.NDArray[np.int64], known: list[int]) -> None:
        again = self._once.intersection(known)
        for track_id, class_id in zip(ids.tolist(), detections.class_ids.tolist(), strict=True):
            if track_id in again:
                self.counts[detections.name(class_id)] += 1
        self._once = (self._once - again) & {track.tracker_id for track in self._engine.tracks}
        self._once.update(set(ids.tolist()) - set(known))


def _speed(track: Any) -> tuple[float, float]:
    """Of the box's middle, px/s to the right and down."""
    x1, y1, x2, y2 = (float(value) * RATE for value in track.state_estimator.kf.state[4:8, 0])
    return (x1 + x2) / 2, (y1 + y2) / 2


def _libraries() -> tuple[Any, Any]:
    """The modules supervision and trackers, which are slow to import."""
    try:
        return import_module("supervision"), import_module("trackers")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "tracking needs the package trackers: pip install 'vidai[track]'"
        ) from error
    except ImportError as error:  # OpenCV's wheel needs libraries of a desktop
        raise ConfigError(
            f"the package trackers cannot be loaded ({error}): apt install libgl1 libglib2.0-0, "
            f"or put opencv-python-headless in the place of opencv-python"
        ) from error
