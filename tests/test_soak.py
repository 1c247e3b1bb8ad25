"""benchmarks/soak.py: what it calls growth, what it does not, and a short run of all of it."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.camera import require_gstreamer
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import soak as soaking  # noqa: E402
from cameras import Use  # noqa: E402
from growth import Allowed, Growth  # noqa: E402

HOUR = 3600.0
NOTHING = Allowed(an_hour=0, once=0)
LEVEL = 300.0  # MiB


def noisy(hours: float, slope: float, *, count: int = 400, level: float = LEVEL) -> list[float]:
    """Memory with a trend (an hour), noise, and bursts that go away again."""
    rng = random.Random(1)
    return [
        level + slope * hours * n / count + rng.uniform(0, 10) + 200 * (rng.random() < 0.1)
        for n in range(count)
    ]


def sampled(hours: float, **series: list[float]) -> list[soaking.Sample]:
    """Samples at even times with these series, and constants else."""
    count = len(next(iter(series.values())))
    still = {
        "memory": LEVEL,
        "rss": 400,
        "pss": 350,
        "uss": 320,
        "threads": 60,
        "fds": 80,
        "waiting": 3,
    }
    still |= {"live": 8, "recorded": 1, "cpu": 0}
    return [
        soaking.Sample(
            seconds=hours * HOUR * n / count,
            **{name: series[name][n] if name in series else value for name, value in still.items()},
        )
        for n in range(count)
    ]


def growth_of(hours: float, values: list[float]) -> Growth:
    times = [hours * HOUR * n / len(values) for n in range(len(values))]
    growth = Growth.of(times, values)
    assert growth is not None
    return growth


@pytest.mark.parametrize("slope", [-20.0, 0.0, 6.0, 50.0])
def test_the_slope_of_a_noisy_series_is_found(slope: float) -> None:
    growth = growth_of(10, noisy(10, slope))
    assert growth.least <= slope <= growth.most
    assert growth.slope == pytest.approx(slope, abs=0.5)


def test_a_line_without_noise_is_found_exactly() -> None:
    growth = growth_of(2, [LEVEL + 0.1 * n for n in range(100)])
    assert [growth.least, growth.slope, growth.most] == pytest.approx([5, 5, 5])


def test_few_values_tell_nothing() -> None:
    assert Growth.of([0, 1, 2, 3], [1, 2, 3, 4]) is None
    assert Growth.of([], []) is None


def test_a_short_noisy_run_is_undecided() -> None:
    """As noise alone would often look so."""
    growth = growth_of(0.05, noisy(0.05, 20, count=40))
    assert growth.is_undecided(NOTHING)
    assert not growth.is_too_much(NOTHING)


def test_waves_and_bursts_are_no_growth() -> None:
    waves = [LEVEL + 30 * math.sin(n / 7) + 100 * (n % 50 == 0) for n in range(500)]
    assert not growth_of(10, waves).is_too_much(Allowed(0.02, 0))


@pytest.mark.parametrize(
    ("hours", "name", "values"),
    [
        (24, "memory", noisy(24, 0.04 * LEVEL)),
        (0.25, "memory", noisy(0.25, 200)),
        (2, "threads", [60 + n // 20 for n in range(200)]),
        (2, "fds", [80 + n / 10 for n in range(200)]),
        (2, "waiting", [2.0 * n for n in range(200)]),
    ],
)
def test_what_leaks_is_told(hours: float, name: str, values: list[float]) -> None:
    problems, figures = soaking.too_much(sampled(hours, **{name: values}))
    (problem,) = problems
    assert problem.startswith(f"{name} grew: by ")
    assert figures[name]["least"] > figures[name]["limit"]


@pytest.mark.parametrize("hours", [0.25, 24])
@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_what_stays_is_not(hours: float, slope: float) -> None:
    assert soaking.too_much(sampled(hours, memory=noisy(hours, slope * LEVEL)))[0] == []


def test_days_of_samples_take_bounded_memory() -> None:
    samples = soaking.Samples(kept=100)
    leak = [LEVEL + n / 100 for n in range(20_000)]
    for sample in sampled(10, memory=leak):
        samples.add(sample)
    assert 50 <= len(samples.kept) <= 100
    assert samples.peaks["memory"] == leak[-1]
    times = [sample.seconds for sample in samples.kept]
    assert times == sorted(times)
    (problem,) = soaking.too_much(samples.kept)[0]
    assert problem.startswith("memory grew")
    assert growth_of_kept(samples) == pytest.approx(20, rel=0.01)


def growth_of_kept(samples: soaking.Samples) -> float:
    growth = Growth.of([s.seconds for s in samples.kept], [s.memory for s in samples.kept])
    assert growth is not None
    return growth.slope


def test_accounts_that_do_not_add_up_are_told() -> None:
    good = {"received": 10, "processed": 7, "dropped": {"newer came": 2}, "failed": {"X": 1}}
    bad = {**good, "processed": 6}
    assert soaking.unbalanced([("a", good)], {"a"}) == []
    (problem,) = soaking.unbalanced([("a", good), ("a", bad)], {"a"})
    assert problem.startswith("a ended with 1 frames that are not accounted for")
    assert soaking.unbalanced([("a", good)], {"a", "b"}) == ["no account at the end of b"]


def test_a_stream_that_was_left_alone_must_not_notice() -> None:
    assert soaking.disturbed({"calm0": {"connections": 1}}) == []
    assert soaking.disturbed({"calm0": {"connections": 3}}) == [
        "calm0 was left alone and connected 3 times"
    ]


LEAKS = """
import itertools, socket, threading, time
kept = []
print("ready", flush=True)
for n in itertools.count():
    kept += [bytes(range(256)) * 4096, socket.socket()]
    if n % 2 == 0:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    time.sleep(0.02)
"""


def test_a_process_that_leaks_is_caught() -> None:
    """What is read of /proc rises with what the process really takes."""
    with subprocess.Popen([sys.executable, "-c", LEAKS], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            begin = time.monotonic()
            uses: list[tuple[float, Use]] = []
            while len(uses) < 60:
                uses.append((time.monotonic() - begin, Use.of(process.pid)))
                time.sleep(0.05)
        finally:
            process.kill()
    samples = [
        soaking.Sample(
            seconds=seconds,
            memory=use.own,
            rss=use.rss,
            pss=use.pss,
            uss=use.uss,
            threads=use.threads,
            fds=use.fds,
            waiting=0,
            live=1,
            recorded=0,
            cpu=use.cpu,
        )
        for seconds, use in uses
    ]
    problems, _ = soaking.too_much(samples)
    assert [problem.split()[0] for problem in problems] == ["memory", "threads", "fds"]


def test_a_log_with_errors_is_told() -> None:
    lines = [
        {"level": "INFO", "message": "a ended", "stream": "a", "event": "ledger", "data": {"x": 1}},
        {"level": "INFO", "message": "pages at http://127.0.0.1:5, its token", "event": "started"},
        {"level": "WARNING", "message": "a is lost", "stream": "a", "event": "lost"},
        {"level": "ERROR", "message": "Exception in ASGI application"},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    log = soaking.Log(io.StringIO(f"{text}Exception in thread vidai-read-a\n\n"))
    log.end()
    assert log.url == "http://127.0.0.1:5"
    assert log.ledgers == [("a", {"x": 1})]
    assert log.errors == ["Exception in ASGI application", "Exception in thread vidai-read-a"]


def test_a_worker_that_dies_is_told(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny.onnx")
    config = {
        "model": "tiny.onnx",
        "http": {"port": 0},
        "state": "state",
        "streams": {"a": {"url": str(ROOT / "samples" / "shapes.mp4"), "loop": True}},
    }
    (tmp_path / "cameras.yaml").write_text(json.dumps(config))
    with soaking.Child(tmp_path / "cameras.yaml", tmp_path / "state") as child:
        look = soaking.Soak(child, child.pages())
        look.run(1, 0.2)
        assert look.problems == []
        assert look.samples.peaks["threads"] > 5
        child.process.kill()
        look.run(60, 0.2)
        code = child.stop()
    found = soaking.judged(look, child.log, code, None, time.time(), {"a"})
    assert "the worker ended with -9" in found["problems"]
    assert "the worker ended with -9 after SIGTERM" in found["problems"]
    assert "no account at the end of a" in found["problems"]


@pytest.fixture
def run_soak(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], str]]:
    require_gstreamer()
    model = tmp_path / "tiny.onnx"
    write_tiny_model(model)

    def run(*words: str) -> tuple[int, dict[str, Any], str]:
        out = tmp_path / "out"
        command = [sys.executable, "benchmarks/soak.py", "--model", str(model), "--out", str(out)]
        done = subprocess.run(
            [*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert (out / "soak.png").is_file(), done.stderr
        assert (out / "soak.png").read_bytes().startswith(b"\x89PNG")
        return done.returncode, json.loads((out / "soak.json").read_text()), done.stdout

    return run


def test_a_short_run_is_fine(run_soak: Callable[..., tuple[int, dict[str, Any], str]]) -> None:
    code, found, told = run_soak("--minutes", "0.4", "--streams", "2", "--interval", "0.5")
    assert found["problems"] == []
    assert code == 0
    assert "nothing grew, and every frame is accounted for" in told
    ledgers = dict(found["ledgers"])
    assert ledgers.keys() == {"calm0", "calm1"}
    assert all(ledger["received"] > 10 for ledger in ledgers.values())
    assert found["peaks"]["live"] == 2
    assert found["growth"]["memory"] is not None
