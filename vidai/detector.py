"""A model on a device: frames in, detections out."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidai.batcher import Batcher, Pending, Workers
from vidai.device import Device, Session, open_device
from vidai.errors import ConfigError
from vidai.models import Model, load_model, model_of
from vidai.ops import letterbox
from vidai.precision import check, default, settle
from vidai.types import Batch, Detections, Frame

Inputs = dict[tuple[int, ...], Any]  # of a session, by shape


class Run(NamedTuple):
    """A batch on its way through a session, which nothing else uses meanwhile."""

    session: Session
    inputs: Inputs
    batch: Batch
    outputs: list[Any]


class Detector:
    """Finds objects in frames. Safe to call from several threads: each call takes an idle
    session, or makes one.

    model: a catalog name (`vidai models list`), the path of an ONNX file, or a loaded
    Model. conf: least score, 0–1. iou: overlap above which the weaker of two boxes of one
    class is dropped, 0–1. classes: names or numbers to keep, None for all. precision: "fp32",
    "fp16", "fp8" or "int8"; "auto", the default on a GPU, is what `vidai.run` has found to be the
    fastest there, and the model as it is where it has not run yet; on the CPU the default is
    the model as it is, and others are for comparing, not for speed. download: called with
    bytes done and in all while a catalog model is fetched; build: with what is done and how
    much of it, 0–1, while a GPU's engine is built at the first frame. Raises ModelError for
    the model, ConfigError for a class that it does not know.

    model: in its precision. precision: which that is and why, None for the model as it is.
    notes: what a user should know of how the model runs.
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
        precision: str | None = None,
        download: Callable[[int, int], None] | None = None,
        build: Callable[[str, float], None] | None = None,
    ) -> None:
        for name, value in (("conf", conf), ("iou", iou)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is a number from 0 to 1, not {value}")
        check(precision)
        self.device = open_device(device) if isinstance(device, str) else device
        if isinstance(model, (str, Path)):
            model = load_model(model, family=family, progress=download)
        wanted = precision or default(self.device)
        self.model, self.precision = settle(model, wanted, self.device, conf)
        self.undecided = wanted == "auto" and self.precision is None  # see vidai.trial
        self.conf = conf
        self.iou = iou
        self.classes = None if classes is None else self._class_ids(classes)
        self.max_batch = min(self.device.max_batch, model.max_batch or self.device.max_batch)
        self.notes: list[str] = []
        self._on_build = build
        self._idle: list[tuple[Session, Inputs]] = []
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._gatherer: Workers | Batcher[Run] | None = None
        self._users = 0

    @classmethod
    def from_torch(
        cls,
        module: Any,
        example: Any,
        *,
        family: str | None = None,
        names: Sequence[str] | Mapping[int, str] | None = None,
        **options: Any,
    ) -> Detector:
        """A detector from a torch.nn.Module, exported to ONNX in memory; needs vidai[torch].

        example: a float tensor (1, 3, height, width) of the size that the model shall see.
        names: of the classes. options: device, conf, iou, classes and precision, as above. The
        module answers as its family's ONNX files do. Raises ModelError for the module,
        ConfigError for the rest.
        """
        from vidai.torch import export_module  # an extra: not everyone has it

        model = model_of(export_module(module, example, names), family=family)
        return cls(model, **options)

    @property
    def names(self) -> tuple[str, ...]:
        return self.model.names

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Detections of each frame; the frames must share one input size, see `input_size`."""
        return [
            found
            for first in range(0, len(frames), self.max_batch)
            for found in self.finish(self.start(frames[first : first + self.max_batch]))
        ]

    def start(self, frames: Sequence[Frame]) -> Run:
        """Begin a batch of at most `max_batch` frames of one input size.

        On an asynchronous device this returns while the work waits in its queues. Raises
        ConfigError for frames of another device, or of several sizes.
        """
        self._check(frames)
        try:
            session, inputs = self._idle.pop()
        except IndexError:
            session, inputs = self._open_session(), {}
        lanes = {id(frame.device): frame.device for frame in frames}.values()
        try:
            batch = self._batch(frames, inputs)
            for lane in lanes:
                session.device.after(lane)
            return Run(session, inputs, batch, session.run(batch.data))
        except BaseException:
            self._recover(session, inputs, lanes)
            raise

    def finish(self, run: Run) -> list[Detections]:
        """Wait for a batch; once for each run."""
        height, width = run.batch.data.shape[2:]
        try:
            found = self.model.detections(
                run.session.device,
                run.outputs,
                size=(width, height),
                placements=run.batch.placements,
                pictures=[(frame.width, frame.height) for frame in run.batch.frames],
                conf=self.conf,
                iou=self.iou,
                classes=self.classes,
            )
        except BaseException:
            self._recover(run.session, run.inputs)
            raise
        self._idle.append((run.session, run.inputs))  # only now: its buffers are free
        return found

    def prepare(self, count: int) -> None:
        """Open as many sessions before the first frames come; a GPU's engine is built then."""
        while len(self._idle) < count:
            self._idle.append((self._open_session(), {}))

    def _check(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if frame.device != self.device:
                raise ConfigError(
                    f"{frame.info.name}: its frames are on {frame.device.name}, and the detector "
                    f"is on {self.device.name}: open both on one device"
                )
        if self.model.spec.width:
            return
        sizes = {self.input_size(frame) for frame in frames}
        if len(sizes) > 1:
            told = " and ".join(f"{width} x {height}" for width, height in sorted(sizes))
            raise ConfigError(
                f"{self.model.name} would see these frames at {told}: call it with frames of one "
                f"input_size at a time"
            )

    def _recover(self, session: Session, inputs: Inputs, lanes: Iterable[Device] = ()) -> None:
        """After a failure: keep the session for others, once nothing writes to its memory.

        lanes: what may do so beside its own.
        """
        for lane in lanes:
            with suppress(Exception):
                session.device.after(lane)
        with suppress(Exception):
            session.device.synchronize()
        self._idle.append((session, inputs))

    def _open_session(self) -> Session:
        model = self.model
        with self._opening:  # a model is built for a GPU once, also where two threads ask for it
            session = self.device.session(model.onnx, model.spec, model.name, self._on_build)
        self.notes += [note for note in session.notes if note not in self.notes]
        return session

    def layer_precisions(self) -> dict[str, int]:
        """How many layers of its last run computed in "fp8", "fp16" and so on; {}: not known."""
        return self._idle[-1][0].layer_precisions() if self._idle else {}

    def input_size(self, frame: Frame) -> tuple[int, int]:
        """(width, height) in px of the model's input for this frame."""
        return self.model.spec.size_for(frame.width, frame.height)

    @contextmanager
    def batching(self) -> Iterator[Callable[[Frame], Pending]]:
        """Gives the function that takes frames and answers with detections on their way.

        All who are inside at one time share threads and batches.
        """
        with self._lock:
            self._users += 1
            if self._gatherer is None:
                self._gatherer = self._new_gatherer()
            gatherer = self._gatherer
        try:
            yield gatherer.submit
        finally:
            with self._lock:
                self._users -= 1
                last = not self._users
                if last:
                    self._gatherer = None
            if last:
                gatherer.close()

    def _new_gatherer(self) -> Workers | Batcher[Run]:
        workers = self.device.workers
        if not self.device.asynchronous:
            return Workers(self, workers)
        return Batcher(
            *(self, self.input_size),
            max_batch=self.max_batch,
            in_flight=workers,
            turns=self.device.turns,
        )

    def _batch(self, frames: Sequence[Frame], inputs: Inputs) -> Batch:
        """Frames in the input of their shape, which is made at its first use."""
        width, height = self.input_size(frames[0])
        largest = (self.max_batch, 3, height, width)
        data = inputs.get(largest)
        if data is None:
            inputs.clear()
            data = inputs[largest] = self.device.empty(largest, np.dtype(self.model.spec.dtype))
            self.device.synchronize()  # from here on every lane may write to it
        data = data[: len(frames)]
        placements = tuple(
            letterbox(frame, data, n, self.model.spec) for n, frame in enumerate(frames)
        )
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
