"""A worker that runs for minutes or days, while things go wrong; fails if anything grows.

    python benchmarks/soak.py --minutes 20 --streams 8 [--chaos] [--out FOLDER]

Runs `vidai serve` in a process of its own: cameras of GStreamer's RTSP server on loopback,
640×360 at 10 fps, records to files and to a broker (mosquitto, where it is installed), rotating
recordings, and live video as if somebody always watched. With --chaos cameras are killed, stopped,
changed and lost, one trouble after the other (chaos.py); some streams are left alone, and must
not notice.

Every few seconds it looks at memory (what the process allocated; RSS, PSS and USS are told too),
threads, files and what waits in queues. At the end the worker is told to stop, and must do so in
order, with every frame accounted for: received = processed + dropped + failed, for each stream.

It ends with 1, and says why in sentences, if something grew: more than 2 % an hour of memory, or
any threads, files or queues, beyond an allowance for the whole run for what fills up once and for
what cannot be told from noise (ALLOWED). A short run therefore notices large leaks only; the
summary says from which growth on. growth.py says how that is judged. What comes first is not
looked at, while pools and caches fill: a quarter of the run, but one minute at least (half of a
shorter run) and ten at most.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cameras import ROOT, Use, model
from chaos import PATIENCE, Chaos, Pages, Site
from growth import Allowed, Growth
from rich.console import Console
from rich.table import Table

from tests.live.brokers import Mosquitto
from tests.live.camera import missing_gstreamer

ALLOWED = {
    "memory": Allowed(an_hour=0.02, once=16),  # MiB
    "threads": Allowed(an_hour=0, once=3),
    "fds": Allowed(an_hour=0, once=6),
    "waiting": Allowed(an_hour=0, once=50),  # frames and records
}
UNITS = {"memory": "MiB", "threads": "threads", "fds": "open files", "waiting": "in queues"}
TITLES = {
    "memory": "memory, MiB",
    "threads": "threads",
    "fds": "open files",
    "waiting": "waiting in queues",
    "live": "streams that are live",
}
WARM = 0.25  # of the run, before anything is judged
WARM_LEAST, WARM_MOST = 60.0, 600.0  # s
KEPT = 2000  # samples; when there are more, neighbours become one
INTERVAL = 5.0  # s between samples
IN_HAND = 40  # frames of a stream that a status may be off by: it is not of one moment
KEEP_GB = 0.01  # of recordings of a stream
RECORDED = 2.0  # times that, for the file that is being written
STOP = 40.0  # s for the worker to end
START = 300.0  # s for it to start, also where it has to fetch the model
STARTED = re.compile(r"pages at (http://[^\s,]+)")


@dataclass(frozen=True)
class Sample:
    """seconds: since the start. memory: MiB that are the process's own; that, rss, pss and uss: as
    in Use. waiting: frames and records in queues. live: streams that are. recorded: MB of the
    largest recordings of a stream."""

    seconds: float
    memory: float
    rss: float
    pss: float
    uss: float
    threads: float
    fds: float
    waiting: float
    live: float
    recorded: float
    cpu: float

    def lower(self, other: Sample) -> Sample:
        """The lower values of both: what grows is told by these."""
        return Sample(**{name: min(value, vars(other)[name]) for name, value in vars(self).items()})


class Samples:
    """All that was seen, in bounded memory: the longer the run, the further apart.

    peaks: the highest value of each field.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.kept: list[Sample] = []
        self.peaks: dict[str, float] = {}
        self._most = kept
        self._each = 1  # so many become one
        self._open: list[Sample] = []

    def add(self, sample: Sample) -> None:
        for name, value in vars(sample).items():
            self.peaks[name] = max(value, self.peaks.get(name, value))
        self._open.append(sample)
        if len(self._open) < self._each:
            return
        lowest, *rest = self._open
        for other in rest:
            lowest = lowest.lower(other)
        self._open.clear()
        self.kept.append(lowest)
        if len(self.kept) >= self._most:
            pairs = zip(self.kept[::2], self.kept[1::2], strict=False)
            self.kept = [a.lower(b) for a, b in pairs]
            self._each *= 2

    def since(self, seconds: float) -> list[Sample]:
        return [sample for sample in self.kept if sample.seconds >= seconds]


class Log:
    """What the worker says on stderr. url: of its pages, once it has started. ledgers: by stream,
    the counts that each told when it ended. errors: lines that should not be, the first of them."""

    def __init__(self, pipe: Any) -> None:
        self.url: str | None = None
        self.events: Counter[str] = Counter()
        self.ledgers: list[tuple[str, dict[str, Any]]] = []
        self.errors: list[str] = []
        self.last: deque[str] = deque(maxlen=200)
        self.started = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """All lines have been read, after the end of the process."""
        self._thread.join(PATIENCE)

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            self.last.append(line.rstrip())
            try:
                self._take(json.loads(line))
            except ValueError:
                self._error(line)
        self.started.set()

    def _take(self, told: dict[str, Any]) -> None:
        kind, text = told.get("event"), str(told.get("message", ""))
        if told.get("level") not in ("DEBUG", "INFO", "WARNING"):
            self._error(text)
        if kind is None:
            return
        self.events[kind] += 1
        if kind == "ledger":
            self.ledgers = [*self.ledgers[-9_999:], (told["stream"], told["data"])]
        elif kind == "worker-failed":
            self._error(text)
        elif kind == "started" and (found := STARTED.search(text)):
            self.url = found[1]
            self.started.set()

    def _error(self, line: str) -> None:
        if line.strip() and len(self.errors) < 50:
            self.errors.append(line.strip()[:500])


class Child:
    """`vidai serve` in a process of its own."""

    def __init__(self, config: Path, state: Path) -> None:
        command = [sys.executable, "-m", "vidai", "serve", str(config), "--log", "json"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        self.log = Log(self.process.stderr)
        self._state = state
        self._begin = time.monotonic()  # and once more when it has started

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.end()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def pages(self) -> Pages:
        """Its pages, once it has started."""
        if not self.log.started.wait(START) or self.log.url is None:
            sys.exit("the worker did not start:\n" + "\n".join(self.log.last))
        self._begin = time.monotonic()
        return Pages(self.log.url, (self._state / "token").read_text().strip())

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def sample(self, status: dict[str, Any]) -> Sample:
        """Raises OSError where it is gone."""
        use = Use.of(self.process.pid)
        streams = status["streams"]
        waiting = sum(s["waiting"] + sum(o["waiting"] for o in s["outputs"]) for s in streams)
        return Sample(
            seconds=time.monotonic() - self._begin,
            memory=use.own,
            rss=use.rss,
            pss=use.pss,
            uss=use.uss,
            threads=use.threads,
            fds=use.fds,
            waiting=waiting,
            live=sum(s["state"] == "live" for s in streams),
            recorded=max(
                (_bytes(self._state / "streams" / s["name"] / "record") for s in streams),
                default=0,
            )
            / 1e6,
            cpu=use.cpu,
        )

    def stop(self) -> int | None:
        """As systemd does it; its exit code, None where it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            return None
        self.log.end()
        return code


def _bytes(folder: Path) -> int:
    """Of all files below it, of which some may go meanwhile."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except OSError:
                continue
    return total


def off(stream: Mapping[str, Any]) -> int:
    """Frames that a ledger does not account for."""
    gone = sum(stream["dropped"].values()) + sum(stream["failed"].values())
    return int(stream["received"] - stream["processed"] - gone)


class Soak:
    """Looks at a worker until the time is over, or the worker."""

    def __init__(self, child: Child, pages: Pages) -> None:
        self.samples = Samples()
        self.problems: list[str] = []
        self.calm: dict[str, dict[str, Any]] = {}  # the last status of streams left alone
        self._child, self._pages = child, pages

    def run(self, seconds: float, interval: float) -> None:
        end = time.monotonic() + seconds
        silent = 0.0  # since when it does not answer
        while (now := time.monotonic()) < end:
            if self._child.ended:
                self.problems.append(f"the worker ended with {self._child.process.returncode}")
                return
            try:
                self._look(self._pages.status())
                silent = 0.0
            except OSError as error:
                silent = silent or now
                if now - silent > PATIENCE:
                    self.problems.append(f"the worker did not answer for {PATIENCE:.0f} s: {error}")
                    return
            time.sleep(max(0.0, min(interval, end - time.monotonic())))

    def _look(self, status: dict[str, Any]) -> None:
        self.samples.add(self._child.sample(status))
        for stream in status["streams"]:
            count = off(stream["ledger"]) - stream["waiting"]
            if abs(count) > IN_HAND:
                self._tell_once(f"{count} frames of {stream['name']} were not accounted for")
            if stream["name"].startswith("calm"):
                self.calm[stream["name"]] = stream
        if not status["healthy"]:
            self._tell_once("the worker said that it is not healthy")

    def _tell_once(self, problem: str) -> None:
        if problem not in self.problems and len(self.problems) < 50:
            self.problems.append(problem)


def too_much(samples: list[Sample]) -> tuple[list[str], dict[str, Any]]:
    """What grew, in sentences, and the figures."""
    problems: list[str] = []
    figures: dict[str, dict[str, Any] | None] = {}
    for name, allowed in ALLOWED.items():
        values = [getattr(sample, name) for sample in samples]
        growth = Growth.of([sample.seconds for sample in samples], values)
        if growth is None:
            figures[name] = None
            continue
        figures[name] = {
            **asdict(growth),
            "limit": growth.limit(allowed),
            "undecided": growth.is_undecided(allowed),
        }
        if growth.is_too_much(allowed):
            problems.append(
                f"{name} grew: by {growth.slope:.1f} {UNITS[name]} an hour, and by "
                f"{growth.least:.1f} at least, where {growth.limit(allowed):.1f} are allowed, "
                f"from {growth.level:.1f}"
            )
    return problems, figures


def unbalanced(ledgers: list[tuple[str, dict[str, Any]]], streams: set[str]) -> list[str]:
    """What is wrong with the accounts that streams told when they ended."""
    problems = [
        f"{name} ended with {off(told)} frames that are not accounted for: {told}"
        for name, told in ledgers
        if off(told)
    ]
    missing = sorted(streams - {name for name, _ in ledgers})
    if missing:
        problems.append(f"no account at the end of {', '.join(missing)}")
    return problems


def disturbed(calm: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Streams that were left alone and noticed something."""
    return [
        f"{name} was left alone and connected {stream['connections']} times"
        for name, stream in calm.items()
        if stream["connections"] != 1
    ]


def config_of(options: argparse.Namespace, site: Site, state: Path) -> dict[str, Any]:
    outputs: list[Any] = [
        "jsonl",
        {"record": {"segment": 10, "keep_gb": KEEP_GB}},
        {"hls": {"always": True}},
    ]
    if site.broker is not None:
        outputs.append({"mqtt": {"host": "127.0.0.1", "port": site.broker.port}})
    return {
        "model": options.model,
        "device": options.device,
        "analysis": {"budget_fps": options.budget},
        "http": {"port": 0},
        "state": str(state),
        "defaults": {
            "outputs": outputs,
            "connect_timeout": 5,
            "read_timeout": 5,
            "least_fps": 0,  # nobody is refused, however busy the machine is
        },
        "streams": site.streams,
    }


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Runs it; all that was found, "problems" among it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        site = Site(folder, stack, options.streams, chaos=options.chaos)
        if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin"):
            site.broker = stack.enter_context(Mosquitto(folder / "broker"))
        state = folder / "state"
        config = config_of(options, site, state)
        site.write(config)
        child = stack.enter_context(Child(site.file, state))
        pages = child.pages()
        began = time.time()
        look = Soak(child, pages)
        chaos = Chaos(site, config, pages, options.every) if options.chaos else None
        try:
            look.run(60 * options.minutes, options.interval)
        except KeyboardInterrupt:
            look.problems.append("it was interrupted")
        if chaos is not None:
            chaos.stop()
        code = child.stop()
        return judged(look, child.log, code, chaos, began, set(site.streams))


def judged(
    look: Soak, log: Log, code: int | None, chaos: Chaos | None, began: float, streams: set[str]
) -> dict[str, Any]:
    samples = look.samples
    last = samples.kept[-1].seconds if samples.kept else 0.0
    warm = min(max(WARM * last, WARM_LEAST), WARM_MOST, last / 2)
    grown, figures = too_much(samples.since(warm))
    problems = [*look.problems, *grown, *unbalanced(log.ledgers, streams), *disturbed(look.calm)]
    if code != 0:
        ended = "did not end" if code is None else f"ended with {code}"
        problems.append(f"the worker {ended} after SIGTERM")
    problems += [f"the log has an error: {line}" for line in log.errors]
    if samples.peaks.get("recorded", 0) > 1000 * KEEP_GB * RECORDED:
        problems.append(
            f"recordings of a stream took {samples.peaks['recorded']:.0f} MB, of "
            f"{1000 * KEEP_GB:.0f} allowed"
        )
    if chaos is not None:
        problems += chaos.problems
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": last,
        "warm": warm,
        "problems": problems,
        "growth": figures,
        "peaks": samples.peaks,
        "events": dict(log.events),
        "troubles": chaos.counts if chaos else {},
        "told": [(when - began, what) for when, what in chaos.told] if chaos else [],
        "accounts": accounts(told for _, told in log.ledgers),
        "ledgers": log.ledgers[-2 * len(streams) :],
        "samples": [asdict(sample) for sample in samples.kept],
        "log": list(log.last) if problems else [],
    }


def accounts(ledgers: Iterable[dict[str, Any]]) -> dict[str, int]:
    """All ledgers of the run in sum: those of streams that were changed or removed, too."""
    sums: Counter[str] = Counter()
    for told in ledgers:
        sums.update({key: told[key] for key in ("received", "processed", "connections")})
        sums["dropped"] += sum(told["dropped"].values())
        sums["failed"] += sum(told["failed"].values())
        for output in told["outputs"]:
            sums["accepted by outputs"] += output["accepted"]
            sums["lost by outputs"] += sum(output["lost"].values())
    return dict(sums)


def show(found: dict[str, Any]) -> None:
    console = Console()
    table = Table(*["", "level", "an hour", "between", "and", "allowed", "peak"])
    table.title = f"{found['seconds'] / 60:.1f} minutes, judged from {found['warm'] / 60:.1f} on"
    for name, growth in found["growth"].items():
        peak = f"{found['peaks'].get(name, math.nan):.0f}"
        if growth is None:
            table.add_row(TITLES[name], "too few samples", *[""] * 4, peak)
            continue
        columns = ("level", "slope", "least", "most", "limit")
        table.add_row(TITLES[name], *(f"{growth[c]:.1f}" for c in columns), peak)
    console.print(table)
    told = ", ".join(f"{count} {what}" for what, count in found["accounts"].items())
    console.print(f"accounts: {told}", highlight=False)
    for title in ("troubles", "events"):
        if found[title]:
            counts = (f"{count} × {what}" for what, count in sorted(found[title].items()))
            console.print(f"{title}: {', '.join(counts)}", highlight=False)
    for name, growth in found["growth"].items():
        if growth and growth["undecided"]:
            console.print(
                f"{name}: the run was too short to tell whether it stays within its limit"
            )
    for problem in found["problems"]:
        console.print(problem, style="red", markup=False, highlight=False)
    if not found["problems"]:
        console.print("nothing grew, and every frame is accounted for")


def draw(found: dict[str, Any], path: Path) -> None:
    """Needs matplotlib (extra `bench`)."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    scale, unit = (3600, "hours") if found["seconds"] > 7200 else (60, "minutes")
    times = [sample["seconds"] / scale for sample in found["samples"]]
    figure, rows = pyplot.subplots(len(TITLES), sharex=True, figsize=(10, 12))
    for row, name in zip(rows, TITLES, strict=True):
        row.plot(times, [s[name] for s in found["samples"]], linewidth=1, label=name)
        if name == "memory":
            row.plot(times, [s["rss"] for s in found["samples"]], linewidth=1, label="RSS")
            row.legend(loc="lower right")
        row.axvspan(0, found["warm"] / scale, color="0.93", zorder=-1)
        for when, _ in found["told"]:
            row.axvline(when / scale, color="0.85", linewidth=0.5, zorder=0)
        row.set_ylabel(TITLES[name])
        row.set_ylim(bottom=0)
    rows[-1].set_xlabel(f"{unit}; grey lines: troubles; grey area: not judged")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--chaos", action="store_true")
    parser.add_argument("--every", type=float, default=10, help="s between two troubles, about")
    parser.add_argument("--interval", type=float, default=INTERVAL, help="s between samples")
    parser.add_argument("--budget", type=float, default=10, help="analyses a second")
    parser.add_argument("--model", default=model(), help="name or ONNX file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder for soak.json and soak.png")
    options = parser.parse_args()
    if options.streams < (4 if options.chaos else 1):
        parser.error("chaos needs four streams, else one will do")
    if why := missing_gstreamer():
        sys.exit(why)
    found = soak(options)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=1) + "\n"
        (options.out / "soak.json").write_text(text, encoding="utf-8")
        draw(found, options.out / "soak.png")
    show(found)
    sys.exit(bool(found["problems"]))


if __name__ == "__main__":
    main()
