"""When the packets of a live stream were taken, on the worker's clock.

Cameras count from anywhere, at a speed that is a little wrong, and jump. What they say is
believed for the distance between two pictures only: where a stream begins is when its first
packet arrived, and from there on its clock is led slowly to that of the worker.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av

from vidai.live.output import CLOCK

JUMP = 1.0  # s by which a stream may run ahead of its packets' arrival, between two of them
LATE = 10.0  # s by which packets may come late before the stream counts as begun anew
# s a second of the stream. Packets cannot come before they were sent, so a clock that says so is
# wrong for sure; late they may also be because of the network.
FASTER, SLOWER = 0.05, 0.001


class StreamClock:
    """Gives a connection's packets times in ticks of CLOCK since 1970.

    jumps: how often the stream's own clock jumped or was missing. The dts of one stream of the
    connection rise strictly, and start after `last`, ticks of the connection before.
    """

    def __init__(self, last: int = 0) -> None:
        self.jumps = 0
        self.last = last
        self._floor = last
        self._offset: float | None = None  # s: worker's clock minus the stream's
        self._media = self._arrived = 0.0  # s, of the packet before
        self._dts: dict[int, int] = {}  # of the packet before, by stream

    def stamp(self, packet: av.Packet[Any], arrived: float) -> None:
        """Put the packet on the worker's clock. arrived: s since 1970."""
        base = packet.time_base or Fraction(1, 1)
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None:
            time = arrived
            self.jumps += self._offset is not None
        else:
            time = self._time(float(ticks * base), arrived)
        later = 0
        if packet.pts is not None and packet.dts is not None:
            later = max(0, round((packet.pts - packet.dts) * base / CLOCK))
        before = self._dts.get(packet.stream_index, self._floor)
        dts = max(round(time / CLOCK), before + 1)
        self._dts[packet.stream_index] = dts
        self.last = max(self.last, dts)
        duration = round((packet.duration or 0) * base / CLOCK)
        packet.time_base = CLOCK
        packet.dts, packet.pts, packet.duration = dts, dts + later, duration

    def _time(self, media: float, arrived: float) -> float:
        """s since 1970 of a packet which its stream says is of `media` s."""
        if self._offset is None:
            self._offset = arrived - media
        passed, really = media - self._media, arrived - self._arrived
        late = arrived - (media + self._offset)
        if self._arrived and (passed < -JUMP or passed > really + JUMP or late > LATE):
            self.jumps += 1
            self._offset = arrived - media
        elif passed > 0:
            self._offset += min(max(late, -FASTER * passed), SLOWER * passed)
        self._media, self._arrived = media, arrived
        return media + self._offset
