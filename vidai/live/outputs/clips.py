"""Clips of what rules match: from some seconds before until some seconds after.

The last seconds are kept in memory, so that a clip can begin before its reason. It appears under
its name, with a picture beside it, when it is finished.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import av
from av.container import InputContainer
from pydantic import Field

from vidai.errors import SinkError
from vidai.live import output
from vidai.live.events import Event
from vidai.live.muxing import MUX_ERRORS, DiskFile, Muxer, sound_of, takes_sound
from vidai.live.output import CLOCK, Media, Output, OutputStatus, Place, Sample, iso
from vidai.live.shelf import Part, Shelf
from vidai.live.tally import Tally
from vidai.tags import reason

LAG = round(3 / CLOCK)  # ticks by which a match may be told after its picture came
STALL = 10.0  # s without packets after which a clip ends with what it has
PICTURE = (480, 480)  # px that the picture of a clip has at most


class Options(output.Options):
    """What may be written about clips."""

    rules: list[str] | None = Field(None, description="names of rules; none: all")
    before: float = Field(5.0, ge=0, le=60, description="s before the match, at least")
    after: float = Field(10.0, ge=0, le=600, description="s after the last match")
    longest: float = Field(
        120.0, ge=1, le=3600, description="s up to which further matches prolong a clip"
    )
    of: Literal["annotated", "camera"] = Field(
        "annotated", description="drawn and encoded, or as received"
    )
    path: Path | None = Field(
        None, description="folder, in which each stream has its own; none: the worker's state"
    )
    keep_days: float | None = Field(None, gt=0, description="older clips go; none: all stay")
    keep_gb: float | None = Field(
        None, gt=0, description="10⁹ bytes of the stream's clips; beyond, the oldest go"
    )
    memory_mb: float = Field(
        64.0, ge=1, le=4096, description="10⁶ bytes in which the seconds before are kept"
    )


def open(options: Options, place: Place) -> Clips:  # noqa: A001
    """Raises ConfigError where its folder cannot be written."""
    return Clips(options, place)


@dataclass
class _Held:
    """A packet in memory. in_clip: it goes into the clip that is being written."""

    sample: Sample
    in_clip: bool = False


class _Memory:
    """The last packets, in groups that begin with a keyframe."""

    def __init__(self, seconds: float, most_bytes: float) -> None:
        self._ticks, self._most = round(seconds / CLOCK), most_bytes
        self._groups: deque[list[_Held]] = deque()
        self.size = 0  # bytes
        self.short = False  # whether it has less than the seconds, for want of bytes

    def add(self, held: _Held) -> list[_Held]:
        """What is forgotten for it. The first is a keyframe."""
        if held.sample.kind == "video" and held.sample.is_keyframe:
            self._groups.append([])
        self._groups[-1].append(held)
        self.size += held.sample.packet.size
        gone: list[_Held] = []
        while len(self._groups) > 1 and self._begin(1) <= held.sample.pts - self._ticks:
            self.short = False
            gone += self._forget()
        while self.size > self._most and self._groups:
            self.short = True
            gone += self._forget()
        return gone

    def _begin(self, number: int) -> int:
        return self._groups[number][0].sample.pts

    def _forget(self) -> list[_Held]:
        group = self._groups.popleft()
        self.size -= sum(held.sample.packet.size for held in group)
        return group

    def clear(self) -> list[_Held]:
        gone = [held for group in self._groups for held in group]
        self._groups.clear()
        self.size = 0
        return gone

    def __bool__(self) -> bool:
        return bool(self._groups)

    def since(self, pts: int) -> list[_Held]:
        """From the last keyframe at or before pts, else from the first, with the sound of that
        time that came ahead of it."""
        number = len(self._groups) - 1
        while number > 0 and self._begin(number) > pts:
            number -= 1
        groups = list(self._groups)
        begin = groups[number][0].sample.dts
        ahead = [
            held
            for held in (groups[number - 1] if number else ())
            if held.sample.kind == "audio" and held.sample.dts >= begin
        ]
        return ahead + [held for group in groups[number:] for held in group]

    def keyframe(self, pts: int) -> Sample:
        """The last at or before pts, else the first."""
        return next(held.sample for held in self.since(pts) if held.sample.kind == "video")

    def __iter__(self) -> Iterator[_Held]:
        return (held for group in self._groups for held in group)


@dataclass
class _Clip:
    """A clip that is being written.

    until, limit: ticks at which it ends, and beyond which nothing prolongs it. match: ticks of the
    first match. picture: the last keyframe before that. forgotten: its packets that are in no
    memory any more.
    """

    part: Part
    file: DiskFile
    muxer: Muxer
    begin: int
    until: int
    limit: int
    match: int
    picture: Sample
    rules: list[str] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    end: int = 0
    forgotten: int = 0


class Clips(Output):
    """A packet counts as delivered when its clip is written, or when it leaves the memory and no
    rule asked for it."""

    def __init__(self, options: Options, place: Place) -> None:
        folder = place.folder if options.path is None else options.path / place.stream
        self.pictures = options.of
        self._emit = place.emit
        self._rules = options.rules
        self._before = round(options.before / CLOCK)
        self._after = round(options.after / CLOCK)
        self._longest = round(options.longest / CLOCK)
        mark = ".clip" if options.of == "annotated" else ".camera-clip"
        self._shelf = Shelf(
            folder,
            mark,
            hidden=True,
            companion=".jpg",
            keep_days=options.keep_days,
            keep_gb=options.keep_gb,
        )
        for part in self._shelf.leftovers():  # of a crash: not one of them can be played
            _discard(part)
        self._tally = Tally("clips", str(folder))
        self._memory = _Memory(options.before + float(LAG * CLOCK), options.memory_mb * 1e6)
        self._media: Media | None = None
        self._sound = False
        self._clip: _Clip | None = None
        self._asked: list[tuple[int, Event]] = []  # ticks of matches that wait for a picture

    def begin(self, media: Media) -> None:
        self.end()
        self._sound = takes_sound(media, "mp4", "clips")
        self._media = media
        if media.has_audio and not self._sound:
            self._emit("output", f"clips have no sound: MP4 cannot hold {sound_of(media)}")

    def sample(self, sample: Sample) -> None:
        self._tally.accept()
        keyframe = sample.kind == "video" and sample.is_keyframe
        if self._media is None or not (self._memory or keyframe):
            self._tally.lose("no keyframe yet")
            return
        if sample.kind == "audio" and not self._sound:
            self._tally.lose("MP4 cannot hold the sound")
            return
        clip = self._clip
        try:
            if clip is not None and sample.kind == "video" and sample.dts >= clip.until:
                self._finish(clip)
        finally:
            held = _Held(sample)
            self._forget(self._memory.add(held))
            self._tally.waiting_bytes = self._memory.size
        if self._clip is not None:
            self._write(self._clip, [held])
        if keyframe and self._asked:
            self._serve()

    def _forget(self, gone: list[_Held]) -> None:
        for held in gone:
            if held.in_clip and self._clip is not None:
                self._clip.forgotten += 1
            else:
                self._tally.deliver()
        if gone:
            short = "the memory is too small for all seconds before a match: raise memory_mb"
            self._tally.state = short if self._memory.short else "ok"

    def event(self, event: Event) -> None:
        rule = event.data.get("rule")
        if event.kind != "rule" or not (self._rules is None or rule in self._rules):
            return
        time = float(event.data.get("record_time", event.time))
        self._asked.append((round(time / CLOCK), event))
        self._serve()

    def _serve(self) -> None:
        """Begin or prolong the clip for each match that was told, as far as there are pictures."""
        while self._asked and (self._clip is not None or self._memory):
            time, event = self._asked.pop(0)
            if self._clip is not None and time > self._clip.limit:
                self._finish(self._clip)
            clip = self._clip or self._start(time)
            clip.until = min(max(clip.until, time + self._after), clip.limit)
            clip.events.append(event.number)
            rule = str(event.data.get("rule"))
            if rule not in clip.rules:
                clip.rules.append(rule)

    def _start(self, match: int) -> _Clip:
        assert self._media is not None
        held = self._memory.since(match - self._before)
        first = self._memory.keyframe(match - self._before)
        try:
            part = self._shelf.begin(float(first.pts * CLOCK), ".mp4")
        except OSError as error:
            raise self._refused(error) from error
        file = DiskFile(part.descriptor)
        try:
            muxer = Muxer(
                self._media,
                file,
                "mp4",
                {"movflags": "faststart"},  # a browser begins before it has all
                origin=first.dts,
                audio=self._sound,
                open_other=lambda *_: _Reader(part.descriptor),
            )
        except MUX_ERRORS as error:
            _discard(part)
            raise self._refused(error) from error
        limit = first.pts + self._longest
        picture = self._memory.keyframe(match)
        self._clip = _Clip(part, file, muxer, first.pts, first.pts, limit, match, picture)
        self._write(self._clip, held)
        return self._clip

    def _write(self, clip: _Clip, held: list[_Held]) -> None:
        for one in held:
            sample = one.sample
            if sample.dts < clip.muxer.origin:
                continue  # sound from before the picture
            with suppress(*MUX_ERRORS):  # a broken packet
                clip.muxer.add(sample)
                one.in_clip = True
            if sample.kind == "video":
                clip.end = max(clip.end, sample.pts + _duration(sample))
                if sample.is_keyframe and sample.pts <= clip.match:
                    clip.picture = sample
        if clip.file.failed is not None:
            self._give_up(clip, clip.file.failed)

    def _finish(self, clip: _Clip) -> None:
        """Write its end, give it its name, and tell it."""
        with suppress(*MUX_ERRORS):  # what fails in the file's hands is in `failed`
            clip.muxer.close()
        if clip.file.failed is not None:
            self._give_up(clip, clip.file.failed)
        try:
            os.fdatasync(clip.part.descriptor)
            path = self._shelf.finish(clip.part)
        except OSError as error:
            self._give_up(clip, error)
        self._release(clip)
        os.close(clip.part.descriptor)
        self._tally.deliver(clip.forgotten)
        picture = self._picture(clip, path.with_suffix(".jpg"))
        seconds = round(float((clip.end - clip.begin) * CLOCK), 3)
        rules = ", ".join(clip.rules)
        self._emit(
            "clip",
            f"{rules}: a clip of {seconds:.1f} s from {iso(float(clip.begin * CLOCK))}",
            path=str(path),
            picture=picture,
            rule=clip.rules[0],
            rules=clip.rules,
            events=clip.events,
            seconds=seconds,
        )
        self._shelf.tidy(float(clip.end * CLOCK))

    def _give_up(self, clip: _Clip, error: OSError) -> None:
        """Raises SinkError."""
        self._release(clip)
        with suppress(*MUX_ERRORS):
            clip.muxer.close()
        _discard(clip.part)
        self._tally.lose(reason(error).lower(), clip.forgotten)
        self._shelf.give_way(error)
        raise self._refused(error) from error

    def _refused(self, error: Exception) -> SinkError:
        return SinkError(f"cannot write a clip in {self._shelf.folder}: {reason(error).lower()}")

    def _release(self, clip: _Clip) -> None:
        self._clip = None
        for held in self._memory:
            held.in_clip = False

    def _picture(self, clip: _Clip, path: Path) -> str | None:
        """Its name, None where it cannot be made: the clip is there without."""
        assert self._media is not None
        try:
            data = jpeg_of(self._media, clip.picture)
            hidden = path.with_name(f".{path.name}.part")
            hidden.write_bytes(data)
            hidden.replace(path)
        except MUX_ERRORS:
            return None
        return str(path)

    def end(self) -> None:
        try:
            if self._clip is not None:
                self._finish(self._clip)
        finally:
            self._forget(self._memory.clear())
            self._tally.waiting_bytes = 0
            self._media = None

    def tick(self, now: float) -> None:
        self._shelf.tidy(now)
        clip = self._clip
        if clip is not None and now > float(clip.until * CLOCK) + STALL:
            self._finish(clip)
        late = [a for a in self._asked if now > float((a[0] + self._after) * CLOCK) + STALL]
        if late:
            self._asked = [asked for asked in self._asked if asked not in late]
            rule, time = late[0][1].data.get("rule"), iso(float(late[0][0] * CLOCK))
            raise SinkError(f"{rule} matched at {time}, but no picture came for a clip")

    def close(self) -> None:
        self.end()

    def status(self) -> OutputStatus:
        return self._tally.status()


class _Reader:
    """Reads what was written, for a muxer that moves it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0

    def read(self, size: int) -> bytes:
        data = os.pread(self._descriptor, size, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        return self._at


def _discard(part: Part) -> None:
    with suppress(OSError):
        part.path.unlink()
    os.close(part.descriptor)


def _duration(sample: Sample) -> int:
    """Ticks, 0 where unknown."""
    base = sample.packet.time_base
    return round((sample.packet.duration or 0) * base / CLOCK) if base else 0


def jpeg_of(media: Media, keyframe: Sample) -> bytes:
    """The picture of a keyframe, upright, PICTURE at most. Raises MUX_ERRORS."""
    file = io.BytesIO()
    muxer = Muxer(media, file, "mov", {}, origin=keyframe.dts, audio=False)
    muxer.add(keyframe)
    muxer.close()
    file.seek(0)
    with av.open(file) as container:
        frame = next(cast(InputContainer, container).decode(video=0), None)
    if frame is None:
        raise ValueError("the keyframe does not decode")
    image = cast(Any, frame).to_image()
    if media.info.rotation:
        image = image.rotate(-media.info.rotation, expand=True)
    image.thumbnail(PICTURE)
    told = io.BytesIO()
    image.save(told, "JPEG", quality=80)
    return told.getvalue()
