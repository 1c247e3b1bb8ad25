"""What a worker tells of itself: read by its pages, its metrics, and programs."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from vidai.live.output import OutputStatus
from vidai.report import Ledger

HISTORY = 60  # points of a sparkline, one every two seconds


@dataclass
class StreamStatus:
    """One stream, now.

    address: without its password. state: "connecting", "live", "retrying" (between two
    attempts), "ended" (a file that is not looped), "stopped", "refused" (there is no room for
    it, or its settings cannot work). since: s since 1970, of that state. error: the last, None
    while all is well. fps_in: frames decoded; fps_out: frames
    that went through; fps_analysed: frames that the model saw; each a second, over the last
    seconds. wanted_fps: analyses a second that were asked for, granted_fps: what the device has
    for it now. latency: s from a frame's arrival until its record is out, {"p50", "p95", "max"}
    of the last frames. waiting: frames read and not through yet. history: [fps_out, latency p95
    in s] every two seconds, oldest first. watching: whether pages can show it (it has an HLS
    output).
    """

    name: str
    address: str
    state: str = "connecting"
    since: float = 0.0
    error: str | None = None
    priority: int = 0
    width: int = 0
    height: int = 0
    codec: str = ""
    fps_in: float = 0.0
    fps_out: float = 0.0
    fps_analysed: float = 0.0
    wanted_fps: float | None = None
    granted_fps: float | None = None
    latency: dict[str, float] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    analysed: int = 0
    connections: int = 0
    waiting: int = 0
    damaged: int = 0
    history: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    outputs: list[OutputStatus] = field(default_factory=list)
    watching: bool = False

    @property
    def reconnects(self) -> int:
        return max(0, self.connections - 1)


@dataclass
class WorkerStatus:
    """The whole worker, now.

    ready: the model is loaded and streams are being read. healthy: its own loop turns.
    capacity_fps: analyses a second that the device is believed to have, None until known.
    batch_fill: frames a batch over the last seconds, relative to max_batch, 0–1.
    """

    version: str
    model: str
    device: str
    precision: str | None
    started: float
    ready: bool
    healthy: bool
    capacity_fps: float | None
    batch_fill: float
    streams: list[StreamStatus]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        told = asdict(self)
        for stream, status in zip(told["streams"], self.streams, strict=True):
            stream["reconnects"] = status.reconnects
            stream["history"] = list(status.history)
            ledger = stream["ledger"]
            # asdict would make a Counter of pairs before Python 3.12.
            ledger["dropped"], ledger["failed"] = (
                dict(status.ledger.dropped),
                dict(status.ledger.failed),
            )
            ledger["balanced"] = status.ledger.balanced
            for output, its in zip(stream["outputs"], status.outputs, strict=True):
                output["lost"] = dict(its.lost)
        return told
