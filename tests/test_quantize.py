"""Quantising as a whole: from clips to a file, by the function and by the command.

The truths are the deep detector, of which it is known what it finds and which of its layers does
not bear eight bits, and F1 as counted here from boxes that are known to lie on whole pixels.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import vidai.evaluation
from tests.builds import int8_saturates
from tests.squares import boxes_at, crowd_clip, squares_clip
from tests.test_decode import frames_of
from tests.tiny_model import (
    DEEP,
    SIDE,
    write_constant_model,
    write_deep_model,
    write_tiny_model,
)
from vidai import Detector
from vidai.cli import EXIT_MISSED, cli
from vidai.device import Device
from vidai.devices.cpu.session import open_model
from vidai.errors import ConfigError, ModelError, StreamError
from vidai.models import load_model
from vidai.models.onnx_file import read_onnx
from vidai.quantization import QuantizationRecord, quantize
from vidai.quantization.layers import quantized
from vidai.quantization.making import deal
from vidai.quantization.notebook import Notebook
from vidai.quantization.quantizer import Quantizer
from vidai.quantization.running import Item, Judge
from vidai.sources.media import picture as read_picture
from vidai.types import Detections, Frame

FRAMES = 18
BEARING = [name for name, why in DEEP.items() if not why and name != "brittle"]
REST = {"fp8": "fp16", "int8": "fp32"}
CELLS = (SIDE // 8) ** 2
MACS = {  # of each layer, by hand: cells × outputs × inputs × kernel
    "spread": CELLS * 32 * 3,
    "mix": CELLS * 32 * 32,
    "each": CELLS * 32 * 9,
    "blend": CELLS * 32 * 32 * 9,
    "lift": CELLS * 32 * 32 * 9,
    "brittle": CELLS * 32 * 32 * 9,
    "settle": CELLS * 24 * 32,
    "product": CELLS * 24 * 24,
    "head": CELLS * 8 * 24,
}


@dataclass(frozen=True)
class Made:
    """What one run has given. told: what its progress was called with."""

    model: Path
    report: Path
    chart: Path
    record: QuantizationRecord
    told: list[tuple[str, float]]


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deep") / "deep.onnx"
    write_deep_model(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crowd_clip(tmp_path_factory.mktemp("clip") / "crowd.mp4", range(FRAMES))


@pytest.fixture(scope="module")
def frames(clip: Path, device: Device) -> list[Frame]:
    return frames_of(clip, device)


@pytest.fixture(scope="module")
def make(deep: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """What a run of its own makes of the deep model, by precision, made once."""
    made: dict[str, Made] = {}

    def one(precision: str) -> Made:
        if precision not in made:
            folder = tmp_path_factory.mktemp(precision)
            model, report, chart = (
                folder / name for name in ("new.onnx", "report.json", "chart.svg")
            )
            told: list[tuple[str, float]] = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("VIDAI_CACHE", str(folder / "cache"))
                record = quantize(
                    deep,
                    model,
                    calibrate=clip,
                    precision=precision,
                    frames=FRAMES,
                    report=report,
                    chart=chart,
                    progress=lambda *one: told.append(one),
                )
            shutil.rmtree(folder / "cache")
            assert sorted(folder.iterdir()) == sorted([model, report, chart])
            made[precision] = Made(model, report, chart, record, told)
        return made[precision]

    return one


@pytest.fixture(params=["fp8", "int8"])
def made(request: pytest.FixtureRequest, make: Callable[[str], Made]) -> Made:
    return make(request.param)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VIDAI_CACHE", str(folder))
    return folder


def command(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def refused(*args: object, code: int = 1) -> str:
    """The one sentence with which `vidai quantize` fails."""
    result = command("quantize", *args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    said = result.stderr.strip().splitlines()
    assert "bug in vidai" not in result.stderr
    assert not any(line.startswith("Traceback") for line in said)
    if code == 1:
        (sentence,) = [line for line in said if line.startswith("vidai: ")]
        return sentence.removeprefix("vidai: ")
    return said[-1]


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below, hidden ones too."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shown(found: Detections) -> set[tuple[int, tuple[int, ...]]]:
    """(class, box), on whole pixels."""
    assert np.abs(found.boxes - found.boxes.round()).max(initial=0) < 0.1
    places = {
        (int(one), tuple(map(int, box.round())))
        for one, box in zip(found.class_ids, found.boxes, strict=True)
    }
    assert len(places) == len(found)
    return places


def counted_f1(references: Sequence[Detections], others: Sequence[Detections]) -> float:
    """Boxes of the same place and class are the same: all of them lie on the grid of the cells,
    and those beside each other overlap by a third."""
    both = sum(len(shown(a) & shown(b)) for a, b in zip(references, others, strict=True))
    return 2 * both / (sum(map(len, references)) + sum(map(len, others)))


def test_the_deep_model_answers_as_the_tiny_one(
    deep: Path, frames: list[Frame], device: Device, tmp_path: Path
) -> None:
    write_tiny_model(tmp_path / "tiny.onnx")
    write_deep_model(tmp_path / "tangled.onnx", tangled=True)
    expected = Detector(tmp_path / "tiny.onnx", device=device, conf=0.01)(frames)
    for path in (deep, tmp_path / "tangled.onnx"):
        found = Detector(path, device=device, conf=0.01)(frames)
        for one, other in zip(expected, found, strict=True):
            assert shown(one[one.scores > 0.015]) <= shown(other)
            assert shown(other[other.scores > 0.015]) <= shown(one)
            assert one.scores == pytest.approx(other.scores, abs=2e-3)
    scores = np.concatenate([one.scores for one in expected])
    assert len(scores) > 20 * FRAMES
    assert np.histogram(scores, 5, (0, 1))[0].min() > 10  # of all sizes


def test_layers_that_hurt_stay_as_they_are(made: Made) -> None:
    record = made.record
    assert [layer.name for layer in record.layers] == list(DEEP)
    for layer in record.layers:
        assert layer.op == ("MatMul" if layer.name in ("product", "head") else "Conv")
        assert layer.macs == MACS[layer.name]
        inside = layer.name in BEARING
        assert layer.precision == (record.precision if inside else record.rest)
        assert layer.why == ("" if inside else DEEP[layer.name] or "too much damage for its work")
    assert record.rest == REST[record.precision]
    damages = {layer.name: layer.damage for layer in record.layers}
    assert {name for name, damage in damages.items() if damage is None} == {
        name for name, why in DEEP.items() if why
    }
    assert min(damages[name] or 0 for name in BEARING) > 0
    assert (damages["brittle"] or 0) > 20 * max(damages[name] or 0 for name in BEARING)
    # The constants that "settle" reads leave nothing else to be seen, and it can subtract them.
    centred = [layer.name for layer in record.layers if layer.centred]
    assert centred == ["settle"]


def test_shares_count_the_work_that_can_be_quantised(made: Made) -> None:
    record = made.record
    possible = sum(MACS[name] for name, why in DEEP.items() if not why)
    assert record.share == pytest.approx(sum(MACS[name] for name in BEARING) / possible)
    first, second, *_ = record.curve
    assert (first.layers, first.share) == (6, 1)
    assert (second.layers, second.share) == (5, record.share)
    assert first.agreement < 0.95 < 0.98 <= second.agreement
    shares = [point.share for point in record.curve]
    assert shares == sorted(set(shares), reverse=True)
    # The fit by least squares only rises, and keeps the mean.
    fitted = [point.fitted for point in record.curve]
    assert fitted == sorted(fitted)
    assert np.mean(fitted) == pytest.approx(np.mean([point.agreement for point in record.curve]))


def test_the_proof_is_counted_on_frames_of_its_own(
    made: Made, deep: Path, frames: list[Frame], device: Device, tmp_path: Path
) -> None:
    before = Detector(deep, device=device)(frames)
    proving = deal([len(found) for found in before])[2]
    assert len(proving) == FRAMES // 3
    reference = [before[place] for place in proving]
    found = Detector(made.model, device=device)([frames[place] for place in proving])
    record = made.record
    assert record.frames == {"calibrate": 6, "search": 6, "prove": 6}
    assert record.boxes == sum(map(len, reference)) > 100
    assert record.f1 == pytest.approx(counted_f1(reference, found))
    assert (record.target, record.conf, record.reached) == (0.98, 0.35, True)

    alone = crowd_clip(tmp_path / "proof.mp4", proving)
    measured = vidai.evaluation.evaluate(made.model, alone, against=deep, device=device)
    assert measured.agreement is not None
    assert measured.agreement.overall.reference == record.boxes
    assert measured.agreement.overall.f1 == pytest.approx(record.f1)


def test_each_part_of_the_frames_has_its_own_use(
    deep: Path,
    clip: Path,
    frames: list[Frame],
    device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: dict[str, list[str]] = {}
    begin = Quantizer.__init__

    def noted(self: Quantizer, *given: Any, **more: Any) -> None:
        for part in ("calibrating", "searching"):
            used[part] = [item.where for item in more[part]]
        begin(self, *given, **more)

    monkeypatch.setattr(Quantizer, "__init__", noted)
    quantize(deep, tmp_path / "new.onnx", calibrate=clip, frames=FRAMES)
    parts = deal([len(found) for found in Detector(deep, device=device)(frames)])
    assert used == {
        name: [f"crowd.mp4 at {frames[place].time:.3f} s" for place in part]
        for name, part in zip(("calibrating", "searching"), parts, strict=False)
    }


def test_rounding_moves_scores(
    made: Made,
    deep: Path,
    frames: list[Frame],
    device: Device,
    request: pytest.FixtureRequest,
) -> None:
    """Else the proofs above would be of a file that is the same."""
    if "int8" in request.node.name and int8_saturates():
        pytest.skip("this CPU has no VNNI: ONNX Runtime's INT8 saturates")
    before, after = (Detector(path, device=device)(frames) for path in (deep, made.model))
    apart = [
        np.sort(one.scores)[-9:] - np.sort(other.scores)[-9:]
        for one, other in zip(before, after, strict=True)
    ]
    assert 1e-4 < np.abs(apart).mean() < 0.05


def test_squares_of_another_clip_are_found_at_their_places(
    made: Made, device: Device, tmp_path: Path
) -> None:
    other = frames_of(squares_clip(tmp_path / "fresh.mp4", frames=15), device)
    for index, found in enumerate(Detector(made.model, device=device)(other)):
        assert shown(found) == {(one, tuple(box)) for one, box in boxes_at(index)}


def stored_types(path: Path) -> dict[str, int]:
    """The type in which each layer's weights are stored, and that of its input's codes is the
    same where it has any."""
    graph = onnx.load(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = {}
    for name in DEEP:
        node = makers[name]
        if node.op_type == "Add":
            node = makers[node.input[0]]  # what follows a product is its bias
        stored = constants.get(node.input[1])
        if stored is None:
            weights, read = (makers[source] for source in reversed(node.input[:2]))
            assert (weights.op_type, read.op_type) == ("DequantizeLinear", "DequantizeLinear")
            stored = constants[weights.input[0]]
            quantizer = makers[read.input[0]]
            assert quantizer.op_type == "QuantizeLinear"
            assert constants[quantizer.input[2]] == constants[read.input[2]] == stored
        found[name] = stored
    return found


def test_the_file_is_what_the_record_says(made: Made, deep: Path) -> None:
    proto = onnx.load(made.model)
    onnx.checker.check_model(proto, full_check=True)
    record = made.record
    types = {
        "fp8": TensorProto.FLOAT8E4M3FN,
        "int8": TensorProto.INT8,
        "fp16": TensorProto.FLOAT16,
        "fp32": TensorProto.FLOAT,
    }
    told = {layer.name: types[layer.precision] for layer in record.layers}
    assert stored_types(made.model) == told
    codes = Counter(
        tensor.name.split("/")[0]
        for tensor in proto.graph.initializer
        if tensor.data_type == types[record.precision] and len(tensor.dims) > 1
    )
    assert codes == Counter(BEARING)
    (given,), (answer,) = proto.graph.input, proto.graph.output
    assert given.type.tensor_type.elem_type == types[record.rest]
    assert answer.type.tensor_type.elem_type == TensorProto.FLOAT
    others = {"fp8": TensorProto.INT8, "int8": TensorProto.FLOAT8E4M3FN}[record.precision]
    assert others not in {tensor.data_type for tensor in proto.graph.initializer}

    new, old = load_model(made.model), load_model(deep)
    assert new.names == old.names == ("red", "green", "blue")
    assert new.spec == replace(old.spec, dtype="float16" if record.rest == "fp16" else "float32")
    metadata = read_onnx(made.model).metadata
    assert {**read_onnx(deep).metadata, **metadata} == metadata
    assert QuantizationRecord.of_metadata(metadata) == record
    assert record.model == "deep"
    assert record.sha256 == hashlib.sha256(deep.read_bytes()).hexdigest()
    assert record.notes == ()


def test_report_and_chart(made: Made) -> None:
    written = json.loads(made.report.read_text())
    assert written == json.loads(json.dumps({**asdict(made.record), "reached": True}))
    root = ElementTree.parse(made.chart).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 20


def test_progress_tells_every_stage_to_its_end(made: Made) -> None:
    stages = list(dict.fromkeys(what for what, _ in made.told))
    assert stages == [
        "taking frames",
        "looking at what there is to find",
        "calibrating",
        "measuring each layer's damage",
        "choosing layers",
        "proving the result",
    ]
    for stage in stages:
        parts = [part for what, part in made.told if what == stage]
        assert parts == sorted(parts)
        assert parts[-1] == 1
        assert parts[0] >= 0


def test_the_command_does_the_same(
    make: Callable[[str], Made], deep: Path, clip: Path, tmp_path: Path
) -> None:
    expected = make("fp8")
    new, report, chart = (tmp_path / name for name in ("new.onnx", "report.json", "chart.PNG"))
    result = command(
        *("quantize", deep, "-o", new, "--calibrate", clip, "--frames", FRAMES),
        *("--report", report, "--chart", chart),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    for said in (
        f"written    {new}",
        "target     F1 0.98: reached",
        f"proof      F1 {expected.record.f1:.4f} with the model as it was",
        f"which finds {expected.record.boxes} objects",
        "fp8, the rest fp16: 69.3 % of the work",
        f"vidai models info {new}",
    ):
        assert said in result.stderr
    (chosen,) = [line for line in result.stderr.splitlines() if line.split()[-1:] == ["chosen"]]
    assert chosen.split()[:2] == ["69.3%", "5"]
    assert new.read_bytes() == expected.model.read_bytes()
    assert report.read_bytes() == expected.report.read_bytes()
    with Image.open(chart) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1200
    assert sorted(tmp_path.iterdir()) == sorted([new, report, chart])


def test_quiet_says_nothing(deep: Path, clip: Path, tmp_path: Path) -> None:
    arguments = ("-o", tmp_path / "new.onnx", "--calibrate", clip, "--frames", FRAMES, "-q")
    result = command("quantize", deep, *arguments)
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "new.onnx").is_file()


def test_a_proof_by_few_objects_is_told(deep: Path, tmp_path: Path) -> None:
    short = crowd_clip(tmp_path / "short.mp4", range(9))
    new = tmp_path / "new.onnx"
    result = command("quantize", deep, "-o", new, "--calibrate", short, "--target", 0.9)
    assert result.exit_code == 0, result.output
    record = QuantizationRecord.of_metadata(read_onnx(new).metadata)
    assert record is not None
    assert 50 < record.boxes < 75
    (note,) = record.notes
    assert f"{record.boxes} objects, each worth {1 / (2 * record.boxes):.3f} of F1" in note
    assert f"note {note}" in result.stderr


def test_info_shows_each_layer(made: Made, deep: Path) -> None:
    result = command("models", "info", made.model)
    assert result.exit_code == 0, result.output
    record = made.record
    assert f"made from deep, sha256 {record.sha256}" in result.output
    rows = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    total = sum(MACS.values())
    for layer in record.layers:
        row = rows[layer.name]
        assert row.split()[1:3] == [layer.op, layer.precision]
        assert f"{100 * MACS[layer.name] / total:.1f} %" in row
        assert row.endswith(layer.why)
    assert "proof" not in command("models", "info", deep).output


@pytest.mark.parametrize("named", [False, True])
def test_the_file_runs(made: Made, tmp_path: Path, named: bool) -> None:
    squares = squares_clip(tmp_path / "in.mp4", frames=6)
    asked = ["--precision", made.record.precision] if named else []
    result = command(
        *("run", squares, tmp_path / "out.mp4", "--records", tmp_path / "out.jsonl"),
        *("--model", made.model, "--device", "cpu", *asked),
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.mp4").stat().st_size > 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(6))
    for index, row in enumerate(rows):
        found = {(one["class_id"], *map(round, one["box"])) for one in row["detections"]}
        assert found == {(one, *box) for one, box in boxes_at(index)}


def test_the_file_is_of_one_precision(make: Callable[[str], Made], tmp_path: Path) -> None:
    squares = squares_clip(tmp_path / "in.mp4", frames=2)
    for precision, other in (("fp8", "int8"), ("int8", "fp8"), ("fp8", "fp32")):
        result = command(
            *("run", squares, "--records", "-", "--device", "cpu"),
            *("--model", make(precision).model, "--precision", other),
        )
        assert result.exit_code == 1
        assert f"cannot run in {other}, only in {precision}" in result.stderr


def test_any_name_of_files_is_taken(
    make: Callable[[str], Made], deep: Path, clip: Path, tmp_path: Path
) -> None:
    """A folder, a list, a loaded model: the same bytes."""
    shutil.copy(clip, tmp_path / "again.mp4")
    cases: list[tuple[Any, Any]] = [
        (deep, [str(clip)]),
        (load_model(deep), tmp_path),
        (str(deep), [tmp_path / "again.mp4"]),
    ]
    for number, (model, given) in enumerate(cases):
        new = tmp_path / f"{number}.onnx"
        quantize(model, str(new), calibrate=given, frames=FRAMES)
        assert new.read_bytes() == make("fp8").model.read_bytes()


# ---- files ----


@pytest.fixture
def folder(deep: Path, clip: Path, tmp_path: Path) -> Path:
    """A user's folder: a model, clips, and three files of earlier runs."""
    shutil.copy(deep, tmp_path / "deep.onnx")
    (tmp_path / "clips").mkdir()
    shutil.copy(clip, tmp_path / "clips" / "crowd.mp4")
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "clips" / "black.png")
    for name in ("old.onnx", "old.json", "old.svg"):
        (tmp_path / name).write_text(f"{name}, precious")
    (tmp_path / "link.onnx").symlink_to("deep.onnx")
    (tmp_path / "hard.onnx").hardlink_to(tmp_path / "deep.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (["-o", "old.onnx"], "old.onnx exists: choose another name, or -y to replace it"),
        (["-o", "new.onnx", "--report", "old.json"], "old.json exists"),
        (["-o", "new.onnx", "--chart", "old.svg"], "old.svg exists"),
        (["-o", "deep.onnx"], "is the input itself"),
        (["-o", "deep.onnx", "-y"], "is the input itself"),
        (["-o", "link.onnx", "-y"], "is the input itself"),
        (["-o", "hard.onnx", "-y"], "is the input itself"),
        (["-o", "clips/../deep.onnx", "-y"], "is the input itself"),
        (["-o", "clips/crowd.mp4", "-y"], "is the input itself"),
        (["-o", "new.onnx", "--report", "deep.onnx", "-y"], "is the input itself"),
        (["-o", "new.onnx", "--report", "clips/crowd.mp4", "-y"], "is the input itself"),
        (["-o", "new.onnx", "--chart", "clips/black.png", "-y"], "is the input itself"),
        (["-o", "clips", "-y"], "is a folder"),
        (["-o", "nowhere/new.onnx"], "there is no folder"),
        (["-o", "new.onnx", "--report", "nowhere/new.json"], "there is no folder"),
        (["-o", "new.onnx", "--chart", "nowhere/new.svg"], "there is no folder"),
        (["-o", "new.onnx", "--chart", "new.gif"], "new.gif: give it a name that ends in .svg or"),
        (["-o", "new.onnx", "--chart", "new"], "give it a name that ends in .svg or .png"),
        (["-o", "new.onnx", "--report", "new.onnx"], "two outputs are named"),
        (["-o", "new.svg", "--chart", "clips/../new.svg"], "two outputs are named"),
        (["-o", "new.onnx", "--report", "new.svg", "--chart", "new.svg"], "two outputs are named"),
    ],
)
def test_nothing_of_the_users_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, outputs: list[str], said: str
) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert said in refused("deep.onnx", "--calibrate", "clips", *outputs)
    assert contents(folder) == before


def test_a_model_found_by_its_name_is_not_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDAI_MODELS", str(folder))
    before = contents(folder)
    clips = folder / "clips"
    said = refused("deep", "-o", folder / "deep.onnx", "-y", "--calibrate", clips)
    assert "is the input itself" in said
    assert contents(folder) == before


def test_what_exists_is_replaced_where_asked_for(
    make: Callable[[str], Made], folder: Path, clip: Path
) -> None:
    result = command(
        *("quantize", folder / "deep.onnx", "-o", folder / "old.onnx", "-y"),
        *("--report", folder / "old.json", "--chart", folder / "old.svg"),
        *("--calibrate", clip, "--frames", FRAMES),
    )
    assert result.exit_code == 0, result.output
    expected = make("fp8")
    assert (folder / "old.onnx").read_bytes() == expected.model.read_bytes()
    assert (folder / "old.json").read_bytes() == expected.report.read_bytes()
    assert (folder / "old.svg").read_bytes() == expected.chart.read_bytes()


def test_a_run_that_fails_leaves_nothing(folder: Path) -> None:
    before = contents(folder)
    said = refused(
        *(folder / "deep.onnx", "-o", folder / "old.onnx", "-y"),
        *("--report", folder / "old.json", "--chart", folder / "new.svg"),
        *("--calibrate", folder / "clips" / "black.png"),
    )
    assert "finds 0 objects" in said
    assert contents(folder) == before


# ---- interrupted, and going on ----


class Stop:
    """A progress that interrupts a stage once it is done by a part."""

    def __init__(self, stage: str, part: float) -> None:
        self.stage, self.part = stage, part

    def __call__(self, what: str, part: float) -> None:
        if what == self.stage and part >= self.part:
            raise KeyboardInterrupt


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is computed for the notebook: layers and numbers, by name."""
    count: Counter[str] = Counter()
    number = Notebook.number

    def counting_number(self: Notebook, name: str, compute: Callable[[], float]) -> float:
        def counted() -> float:
            result = compute()
            count[name.split(" ")[0]] += 1
            count[name] += 1
            return result

        return number(self, name, counted)

    def counting_layer(network: Any, layer: Any, *others: Any) -> Any:
        result = quantized(network, layer, *others)
        count["layer"] += 1
        count[f"layer {layer.name}"] += 1
        return result

    monkeypatch.setattr(Notebook, "number", counting_number)
    monkeypatch.setattr("vidai.quantization.quantizer.quantized", counting_layer)
    # One layer at a time, as in large models.
    monkeypatch.setattr("vidai.quantization.calibration.MEMORY", 1)
    return count


@pytest.mark.parametrize(
    ("stage", "part", "known"),
    [
        ("taking frames", 0.5, {}),
        ("looking at what there is to find", 0.5, {}),
        ("calibrating", 0.6, {"layer": 4}),
        ("measuring each layer's damage", 0.5, {"layer": 6, "damage": 3}),
        ("choosing layers", 0.5, {"layer": 6, "damage": 6, "agreement": 2}),
        ("proving the result", 0.5, {"layer": 6, "damage": 6, "agreement": 4}),
    ],
)
def test_an_interrupted_run_goes_on_where_it_was(
    make: Callable[[str], Made],
    deep: Path,
    clip: Path,
    tmp_path: Path,
    computed: Counter[str],
    stage: str,
    part: float,
    known: dict[str, int],
) -> None:
    new, report = tmp_path / "new.onnx", tmp_path / "report.json"
    expected = make("fp8")
    computed.clear()

    def run(progress: Callable[[str, float], None] | None) -> None:
        quantize(deep, new, calibrate=clip, frames=FRAMES, report=report, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        run(Stop(stage, part))
    assert contents(tmp_path) == {}
    kinds = ("layer", "damage", "agreement")
    assert {kind: computed[kind] for kind in kinds if computed[kind]} == known
    run(None)
    assert {kind: computed[kind] for kind in kinds} == {
        "layer": 6,
        "damage": 6,
        "agreement": len(expected.record.curve),
    }
    assert {count for name, count in computed.items() if " " in name} == {1}
    assert new.read_bytes() == expected.model.read_bytes()
    assert report.read_bytes() == expected.report.read_bytes()


def test_the_command_interrupted_leaves_nothing(
    deep: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vidai.quantization.quantizer.look", interrupt)
    outputs = ("--report", tmp_path / "new.json", "--chart", tmp_path / "new.svg")
    result = command("quantize", deep, "-o", tmp_path / "new.onnx", *outputs, "--calibrate", clip)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert contents(tmp_path) == {}


def test_another_target_takes_what_is_known(
    deep: Path, clip: Path, tmp_path: Path, computed: Counter[str]
) -> None:
    """Which layers and damages there are does not depend on it."""
    easy = quantize(deep, tmp_path / "easy.onnx", calibrate=clip, frames=FRAMES, target=0)
    assert easy.reached
    assert easy.share == 1
    assert easy.f1 < 0.95
    first = computed.copy()
    assert (first["layer"], first["damage"]) == (6, 6)
    hard = quantize(deep, tmp_path / "hard.onnx", calibrate=clip, frames=FRAMES, target=0.98)
    assert hard.reached
    assert hard.share < 1
    assert (computed["layer"], computed["damage"]) == (6, 6)
    assert {count for name, count in computed.items() if " " in name} == {1}
    assert [layer.damage for layer in hard.layers] == [layer.damage for layer in easy.layers]


def test_another_case_takes_nothing_of_it(
    make: Callable[[str], Made], deep: Path, clip: Path, tmp_path: Path, computed: Counter[str]
) -> None:
    runs: list[dict[str, Any]] = [{}, {"precision": "int8"}, {"conf": 0.351}, {"iou": 0.6}]
    for number, options in enumerate([*runs, {"frames": FRAMES - 3}], 1):
        given: dict[str, Any] = {"frames": FRAMES, "calibrate": clip, **options}
        quantize(deep, tmp_path / f"{number}.onnx", **given)
        assert (computed["layer"], computed["damage"]) == (6 * number, 6 * number)
    assert (tmp_path / "2.onnx").read_bytes() == make("int8").model.read_bytes()


@pytest.mark.parametrize("harm", ["empty", "half", "other", "flipped", "folder"])
def test_damaged_notes_are_made_again(
    make: Callable[[str], Made], deep: Path, clip: Path, tmp_path: Path, cache: Path, harm: str
) -> None:
    arguments: dict[str, Any] = {"calibrate": clip, "frames": FRAMES}
    quantize(deep, tmp_path / "first.onnx", **arguments)
    notes = [path for path in sorted((cache / "quantization").rglob("*")) if path.is_file()]
    assert Counter(path.suffix for path in notes)[".npz"] == 6
    assert len(notes) > 12
    rng = np.random.default_rng(3)
    for path in notes:
        data = path.read_bytes()
        if harm == "folder":
            path.unlink()
            path.mkdir()
            continue
        flipped = bytearray(data)
        for at in rng.integers(0, len(data), 1 + len(data) // 100):
            flipped[at] = 0xFF
        path.write_bytes(
            {
                "empty": b"",
                "half": data[: len(data) // 2] if path.suffix == ".npz" else b"[0.1",
                "other": b"null" if path.suffix == ".json" else b"PK\x05\x06" + bytes(18),
                "flipped": bytes(flipped),
            }[harm]
        )
    record = quantize(deep, tmp_path / "second.onnx", **arguments)
    if harm == "folder":  # in the way of what would be written there
        assert len(record.notes) == 1
        assert record.notes[0].startswith("notes could not be kept")
        assert replace(record, notes=()) == make("fp8").record
        return
    assert (tmp_path / "second.onnx").read_bytes() == make("fp8").model.read_bytes()
    assert (tmp_path / "first.onnx").read_bytes() == make("fp8").model.read_bytes()


def test_a_cache_that_cannot_be_written_is_told(
    make: Callable[[str], Made], deep: Path, clip: Path, tmp_path: Path, cache: Path
) -> None:
    (cache / "quantization").write_text("a file, where the folder should be")
    result = command(
        *("quantize", deep, "-o", tmp_path / "new.onnx", "--calibrate", clip, "--frames", FRAMES)
    )
    assert result.exit_code == 0, result.output
    assert "note notes could not be kept, a run that is interrupted begins anew" in result.stderr
    record = QuantizationRecord.of_metadata(read_onnx(tmp_path / "new.onnx").metadata)
    assert record is not None
    assert replace(record, notes=()) == make("fp8").record


# ---- targets that cannot be reached ----


@pytest.fixture(scope="module")
def tangled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tangled") / "tangled.onnx"
    write_deep_model(path, tangled=True)
    return path


def test_the_best_is_written_where_none_is_good_enough(
    tangled: Path, clip: Path, frames: list[Frame], device: Device, tmp_path: Path
) -> None:
    new, report = tmp_path / "new.onnx", tmp_path / "report.json"
    arguments = ("--calibrate", clip, "--frames", FRAMES, "--target", 1)
    result = command("quantize", tangled, "-o", new, "--report", report, *arguments)
    assert result.exit_code == EXIT_MISSED == 4, result.output
    record = QuantizationRecord.of_metadata(read_onnx(new).metadata)
    assert record is not None
    assert not record.reached
    assert json.loads(report.read_text())["reached"] is False
    assert max(point.agreement for point in record.curve) < 0.95
    said = " ".join(result.stderr.split())
    assert "target F1 1: not reached" in said
    assert f"target not reached F1 {record.f1:.4f} is the best that was found, less than 1" in said
    assert "a lower --target" in said

    before = Detector(tangled, device=device)(frames)
    proving = deal([len(found) for found in before])[2]
    after = Detector(new, device=device)([frames[place] for place in proving])
    assert record.f1 == pytest.approx(counted_f1([before[place] for place in proving], after))
    assert 0 < record.share < 1

    result = command("quantize", tangled, "-o", tmp_path / "quiet.onnx", *arguments, "-q")
    assert result.exit_code == EXIT_MISSED
    assert result.output == f"vidai: F1 {record.f1:.4f} is less than the target 1\n"
    assert (tmp_path / "quiet.onnx").read_bytes() == new.read_bytes()


# ---- what cannot be quantised ----


def edited(source: Path, path: Path, edit: Callable[[onnx.GraphProto], None]) -> Path:
    proto = onnx.load(source)
    edit(proto.graph)
    onnx.save(proto, path)
    return path


def overflowing(graph: onnx.GraphProto) -> None:
    """Beside "blend", a layer that reads infinities, and of which nothing is left after it."""
    place = next(n for n, node in enumerate(graph.node) if node.name == "blend")
    for node in graph.node:
        node.input[:] = ["sum" if name == "blend" else name for name in node.input]
    for name, array in {
        "huge": np.array(1e38, np.float32),
        "ones": np.ones((32, 32, 1, 1), np.float32),
    }.items():
        graph.initializer.append(numpy_helper.from_array(array, name))
    made = [
        helper.make_node("Relu", ["blend"], ["positive"]),
        helper.make_node("Mul", ["positive", "huge"], ["large"]),
        helper.make_node("Mul", ["large", "huge"], ["infinite"]),
        helper.make_node("Conv", ["infinite", "ones"], ["overflowing"], name="overflowing"),
        helper.make_node("Clip", ["overflowing", "zero", "zero"], ["nothing"]),
        helper.make_node("Add", ["blend", "nothing"], ["sum"]),
    ]
    for node in reversed(made):
        graph.node.insert(place + 1, node)


def nobody_reads(graph: onnx.GraphProto, place: int) -> None:
    """A layer beside "blend" whose output leads nowhere."""
    weights = np.ones((32, 32, 1, 1), np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, "unused"))
    node = helper.make_node("Conv", ["blend", "unused"], ["nobody"], name="nobody")
    graph.node.insert(place, node)


@pytest.mark.parametrize("last", [False, True])
def test_layers_that_lead_nowhere_are_left_out(
    make: Callable[[str], Made], deep: Path, clip: Path, tmp_path: Path, last: bool
) -> None:
    nodes = onnx.load(deep).graph.node
    after_blend = 1 + next(n for n, node in enumerate(nodes) if node.name == "blend")
    place = len(nodes) if last else after_blend
    model = edited(deep, tmp_path / "deep.onnx", lambda graph: nobody_reads(graph, place))
    record = quantize(model, tmp_path / "new.onnx", calibrate=clip, frames=FRAMES)
    assert replace(record, sha256="") == replace(make("fp8").record, sha256="")


def without_layers(path: Path) -> None:
    """A model that finds squares in any picture, and computes nothing."""
    output = np.zeros((1, 336, 8), np.float32)
    output[0, : 16 * 16 : 3, [0, 1, 4, 5]] = 1
    write_constant_model(path, {"output": output}, input_dims=[1, 3, SIDE, SIDE])


def in_float16(path: Path) -> None:
    write_deep_model(path, dtype="float16")


def with_infinities(path: Path) -> None:
    write_deep_model(path)
    edited(path, path, overflowing)


def of_junk(path: Path) -> None:
    path.write_bytes(b"no model")


def nowhere(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("write_model", "said"),
    [
        (without_layers, "has no convolution or matrix product with weights"),
        (
            write_tiny_model,
            "has no layer that eight bits could make faster: of its convolutions and matrix "
            "products none is fit: 16 channels or fewer (1)",
        ),
        (in_float16, "takes float16 pictures: quantise the float32 model"),
        (with_infinities, "layer overflowing is given numbers that are not finite on crowd.mp4 at"),
        (of_junk, "model.onnx"),
        (nowhere, "no model file"),
    ],
)
def test_a_model_that_cannot_be_quantised_is_refused(
    clip: Path, tmp_path: Path, write_model: Callable[[Path], None], said: str
) -> None:
    model = tmp_path / "model.onnx"
    write_model(model)
    before = contents(tmp_path)
    sentence = refused(
        *(model, "-o", tmp_path / "new.onnx", "--calibrate", clip, "--frames", FRAMES)
    )
    assert said in sentence
    assert "model" in sentence
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("precision", "said"), [("fp8", "takes float16 pictures"), ("int8", "is quantised already")]
)
def test_a_quantised_model_is_refused(
    make: Callable[[str], Made], clip: Path, tmp_path: Path, precision: str, said: str
) -> None:
    model = make(precision).model
    sentence = refused(
        *(model, "-o", tmp_path / "new.onnx", "--calibrate", clip, "--frames", FRAMES)
    )
    assert said in sentence
    assert "model that it was made from" in sentence
    assert contents(tmp_path) == {}


# ---- what cannot be calibrated with ----


def test_a_file_that_cannot_be_read_is_left_out_and_told(
    make: Callable[[str], Made], deep: Path, clip: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    shutil.copy(clip, clips / "b.mp4")
    (clips / "a.mp4").write_bytes(b"no clip at all" * 100)
    (clips / "c.txt").write_text("not looked at")
    new = tmp_path / "new.onnx"
    result = command("quantize", deep, "-o", new, "--calibrate", clips, "--frames", FRAMES)
    assert result.exit_code == 3, result.output
    record = QuantizationRecord.of_metadata(read_onnx(new).metadata)
    assert record is not None
    (note,) = record.unread
    assert note.startswith("left out: ")
    assert str(clips / "a.mp4") in note
    assert f"note {note}" in result.stderr
    assert replace(record, unread=()) == make("fp8").record


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["junk.mp4"], "junk.mp4"),
        (["junk.mp4", "other.png"], "none of the 2 files can be read, the first since"),
        (["nowhere.mp4"], "there is no file or folder"),
        (["empty"], "there is no clip or picture in the folder"),
        (["black.png"], "finds 0 objects in 1 frames"),
        (["squares.mp4"], "finds 27 objects in 9 frames, 9 of them in the third"),
    ],
)
def test_files_that_show_too_little_are_refused(
    deep: Path, tmp_path: Path, names: list[str], said: str
) -> None:
    (tmp_path / "junk.mp4").write_bytes(b"no clip at all" * 100)
    (tmp_path / "other.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "black.png")
    squares_clip(tmp_path / "squares.mp4", frames=9)
    before = contents(tmp_path)
    files = [one for name in names for one in ("--calibrate", tmp_path / name)]
    assert said in refused(deep, "-o", tmp_path / "new.onnx", *files)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_frames_than_parts_are_refused(
    deep: Path, device: Device, tmp_path: Path, count: int
) -> None:
    short = crowd_clip(tmp_path / "short.mp4", range(count))
    found = Detector(deep, device=device)(frames_of(short, device))
    said = refused(deep, "-o", tmp_path / "new.onnx", "--calibrate", short)
    assert f"finds {sum(map(len, found))} objects in {count} frames, 0 of them" in said
    assert list(tmp_path.iterdir()) == [short]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--target", "1.1"], 2, "--target"),
        (["--target", "-0.1"], 2, "--target"),
        (["--target", "nan"], 1, "target is an F1 from 0 to 1, not nan"),
        (["--target", "much"], 2, "--target"),
        (["--frames", "2"], 2, "--frames"),
        (["--conf", "2"], 2, "--conf"),
        (["--precision", "fp16"], 2, "--precision"),
        (["--family", "none"], 1, "no model family 'none'"),
        (["--family", "detr"], 1, "not detr"),
    ],
)
def test_options_out_of_range_are_refused(
    deep: Path, clip: Path, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    new = tmp_path / "new.onnx"
    assert said in refused(deep, "-o", new, "--calibrate", clip, *options, code=code)
    assert contents(tmp_path) == {}


def test_output_and_calibration_are_required(deep: Path, clip: Path, tmp_path: Path) -> None:
    assert "'--calibrate'" in refused(deep, "-o", tmp_path / "new.onnx", code=2)
    assert "'--output'" in refused(deep, "--calibrate", clip, code=2)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"target": 1.5}, ConfigError, "target is an F1 from 0 to 1, not 1.5"),
        ({"precision": "fp4"}, ConfigError, "no precision 'fp4' to quantise to: use fp8 or int8"),
        ({"frames": 2}, ConfigError, "frames is at least 3"),
        ({"conf": 1.5}, ConfigError, "conf is a number from 0 to 1"),
        ({"iou": -1}, ConfigError, "iou is a number from 0 to 1"),
        ({"calibrate": []}, StreamError, "no file to take frames from"),
        ({"family": "none"}, ModelError, "no model family"),
    ],
)
def test_arguments_out_of_range_are_refused(
    deep: Path,
    clip: Path,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    with pytest.raises(error, match=said):
        quantize(deep, tmp_path / "new.onnx", **{"calibrate": clip, **options})
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("package", ["onnx", "matplotlib"])
def test_a_missing_package_is_told(package: str, deep: Path, clip: Path, tmp_path: Path) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from vidai.cli import main; main()"
    outputs = ("-o", tmp_path / "new.onnx", "--chart", tmp_path / "new.svg")
    result = subprocess.run(
        [sys.executable, "-c", program, "quantize", deep, *outputs, "--calibrate", clip],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("vidai: ")
    assert package in line
    assert line.endswith("pip install 'vidai[quantize]'")
    assert contents(tmp_path) == {}


def test_a_mirror_shows_a_tall_picture_whole(device: Device, deep: Path, tmp_path: Path) -> None:
    """Its padding comes to the other side, and is no part of the picture there either."""
    model = load_model(deep)
    picture = np.zeros((128, 64, 3), np.uint8)
    for y, color in ((0, 0), (48, 1), (96, 2)):
        picture[y : y + 16, 0:16, color] = 255
    path = tmp_path / "tall.png"
    Image.fromarray(picture).save(path)
    item = Item.of(read_picture(path, device), model)
    judge, session = Judge(model, device, 0.35, 0.45), open_model(model.onnx)
    found = []
    for one in (item, item.mirrored()):
        found.append(judge.detections(one, session.run(None, {"images": one.data}), 0.35))
    assert len(found[0]) == len(found[1]) == 3
    flipped = found[0].boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (64, 0, 64, 0)
    order = [np.argsort(one.class_ids) for one in found]
    np.testing.assert_allclose(found[1].boxes[order[1]], flipped[order[0]], atol=0.5)
