"""What crosses between host and device memory, counted where vidai asks for it."""

from __future__ import annotations

import threading
from collections import Counter
from copy import deepcopy
from typing import Any, Literal, NoReturn

from vidai.errors import TransferError

Direction = Literal["host_to_device", "device_to_host", "device_to_device", "setup"]
Wait = Literal["stream", "device"]

_HOST: tuple[Direction, ...] = ("host_to_device", "device_to_host")


class Transfers:
    """Copies and waits of one device since it was opened, or between two moments (`since`).

    frames: pictures that went through whole. bytes, calls: by direction, where "setup" is what
    is sent to the device once and used by many frames (tables, glyphs). waits: how often the
    host waited for a stream, or for the whole device. sources: bytes and calls by
    (direction, what was copied). What the codecs copy inside, compressed packets and their own
    surfaces, is not seen here. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.sources: dict[tuple[str, str], tuple[int, int]] = {}
        self._lock = threading.Lock()

    def copied(self, direction: Direction, size: int, what: str) -> None:
        """A copy of `size` bytes was asked for."""
        with self._lock:
            self.bytes[direction] += size
            self.calls[direction] += 1
            before, calls = self.sources.get((direction, what), (0, 0))
            self.sources[direction, what] = before + size, calls + 1

    def waited(self, kind: Wait) -> None:
        """The host waited for a stream, or for everything on the device."""
        with self._lock:
            self.waits[kind] += 1

    def frame_done(self) -> None:
        with self._lock:
            self.frames += 1

    @property
    def host_bytes(self) -> int:
        """Bytes that crossed between host and device, either way, setup apart."""
        return sum(self.bytes[direction] for direction in _HOST)

    def snapshot(self) -> Transfers:
        """A copy that stays as it is."""
        copy = Transfers()
        with self._lock:
            for name in ("frames", "bytes", "calls", "waits", "sources"):
                setattr(copy, name, deepcopy(getattr(self, name)))
        return copy

    def since(self, before: Transfers) -> Transfers:
        """What was added after the snapshot `before`."""
        now = self.snapshot()
        now.frames -= before.frames
        for name in ("bytes", "calls", "waits"):
            getattr(now, name).subtract(getattr(before, name))
        now.sources = {
            key: (size - before.sources.get(key, (0, 0))[0], n - before.sources.get(key, (0, 0))[1])
            for key, (size, n) in now.sources.items()
        }
        return now

    def check(self, budget: int, in_flight: int, since: Transfers) -> None:
        """Raise TransferError where more than `budget` bytes a frame crossed after `since`.

        This is a mean. in_flight: frames that may have been paid for and are not done yet.
        """
        allowed = budget * (self.frames - since.frames + in_flight)
        if self.host_bytes - since.host_bytes > allowed:
            self.since(since)._raise_over(budget)

    def _raise_over(self, budget: int) -> NoReturn:
        sizes = {key: size for key, (size, _) in self.sources.items() if key[0] in _HOST}
        direction, what = max(sizes, key=sizes.__getitem__)
        raise TransferError(
            f"{self.host_bytes} bytes crossed between host and device for {self.frames} frames, "
            f"more than {budget} a frame: most of it is {what} ({direction.replace('_', ' ')}, "
            f"{sizes[direction, what]} bytes); raise the limit, or see `vidai doctor` for what "
            f"this GPU cannot do itself"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: in all, per frame, and by what was copied."""
        total: dict[str, int] = {}
        for name in (*_HOST, "device_to_device", "setup"):
            total |= {f"{name}_bytes": self.bytes[name], f"{name}_calls": self.calls[name]}
        total |= {f"{kind}_waits": self.waits[kind] for kind in ("stream", "device")}
        frames = max(1, self.frames)
        steady = {key: value for key, value in total.items() if not key.startswith("setup")}
        return {
            "frames": self.frames,
            "total": total,
            "per_frame": {key: round(value / frames, 3) for key, value in steady.items()},
            "sources": {
                f"{direction}: {what}": {"bytes": size, "calls": calls}
                for (direction, what), (size, calls) in sorted(self.sources.items())
                if calls
            },
        }
