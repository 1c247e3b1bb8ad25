"""How good a model is: by labels, or by what another model finds in the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidai.detector import Detector
from vidai.device import Device, open_device
from vidai.errors import ConfigError
from vidai.evaluation.agreement import Agreement, Comparison
from vidai.evaluation.classes import Classes, common_classes, some
from vidai.evaluation.coco import (
    Accuracy,
    Labels,
    accuracy,
    as_labelled,
    check_evaluator,
    is_labels,
    left_out,
    named,
    read_labels,
)
from vidai.evaluation.looking import Threshold, in_order, seen
from vidai.models import Model, load_model
from vidai.precision import default, variants
from vidai.sources.media import media_files, picture, sample
from vidai.types import Detections, Frame

Given = str | Path | Model | Detector
Progress = Callable[[str, float], None]

# AP needs the weak boxes too, to follow the precision down to the last object that is found:
# these are the thresholds that detectors are usually measured with, YOLOX's own among them.
FOR_ACCURACY = Threshold(0.001, 0.65)
FOR_AGREEMENT = Threshold(0.35, 0.45)  # what runs use, and so what a user sees


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` has found.

    frames: how many pictures or frames were looked at. accuracy, against_accuracy: COCO's
    measures of the model and the one it is compared with, None without labels. agreement: with
    `against` as the reference and the model as the other, None where it stands alone.
    *_threshold: with which boxes. notes: what a user should know. unread: about files that could
    not be read, and are left out.
    """

    model: str
    against: str | None
    device: str
    frames: int
    data: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    against_accuracy: Accuracy | None = None
    accuracy_threshold: Threshold | None = None
    agreement: Agreement | None = None
    agreement_threshold: Threshold | None = None
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Threshold):
        return value._asdict()
    if isinstance(value, tuple):
        return list(value)
    return value.to_dict() if isinstance(value, (Accuracy, Agreement)) else value


def evaluate(
    model: Given,
    data: str | Path | Sequence[str | Path],
    *,
    against: Given | None = None,
    device: str | Device = "auto",
    conf: float | None = None,
    iou: float | None = None,
    images: str | Path | None = None,
    frames: int = 200,
    family: str | None = None,
    against_family: str | None = None,
    progress: Progress | None = None,
    download: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model by labels, against another model, or both.

    data: a JSON file of labelled boxes in COCO's format, for average precision (needs the extra
    `eval`); or clips, pictures and folders of them, for which `against` is needed: up to
    `frames` frames are taken from them, spread over all. images: the folder of the pictures
    that the JSON file names, if it is not the file's own.

    model, against: catalog names, paths of ONNX files, loaded models, or detectors, of which
    the model and device count. Each is taken in its own precision. Classes are the same where
    their names are; those that not every side knows are left out. conf: least score of a box,
    iou: overlap above which the weaker of two of one class is dropped, both 0–1; None is 0.001
    and 0.65 for average precision, 0.35 and 0.45 for agreement.

    progress: called with what is done and how much of it, 0–1; download: with bytes done and in
    all while a catalog model is fetched. Raises ConfigError for what cannot be compared,
    ModelError for a model, StreamError for a picture of the JSON file or where no file can be
    read.
    """
    told = progress or (lambda what, part: None)
    paths = [Path(path) for path in ([data] if isinstance(data, (str, Path)) else data)]
    labels = _labels(paths, images)
    if labels is None and against is None:
        raise ConfigError(
            "without labels a model can only be compared with another: give one with against "
            "(--against), or a JSON file of labels in COCO's format as data"
        )
    given = [(model, family)] if against is None else [(model, family), (against, against_family)]
    opened = next((one.device for one, _ in given if isinstance(one, Detector)), device)
    opened = open_device(opened) if isinstance(opened, str) else opened
    threshold = (FOR_AGREEMENT if labels is None else FOR_ACCURACY).replaced(conf, iou)
    detectors = [
        _detector(one, of_family, opened, threshold, told, download) for one, of_family in given
    ]
    names = [detector.model.name for detector in detectors]
    if len(set(names)) < len(names):  # models of two folders, it may be
        names = [
            str(one) if isinstance(one, (str, Path)) else name
            for (one, _), name in zip(given, names, strict=True)
        ]
    sides = [Side(*side) for side in zip(names, detectors, strict=True)]
    if labels is None:
        found = _by_each_other(paths, sides, frames, told)
    else:
        found = _by_labels(labels, sides, FOR_AGREEMENT.replaced(conf, iou), told)
    heard = tuple(dict.fromkeys(note for side in sides for note in side.detector.notes))
    return replace(found, data=tuple(map(str, paths)), notes=found.notes + heard)


@dataclass(frozen=True)
class Side:
    """A model that is measured, by the name that it has in the result."""

    name: str
    detector: Detector

    @property
    def classes(self) -> dict[int, str]:
        return dict(enumerate(self.detector.names))


def _labels(paths: Sequence[Path], images: str | Path | None) -> Labels | None:
    """The file of labels, None where there is none. Raises ConfigError."""
    if not paths:
        raise ConfigError(
            "there is no data: name a JSON file of labels, clips, pictures or folders"
        )
    if not any(map(is_labels, paths)):
        if images is not None:
            raise ConfigError("images is the folder of a JSON file's pictures: name that file too")
        return None
    if len(paths) > 1:
        raise ConfigError(
            f"{next(filter(is_labels, paths))} is a file of labels, which is measured alone: leave "
            f"out the other data"
        )
    check_evaluator()
    return read_labels(paths[0], None if images is None else Path(images))


def _detector(
    given: Given,
    family: str | None,
    device: Device,
    threshold: Threshold,
    progress: Progress,
    download: Callable[[int, int], None] | None,
) -> Detector:
    """The model on the device, in the precision of its file: what is chosen for speed is not
    what is to be measured."""
    model = given.model if isinstance(given, Detector) else given
    if isinstance(model, (str, Path)):
        model = load_model(model, family=family, progress=download)
    precision = None if default(device) is None else next(iter(variants(model)))
    return Detector(
        model,
        device=device,
        conf=threshold.conf,
        iou=threshold.iou,
        precision=precision,
        build=progress,
    )


def _by_labels(
    labels: Labels, sides: Sequence[Side], for_agreement: Threshold, progress: Progress
) -> Evaluation:
    classes = _labelled_classes(labels, sides)
    device = sides[0].detector.device
    several = len(sides) > 1
    pictures = labels.pictures

    def look(number: int) -> list[list[Detections]]:
        shown = as_labelled(picture(pictures[number].path, device), pictures[number], labels.path)
        also = [for_agreement] if several else []
        return [seen(side.detector, shown, also) for side in sides]

    found: list[list[Detections]] = [[] for _ in sides]
    comparison = Comparison()
    for done, looked in enumerate(in_order(look, range(len(pictures)), device.workers)):
        progress("looking at pictures", done / len(pictures))
        # Side 0 of the classes is the file.
        common = [
            [classes.common(one, n) for one in one_side] for n, one_side in enumerate(looked, 1)
        ]
        for kept, (first, *_) in zip(found, common, strict=True):
            kept.append(first)
        if several:
            (_, other), (_, reference) = common
            comparison.add(reference, other)
    progress("computing precision", 1)
    measured = [accuracy(labels, classes, one) for one in found]
    return Evaluation(
        model=sides[0].name,
        against=sides[1].name if several else None,
        device=device.name,
        frames=len(pictures),
        accuracy=measured[0],
        against_accuracy=measured[1] if several else None,
        accuracy_threshold=Threshold(sides[0].detector.conf, sides[0].detector.iou),
        agreement=comparison.result() if several else None,
        agreement_threshold=for_agreement if several else None,
        notes=tuple(left_out(labels, classes)),
    )


def _labelled_classes(labels: Labels, sides: Sequence[Side]) -> Classes:
    for side in sides:
        if not side.classes:
            raise ConfigError(
                f"{side.name} has no names of its classes, so those of {labels.path} cannot be "
                f"told: add the metadata `names` to the ONNX file"
            )
    categories = named(labels, [side.detector.names for side in sides])
    classes = common_classes([categories, *(side.classes for side in sides)])
    if classes.names:
        return classes
    known = "; ".join(f"{side.name} knows {some(side.detector.names)}" for side in sides)
    raise ConfigError(
        f"no class is common to {labels.path} and all models: the file has "
        f"{some([*labels.categories.values()])}; {known}"
    )


def _by_each_other(
    paths: Sequence[Path], sides: Sequence[Side], count: int, progress: Progress
) -> Evaluation:
    classes, notes = _common_classes(sides)
    device = sides[0].detector.device
    frames, unread = sample(media_files(paths), device, count, progress)
    total = len(frames)

    def look(frame: Frame) -> list[Detections]:
        return [classes.common(side.detector([frame])[0], n) for n, side in enumerate(sides)]

    comparison = Comparison()
    for done, (other, reference) in enumerate(in_order(look, _handed_over(frames), device.workers)):
        progress("comparing", done / total)
        comparison.add(reference, other)
    progress("comparing", 1)
    return Evaluation(
        model=sides[0].name,
        against=sides[1].name,
        device=device.name,
        frames=total,
        agreement=comparison.result(),
        agreement_threshold=Threshold(sides[0].detector.conf, sides[0].detector.iou),
        notes=tuple(notes),
        unread=tuple(unread),
    )


def _handed_over(frames: list[Frame]) -> Iterator[Frame]:
    """Each frame once; its memory is free as soon as the taker has done with it."""
    frames.reverse()
    while frames:
        yield frames.pop()


def _common_classes(sides: Sequence[Side]) -> tuple[Classes, list[str]]:
    """And notes on the classes that do not count."""
    nameless = [side.name for side in sides if not side.classes]
    if nameless:
        names = next((side.detector.names for side in sides if side.classes), ())
        told = f"{nameless[0]} has no names of its classes: they are compared by their numbers"
        return Classes(names, (None,) * len(sides)), [told]
    classes = common_classes([side.classes for side in sides])
    if not classes.names:
        known = " and ".join(f"{side.name} ({some(side.detector.names)})" for side in sides)
        raise ConfigError(f"no class is common to {known}: there is nothing to compare")
    notes = []
    for side, table in zip(sides, classes.tables, strict=True):
        own = [name for number, name in side.classes.items() if number not in (table or {})]
        if own:
            notes.append(f"classes that only {side.name} knows are left out: {some(own)}")
    return classes, notes
