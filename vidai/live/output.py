"""What a stream tells its outputs, and what an output must do.

An output is the module `vidai.live.outputs.<kind>`, found by its name in cameras.yaml: it has
`Options`, what may be written there, and `open(options, place)`, which gives the Output.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from pydantic import BaseModel, ConfigDict

from vidai.live.events import Event
from vidai.types import Detections, StreamInfo

if TYPE_CHECKING:
    from av.stream import Stream

CLOCK = Fraction(1, 90_000)  # s a tick of all times of packets here, which count from 1970


class Options(BaseModel):
    """What may be written about one thing in cameras.yaml; anything else is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Record:
    """What was found in one analysed frame.

    time: s since 1970, when the frame was taken, as far as the camera's clock can be believed.
    frame: its number since the stream was added, over all connections. width, height: display px.
    """

    stream: str
    time: float
    frame: int
    width: int
    height: int
    detections: Detections

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; time as ISO 8601 in UTC, to the millisecond."""
        return {
            "stream": self.stream,
            "time": iso(self.time),
            "frame": self.frame,
            "width": self.width,
            "height": self.height,
            "detections": self.detections.to_dicts(),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))


def iso(time: float) -> str:
    """s since 1970 as 2026-01-31T12:00:00.000Z."""
    told = datetime.fromtimestamp(time, timezone.utc).isoformat(timespec="milliseconds")
    return told.replace("+00:00", "Z")


@dataclass(frozen=True)
class Sample:
    """A compressed packet on the worker's clock.

    packet: shared with other outputs, so leave it as it is and mux a `copy`. pts, dts: ticks of
    CLOCK since 1970; dts of one kind rise strictly, also over reconnects.
    """

    packet: av.Packet[Any]
    kind: Literal["video", "audio"]
    pts: int
    dts: int

    @property
    def is_keyframe(self) -> bool:
        return self.packet.is_keyframe

    def copy(self, stream: Stream, origin: int) -> av.Packet[Any]:
        """The packet for a stream of a container whose time 0 is `origin` (ticks of CLOCK)."""
        copy: av.Packet[Any] = av.Packet(cast(Any, self.packet))  # refers to the bytes
        copy.pts, copy.dts, copy.time_base = self.pts - origin, self.dts - origin, CLOCK
        base = self.packet.time_base
        copy.duration = round((self.packet.duration or 0) * base / CLOCK) if base else 0
        copy.is_keyframe, copy.is_corrupt = self.packet.is_keyframe, self.packet.is_corrupt
        copy.stream = stream
        return copy


class Media:
    """The streams that the samples to come belong to, until the next Media.

    info: the video as it is in these packets. has_audio: whether there is sound.
    """

    def __init__(
        self, info: StreamInfo, video: VideoStream, audio: AudioStream | None = None
    ) -> None:
        self.info = info
        # Copies of what the streams say of themselves: outputs read them in threads of their
        # own, while the container that the streams are from is in use or gone.
        self._home = av.open(io.BytesIO(), "w", format="nut")  # holds every codec
        self._video = self._home.add_stream_from_template(video, opaque=True)
        self._audio: AudioStream | None = None
        with suppress(ValueError):  # sound that no container holds, as G.726
            self._audio = audio and self._home.add_stream_from_template(audio, opaque=True)

    @property
    def has_audio(self) -> bool:
        return self._audio is not None

    @property
    def audio(self) -> AudioStream | None:
        """A template of the sound for another Media, whose pictures are others."""
        return self._audio

    def add_to(
        self, container: OutputContainer, *, audio: bool = True
    ) -> dict[Literal["video", "audio"], Stream]:
        """The streams, added to a container, by the kind of the samples that go there.

        Raises ValueError (PyAV's) where the container cannot hold them.
        """
        streams: dict[Literal["video", "audio"], Stream] = {
            "video": container.add_stream_from_template(self._video, opaque=True)
        }
        if audio and self._audio is not None:
            streams["audio"] = container.add_stream_from_template(self._audio, opaque=True)
        for stream in streams.values():
            stream.time_base = CLOCK
        return streams


@dataclass
class OutputStatus:
    """What became of what an output was given: accepted = delivered + waiting + lost, always.

    Counts are of records, or of packets where the output takes packets. waiting_bytes: on disk
    or in memory. state: "ok", "idle", or what is wrong, without passwords. detail: where it goes,
    without passwords.
    """

    kind: str
    detail: str = ""
    state: str = "ok"
    accepted: int = 0
    delivered: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    lost: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Place:
    """Where an output works: made by the worker for each output.

    stream: its name. folder: the output's own, which exists: what must outlive a restart (a
    spool, recordings without a path) is kept in it. emit: tells an event:
    emit(kind, text, **data).
    """

    stream: str
    folder: Path
    emit: Callable[..., Event]


class Output:
    """Takes what its `open` asked for. All is called in one thread of its own, so it may wait for
    a disk or a network, but what it waits for must end in some seconds. What it raises as
    SinkError is told as an event, and the output goes on with the next call.

    pictures: which packets it takes, "camera" as they came, or "annotated": drawn and encoded.
    """

    pictures: Literal["camera", "annotated"] | None = None

    @property
    def wanted(self) -> bool:
        """Whether packets are of use now: annotated ones are made only if somebody wants them.
        May be asked in any thread."""
        return self.pictures is not None

    def begin(self, media: Media) -> None:
        """Samples of these streams follow; the first of the video is a keyframe. Comes again,
        with `end` before it, whenever the streams change."""

    def sample(self, sample: Sample) -> None:
        """One packet. After an overflow the video goes on with a keyframe."""

    def end(self) -> None:
        """The streams have ended; others may begin later."""

    def record(self, record: Record) -> None:
        """What was found in one frame."""

    def event(self, event: Event) -> None:
        """Something happened on this stream."""

    def tick(self, now: float) -> None:
        """Comes about once a second. now: s since 1970."""

    def close(self) -> None:
        """Finish every file, within some seconds. Comes once; nothing comes after it."""

    def status(self) -> OutputStatus:
        """May be asked in any thread."""
        raise NotImplementedError
