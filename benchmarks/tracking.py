"""Which tracker keeps ids, how fast it is, and what it keeps in memory.

    python benchmarks/tracking.py [--seeds 3] [--first 0] [--clip FILE --model NAME|FILE]

Scenes with known identities, 1280×720: people who cross in both directions and hide each other,
people who wander, and cars; boxes are off by 3 % of their size, some are missed, some hide behind
others, some are false. Each scene is looked at 25, 10, 5, 2 and 1 times a second, and at a rate
that changes among these every few seconds, as that of a loaded worker does. Of the package
trackers each kind is run with its own defaults, but with every box from 0.35 on taken and tracks
lost for 3 s remembered, as vidai does; `vidai` is vidai.tracking. IDF1 and switches of identity
are those of trackers.eval; a box without an id counts as not found.

Speed: ten boxes a frame, in one thread. Memory: what a tracker has grown by over 4,000 frames of
ten things that stay where they are. With --clip: how many ids a clip gets, and what part
of its boxes has one, looked at in every, or every second to tenth frame; there is no truth in it,
but ids that multiply when looks are few are lost and found again.
"""

from __future__ import annotations

import argparse
import gc
import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import supervision as sv
import trackers
from trackers.eval import aggregate_clear_metrics, aggregate_identity_metrics
from trackers.eval import compute_clear_metrics as clear_metrics
from trackers.eval import compute_identity_metrics as identity_metrics

import vidai
from vidai.tracking import LOST, Tracker
from vidai.types import Detections

WIDTH, HEIGHT = 1280, 720
RATES = (25, 10, 5, 2, 1)
CLIP_STEPS = (1, 2, 5, 10)
SPEED_FRAMES, MEMORY_FRAMES = 1000, 4000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Update = Callable[[Detections, float], Ints]  # detections and s -> an id each, below 1: none


def by_vidai(rate: float) -> Update:
    tracker = Tracker()
    return lambda found, now: np.asarray(tracker.update(found, now).track_ids)


def by_library(kind: str, **options: object) -> Callable[[float], Update]:
    def make(rate: float) -> Update:
        made = getattr(trackers, kind)(
            frame_rate=rate, lost_track_buffer=round(30 * LOST), **options
        )

        def update(found: Detections, now: float) -> Ints:
            rows = sv.Detections(
                xyxy=found.boxes.astype(float),
                confidence=found.scores.copy(),
                class_id=found.class_ids.astype(int),
                data={"row": np.arange(len(found))},
            )
            told = made.update(rows, timestamp=now)
            ids = np.zeros(len(found), np.int64)
            if len(told):
                ids[told.data["row"]] = told.tracker_id + 1
            return ids

        return update

    return make


ALL = {"high_conf_det_threshold": 0.35, "track_activation_threshold": 0.35}
KINDS: dict[str, Callable[[float], Update]] = {
    "vidai": by_vidai,
    "SORT": by_library("SORTTracker"),
    "ByteTrack": by_library("ByteTrackTracker", **ALL),
    "OC-SORT": by_library("OCSORTTracker", high_conf_det_threshold=0.35),
    "BoT-SORT": by_library("BoTSORTTracker", **ALL, enable_cmc=False),
    "C-BIoU": by_library("CBIoUTracker", **ALL),
}


@dataclass(frozen=True)
class Thing:
    """Something that moves: from begin to end (s), its centre by time, its size in px."""

    begin: float
    end: float
    path: Callable[[float], tuple[float, float]]
    width: float
    height: float
    class_id: int

    def box(self, now: float) -> list[float]:
        x, y = self.path(now)
        return [
            x - self.width / 2,
            y - self.height / 2,
            x + self.width / 2,
            y + self.height / 2,
        ]


def walker(rng: np.random.Generator, begin: float) -> Thing:
    """Somebody who crosses the picture at about 1.3 m/s; 80 px are a metre."""
    height = rng.uniform(110, 180)
    speed = rng.uniform(0.7, 1.3) * height * 0.75 * rng.choice((-1, 1))
    y, sway = rng.uniform(250, 600), rng.uniform(0, 20)
    start = -20.0 if speed > 0 else WIDTH + 20.0

    def path(now: float) -> tuple[float, float]:
        return start + speed * (now - begin), y + sway * np.sin(now - begin)

    return Thing(begin, begin + (WIDTH + 40) / abs(speed), path, height * 0.4, height, 0)


def wanderer(rng: np.random.Generator, begin: float, length: float) -> Thing:
    """Somebody who strolls about, turns and stands."""
    height = rng.uniform(110, 180)
    knots = np.arange(begin, begin + length + 2, 2.0)
    steps = rng.normal(0, 70, (len(knots), 2)) * rng.integers(0, 2, (len(knots), 1))
    places = np.cumsum(steps, 0) + np.array([rng.uniform(200, 1080), rng.uniform(250, 600)])
    places = np.clip(places, (40, 100), (WIDTH - 40, HEIGHT - 60))

    def path(now: float) -> tuple[float, float]:
        x, y = (float(np.interp(now, knots, places[:, axis])) for axis in (0, 1))
        return x, y

    return Thing(begin, begin + length, path, height * 0.4, height, 0)


def car(rng: np.random.Generator, begin: float) -> Thing:
    """A car on the road behind: 6 m/s, some 40 px a metre."""
    speed = rng.uniform(150, 300) * rng.choice((-1, 1))
    y, start = rng.uniform(240, 300), (-90.0 if speed > 0 else WIDTH + 90.0)

    def path(now: float) -> tuple[float, float]:
        return start + speed * (now - begin), y

    return Thing(begin, begin + (WIDTH + 180) / abs(speed), path, 180, 80, 2)


def scene(seed: int, seconds: float) -> list[Thing]:
    rng = np.random.default_rng(seed)
    things = [wanderer(rng, 0.0, seconds) for _ in range(3)]
    things += [walker(rng, float(t)) for t in np.arange(0, seconds, 2.5) + rng.uniform(0, 2)]
    things += [car(rng, float(t)) for t in np.arange(0, seconds, 6) + rng.uniform(0, 5)]
    return things


def looks(
    things: list[Thing], times: Floats, seed: int
) -> Iterator[tuple[Floats, Ints, Detections]]:
    """For each time: the true boxes, whose they are, and what a detector finds of them."""
    rng = np.random.default_rng((seed, 1))
    for now in times.tolist():
        there = [(i, t) for i, t in enumerate(things) if t.begin <= now < t.end]
        there.sort(key=lambda one: -one[1].box(now)[3])  # nearest first: its feet are lowest
        truth = np.array([t.box(now) for _, t in there]).reshape(-1, 4)
        ids = np.array([i for i, _ in there], np.int64)
        boxes, scores, classes = [], [], []
        for row, (_, thing) in enumerate(there):
            hidden = covered(truth[row], truth[:row])
            if hidden > 0.6 or rng.random() < 0.08:
                continue
            size = np.array([thing.width, thing.height] * 2)
            boxes.append(truth[row] + rng.normal(0, 0.03, 4) * size)
            scores.append(np.clip(rng.normal(0.75, 0.12) - 0.3 * hidden, 0.35, 1))
            classes.append(thing.class_id)
        if rng.random() < 0.1:
            x, y = rng.uniform(0, WIDTH - 60), rng.uniform(100, HEIGHT - 150)
            boxes.append(np.array([x, y, x + 50, y + 130]))
            scores.append(rng.uniform(0.35, 0.5))
            classes.append(0)
        yield (
            truth,
            ids,
            Detections(
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(scores, np.float32),
                np.array(classes, np.int32),
            ),
        )


def covered(box: Floats, nearer: Floats) -> float:
    """The largest part of a box that one nearer box hides."""
    if not len(nearer):
        return 0.0
    sides = np.minimum(box[2:], nearer[:, 2:]) - np.maximum(box[:2], nearer[:, :2])
    return float((np.prod(np.maximum(sides, 0), 1) / np.prod(box[2:] - box[:2])).max())


def times_at(rate: float | None, seconds: float, seed: int) -> Floats:
    """When a scene is looked at; None: at rates that change every 2 to 6 s."""
    if rate is not None:
        return np.arange(0, seconds, 1 / rate)
    rng, now, times = np.random.default_rng((seed, 2)), 0.0, []
    while now < seconds:
        step, until = 1 / rng.choice(RATES[1:]), now + rng.uniform(2, 6)
        while now < min(until, seconds):
            times.append(now)
            now += step
    return np.array(times)


def judged(
    make: Callable[[float], Update], rate: float | None, seeds: range, seconds: float
) -> tuple[float, float]:
    """IDF1 (0–1) and switches of identity a thing."""
    identity, clear, things_seen = [], [], 0
    for seed in seeds:
        update = make(rate or 10.0)
        truths, tracked, alike = [], [], []
        things = scene(seed, seconds)
        things_seen += len(things)
        for now, (truth, ids, found) in zip(
            (times := times_at(rate, seconds, seed)).tolist(),
            looks(things, times, seed),
            strict=True,
        ):
            given = update(found, now)
            known = given >= 1
            truths.append(ids)
            tracked.append(given[known])
            alike.append(sv.box_iou_batch(truth, found.boxes[known].astype(float)))
        identity.append(identity_metrics(*dense(truths, tracked), alike))
        clear.append(clear_metrics(*dense(truths, tracked), alike))
    idf1 = aggregate_identity_metrics(identity)["IDF1"]
    return float(idf1), aggregate_clear_metrics(clear)["IDSW"] / things_seen


def dense(truths: list[Ints], tracked: list[Ints]) -> tuple[list[Ints], list[Ints]]:
    """Ids numbered from 0 without gaps."""
    told = []
    for rows in (truths, tracked):
        number = {one: i for i, one in enumerate(sorted({int(i) for r in rows for i in r}))}
        told.append([np.array([number[int(i)] for i in r], np.int64) for r in rows])
    return told[0], told[1]


def ten(rng: np.random.Generator) -> Detections:
    places = np.array([(100 + 110 * i, 200, 160 + 110 * i, 350) for i in range(10)], float)
    return Detections(
        (places + rng.normal(0, 2, (10, 4))).astype(np.float32),
        rng.uniform(0.4, 0.9, 10).astype(np.float32),
        np.zeros(10, np.int32),
    )


def microseconds(make: Callable[[float], Update]) -> float:
    """Of CPU a frame of ten boxes, the best of three."""
    best = float("inf")
    for _ in range(3):
        update, rng = make(10.0), np.random.default_rng(0)
        frames = [ten(rng) for _ in range(SPEED_FRAMES)]
        start = time.thread_time()
        for number, found in enumerate(frames):
            update(found, number / 10)
        best = min(best, time.thread_time() - start)
    return best / SPEED_FRAMES * 1e6


def kept_bytes(make: Callable[[float], Update]) -> int:
    """What a tracker has grown by, from frame 400 to the last."""
    update, rng = make(10.0), np.random.default_rng(0)
    tracemalloc.start()
    try:
        for number in range(MEMORY_FRAMES):
            if number == 400:
                gc.collect()
                before = tracemalloc.get_traced_memory()[0]
            update(ten(rng), number / 10)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def ids_in(found: list[tuple[float, Detections]], make: Callable[[float], Update]) -> list[str]:
    """How many ids a clip gets, and how many of its boxes have one, looked at ever more rarely."""
    told = []
    for step in CLIP_STEPS:
        looks = found[::step]
        update = make((len(looks) - 1) / (looks[-1][0] - looks[0][0]))
        ids = np.concatenate([update(detections, now) for now, detections in looks])
        told.append(f"{len(np.unique(ids[ids >= 1]))} ({(ids >= 1).mean():.0%})")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="scenes")
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--seconds", type=float, default=40, help="of each scene")
    parser.add_argument("--clip", help="a video without truth")
    parser.add_argument("--model", default="yolox-nano", help="what finds things in it")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    print(f"{cpu()}, Python {platform.python_version()}, trackers {version('trackers')}")
    print(f"\nIDF1 (switches a thing), by analyses a second\n\n{'':9}", end="")
    print("".join(f"{rate:>12}" for rate in (*RATES, "varying")), f"{'µs':>7}{'bytes':>11}")
    for kind, make in KINDS.items():
        print(f"{kind:9}", end="", flush=True)
        for rate in (*RATES, None):
            idf1, switches = judged(make, rate, seeds, options.seconds)
            print(f"{f'{idf1:.2f} ({switches:.2f})':>12}", end="", flush=True)
        print(f"{microseconds(make):8.0f}{kept_bytes(make):11,}", flush=True)
    if options.clip:
        found = [(f.time, d) for f, d in vidai.detect(options.clip, model=options.model)]
        print(
            f"\nids (boxes with one) in {Path(options.clip).name}, {len(found)} frames\n\n{'':9}",
            end="",
        )
        print("".join(f"{f'1 in {step}':>12}" for step in CLIP_STEPS))
        for kind, make in KINDS.items():
            print(f"{kind:9}" + "".join(f"{told:>12}" for told in ids_in(found, make)))


def cpu() -> str:
    """The processor's name, as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
