"""A run on the GPU chooses its precision once, on the user's own frames, and says so."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vidai
from tests import simdriver
from tests.cuda.conftest import boxes_of, make_squares
from tests.simdriver.engine import SimEngine
from vidai import precision
from vidai.devices.cuda import CudaDevice
from vidai.devices.cuda import engine as engines
from vidai.devices.cuda.engine import EngineSettings, GpuInfo, Progress
from vidai.errors import DeviceError, ModelError
from vidai.trial import settled

pytestmark = pytest.mark.simulated


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of receipts, empty at first."""
    monkeypatch.setattr(precision, "cache_folder", lambda kind: tmp_path / kind)
    return tmp_path / "engines"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_squares(tmp_path / "in.mp4", frames=20)


def decoders() -> int:
    return simdriver.calls().get("cuvidCreateDecoder", 0)


class Halves:
    """A clock of two that take turns, by which the second needs half as long."""

    def __init__(self) -> None:
        self._times = accumulate(cycle([0, 2, 0, 1]))

    def __call__(self) -> float:
        return next(self._times)


def chosen(
    clip: Path, model: Path, gpu: CudaDevice, build: Progress | None = None, **options: Any
) -> vidai.Detector:
    """The detector that a run would have, by a clock on which fp16 is twice as fast."""
    detector = vidai.Detector(model, device=gpu, precision="auto", **options)
    with vidai.FileSource(clip) as source:
        return settled(detector, source, build, Halves())


def expect_squares(records: Path) -> None:
    for index, line in enumerate(records.read_text().splitlines()):
        found = sorted((row["class_id"], row["box"]) for row in json.loads(line)["detections"])
        for (class_id, box), (want_id, want) in zip(found, sorted(boxes_of(index)), strict=True):
            assert class_id == want_id
            assert np.abs(np.array(box) - want).max() <= 1


def test_the_first_run_chooses_and_later_ones_go_by_it(
    gpu: CudaDevice, clip: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidai.detector.default", precision.default)  # what users have
    records, account = tmp_path / "found.jsonl", tmp_path / "report.json"
    told: list[tuple[str, float]] = []

    def run() -> vidai.Report:
        return vidai.run(
            *(clip, tmp_path / "out.mp4"),
            model=tiny_model,
            device=gpu,
            records=records,
            report=account,
            overwrite=True,
            build=lambda what, part: told.append((what, part)),
        )

    report = run()
    expect_squares(records)
    assert report.frames == 20
    assert report.precision is not None
    assert report.precision.name in ("fp32", "fp16")
    assert "as fast as fp32, boxes agree 1.000 on 20 frames of yours" in report.precision.why
    assert told[-1] == ("comparing fp32 and fp16", 1)
    said = json.loads(account.read_text())["precision"]
    assert said["name"] == report.precision.name
    assert [trial["precision"] for trial in said["receipt"]["trials"]] == ["fp32", "fp16"]
    assert said["receipt"]["case"]["gpu"] == gpu.gpu.name
    assert report.transfers.frames == 20  # the trial is no part of the run's account

    told.clear()
    before = decoders()
    again = run()
    expect_squares(records)
    assert again.precision is not None
    assert again.precision.receipt == report.precision.receipt
    assert "measured in an earlier run" in again.precision.why
    assert decoders() == before + 1  # the run's own
    assert not told


def test_the_winner_stays_and_the_others_go(
    gpu: CudaDevice, clip: Path, tmp_path: Path, tiny_model: Path
) -> None:
    told: list[str] = []
    detector = chosen(clip, tiny_model, gpu, lambda what, part: told.append(what), classes=["red"])
    gc.collect()
    alive = [engine.input.dtype for engine in gc.get_objects() if isinstance(engine, SimEngine)]
    assert alive == [np.float16]
    assert detector.precision is not None
    assert detector.precision.name == "fp16"
    assert detector.precision.why == (
        "2.0 × as fast as fp32, boxes agree 1.000 on 20 frames of yours; fp8 and int8 not tried: "
        "the model is not quantised"
    )
    assert detector.model.spec.dtype == "float16"
    assert told[0] == "taking frames to compare"
    # What was compared were all classes; what is found are those that are wanted.
    assert detector.precision.receipt is not None
    assert detector.precision.receipt.boxes == 60
    with vidai.FileSource(clip) as source:
        found = [d.class_ids.tolist() for _, d in vidai.Pipeline(source, detector).results()]
    assert found == [[0]] * 20


def test_a_detector_without_a_video_goes_by_what_was_measured(
    gpu: CudaDevice, clip: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidai.detector.default", precision.default)
    before = vidai.Detector(tiny_model, device=gpu)
    assert before.precision is None
    assert before.model.spec.dtype == "float32"
    chosen(clip, tiny_model, gpu)
    after = vidai.Detector(tiny_model, device=gpu)
    assert after.precision is not None
    assert (after.precision.name, after.model.spec.dtype) == ("fp16", "float16")
    fixed = vidai.Detector(tiny_model, device=gpu, precision="fp32")
    assert (fixed.precision, fixed.model.spec.dtype) == (
        precision.Precision("fp32", "as asked for"),
        "float32",
    )
    # Of another GPU, and of a run that keeps weaker boxes, nothing is known.
    assert vidai.Detector(tiny_model, device=gpu, conf=0.1).precision is None
    monkeypatch.setattr(gpu.gpu, "name", "another GPU")
    assert vidai.Detector(tiny_model, device=gpu).precision is None


def test_an_engine_that_cannot_be_built_is_recorded(
    gpu: CudaDevice,
    clip: Path,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = engines.open_engine

    def no_halves(
        model: bytes, settings: EngineSettings, gpu: GpuInfo, progress: Progress | None = None
    ) -> engines.Engine:
        if settings.spec.dtype == "float16":
            raise ModelError("no kernel for a half")
        assert progress is not None
        progress("tactics", 0.5)
        return build(model, settings, gpu, progress)

    monkeypatch.setattr(engines, "open_engine", no_halves)
    told: list[str] = []
    detector = chosen(clip, tiny_model, gpu, lambda what, part: told.append(what))
    assert detector.precision is not None
    assert detector.precision.name == "fp32"
    assert detector.precision.why.startswith("fp16 refused: no kernel for a half; fp8 and int8 not")
    assert "fp32: tactics" in told
    # It would fail again, so it is not tried again.
    assert vidai.Detector(tiny_model, device=gpu, precision="auto").precision is not None


def test_a_gpu_that_fails_under_a_candidate_is_recorded_for_this_run_only(
    gpu: CudaDevice, clip: Path, kept: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = 0
    right = SimEngine.enqueue

    def enqueue(
        self: SimEngine, shape: tuple[int, ...], data: int, outputs: Sequence[int], stream: int
    ) -> None:
        nonlocal runs
        if self.input.dtype == np.float16:
            runs += 1
            if runs > 5:  # of 3 batches in each round, the first of which warms up
                raise DeviceError("the GPU's memory is full")
        right(self, shape, data, outputs, stream)

    monkeypatch.setattr(SimEngine, "enqueue", enqueue)
    detector = chosen(clip, tiny_model, gpu)
    assert runs == 6
    assert detector.precision is not None
    assert detector.precision.name == "fp32"
    assert "fp16 refused: the GPU's memory is full" in detector.precision.why
    assert not list(kept.glob("*"))


def test_a_video_of_nothing_decides_nothing(
    gpu: CudaDevice, kept: Path, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", draw=lambda i: np.zeros((256, 256, 3), np.uint8))
    report = vidai.run(
        clip, model=tiny_model, device=gpu, precision="auto", records=tmp_path / "found.jsonl"
    )
    assert report.precision is not None
    assert report.precision.name == "fp32"
    assert "finds 0 objects in 12 frames of yours: 20 are needed" in report.precision.why
    assert not list(kept.glob("*"))


def test_detect_takes_a_precision(
    gpu: CudaDevice, clip: Path, kept: Path, tiny_model: Path
) -> None:
    for name in ("fp16", "auto"):
        found = [d for _, d in vidai.detect(clip, model=tiny_model, device=gpu, precision=name)]
        assert [sorted(d.class_ids.tolist()) for d in found] == [[0, 1, 2]] * 20
        assert len(list(kept.glob("*"))) == (name == "auto")
