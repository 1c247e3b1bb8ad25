"""Packets of a live stream into the bytes of a container; nothing is encoded.

PyAV holds the interpreter's lock while it writes headers and trailers, and FFmpeg's own files
would hold it for as long as a disk stalls. So muxers write to Python objects here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, Protocol, cast

import av
from av.container import OutputContainer

from vidai.errors import SinkError
from vidai.live.output import Media, Sample
from vidai.tags import codec_of

BUFFER = 1 << 20  # bytes that a muxer collects before it writes them
# What muxing raises: FFmpeg's errors, and PyAV's for packets and streams that cannot be.
MUX_ERRORS = (av.FFmpegError, OSError, ValueError)
# s, in FFmpeg's µs, by which a stream may be behind another before the others go on without it.
INTERLEAVE = {"max_interleave_delta": "1000000", "flush_packets": "1"}


class File(Protocol):
    """What a muxer writes to; with seek() and tell() where the container needs to go back."""

    def write(self, data: bytes, /) -> int: ...


class Muxer:
    """Writes samples of a Media to a file. Raises MUX_ERRORS.

    form, options: FFmpeg's name of the container and its options. origin: its time 0 in ticks
    of CLOCK. open_other: opens a file that the muxer asks for by name, as FFmpeg's io_open.
    """

    def __init__(
        self,
        media: Media,
        file: File,
        form: str,
        options: dict[str, str],
        *,
        origin: int,
        audio: bool = True,
        open_other: Callable[..., Any] | None = None,
    ) -> None:
        self.origin = origin
        self._container: OutputContainer = av.open(
            cast(Any, file),
            "w",
            format=form,
            container_options={**INTERLEAVE, **options},
            buffer_size=BUFFER,
            io_open=open_other,
        )
        self._streams = media.add_to(self._container, audio=audio)
        video = self._streams["video"].codec_context
        if form == "mp4" and video is not None and video.name == "hevc":
            video.codec_tag = "hvc1"  # Apple's players want it
        self._container.start_encoding()

    @property
    def takes_sound(self) -> bool:
        return "audio" in self._streams

    def add(self, sample: Sample) -> None:
        """A packet of a kind that is taken."""
        self._container.mux(sample.copy(self._streams[sample.kind], self.origin))

    def close(self) -> None:
        self._container.close()


def holds(media: Media, form: str, *, audio: bool = True) -> bool:
    """Whether the container can hold these streams, found by writing a header with them.

    Raw video goes nowhere: it would fill a disk within hours.
    """
    if media.info.codec == "rawvideo":
        return False
    try:
        with av.open(io.BytesIO(), "w", format=form) as trial:
            media.add_to(trial, audio=audio)
            trial.start_encoding()
    except MUX_ERRORS:
        return False
    return True


def sound_of(media: Media) -> str:
    """The name of the sound's codec, "aac"; "" where there is none."""
    return "" if media.audio is None else codec_of(media.audio)


def takes_sound(media: Media, form: str, what: str) -> bool:
    """Whether the sound fits the container as well. what: "clips", for the message.

    Raises SinkError where the video does not fit."""
    if media.has_audio and holds(media, form):
        return True
    if holds(media, form, audio=False):
        return False
    raise SinkError(
        f"{what} cannot hold {media.info.codec} video of {media.info.width}×{media.info.height}: "
        f"take the annotated pictures, or another codec in the camera"
    )


class DiskFile:
    """A file on a disk for a muxer, unbuffered. It never fails in the muxer's hands: after the
    first error, which is kept in `failed`, what is written goes nowhere."""

    def __init__(self, descriptor: int) -> None:
        self.failed: OSError | None = None
        self._descriptor = descriptor
        self._at = 0

    def write(self, data: bytes, /) -> int:
        rest = memoryview(data)
        while rest and self.failed is None:
            try:
                count = os.pwrite(self._descriptor, rest, self._at)
            except OSError as error:
                self.failed = error
                break
            self._at += count
            rest = rest[count:]
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._at
        elif whence == os.SEEK_END:
            offset += os.fstat(self._descriptor).st_size
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at
