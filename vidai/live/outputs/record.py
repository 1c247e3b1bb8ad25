"""Recordings, in files of a minute that are named by day and time.

A file is written as fragmented MP4, so that whatever happens it plays up to its last second, and
becomes a usual MP4 when it is finished. Until then it is called 12-00-00Z.part.mp4; what a crash
left so is finished at the next start. Sound that MP4 cannot hold (G.711, as cameras send it) is
kept by writing QuickTime, .mov, which is the same else.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field

from vidai.errors import SinkError
from vidai.live import output
from vidai.live.boxes import samples_between, whole_fragments
from vidai.live.muxing import MUX_ERRORS, DiskFile, Muxer, holds
from vidai.live.output import CLOCK, Media, Output, OutputStatus, Place, Sample
from vidai.live.shelf import Part, Shelf
from vidai.live.tally import Tally
from vidai.tags import reason

# What is tried in this order: the container, and whether sound goes into it.
CHOICES = ((".mp4", True), (".mov", True), (".mp4", False), (".mov", False))
# What is not on the disk yet, and lost in a crash, is a second.
FRAGMENTS = {
    # empty_moov: sound that is announced but never comes holds nothing up. frag_discont: sound
    # and video keep their distance all the same.
    "movflags": "hybrid_fragmented+frag_keyframe+empty_moov+frag_discont",
    "frag_duration": "1000000",
}
LATE_SOUND = round(1 / CLOCK)  # ticks of video for which a file waits for the rest of its sound
RETRY = round(5 / CLOCK)  # ticks until a disk that refused is tried again
HEADROOM = 2  # times the size of a file that shall be free on the disk


class Options(output.Options):
    """What may be written about a recording."""

    of: Literal["camera", "annotated"] = Field(
        "camera", description="as received, with sound, or drawn and encoded"
    )
    path: Path | None = Field(
        None, description="folder, in which each stream has its own; none: the worker's state"
    )
    segment: float = Field(60.0, ge=1, le=3600, description="s a file, cut at keyframes")
    keep_days: float | None = Field(None, gt=0, description="older files go; none: all stay")
    keep_gb: float | None = Field(
        None, gt=0, description="10⁹ bytes of the stream's files; beyond, the oldest go"
    )


def open(options: Options, place: Place) -> Recording:  # noqa: A001
    """Raises ConfigError where its folder cannot be written."""
    return Recording(options, place)


class _Segment:
    """A file that is being written. waiting: packets that are not on the disk yet.
    whole: bytes up to the end of what can be played."""

    def __init__(self, part: Part, media: Media, keyframe: Sample, *, audio: bool) -> None:
        self.part = part
        self.pts = keyframe.pts
        self.file = DiskFile(part.descriptor)
        self.waiting = self.whole = 0
        form = _form(part.path.suffix)
        self.muxer = Muxer(media, self.file, form, FRAGMENTS, origin=keyframe.dts, audio=audio)
        self._counted = self.file.tell()  # bytes whose packets are counted

    def add(self, sample: Sample) -> int:
        """How many packets went to the disk with it, in whole fragments. Raises MUX_ERRORS for a
        packet that the container refuses."""
        self.muxer.add(sample)
        self.waiting += 1
        end = self.file.tell()
        if self.file.failed is not None or end == self._counted:
            return 0
        written = samples_between(self.part.descriptor, self._counted, end)
        self._counted = self.whole = end
        self.waiting -= written
        return written

    def finish(self) -> None:
        """All is on the disk then, or what could not be is cut off."""
        with suppress(*MUX_ERRORS):  # what fails in the file's hands is in `failed`
            self.muxer.close()
        if self.file.failed is not None:
            with suppress(OSError):
                os.ftruncate(self.part.descriptor, self.whole)


class Recording(Output):
    """Writes what it is given to the files of a Shelf."""

    def __init__(self, options: Options, place: Place) -> None:
        folder = place.folder if options.path is None else options.path / place.stream
        self.pictures = options.of
        self._emit = place.emit
        self._length = round(options.segment / CLOCK)
        mark = "" if options.of == "camera" else ".annotated"
        self._shelf = Shelf(folder, mark, keep_days=options.keep_days, keep_gb=options.keep_gb)
        self._tally = Tally("record", str(folder))
        self._media: Media | None = None
        self._extension, self._sound = CHOICES[0]
        self._segment: _Segment | None = None
        self._before: _Segment | None = None  # the file before, for the rest of its sound
        self._size = 0  # bytes of the last file
        self._fault: str | None = None  # why nothing can be written now
        self._retry_at = 0  # ticks
        self._untold: SinkError | None = None
        self._adopt()

    def _adopt(self) -> None:
        """Finish what a crash left."""
        for part in self._shelf.leftovers():
            try:
                whole = whole_fragments(part.descriptor)
                os.ftruncate(part.descriptor, whole)
                self._keep(part, whole)
            except OSError as error:
                text = f"cannot finish the recording {part.path}: {reason(error)}"
                self._emit("output-failed", text)

    def _keep(self, part: Part, whole: int) -> None:
        """Close a file and give it its name, if there is anything in it. OSError."""
        try:
            if whole:
                os.fdatasync(part.descriptor)
                self._shelf.finish(part)
            else:
                part.path.unlink(missing_ok=True)
        finally:
            os.close(part.descriptor)

    def begin(self, media: Media) -> None:
        self.end()
        for extension, audio in CHOICES:
            if holds(media, _form(extension), audio=audio):
                self._media = media
                self._extension, self._sound = extension, audio and media.has_audio
                return
        raise SinkError(f"{media.info.codec} video cannot be recorded: take the annotated one")

    def sample(self, sample: Sample) -> None:
        self._tally.accept()
        if sample.kind == "video" and sample.is_keyframe and self._is_due(sample):
            self._cut(sample)
        segment = self._segment_of(sample)
        if segment is None:
            self._tally.lose(self._fault or "no keyframe yet")
        elif sample.kind == "audio" and not self._sound:
            self._tally.lose("no container holds the sound")
        elif sample.dts < segment.muxer.origin:
            self._tally.lose("sound from before the picture")
        else:
            self._add(segment, sample)
        self._tell()

    def _is_due(self, keyframe: Sample) -> bool:
        if self._media is None:
            return False
        if self._segment is None:
            return self._fault is None or keyframe.dts >= self._retry_at
        return keyframe.pts // self._length != self._segment.pts // self._length

    def _cut(self, keyframe: Sample) -> None:
        """End the file, but for its last sound, and begin another with this keyframe."""
        assert self._media is not None
        if self._before is not None:
            self._finish(self._before)
        self._before, self._segment = self._segment, None
        if self._before is not None and not self._sound:
            self._finish(self._before)
        time = float(keyframe.pts * CLOCK)
        self._shelf.tidy(time, self._size)
        self._shelf.make_room(self._size * HEADROOM)
        try:
            part = self._shelf.begin(time, self._extension)
        except OSError as error:
            self._fail(error)
            self._wait(keyframe, error)
            return
        try:
            self._segment = _Segment(part, self._media, keyframe, audio=self._sound)
        except MUX_ERRORS as error:
            with suppress(OSError):
                self._keep(part, 0)
            self._fail(error)
            self._wait(keyframe, error)

    def _segment_of(self, sample: Sample) -> _Segment | None:
        if self._before is not None and self._segment is not None:
            origin = self._segment.muxer.origin
            if sample.kind == "audio" and sample.dts < origin:
                return self._before
            if sample.kind == "audio" or sample.dts > origin + LATE_SOUND:
                self._finish(self._before)
        return self._segment

    def _add(self, segment: _Segment, sample: Sample) -> None:
        try:
            written = segment.add(sample)
        except MUX_ERRORS:  # the packet is broken, not the file
            self._tally.lose("broken packets")
            return
        if segment.file.failed is None:
            self._tally.deliver(written)
            if written:
                self._recovered()
            return
        self._wait(sample, segment.file.failed)

    def _wait(self, sample: Sample, error: Exception) -> None:
        """After a failure: close all files, as the disk is the same for them. The next keyframe
        tries again if old files could make room, else one after RETRY."""
        for unfinished in (self._before, self._segment):
            if unfinished is not None:
                self._finish(unfinished)
        self._retry_at = sample.dts
        if not self._shelf.give_way(error):
            self._retry_at += RETRY

    def _finish(self, segment: _Segment) -> None:
        if segment is self._before:
            self._before = None
        else:
            self._segment = None
        error: OSError | None = None
        try:
            segment.finish()
            size = os.fstat(segment.part.descriptor).st_size
            if segment.file.failed is None:
                self._size = size
            self._keep(segment.part, size if segment.file.failed is None else segment.whole)
        except OSError as refused:
            error = refused
        error = segment.file.failed or error
        if error is not None:
            self._fail(error)
        if segment.file.failed is None:
            self._tally.deliver(segment.waiting)
        else:
            self._tally.lose(reason(segment.file.failed).lower(), segment.waiting)

    def _fail(self, error: Exception) -> None:
        """Tell it, once until something can be written again."""
        first, self._fault = self._fault is None, reason(error).lower()
        self._tally.state = f"cannot write: {self._fault}"
        if first:
            self._untold = SinkError(
                f"cannot write in {self._shelf.folder}: {self._fault}; "
                f"the recording goes on as soon as it can"
            )
            self._untold.__cause__ = error

    def _recovered(self) -> None:
        if self._fault is not None:
            self._fault, self._tally.state = None, "ok"
            self._emit("output", f"the recording in {self._shelf.folder} goes on")

    def _tell(self) -> None:
        error, self._untold = self._untold, None
        if error is not None:
            raise error

    def end(self) -> None:
        self._media = None
        for segment in (self._before, self._segment):
            if segment is not None:
                self._finish(segment)
        self._tell()

    def tick(self, now: float) -> None:
        self._shelf.tidy(now)

    def close(self) -> None:
        self.end()

    def status(self) -> OutputStatus:
        return self._tally.status()


def _form(extension: str) -> str:
    """FFmpeg's name of the container."""
    return extension.removeprefix(".")
