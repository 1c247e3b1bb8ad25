"""The account of a run: what came in, what became of it, and what it cost."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vidai.transfers import Transfers

if TYPE_CHECKING:
    from vidai.precision import Precision

STAGES = ("decode", "detect", "draw", "encode")


@dataclass
class Ledger:
    """Every frame is accounted for: received = processed + dropped + failed, always at the end.

    dropped and failed map a reason to a count of frames.
    """

    received: int = 0
    processed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def balanced(self) -> bool:
        lost = sum(self.dropped.values()) + sum(self.failed.values())
        return self.received == self.processed + lost


@dataclass
class Report:
    """One run, updated while it goes on and whole at its end.

    precision: what the model runs in and why; None: as it was given.
    seconds: wall clock from the start of the run. first_frame_seconds: until the first
    frame was through all sinks. cpu_seconds: of the whole process. stages: seconds that
    each stage was busy, summed over its threads. detections: count by class name; tracks: how
    many different things that were, those of a single frame not counted, None without tracking.
    damaged: packets or frames of the input that could not be read whole.
    expected_frames: an estimate from the container, None when it does not say.
    transfers: what crossed between host and device memory meanwhile, by all who use the device.
    interrupted: stopped before the end, by Ctrl-C or Pipeline.stop. error: why the run
    failed, None when it did not.
    """

    input: str
    outputs: list[str] = field(default_factory=list)
    model: str | None = None
    precision: Precision | None = None
    device: str = "cpu"
    width: int = 0
    height: int = 0
    source_codec: str = ""
    expected_frames: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_frame_seconds: float | None = None
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    detections: Counter[str] = field(default_factory=Counter)
    tracks: Counter[str] | None = None
    ledger: Ledger = field(default_factory=Ledger)
    transfers: Transfers = field(default_factory=Transfers)
    damaged: int = 0
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    error: str | None = None

    @property
    def frames(self) -> int:
        return self.ledger.processed

    @property
    def fps(self) -> float:
        """Frames processed per second of wall clock."""
        return self.frames / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with frames and fps."""
        ledger = {name: _plain(value) for name, value in vars(self.ledger).items()}
        rest = {name: _plain(value) for name, value in vars(self).items()}
        return {
            "frames": self.frames,
            "fps": round(self.fps, 2),
            **rest,
            "precision": self.precision and self.precision.to_dict(),
            "ledger": ledger,
            "transfers": self.transfers.to_dict(),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Counter):
        return dict(value)
    return round(value, 4) if isinstance(value, float) else value
