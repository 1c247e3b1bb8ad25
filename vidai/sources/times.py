"""Times of packets, where a live stream leaves them out or in disorder."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.stream import Stream

from vidai.errors import SourceLost

HELD = 8  # packets that are looked at for the time of the first
JUMP = 1.0  # s back in time that are a clock set anew, and no disorder


class Times:
    """Gives the packets of one stream the times they lack, and lets dts rise strictly.

    FFmpeg leaves the first frame of RTSP without a time, and the first of a stream with
    B-frames without dts: they wait for those that tell.
    """

    def __init__(self, where: str, stream: Stream) -> None:
        """where: what messages name."""
        self._where = where
        context: Any = stream.codec_context
        self._reordered = stream.type == "video" and bool(context.has_b_frames)
        rate = getattr(stream, "average_rate", None)
        self._frame = 1 / rate if rate else Fraction(1, 25)  # s, where a packet has no duration
        self._held: list[av.Packet[Any]] = []
        self._last: int | None = None  # dts, ticks

    def mend(self, packet: av.Packet[Any] | None) -> list[av.Packet[Any]]:
        """The packets that are ready; all that are left for None.

        Raises SourceLost where the stream goes back in time.
        """
        if packet is not None:
            self._held.append(packet)
            if self._last is None and len(self._held) < HELD and not self._tells(packet):
                return []
        ready, self._held = self._held, []
        if ready and self._last is None:
            self._begin(ready)
        return [self._rising(packet) for packet in ready]

    def _tells(self, packet: av.Packet[Any]) -> bool:
        return packet.pts is not None and not (self._reordered and packet.dts is None)

    def _step(self, packet: av.Packet[Any]) -> int:
        return packet.duration or max(1, round(self._frame / packet.time_base))

    def _begin(self, packets: list[av.Packet[Any]]) -> None:
        """Times of the first packets, by what the later of them have."""
        step = self._step(packets[0])
        known = [p.pts for p in packets if p.pts is not None]
        time = min(known) - step if known else 0
        for packet in packets:
            if packet.pts is None:
                packet.pts = time if packet.dts is None else packet.dts
                time += 0 if known else step
        if self._reordered:
            later = packets[-1].dts
            later = min(p.pts or 0 for p in packets) if later is None else later
            for packet in reversed(packets):
                later = packet.dts = later if packet.dts is None else packet.dts
                later -= step

    def _rising(self, packet: av.Packet[Any]) -> av.Packet[Any]:
        last, step = self._last, self._step(packet)
        if packet.pts is None:
            packet.pts = packet.dts if packet.dts is not None else (last or 0) + step
        if packet.dts is None:
            packet.dts = last + step if self._reordered and last is not None else packet.pts
        if last is not None and packet.dts <= last:
            back = float((last - packet.dts) * packet.time_base)
            if back > JUMP:
                raise SourceLost(f"{self._where} went back in time by {back:.1f} s")
            packet.dts = last + 1
        packet.pts = max(packet.pts, packet.dts)
        self._last = packet.dts
        return packet
