"""How far two models find the same, frame by frame, without labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vidai.precision import matches
from vidai.types import Detections


@dataclass(frozen=True)
class Pairs:
    """Boxes of a reference and of another model, and how alike those are that match.

    reference, other: how many boxes each has found. matched: of one class, IoU ≥ 0.5, each
    used once (`vidai.precision.matches`). Over the matched pairs, None where there are none:
    box_error: mean of 1 - IoU, 0–0.5. corner_error: mean distance of the two corners, in display
    px. score_shift, score_shift_std: mean and standard deviation of the other's score less the
    reference's.
    """

    reference: int
    other: int
    matched: int
    box_error: float | None
    corner_error: float | None
    score_shift: float | None
    score_shift_std: float | None

    @property
    def f1(self) -> float:
        """0–1; 1 where neither has found anything."""
        total = self.reference + self.other
        return 2 * self.matched / total if total else 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with f1."""
        return {"f1": self.f1, **asdict(self)}


@dataclass(frozen=True)
class Agreement:
    """What two models find on the same frames. overall: of all classes together.

    classes: by name, or number where there are no names, of those that either has found, most
    boxes of the reference first.
    """

    frames: int
    overall: Pairs
    classes: dict[str, Pairs]

    @property
    def f1(self) -> float:
        """0–1, over all classes; 1 where neither model has found anything."""
        return self.overall.f1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        classes = {name: pairs.to_dict() for name, pairs in self.classes.items()}
        return {"frames": self.frames, **self.overall.to_dict(), "classes": classes}


class Comparison:
    """An agreement in the making: add frames in any order, then ask for the result."""

    def __init__(self) -> None:
        self._frames = 0
        self._names: dict[int, str] = {}
        self._boxes: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._pairs: dict[int, list[tuple[float, float, float]]] = defaultdict(list)

    def add(self, reference: Detections, other: Detections) -> None:
        """What both have found in one frame, in the same class numbers."""
        self._frames += 1
        for class_id in {*reference.class_ids.tolist(), *other.class_ids.tolist()}:
            self._names[class_id] = reference.name(class_id)
            old_reference, old_other = self._boxes[class_id]
            self._boxes[class_id] = (
                old_reference + int((reference.class_ids == class_id).sum()),
                old_other + int((other.class_ids == class_id).sum()),
            )
        for match in matches(reference, other):
            apart = other.boxes[match.other] - reference.boxes[match.reference]
            corners = float(np.hypot(apart[0::2], apart[1::2]).mean())
            shift = float(other.scores[match.other]) - float(reference.scores[match.reference])
            class_id = int(reference.class_ids[match.reference])
            self._pairs[class_id].append((1 - match.iou, corners, shift))

    def result(self) -> Agreement:
        order = sorted(self._boxes, key=lambda class_id: (-self._boxes[class_id][0], class_id))
        every = [pair for class_id in order for pair in self._pairs[class_id]]
        counts = np.array([*self._boxes.values()], int).reshape(-1, 2).sum(0)
        return Agreement(
            self._frames,
            _summed(int(counts[0]), int(counts[1]), every),
            {
                self._names[class_id]: _summed(*self._boxes[class_id], self._pairs[class_id])
                for class_id in order
            },
        )


def agreement(reference: Sequence[Detections], other: Sequence[Detections]) -> Agreement:
    """Of what two models have found on the same frames, in the same class numbers."""
    comparison = Comparison()
    for a, b in zip(reference, other, strict=True):
        comparison.add(a, b)
    return comparison.result()


def _summed(reference: int, other: int, pairs: list[tuple[float, float, float]]) -> Pairs:
    if not pairs:
        return Pairs(reference, other, 0, None, None, None, None)
    table = np.array(pairs)
    box, corner, shift = (float(mean) for mean in table.mean(0))
    return Pairs(reference, other, len(pairs), box, corner, shift, float(table[:, 2].std()))
