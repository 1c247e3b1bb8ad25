"""What Prometheus is told.

Counts and states are read from the worker's status when they are asked for; only times and sizes
of batches, which are distributions, are gathered here as they arise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client import Counter as Count
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vidai.live import telemetry
from vidai.live.status import StreamStatus, WorkerStatus

# Of a frame's way, and the whole of it. total: from its arrival until its record is out.
STAGES = ("decode", "wait", "detect", "draw", "encode", "total")
STATES = ("connecting", "live", "retrying", "ended", "stopped", "refused")
SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
)
FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Value = Callable[[StreamStatus], "float | None"]
Reasons = Callable[[StreamStatus], "Counter[str]"]

STREAM_COUNTS: dict[str, tuple[str, Value]] = {
    "vidai_frames_received": ("Frames decoded.", lambda s: s.ledger.received),
    "vidai_frames_processed": ("Frames that went all the way.", lambda s: s.ledger.processed),
    "vidai_frames_analysed": ("Frames that the model saw.", lambda s: s.analysed),
    "vidai_frames_damaged": ("Packets or frames that were not whole.", lambda s: s.damaged),
    "vidai_connections": ("Times that the source was reached.", lambda s: s.connections),
    "vidai_reconnects": ("Times that it was reached again.", lambda s: s.reconnects),
}
STREAM_REASONS: dict[str, tuple[str, Reasons]] = {
    "vidai_frames_dropped": ("Frames left out on purpose.", lambda s: s.ledger.dropped),
    "vidai_frames_failed": ("Frames lost to an error.", lambda s: s.ledger.failed),
}
STREAM_GAUGES: dict[str, tuple[str, Value]] = {
    "vidai_input_fps": ("Frames a second that come in.", lambda s: s.fps_in),
    "vidai_output_fps": ("Frames a second that go out.", lambda s: s.fps_out),
    "vidai_analysed_fps": ("Frames a second that the model sees.", lambda s: s.fps_analysed),
    "vidai_wanted_fps": ("Analyses a second asked for.", lambda s: s.wanted_fps),
    "vidai_granted_fps": ("Analyses a second granted.", lambda s: s.granted_fps),
    "vidai_frames_waiting": ("Frames read and not begun.", lambda s: s.waiting),
    "vidai_priority": ("Priority under overload.", lambda s: s.priority),
    "vidai_state_since_timestamp_seconds": ("When its state began.", lambda s: s.since or None),
}


class Metrics:
    """The metrics of one worker, in a registry of their own. Safe from any thread."""

    def __init__(self, status: Callable[[], WorkerStatus]) -> None:
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "vidai_latency_seconds",
            "Time of a frame in a stage; total: from its arrival until its record is out.",
            ["stream", "stage"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "vidai_batch_frames", "Frames in a batch.", buckets=FRAMES, registry=self._registry
        )
        self._places = Count(
            "vidai_batch_places",
            "Frames that the batches could have held.",
            registry=self._registry,
        )
        self._registry.register(_OfStatus(status))
        ProcessCollector(registry=self._registry)

    def observe(self, stream: str, stage: str, seconds: float) -> None:
        """A frame of the stream was this long in a stage, one of STAGES."""
        self._latency.labels(stream, stage).observe(seconds)

    def observe_batch(self, size: int, max_batch: int) -> None:
        """A batch of so many frames ran, where max_batch would have fitted."""
        self._batches.observe(size)
        self._places.inc(max_batch)

    def forget(self, stream: str) -> None:
        """The stream is gone, and so are its figures."""
        for stage in STAGES:
            with suppress(KeyError):
                self._latency.remove(stream, stage)

    def render(self) -> tuple[bytes, str]:
        """All of it in Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _OfStatus(Collector):
    """What the worker's status says, at the time of asking."""

    def __init__(self, status: Callable[[], WorkerStatus]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        return ()  # so that registering it does not ask for the status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield from _worker(status)
        yield from _streams(status.streams)
        yield from _outputs(status.streams)
        for name, value in telemetry.read(status.device.partition(" ")[0]).items():
            text = telemetry.FIGURES.get(name, name)
            yield _single(name, text, value, device=status.device)
        if (threads := _threads()) is not None:
            yield _single("process_threads", "Threads of the process.", threads)


def _worker(status: WorkerStatus) -> Iterator[Metric]:
    yield _single(
        "vidai_worker_info",
        "What runs.",
        1,
        version=status.version,
        model=status.model,
        device=status.device,
        precision=status.precision or "",
    )
    yield _single("vidai_start_time_seconds", "When it started.", status.started)
    yield _single("vidai_ready", "The model is loaded and streams are read.", status.ready)
    yield _single("vidai_healthy", "The worker's own loop turns.", status.healthy)
    yield _single("vidai_batch_fill_ratio", "Frames a batch to what would fit.", status.batch_fill)
    if status.capacity_fps is not None:
        yield _single("vidai_capacity_fps", "Analyses a second possible.", status.capacity_fps)


def _streams(streams: list[StreamStatus]) -> Iterator[Metric]:
    for name, (text, value) in STREAM_COUNTS.items():
        count = CounterMetricFamily(name, text, labels=["stream"])
        for stream in streams:
            count.add_metric([stream.name], value(stream) or 0)
        yield count
    for name, (text, reasons) in STREAM_REASONS.items():
        count = CounterMetricFamily(name, text, labels=["stream", "reason"])
        for stream in streams:
            for reason, number in list(reasons(stream).items()):
                count.add_metric([stream.name, reason], number)
        yield count
    for name, (text, value) in STREAM_GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=["stream"])
        for stream in streams:
            if (now := value(stream)) is not None:
                gauge.add_metric([stream.name], now)
        yield gauge
    states = GaugeMetricFamily(
        "vidai_stream_state", "1 for the state that it is in.", labels=["stream", "state"]
    )
    for stream in streams:
        for state in STATES:
            states.add_metric([stream.name, state], stream.state == state)
    yield states


def _outputs(streams: list[StreamStatus]) -> Iterator[Metric]:
    """Outputs of one kind on one stream are told as one: the sum."""
    labels = ["stream", "output"]
    accepted = CounterMetricFamily("vidai_output_accepted", "Records or packets.", labels=labels)
    delivered = CounterMetricFamily("vidai_output_delivered", "Of these, done.", labels=labels)
    lost = CounterMetricFamily("vidai_output_lost", "Of these, lost.", labels=[*labels, "reason"])
    waiting = GaugeMetricFamily("vidai_output_waiting", "Of these, to come.", labels=labels)
    size = GaugeMetricFamily("vidai_output_waiting_bytes", "Size of these.", labels=labels)
    well = GaugeMetricFamily("vidai_output_ok", "1 while nothing is wrong.", labels=labels)
    for stream in streams:
        for kind in sorted({output.kind for output in stream.outputs}):
            same = [output for output in stream.outputs if output.kind == kind]
            place = [stream.name, kind]
            accepted.add_metric(place, sum(output.accepted for output in same))
            delivered.add_metric(place, sum(output.delivered for output in same))
            waiting.add_metric(place, sum(output.waiting for output in same))
            size.add_metric(place, sum(output.waiting_bytes for output in same))
            well.add_metric(place, all(output.state in ("ok", "idle") for output in same))
            losses: Counter[str] = sum((Counter(output.lost) for output in same), Counter())
            for reason, number in losses.items():
                lost.add_metric([*place, reason], number)
    yield from (accepted, delivered, lost, waiting, size, well)


def _single(name: str, text: str, value: float, **labels: str) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=list(labels))
    gauge.add_metric(list(labels.values()), value)
    return gauge


def _threads() -> int | None:
    """Of the whole process, also those that Python did not start; None where it is not told."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Threads:")).split()[1])
    return None
