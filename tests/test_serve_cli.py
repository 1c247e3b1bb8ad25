"""`vidai serve` as an operator meets it: real processes, their words and their exit codes."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.live.senders import free_port
from tests.media import make_clip
from tests.tiny_model import write_tiny_model
from vidai.cli import EXIT_INTERRUPTED
from vidai.errors import VidaiError
from vidai.serving import checked

PATIENCE = 60.0  # s for what must come; the machine may be busy
SERVE = [sys.executable, "-m", "vidai", "serve"]


@pytest.fixture
def cameras(tmp_path: Path) -> Path:
    """A file with one stream, which plays a clip over and over."""
    write_tiny_model(tmp_path / "tiny.onnx")
    clip = make_clip(tmp_path / "clip.mp4", frames=25)
    path = tmp_path / "cameras.yaml"
    path.write_text(
        "model: tiny.onnx\nhttp: {port: 0}\nstate: state\n"
        f"streams: {{a: {{url: {clip}, loop: true, analyze_fps: 2, outputs: [jsonl]}}}}\n"
    )
    return path


def until(true: Callable[[], Any], what: str) -> Any:
    """What it gives, once that is true."""
    end = time.monotonic() + PATIENCE
    while not (answer := true()):
        assert time.monotonic() < end, f"waited {PATIENCE:g} s: {what}"
        time.sleep(0.02)
    return answer


@contextmanager
def serving(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [*SERVE, *map(str, arguments)]
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_worker_without_a_place_for_its_log(cameras: Path) -> None:
    """stderr may be closed by whoever starts it. Another one finds its folder taken."""
    lines = cameras.parent / "state" / "streams" / "a" / "jsonl"
    shell = f'exec "$@" 2>&- >{cameras.parent / "out"}'
    command = ["bash", "-c", shell, "bash", *SERVE, str(cameras)]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: any(f.stat().st_size for f in lines.glob("*.jsonl")), "records")
            assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
            with serving(cameras, stderr=subprocess.PIPE) as second:
                _, told = second.communicate(timeout=PATIENCE)
            assert second.returncode == 1
            assert re.fullmatch(r"vidai: another worker uses the folder \S+state: .*\n", told)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert (cameras.parent / "out").read_text() == ""


def test_signals_while_a_model_is_fetched(cameras: Path) -> None:
    """SIGHUP has nothing to say yet; SIGTERM ends it at once, and not in words about clips."""
    cache, port = cameras.parent / "cache", free_port()
    (cache / "models").mkdir(parents=True)
    cameras.write_text(cameras.read_text().replace("tiny.onnx", "yolox-nano"))
    environ = {**os.environ, "VIDAI_CACHE": str(cache), "VIDAI_MODELS": ""}
    with (cache / "models" / "yolox-nano.lock").open("w") as fetched_by_another:
        fcntl.flock(fetched_by_another, fcntl.LOCK_EX)
        with serving(cameras, "--port", port, stderr=subprocess.PIPE, env=environ) as process:
            until(lambda: status(port) is not None, "pages")
            for _ in range(5):
                process.send_signal(signal.SIGHUP)
            assert status(port) == 503  # it lives, and does not yet see
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_INTERRUPTED
    assert told == "vidai: stopped before it had started\n"


def status(port: int) -> int | None:
    """Of /readyz; None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("tiny.onnx", "tinny.onnx"), "no model file .*tinny.onnx: check the path"),
        (("tiny.onnx", "yolox-nanoo"), "did you mean yolox-nano"),
        (("tiny.onnx", "cameras.yaml"), "no ONNX file, or a damaged one"),
        (("http:", "classes: [cat]\nhttp:"), "knows no class cat"),
        (("loop:", "rules: [{name: r, classes: [cat]}], loop:"), "streams.a: rule r: .* no cat"),
        (("loop:", "track: false, rules: [{name: r, dwell: 2}], loop:"), "streams.a: .*tracks"),
    ],
)
def test_a_check_looks_into_the_model(cameras: Path, changed: tuple[str, str], words: str) -> None:
    assert checked(cameras) == f"{cameras} is fine; its streams: a"
    cameras.write_text(cameras.read_text().replace(*changed))
    with pytest.raises(VidaiError, match=words):
        checked(cameras)
    assert not (cameras.parent / "state").exists()


def test_a_check_fetches_nothing(
    cameras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIDAI_MODELS", "")
    cameras.write_text(cameras.read_text().replace("tiny.onnx", "yolox-nano"))
    assert "yolox-nano is fetched at the start" in checked(cameras)
    with suppress(FileNotFoundError):
        assert not list((tmp_path / "cache").rglob("*.onnx*"))
