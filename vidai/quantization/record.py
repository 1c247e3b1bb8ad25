"""What became of a model when it was quantised: in its report, and inside its ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

METADATA_KEY = "vidai.quantization"  # of the ONNX file; its value is JSON


@dataclass(frozen=True)
class LayerRecord:
    """One convolution or matrix product.

    name: of its node, or of what it makes. macs: multiply-accumulates a picture. precision:
    "fp8", "int8", "fp16" or "fp32". why: it is not quantised, "" where it is. damage: what
    quantising it alone does to the scores, see `vidai.quantization.damage`; None where it cannot
    be. centred: whether the means of its input's channels are subtracted first.
    """

    name: str
    op: str
    macs: int
    precision: str
    why: str = ""
    damage: float | None = None
    centred: bool = False


@dataclass(frozen=True)
class CurvePoint:
    """One choice of layers that was tried.

    layers: how many are quantised. share: of the quantisable multiply-accumulates, 0–1.
    agreement: F1 with the model as it was, on the search frames, mean of several thresholds.
    fitted: the same on the curve that fits all points best and only rises where the share falls; by
    it the choice is made.
    """

    layers: int
    share: float
    agreement: float
    fitted: float


@dataclass(frozen=True)
class QuantizationRecord:
    """A quantised model, how it was made, and the proof of what it still finds.

    model: name of the model as it was; sha256: of its file. precision: "fp8" or "int8"; rest:
    what the other layers compute in. target: least F1 asked for. f1: with the model as it was, at
    score `conf`, of the finished file on frames that were used for nothing else. frames: how many
    were used to "calibrate", "search" and "prove". boxes: how many objects the model as it was
    finds in those of the proof. calibration: SHA-256 of the calibration pictures. share: of the
    quantisable multiply-accumulates in `precision`. layers: in the order of the model. curve: by
    falling share. notes: what a user should know. unread: about files that could not be
    read, and are left out.
    """

    model: str
    sha256: str
    precision: str
    rest: str
    target: float
    f1: float
    conf: float
    frames: dict[str, int]
    boxes: int
    calibration: str
    share: float
    layers: tuple[LayerRecord, ...]
    curve: tuple[CurvePoint, ...]
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def reached(self) -> bool:
        """Whether the proof meets the target."""
        return self.f1 >= self.target

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"reached": self.reached}

    def to_json(self) -> str:
        """As a report."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_metadata(self) -> str:
        """The value of METADATA_KEY."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> QuantizationRecord | None:
        """The record in a model file's metadata; None where there is none that can be read."""
        try:
            given = json.loads(metadata[METADATA_KEY])
            given.pop("reached")
            layers = tuple(LayerRecord(**layer) for layer in given.pop("layers"))
            curve = tuple(CurvePoint(**point) for point in given.pop("curve"))
            notes, unread = tuple(given.pop("notes")), tuple(given.pop("unread"))
            return cls(layers=layers, curve=curve, notes=notes, unread=unread, **given)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
