from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Literal

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import vidai
from tests.media import make_clip
from tests.squares import boxes_at, squares_clip
from tests.test_decode import frames_of
from tests.tiny_model import write_tiny_model
from vidai import Detector
from vidai.device import Device
from vidai.errors import ConfigError, DeviceError, ModelError
from vidai.models import Model, load_model
from vidai.precision import (
    Case,
    Detect,
    choose,
    f1,
    load_receipt,
    receipt_path,
    receipts_of,
    variants,
)
from vidai.trial import sample, settled
from vidai.types import Detections, Frame

CASE = Case("tiny", "0" * 64, "CPU", {"onnxruntime": "1"})


def boxes(*rows: tuple[int, float, list[float]]) -> Detections:
    """From (class, score, box)."""
    return Detections(
        np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[0] for row in rows], np.int32),
    )


@pytest.fixture(scope="module")
def frames(device: Device, tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    """Three squares in each of 10 frames."""
    return frames_of(squares_clip(tmp_path_factory.mktemp("clip") / "squares.mp4"), device)


class Clock:
    """A clock that detectors advance by what each is said to need for a frame."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def slow(self, detect: Detect, *costs: float) -> Callable[[], Detect]:
        """The detector with these seconds a frame, one for each call, over and over."""
        calls = count()

        def slowed(frames: Sequence[Frame]) -> Sequence[Detections]:
            self.seconds += costs[next(calls) % len(costs)] * len(frames)
            return detect(frames)

        return lambda: slowed


def without_last(detect: Detect) -> Detect:
    return lambda frames: [found[:-1] for found in detect(frames)]


def one_by_one(detect: Detect) -> Detect:
    """Batches of any size, for a device whose largest is one."""
    return lambda frames: [detect([frame])[0] for frame in frames]


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([(0, 0.9, [0, 0, 10, 10])], [(0, 0.5, [0, 0, 10, 10])], 1),
        ([(0, 0.9, [0, 0, 10, 10])], [(1, 0.9, [0, 0, 10, 10])], 0),
        ([(0, 0.9, [0, 0, 10, 10])], [(0, 0.9, [0, 0, 10, 5.1])], 1),  # IoU 0.51
        ([(0, 0.9, [0, 0, 10, 10])], [(0, 0.9, [0, 0, 10, 4.9])], 0),
        ([(0, 0.9, [0, 0, 10, 10])], [(0, 0.9, [0, 0, 10, 10]), (0, 0.8, [0, 0, 10, 9])], 2 / 3),
        ([(0, 0.9, [0, 0, 10, 10]), (0, 0.9, [50, 0, 60, 10])], [(0, 0.9, [50, 0, 60, 10])], 2 / 3),
        ([(0, 0.9, [0, 0, 10, 10])], [], 0),
        ([], [], 1),
    ],
)
def test_f1_counts_each_box_of_a_class_once(
    reference: list[tuple[int, float, list[float]]],
    other: list[tuple[int, float, list[float]]],
    expected: float,
) -> None:
    assert f1([boxes(*reference)], [boxes(*other)]) == pytest.approx(expected)
    assert f1([boxes(*other)], [boxes(*reference)]) == pytest.approx(expected)


def test_f1_does_not_match_across_frames() -> None:
    one = boxes((0, 0.9, [0, 0, 10, 10]))
    assert f1([one, boxes()], [boxes(), one]) == 0


def test_real_variants_of_a_model_are_compared(
    device: Device, tiny_model: Path, frames: list[Frame], tmp_path: Path
) -> None:
    """Nothing is staged here but the clock: 32 and 16 bits on the CPU device."""
    clock = Clock()

    def make(model: Callable[[], Model], cost: float) -> Callable[[], Detect]:
        return lambda: clock.slow(Detector(model(), device=device), cost)()

    models = variants(load_model(tiny_model))
    assert list(models) == ["fp32", "fp16"]
    candidates = {
        "fp32": make(models["fp32"], 0.004),
        "fp16": make(models["fp16"], 0.002),
    }
    receipt = choose(candidates, frames, CASE, clock=clock)
    assert receipt.chosen == "fp16"
    assert [(t.precision, t.agreement, t.refused) for t in receipt.trials] == [
        ("fp32", 1, None),
        ("fp16", 1, None),
    ]
    assert [t.ms for t in receipt.trials] == pytest.approx([4, 2])
    assert (receipt.frames, receipt.boxes, receipt.conclusive) == (10, 30, True)


def test_what_finds_something_else_is_refused_though_faster(
    device: Device, tiny_model: Path, frames: list[Frame]
) -> None:
    clock = Clock()
    detector = Detector(tiny_model, device=device)
    candidates = {
        "fp32": clock.slow(detector, 0.004),
        "fp16": clock.slow(without_last(detector), 0.001),
    }
    receipt = choose(candidates, frames, CASE, clock=clock)
    assert receipt.chosen == "fp32"
    # 20 of 30 are found: 2 * 20 / 50
    assert receipt.trials[1].agreement == pytest.approx(0.8)
    assert receipt.trials[1].refused == (
        "finds other objects than the reference: F1 0.8000, less than 0.98"
    )
    lenient = replace(CASE, target=0.8)
    assert choose(candidates, frames, lenient, clock=clock).chosen == "fp16"


def test_the_slower_of_two_that_agree_is_not_chosen(
    device: Device, tiny_model: Path, frames: list[Frame]
) -> None:
    clock = Clock()
    detector = Detector(tiny_model, device=device)
    candidates = {"fp32": clock.slow(detector, 0.004), "fp8": clock.slow(detector, 0.005)}
    assert choose(candidates, frames, CASE, clock=clock).chosen == "fp32"


def test_one_slow_round_does_not_decide(
    device: Device, tiny_model: Path, frames: list[Frame]
) -> None:
    clock = Clock()
    detector = one_by_one(Detector(tiny_model, device=device))
    candidates = {
        "fp32": clock.slow(detector, 0.004),
        "fp16": clock.slow(detector, 9, 0.003, 9, 0.003, 0.003, 0.003),  # the first warms up
    }
    receipt = choose(candidates, frames, CASE, batch=10, rounds=5, clock=clock)
    assert receipt.chosen == "fp16"
    assert receipt.trials[1].ms == pytest.approx(3)


def test_candidates_take_turns(device: Device, tiny_model: Path, frames: list[Frame]) -> None:
    turns: list[tuple[str, int]] = []
    detector = one_by_one(Detector(tiny_model, device=device))

    def noted(name: str) -> Callable[[], Detect]:
        def detect(frames: Sequence[Frame]) -> Sequence[Detections]:
            turns.append((name, len(frames)))
            return detector(frames)

        return lambda: detect

    choose({"a": noted("a"), "b": noted("b")}, frames, CASE, batch=8, rounds=2)
    assert turns == [(name, size) for _ in range(3) for name in "ab" for size in (8, 2)]


def test_a_candidate_that_cannot_be_built_is_recorded(
    device: Device, tiny_model: Path, frames: list[Frame]
) -> None:
    def fail() -> Detect:
        raise ModelError("no such layer")

    receipt = choose(
        {"fp32": lambda: Detector(tiny_model, device=device), "fp16": fail}, frames, CASE
    )
    assert receipt.chosen == "fp32"
    assert receipt.trials[1].refused == "no such layer"
    with pytest.raises(ModelError, match="no such layer"):
        choose({"fp32": fail}, frames, CASE)


def failing_after(detect: Detect, calls: int, error: Exception) -> Detect:
    made = count()

    def fail(frames: Sequence[Frame]) -> Sequence[Detections]:
        if next(made) >= calls:
            raise error
        return detect(frames)

    return fail


@pytest.mark.parametrize("error", [ModelError("shapes differ"), DeviceError("memory is full")])
def test_a_candidate_that_fails_later_is_recorded(
    error: Exception, device: Device, tiny_model: Path, frames: list[Frame]
) -> None:
    detector = Detector(tiny_model, device=device)
    candidates: dict[str, Callable[[], Detect]] = {
        "fp32": lambda: detector,
        "fp16": lambda: failing_after(detector, 2, error),
        "fp8": lambda: detector,
    }
    told: list[tuple[str, float]] = []
    receipt = choose(
        candidates, frames, CASE, rounds=2, progress=lambda what, part: told.append((what, part))
    )
    assert [(t.precision, t.refused) for t in receipt.trials] == [
        ("fp32", None),
        ("fp16", "shapes differ" if isinstance(error, ModelError) else "memory is full"),
        ("fp8", None),
    ]
    assert receipt.trials[1].ms is None
    # What the device is to blame for may go better the next time.
    assert receipt.conclusive == isinstance(error, ModelError)
    assert [part for _, part in told] == [0, 0.5, 1]


def test_the_reference_that_fails_later_is_an_error(
    device: Device, tiny_model: Path, frames: list[Frame]
) -> None:
    detector = Detector(tiny_model, device=device)
    broken = failing_after(detector, 15, DeviceError("the GPU failed"))
    with pytest.raises(DeviceError, match="the GPU failed"):
        choose({"fp32": lambda: broken, "fp16": lambda: detector}, frames, CASE)


def test_too_few_objects_decide_nothing(
    device: Device, tiny_model: Path, frames: list[Frame]
) -> None:
    clock = Clock()
    detector = Detector(tiny_model, device=device)
    candidates = {"fp32": clock.slow(detector, 0.004), "fp16": clock.slow(detector, 0.001)}
    receipt = choose(candidates, frames[:6], CASE, clock=clock)
    assert (receipt.chosen, receipt.conclusive) == ("fp32", False)
    assert receipt.trials[1].refused == (
        "the reference finds 18 objects in these frames, too few to compare"
    )


def test_nothing_to_try_is_a_config_error(frames: list[Frame]) -> None:
    with pytest.raises(ConfigError, match="at least one candidate and one frame"):
        choose({}, frames, CASE)


def test_a_receipt_is_found_again_for_its_case_only(
    device: Device,
    tiny_model: Path,
    frames: list[Frame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path))
    path = receipt_path(CASE)
    assert load_receipt(path, CASE) is None
    receipt = choose(
        {"fp32": lambda: Detector(tiny_model, device=device)},
        frames,
        CASE,
        layers=lambda detect: {"fp32": 3},
    )
    receipt.save(path)
    assert load_receipt(path, CASE) == receipt
    newer = replace(CASE, versions={"onnxruntime": "2"})
    assert load_receipt(path, newer) is None
    assert receipt_path(newer) != path
    for damaged in (b"", b"[]", b"{}", b'{"case": 1}', path.read_bytes()[:-9]):
        path.write_bytes(damaged)
        assert load_receipt(path, CASE) is None


def test_a_half_model_has_one_variant(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "half.onnx", dtype="float16")
    model = load_model(tmp_path / "half.onnx")
    ((precision, make),) = variants(model).items()
    assert precision == "fp16"
    assert make() is model


TYPES = {
    "fp8": TensorProto.FLOAT8E4M3FN,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
}


def quantised(
    tiny_model: Path, *pairs: tuple[str, str], dtype: Literal["float32", "float16"] = "float32"
) -> Model:
    """A model of Q/DQ pairs, each of a type and how the type is told, "" where it is not."""
    rest = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = [helper.make_tensor("scale", rest, [], [0.5])]
    nodes: list[onnx.NodeProto] = []
    last = "images"
    for n, (kind, told) in enumerate(pairs):
        point = helper.make_tensor(f"zero{n}", TYPES[kind], [], [0])
        inputs = [last, "scale", *([point.name] if told in ("initializer", "constant") else [])]
        how = {"output_dtype": TYPES[kind]} if told == "output_dtype" else {}
        if told == "constant":
            nodes.append(helper.make_node("Constant", [], [point.name], value=point))
        if told == "initializer":
            weights.append(point)
        last = f"numbers{n}"
        nodes += [
            helper.make_node("QuantizeLinear", inputs, [f"codes{n}"], **how),
            helper.make_node("DequantizeLinear", [f"codes{n}", "scale"], [last]),
        ]
    value, shape = helper.make_tensor_value_info, [1, 3, 128, 128]
    graph = helper.make_graph(
        nodes, "quantised", [value("images", rest, shape)], [value(last, rest, shape)], weights
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(network)
    model = load_model(tiny_model)
    return replace(model, onnx=network.SerializeToString(), spec=replace(model.spec, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("told", ["initializer", "constant", "output_dtype"])
@pytest.mark.parametrize(("kind", "only"), [("fp8", "fp8"), ("int8", "int8"), ("uint8", "int8")])
def test_a_quantised_model_is_only_that(
    tiny_model: Path, kind: str, only: str, told: str, dtype: Literal["float32", "float16"]
) -> None:
    model = quantised(tiny_model, (kind, told), dtype=dtype)
    ((precision, make),) = variants(model).items()
    assert precision == only
    assert make() is model


def test_a_quantiser_that_names_no_type_gives_bytes(tiny_model: Path) -> None:
    """As the operator's definition says: uint8."""
    assert list(variants(quantised(tiny_model, ("uint8", "")))) == ["int8"]


@pytest.mark.parametrize("told", ["initializer", "constant", "output_dtype"])
def test_sixteen_bits_are_not_eight(tiny_model: Path, told: str) -> None:
    assert list(variants(quantised(tiny_model, ("int16", told)))) == ["fp32", "fp16"]


@pytest.mark.parametrize("kinds", [("fp8", "int8"), ("int8", "fp8")])
def test_a_model_with_both_needs_what_fp8_needs(tiny_model: Path, kinds: tuple[str, str]) -> None:
    model = quantised(tiny_model, *((kind, "initializer") for kind in kinds))
    assert list(variants(model)) == ["fp8"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bytes_that_only_store_weights_are_no_precision(tmp_path: Path, dtype: str) -> None:
    """They are made numbers again before anything is computed with them."""
    write_tiny_model(tmp_path / "tiny.onnx", dtype=dtype)
    model = load_model(tmp_path / "tiny.onnx")
    network = onnx.load_from_string(model.onnx)
    network.graph.initializer.append(helper.make_tensor("codes", TensorProto.INT8, [2], [1, 2]))
    network.graph.initializer.append(helper.make_tensor("step", TensorProto.FLOAT, [], [0.5]))
    network.graph.node.append(helper.make_node("DequantizeLinear", ["codes", "step"], ["stored"]))
    stored = replace(model, onnx=network.SerializeToString())
    assert list(variants(stored)) == list(variants(model))


# On the user's own video.


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of receipts, empty at first."""
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def times_in(clip: Path, device: Device, **cut: float) -> list[float]:
    with vidai.FileSource(clip, **cut) as source:
        return [frame.time for frame in sample(source, device, lambda what, part: None)]


def test_frames_are_taken_from_all_of_a_video(device: Device, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", codec="libx264", frames=300, options={"g": "50"})
    assert times_in(clip, device) == pytest.approx([n * 0.5 for n in range(24)], abs=0.05)
    cut = times_in(clip, device, start=3.0, end=9.0)
    assert cut == pytest.approx([3 + n * 0.25 for n in range(24)], abs=0.05)
    assert times_in(clip, device, start=3.0, end=3.05) == pytest.approx([3, 3.04])
    # 5 frames are left: each is taken, and once.
    assert times_in(clip, device, start=11.8) == pytest.approx([11.8 + n / 25 for n in range(5)])


def test_frames_are_taken_where_the_length_is_unknown(device: Device, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.h264", codec="libx264", frames=60)
    with vidai.FileSource(clip) as source:
        assert source.info.duration is None
        taken = sample(source, device, lambda what, part: None)
    assert [frame.index for frame in taken] == [0, 10, 20, 30, 40, 50]


def test_what_cannot_be_read_is_left_out(device: Device, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", codec="libx264", frames=250, options={"g": "25"})
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    times = times_in(clip, device)
    assert times[0] == 0
    assert 6 < len(times) < 20
    assert max(times) < 7


def test_frames_of_another_size_are_left_out(device: Device, tmp_path: Path) -> None:
    clip = tmp_path / "joined.ts"
    parts = [make_clip(tmp_path / f"{w}.ts", codec="libx264", width=w, frames=25) for w in (64, 96)]
    with av.open(str(clip), "w", format="mpegts") as out:
        stream = out.add_mux_stream("h264", rate=25, width=64, height=48)
        stream.time_base = Fraction(1, 90_000)
        for n, part in enumerate(parts):
            with av.open(str(part)) as source:
                for packet in source.demux():
                    if packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + n * 90_000, packet.dts + n * 90_000
                        packet.stream = stream
                        out.mux(packet)
    with vidai.FileSource(clip) as whole:
        taken = sample(whole, device, lambda what, part: None)
    assert {frame.width for frame in taken} == {64}
    assert 10 <= len(taken) <= 14


def test_the_cpu_runs_a_model_as_it_is(
    tmp_path: Path, kept: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is looked into, tried or kept where no precision is named."""
    monkeypatch.setattr("vidai.precision.variants", None)
    monkeypatch.setattr("vidai.trial.variants", None)
    clip = squares_clip(tmp_path / "in.mp4")
    report = vidai.run(clip, model=tiny_model, device="cpu", records=tmp_path / "r.jsonl")
    assert report.precision is None
    assert report.to_dict()["precision"] is None
    assert not kept.exists()


def test_half_precision_on_the_cpu_finds_the_same(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4")
    results = vidai.detect(clip, model=tiny_model, device="cpu", precision="fp16")
    for frame, found in results:
        order = np.argsort(found.class_ids)
        boxes = [box for _, box in boxes_at(frame.index)]
        np.testing.assert_allclose(found.boxes[order], boxes, atol=0.05)
    assert frame.index == 9
    detector = Detector(tiny_model, device="cpu", precision="fp16")
    assert detector.model.spec.dtype == "float16"
    assert not detector.undecided


def test_a_choice_is_kept_and_used_again_for_the_same_model(
    tmp_path: Path, kept: Path, tiny_model: Path
) -> None:
    clip = squares_clip(tmp_path / "in.mp4")
    told: list[str] = []

    def run(model: Path) -> vidai.Report:
        told.clear()
        return vidai.run(
            *(clip, tmp_path / "out.mp4"),
            model=model,
            device="cpu",
            precision="auto",
            overwrite=True,
            build=lambda what, part: told.append(what),
        )

    first = run(tiny_model).precision
    assert first is not None
    assert first.receipt is not None
    assert (first.receipt.frames, first.receipt.boxes, first.why) == (10, 30, first.receipt.why)
    assert told[-1] == "comparing fp32 and fp16"
    (path,) = kept.iterdir()
    assert load_receipt(path, first.receipt.case) == first.receipt
    assert receipts_of(load_model(tiny_model)) == [first.receipt]

    second = run(tiny_model).precision
    assert not told
    assert second is not None
    assert second.receipt == first.receipt

    changed = onnx.load(tiny_model)
    changed.doc_string = "another"
    onnx.save(changed, tmp_path / "tiny.onnx")
    run(tmp_path / "tiny.onnx")
    assert told
    assert len(list(kept.iterdir())) == 2


def test_a_choice_that_cannot_be_kept_is_told(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = squares_clip(tmp_path / "in.mp4")
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "cache"))
    report = vidai.run(
        *(clip, tmp_path / "out.mp4"), model=tiny_model, device="cpu", precision="auto"
    )
    assert report.precision is not None
    (warning,) = report.warnings
    assert "cannot be kept" in warning
    assert "VIDAI_CACHE" in warning


def test_a_model_that_has_one_precision_needs_no_trial(
    device: Device, kept: Path, tmp_path: Path
) -> None:
    write_tiny_model(tmp_path / "half.onnx", dtype="float16")
    detector = Detector(tmp_path / "half.onnx", device=device, precision="auto")
    assert detector.undecided
    with vidai.FileSource(squares_clip(tmp_path / "in.mp4")) as source:
        same = settled(detector, source, clock=lambda: pytest.fail("measured"))
    assert same is detector
    assert same.precision is not None
    assert (same.precision.name, same.undecided) == ("fp16", False)


def test_a_precision_that_a_model_cannot_have_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    for precision in ("fp8", "int8"):
        said = f"tiny cannot run in {precision}, only in fp32 and fp16: make one with `vidai quant"
        with pytest.raises(ModelError, match=said):
            Detector(tiny_model, device="cpu", precision=precision)
    write_tiny_model(tmp_path / "half.onnx", dtype="float16")
    with pytest.raises(ModelError, match=r"half cannot run in fp32, only in fp16$"):
        Detector(tmp_path / "half.onnx", device="cpu", precision="fp32")
    with pytest.raises(ConfigError, match="no precision 'int4': use auto, fp32, fp16, fp8, int8"):
        Detector("a model that is not looked for", device="cpu", precision="int4")
