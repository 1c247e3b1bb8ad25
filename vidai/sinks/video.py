"""Video files: the encoder's packets, and the source's other streams passed through."""

from __future__ import annotations

import io
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.container import OutputContainer
from av.stream import Stream

from vidai.device import Device, Encoder, EncoderSettings
from vidai.errors import ConfigError, SinkError
from vidai.sinks.target import Target, check_target
from vidai.sources.file import FileSource
from vidai.tags import codec_of, reason
from vidai.types import Detections, Frame

if TYPE_CHECKING:
    from av.container.core import Chapter

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# Containers that hold some of the encoders' codecs only.
CODECS = {"mov": ("h264", "hevc"), "webm": ("av1",)}
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
# What tells of the file that was, not of what it shows.
STALE_TAGS = {
    *("encoder", "major_brand", "minor_version", "compatible_brands", "vendor_id", "duration"),
    *("bps", "number_of_bytes", "number_of_frames"),
}


class VideoFile:
    """An mp4, mov, mkv or webm file with encoded frames and all else that the source has.

    Audio, subtitles, data and attachments are passed through bit for bit, with languages,
    titles and dispositions, and so are metadata and chapters (mp4 and mov store well-known
    metadata only). What the container cannot hold is told in `warnings`; audio that it
    cannot hold is a ConfigError. audio=False leaves audio out.

    Times are the source's; mkv and webm round them to 1 ms. If the source is cut with
    `start`, the result begins at 0, and of the other streams only packets that begin within
    the cut are written.

    The file appears under its name when it is closed; until then, and after any failure,
    nothing is there. `check` and `open` raise ConfigError for what cannot work, EncodeError
    what the encoder refuses, SinkError what cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        codec: str = "h264",
        quality: int | None = None,
        preset: str | None = None,
        bframes: int | None = None,
        audio: bool = True,
        overwrite: bool = False,
    ) -> None:
        self.warnings: list[str] = []
        self.dropped = 0  # packets of other streams that the container refused
        self._path = Path(path)
        self._settings = EncoderSettings(codec, quality, preset, bframes)
        self._audio = audio
        self._overwrite = overwrite
        self._format = _format_of(self._path)
        self._outputs: dict[int, Stream] = {}
        self._last_dts: dict[int, Fraction] = {}
        self._target: Target | None = None
        self._container: OutputContainer | None = None
        self._encoder: Encoder | None = None

    def check(self, source: FileSource, device: Device) -> None:
        """Raise ConfigError if this source cannot be written here."""
        device.encoder(source.info, self._settings)
        check_target(self._path, overwrite=self._overwrite, source=source.path)
        codec = self._settings.codec
        held = CODECS.get(self._format, (codec,))
        if codec not in held:
            raise ConfigError(
                f"{self._path.suffix} cannot hold {codec}: "
                f"choose the codec {' or '.join(held)}, or .mp4 or .mkv"
            )
        for stream in source.others:
            self._fits(stream)

    def open(self, source: FileSource, device: Device) -> None:
        """Create the file and write its header."""
        self.check(source, device)
        self._source = source
        self._begin: Fraction | None = None
        self._offset = 0  # the same in ticks of the video
        self._encoder = device.encoder(source.info, self._settings)
        self._target = Target(self._path, overwrite=self._overwrite, source=source.path)
        try:
            self._start(source)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error
        except BaseException:
            self.abort()
            raise

    def _start(self, source: FileSource) -> None:
        assert self._target is not None
        assert self._encoder is not None
        container = self._container = av.open(
            f"file:{self._target.temporary}",
            "w",
            format=self._format,
            container_options=_options(self._format, source.info.time_base),
        )
        video = self._encoder.add_to(container)
        _copy_tags(source.video, video)
        for stream in source.others:
            if self._fits(stream):
                output = container.add_stream_from_template(stream)
                _name_channels(output)
                _copy_tags(stream, output)
                self._outputs[stream.index] = output
            elif stream.type != "audio":
                self.warnings.append(f"{self._refusal(stream)} and is left out")
        self.warnings += [f"{what} is left out: one video is processed" for what in source.unused]
        if self._loses_pixel_shape(source):
            self.warnings.append(
                f"{self._path.suffix} with av1 does not tell the pixel aspect ratio "
                f"{source.info.sample_aspect_ratio}: choose .mp4 or another codec to keep it"
            )
        container.metadata.update(_lasting(source.metadata))
        chapters = (self._shifted(chapter) for chapter in source.chapters)
        container.set_chapters([chapter for chapter in chapters if chapter is not None])
        if video.codec_context is not None:  # else the first packet brings what it needs
            container.start_encoding()

    def _fits(self, stream: Stream) -> bool:
        """Whether the stream is passed through. Raises ConfigError for audio that cannot be."""
        if stream.type == "audio" and not self._audio:
            return False
        if fits(stream, self._format):
            return True
        if stream.type == "audio":
            other = "" if self._format == "matroska" else "choose .mkv or "
            raise ConfigError(f"{self._refusal(stream)}: {other}pass --no-audio")
        return False

    def _loses_pixel_shape(self, source: FileSource) -> bool:
        """Matroska takes it from a field that PyAV cannot set; H.264 and HEVC hold it too."""
        return (
            self._format in ("matroska", "webm")
            and self._settings.codec == "av1"
            and source.info.sample_aspect_ratio != 1
        )

    def _refusal(self, stream: Stream) -> str:
        what = f"{stream.type} stream {stream.index} ({codec_of(stream)})"
        return f"{what} cannot be stored in {self._path.suffix}"

    def _shifted(self, chapter: Chapter) -> Chapter | None:
        """The chapter's part within the cut, in the time of the result."""
        base = chapter["time_base"] or Fraction(1, av.time_base)
        cut = self._source.begin or Fraction(0)
        begin = max(chapter["start"] * base, cut)
        end = chapter["end"] * base
        if self._source.until is not None:
            end = min(end, self._source.until)
        if end <= begin:
            return None
        return {
            **chapter,
            "start": round((begin - cut) / base),
            "end": round((end - cut) / base),
        }

    def write(self, frame: Frame, detections: Detections | None = None) -> None:
        """Encode and write a frame; what was found in it is not stored."""
        if self._begin is None:
            # A cut begins at 0 with its first frame, so that all streams move by one time
            # that is whole ticks of the video.
            self._begin = frame.pts * frame.info.time_base if self._source.begin else Fraction(0)
            self._offset = round(self._begin / frame.info.time_base)
        assert self._encoder is not None, "open comes first"
        self._mux(self._encoder.encode(frame, frame.pts - self._offset))

    def write_packet(self, packet: av.Packet[Any]) -> None:
        """Pass on a packet of another stream of the source; others are ignored."""
        output = self._outputs.get(packet.stream_index)
        ticks = packet.dts if packet.pts is None else packet.pts
        base, begin = packet.time_base, self._begin or Fraction(0)
        if output is None or ticks is None or not self._source.keeps(ticks, base):
            return
        if self._source.begin is not None and ticks * base < begin:
            return
        offset = round(begin / base)
        dts = (ticks if packet.dts is None else packet.dts) - offset
        # Damaged files repeat or turn back their clock, which a muxer refuses.
        last = self._last_dts.get(packet.stream_index)
        if last is not None and dts * base <= last:
            dts = int(last / base) + 1
        self._last_dts[packet.stream_index] = dts * base
        own = _copy_of(packet)
        own.dts, own.pts = dts, max(dts, ticks - offset)
        if self._source.until is not None and own.duration:
            own.duration = min(own.duration, int(self._source.until / base) + 1 - ticks)
        own.stream = output
        assert self._container is not None
        try:
            self._container.mux(own)
        except ValueError:  # the packet is broken, not the file
            self.dropped += 1
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def close(self, *, partial: bool = False) -> str:
        """Finish the file and give it its name, which is returned.

        partial: keep it as NAME.partial.EXT, or the next free name.
        """
        assert self._container is not None
        assert self._target is not None
        assert self._encoder is not None
        self._mux(self._encoder.encode(None))
        try:
            self._container.close()
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error
        self._container = None
        if self._encoder.moved:
            self.warnings.append(
                f"{self._encoder.moved} frames had a time that did not come after the one before "
                f"and were moved to the next tick"
            )
        self.warnings += self._encoder.notes
        self._encoder = None  # a session of a GPU ends with it
        if self.dropped:
            self.warnings.append(f"{self.dropped} broken packets of other streams are left out")
        path = self._target.commit(partial=partial)
        self._target = None
        return path

    def abort(self) -> None:
        """Remove what was written."""
        self._encoder = None
        if self._target is None:
            return
        with suppress(OSError):  # so that the muxer has nothing left to rewrite
            self._target.temporary.unlink(missing_ok=True)
        if self._container is not None:
            with suppress(av.FFmpegError, OSError, ValueError):
                self._container.close()  # may create the file anew
            self._container = None
        self._target.discard()
        self._target = None

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        assert self._container is not None, "open comes first"
        try:
            self._container.mux(packets)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> SinkError:
        self.abort()
        return SinkError(f"cannot write {self._path}: {reason(error)}")


def _copy_of(packet: av.Packet[Any]) -> av.Packet[Any]:
    """A packet of the same bytes to change and to give away.

    The other sinks take the same packet, and a container that waits for a stream's header keeps
    those that it is given and reads them later, so neither may be changed once it is muxed.
    """
    copy: av.Packet[Any] = av.Packet(cast(Any, packet))  # refers to the bytes, as to any buffer
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base = packet.time_base
    copy.is_keyframe, copy.is_corrupt = packet.is_keyframe, packet.is_corrupt
    for data in packet.iter_sidedata():
        copy.set_sidedata(data, move=True)
    return copy


def _name_channels(stream: Stream) -> None:
    """AVI and WAV may only count their channels, which mp4 refuses: the usual order is meant."""
    context = stream.codec_context
    if isinstance(context, AudioCodecContext) and context.layout.name.endswith("channels"):
        name = USUAL_LAYOUTS.get(context.layout.nb_channels)
        if name is not None:
            context.layout = name


def _copy_tags(source: Stream, output: Stream) -> None:
    output.metadata.update(_lasting(source.metadata))
    output.disposition = source.disposition


def _format_of(path: Path) -> str:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ConfigError(f"the output {path} must end in one of {', '.join(FORMATS)}") from None


def _options(muxer: str, time_base: Fraction) -> dict[str, str]:
    if muxer not in ("mp4", "mov"):
        # Sound may begin before 0, with the encoder's padding; shifting it would shift all.
        return {"avoid_negative_ts": "disabled"}
    # The time at which the video starts is stored in ticks of the movie, 1/1000 s by default.
    ticks = time_base.denominator
    while ticks < 10_000:
        ticks *= 2
    # The index in front lets a browser start before it has the whole file.
    return {"movflags": "+faststart", "movie_timescale": str(min(ticks, 2**31 - 1))}


def fits(stream: Stream, muxer: str) -> bool:
    """Whether the container can hold the stream, found by writing a header with it alone."""
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in STALE_TAGS and not key.startswith("_STATISTICS")
    }
