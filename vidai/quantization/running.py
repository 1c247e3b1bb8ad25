"""Pictures ready for a model, and parts of a model run on all of them with all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vidai.device import Device
from vidai.devices.cpu.session import onnx_errors
from vidai.models.model import Model
from vidai.ops import letterbox
from vidai.ops.candidates import Candidates
from vidai.types import Detections, Frame, Placement

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Item:
    """A picture in a model's input. data: (1, 3, height, width). picture: (width, height) in
    display px. where: file and time, for messages."""

    data: Array
    placement: Placement
    picture: tuple[int, int]
    where: str

    @classmethod
    def of(cls, frame: Frame, model: Model) -> Item:
        width, height = model.spec.size_for(frame.width, frame.height)
        data = np.empty((1, 3, height, width), model.spec.dtype)
        placement = letterbox(frame, data, 0, model.spec)
        where = f"{frame.info.name} at {frame.time:.3f} s"
        return cls(data, placement, (frame.width, frame.height), where)

    def mirrored(self) -> Item:
        """As a mirror shows it, padding included."""
        across = self.picture[0] * self.placement.scale_x
        beyond = self.data.shape[3] - self.placement.pad_x - across
        placement = replace(self.placement, pad_x=beyond)
        return replace(self, data=np.ascontiguousarray(self.data[..., ::-1]), placement=placement)


class Judge:
    """Reads a model's outputs as its family does. conf, iou: as of a detector."""

    def __init__(self, model: Model, device: Device, conf: float, iou: float) -> None:
        self.model, self.device, self.conf, self.iou = model, device, conf, iou

    def candidates(self, item: Item, outputs: Sequence[Array], conf: float) -> Candidates:
        height, width = item.data.shape[2:]
        (found,) = self.model.candidates(
            self.device, [np.ascontiguousarray(o) for o in outputs], (width, height), conf
        )
        return found

    def detections(self, item: Item, outputs: Sequence[Array], conf: float) -> Detections:
        height, width = item.data.shape[2:]
        (found,) = self.model.detections(
            self.device,
            [np.ascontiguousarray(o) for o in outputs],
            size=(width, height),
            placements=[item.placement],
            pictures=[item.picture],
            conf=conf,
            iou=self.iou,
        )
        return found


class Runner:
    """Runs models, one picture on each core."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers)

    def close(self) -> None:
        """Leaves what has not begun undone."""
        self._pool.shutdown(cancel_futures=True)

    def run(
        self,
        session: Any,
        tensors: Mapping[str, Array],
        names: Sequence[str],
    ) -> Tensors:
        """The named outputs of an ONNX Runtime session, from those of the tensors that it reads."""
        read = {value.name: tensors[value.name] for value in session.get_inputs()}
        with onnx_errors("the model cannot run"):
            return dict(zip(names, session.run(list(names), read), strict=True))

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """function(item) of each, in order, side by side."""
        return self._pool.map(function, items)
