"""What an output of packets is given, made from clips: as from a camera, on the worker's clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, Literal

import av

from tests.media import make_clip
from vidai.live.events import Event, Events
from vidai.live.output import CLOCK, Media, Output, Place, Sample
from vidai.sources.file import FileSource

NOON = 1_769_860_800  # s since 1970: 2026-01-31T12:00:00Z
SECOND = round(1 / CLOCK)  # ticks
CAMERA = {"g": "25", "keyint_min": "25", "sc_threshold": "0"}  # a keyframe a second, at 25 fps


@dataclass(frozen=True)
class Feed:
    """A Media and its samples, in the order in which they come."""

    media: Media
    samples: list[Sample]

    @property
    def video(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.kind == "video"]

    @property
    def audio(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.kind == "audio"]

    def later(self, seconds: float) -> Feed:
        """The same, that much later."""
        return Feed(self.media, [moved(sample, seconds) for sample in self.samples])


def moved(sample: Sample, seconds: float) -> Sample:
    ticks = round(seconds * SECOND)
    return replace(sample, pts=sample.pts + ticks, dts=sample.dts + ticks)


def feed_of(path: str | Path, begin: float = NOON) -> Feed:
    """The packets of a file's first video and sound, the file's time 0 being `begin`.

    Sound begins with the video, without the encoder's padding, as in a stream from a keyframe on.
    """
    with FileSource(path) as source:
        info = source.info
    origin = round(begin * SECOND)
    with av.open(str(path)) as container:
        video, audios = container.streams.video[0], container.streams.audio
        audio = audios[0] if audios else None
        media = Media(info, video, audio)
        kinds: dict[int, Literal["video", "audio"]] = {video.index: "video"}
        if audio is not None:
            kinds[audio.index] = "audio"
        samples = []
        for packet in container.demux():
            if packet.size and packet.stream_index in kinds and packet.dts is not None:
                samples.append(_sample(packet, kinds[packet.stream_index], origin))
    samples.sort(key=lambda sample: (sample.dts, sample.kind != "video"))
    first = next(sample.dts for sample in samples if sample.kind == "video")
    return Feed(media, [sample for sample in samples if sample.dts >= first])


def _sample(packet: av.Packet[Any], kind: Literal["video", "audio"], origin: int) -> Sample:
    base = packet.time_base
    assert packet.pts is not None
    assert packet.dts is not None
    return Sample(
        packet,
        kind,
        round(packet.pts * base / CLOCK) + origin,
        round(packet.dts * base / CLOCK) + origin,
    )


def camera_clip(path: Path, seconds: float = 4, **more: Any) -> Path:
    """A clip as from a camera: 25 fps, a keyframe a second, no B-frames unless asked for."""
    options = {**CAMERA, "bf": "0", **more.pop("options", {})}
    return make_clip(path, frames=round(seconds * 25), options=options, **more)


def place_in(folder: Path, stream: str = "door") -> tuple[Place, Events]:
    folder.mkdir(parents=True, exist_ok=True)
    events = Events()

    def emit(kind: str, text: str, **data: Any) -> Event:
        return events.emit(kind, text, stream, **data)

    return Place(stream, folder, emit), events


def give(output: Output, feed: Feed) -> None:
    """begin, and all samples."""
    output.begin(feed.media)
    give_samples(output, feed.samples)


def give_samples(output: Output, samples: Iterable[Sample]) -> None:
    for sample in samples:
        output.sample(sample)
        assert_balanced(output)


def assert_balanced(output: Output) -> None:
    status = output.status()
    assert status.waiting >= 0
    assert status.accepted == status.delivered + status.waiting + status.lost.total()


def times_in(path: str | Path, kind: str = "video") -> list[Fraction]:
    """pts in s of the packets of a kind that a file holds, ascending."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return sorted(
            packet.pts * packet.time_base
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None and packet.time_base is not None
        )


def payloads_in(path: str | Path, kind: str = "video") -> list[bytes]:
    """The bytes of each packet of a kind, in the order of the file."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def frames_in(path: str | Path) -> int:
    """How many pictures of it decode."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def random_life(output: Output, feed: Feed, seed: int) -> None:
    """Call the output in any order that the contract allows, and close it; packets go missing, the
    streams end and begin, time passes. After every call the counts are balanced."""
    random = Random(seed)
    given, time, begun = 0, 0.0, False
    for _ in range(random.randint(1, 12)):
        what = random.choice(("begin", "samples", "samples", "samples", "end", "tick", "pause"))
        if what == "begin":
            if begun:
                output.end()
            output.begin(feed.media)
            begun = True
        elif what == "samples" and begun:
            start = random.randrange(len(feed.samples))
            stop = random.randint(start, len(feed.samples))
            part = [moved(s, time) for s in feed.samples[start:stop] if random.random() > 0.05]
            give_samples(output, part)
            given += len(part)
            time += 10
        elif what == "end":
            output.end()
            begun = False
        elif what == "tick":
            output.tick(NOON + time)
        else:
            time += random.choice((1.0, 100.0, 90_000.0))
        assert_balanced(output)
    output.close()
    status = output.status()
    assert status.accepted == given
    assert status.waiting == 0
    assert_balanced(output)
