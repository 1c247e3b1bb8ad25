"""Several streams, long ones, and what the simulation must notice."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vidai
from tests import simdriver
from tests.cuda.conftest import BUDGET, MODE, make_squares
from tests.cuda.keep import Keep
from tests.surfaces import random_frame
from vidai.batcher import Batcher
from vidai.detector import Run
from vidai.devices.cuda import CudaDevice
from vidai.devices.cuda.session import CudaSession
from vidai.devices.cuda.surface import upload
from vidai.errors import ConfigError, KernelError
from vidai.ops import draw
from vidai.pipeline import Pipeline, Sink
from vidai.steps import Overlay, Step
from vidai.types import InputSpec


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
    assert waits <= 500 / detector.max_batch + 40  # one a batch, and those of tables sent once


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


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_drawing_on_a_frame_of_a_loop_leaves_it_as_it_was(
    device: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=3)
    for frame, _ in vidai.detect(clip, model=tiny_model, device=gpu if device == "cuda" else "cpu"):
        before = np.asarray(frame).copy()
        box = np.array([[10, 10, 200, 200]], np.float32)
        drawn = draw(frame, box, np.array([[255, 0, 0]], np.uint8), thickness=20)
        assert (np.asarray(drawn) != before).any()
        assert (np.asarray(frame) == before).all()


def test_frames_and_detector_are_of_one_device(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=2)
    on_cpu = vidai.Detector(tiny_model, device="cpu")
    with pytest.raises(ConfigError, match=r"detector is on cpu.* cuda:0"):
        Pipeline(str(clip), on_cpu, device=gpu)
    Pipeline(str(clip), on_cpu, device=vidai.open_device("cpu")).run()
    frames = [frame for frame, _ in vidai.detect(clip, model=tiny_model, device=gpu)]
    with pytest.raises(ConfigError, match=r"in.mp4.* cuda:0.* detector is on cpu"):
        on_cpu(frames)


def test_frames_of_a_batch_are_of_one_input_size(gpu: CudaDevice, tiny_model: Path) -> None:
    detector = vidai.Detector(tiny_model, device=gpu)
    detector.model = replace(detector.model, spec=InputSpec(0, 0))
    frames = [upload(gpu.lane(), random_frame(64 * n, 64, "NV12")) for n in (1, 2)]
    with pytest.raises(ConfigError, match=r"64 x 64.*128 x 64"):
        detector.start(frames)


def test_the_report_counts_from_the_start_of_the_run(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=2)
    pipeline = Pipeline(str(clip), vidai.Detector(tiny_model, device=gpu))
    gpu.to_device(np.zeros(1000, np.uint8), "not of this run")
    assert "host_to_device: not of this run" not in pipeline.run().transfers.to_dict()["sources"]


def test_an_error_that_names_its_frame_is_not_its_own_cause(
    gpu: CudaDevice, tmp_path: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=2)

    def failing(frame: vidai.Frame, _: vidai.Detections) -> vidai.Frame:
        raise KernelError(f"{frame.info.name} at 0.000 s: it failed")

    with pytest.raises(KernelError) as caught:
        Pipeline(str(clip), steps=[failing], device=gpu).run()
    assert caught.value.__cause__ is None


def test_frames_of_an_abandoned_loop_are_let_go(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    """Also while another stream goes on with the detector."""
    clip = make_squares(tmp_path / "in.mp4", frames=60)
    detector = vidai.Detector(tiny_model, device=gpu)
    with detector.batching() as submit:
        abandoned = Pipeline(str(clip), detector).results()
        next(abandoned)
        other = upload(gpu.lane(), random_frame(128, 128, "NV12"))
        pending = submit(other)
        gatherer = detector._gatherer
        assert isinstance(gatherer, Batcher)
        (gathering,) = gatherer._gathering.values()
        mine = [frame for frame in gathering.frames.values() if frame.device is not other.device]
        seen = [weakref.ref(frame) for frame in mine]
        assert seen  # else this proves nothing
        del mine
        abandoned.close()
        gc.collect()
        assert [ref() for ref in seen] == [None] * len(seen)
        assert list(gathering.frames.values()) == [other]
        found, _ = pending.result()  # places stay as they were
        (alone,) = detector([other])
        assert found.to_dicts() == alone.to_dicts()


@pytest.mark.simulated
@pytest.mark.parametrize("rule", ["launch.letterbox:3:1", "launch.candidates:1:1"])
def test_a_batch_that_fails_leaves_its_session_free(
    rule: str, gpu: CudaDevice, tiny_model: Path
) -> None:
    """Its memory is not used by others while what was queued still writes to it."""
    detector = vidai.Detector(tiny_model, device=gpu)
    frames = [upload(gpu.lane(), random_frame(256, 256, "NV12", seed=n)) for n in range(4)]
    detector(frames)
    ((session, inputs),) = detector._idle
    (data,) = inputs.values()
    simdriver.fault(rule)
    with pytest.raises(KernelError):
        detector(frames)
    simdriver.fault("")
    ((again, _),) = detector._idle
    assert again is session
    zeros = np.zeros(data.shape, np.float32)
    gpu.gpu.copy_to_device(data.ptr, zeros, gpu.stream, "host_to_device", "zeros")
    gpu.synchronize()
    for frame in frames:
        frame.device.synchronize()
    assert not gpu.to_host(data).any()


def test_a_session_keeps_the_outputs_of_a_few_shapes(
    gpu: CudaDevice, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = gpu.session(tiny_model.read_bytes())
    assert isinstance(session, CudaSession)
    model = session._engine
    monkeypatch.setattr(
        model, "output_shapes", lambda shape: [(1, *shape[1:])] * len(model.outputs)
    )
    monkeypatch.setattr(model, "enqueue", lambda *_: None)
    data = gpu.empty((1, 3, 40, 40), np.float32)
    for side in range(1, 40):
        session.run(replace(data, shape=(1, 3, side, side)))
    assert list(session._outputs) == [(1, 3, side, side) for side in range(24, 40)]
