"""Live streams on the GPU: what it finds, draws and encodes is what the CPU does."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.cuda.conftest import make_squares
from vidai.devices.cuda import CudaDevice
from vidai.live.output import Record
from vidai.live.worker import Worker

PATIENCE = 60.0
FRAMES = 25


def until(true: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"waited {PATIENCE:g} s: {what}"
        time.sleep(0.02)


def boxes_of(device: str, streams: dict[str, Any], model: Path, state: Path) -> dict[str, Any]:
    """What is found in each frame of each stream, once every file is at its end."""
    found: dict[str, dict[int, Any]] = defaultdict(dict)

    def keep(record: Record) -> None:
        found[record.stream][record.frame] = record.detections

    config = {
        "model": str(model),
        "device": device,
        "analysis": {"max_batch": 4, "max_wait_ms": 20},
        "http": None,
        "state": str(state),
        "defaults": {"least_fps": 1000},  # every frame is analysed, however long that takes
        "streams": streams,
    }
    with Worker(config, on_record=keep) as worker:
        until(
            lambda: all(s.state == "ended" and not s.waiting for s in worker.status().streams),
            "the end of all files",
        )
    failed = [e.text for e in worker.events.since() if e.kind.endswith("failed")]
    assert not failed
    for event in worker.events.since():
        if event.kind == "ledger":
            assert event.data["processed"] == event.data["received"] == FRAMES
    return found


def test_streams_share_the_gpu_and_find_what_the_cpu_finds(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    streams = {}
    for n in range(3):
        clip = make_squares(tmp_path / f"in{n}.mp4", frames=FRAMES)
        outputs = [{"record": {"of": "annotated"}}]
        streams[f"s{n}"] = {"url": str(clip), "policy": "every", "outputs": outputs}
    expected = boxes_of("cpu", streams, tiny_model, tmp_path / "cpu")
    found = boxes_of("cuda", streams, tiny_model, tmp_path / "gpu")
    for name, frames in expected.items():
        assert sorted(frames) == sorted(found[name]) == [*range(FRAMES)]
        for index, detections in frames.items():
            assert np.array_equal(detections.boxes, found[name][index].boxes)
            assert np.array_equal(detections.track_ids, found[name][index].track_ids)
    recorded = sorted((tmp_path / "gpu").rglob("*.mp4"))
    assert len(recorded) == len(streams)
    for path in recorded:
        with av.open(str(path)) as file:
            assert sum(1 for _ in file.decode(video=0)) == FRAMES
