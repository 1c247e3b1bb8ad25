"""Eight-bit models that keep their accuracy, and the proof of it: see docs/quantization.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from vidai.device import open_device
from vidai.errors import ConfigError, ModelError, SinkError
from vidai.models import Model, load_model
from vidai.models.catalog import resolve
from vidai.quantization.record import QuantizationRecord
from vidai.sinks.target import Target, check_target
from vidai.sources.media import media_files, sample
from vidai.tags import reason

__all__ = ["QuantizationRecord", "quantize"]


def quantize(
    model: str | Path | Model,
    output: str | Path,
    *,
    calibrate: str | Path | Sequence[str | Path],
    precision: str = "fp8",
    target: float = 0.98,
    conf: float = 0.35,
    iou: float = 0.45,
    frames: int = 120,
    family: str | None = None,
    report: str | Path | None = None,
    chart: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
    download: Callable[[int, int], None] | None = None,
) -> QuantizationRecord:
    """Write a model whose convolutions and matrix products compute in eight bits, as many of them
    as the target allows; needs vidai[quantize].

    model: a float32 detector. output: an ONNX file; what it is made of travels in its metadata.
    calibrate: clips, pictures and folders of them, like those that the model is to run on.
    precision: "fp8" for GPUs from Ada on, the rest in float16; "int8" for older GPUs, the rest in
    float32; on CPUs int8 saves space, not time. target: least F1, 0–1, between the detections of
    the two models, at score conf and IoU 0.5, on frames that were used for nothing else. frames:
    how many to take from the files; a third each to calibrate, to search and to prove. report: the
    record as JSON; chart: the trade-off as .svg or .png. progress: called with what is done and
    how much of it, 0–1.

    All of it runs on the CPU. A run that was interrupted goes on where it was. Where the target
    cannot be reached, the best that was found is written, and the record's `reached` is False.
    Raises VidaiError.
    """
    try:
        from vidai.quantization.chart import check_chart, picture
        from vidai.quantization.formats import FORMATS
        from vidai.quantization.graph import Network
        from vidai.quantization.making import make
        from vidai.quantization.quantizer import fit_layers, with_record
    except ModuleNotFoundError as error:
        raise ModelError(
            f"quantising needs the package {error.name}: pip install 'vidai[quantize]'"
        ) from error
    if precision not in FORMATS:
        raise ConfigError(f"no precision {precision!r} to quantise to: use {' or '.join(FORMATS)}")
    if not 0 <= target <= 1:
        raise ConfigError(f"target is an F1 from 0 to 1, not {target}")
    if frames < 3:
        raise ConfigError(
            f"frames is at least 3, one each to calibrate, search and prove: {frames}"
        )
    if chart is not None:
        check_chart(chart)
    told = progress or (lambda what, part: None)
    files = media_files([calibrate] if isinstance(calibrate, (str, os.PathLike)) else calibrate)
    with ExitStack() as undo:
        targets = {}
        for name, path in (("output", output), ("report", report), ("chart", chart)):
            if path is not None:
                _spare(path, [*files, model])
                targets[name] = Target(path, overwrite=overwrite)
                undo.callback(targets[name].discard)
        if targets["output"].path.suffix.lower() != ".onnx":
            raise ConfigError(f"the model {output} needs a name that ends in .onnx")
        if not isinstance(model, Model):
            named = model
            model = load_model(named, family=family, progress=download)
            for written in targets.values():
                _spare(written.path, [resolve(named)])  # which may be elsewhere than its name says
        network = Network(model)
        fit_layers(network)  # before the frames, which take longer
        taken, unread = sample(files, open_device("cpu"), frames, told)
        made, record = make(
            *(model, network, taken),
            form=FORMATS[precision],
            target=target,
            conf=conf,
            iou=iou,
            progress=told,
        )
        record = replace(record, unread=tuple(unread))
        contents = {"output": with_record(made, record)}
        if report is not None:
            contents["report"] = record.to_json().encode()
        if chart is not None:
            contents["chart"] = picture(record, Path(chart).suffix)
        notes = [_write(targets[name], data) for name, data in contents.items()]
    return replace(record, notes=(*record.notes, *filter(None, notes)))


def _spare(path: str | Path, given: Sequence[object]) -> None:
    """Raises ConfigError where a result would replace what it is made from."""
    for source in given:
        if isinstance(source, (str, Path)) and Path(source).exists():
            check_target(path, overwrite=True, source=source)


def _write(target: Target, data: bytes) -> str:
    """Write the file and return what a user should know of its name, "" for nothing."""
    try:
        target.temporary.write_bytes(data)
    except OSError as error:
        raise SinkError(f"cannot write {target.path}: {reason(error)}") from error
    written = target.commit()
    if written == str(target.path):
        return ""
    return f"{target.path} has appeared meanwhile and stays: the result is {written}"
