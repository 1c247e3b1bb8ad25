"""The two functions that most programs need: run a file through a pipeline, or loop over
its detections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from vidai.config import load_config
from vidai.detector import Detector
from vidai.device import Device, open_device
from vidai.pipeline import Pipeline, Sink
from vidai.report import Report
from vidai.sinks.jsonl import JsonLines
from vidai.sinks.target import check_target
from vidai.sinks.video import VideoFile
from vidai.sources.file import FileSource
from vidai.steps import steps_from
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
    records: PathLike | None = None,
    report: PathLike | None = None,
    codec: str = "h264",
    quality: int | None = None,
    preset: str | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    audio: bool = True,
    strict: bool = False,
    overwrite: bool = False,
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Run a video file through a pipeline and return the report.

    output: annotated video (.mp4, .mov, .mkv, .webm), None to draw and encode nothing.
    pipeline: a ready pipeline ("detect", "anonymize") or a YAML file; model, family,
    conf, iou and classes override what it says. records: one JSON line a frame. report:
    the returned report as JSON. codec: "h264", "hevc", "av1"; quality: its CRF, lower is
    better; preset: the encoder's own. start, end: seconds from the beginning. progress:
    called about ten times a second. Nothing that exists is overwritten unless overwrite
    is true. Raises VidaiError.
    """
    config = load_config(pipeline)
    steps = steps_from(config.steps)
    if report is not None:
        check_target(Path(report), overwrite=overwrite, source=Path(input))
    opened = open_device(device) if isinstance(device, str) else device
    with FileSource(input, start=start, end=end) as source:
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
                    audio=audio,
                    overwrite=overwrite,
                )
            )
        for sink in sinks:
            sink.check(source)
        detector = Detector(
            config.model if model is None else model,
            family=family or (config.family if model is None else None),
            device=opened,
            conf=config.conf if conf is None else conf,
            iou=config.iou if iou is None else iou,
            classes=config.classes if classes is None else classes,
        )
        finished = Pipeline(
            source,
            detector,
            steps=steps if output is not None else (),
            sinks=sinks,
            max_frames=max_frames,
            strict=strict,
        ).run(progress)
    if report is not None:
        finished.save(report)
    return finished


def detect(
    input: PathLike,  # noqa: A002
    *,
    model: PathLike = "yolox-nano",
    family: str | None = None,
    device: str | Device = "auto",
    conf: float = 0.35,
    iou: float = 0.45,
    classes: Iterable[str | int] | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
) -> Iterator[tuple[Frame, Detections]]:
    """Loop over a video: `for frame, detections in vidai.detect("in.mp4"): …`.

    Frames come in order while the next ones are decoded and inferred. The options are
    those of `run`. Raises VidaiError.
    """
    with FileSource(input, start=start, end=end) as source:
        detector = Detector(
            model, family=family, device=device, conf=conf, iou=iou, classes=classes
        )
        with closing(Pipeline(source, detector, max_frames=max_frames).results()) as results:
            yield from results
