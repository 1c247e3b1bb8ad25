"""The two functions that most programs need: run a file through a pipeline, or loop over
its detections."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from vidai.config import load_config
from vidai.detector import Detector
from vidai.device import Device, open_device
from vidai.errors import ConfigError, SinkError, VidaiError
from vidai.pipeline import Pipeline, Sink
from vidai.report import Report
from vidai.sinks.jsonl import JsonLines
from vidai.sinks.target import Target
from vidai.sinks.video import VideoFile
from vidai.sources.file import FileSource
from vidai.steps import steps_from
from vidai.tags import reason
from vidai.tracking import Tracker
from vidai.trial import settled
from vidai.types import Detections, Frame

PathLike = str | Path


def run(
    input: PathLike,  # noqa: A002
    output: PathLike | None = None,
    *,
    pipeline: str = "detect",
    model: PathLike | None = None,
    family: str | None = None,
    device: str | Device = "auto",
    conf: float | None = None,
    iou: float | None = None,
    classes: Iterable[str | int] | None = None,
    precision: str | None = None,
    track: bool | None = None,
    records: PathLike | None = None,
    report: PathLike | None = None,
    codec: str = "h264",
    quality: int | None = None,
    preset: str | None = None,
    bframes: int | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    audio: bool = True,
    strict: bool = False,
    strict_gpu: bool = False,
    max_host_bytes_per_frame: int | None = None,
    overwrite: bool = False,
    progress: Callable[[Report], None] | None = None,
    download: Callable[[int, int], None] | None = None,
    build: Callable[[str, float], None] | None = None,
) -> Report:
    """Run a video file through a pipeline and return the report.

    output: annotated video (.mp4, .mov, .mkv, .webm), None to draw and encode nothing.
    pipeline: a ready pipeline ("detect", "anonymize") or a YAML file; model, family,
    conf, iou, classes and track override what it says. track: each object has an id that stays
    with it over the frames; needs the extra `track`. precision: "fp32", "fp16", "fp8", "int8", or
    "auto", the default on a GPU: the fastest that finds the same in frames of this file, measured
    at the first run there; on the CPU the default is the model as it is, and others are for
    comparing, not for speed. records: one JSON line a frame. report: the returned report as
    JSON, also when the run fails midway. codec: "h264", "hevc", "av1";
    quality: its CRF, lower is better; preset, bframes: the encoder's own. start, end: seconds
    from the beginning. strict: damaged input is an error. strict_gpu: what the GPU cannot do
    itself is an error, not work for the CPU. max_host_bytes_per_frame: an error once more than
    that crosses between host and GPU memory, on average. progress: called about ten times a
    second with the report; download: with bytes done and in all while a catalog model is
    fetched; build: with what is done and how much, 0–1, while an engine is built for the GPU
    and its precision is chosen. Nothing that exists is overwritten unless overwrite is true.
    Raises VidaiError.
    """
    if str(report) == "-":
        raise ConfigError("the report needs the name of a file: only records go to stdout as -")
    _check_distinct(output, records, report)
    config = load_config(pipeline)
    steps = steps_from(config.steps)
    tracker = Tracker() if (config.track if track is None else track) else None
    if isinstance(device, str):
        opened = open_device(device, strict_gpu=strict_gpu)
    elif strict_gpu and not device.strict:
        raise ConfigError("strict_gpu comes too late for an open device: give it to open_device")
    else:
        opened = device
    with FileSource(input, start=start, end=end) as source, ExitStack() as undo:
        sinks: list[Sink] = []
        if records is not None:
            sinks.append(JsonLines(records, overwrite=overwrite))
        if output is not None:
            sinks.append(
                VideoFile(
                    output,
                    codec=codec,
                    quality=quality,
                    preset=preset,
                    bframes=bframes,
                    audio=audio,
                    overwrite=overwrite,
                )
            )
        for sink in sinks:
            sink.check(source, opened)
        account = None
        if report is not None:
            account = Target(report, overwrite=overwrite, source=source.path)
            undo.callback(account.discard)
        detector = Detector(
            config.model if model is None else model,
            family=family or (config.family if model is None else None),
            device=opened,
            conf=config.conf if conf is None else conf,
            iou=config.iou if iou is None else iou,
            classes=config.classes if classes is None else classes,
            precision=precision,
            download=download,
            build=build,
        )
        detector = settled(detector, source, build)
        running = Pipeline(
            source,
            detector,
            tracker=tracker,
            steps=steps if output is not None else (),
            sinks=sinks,
            max_frames=max_frames,
            strict=strict,
            max_host_bytes_per_frame=max_host_bytes_per_frame,
        )
        try:
            return running.run(progress)
        except VidaiError as error:
            running.report.error = str(error)
            raise
        finally:
            if account is not None:
                _save(running.report, account)


def _save(report: Report, account: Target) -> None:
    try:
        account.temporary.write_text(report.to_json(), encoding="utf-8")
    except OSError as error:
        raise SinkError(f"cannot write {account.path}: {reason(error)}") from error
    account.commit()


def _check_distinct(*outputs: PathLike | None) -> None:
    paths = [os.path.realpath(path) for path in outputs if path is not None and str(path) != "-"]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"two outputs are named {path}: choose another name for one")


def detect(
    input: PathLike,  # noqa: A002
    *,
    model: PathLike = "yolox-nano",
    family: str | None = None,
    device: str | Device = "auto",
    conf: float = 0.35,
    iou: float = 0.45,
    classes: Iterable[str | int] | None = None,
    precision: str | None = None,
    track: bool = False,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    strict: bool = False,
) -> Iterator[tuple[Frame, Detections]]:
    """Loop over a video: `for frame, detections in vidai.detect("in.mp4"): …`.

    Frames come in order while the next ones are decoded and inferred; they stay valid for
    as long as you keep them. The options are those of `run`. Damaged input gives what can
    be read and a warning; strict makes it a DecodeError. Raises VidaiError.
    """
    tracker = Tracker() if track else None
    with FileSource(input, start=start, end=end) as source:
        detector = Detector(
            model,
            family=family,
            device=device,
            conf=conf,
            iou=iou,
            classes=classes,
            precision=precision,
        )
        detector = settled(detector, source)
        pipeline = Pipeline(source, detector, tracker=tracker, max_frames=max_frames, strict=strict)
        with closing(pipeline.results()) as results:
            yield from results
        if told := pipeline.damage():
            warnings.warn(told, stacklevel=2)
