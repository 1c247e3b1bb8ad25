"""A model on a device: frames in, detections out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidai.device import Device, Session, open_device
from vidai.errors import ConfigError
from vidai.models import Model, load_model
from vidai.ops import letterbox
from vidai.types import Batch, Detections, Frame


class Detector:
    """Finds objects in frames. Safe to call from several threads, each with its own session.

    model: a catalog name (`vidai models list`), the path of an ONNX file, or a loaded
    Model. conf: least score, 0–1. iou: overlap above which the weaker of two boxes of one
    class is dropped, 0–1. classes: names or numbers to keep, None for all.
    Raises ModelError for the model, ConfigError for a class that it does not know.
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
    ) -> None:
        for name, value in (("conf", conf), ("iou", iou)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is a number from 0 to 1, not {value}")
        self.device = open_device(device) if isinstance(device, str) else device
        self.model = load_model(model, family=family) if isinstance(model, (str, Path)) else model
        self.conf = conf
        self.iou = iou
        self.classes = None if classes is None else self._class_ids(classes)
        self._local = threading.local()

    @property
    def names(self) -> tuple[str, ...]:
        return self.model.names

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detections of each frame; all frames must have one size."""
        batch = self._batch(frames)
        outputs = self._session().run(batch.data)
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

    def _batch(self, frames: Sequence[Frame]) -> Batch:
        spec = self.model.spec
        width, height = spec.size_for(frames[0].width, frames[0].height)
        shape = (len(frames), 3, height, width)
        data = getattr(self._local, "data", None)
        if data is None or data.shape != shape:
            data = self._local.data = self.device.empty(shape, np.dtype(spec.dtype))
        placements = tuple(letterbox(frame, data, n, spec) for n, frame in enumerate(frames))
        return Batch(data, placements, tuple(frames))

    def _session(self) -> Session:
        """The calling thread's own session, made at its first frame."""
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = self.device.session(self.model.onnx)
        return session

    def _class_ids(self, classes: Iterable[str | int]) -> frozenset[int]:
        numbers = {name: i for i, name in enumerate(self.names)}
        wanted: set[int] = set()
        for given in classes:
            number: Any = numbers.get(str(given).strip(), given)
            if isinstance(number, str) and number.strip().isdigit():
                number = int(number)
            if not isinstance(number, int) or (self.names and not 0 <= number < len(self.names)):
                raise ConfigError(
                    f"{self.model.name} knows no class {given!r}: it has {', '.join(self.names)}"
                )
            wanted.add(number)
        return frozenset(wanted)
