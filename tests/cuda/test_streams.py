"""Several streams, long ones, and what the simulation must notice."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vidai
from tests import simdriver
from tests.cuda.conftest import BUDGET, MODE, make_squares
from tests.cuda.keep import Keep
from vidai.detector import Run
from vidai.devices.cuda import CudaDevice
from vidai.pipeline import Pipeline, Sink
from vidai.steps import Overlay, Step


def test_four_streams_share_batches_and_see_what_each_sees_alone(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"codec": "libx265", "pix_fmt": "yuv420p10le"},
        {"width": 320, "height": 192, "draw": None},
        {"codec": "libvpx-vp9"},
    ]
    suffixes = [".mp4", ".mp4", ".mp4", ".webm"]
    clips = [
        make_squares(tmp_path / f"in{n}{suffix}", frames=25, **how)
        for n, (how, suffix) in enumerate(zip(options, suffixes, strict=True))
    ]
    detector = vidai.Detector(tiny_model, device=gpu)
    batches: list[int] = []  # how many streams were in each
    frames_in: list[int] = []
    start = detector.start

    def counted(frames: Sequence[vidai.Frame]) -> Run:
        batches.append(len({id(frame.device) for frame in frames}))
        frames_in.append(len(frames))
        return start(frames)

    detector.start = counted  # type: ignore[method-assign]
    keeps = [Keep() for _ in clips]
    together = threading.Barrier(4)

    def in_step(frame: vidai.Frame, _: vidai.Detections) -> vidai.Frame:
        together.wait()
        return frame

    def run(n: int) -> None:
        steps: list[Step] = [in_step, Overlay()]
        Pipeline(str(clips[n]), detector, steps=steps, sinks=[keeps[n]]).run()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(frames_in) == 100
    assert max(frames_in) == detector.max_batch
    assert max(batches) > 1
    for clip, keep in zip(clips, keeps, strict=True):
        truth = Keep()
        Pipeline(
            str(clip), vidai.Detector(tiny_model, device="cpu"), steps=[Overlay()], sinks=[truth]
        ).run()
        assert len(keep.kept) == 25
        for (pts, planes, found), (want_pts, want, expected) in zip(
            keep.kept, truth.kept, strict=True
        ):
            assert pts == want_pts
            assert found.to_dicts() == expected.to_dicts()
            for plane, wanted in zip(planes, want, strict=True):
                assert (plane == wanted).all()


@pytest.mark.simulated
def test_five_hundred_frames_take_no_more_memory_than_fifty(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=500, options={"crf": "20"})
    out = tmp_path / "out.mp4"
    seen: dict[int, tuple[int, int]] = {}

    class Watch(Keep):
        def write(self, frame: vidai.Frame, detections: vidai.Detections) -> None:
            if frame.index in (50, 480):
                files = len(os.listdir("/proc/self/fd"))
                seen[frame.index] = simdriver.counters()["memory.peak"], files

    sinks: list[Sink] = [vidai.VideoFile(out), Watch()]
    detector = vidai.Detector(tiny_model, device=gpu)
    pipeline = Pipeline(
        str(clip), detector, steps=[Overlay()], sinks=sinks, max_host_bytes_per_frame=BUDGET
    )
    report = pipeline.run()
    assert report.frames == 500
    (early, files), (late, later_files) = seen[50], seen[480]
    assert late <= early * 1.5  # how far the reader is ahead of the writer varies
    assert later_files <= files
    waits = report.transfers.waits["stream"]
    assert waits <= 500 + 40  # one a batch at most, and those of the tables sent once


@pytest.mark.simulated
@pytest.mark.skipif(MODE != "deferred", reason="only deferred work can be missed")
@pytest.mark.parametrize("broken", ["session", "encoder"])
def test_the_simulation_shows_a_missing_order_of_two_streams(
    broken: str,
    gpu: CudaDevice,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proof that these tests can fail: without events pictures are not there in time."""
    clip, out = make_squares(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    truth, found = Keep(), Keep()
    detector = vidai.Detector(tiny_model, device=gpu)
    Pipeline(str(clip), detector, steps=[Overlay()], sinks=[truth, vidai.VideoFile(out)]).run()
    if broken == "encoder":
        right = nvenc_inputs()
    monkeypatch.setattr(CudaDevice, "after", lambda self, other: None)
    simdriver.reset()
    detector = vidai.Detector(tiny_model, device=gpu)
    video = vidai.VideoFile(out, overwrite=True)
    sinks: list[Sink] = [found] if broken == "session" else [video]
    Pipeline(str(clip), detector, steps=[Overlay()], sinks=sinks).run()
    if broken == "session":
        pairs = zip(found.kept, truth.kept, strict=True)
        assert any(a[2].to_dicts() != b[2].to_dicts() for a, b in pairs)
    else:
        assert nvenc_inputs() != right


def nvenc_inputs() -> list[int]:
    """Checksums of the pictures that NVENC was given."""
    return [row[-1] for row in simdriver.encoded_pictures()]


def test_pictures_are_kept_as_long_as_the_caller_wants(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=40)
    kept = [frame for frame, _ in vidai.detect(clip, model=tiny_model, device=gpu)]
    seen = [np.asarray(frame) for frame in kept]
    truth = [np.asarray(f) for f, _ in vidai.detect(clip, model=tiny_model, device="cpu")]
    for a, b in zip(seen, truth, strict=True):
        assert (a == b).all()
