"""Video files: packets out of any container that FFmpeg reads."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidai.errors import ConfigError, DecodeError
from vidai.sources.description import describe
from vidai.tags import codec_of, reason
from vidai.types import Frame

if TYPE_CHECKING:
    from av.container.core import Chapter

# A container stores its streams interleaved, but not to the packet: for how many seconds
# after the end of a cut the other streams may still bring something from before it.
INTERLEAVE = 1
# Containers whose header states the duration, and by how much, in s, it may be off.
STATE_DURATION = ("matroska,webm", "avi", "flv")
TOLERANCE = Fraction(1, 2)
PROBED_PACKETS = 300  # packets to try for the first picture, which tells the display matrix
# s before the time wanted, until a keyframe lies early enough.
SEEK_BACK = (0, 0.5, 1, 2, 5, 10, 30)
# s by which other streams may come ahead of the video in the file, when it is cut.
LEAD = 10


class FileSource:
    """A video file, or the part of it from `start` to `end`.

    start, end: seconds from the beginning of the file, which is the time at which its
    container says that it starts: in a file that begins at pts 1.4 s, start=2 means pts
    3.4 s. Frames keep the pts of the file. `packets` begins at the keyframe before start,
    and `keeps` tells which frames and packets belong to the part.

    info: the video stream; name is the file's name, start its beginning in s.
    video: PyAV's stream of the video, for a decoder. others: the streams that can be passed
    through (audio, subtitles, data, attachments). metadata, chapters: the container's.
    begin, until: start and end as pts in s, None where not given.
    entry: pts in s of the keyframe that `packets` begins with, None where it is the top.
    damaged: how often reading failed; damage: what happened first, None while all is well.

    Raises ConfigError for a path or range that cannot work, DecodeError for a file without
    a video that can be decoded.
    """

    def __init__(
        self, path: str | Path, *, start: float | None = None, end: float | None = None
    ) -> None:
        self.path = Path(path)
        self.start = start
        self.end = end
        self.damaged = 0
        self.damage: str | None = None
        _check_path(self.path)
        _check_range(start, end)
        with _open(self.path) as probe:
            video = _choose_video(probe, self.path)
            first = _first_frame(probe, video)
            origin = _origin(probe, first)
            duration = probe.duration
            self.info = describe(
                str(self.path),
                self.path.name,
                video,
                first,
                start=float(origin),
                duration=duration / av.time_base if duration and duration > 0 else None,
            )
            self.begin = None if start is None else origin + _exact(start)
            self.until = None if end is None else origin + _exact(end)
            if start and self.info.duration and start >= self.info.duration:
                raise ConfigError(
                    f"{self.path} is {self.info.duration:g} s long: "
                    f"nothing is left from {start:g} s on, choose an earlier start"
                )
            keyframe = _keyframe(probe, video, self.begin) if self.begin else None
        self.container = _open(self.path)
        self.video = _choose_video(self.container, self.path)
        self.metadata = dict(self.container.metadata)
        self.chapters: list[Chapter] = self.container.chapters()
        self.others = [s for s in self.container.streams if _passable(s, bool(self.chapters))]
        self._first_pts: int | None = None  # of the keyframe to begin with
        self.entry: Fraction | None = None
        if keyframe is not None:
            position, self._first_pts = keyframe
            self.entry = self._first_pts * self.info.time_base
            self._seek(max(position - LEAD * av.time_base, 0) if self.others else position)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()

    @property
    def unused(self) -> list[str]:
        """Other videos of the file and cover art, in words: they go nowhere."""
        return [
            f"video stream {stream.index} ({codec_of(stream)})"
            for stream in self.container.streams.video
            if stream.index != self.video.index
        ]

    def _seek(self, position: int) -> None:
        """To the position in µs, or where the container refuses that, to the top."""
        try:
            self.container.seek(position)
        except (av.FFmpegError, ValueError):
            self.container.close()
            container = _open(self.path)
            by_index = {stream.index: stream for stream in container.streams}
            self.others = [by_index[stream.index] for stream in self.others]
            self.container, self.video = container, _choose_video(container, self.path)

    def keeps(self, pts: int, time_base: Fraction) -> bool:
        """Whether this time lies in the part of the file that was asked for."""
        if self.begin is None and self.until is None:
            return True
        time = pts * time_base
        return (self.begin is None or time >= self.begin) and (
            self.until is None or time < self.until
        )

    def ends_before(self, frame: Frame) -> bool:
        """Whether the part is over when this frame, in display order, has come."""
        return self.until is not None and frame.pts * frame.info.time_base >= self.until

    def packets(self) -> Iterator[av.Packet[Any]]:
        """Packets of the video and the other streams, in the order of the file, once.

        Damage that ends the file early ends the iteration and is told in `damage`. Flush
        the decoder with None afterwards.
        """
        streams = [self.video, *(s for s in self.others if s.type != "attachment")]
        indexed = _packets_in_index(self.container, self.video)
        seen = 0
        reached: dict[Stream, int] = {}  # ticks
        try:
            for packet in self.container.demux(streams):
                if packet.size == 0:
                    continue  # PyAV's flush packets
                is_video = packet.stream is self.video
                if is_video and self._first_pts is not None:
                    if packet.pts != self._first_pts:
                        continue  # read for the other streams' sake only
                    self._first_pts = None
                seen += is_video
                reached[packet.stream] = max(reached.get(packet.stream, 0), _end_of(packet))
                if self._is_past(packet, INTERLEAVE if is_video else None):
                    return
                if not (is_video and self._is_past(packet, 0)):
                    yield packet
        except IndexError:
            pass  # PyAV at the end of a file in which streams turned up midway
        except (av.FFmpegError, ValueError) as error:
            self._note(f"reading stopped early: {reason(error)}")
        else:
            ends = (ticks * (stream.time_base or 0) for stream, ticks in reached.items())
            missing = _promised_end(self.container) - max(ends, default=Fraction(0))
            if self.begin is None and seen < indexed:
                self._note(f"it ends early: {seen} of {indexed} video packets are there")
            elif missing > TOLERANCE:
                self._note(f"it ends {float(missing):.1f} s before its header says")

    def _is_past(self, packet: av.Packet[Any], margin: int | None) -> bool:
        """Whether nothing before `until` can follow: pts are never smaller than dts."""
        if self.until is None or packet.dts is None or margin is None:
            return False
        return packet.dts * packet.time_base >= self.until + margin

    def _note(self, what: str) -> None:
        self.damaged += 1
        self.damage = self.damage or what


def _check_path(path: Path) -> None:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}: check the name") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {reason(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{path} is a folder: name a video file in it")
    if not stat.S_ISREG(status.st_mode):  # it cannot be opened twice and sought in
        raise ConfigError(f"{path} is not a regular file: copy the video into a file first")
    if not status.st_size:
        raise DecodeError(f"{path} is empty: there is no video in it")


def _check_range(start: float | None, end: float | None) -> None:
    for name, value in (("start", start), ("end", end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} is {value} s: give seconds from 0 up")
    if end is not None and end <= (start or 0):
        raise ConfigError(f"end ({end:g} s) must come after start ({start or 0:g} s)")


def _exact(seconds: float) -> Fraction:
    """The decimal that was meant: 0.1 is 1/10."""
    return Fraction(str(seconds))


def _open(path: Path) -> InputContainer:
    # "file:" keeps FFmpeg from reading "name:rest" as the address of some protocol.
    try:
        container = av.open(f"file:{os.path.abspath(path)}", "r", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(
            f"{path} is no video file that can be read, or it is damaged: {reason(error)}"
        ) from error
    if container.format.name == "tty":  # FFmpeg draws any text file as a terminal would
        container.close()
        raise DecodeError(f"{path} is a text file, not a video")
    return container


def _choose_video(container: InputContainer, path: Path) -> VideoStream:
    """The default video stream, else the first; pictures attached as cover art do not count."""
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        kinds = sorted({str(s.type) for s in container.streams})
        raise DecodeError(
            f"{path} has no video stream ({', '.join(kinds) or 'no streams at all'} only)"
        )
    decodable = [s for s in videos if s.codec_context is not None]
    if not decodable:
        raise DecodeError(f"{path}: no decoder for its video codec: convert it to H.264 first")
    return max(decodable, key=lambda s: bool(s.disposition & Disposition.default))


def _first_frame(container: InputContainer, video: VideoStream) -> VideoFrame | None:
    """The first picture that decodes, from a bounded search."""
    video.codec_context.thread_type = "NONE"
    video.codec_context.thread_count = 1
    packets = container.demux(video)
    for _ in range(PROBED_PACKETS):
        try:
            packet = next(packets, None)
            frames = [] if packet is None else packet.decode()
        except IndexError:
            return None  # see packets
        except (av.FFmpegError, ValueError):
            continue
        if frames or packet is None:
            return frames[0] if frames else None
    return None


def _origin(container: InputContainer, first: VideoFrame | None) -> Fraction:
    """When the file begins, in s: as its container says, else with its first picture."""
    if container.start_time is not None:
        return Fraction(container.start_time, av.time_base)
    if first is not None and first.pts is not None and first.time_base is not None:
        return first.pts * first.time_base
    return Fraction(0)


def _end_of(packet: av.Packet[Any]) -> int:
    """When the packet's contents have been shown, in ticks."""
    begin = packet.dts if packet.pts is None else packet.pts
    return 0 if begin is None else begin + (packet.duration or 0)


def _promised_end(container: InputContainer) -> Fraction:
    """The end that a header states, in s; 0 where it is FFmpeg's estimate from what is there.

    Some writers count the duration from 0 and some from the first packet: the earlier end is
    the one that is promised for sure.
    """
    if container.format.name not in STATE_DURATION or not container.duration:
        return Fraction(0)
    return Fraction(container.duration, av.time_base)


def _passable(stream: Stream, has_chapters: bool) -> bool:
    """Audio, subtitles, data, attachments; not the data stream in which mp4 keeps chapters."""
    if stream.type == "data":
        return not (has_chapters and stream.name == "bin_data")
    return stream.type in ("audio", "subtitle", "attachment")


def _keyframe(
    container: InputContainer, video: VideoStream, begin: Fraction
) -> tuple[int, int] | None:
    """Where to seek, in µs, to find a keyframe at or before begin, and the keyframe's pts;
    None: read from the top.

    Containers without an index seek to any packet near the time, so look what comes.
    """
    for back in SEEK_BACK:
        position = int((begin - Fraction(back)) * av.time_base)
        try:
            container.seek(position)
            packet = next((p for p in container.demux(video) if p.is_keyframe), None)
        except (av.FFmpegError, ValueError, IndexError):
            return None
        if packet is None or packet.pts is None:
            continue
        if packet.pts * packet.time_base <= begin:
            return position, packet.pts
    return None


def _packets_in_index(container: InputContainer, video: VideoStream) -> int:
    """How many video packets the file promises; 0 when its container does not tell."""
    return len(video.index_entries) if "mp4" in container.format.name else 0
