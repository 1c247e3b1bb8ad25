"""Live video for the worker's pages, by HLS (RFC 8216) with fragmented MP4, in memory only."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from vidai.errors import SinkError
from vidai.live import output
from vidai.live.boxes import boxes, codecs_of, runs_of
from vidai.live.muxing import MUX_ERRORS, Muxer, sound_of, takes_sound
from vidai.live.output import CLOCK, Media, Output, OutputStatus, Place, Sample, iso
from vidai.live.tally import Tally
from vidai.tags import reason

MASTER, LIVE = "index.m3u8", "live.m3u8"
WATCHED = 30.0  # s for which somebody who asked counts as watching
STALE = 30.0  # s after which what was shown is no live video any more
GAP = 10.0  # s without pictures, after which the video counts as begun anew
LONGEST = 10_000_000  # µs of a segment, where keyframes are further apart
EARLY = 0.9  # of a segment's length, from which on a keyframe ends it: frame rates are not exact
LEAD = round(10 / CLOCK)  # ticks of time 0 before the first packet: sound may come from before
VIDEO = 1  # the number of its track


class Options(output.Options):
    """What may be written about live video."""

    of: Literal["annotated", "camera"] = Field(
        "annotated", description="drawn and encoded, or as received"
    )
    segment: float = Field(1.0, ge=0.2, le=10, description="s a segment, cut at keyframes")
    segments: int = Field(6, ge=3, le=60, description="segments in the playlist")
    memory_mb: float = Field(64.0, ge=1, le=4096, description="10⁶ bytes that are kept at most")
    always: bool = Field(False, description="go on when nobody watches")


def open(options: Options, place: Place) -> Hls:  # noqa: A001
    return Hls(options, place)


@dataclass(frozen=True)
class _Segment:
    """A fragment. time: s since 1970 at which its first picture was taken. start: of which init
    segment it goes on. broken: whether it does not continue the segment before."""

    name: str
    data: bytes
    time: float
    seconds: float
    start: str
    broken: bool
    independent: bool


class _Pieces:
    """Where a muxer writes: whole boxes can be taken from it."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes, /) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        end = 0
        for _, _, end in boxes(bytes(self._data)):  # noqa: B007
            pass
        taken = bytes(self._data[:end])
        del self._data[:end]
        return taken


class Hls(Output):
    """Serves playlists and parts to any thread.

    All times count from one moment, over all connections, so that a gap in the video is as long
    in the segments. They have 64 bits: the 33 of MPEG-TS do not bind fragmented MP4.
    """

    def __init__(self, options: Options, place: Place) -> None:
        self.pictures = options.of
        self._options = options
        self._emit = place.emit
        self._tally = Tally("hls", f"/live/{place.stream}/{MASTER}", "idle")
        self._lock = threading.Lock()  # of what follows, until the blank line
        self._segments: deque[_Segment] = deque()
        self._first = 0  # the number of the first of them
        self._breaks = 0  # how many breaks were before it
        self._starts: dict[str, bytes] = {}
        self._size = 0  # bytes of all parts
        self._target = 1  # s
        self._codecs = ""
        self._picture = (0, 0)
        self._closed = False

        self._touched = -math.inf
        self._token = f"{time.time_ns() // 1_000_000:x}"  # caches outlive a worker
        self._count = 0  # segments so far
        self._media: Media | None = None
        self._sound = False
        self._origin: int | None = None
        self._muxer: Muxer | None = None
        self._pieces = _Pieces()
        self._start = ""
        self._broken = False
        self._waiting = self._waiting_bytes = 0  # of what is in the muxer
        self._last_dts = 0

    @property
    def wanted(self) -> bool:
        return self._options.always or time.monotonic() - self._touched < WATCHED

    def touch(self) -> None:
        """Somebody is watching."""
        self._touched = time.monotonic()

    @property
    def codecs(self) -> str:
        """As Media Source Extensions want them named, "avc1.64001f,mp4a.40.2"; "" until known."""
        return self._codecs

    def playlist(self) -> str:
        """The master playlist."""
        self.touch()
        with self._lock:
            shown = list(self._segments)
            codecs, (width, height) = self._codecs, self._picture
        rates = [len(s.data) * 8 / s.seconds for s in shown if s.seconds] or [1_000_000]
        told = [f"BANDWIDTH={math.ceil(max(rates))}"]
        told.append(f"AVERAGE-BANDWIDTH={math.ceil(sum(rates) / len(rates))}")
        if codecs:
            told.append(f'CODECS="{codecs}"')
            told.append(f"RESOLUTION={width}x{height}")
        lines = ["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-STREAM-INF:{','.join(told)}", LIVE]
        return "\n".join(lines) + "\n"

    def part(self, name: str) -> bytes | None:
        """The media playlist, as soon as there is a segment, or a part of the video."""
        self.touch()
        if name == MASTER:
            return self.playlist().encode()
        with self._lock:
            if name == LIVE:
                return self._live().encode() if self._segments else None
            for segment in self._segments:
                if segment.name == name:
                    return segment.data
            return self._starts.get(name)

    def _live(self) -> str:
        """The media playlist. The parts before its first stay for who has an older one."""
        shown = list(self._segments)[-self._options.segments :]
        before = list(self._segments)[: -self._options.segments]
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:7",
            f"#EXT-X-TARGETDURATION:{self._target}",
            f"#EXT-X-MEDIA-SEQUENCE:{self._first + len(before)}",
            f"#EXT-X-DISCONTINUITY-SEQUENCE:{self._breaks + sum(s.broken for s in before)}",
        ]
        if all(segment.independent for segment in shown):
            lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
        start = ""
        for segment in shown:
            if segment.broken:
                lines.append("#EXT-X-DISCONTINUITY")
            if segment.start != start:
                start = segment.start
                lines.append(f'#EXT-X-MAP:URI="{start}"')
            lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{iso(segment.time)}")
            lines += [f"#EXTINF:{segment.seconds:.5f},", segment.name]
        if self._closed:
            lines.append("#EXT-X-ENDLIST")
        return "\n".join(lines) + "\n"

    def begin(self, media: Media) -> None:
        self.end()
        self._sound = takes_sound(media, "mp4", "live video")
        if media.info.codec == "mjpeg":
            raise SinkError("browsers do not play MJPEG by HLS: show the annotated pictures")
        self._media = media
        if media.has_audio and not self._sound:
            self._emit("output", f"live video has no sound: MP4 cannot hold {sound_of(media)}")

    def sample(self, sample: Sample) -> None:
        self._tally.accept()
        keyframe = sample.kind == "video" and sample.is_keyframe
        if sample.kind == "audio" and self._media is not None and not self._sound:
            self._tally.lose("MP4 cannot hold the sound")
            return
        if keyframe and self._muxer and sample.dts - self._last_dts > GAP / CLOCK:
            self._finish()
        if keyframe and self._media and self._muxer is None:
            self._open(sample)
        if self._muxer is None:
            self._tally.lose("no keyframe yet")
            return
        try:
            self._muxer.add(sample)
        except MUX_ERRORS:  # the packet is broken
            self._tally.lose("broken packets")
            return
        self._waiting += 1
        self._waiting_bytes += sample.packet.size
        if sample.kind == "video":
            self._last_dts = sample.dts
        self._collect()
        if self._waiting_bytes > self._options.memory_mb * 1e6 / 2:
            self._abort("keyframes too far apart for the memory")

    def _open(self, keyframe: Sample) -> None:
        assert self._media is not None
        if self._origin is None:
            self._origin = keyframe.dts - LEAD
        self._pieces = _Pieces()
        try:
            self._muxer = Muxer(
                self._media,
                self._pieces,
                "mp4",
                {
                    # frag_discont and no edit list: times are as they are given.
                    "movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont",
                    "use_editlist": "0",
                    "avoid_negative_ts": "disabled",
                    "min_frag_duration": str(round(self._options.segment * EARLY * 1e6)),
                    "frag_duration": str(LONGEST),
                },
                origin=self._origin,
                audio=self._sound,
            )
        except MUX_ERRORS as error:
            self._tally.lose("no keyframe yet")
            raise SinkError(
                f"cannot show {self._media.info.codec} live: {reason(error)}"
            ) from error
        start = self._pieces.take()
        moov = next(content for kind, content, _ in boxes(start) if kind == "moov")
        self._start = f"{self._token}-{self._count}.mp4"
        self._broken = self._count > 0
        with self._lock:
            # One of the same name was for a muxer that was aborted before its first segment.
            self._size += len(start) - len(self._starts.get(self._start, b""))
            self._starts[self._start] = start
            self._codecs = codecs_of(moov)
            self._picture = self._media.info.display_size
        self._tally.state = "ok"

    def _collect(self) -> None:
        """What the muxer has ready goes to the playlist."""
        data = self._pieces.take()
        at, moof = 0, memoryview(b"")  # at: where the fragment begins
        for kind, content, end in boxes(data):
            if kind == "moof":
                moof = content
            elif kind == "mdat":
                self._add(data[at:end], moof)
                at = end

    def _add(self, data: bytes, moof: memoryview) -> None:
        assert self._origin is not None
        runs = list(runs_of(moof))
        count = sum(run.samples for run in runs)
        self._waiting -= count
        self._waiting_bytes = max(0, self._waiting_bytes - len(data))
        video = next((run for run in runs if run.track == VIDEO and run.samples), None)
        if video is None:
            self._tally.lose("sound without a picture", count)
            return
        segment = _Segment(
            f"{self._token}-{self._count}.m4s",
            data,
            float((self._origin + video.begin + video.lead) * CLOCK),
            float(video.duration * CLOCK),
            self._start,
            self._broken,
            video.independent,
        )
        self._count += 1
        self._broken = False
        with self._lock:
            self._segments.append(segment)
            self._size += len(data)
            self._target = max(self._target, math.floor(segment.seconds + 0.5))
            kept = 2 * self._options.segments
            while len(self._segments) > kept or self._is_too_much():
                self._drop_first()
            self._tally.waiting_bytes = self._size
        self._tally.deliver(count)

    def _is_too_much(self) -> bool:
        return len(self._segments) > 1 and self._size > self._options.memory_mb * 1e6 / 2

    def _drop_first(self) -> None:
        gone = self._segments.popleft()
        self._first += 1
        self._breaks += gone.broken
        self._size -= len(gone.data)
        used = {segment.start for segment in self._segments} | {self._start}
        for start in [start for start in self._starts if start not in used]:
            self._size -= len(self._starts.pop(start))

    def _finish(self) -> None:
        """What is in the muxer becomes the last segment before a break."""
        muxer, self._muxer = self._muxer, None
        if muxer is None:
            return
        try:
            muxer.close()
            self._collect()
        except MUX_ERRORS:
            pass
        self._tally.lose_the_rest("broken packets")
        self._waiting = self._waiting_bytes = 0

    def _abort(self, why: str) -> None:
        muxer, self._muxer = self._muxer, None
        if muxer is not None:
            muxer.close()
        self._tally.lose_the_rest(why)
        self._waiting = self._waiting_bytes = 0

    def end(self) -> None:
        self._finish()
        self._media = None
        self._tally.state = "idle"

    def tick(self, now: float) -> None:
        with self._lock:
            if not self._segments:
                return
            newest = self._segments[-1]
            if now - newest.time - newest.seconds > STALE:
                while self._segments:
                    self._drop_first()
                self._tally.waiting_bytes = self._size

    def close(self) -> None:
        self.end()
        with self._lock:
            self._closed = True

    def status(self) -> OutputStatus:
        return self._tally.status()
