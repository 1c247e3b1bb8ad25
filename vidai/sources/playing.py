"""Files, played as if they came from a camera: in real time, and over and over."""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
from av.stream import Stream

from vidai.sources.file import FileSource
from vidai.sources.times import Times

APART = 10  # s by which one stream may be ahead of the other in a file, and be waited for


class Pace:
    """Says when the packets of a stream are due, by their own times.

    speed: of the packets' time against the clock. late: s behind from which on no haste makes up
    for it, as after a stop of the whole process: it goes on from there. longest: s to wait at most.
    """

    def __init__(
        self,
        closed: threading.Event,
        *,
        speed: float = 1.0,
        late: float = 1.0,
        longest: float = threading.TIMEOUT_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._closed = closed
        self._speed, self._late, self._longest = speed, late, longest
        self._clock = clock
        self._start: tuple[float, float] | None = None  # the same moment: on the clock, of packets

    def keep(self, packet: av.Packet[Any]) -> bool:
        """Wait until the packet is due; whether it is not closed meanwhile."""
        ticks = packet.pts if packet.dts is None else packet.dts
        if ticks is None:
            return not self._closed.is_set()
        here, now = float(ticks * packet.time_base), self._clock()
        clock, begin = self._start or (now, here)
        wait = clock + (here - begin) / self._speed - now
        if self._start is None or not -self._late <= wait <= self._longest:
            self._start, wait = (now, here), 0.0
        return not self._closed.wait(max(0.0, wait))


def play(
    source: FileSource, audio: Stream | None, *, loop: bool, closed: threading.Event
) -> Iterator[av.Packet[Any]]:
    """The packets of the file's video and one sound, each when it is due.

    loop: begin anew at the end, with times that go on. All packets belong to the streams of
    `source`, which stays open. Ends, within the same moment, when `closed` is set.
    """
    pace = Pace(closed)
    shift = Fraction(0)  # s
    turn = source
    while True:
        ends = Ends()
        try:
            for packet in _by_time(_mended(source, turn, audio), 1 if audio is None else 2):
                ends.add(packet)
                _move(packet, shift)
                if not pace.keep(packet):
                    return
                yield packet
        finally:
            if turn is not source:
                turn.close()
        if not loop or not ends.length:
            return
        shift += ends.length
        turn = FileSource(source.path)


def _mended(source: FileSource, turn: FileSource, audio: Stream | None) -> Iterator[av.Packet[Any]]:
    """The packets of this turn that are wanted, with all their times, as those of `source`."""
    streams: list[Stream] = [source.video] if audio is None else [source.video, audio]
    times = {stream.index: Times(str(source.path), stream) for stream in streams}
    homes = {stream.index: stream for stream in streams}
    for packet in turn.packets():
        home = homes.get(packet.stream.index)
        if home is not None:
            packet.stream = home
            yield from times[home.index].mend(packet)
    for last in times.values():
        yield from last.mend(None)


def _by_time(packets: Iterator[av.Packet[Any]], streams: int) -> Iterator[av.Packet[Any]]:
    """The packets of so many streams in the order of their dts: files may have one far ahead."""
    waiting: list[tuple[Fraction, int, av.Packet[Any]]] = []  # a heap
    number: Counter[int] = Counter()  # of those waiting, by stream
    newest = Fraction(0)
    for count, packet in enumerate(packets):
        time = (packet.dts or 0) * packet.time_base
        newest = max(newest, time) if waiting else time
        heapq.heappush(waiting, (time, count, packet))
        number[packet.stream.index] += 1
        while waiting and (len(+number) == streams or newest - waiting[0][0] > APART):
            packet = heapq.heappop(waiting)[2]
            number[packet.stream.index] -= 1
            yield packet
    while waiting:
        yield heapq.heappop(waiting)[2]


class Ends:
    """From when to when the packets of one turn last, in s."""

    def __init__(self) -> None:
        self._begin: Fraction | None = None
        self._end = Fraction(0)

    def add(self, packet: av.Packet[Any]) -> None:
        if packet.pts is None:
            return
        begin = packet.pts * packet.time_base
        end = begin + (packet.duration or 0) * packet.time_base
        self._end = end if self._begin is None else max(self._end, end)
        self._begin = begin if self._begin is None else min(self._begin, begin)

    @property
    def length(self) -> Fraction:
        return self._end - self._begin if self._begin is not None else Fraction(0)


def _move(packet: av.Packet[Any], shift: Fraction) -> None:
    ticks = round(shift / packet.time_base)
    if packet.pts is not None:
        packet.pts += ticks
    if packet.dts is not None:
        packet.dts += ticks
