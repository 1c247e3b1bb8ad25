"""Tests of the CUDA device, on a real GPU or on the simulated driver.

The environment variable VIDAI_TEST_GPU says which: "strict" or "deferred" for the simulation in
that mode, "real" for the machine's own GPU. tests/test_cuda.py runs this folder in both modes of
the simulation, each in a process of its own, because a process loads one driver, once.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from cuda.bindings import driver

from tests import simdriver

MODE = os.environ["VIDAI_TEST_GPU"]
SIMULATED = MODE != "real"
if SIMULATED:
    simdriver.load(strict=1, deferred=int(MODE == "deferred"), keep_input=1)

from tests.squares import boxes_at, squares_at  # noqa: E402
from tests.tiny_model import SIDE, picture  # noqa: E402
from vidai.device import open_device  # noqa: E402
from vidai.devices.cuda import CudaDevice  # noqa: E402

if SIMULATED:
    from tests.simdriver import engine

    engine.install()

_CACHE = type(lru_cache(lambda: None))
_PROCESS_WIDE = ("vidai.devices.cuda.driver", "vidai.devices.cuda.video_codec", "vidai.native")
SCALE = 2  # of the clips to the model's pictures: NVENC takes no less than 145 px
PATIENCE = 5.0  # s until what is left of a test counts as left for good
BUDGET = 65536  # bytes a frame between host and device


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What injects faults or looks into device memory needs the simulation."""
    for item in items:
        if item.get_closest_marker("simulated") and not SIMULATED:
            item.add_marker(pytest.mark.skip(reason="needs the simulated driver"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaDevice]:
    """The GPU. Afterwards nothing is left of the test: memory, sessions, streams, threads.

    Models run as they are: tests compare with the CPU bit for bit and count calls to let one
    fail. Choosing a precision is for test_precision_run.py.
    """
    monkeypatch.setattr("vidai.detector.default", lambda device: None)
    device = open_device("cuda")
    assert isinstance(device, CudaDevice)
    if not SIMULATED:
        yield device
        return
    threads = threading.active_count()
    before = _live()
    simdriver.reset()
    try:
        yield device
    finally:
        simdriver.fault("")
    counters = simdriver.counters()
    wrong = {name: count for name, count in counters.items() if name.startswith("errors.")}
    assert not wrong, wrong
    assert threading.active_count() == threads, threading.enumerate()
    del device
    end = time.monotonic() + PATIENCE
    while left := {n: (count, before[n]) for n, count in _live().items() if count > before[n]}:
        # What threads have to themselves goes a moment after they count as ended.
        assert time.monotonic() < end, left
        time.sleep(0.05)


def _live() -> dict[str, int]:
    """What is alive on the simulated GPU once everything that is only kept is let go."""
    for cached in gc.get_objects():
        module = cached.__module__ or "" if isinstance(cached, _CACHE) else ""
        if module.startswith("vidai.") and module not in _PROCESS_WIDE:
            cached.cache_clear()
    for _ in range(3):  # what one round finalises, such as a generator, may free more
        gc.collect()
    driver.cuCtxSynchronize()  # memory is freed in stream order
    counters = simdriver.counters()
    names = ("memory.live", "allocations.live", "streams.live", "nvdec.sessions", "nvenc.sessions")
    return {name: counters.get(name, 0) for name in names}


def enlarged(index: int) -> np.ndarray:
    """The picture of tests.squares, in the size of the clips here."""
    small = picture(squares_at(index))
    return small.repeat(SCALE, 0).repeat(SCALE, 1)


def boxes_of(index: int) -> list[tuple[int, list[int]]]:
    """(class, box) of the squares of a frame of such a clip, in px."""
    return [(class_id, [SCALE * side for side in box]) for class_id, box in boxes_at(index)]


def make_squares(path: Path, frames: int = 12, **options: object) -> Path:
    """A clip of coloured squares that NVDEC and NVENC take; H.264 with B-frames by default."""
    from tests.media import make_clip

    settings: dict[str, object] = {
        "codec": "libx264",
        "width": SCALE * SIDE,
        "height": SCALE * SIDE,
        "frames": frames,
        "options": {"crf": "4"},
        "draw": enlarged,
        **options,
    }
    return make_clip(path, **settings)  # type: ignore[arg-type]
