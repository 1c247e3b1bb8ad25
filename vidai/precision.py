"""Which precision a model runs in: the fastest that still finds the same, with the evidence.

A model is tried in every precision that it can have, on frames of the user's own input (see
vidai.trial). The first, as the model was given, says what there is to find.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vidai.cache import keep
from vidai.device import Device
from vidai.errors import ConfigError, DeviceError, ModelError, VidaiError
from vidai.models.half import half
from vidai.models.model import Model
from vidai.resources import cache_folder
from vidai.types import Detections, Frame

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("fp32", "fp16", "fp8", "int8")
QUANTIZED = PRECISIONS[2:]  # by Q/DQ nodes that a file comes with
IOU = 0.5  # from which on two boxes are the same object
TARGET = 0.98  # least F1 against the reference
FEWEST_BOXES = 20  # of the reference: with fewer, one box would decide

Detect = Callable[[Sequence[Frame]], Sequence[Detections]]


@dataclass(frozen=True)
class Case:
    """What a choice is valid for.

    sha256: of the model as given. gpu: by its name. versions: by package. target: least F1.
    conf: least score of the boxes that are compared.
    """

    model: str
    sha256: str
    gpu: str
    versions: dict[str, str]
    target: float = TARGET
    conf: float = 0.35


@dataclass(frozen=True)
class Trial:
    """How one precision did. ms: median a frame. agreement: F1 with the reference.

    layers: how many compute in each precision, as far as the engine says. refused: why it
    cannot be chosen, None where it can. passing: it is the device that failed, which the next
    time may not be so.
    """

    precision: str
    ms: float | None = None
    agreement: float | None = None
    layers: dict[str, int] | None = None
    refused: str | None = None
    passing: bool = False


@dataclass(frozen=True)
class PrecisionReceipt:
    """The evidence for a choice. frames, boxes: how many the reference saw and found in them."""

    case: Case
    frames: int
    boxes: int
    trials: tuple[Trial, ...]
    chosen: str

    @property
    def conclusive(self) -> bool:
        """Whether all could be compared; else it should be tried again, on other frames."""
        return self.boxes >= FEWEST_BOXES and not any(trial.passing for trial in self.trials)

    @property
    def why(self) -> str:
        """The choice in words, without its name."""
        if self.boxes < FEWEST_BOXES:
            return (
                f"the model as it is, which finds {self.boxes} objects in {self.frames} frames of "
                f"yours: {FEWEST_BOXES} are needed to compare"
            )
        first, *others = self.trials
        said = []
        for trial in others:
            if trial.refused is not None:
                said.append(f"{trial.precision} refused: {trial.refused}")
                continue
            faster = (first.ms or 0) / (trial.ms or 1e-9)
            subject = "" if trial.precision == self.chosen else f"{trial.precision} is "
            said.append(
                f"{subject}{faster:.1f} × as fast as {first.precision}, boxes agree "
                f"{trial.agreement or 0:.3f} on {self.frames} frames of yours"
            )
        if not any(trial.precision in QUANTIZED for trial in self.trials):
            said.append("fp8 and int8 not tried: the model is not quantised")
        return "; ".join(said)

    def save(self, path: Path) -> None:
        """As JSON. Raises OSError."""
        keep(path, (json.dumps(asdict(self), indent=2) + "\n").encode())


@dataclass(frozen=True)
class Precision:
    """What a model runs in, by name. receipt: the evidence, None where none was needed."""

    name: str
    why: str
    receipt: PrecisionReceipt | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def default(device: Device) -> str | None:
    """Which precision to use on a device where none is named; None: the model as it is."""
    return None if device.name == "cpu" else "auto"


def check(precision: str | None) -> None:
    """Raises ConfigError for what is no precision, nor "auto", nor None."""
    if precision not in (None, "auto", *PRECISIONS):
        raise ConfigError(f"no precision {precision!r}: use auto, {', '.join(PRECISIONS)}")


def settle(
    model: Model, precision: str | None, device: Device, conf: float
) -> tuple[Model, Precision | None]:
    """The model in a precision: the one that is named, or of a kept receipt where it is "auto".

    None, with the model as it is: none is named, or it takes a trial. Raises ModelError.
    """
    if precision is None:
        return model, None
    if precision != "auto":
        return variant(model, precision), Precision(precision, "as asked for")
    case = case_of(model, device, conf)
    receipt = load_receipt(receipt_path(case), case)
    if receipt is None:
        return model, None
    why = f"{receipt.why} (measured in an earlier run)"
    return variant(model, receipt.chosen), Precision(receipt.chosen, why, receipt)


def case_of(model: Model, device: Device, conf: float) -> Case:
    """What a choice for the model on the device is valid for."""
    gpu = getattr(device, "gpu", None)  # of a CUDA device
    packages = ("vidai", "onnxruntime", *(("onnxruntime-gpu", "tensorrt-cu13") if gpu else ()))
    versions = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return Case(
        model=model.name,
        sha256=hashlib.sha256(model.onnx).hexdigest(),
        gpu=gpu.name if gpu else f"CPU ({platform.machine()})",
        versions=versions,
        conf=conf,
    )


def receipt_path(case: Case) -> Path:
    """Where the receipt of a case is kept: beside the engines."""
    name = hashlib.sha256(json.dumps(asdict(case), sort_keys=True).encode()).hexdigest()
    return cache_folder("engines") / f"{name}.precision.json"


def load_receipt(path: Path, case: Case) -> PrecisionReceipt | None:
    """The receipt in a file; None where there is none, or it is of another case."""
    receipt = _read(path)
    return receipt if receipt is not None and receipt.case == case else None


def receipts_of(model: Model) -> list[PrecisionReceipt]:
    """All that are kept of a model, whatever the GPU."""
    sha256 = hashlib.sha256(model.onnx).hexdigest()
    kept = map(_read, sorted(cache_folder("engines").glob("*.precision.json")))
    return [receipt for receipt in kept if receipt and receipt.case.sha256 == sha256]


def _read(path: Path) -> PrecisionReceipt | None:
    try:
        given = json.loads(path.read_bytes())
        return PrecisionReceipt(
            case=Case(**given.pop("case")),
            trials=tuple(Trial(**trial) for trial in given.pop("trials")),
            **given,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # written by another version, or by nobody: it will be made again


def variants(model: Model) -> dict[str, Callable[[], Model]]:
    """How to make the model in each precision that it can have, as it was given first.

    A quantised model is only "fp8" or "int8" and a float16 one only "fp16": what they were made
    from is not in the file. "fp16" may raise ModelError, when it is made.
    """
    if (quantized := _quantization(model)) is not None:
        return {quantized: lambda: model}
    if model.spec.dtype == "float16":
        return {"fp16": lambda: model}
    return {"fp32": lambda: model, "fp16": lambda: half(model)}


def variant(model: Model, precision: str) -> Model:
    """The model in that precision. Raises ModelError where it cannot have it."""
    made = variants(model)
    if precision not in made:
        only = " and ".join(made)
        hint = ": make one with `vidai quantize`" if precision in QUANTIZED else ""
        raise ModelError(f"model {model.name} cannot run in {precision}, only in {only}{hint}")
    return made[precision]()


def _quantization(model: Model) -> str | None:
    """Which precision the model's Q/DQ nodes give: "fp8" where any has FLOAT8E4M3FN, "int8" where
    a QuantizeLinear has INT8 or UINT8; None where the layers compute in floating point only."""
    try:
        import onnx
    except ImportError as error:
        raise ModelError(
            f"the precision of model {model.name} cannot be told without the package onnx: "
            f"pip install 'vidai[cuda]'"
        ) from error
    graph = onnx.load_from_string(model.onnx).graph
    types = {"": onnx.TensorProto.UINT8}  # of a zero point that is left out
    types |= {weights.name: weights.data_type for weights in graph.initializer}
    types |= {
        node.output[0]: attribute.t.data_type
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    made = {_codes(node, types) for node in quantizers}
    stored = {
        types.get(name)
        for node in graph.node
        for name in node.input
        if node.op_type == "DequantizeLinear"
    }
    if onnx.TensorProto.FLOAT8E4M3FN in made | stored:
        return "fp8"
    return "int8" if made & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} else None


def _codes(quantizer: onnx.NodeProto, types: Mapping[str, int]) -> int | None:
    """The type of what a QuantizeLinear gives; None where it cannot be told."""
    for attribute in quantizer.attribute:
        if attribute.name == "output_dtype" and attribute.i:
            return int(attribute.i)
    return types.get(quantizer.input[2] if len(quantizer.input) > 2 else "")


def choose(
    candidates: Mapping[str, Callable[[], Detect]],
    frames: Sequence[Frame],
    case: Case,
    *,
    batch: int = 1,
    rounds: int = 5,
    layers: Callable[[Detect], dict[str, int]] = lambda detect: {},
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str, float], None] = lambda what, part: None,
) -> PrecisionReceipt:
    """Try every candidate on the frames; the fastest that agrees with the first is chosen.

    candidates: by precision, what makes the detector; one that raises a VidaiError, then or
    later, is refused, unless it is the first. batch: how many frames they are given at a time.
    Each sees all frames once to warm up and `rounds` times for the clock (s), in turn, so that
    a GPU which slows down slows them all. layers: what a detector's engine says of its layers.
    progress: called with what is done and how much of it, 0–1.
    """
    if not candidates or not frames:
        raise ConfigError("choosing a precision takes at least one candidate and one frame")
    reference = next(iter(candidates))
    batches = [frames[i : i + batch] for i in range(0, len(frames), batch)]
    detectors: dict[str, Detect] = {}
    trials: dict[str, Trial] = {}
    found: dict[str, list[Detections]] = {}
    times: dict[str, list[float]] = {}

    def refuse(precision: str, error: VidaiError) -> None:
        if precision == reference:
            raise error
        failed = isinstance(error, DeviceError)
        trials[precision] = Trial(precision, refused=str(error), passing=failed)
        detectors.pop(precision, None)

    for precision, make in candidates.items():
        try:
            detect = make()
            found[precision] = [one for part in batches for one in detect(part)]
            trials[precision] = Trial(precision, layers=layers(detect))
            detectors[precision], times[precision] = detect, []
        except VidaiError as error:
            refuse(precision, error)

    what = f"comparing {' and '.join(detectors)}"
    for done in range(rounds):
        progress(what, done / rounds)
        for precision, detect in list(detectors.items()):
            start = clock()
            try:
                for part in batches:
                    detect(part)
            except VidaiError as error:
                refuse(precision, error)
            times[precision].append(clock() - start)
    progress(what, 1)

    boxes = sum(map(len, found[reference]))
    for precision in detectors:
        agreement = f1(found[reference], found[precision])
        trials[precision] = replace(
            trials[precision],
            ms=1000 * median(times[precision]) / len(frames),
            agreement=agreement,
            refused=None if precision == reference else _refusal(boxes, agreement, case.target),
        )
    fit = [trial for trial in trials.values() if trial.refused is None]
    chosen = min(fit, key=lambda trial: trial.ms or 0).precision
    return PrecisionReceipt(case, len(frames), boxes, tuple(trials.values()), chosen)


def _refusal(boxes: int, agreement: float, target: float) -> str | None:
    if boxes < FEWEST_BOXES:
        return f"the reference finds {boxes} objects in these frames, too few to compare"
    if agreement < target:
        return f"finds other objects than the reference: F1 {agreement:.4f}, less than {target}"
    return None


class Match(NamedTuple):
    """Two boxes that show the same object, by their places in their detections."""

    reference: int
    other: int
    iou: float


def f1(reference: Sequence[Detections], other: Sequence[Detections]) -> float:
    """Agreement, 0–1, on the same frames, by `matches`. 1 where neither finds anything."""
    matched = sum(len(matches(a, b)) for a, b in zip(reference, other, strict=True))
    total = sum(map(len, reference)) + sum(map(len, other))
    return 2 * matched / total if total else 1.0


def matches(reference: Detections, other: Detections) -> list[Match]:
    """Boxes of one frame in pairs of one class at IoU ≥ 0.5, each used once.

    The other's boxes choose, best score first, the free box they overlap most.
    """
    overlap = _iou(other.boxes, reference.boxes)
    overlap[other.class_ids[:, None] != reference.class_ids[None]] = 0
    found = []
    for row in np.argsort(-other.scores, kind="stable") if len(reference) else ():
        best = int(overlap[row].argmax())
        if overlap[row, best] >= IOU:
            found.append(Match(best, int(row), float(overlap[row, best])))
            overlap[:, best] = 0
    return found


def _iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(A, B): intersection over union of every two boxes x1 y1 x2 y2."""
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    both = (high - low).clip(0).prod(2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
    return np.asarray(both / np.maximum(area_a[:, None] + area_b[None] - both, 1e-9), np.float32)
