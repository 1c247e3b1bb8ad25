"""benchmarks/gpu_acceptance.py over the simulated driver: every part answers, with little to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.simdriver.build import Missing, build
from vidai.doctor import surroundings

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import gpu_acceptance as acceptance

Done = subprocess.CompletedProcess[str]


def run(out: Path, *options: str, mode: str = "strict", **settings: str) -> Done:
    """The script, over the simulated driver with these settings."""
    if mode != "real":
        try:
            build()
        except Missing as missing:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(missing))
    return subprocess.run(
        [sys.executable, acceptance.__file__, "--out", str(out), "--seconds", "0.05", *options],
        env={**os.environ, "VIDAI_TEST_GPU": mode, **settings},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def fp8_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, whose pictures are rounded to FP8 first."""
    model = onnx.load(tiny_model)
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    zero = helper.make_tensor("zero of fp8", TensorProto.FLOAT8E4M3FN, [], [0.0])
    graph.initializer.extend([zero, helper.make_tensor("unit", TensorProto.FLOAT, [], [1.0])])
    quantised = helper.make_node("QuantizeLinear", ["images", "unit", zero.name], ["eight"])
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["eight", "unit"], ["pixels"]))
    graph.node.insert(0, quantised)
    model.opset_import[0].version = 19
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "fp8.onnx")
    return tmp_path / "fp8.onnx"


def test_every_part_answers(tiny_model: Path, fp8_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = run(out, "--model", str(tiny_model), "--fp8-model", str(fp8_model))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["failed"] == 0
    parts: dict[str, list[dict[str, Any]]] = report["parts"]
    assert list(parts) == list(acceptance.PARTS)
    for name, rows in parts.items():
        assert rows, name
        assert not [row for row in rows if "error" in row or "note" in row], (name, rows)
        assert acceptance.PARTS[name].title in done.stdout

    assert parts["machine"][0]["name"] == "simulated GPU 0"
    assert parts["tests"][0]["passed"] > 0
    assert {row["frames"] for row in parts["nvdec"]} == {24, 16}
    assert min(row["psnr"] for row in parts["nvenc"]) > 30
    for name in ("decode", "encode", "pipelines"):
        assert all(row["ratio"] > 0 for row in parts[name])
    for row in parts["pipelines"]:
        assert row["transfers"]["total"]["device_to_host_calls"] > 0
        assert row["to_host"] < 8192
    assert parts["fp8"][0]["fp8_f1"] == 1


def test_what_fails_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The GPU fails in the second of the clips, which have 24 frames, and is tried anew."""
    fault = "cuvidMapVideoFrame64:45:719:1000"
    done, rows = part("nvdec", tmp_path, VIDAI_SIM_FAULT=fault)
    errors = [row.get("error", "") for row in rows]
    assert "the GPU failed" in errors[1]
    assert not any(errors[:1] + errors[2:])
    assert "FAILED clip h264 bf=2: " in done.stdout


def test_a_gpu_without_nvenc_is_told(tmp_path: Path) -> None:
    _, rows = part("nvenc", tmp_path, VIDAI_SIM_NO_NVENC="1", VIDAI_SIM_CC="80")
    assert all("this GPU has no NVENC" in row["error"] for row in rows)


def part(name: str, folder: Path, **settings: str) -> tuple[Done, list[dict[str, Any]]]:
    """One part, of which something fails, and its rows."""
    out = folder / "report.json"
    done = run(out, "--parts", name, **settings)
    assert done.returncode == 1
    rows: list[dict[str, Any]] = json.loads(out.read_text())["parts"][name]
    return done, rows


def test_a_process_that_hangs_or_dies_is_told() -> None:
    program = [sys.executable, "-c"]
    hangs = "import time; print('{\"fps\": 1}', flush=True); time.sleep(600)"
    assert list(acceptance.answers([*program, hangs], 2)) == [
        {"fps": 1},
        {"error": "it hangs: no answer in 2 s"},
    ]
    (died,) = acceptance.answers([*program, "import os; os.abort()"], 60)
    assert died["error"].startswith("its process died of signal 6 (Aborted)")
    (ended,) = acceptance.answers([*program, "raise SystemExit('no such thing')"], 60)
    assert ended["error"] == "its process ended with exit code 1: no such thing"


def test_a_part_whose_processes_only_die_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "answers", lambda command, limit: iter([{"error": "died"}]))
    cases = [{"number": number} for number in range(8)]
    rows = acceptance.run_part("nvdec", cases, acceptance.Setup("", 1, "", None, None))
    assert [row["number"] for row in rows] == list(range(8))
    assert [row["error"] for row in rows[:5]] == ["died"] * 5
    assert all(row["error"].startswith("not tried") for row in rows[5:])


def test_what_is_not_published_has_no_limit() -> None:
    ada = acceptance.LIMITS[8, 9]
    assert acceptance.encode_limit(ada, "h264", "P3") == 647
    assert acceptance.encode_limit(ada, "h264", "P4") == (647 + 283) / 2
    assert acceptance.encode_limit(acceptance.LIMITS[9, 0], "h264", "P4") is None
    assert acceptance.encode_limit(None, "h264", "P3") is None


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if surroundings.gpu_in_sight():
        pytest.skip("this machine has an NVIDIA GPU")
    done = run(tmp_path / "report.json", mode="real")
    assert done.returncode == 1
    (sentence,) = done.stdout.splitlines()
    assert "no NVIDIA GPU can be used" in sentence
    assert not list(tmp_path.iterdir())
