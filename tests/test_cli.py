"""The command as a user meets it: its lines, its exit codes, its files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from tests.media import make_clip, video_times
from tests.squares import squares_clip
from vidai import terminal
from vidai.cli import cli
from vidai.quantization.record import METADATA_KEY, LayerRecord, QuantizationRecord
from vidai.report import Report


def vidai(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in args])


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(".") or "part" in p.name)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return squares_clip(tmp_path / "in.mp4", frames=8)


def test_run_writes_video_records_and_report(clip: Path, tiny_model: Path) -> None:
    out, records, report = (clip.with_name(n) for n in ("out.mp4", "r.jsonl", "r.json"))
    result = vidai(
        "run", clip, out, "--model", tiny_model, "--records", records, "--report", report
    )
    assert result.exit_code == 0, result.output
    assert "8 in" in result.stderr
    assert result.stdout == ""
    assert video_times(out) == video_times(clip)
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(8))
    assert {"box", "score", "class_id", "class"} == set(rows[0]["detections"][0])
    account = json.loads(report.read_text())
    assert account["ledger"] == {"received": 8, "processed": 8, "dropped": {}, "failed": {}}
    assert account["outputs"] == [str(records), str(out)]
    assert not leftovers(clip.parent)


def test_quiet_prints_nothing(clip: Path, tiny_model: Path) -> None:
    result = vidai("run", clip, clip.with_name("o.mp4"), "--model", tiny_model, "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_records_can_go_to_stdout(clip: Path, tiny_model: Path) -> None:
    result = vidai("run", clip, "--model", tiny_model, "--records", "-", "--max-frames", 3)
    assert result.exit_code == 0
    assert [json.loads(line)["frame"] for line in result.stdout.splitlines()] == [0, 1, 2]


def test_classes_keep_only_what_is_named(clip: Path, tiny_model: Path) -> None:
    args = ("run", clip, "--model", tiny_model, "--records", "-", "-q")
    every = [json.loads(line) for line in vidai(*args).stdout.splitlines()]
    one = [json.loads(line) for line in vidai(*args, "--classes", "green").stdout.splitlines()]
    assert {d["class"] for row in every for d in row["detections"]} == {"red", "green", "blue"}
    assert {d["class"] for row in one for d in row["detections"]} == {"green"}


def test_start_and_end_cut_the_file(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=50)
    out = tmp_path / "cut.mp4"
    args = ("--start", "0.4", "--end", "0:01.2", "--records", tmp_path / "r.jsonl")
    assert vidai("run", clip, out, "--model", tiny_model, *args).exit_code == 0
    times = video_times(out)
    assert len(times) == 20
    assert times[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert (rows[0]["time"], rows[0]["frame"]) == (0.4, 0)


BAD = {
    "no such file": (["missing.mp4", "o.mp4"], "missing.mp4"),
    "a folder": ([".", "o.mp4"], "folder"),
    "an empty file": (["empty.mp4", "o.mp4"], "empty"),
    "not a video": (["notes.txt", "o.mp4"], "notes.txt"),
    "sound only": (["sound.wav", "o.mp4"], "no video"),
    "a folder that is not there": (["in.mp4", "nowhere/o.mp4"], "nowhere"),
    "the input as output": (["in.mp4", "in.mp4", "-y"], "input"),
    "an output that exists": (["in.mp4", "kept.mp4"], "-y"),
    "records that exist": (["in.mp4", "--records", "kept.mp4"], "-y"),
    "a report that exists": (["in.mp4", "o.mp4", "--report", "kept.mp4"], "-y"),
    "a report to stdout": (["in.mp4", "o.mp4", "--report", "-"], "report needs"),
    "an unknown container": (["in.mp4", "o.xyz"], ".mkv"),
    "an unknown class": (["in.mp4", "o.mp4", "--classes", "dragon"], "dragon"),
    "an unknown model": (["in.mp4", "o.mp4", "--model", "yolox-nanno"], "yolox-nano"),
    "a model that is none": (["in.mp4", "o.mp4", "--model", "notes.txt"], "notes.txt"),
    "an unknown pipeline": (["in.mp4", "o.mp4", "--pipeline", "nothing"], "anonymize"),
    "a pipeline that is none": (["in.mp4", "o.mp4", "--pipeline", "notes.txt"], "notes.txt"),
    "an unknown device": (["in.mp4", "o.mp4", "--device", "tpu"], "tpu"),
    "a quality out of range": (["in.mp4", "o.mp4", "--quality", "99"], "99"),
    "an unknown preset": (["in.mp4", "o.mp4", "--preset", "warp"], "warp"),
    "H.264 in webm": (["in.mp4", "o.webm"], "av1"),
    "a start after the end": (["in.mp4", "o.mp4", "--start", "5", "--end", "4"], "4"),
    "a start behind the file": (["in.mp4", "o.mp4", "--start", "99"], "99"),
    "nothing to write": (["in.mp4"], "--records"),
    "a confidence of 2": (["in.mp4", "o.mp4", "--conf", "2"], "--conf"),
    "a precision that is none": (["in.mp4", "o.mp4", "--precision", "int4"], "int8"),
    "no FP8 in the model": (["in.mp4", "o.mp4", "--precision", "fp8"], "`vidai quantize`"),
    "no INT8 in the model": (["in.mp4", "o.mp4", "--precision", "int8"], "`vidai quantize`"),
    "a time that is none": (["in.mp4", "o.mp4", "--start", "noon"], "noon"),
}


@pytest.mark.parametrize(("args", "word"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence(
    args: list[str],
    word: str,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    squares_clip(tmp_path / "in.mp4", frames=2)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.txt").write_text("these are notes, not media " * 20)
    (tmp_path / "kept.mp4").write_text("precious")
    make_sound(tmp_path / "sound.wav")
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    if "--model" not in args and "--pipeline" not in args:
        args = [*args, "--model", str(tiny_model)]
    result = vidai("run", *args)
    assert result.exit_code in (1, 2)
    assert word in result.stderr
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 or lines[0].startswith("Usage:"), result.stderr
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def make_sound(path: Path) -> None:
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(8000))


def test_damaged_input_is_done_as_far_as_it_goes(tmp_path: Path, tiny_model: Path) -> None:
    whole = make_clip(tmp_path / "whole.mkv", frames=40, width=160, height=96)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    out = tmp_path / "out.mp4"
    result = vidai("run", cut, out, "--model", tiny_model)
    assert result.exit_code == 3, result.output
    assert "damaged" in result.stderr
    assert 2 < len(video_times(out)) < 38


def test_strict_makes_damage_an_error(tmp_path: Path, tiny_model: Path) -> None:
    whole = make_clip(tmp_path / "whole.mkv", frames=40, width=160, height=96)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    result = vidai("run", cut, tmp_path / "out.mp4", "--model", tiny_model, "--strict")
    assert result.exit_code == 1
    assert "damaged" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.mkv", "whole.mkv"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_a_playable_part(
    number: signal.Signals, tmp_path: Path, tiny_model: Path
) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=3000)
    out = tmp_path / "out.mp4"
    command = [sys.executable, "-m", "vidai", "run", str(clip), str(out)]
    process = subprocess.Popen(
        [*command, "--model", str(tiny_model)], stderr=subprocess.PIPE, text=True
    )
    while (
        not any(p.stat().st_size > 4000 for p in tmp_path.glob(".out*")) and process.poll() is None
    ):
        time.sleep(0.01)  # the encoder has begun to write
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not out.exists()
    assert not leftovers(tmp_path) or leftovers(tmp_path) == ["out.partial.mp4"]
    assert 0 < len(video_times(tmp_path / "out.partial.mp4")) < 3000


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=200)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from vidai.cli import cli\n"
        "cli(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "run", str(clip), str(tmp_path / "out.mp4")]
    done = subprocess.run(
        [*command, "--model", str(tiny_model)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_an_interrupt_while_the_model_loads_is_quiet(tmp_path: Path) -> None:
    """Ctrl-C before the first frame leaves nothing and no traceback."""
    clip = squares_clip(tmp_path / "in.mp4", frames=5)
    code = (
        "import signal, time, vidai.detector\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's job\n"
        "from vidai.cli import main\n"
        "def load(*_, **__):\n"
        "    print('loading', flush=True)\n"
        "    time.sleep(600)\n"
        "vidai.detector.load_model = load\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "run", str(clip), str(tmp_path / "o.mp4")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "vidai: interrupted, nothing is left\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_head_may_close_the_pipe(clip: Path, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "vidai", "run", str(clip), "--model", str(tiny_model), "-q"]
    process = subprocess.Popen(
        [*command, "--records", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def test_a_closed_stdout_is_one_sentence(clip: Path, tiny_model: Path) -> None:
    command = f"{sys.executable} -m vidai run {clip} --model {tiny_model} --records - >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "vidai: cannot write to the standard output: it is closed\n"


def test_the_input_is_looked_at_before_a_model_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "cache"))
    result = vidai("run", tmp_path / "missing.mp4", tmp_path / "o.mp4", "--model", "yolox-x")
    assert "missing.mp4" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_class_names_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    report = Report("in.mp4", outputs=["[red].mp4"], model="m")
    report.detections["[/x] red"] = 3
    report.ledger.processed = 1
    report.warnings.append("[/y] is odd")
    with terminal.frames(False) as show:
        assert show is not None
        show(report)
    terminal.summary(report)


def test_verbose_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    result = vidai("run", tmp_path / "missing.mp4", tmp_path / "o.mp4", "-v")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_help_teaches_with_examples() -> None:
    for command in ([], ["run"], ["probe"], ["models"]):
        result = vidai(*command, "--help")
        assert result.exit_code == 0
        assert "vidai" in result.output
    assert "--pipeline anonymize" in vidai("--help").output
    assert "for comparing, not for speed" in " ".join(vidai("run", "--help").output.split())


def test_version_is_the_packages() -> None:
    import vidai as package

    assert vidai("--version").output.strip() == f"vidai {package.__version__}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = vidai("completion", shell)
    assert result.exit_code == 0
    assert "_VIDAI_COMPLETE" in result.stdout


def test_models_list_names_licences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path))
    result = vidai("models", "list")
    assert result.exit_code == 0
    assert "yolox-nano" in result.stdout
    assert "Apache-2.0" in result.stdout


def test_models_path_tells_where_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path))
    assert vidai("models", "path").stdout.strip() == str(tmp_path)
    missing = vidai("models", "path", "yolox-s")
    assert missing.exit_code == 1
    assert "vidai models pull yolox-s" in missing.stderr
    assert vidai("models", "path", "nothing").exit_code == 2
    info = vidai("models", "info", "yolox-s")
    assert info.exit_code == 0
    assert "Apache-2.0" in info.stdout


def test_models_commands_see_your_own_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "yolox_nano.onnx").write_bytes(tiny_model.read_bytes())
    monkeypatch.setenv("VIDAI_MODELS", str(tmp_path))
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "cache"))
    assert vidai("models", "path", "yolox-nano").stdout.strip() == str(tmp_path / "yolox_nano.onnx")
    assert "red, green, blue" in vidai("models", "info", "yolox-nano").stdout
    assert "did you mean" in vidai("models", "info", "yolo-nano").stderr


def test_settings_are_looked_at_before_a_model_is_fetched(
    clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "cache"))
    result = vidai("run", clip, tmp_path / "o.mp4", "--quality", "99", "--model", "yolox-x")
    assert "99" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_a_choice_of_precision_is_told(
    clip: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDAI_CACHE", str(clip.parent / "cache"))
    out, report = clip.with_name("out.mp4"), clip.with_name("report.json")
    args = ("run", clip, out, "--model", tiny_model, "--device", "cpu", "--report", report, "-y")
    assert "\nprecision" not in vidai("models", "info", tiny_model).stdout
    for times in range(2):
        result = vidai(*args, "--precision", "auto")
        assert result.exit_code == 0, result.output
        assert "as fast as fp32, boxes agree 1.000 on 8 frames of yours" in words_of(result.stderr)
        assert ("measured in an earlier run" in words_of(result.stderr)) == (times == 1)
    said = json.loads(report.read_text())["precision"]
    assert said["receipt"]["chosen"] == said["name"]
    info = vidai("models", "info", tiny_model).stdout
    assert f"\nprecision {said['name']} on CPU" in info
    assert "as fast as fp32" in info

    assert "fp16: as asked for" in words_of(vidai(*args, "--precision", "fp16").stderr)
    assert json.loads(report.read_text())["precision"]["name"] == "fp16"
    assert "\nprecision" not in vidai(*args).stderr
    assert json.loads(report.read_text())["precision"] is None


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_models_info_describes_a_file(tiny_model: Path) -> None:
    result = vidai("models", "info", tiny_model)
    assert result.exit_code == 0
    assert "yolox" in result.stdout
    assert "red" in result.stdout


def test_models_info_tells_what_became_of_a_quantised_model(
    tiny_model: Path, tmp_path: Path
) -> None:
    record = QuantizationRecord(
        model="tiny",
        sha256="a1" * 32,
        precision="fp8",
        rest="float16",
        target=0.98,
        f1=0.97518,
        conf=0.35,
        frames={"calibrate": 40, "search": 41, "prove": 1042},
        boxes=2310,
        calibration="c3" * 32,
        share=0.8765,
        layers=(
            LayerRecord("stem", "Conv", 250, "fp16", "damages most", 0.0312),
            LayerRecord("a/long/name", "Conv", 700, "fp8", "", 1.234e-05, centred=True),
            LayerRecord("attention", "MatMul", 50, "fp16", "both inputs are pictures"),
        ),
        curve=(),
    )
    network = onnx.load(tiny_model)
    network.metadata_props.add(key=METADATA_KEY, value=record.to_metadata())
    onnx.save(network, tmp_path / "tiny-fp8.onnx")
    result = vidai("models", "info", tmp_path / "tiny-fp8.onnx")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-10:] == [
        "quantised fp8, the rest float16: 87.6 % of the work that can be",
        f"made from tiny, sha256 {'a1' * 32}",
        "target    F1 0.98: not reached",
        "proof     F1 0.9752 with the model as it was, which finds 2,310 objects of score 0.35 or "
        "more in 1,042 frames that were used for nothing else",
        f"pictures  40 to calibrate, sha256 {'c3' * 32}; 41 others to choose the layers",
        "",
        "layer        op      precision    work   damage  why not",
        "stem         Conv    fp16       25.0 %    0.031  damages most",
        "a/long/name  Conv    fp8        70.0 %  1.2e-05",
        "attention    MatMul  fp16        5.0 %        -  both inputs are pictures",
    ]


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"model": "tiny"}'])
def test_a_record_that_nobody_can_read_is_left_out(
    kept: str, tiny_model: Path, tmp_path: Path
) -> None:
    network = onnx.load(tiny_model)
    network.metadata_props.add(key=METADATA_KEY, value=kept)
    onnx.save(network, tmp_path / "tiny.onnx")
    result = vidai("models", "info", tmp_path / "tiny.onnx")
    assert result.exit_code == 0
    assert result.stdout == vidai("models", "info", tiny_model).stdout


def test_probe_tells_what_is_there_and_what_will_be_done(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", codec="libx264", pix_fmt="yuv422p", audio="aac")
    result = vidai("probe", clip)
    assert result.exit_code == 0
    for word in ("h264", "64×48", "yuv422p", "aac", "converted"):
        assert word in result.stdout
    data = json.loads(vidai("probe", clip, "--json").stdout)
    assert data["video"]["width"] == 64
    assert data["streams"][0]["codec"] == "aac"


@pytest.mark.parametrize("place", ["/proc/nope", "a-file"])
def test_kernels_that_cannot_be_kept_are_an_error_of_build_alone(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = pytest.importorskip("vidai.devices.cuda.programs")
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("a file")
    monkeypatch.setenv("VIDAI_CACHE", place)
    result = vidai("kernels", "build", "--arch", "sm_89")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"kernels cannot be kept in {place}/kernels: " in result.stderr
    assert "set VIDAI_CACHE to a folder" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    cubin = programs.build(programs.sources()["letterbox"], "sm_89").cubin
    assert cubin.startswith(b"\x7fELF")


def test_kernels_on_a_full_disk_are_an_error_of_build(tmp_path: Path) -> None:
    pytest.importorskip("vidai.devices.cuda.programs")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "from vidai.cli import cli\n"
        "cli(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "kernels", "build", "--arch", "sm_89"]
    done = subprocess.run(
        command,
        env={**os.environ, "VIDAI_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"kernels cannot be kept in {tmp_path}/kernels: File too large" in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
