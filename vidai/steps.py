"""What a pipeline does to a frame once its detections are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

import numpy as np

from vidai.errors import ConfigError
from vidai.ops.image import check_degrees, check_matrix, check_sigma, gaussian, rotate, warp
from vidai.ops.overlay import check_drawing, color_for, draw
from vidai.ops.redact import check_redaction, redact
from vidai.ops.yuv import write_rgb
from vidai.types import Detections, Frame


class Step(Protocol):
    """Takes a frame and what was found in it, gives the frame to go on with."""

    def __call__(self, frame: Frame, detections: Detections, /) -> Frame: ...


@dataclass(frozen=True)
class Overlay:
    """Draws boxes with labels such as "person 0.87 #7".

    labels, scores: whether names (with track ids, where there are any) and scores are written.
    color_by: "class" or "track". thickness, alpha, font_size: as in vidai.ops.draw.
    """

    labels: bool = True
    scores: bool = True
    thickness: int | None = None
    alpha: float = 1.0
    font_size: int | None = None
    color_by: str = "class"

    def __post_init__(self) -> None:
        check_drawing(self.thickness, self.alpha, self.font_size)
        if self.color_by not in ("class", "track"):
            raise ConfigError(f"overlay: color_by is class or track, not {self.color_by!r}")

    def __call__(self, frame: Frame, detections: Detections) -> Frame:
        if not len(detections):
            return frame
        by_track = self.color_by == "track" and detections.track_ids is not None
        ids = detections.track_ids if by_track else detections.class_ids
        colors = np.array([color_for(int(i)) for i in np.asarray(ids).tolist()], np.uint8)
        return draw(
            frame,
            detections.boxes,
            colors,
            self.texts(detections),
            thickness=self.thickness,
            alpha=self.alpha,
            font_size=self.font_size,
        )

    def texts(self, detections: Detections) -> list[str]:
        """The label of each detection."""
        parts: list[Iterable[str]] = []
        if self.labels:
            parts.append(map(detections.name, detections.class_ids.tolist()))
        if self.scores:
            parts.append(f"{score:.2f}" for score in detections.scores.tolist())
        if self.labels and detections.track_ids is not None:
            parts.append(f"#{track_id}" for track_id in detections.track_ids.tolist())
        if not parts:
            return [""] * len(detections)
        return [" ".join(words) for words in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Redact:
    """Makes detections unrecognisable. classes: the names of those to redact, None for all.

    style, shape, grow, cells: as in vidai.ops.redact.
    """

    style: str = "blur"
    shape: str = "ellipse"
    grow: float = 1.3
    cells: int = 8
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_redaction(self.style, self.shape, self.grow, self.cells)
        classes = () if self.classes is None else self.classes
        if not (isinstance(classes, (list, tuple)) and all(isinstance(c, str) for c in classes)):
            raise ConfigError(f"redact: classes is a list of names, such as [{self.classes}]")

    def __call__(self, frame: Frame, detections: Detections) -> Frame:
        """Raises ConfigError for a class that the model does not know: it would go unredacted."""
        boxes = detections.boxes
        if self.classes is not None:
            unknown = set(self.classes) - set(detections.names)
            if unknown:
                raise ConfigError(
                    f"redact: the model finds no {', '.join(sorted(unknown))}; it knows "
                    f"{', '.join(detections.names) or 'no class names'}"
                )
            names = [detections.name(i) for i in detections.class_ids.tolist()]
            boxes = boxes[np.isin(names, list(self.classes))]
        return redact(
            frame, boxes, style=self.style, shape=self.shape, grow=self.grow, cells=self.cells
        )


@dataclass(frozen=True)
class Gaussian:
    """Blurs the whole picture. sigma: standard deviation, px, as in vidai.ops.gaussian.

    Like Rotate and Warp it takes the picture through RGB of 8 bits and back.
    """

    sigma: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma)

    def __call__(self, frame: Frame, detections: Detections) -> Frame:
        return write_rgb(frame, gaussian(frame.device, frame.rgb(), self.sigma))


@dataclass(frozen=True)
class Rotate:
    """Turns the picture about its centre. degrees: counter-clockwise, see vidai.ops.rotate.

    Boxes are not moved: they are those of the picture before this step, so draw and redact
    first. The rotation of a phone's video needs no step: boxes and pictures are upright, and
    the output is tagged like the source.
    """

    degrees: float

    def __post_init__(self) -> None:
        check_degrees(self.degrees)

    def __call__(self, frame: Frame, detections: Detections) -> Frame:
        return write_rgb(frame, rotate(frame.device, frame.rgb(), self.degrees))


@dataclass(frozen=True)
class Warp:
    """Maps the picture by a perspective. matrix: three rows of three, see vidai.ops.warp.

    Boxes are not moved: they are those of the picture before this step, so draw and redact
    first.
    """

    matrix: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        check_matrix(self.matrix)

    def __call__(self, frame: Frame, detections: Detections) -> Frame:
        return write_rgb(frame, warp(frame.device, frame.rgb(), self.matrix))


STEPS: dict[str, type[Overlay | Redact | Gaussian | Rotate | Warp]] = {
    "overlay": Overlay,
    "redact": Redact,
    "gaussian": Gaussian,
    "rotate": Rotate,
    "warp": Warp,
}


def steps_from(config: Sequence[str | dict[str, Any]]) -> list[Step]:
    """Steps from their YAML form: a name, or {name: {option: value, …}}, in order.

    Raises ConfigError for an unknown step or option, naming the known ones, and for a missing
    one.
    """
    return [_step(entry) for entry in config]


def _step(entry: str | dict[str, Any]) -> Step:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"a step is a name, or one name with its options, not {entry!r}")
    ((name, options),) = entry.items()
    kind = STEPS.get(name)
    if kind is None:
        raise ConfigError(f"there is no step {name!r}: use {' or '.join(STEPS)}")
    options = {} if options is None else options
    known = {field.name for field in fields(kind)}
    if not isinstance(options, dict) or not options.keys() <= known:
        wrong = (
            ", ".join(map(str, options.keys() - known)) if isinstance(options, dict) else options
        )
        raise ConfigError(f"{name} has no option {wrong!r}: use {', '.join(sorted(known))}")
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if not needed <= options.keys():
        raise ConfigError(f"{name} needs {', '.join(sorted(needed - options.keys()))}")
    try:
        return kind(**options)
    except TypeError as error:
        raise ConfigError(
            f"an option of {name} has a value of the wrong type: {options}"
        ) from error
