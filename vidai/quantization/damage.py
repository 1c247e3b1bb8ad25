"""What a quantised layer does to what the detector finds.

Measured on the scores and boxes of the model's anchors before any is suppressed: they move
smoothly with the error, where the detections that survive a threshold and NMS jump. Damages of
single layers therefore add up to that of all together, as far as their errors are independent,
and can be spent like a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.devices.cpu.session import open_model
from vidai.ops.candidates import Candidates
from vidai.precision import matches
from vidai.quantization.formats import Format
from vidai.quantization.graph import Layer, Network
from vidai.quantization.layers import QuantizedLayer
from vidai.quantization.qdq import Rewriter
from vidai.quantization.running import Item, Judge, Runner, Tensors
from vidai.types import Detections

Array = npt.NDArray[Any]

FLOOR = 0.25  # of the detector's threshold: anchors that score less are no candidates


def damage(reference: Candidates, other: Candidates, floor: float) -> float:
    """How much the candidates of two models in one picture differ. floor: least score in both.

    Of each anchor the squared difference of its scores above the floor (0 where it is no candidate,
    or one of another class), and the squared loss of overlap of its boxes, weighted by the
    score's square.
    """
    count = 1 + max(
        (int(found.anchors.max()) for found in (reference, other) if len(found.anchors)), default=0
    )
    scores = np.zeros((2, count))
    classes = np.full((2, count), -1)
    boxes = np.zeros((2, count, 4))
    for side, found in enumerate((reference, other)):
        scores[side, found.anchors] = found.scores - floor
        classes[side, found.anchors] = found.class_ids
        boxes[side, found.anchors] = found.boxes
    both = (classes[0] == classes[1]) & (classes[0] >= 0)
    apart = np.where(both, scores[0] - scores[1], np.hypot(scores[0], scores[1]))
    lost = np.where(both, (1 - _overlap(boxes[0], boxes[1])) * scores.min(0), 0)
    return float(np.square(apart).sum() + np.square(lost).sum())


def paired(reference: Candidates, other: Candidates) -> Candidates:
    """The other's candidates with the anchors of those of the reference that show the same object.

    For models whose rows are in the order of scores, where a place in that order says nothing.
    The reference's anchors are its rows then; what shows nothing of it comes after them.
    """
    sides = [Detections(found.boxes, found.scores, found.class_ids) for found in (reference, other)]
    anchors = len(reference.scores) + np.arange(len(other.scores), dtype=np.int32)
    for match in matches(*sides):
        anchors[match.other] = match.reference
    return other._replace(anchors=anchors)


def _overlap(a: Array, b: Array) -> Array:
    """(K,): intersection over union of boxes (K, 4) one by one, 0 for empty ones."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clip(0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1) for boxes in (a, b)]
    return np.asarray(both / np.maximum(areas[0] + areas[1] - both, 1e-9))


def damages(
    network: Network,
    chosen: Mapping[str, tuple[Layer, QuantizedLayer]],
    form: Format,
    items: Sequence[Item],
    judge: Judge,
    runner: Runner,
    known: Callable[[str, Callable[[], float]], float],
    progress: Callable[[float], None],
) -> dict[str, float]:
    """Of each layer, by the node's name, what quantising it alone does on the pictures: the sum of
    `damage` over the sum of the scores that there were.

    The unquantised network is walked through once: what lies before a layer is computed no second
    time, what follows it is run on from there. known: gives the number of a name, or computes it.
    """
    floor = FLOOR * judge.conf
    states: list[Tensors] = [{network.input: item.data} for item in items]
    reached = 0
    found: dict[str, float] = {}
    reference: list[Candidates] = []

    def candidates(outputs: Sequence[Tensors]) -> list[Candidates]:
        found = [
            judge.candidates(item, [tensors[name] for name in network.outputs], floor)
            for item, tensors in zip(items, outputs, strict=True)
        ]
        if not judge.model.ranked:
            return found
        if not reference:
            return [paired(one, one) for one in found]
        return [paired(a, b) for a, b in zip(reference, found, strict=True)]

    def measured(node: str) -> float:
        nonlocal states, reached, reference
        if not reference:
            reference = candidates(_ahead(network, network.nodes, [], states, runner))
        layer, quantized = chosen[node]
        states = _advanced(network, reached, layer.node, states, runner)
        reached = layer.node
        rewriter = Rewriter(form, "float32")
        rewriter.add(network.nodes[layer.node], layer, quantized)
        rest = [*rewriter.nodes, *network.nodes[layer.node + 1 :]]
        others = candidates(_ahead(network, rest, rewriter.constants, states, runner))
        total = sum(damage(a, b, floor) for a, b in zip(reference, others, strict=True))
        return total / max(sum(float(candidate.scores.sum()) for candidate in reference), 1e-9)

    for done, node in enumerate(sorted(chosen, key=lambda name: chosen[name][0].node)):
        found[node] = known(f"damage {node}", lambda node=node: measured(node))  # type: ignore[misc]
        progress((done + 1) / len(chosen))
    return found


def _advanced(
    network: Network, first: int, last: int, states: list[Tensors], runner: Runner
) -> list[Tensors]:
    """The tensors that are live before node `last`, from those before `first`."""
    if first == last:
        return states
    wanted = network.live(last)
    made = [name for name in wanted if name not in states[0]]
    made += network.made_between(first, last)
    made = list(dict.fromkeys(made))
    kept = {*wanted, *network.outputs}
    model = network.part(network.nodes[first:last], states[0], made)
    session = open_model(model)
    results = runner.map(lambda tensors: runner.run(session, tensors, made), states)
    return [
        {name: array for name, array in {**tensors, **result}.items() if name in kept}
        for tensors, result in zip(states, results, strict=True)
    ]


def _ahead(
    network: Network,
    nodes: Sequence[Any],
    constants: Sequence[Any],
    states: list[Tensors],
    runner: Runner,
) -> list[Tensors]:
    """The model's outputs, from the nodes that are left; some of them may be there already."""
    made = [name for name in network.outputs if name not in states[0]]
    session = open_model(network.part(nodes, states[0], made, constants))
    results = runner.map(lambda tensors: runner.run(session, tensors, made), states)
    return [{**tensors, **result} for tensors, result in zip(states, results, strict=True)]
