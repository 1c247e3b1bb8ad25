"""From a model and frames to a quantised model and its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from importlib.metadata import version

from vidai.detector import Detector
from vidai.errors import ConfigError
from vidai.models import Model
from vidai.precision import FEWEST_BOXES, f1
from vidai.quantization.formats import Format
from vidai.quantization.graph import Network
from vidai.quantization.notebook import Notebook
from vidai.quantization.quantizer import Quantizer
from vidai.quantization.record import CurvePoint, QuantizationRecord
from vidai.quantization.running import Item, Judge, Runner
from vidai.quantization.search import fitted, in_order
from vidai.resources import cache_folder
from vidai.types import Detections, Frame

Progress = Callable[[str, float], None]

METHOD = 1  # notes that another one has kept are of no use
PARTS = 3  # of the frames: to calibrate, to search, to prove
MANY_BOXES = 100  # in the proof; with fewer a user is told how much each of them moves
LEAST_STEP = 0.08  # of the work, from one proof to the next


def make(
    model: Model,
    network: Network,
    frames: Sequence[Frame],
    *,
    form: Format,
    target: float,
    conf: float,
    iou: float,
    progress: Progress,
) -> tuple[Model, QuantizationRecord]:
    """The model with as many layers in eight bits as the target allows, and how it was made.

    network: the model taken apart. frames: on the CPU device, see `deal`. Raises ModelError for the
    model, ConfigError for frames that cannot prove anything.
    """
    device = frames[0].device
    with closing(Runner(device.workers)) as runner:
        looking = partial(progress, "looking at what there is to find")
        found = _detect(Detector(model, device=device, conf=conf, iou=iou), frames, runner, looking)
        dealt = deal([len(detections) for detections in found])
        calibrating, searching, proving = ([frames[place] for place in part] for part in dealt)
        reference = [found[place] for place in dealt[-1]]
        boxes = sum(map(len, reference))
        if boxes < FEWEST_BOXES:
            raise ConfigError(
                f"model {model.name} finds {sum(map(len, found))} objects in {len(frames)} frames, "
                f"{boxes} of them in the third that is to prove the result, where {FEWEST_BOXES} "
                f"are needed: give files that show more, or take more frames of them"
            )
        items = [[Item.of(frame, model) for frame in part] for part in (calibrating, searching)]
        calibration = _digest(items[0])
        quantizer = Quantizer(
            model,
            network,
            form,
            calibrating=items[0],
            searching=items[1],
            judge=Judge(model, device, conf, iou),
            runner=runner,
            notebook=_notebook(model, form, conf, iou, calibration, _digest(items[1])),
        )
        quantizer.calibrate(partial(progress, "calibrating"))
        quantizer.measure(partial(progress, "measuring each layer's damage"))
        choices = quantizer.search(partial(progress, "choosing layers"))

        best: tuple[float, Model, int] | None = None
        proving_it = partial(progress, "proving the result")
        for choice in in_order(choices, target, LEAST_STEP):
            made = quantizer.make(choice.layers)
            detector = Detector(made, device=device, conf=conf, iou=iou)
            agreement = f1(reference, _detect(detector, proving, runner, proving_it))
            if best is None or agreement > best[0]:
                best = agreement, made, choices.index(choice)
            if agreement >= target:
                break
    assert best is not None  # `search` tries at least one choice, `in_order` gives at least one
    agreement, made, place = best
    rest = {"float16": "fp16", "float32": "fp32"}[form.rest]
    record = QuantizationRecord(
        model=model.name,
        sha256=hashlib.sha256(model.onnx).hexdigest(),
        precision=form.name,
        rest=rest,
        target=target,
        f1=agreement,
        conf=conf,
        frames=dict(zip(("calibrate", "search", "prove"), map(len, dealt), strict=True)),
        boxes=boxes,
        calibration=calibration,
        share=choices[place].share,
        layers=quantizer.records(choices[place]),
        curve=tuple(
            CurvePoint(len(choice.layers), choice.share, choice.agreement, on_curve)
            for choice, on_curve in zip(choices, fitted(choices), strict=True)
        ),
        notes=tuple(_notes(boxes, quantizer.notebook)),
    )
    return made, record


def _notes(boxes: int, notebook: Notebook) -> Iterator[str]:
    if boxes < MANY_BOXES:
        yield (
            f"the proof rests on {boxes} objects, each worth {1 / (2 * boxes):.3f} of F1: more "
            f"frames, or such that show more, would tell more"
        )
    if notebook.not_kept is not None:
        yield f"notes could not be kept, a run that is interrupted begins anew: {notebook.not_kept}"


def deal(objects: Sequence[int]) -> list[list[int]]:
    """Places of frames in three parts, to calibrate, to search and to prove, from how many objects
    each shows: about as many frames and objects in each part, in the frames' order."""
    richest = sorted(range(len(objects)), key=lambda place: (-objects[place], place))
    turns = [*range(PARTS), *reversed(range(PARTS))]  # there and back: no part is always first
    parts: list[list[int]] = [[] for _ in range(PARTS)]
    for turn, place in enumerate(richest):
        parts[turns[turn % len(turns)]].append(place)
    return [sorted(part) for part in parts]


def _detect(
    detector: Detector, frames: Sequence[Frame], runner: Runner, progress: Callable[[float], None]
) -> list[Detections]:
    found = []
    for (one,) in runner.map(lambda frame: detector([frame]), frames):
        found.append(one)
        progress(len(found) / len(frames))
    return found


def _digest(items: Iterable[Item]) -> str:
    """SHA-256 of what the model sees."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(item.data.shape).encode())
        digest.update(item.data.tobytes())
    return digest.hexdigest()


def _notebook(
    model: Model, form: Format, conf: float, iou: float, calibration: str, search: str
) -> Notebook:
    """Of the computation that all of these determine."""
    weights = hashlib.sha256(model.onnx).hexdigest()
    versions = [version(package) for package in ("vidai", "onnxruntime", "numpy")]
    model_of = [weights, type(model).__qualname__, conf, iou]
    case = json.dumps([METHOD, versions, *model_of, form.name, calibration, search])
    name = hashlib.sha256(case.encode()).hexdigest()[:32]
    return Notebook(cache_folder("quantization") / name)
