"""What live streams cost, how late they are, and whether a bad one harms the others.

    python benchmarks/live.py [--streams 8] [--seconds 20] [--rounds 2] [--json FILE]
                              [--only latency isolation reconnect] [--beside floods …]

Cameras are GStreamer's RTSP server on loopback, in a process of its own: 640×360, H.264 by x264,
10 frames a second. They need CPU time of the same machine, which is told apart.

Latency: from the moment at which the camera made the picture, which is written in its top rows,
until `on_record` is called. To read it, each frame is kept from where the detector gets it until
its record is out (a Gatherer that does so takes the place of the worker's); the picture is looked
at only after the time was taken. It has the camera's encoder in it, and up to one frame's time:
RTSP says where a frame ends by beginning the next.

Isolation: good streams alone (A) and beside a bad one (B), which is added and removed while the
worker runs, in turns A, B, A, B. The ratio is the median over the pairs of B / A.

Reconnect: from when the camera, killed and started again, accepts connections until the first new
record. The camera needs part of that for its own first picture.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from cameras import CLIP, Use, children_cpu, model, sender
from rich.console import Console
from rich.table import Table

import vidai
from tests.live.camera import Camera, Mount, missing_gstreamer, read_clock
from tests.live.proxy import TcpProxy
from vidai.live import worker as live_worker
from vidai.live.gatherer import Gatherer, Pending
from vidai.live.output import Record
from vidai.types import Frame

FPS = 10
BUDGET = 10  # analyses a second, of all streams
GOOD = 4  # streams beside a bad one
KILLS = 10
BAD = ("hangs", "refuses", "floods", "garbage", "damaged")
PATIENCE = 60.0  # s for a stream to come or to come back
KEPT = 50  # frames of a stream whose record is not out yet

Bad = Callable[["Running"], AbstractContextManager[object]]


class Clocks:
    """How late records are. late: s by stream, of the records since `clear`."""

    def __init__(self) -> None:
        self.late: dict[str, list[float]] = {}
        self.first: dict[str, float] = {}  # s of time.monotonic when the first record came
        self.without = 0  # records of pictures without a clock in them
        self._frames: dict[str, deque[Frame]] = {}

    def clear(self) -> None:
        self.late = {}

    def saw(self, frame: Frame) -> None:
        self._frames.setdefault(frame.info.name, deque(maxlen=KEPT)).append(frame)

    def on_record(self, record: Record) -> None:
        now = time.time()
        self.first.setdefault(record.stream, time.monotonic())
        frames = self._frames.get(record.stream, deque())
        while frames:
            frame = frames.popleft()
            if frame.index == record.frame:
                self._add(record.stream, frame, now)
                return

    def _add(self, name: str, frame: Frame, now: float) -> None:
        try:
            made = read_clock(np.asarray(frame))
        except ValueError:
            self.without += 1
        else:
            self.late.setdefault(name, []).append(now - made)


@dataclass(frozen=True)
class Window:
    """Some seconds of some streams, in sum. Rates are a second; late: s, at p50, p95 and max.
    cpu, cameras: cores in use by the worker and by the cameras. rss: MiB."""

    streams: int
    received: float
    processed: float
    analysed: float
    dropped: int
    failed: int
    late: tuple[float, float, float]
    cpu: float
    cameras: float
    rss: float


class Running:
    """A worker and how late its records are."""

    def __init__(self, worker: vidai.Worker, clocks: Clocks) -> None:
        self.worker = worker
        self.clocks = clocks

    def wait_for(self, name: str, state: str = "live") -> None:
        until = time.monotonic() + PATIENCE
        while self._streams()[name].state != state:
            if time.monotonic() > until:
                raise SystemExit(f"{name} did not become {state} in {PATIENCE:.0f} s")
            time.sleep(0.05)

    def wait_for_records(self, *names: str) -> None:
        until = time.monotonic() + PATIENCE
        while missing := set(names) - set(self.clocks.first):
            if time.monotonic() > until:
                raise SystemExit(f"no record of {', '.join(missing)} in {PATIENCE:.0f} s")
            time.sleep(0.05)

    def window(self, names: list[str], seconds: float) -> Window:
        self.clocks.clear()
        begin, before = time.monotonic(), self._counts(names)
        cpu, cameras = time.process_time(), children_cpu()
        time.sleep(seconds)
        passed = time.monotonic() - begin
        received, processed, analysed, dropped, failed = (
            after - first for after, first in zip(self._counts(names), before, strict=True)
        )
        late = sorted(s for name in names for s in self.clocks.late.get(name, []))
        if not late:
            raise SystemExit(f"no record of {', '.join(names)} in {seconds:g} s")
        return Window(
            streams=len(names),
            received=received / passed,
            processed=processed / passed,
            analysed=analysed / passed,
            dropped=dropped,
            failed=failed,
            late=(late[len(late) // 2], late[round(0.95 * (len(late) - 1))], late[-1]),
            cpu=(time.process_time() - cpu) / passed,
            cameras=max(0.0, children_cpu() - cameras) / passed,
            rss=Use.of(os.getpid()).rss,
        )

    def _streams(self) -> dict[str, Any]:
        return {stream.name: stream for stream in self.worker.status().streams}

    def _counts(self, names: list[str]) -> tuple[int, ...]:
        streams = [stream for name, stream in self._streams().items() if name in names]
        return (
            sum(s.ledger.received for s in streams),
            sum(s.ledger.processed for s in streams),
            sum(s.analysed for s in streams),
            sum(s.ledger.dropped.total() for s in streams),
            sum(s.ledger.failed.total() for s in streams),
        )


@contextmanager
def running(model: str, streams: dict[str, dict[str, Any]]) -> Iterator[Running]:
    """A worker with records to a file and to us."""
    clocks = Clocks()

    class Watching(Gatherer):
        """The one place through which every analysed frame goes."""

        def submit(self, frame: Frame) -> Pending:
            clocks.saw(frame)
            return super().submit(frame)

    with tempfile.TemporaryDirectory() as state, patch.object(live_worker, "Gatherer", Watching):
        config = {
            "model": model,
            "analysis": {"budget_fps": BUDGET},
            "http": None,
            "state": state,
            "defaults": {
                "outputs": ["jsonl"],
                "connect_timeout": 5,
                "read_timeout": 5,
                "least_fps": 0,  # nobody is refused, however busy the machine is
            },
            "streams": streams,
        }
        with vidai.Worker(config, on_record=clocks.on_record) as worker:
            yield Running(worker, clocks)


def latency(options: argparse.Namespace) -> dict[str, Any]:
    """Two streams that ask for no more than there is, and many that ask for more."""
    found = {}
    for count in (2, options.streams):
        rate = {"analyze_fps": BUDGET / 2} if count == 2 else {}
        mounts = {f"/{n}": Mount("clock", fps=FPS) for n in range(count)}
        with Camera(mounts) as camera:
            streams = {f"cam{n}": {"url": camera.url(f"/{n}"), **rate} for n in range(count)}
            with running(options.model, streams) as worker:
                worker.wait_for_records(*streams)
                time.sleep(options.seconds / 2)  # until rates have settled
                found[str(count)] = asdict(worker.window([*streams], 2 * options.seconds))
    return found


def isolation(options: argparse.Namespace) -> dict[str, Any]:
    """What each bad stream does to good ones."""
    names = [f"cam{n}" for n in range(GOOD)]
    found = {}
    with ExitStack() as stack:
        good = stack.enter_context(Camera({f"/{n}": Mount("clock", fps=FPS) for n in names}))
        other = stack.enter_context(Camera({"/bad": Mount("clock", fps=FPS)}))
        worker = stack.enter_context(
            running(options.model, {n: {"url": good.url(f"/{n}")} for n in names})
        )
        worker.wait_for_records(*names)
        time.sleep(options.seconds / 2)
        kinds: dict[str, Bad] = {
            "hangs": lambda worker: hanging(worker, other),
            "refuses": refusing,
            "floods": flooding,
            "garbage": talking_garbage,
            "damaged": lambda worker: damaged(worker, other),
        }
        for kind in options.beside:
            make, pairs = kinds[kind], []
            for _ in range(options.rounds):
                alone = worker.window(names, options.seconds)
                with make(worker):
                    time.sleep(1)
                    beside = worker.window(names, options.seconds)
                time.sleep(1)
                pairs.append((alone, beside))
            found[kind] = {
                "pairs": [[asdict(a), asdict(b)] for a, b in pairs],
                "fps": median(b.processed / a.processed for a, b in pairs),
                "p95": median(b.late[1] / a.late[1] for a, b in pairs),
            }
    return found


@contextmanager
def added(worker: Running, url: str) -> Iterator[None]:
    worker.worker.add("bad", {"url": url})
    try:
        yield
    finally:
        worker.worker.remove("bad")


@contextmanager
def hanging(worker: Running, camera: Camera) -> Iterator[None]:
    """A server that is stopped while it sends."""
    with added(worker, camera.url("/bad")):
        worker.wait_for("bad")
        camera.pause()
        try:
            yield
        finally:
            camera.resume()


@contextmanager
def refusing(worker: Running) -> Iterator[None]:
    """Nobody listens."""
    with socket.socket() as taken:  # and never listened on
        taken.bind(("127.0.0.1", 0))
        with added(worker, f"rtsp://127.0.0.1:{taken.getsockname()[1]}/none"):
            yield


@contextmanager
def flooding(worker: Running) -> Iterator[None]:
    """A clip that is sent again and again, as fast as it is taken."""
    with sender("flood", str(CLIP)) as url, added(worker, url):
        worker.wait_for("bad")
        yield


@contextmanager
def talking_garbage(worker: Running) -> Iterator[None]:
    """A server that answers with bytes that mean nothing, without end."""
    with sender("garbage") as url, added(worker, url):
        yield


@contextmanager
def damaged(worker: Running, camera: Camera) -> Iterator[None]:
    """A camera whose connection has bytes in it that it never sent."""
    ended = threading.Event()
    rng = random.Random(1)
    with closing(TcpProxy(camera.port)) as proxy:

        def damage() -> None:
            while not ended.wait(0.2):
                proxy.inject(rng.randbytes(rng.randrange(1, 2000)))

        thread = threading.Thread(target=damage, daemon=True)
        with added(worker, f"rtsp://127.0.0.1:{proxy.port}/bad"):
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()


def reconnect(options: argparse.Namespace) -> dict[str, Any]:
    """s until a stream is back, after its camera is."""
    rng = random.Random(1)
    seconds = []
    with (
        Camera({"/one": Mount("clock", fps=FPS)}) as camera,
        running(options.model, {"one": {"url": camera.url("/one")}}) as worker,
    ):
        for _ in range(options.kills):
            worker.clocks.first.clear()
            worker.wait_for_records("one")
            camera.kill()
            time.sleep(rng.uniform(1, 8))
            worker.clocks.first.clear()
            back = came_back(camera)
            worker.wait_for_records("one")
            seconds.append(worker.clocks.first["one"] - back)
    return {"seconds": seconds, "p50": median(seconds), "max": max(seconds)}


def came_back(camera: Camera) -> float:
    """Start it again; when it accepted connections, s of time.monotonic."""
    accepted: list[float] = []

    def knock() -> None:
        until = time.monotonic() + PATIENCE
        while not accepted and time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", camera.port), 1).close()
            except OSError:
                time.sleep(0.005)
            else:
                accepted.append(time.monotonic())

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    camera.restart()
    thread.join()
    return accepted[0]


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "latency": latency,
    "isolation": isolation,
    "reconnect": reconnect,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20, help="of a window")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of windows")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--beside", nargs="+", choices=BAD, default=[*BAD])
    parser.add_argument("--model", default=model(), help="name or ONNX file")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    if why := missing_gstreamer():
        sys.exit(why)
    found: dict[str, Any] = {
        "vidai": vidai.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load before": os.getloadavg()[0],
    }
    for part in options.only:
        found[part] = PARTS[part](options)
        show(part, found[part])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def show(part: str, found: dict[str, Any]) -> None:
    console = Console()
    if part == "latency":
        windows = found.values()
        table = Table("", *(f"{w['streams']} streams" for w in windows))
        table.title = f"Live streams, 640×360 at {FPS} fps, a budget of {BUDGET} analyses a second"
        for title, key, form in (
            ("frames a second in", "received", "{:.1f}"),
            ("frames a second out", "processed", "{:.1f}"),
            ("analyses a second", "analysed", "{:.1f}"),
            ("frames dropped", "dropped", "{}"),
            ("frames failed", "failed", "{}"),
            ("cores in use", "cpu", "{:.2f}"),
            ("cores in use by the cameras", "cameras", "{:.2f}"),
            ("MiB in memory (RSS)", "rss", "{:.0f}"),
        ):
            table.add_row(title, *(form.format(w[key]) for w in windows))
        for n, title in enumerate(("p50", "p95", "max")):
            late = (f"{1000 * w['late'][n]:.0f} ms" for w in windows)
            table.add_row(f"from picture to record, {title}", *late)
    elif part == "isolation":
        columns = "beside a stream that|fps alone|beside|ratio|p95 alone|beside|ratio"
        table = Table(*columns.split("|"), title=f"{GOOD} good streams, alone and beside a bad one")
        for kind, result in found.items():
            fps = (median(p[k]["processed"] for p in result["pairs"]) for k in (0, 1))
            late = (median(p[k]["late"][1] for p in result["pairs"]) for k in (0, 1))
            fps_told, late_told = (f"{v:.2f}" for v in fps), (f"{1000 * v:.0f} ms" for v in late)
            ratios = (f"{result[key]:.3f}" for key in ("fps", "p95"))
            table.add_row(kind, *fps_told, next(ratios), *late_told, next(ratios))
    else:
        table = Table("kills", "p50", "max", title="Until a stream is back after its camera")
        table.add_row(
            str(len(found["seconds"])), *(f"{found[key]:.2f} s" for key in ("p50", "max"))
        )
    console.print(table)


if __name__ == "__main__":
    main()
