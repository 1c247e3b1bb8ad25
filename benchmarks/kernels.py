"""How fast the CPU kernels are, beside OpenCV and swscale, on one thread.

    python benchmarks/kernels.py [--runs 40]

Every pair is timed in turn, run by run, so that a busy machine slows both; the ratio is the
median of the runs' ratios. Needs opencv-python-headless (extra `bench`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from fractions import Fraction
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from vidai.device import open_device
from vidai.ops import draw, letterbox, redact, rgb
from vidai.ops.overlay import color_for
from vidai.types import Color, Frame, InputSpec, StreamInfo, Surface

WIDTH, HEIGHT = 1920, 1080
SAMPLES = WIDTH * HEIGHT * 3 // 2
SPEC = InputSpec(640, 640, scale=1 / 255)
Run = Callable[[], object]


def picture() -> npt.NDArray[np.uint8]:
    """I420 planes, one above the other: smooth shapes with some noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((HEIGHT * 3 // 2, WIDTH))
    smooth = 128 + 60 * np.sin(rows / 40) * np.cos(columns / 60)
    return (smooth + rng.integers(0, 30, smooth.shape)).astype(np.uint8)


def frame_of(planes: npt.NDArray[np.uint8]) -> Frame:
    address, luma = planes.ctypes.data, WIDTH * HEIGHT
    surface = Surface(
        *(WIDTH, HEIGHT, address, address + luma, address + luma * 5 // 4),
        *(WIDTH, WIDTH // 2),
        owner=planes,
    )
    info = StreamInfo(
        "benchmark", "rawvideo", WIDTH, HEIGHT, "yuv420p", Fraction(1, 25), color=Color(1, 1, 1, 1)
    )
    return Frame(info, 0, 0, surface, open_device("cpu"), writable=True)


def fill(slot: npt.NDArray[Any], small: npt.NDArray[Any]) -> None:
    """What is left to do after the resize: normalise, transpose, pad."""
    slot[:, :140] = slot[:, 500:] = np.float32(114 / 255)
    np.multiply(small.transpose(2, 0, 1), np.float32(1 / 255), out=slot[:, 140:500])


def with_opencv(planes: npt.NDArray[np.uint8], batch: npt.NDArray[Any], filter_: int) -> Run:
    def run() -> None:
        full = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
        small = cv2.resize(full, (640, 360), interpolation=filter_)
        fill(batch[0], small)

    return run


def with_swscale(planes: npt.NDArray[np.uint8], batch: npt.NDArray[Any], filter_: str) -> Run:
    source = av.VideoFrame.from_ndarray(planes, format="yuv420p")

    def run() -> None:
        small = source.reformat(640, 360, "rgb24", interpolation=filter_).to_ndarray()
        fill(batch[0], small)

    return run


def times(runs: int, *calls: Run) -> list[list[float]]:
    """Milliseconds of every run of every call, the calls taking turns."""
    for call in calls:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, list_ in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            list_.append((time.perf_counter() - start) * 1e3)
    return taken


def boxes(count: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(1)
    corner = rng.uniform((0, 60), (WIDTH - 300, HEIGHT - 300), (count, 2))
    return np.hstack([corner, corner + rng.uniform(60, 280, (count, 2))]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    runs = parser.parse_args().runs
    cv2.setNumThreads(1)
    planes = picture()
    frame = frame_of(planes)
    batch = np.full((1, 3, 640, 640), 114 / 255, np.float32)
    other = batch.copy()

    table = Table(title=f"1920 x 1080 I420, one thread, medians of {runs} runs")
    for column in ("operation", "ms", "GB/s", "other ms", "times as fast"):
        table.add_column(column, justify="left" if column == "operation" else "right")

    def add(name: str, moved: int, mine: list[float], theirs: list[float] | None = None) -> None:
        ratio = [b / a for a, b in zip(mine, theirs, strict=True)] if theirs else None
        table.add_row(
            name,
            f"{median(mine):.2f}",
            f"{moved / median(mine) / 1e6:.1f}",
            f"{median(theirs):.2f}" if theirs else "",
            f"{median(ratio):.2f}" if ratio else "",
        )

    rivals = {
        "OpenCV, INTER_LINEAR": with_opencv(planes, other, cv2.INTER_LINEAR),
        "OpenCV, INTER_AREA": with_opencv(planes, other, cv2.INTER_AREA),
        "swscale, BILINEAR": with_swscale(planes, other, "BILINEAR"),
        "swscale, AREA": with_swscale(planes, other, "AREA"),
    }
    moved = SAMPLES + batch.nbytes
    for name, rival in rivals.items():
        mine, theirs = times(runs, lambda: letterbox(frame, batch, 0, SPEC), rival)
        add(f"letterbox 640: {name}", moved, mine, theirs)
    mine, theirs = times(
        runs, lambda: rgb(frame), lambda: cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
    )
    add("rgb: OpenCV, nearest chroma", SAMPLES + WIDTH * HEIGHT * 3, mine, theirs)

    found = boxes(20)
    colors = np.array([color_for(i) for i in range(20)], np.uint8)
    labels = [f"person #{i} 0.{i}" for i in range(70, 90)]
    before = planes.copy()
    (mine,) = times(runs, lambda: draw(frame, found, colors, labels))
    drawn = int((planes != before).sum())
    add("draw 20 labelled boxes", 2 * drawn, mine)
    face = np.array([[700, 300, 1100, 700]], np.float32)
    (mine,) = times(runs, lambda: redact(frame, face))
    add("redact 400 x 400 px", 2 * 400 * 400 * 3 // 2, mine)
    Console().print(table)


if __name__ == "__main__":
    main()
