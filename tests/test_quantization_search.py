"""The search for layers, what it goes by, and how frames are dealt, against brute force."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from tests.builds import int8_saturates
from tests.squares import crowd_clip
from tests.test_decode import frames_of
from tests.tiny_model import DEEP, write_deep_model
from vidai.device import Device
from vidai.errors import ModelError
from vidai.models import Model, load_model
from vidai.ops.candidates import Candidates
from vidai.quantization import damage as damage_module
from vidai.quantization.damage import damage, paired
from vidai.quantization.formats import FORMATS
from vidai.quantization.graph import Network
from vidai.quantization.making import deal
from vidai.quantization.notebook import Notebook
from vidai.quantization.quantizer import Quantizer
from vidai.quantization.running import Item, Judge, Runner
from vidai.quantization.search import GRID, Choice, in_order, rising, search
from vidai.types import Frame, Placement

Array = npt.NDArray[Any]


class Trying:
    """An agreement that is told for each number of layers, and which sets were asked for."""

    def __init__(self, agreements: Mapping[int, float] | float) -> None:
        self.agreements = agreements
        self.asked: list[frozenset[str]] = []
        self.told: list[float] = []

    def __call__(self, layers: frozenset[str]) -> float:
        self.asked.append(layers)
        if isinstance(self.agreements, float):
            return self.agreements
        return self.agreements[len(layers)]

    def search(self, damages: Mapping[str, float], macs: Mapping[str, int]) -> list[Choice]:
        return search(damages, macs, self, self.told.append)


def test_layers_leave_by_their_damage_for_their_work() -> None:
    damages = {"a": 1.0, "b": 0.9, "c": 8.0, "d": 0.0}
    macs = {"a": 100, "b": 10, "c": 1000, "d": 1}  # damage for 1000: 10, 90, 8, 0
    trying = Trying({4: 0.5, 3: 0.6, 2: 0.7, 1: 0.9})
    tried = trying.search(damages, macs)
    sets = [set("abcd"), set("acd"), set("cd"), set("d")]
    shares = [1, 1101 / 1111, 1001 / 1111, 1 / 1111]
    # 1.0 is all of it, 0.95 leaves out "b" and then "a", and any share of 0.9 or less "c" too.
    assert trying.asked == [sets[0], sets[2], sets[3]]
    assert [choice.layers for choice in tried] == trying.asked
    assert [choice.share for choice in tried] == pytest.approx([shares[0], *shares[2:]])
    assert [choice.agreement for choice in tried] == [0.5, 0.7, 0.9]
    assert trying.told == pytest.approx([1 / 3, 2 / 3, 1])


def test_equal_layers_leave_in_the_order_of_their_names() -> None:
    names = [f"{n:02}" for n in range(40)]
    macs = dict.fromkeys(reversed(names), 5)
    trying = Trying(0.1)
    trying.search(dict.fromkeys(names, 0.25), macs)
    assert trying.asked == [frozenset(names[40 - len(asked) :]) for asked in trying.asked]
    again = Trying(0.1)
    again.search(dict.fromkeys(reversed(names), 0.25), dict.fromkeys(names, 5))
    assert again.asked == trying.asked


def test_shares_are_those_of_the_grid() -> None:
    names = [f"{n:03}" for n in range(200)]
    trying = Trying(0.1)
    tried = trying.search(dict.fromkeys(names, 1.0), dict.fromkeys(names, 7))
    assert [choice.share for choice in tried] == pytest.approx(list(GRID))
    assert [len(choice.layers) for choice in tried] == [round(200 * share) for share in GRID]


def test_random_searches_are_as_they_should_be() -> None:
    rng = np.random.default_rng(8)
    for count in (1, 2, 3, 8, 60):
        names = [f"layer {n}" for n in range(count)]
        damages = dict(zip(names, rng.exponential(1, count).tolist(), strict=True))
        macs = dict(zip(names, rng.integers(1, 1000, count).tolist(), strict=True))
        trying = Trying(0.5)
        tried = trying.search(damages, macs)
        assert tried[0].layers == set(names)
        for before, after in pairwise(tried):
            assert after.layers < before.layers
        for choice in tried:
            outside = set(names) - choice.layers
            assert choice.share == pytest.approx(
                sum(macs[name] for name in choice.layers) / sum(macs.values())
            )
            for inner in choice.layers:
                for outer in outside:
                    assert damages[inner] / macs[inner] <= damages[outer] / macs[outer]
        # No more than needed leave: with the next worst there is more than the grid's share.
        for choice in tried[1:-1]:
            nearest = min(share for share in GRID if share >= choice.share)
            outside = set(names) - choice.layers
            back = min(outside, key=lambda name: damages[name] / macs[name])
            assert choice.share + macs[back] / sum(macs.values()) > nearest
        assert trying.told[-1] == 1
        assert trying.told == sorted(trying.told)


def test_a_model_of_one_layer() -> None:
    trying = Trying(0.3)
    assert trying.search({"a": 2.0}, {"a": 9}) == [Choice(frozenset("a"), 1, 0.3)]


def fitted(values: Sequence[float]) -> list[float]:
    """The rising sequence nearest by least squares, by the max-min formula (Robertson et al.,
    Order Restricted Statistical Inference, 1988, equation 1.4.1)."""
    count = len(values)
    return [
        max(
            min(float(np.mean(values[first : last + 1])) for last in range(place, count))
            for first in range(place + 1)
        )
        for place in range(count)
    ]


def test_rising_is_the_nearest_rising_sequence() -> None:
    rng = np.random.default_rng(4)
    for _ in range(300):
        values = rng.integers(0, rng.integers(2, 12), rng.integers(1, 12)) / 10
        found = rising(values.tolist())
        assert found == pytest.approx(fitted(values.tolist()))
        assert found == sorted(found)
        # By any other rising sequence near it, it is further away.
        error = np.square(found - values).sum()
        for _ in range(5):
            other = np.sort(found + rng.normal(0, 0.05, len(values)))
            assert np.square(other - values).sum() >= error - 1e-9


def test_rising_by_hand() -> None:
    assert rising([]) == []
    assert rising([0.4]) == [0.4]
    assert rising([1, 2, 2, 5]) == [1, 2, 2, 5]
    assert rising([3, 2, 1]) == [2, 2, 2]
    assert rising([1, 3, 2, 4]) == [1, 2.5, 2.5, 4]
    assert rising([5, 1, 1, 1, 9]) == [2, 2, 2, 2, 9]


def choices(*rows: tuple[float, float]) -> list[Choice]:
    """From (share, agreement)."""
    return [Choice(frozenset(str(n)), *row) for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1, 0.99)], [0]),
        ([(1, 0.9), (0.8, 0.98), (0.6, 0.99), (0.4, 1)], [1, 2, 3]),
        # Steps are 0.1 or more of the work from one to the next that is proved.
        ([(1, 0.98), (0.95, 0.98), (0.9, 0.98), (0.85, 0.99), (0.75, 0.99)], [0, 2, 4]),
        # 0.985 was luck: the next are worse, with less in eight bits.
        ([(1, 0.985), (0.8, 0.96), (0.6, 0.97), (0.4, 0.99)], [3]),
        # 0.975 was bad luck: the mean of it and the one before meets the target.
        ([(1, 0.9), (0.8, 0.99), (0.6, 0.975), (0.4, 0.995)], [1, 2, 3]),
        # None is good enough: the best is given, of equals the one with more in eight bits.
        ([(1, 0.5), (0.8, 0.7), (0.6, 0.6)], [1]),
        ([(1, 0.5), (0.8, 0.7), (0.6, 0.7)], [1]),
        ([(1, 0.5), (0.8, 0.7), (0.6, 0.71)], [2]),
        # So it is where one is good enough alone, but not in the light of the others.
        ([(1, 0.99), (0.8, 0.2), (0.6, 0.3)], [0]),
    ],
)
def test_the_order_in_which_choices_are_proved(
    rows: list[tuple[float, float]], expected: list[int]
) -> None:
    given = choices(*rows)
    assert in_order(given, 0.98, 0.1) == [given[place] for place in expected]


# ---- damage ----

FLOOR = 0.1


def found(*rows: tuple[int, float, int, list[float]]) -> Candidates:
    """From (anchor, score, class, box), best first as the kernel gives them."""
    rows = tuple(sorted(rows, key=lambda row: -row[1]))
    return Candidates(
        np.array([row[3] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.int32),
        np.array([row[0] for row in rows], np.int32),
    )


BOX = [10.0, 20.0, 30.0, 60.0]
OTHER = (7, 0.9, 1, [0.0, 0.0, 5.0, 5.0])


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([], [], 0),
        ([OTHER], [OTHER], 0),
        ([(3, 0.6, 0, BOX)], [], 0.5**2),
        ([(3, 0.6, 0, BOX), OTHER], [OTHER], 0.5**2),
        ([(3, 0.1, 0, BOX), OTHER], [OTHER], 0),  # at the floor, where others come and go
        ([(3, 0.6, 0, BOX)], [(3, 0.4, 0, BOX)], 0.2**2),
        ([(3, 0.6, 0, BOX)], [(4, 0.6, 0, BOX)], 2 * 0.5**2),  # of another anchor
        ([(3, 0.6, 0, BOX)], [(3, 0.4, 1, BOX)], 0.5**2 + 0.3**2),  # of another class
        ([(3, 0.6, 0, BOX)], [(3, 0.6, 1, [0, 0, 1, 1])], 2 * 0.5**2),
        # Half of either box is in both: IoU 1/3.
        ([(3, 0.6, 0, BOX)], [(3, 0.6, 0, [20, 20, 40, 60])], (2 / 3 * 0.5) ** 2),
        ([(3, 0.6, 0, BOX)], [(3, 0.4, 0, [20, 20, 40, 60])], (2 / 3 * 0.3) ** 2 + 0.2**2),
        ([(3, 0.6, 0, BOX)], [(3, 0.6, 0, [50, 80, 70, 90])], 0.5**2),
        ([(3, 0.6, 0, BOX)], [(3, 0.6, 0, [30, 60, 10, 20])], 0.5**2),  # turned inside out
        ([(3, 0.6, 0, [5, 5, 5, 5])], [(3, 0.6, 0, [5, 5, 5, 5])], 0.5**2),  # empty
        (
            [(0, 0.6, 0, BOX), (900, 0.2, 0, BOX), OTHER],
            [(0, 0.5, 0, BOX), (500, 0.3, 2, BOX), OTHER],
            0.1**2 + 0.1**2 + 0.2**2,
        ),
    ],
)
def test_damage_by_hand(
    reference: list[tuple[int, float, int, list[float]]],
    other: list[tuple[int, float, int, list[float]]],
    expected: float,
) -> None:
    one, two = found(*reference), found(*other)
    assert damage(one, two, FLOOR) == pytest.approx(expected, abs=1e-7)
    assert damage(two, one, FLOOR) == pytest.approx(expected, abs=1e-7)
    assert damage(one, one, FLOOR) == pytest.approx(0, abs=1e-7) or 5 in one.boxes


def random_candidates(rng: np.random.Generator) -> dict[int, tuple[float, int, list[float]]]:
    anchors = rng.choice(40, rng.integers(0, 20), replace=False).tolist()
    made = {}
    for anchor in anchors:
        left, top, width, height = rng.uniform(1, 20, 4)
        box = [left, top, left + width, top + height]
        made[anchor] = float(rng.uniform(FLOOR, 1)), int(rng.integers(2)), box
    return made


def overlap(a: list[float], b: list[float]) -> float:
    across = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return across * down / (sum(sizes) - across * down)


def test_damage_one_anchor_at_a_time() -> None:
    rng = np.random.default_rng(6)
    for _ in range(100):
        one, two = random_candidates(rng), random_candidates(rng)
        expected = 0.0
        for anchor in one.keys() | two.keys():
            if anchor in one and anchor in two and one[anchor][1] == two[anchor][1]:
                (high, _, first), (low, _, second) = sorted((one[anchor], two[anchor]))[::-1]
                expected += (high - low) ** 2
                expected += ((1 - overlap(first, second)) * (low - FLOOR)) ** 2
            else:
                gone = [side[anchor][0] for side in (one, two) if anchor in side]
                expected += sum((score - FLOOR) ** 2 for score in gone)
        a, b = (found(*((n, *row) for n, row in side.items())) for side in (one, two))
        assert damage(a, b, FLOOR) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert damage(b, a, FLOOR) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert damage(a, a, FLOOR) == pytest.approx(0, abs=1e-6)


# ---- damages of layers ----


@pytest.fixture
def runner() -> Iterator[Runner]:
    made = Runner(2)
    yield made
    made.close()


def quantizer_of(
    model: Model, items: Sequence[Item], form: str, device: Device, runner: Runner, folder: Path
) -> Quantizer:
    quantizer = Quantizer(
        model,
        Network(model),
        FORMATS[form],
        calibrating=items,
        searching=items,
        judge=Judge(model, device, 0.35, 0.45),
        runner=runner,
        notebook=Notebook(folder),
    )
    quantizer.calibrate(lambda part: None)
    return quantizer


def by_whole_networks(quantizer: Quantizer) -> dict[str, float]:
    """Of each layer, from running the whole network with it and without, as damages are defined."""

    def candidates(layers: frozenset[str]) -> list[Candidates]:
        serialized = quantizer._network(layers, quantizer.network.proto, "float32")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            serialized, options, providers=["CPUExecutionProvider"]
        )
        return [
            quantizer.judge.candidates(
                item, session.run(None, {quantizer.network.input: item.data}), floor
            )
            for item in quantizer.searching
        ]

    floor = 0.25 * 0.35
    reference = candidates(frozenset())
    if quantizer.model.ranked:
        reference = [paired(one, one) for one in reference]
    scores = sum(float(one.scores.sum()) for one in reference)
    assert min(len(one.scores) for one in reference) > 15
    return {
        node: sum(
            damage(one, paired(one, other) if quantizer.model.ranked else other, floor)
            for one, other in zip(reference, candidates(frozenset([node])), strict=True)
        )
        / scores
        for node in quantizer.layers
    }


@pytest.fixture(scope="module")
def frames(device: Device, tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    return frames_of(crowd_clip(tmp_path_factory.mktemp("clip") / "crowd.mp4", range(4)), device)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("deep") / "deep.onnx"
    write_deep_model(path)
    return load_model(path)


@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_a_damage_is_that_of_the_network_with_one_layer_quantised(
    deep: Model, frames: list[Frame], device: Device, runner: Runner, tmp_path: Path, form: str
) -> None:
    if form == "int8" and int8_saturates():
        pytest.skip("this CPU has no VNNI: ONNX Runtime's INT8 saturates")
    items = [Item.of(frame, deep) for frame in frames]
    quantizer = quantizer_of(deep, items, form, device, runner, tmp_path)
    told: list[float] = []
    quantizer.measure(told.append)
    names = {quantizer.layers[node].name for node in quantizer.damages}
    assert names == {name for name, why in DEEP.items() if not why}
    # Sums of another order, without optimisations, round a few numbers to another code.
    assert quantizer.damages == pytest.approx(by_whole_networks(quantizer), rel=5e-3, abs=2e-6)
    assert told == pytest.approx([n / 6 for n in range(1, 7)])


def write_branching_model(path: Path, outputs: Sequence[str], again: bool = True) -> None:
    """A detection transformer's outputs from random weights, of which the scores are there before
    most layers have been computed; a sum skips two layers. again: a later one reads the scores."""
    rng = np.random.default_rng(9)
    channels, queries, classes = 24, 64, 20

    def weights(name: str, *shape: int) -> None:
        inputs = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
        constants[name] = rng.normal(0, 1.5 / np.sqrt(inputs), shape).astype(np.float32)

    constants: dict[str, Array] = {
        "flat": np.array([0, channels, queries]),
        "likely": np.full(classes, -1.5, np.float32),
        "below": np.full(4, 0.5, np.float32),
    }
    weights("stem w", channels, 3, 8, 8)
    weights("first w", channels, channels, 1, 1)
    weights("class w", channels, classes)
    weights("second w", channels, channels, 3, 3)
    weights("third w", channels, channels, 1, 1)
    weights("again w", classes, channels)
    weights("fourth w", channels, channels)
    weights("box w", channels, 4)
    one = {"pads": [1] * 4}
    rows: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Conv", ["images", "stem w"], "stem", {"strides": [8, 8]}),
        ("Relu", ["stem"], "stem on", {}),
        ("Conv", ["stem on", "first w"], "first", {}),
        ("Relu", ["first"], "first on", {}),
        ("Reshape", ["first on", "flat"], "first flat", {}),
        ("Transpose", ["first flat"], "first rows", {"perm": [0, 2, 1]}),
        ("MatMul", ["first rows", "class w"], "class raw", {}),
        ("Add", ["class raw", "likely"], "logits", {}),
        ("Conv", ["first on", "second w"], "second", one),
        ("Relu", ["second"], "second on", {}),
        ("Conv", ["second on", "third w"], "third", {}),
        ("Add", ["third", "first on"], "sum", {}),
        ("Reshape", ["sum", "flat"], "sum flat", {}),
        ("Transpose", ["sum flat"], "sum rows", {"perm": [0, 2, 1]}),
        ("Sigmoid", ["logits"], "likeliness", {}),
        ("MatMul", ["likeliness", "again w"], "again", {}),
        ("Add", ["sum rows", "again"], "joint", {}),
        ("MatMul", ["joint", "fourth w"], "fourth", {}),
        ("Relu", ["fourth"], "fourth on", {}),
        ("MatMul", ["fourth on", "box w"], "box raw", {}),
        ("Add", ["box raw", "below"], "box sum", {}),
        ("Sigmoid", ["box sum"], "pred_boxes", {}),
    ]
    if not again:
        rows = [row for row in rows if row[2] not in ("likeliness", "again", "joint")]
        rows = [
            (op, ["sum rows", *read[1:]] if made == "fourth" else read, made, more)
            for op, read, made, more in rows
        ]
        del constants["again w"]
    dims = {"logits": [1, queries, classes], "pred_boxes": [1, queries, 4]}
    graph = helper.make_graph(
        [helper.make_node(op, read, [made], name=made, **more) for op, read, made, more in rows],
        "branching",
        [helper.make_tensor_value_info("images", 1, [1, 3, 64, 64])],
        [helper.make_tensor_value_info(name, 1, dims[name]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 19)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("outputs", [("logits", "pred_boxes"), ("pred_boxes", "logits")])
def test_damages_where_an_output_comes_early(
    device: Device, runner: Runner, tmp_path: Path, outputs: tuple[str, str], again: bool
) -> None:
    write_branching_model(tmp_path / "model.onnx", outputs, again)
    model = load_model(tmp_path / "model.onnx")
    rng = np.random.default_rng(2)
    items = [
        Item(rng.uniform(0, 1, (1, 3, 64, 64)).astype(np.float32), Placement(1, 1), (64, 64), "")
        for _ in range(3)
    ]
    quantizer = quantizer_of(model, items, "fp8", device, runner, tmp_path / "notes")
    quantizer.measure(lambda part: None)
    expected = by_whole_networks(quantizer)
    assert len(expected) == 5 + again
    assert min(expected.values()) > 0
    assert quantizer.damages == pytest.approx(expected, rel=1e-3)


def test_damages_are_the_same_from_any_beginning(
    device: Device,
    runner: Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known already is not computed, nor asked for: the walk begins at what is not."""
    write_branching_model(tmp_path / "model.onnx", ("logits", "pred_boxes"))
    model = load_model(tmp_path / "model.onnx")
    data = np.random.default_rng(3).uniform(0, 1, (1, 3, 64, 64)).astype(np.float32)
    items = [Item(data, Placement(1, 1), (64, 64), "")]
    quantizer = quantizer_of(model, items, "fp8", device, runner, tmp_path / "notes")
    quantizer.measure(lambda part: None)
    whole = dict(quantizer.damages)
    runs: list[int] = []
    run = Runner.run

    def counted(self: Runner, *given: Any) -> Any:
        runs.append(1)
        return run(self, *given)

    monkeypatch.setattr(Runner, "run", counted)
    notes = {node: tmp_path / "notes" / f"damage {node}.json" for node in whole}
    for first in range(len(whole) + 1):
        for node in list(whole)[first:]:
            notes[node].unlink()
        runs.clear()
        quantizer.measure(lambda part: None)
        assert quantizer.damages == whole
        assert bool(runs) == (first < len(whole))


def test_numbers_beyond_float16_are_refused_where_the_rest_is_float16(
    deep: Model, device: Device, runner: Runner, tmp_path: Path
) -> None:
    items = [Item(np.full((1, 3, 128, 128), 1e8, np.float32), Placement(1, 1), (128, 128), "")]
    with pytest.raises(ModelError, match=r"beyond float16.* can only be quantised to int8"):
        quantizer_of(deep, items, "fp8", device, runner, tmp_path / "fp8")
    quantizer_of(deep, items, "int8", device, runner, tmp_path / "int8")


def test_rows_in_the_order_of_scores_are_paired_by_what_they_show() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 70, 70], [90, 0, 99, 9]], np.float32)
    classes = np.array([0, 1, 1], np.int32)
    rows = np.arange(3, dtype=np.int32)
    scores = np.array([0.8, 0.7, 0.6], np.float32)
    reference = Candidates(boxes, scores, classes, rows)
    swapped = Candidates(boxes[[1, 0, 2]], scores[[1, 0, 2]], classes[[1, 0, 2]], rows)
    assert damage(reference, swapped, 0.1) > 0.5  # row by row they show other things
    assert damage(reference, paired(reference, swapped), 0.1) == 0
    new = Candidates(boxes + 200, scores, classes, rows)
    assert paired(reference, new).anchors.tolist() == [3, 4, 5]


def test_damage_counts_from_a_quarter_of_the_threshold() -> None:
    assert damage_module.FLOOR == 0.25  # as by_whole_networks has it


# ---- frames ----


def test_frames_are_dealt_into_equal_parts() -> None:
    rng = np.random.default_rng(1)
    for count in [*range(3, 40), 120]:
        objects = rng.integers(0, 30, count).tolist()
        parts = deal(objects)
        assert sorted(place for part in parts for place in part) == list(range(count))
        assert all(part == sorted(part) for part in parts)
        sizes = [len(part) for part in parts]
        assert len(parts) == 3
        assert max(sizes) - min(sizes) <= 1
        if count % 6 == 0:  # what a part gets more on the way there, it gets less on the way back
            sums = [sum(objects[place] for place in part) for part in parts]
            assert max(sums) - min(sums) <= max(objects)
        assert deal(list(objects)) == parts


def test_frames_dealt_by_hand() -> None:
    assert deal([]) == [[], [], []]
    assert deal([4]) == [[0], [], []]
    assert deal([5, 5, 5]) == [[0], [1], [2]]
    # The richest are 3 (9), 1 (8), 5 (7), then 0 (6), 4 (5), 2 (1).
    assert deal([6, 8, 1, 9, 5, 7]) == [[2, 3], [1, 4], [0, 5]]
