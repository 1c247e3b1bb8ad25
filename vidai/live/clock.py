"""When the packets of a live stream were taken, on the worker's clock.

Cameras count from anywhere, at a speed that is a little wrong, and jump. What they say is
believed for the distance between two packets only: where a stream begins is when its first
packet arrived, and from there on its clock is led slowly to that of the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import av

from vidai.live.output import CLOCK

JUMP = 1.0  # s by which a stream may run ahead of its packets' arrival, or go back, at once
LATE = 10.0  # s by which packets may come late before the stream counts as begun anew
# s a second of the stream by which its clock is led. Packets cannot come before they were sent,
# so a clock that says so is wrong for sure. Late they may also be because of the network: only
# by what all packets of the last seconds were late the clock is wrong.
LEAD = 0.05
SECONDS = 10.0
RATE = round(1 / CLOCK)  # ticks a second


class StreamClock:
    """Gives a connection's packets times in ticks of CLOCK since 1970.

    jumps: how often the stream's own clock jumped or was missing; once where all streams of the
    connection jump together. The dts of one stream of the connection rise strictly, and no time
    is before `last`, ticks of the connection before. Streams whose times are within LATE of each
    other share a clock, so sound stays with its pictures; others count by their arrival.

    Where the worker's own clock is set back, times go on as if it were not, and are led.
    """

    def __init__(self, last: int = 0) -> None:
        self.jumps = 0
        self.last = last
        self._floor = last
        self._before: dict[int, _Packet] = {}  # by stream

    def stamp(self, packet: av.Packet[Any], arrived: float) -> None:
        """Put the packet on the worker's clock. arrived: s since 1970."""
        base = float(packet.time_base or 1)  # s a tick; fractions would take most of the time here
        ticks = packet.dts if packet.dts is not None else packet.pts
        before = self._before.get(packet.stream_index)
        last = self._floor if before is None else before.dts
        if ticks is None:
            time = arrived
            self.jumps += before is not None
        else:
            media = ticks * base
            line = self._line(packet.stream_index, media, arrived, last / RATE)
            time = line.time(media, arrived)
        later = 0.0
        if packet.pts is not None and packet.dts is not None:
            later = (packet.pts - packet.dts) * base
        dts = max(round(time * RATE), last + 1)
        pts = dts + round(later * RATE) if 0 <= later <= LATE else dts
        if ticks is not None:
            self._before[packet.stream_index] = _Packet(line, media, arrived, dts)
        elif before is not None:
            before.dts = dts
        else:
            self._floor = dts
        self.last = max(self.last, pts)
        packet.duration = round((packet.duration or 0) * base * RATE)
        packet.time_base = CLOCK
        packet.dts, packet.pts = dts, pts

    def _line(self, stream: int, media: float, arrived: float, last: float) -> _Line:
        """What tells the time of a packet which its stream says is of `media` s. last: s since
        1970 of the stream's packet before."""
        before = self._before.get(stream)
        if before is not None and before.is_followed_by(media, arrived):
            return before.line
        for other in self._before.values():
            shared = before is not None and other.line is before.line
            if not shared and abs(other.passed(media, arrived)) <= LATE:
                return other.line
        self.jumps += before is not None
        return _Line(max(arrived, last) - media, media, arrived)


class _Line:
    """A clock of the camera, led to that of the worker. offset: s, the worker's minus its own."""

    def __init__(self, offset: float, media: float, arrived: float) -> None:
        self.offset = offset
        self._furthest = media  # s, of all packets
        self._least = inf  # s by which all packets since `_since` (s since 1970) were late
        self._since = arrived
        self._slower = 0.0  # s a second by which it is led because of packets that are late

    def time(self, media: float, arrived: float) -> float:
        """s since 1970."""
        passed, late = media - self._furthest, arrived - media - self.offset
        if arrived - self._since > SECONDS:
            self._slower = min(LEAD, max(0.0, self._least) / SECONDS)
            self._least, self._since = inf, arrived
        self._least = min(self._least, late)
        if passed > 0:
            self._furthest = media
            self.offset += min(max(late, -LEAD * passed), self._slower * passed)
        return media + self.offset


@dataclass
class _Packet:
    """The last of a stream. media: s of its own clock. arrived: s since 1970. dts: ticks."""

    line: _Line
    media: float
    arrived: float
    dts: int

    def passed(self, media: float, arrived: float) -> float:
        """s by which the camera's clock went on more than that of the worker."""
        return media - self.media - (arrived - self.arrived)

    def is_followed_by(self, media: float, arrived: float) -> bool:
        """Whether that is the time of a packet without a jump between."""
        late = arrived - media - self.line.offset
        return media - self.media >= -JUMP and self.passed(media, arrived) <= JUMP and late <= LATE
