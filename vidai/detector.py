"""A model on a device: frames in, detections out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidai.device import Device, Session, open_device
from vidai.errors import ConfigError
from vidai.models import Model, load_model
from vidai.ops import letterbox
from vidai.types import Batch, Detections, Frame


class Detector:
    """Finds objects in frames. Safe to call from several threads: each call takes an idle
    session, or makes one.

    model: a catalog name (`vidai models list`), the path of an ONNX file, or a loaded
    Model. conf: least score, 0–1. iou: overlap above which the weaker of two boxes of one
    class is dropped, 0–1. classes: names or numbers to keep, None for all. download:
    called with bytes done and in all while a catalog model is fetched. Raises ModelError
    for the model, ConfigError for a class that it does not know.
    """

    def __init__(
        self,
        model: str | Path | Model = "yolox-nano",
        *,
        device: str | Device = "auto",
        conf: float = 0.35,
        iou: float = 0.45,
        classes: Iterable[str | int] | None = None,
        family: str | None = None,
        download: Callable[[int, int], None] | None = None,
    ) -> None:
        for name, value in (("conf", conf), ("iou", iou)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is a number from 0 to 1, not {value}")
        self.device = open_device(device) if isinstance(device, str) else device
        if isinstance(model, (str, Path)):
            model = load_model(model, family=family, progress=download)
        self.model = model
        self.conf = conf
        self.iou = iou
        self.classes = None if classes is None else self._class_ids(classes)
        self._idle: list[tuple[Session, dict[tuple[int, ...], Any]]] = []

    @property
    def names(self) -> tuple[str, ...]:
        return self.model.names

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detections of each frame; all frames must have one size."""
        try:
            session, inputs = self._idle.pop()
        except IndexError:
            session, inputs = self.device.session(self.model.onnx), {}
        batch = self._batch(frames, inputs)
        outputs = session.run(batch.data)
        self._idle.append((session, inputs))
        height, width = batch.data.shape[2:]
        return [
            self.model.detections(
                self.device,
                outputs,
                n,
                size=(width, height),
                placement=placement,
                picture=(frame.width, frame.height),
                conf=self.conf,
                iou=self.iou,
                classes=self.classes,
            )
            for n, (frame, placement) in enumerate(zip(batch.frames, batch.placements, strict=True))
        ]

    def _batch(self, frames: Sequence[Frame], inputs: dict[tuple[int, ...], Any]) -> Batch:
        """Frames in the input of their shape, which is made at its first use."""
        spec = self.model.spec
        width, height = spec.size_for(frames[0].width, frames[0].height)
        shape = (len(frames), 3, height, width)
        data = inputs.get(shape)
        if data is None:
            inputs.clear()
            data = inputs[shape] = self.device.empty(shape, np.dtype(spec.dtype))
        placements = tuple(letterbox(frame, data, n, spec) for n, frame in enumerate(frames))
        return Batch(data, placements, tuple(frames))

    def _class_ids(self, classes: Iterable[str | int]) -> frozenset[int]:
        if isinstance(classes, str):
            classes = [name.strip() for name in classes.split(",") if name.strip()]
        wanted = frozenset(self._class_id(given) for given in classes)
        if not wanted:
            raise ConfigError("classes names none: leave it out to keep all")
        return wanted

    def _class_id(self, given: str | int) -> int:
        if given in self.names:
            return self.names.index(str(given))
        try:
            number = int(given)
        except (TypeError, ValueError):
            number = -1
        if number < 0 or (self.names and number >= len(self.names)):
            near = difflib.get_close_matches(str(given), self.names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.names)}"
            raise ConfigError(f"{self.model.name} knows no class {given}: {hint}")
        return number
