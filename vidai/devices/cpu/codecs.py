"""Decoding, copying and encoding pictures with PyAV's codecs."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from vidai.device import Device, EncoderSettings
from vidai.devices.clock import Clock
from vidai.errors import ConfigError, DecodeError, EncodeError
from vidai.tags import bit_depth, color_of, is_rgb, reason
from vidai.types import Frame, StreamInfo, Surface

# 4:2:0 formats that kernels read as they are: bit depth, chroma step, shift.
LAYOUTS = {
    "yuv420p": (8, 1, 0),
    "yuvj420p": (8, 1, 0),
    "nv12": (8, 2, 0),
    "yuv420p10le": (10, 1, 0),
    "p010le": (10, 2, 6),
}
FORMATS = {layout: name for name, layout in LAYOUTS.items() if name != "yuvj420p"}
DECODER_THREADS = 4
SMALLEST_AV1 = 32  # px; SVT-AV1 never returns for a side of 16


def _threads() -> int:
    return min(DECODER_THREADS, len(os.sched_getaffinity(0)))


def surface_of(picture: VideoFrame) -> Surface:
    """The planes of a picture in one of LAYOUTS, where they lie."""
    depth, step, shift = LAYOUTS[picture.format.name]
    planes = picture.planes
    chroma = planes[1].buffer_ptr
    return Surface(
        width=picture.width,
        height=picture.height,
        y=planes[0].buffer_ptr,
        u=chroma,
        v=planes[2].buffer_ptr if step == 1 else chroma + (1 if depth == 8 else 2),
        y_pitch=planes[0].line_size,
        c_pitch=planes[1].line_size,
        c_step=step,
        bit_depth=depth,
        shift=shift,
        owner=picture,
    )


def _to_420(picture: VideoFrame) -> VideoFrame:
    """The picture in one of LAYOUTS, itself where it can be; its matrix and range stay.

    RGB becomes what `color_of` says. Raises DecodeError for a format FFmpeg cannot convert.
    """
    source = picture.format
    if source.name in LAYOUTS and min(p.line_size for p in picture.planes) > 0:
        return picture
    target = "yuv420p" if bit_depth(source) <= 8 else "yuv420p10le"
    if source.name.startswith("yuvj"):
        target = "yuvj420p"
    if source.name in LAYOUTS:  # stored bottom up; repacking turns it round
        target = "nv12" if bit_depth(source) == 8 else "p010le"
    color = color_of(picture, source, picture.height)
    options: dict[str, Any] = {}
    if is_rgb(source):
        options["src_color_range"] = ColorRange.JPEG
        options["dst_color_range"] = ColorRange.MPEG
        options["dst_colorspace"] = Colorspace.ITU709 if color.matrix == 1 else Colorspace.ITU601
    else:
        # swscale takes every gray for full range, so only "full to full" keeps its values
        keep_full = color.full_range or len(source.components) == 1
        kept = ColorRange.JPEG if keep_full else ColorRange.MPEG
        options["src_color_range"] = options["dst_color_range"] = kept
    try:
        converted = picture.reformat(format=target, threads=1, **options)
        converted.color_range = color.range
        return converted
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(
            f"pictures in {source.name} cannot be converted to {target}: {reason(error)}"
        ) from error


class CpuDecoder:
    """Implements vidai.device.Decoder with libavcodec.

    Pictures in 4:2:0 of 8 or 10 bit are delivered where libavcodec put them; others are
    converted to it. `damaged` counts packets that did not decode and frames that libavcodec
    marks as damaged; the latter are delivered all the same.
    """

    def __init__(
        self, device: Device, stream: VideoStream, info: StreamInfo, *, low_delay: bool = False
    ) -> None:
        self.damaged = 0
        self.notes: list[str] = []
        self._device = device
        self._info = info
        self._index = 0
        self._last_pts: int | None = None
        self._context = stream.codec_context
        # Threads a frame each are faster, but FFmpeg's HEVC decoder can wait for one of its
        # own for ever when it is closed after damage.
        self._context.thread_type = "SLICE" if info.codec == "hevc" else "AUTO"
        # Each thread has a frame of its own, and gives it back as many frames later.
        self._context.thread_count = 1 if low_delay else _threads()

    def decode(self, packet: av.Packet[Any] | None) -> list[Frame]:
        """Frames that this packet completes, in display order; None flushes.

        Raises DecodeError only for a pixel format that cannot be converted.
        """
        try:
            pictures = self._context.decode(packet)
        except EOFError:
            return []  # flushed before
        except (av.FFmpegError, ValueError):
            self.damaged += 1
            return []
        return [self._frame(picture) for picture in pictures]

    def _frame(self, decoded: VideoFrame) -> Frame:
        self.damaged += decoded.is_corrupt
        picture = _to_420(decoded)
        info = self._info_for(decoded)
        pts = self._pts(decoded)
        frame = Frame(
            info, self._index, pts, surface_of(picture), self._device, picture is not decoded
        )
        self._index += 1
        self._last_pts = pts
        return frame

    def _info_for(self, picture: VideoFrame) -> StreamInfo:
        """The stream's info, renewed when size or format change in mid-stream."""
        seen = (picture.width, picture.height, picture.format.name)
        info = self._info
        if seen != (info.width, info.height, info.pixel_format):
            self._info = info_of(picture, info)
        return self._info

    def _pts(self, picture: VideoFrame) -> int:
        """The picture's pts, else its dts, else one frame after the last."""
        if picture.pts is not None:
            return picture.pts
        if self._last_pts is None:
            return picture.dts or 0
        if picture.dts is not None and picture.dts > self._last_pts:
            return picture.dts
        rate = self._info.frame_rate or Fraction(25)
        return self._last_pts + max(1, picture.duration or round(1 / rate / self._info.time_base))


def info_of(picture: VideoFrame, info: StreamInfo) -> StreamInfo:
    """The info of a stream whose pictures are like this one from now on."""
    return replace(
        info,
        width=picture.width,
        height=picture.height,
        pixel_format=picture.format.name,
        bit_depth=bit_depth(picture.format),
        color=color_of(picture, picture.format, picture.height),
        interlaced=picture.interlaced_frame,
    )


def private_copy(frame: Frame) -> Frame:
    """The frame on memory of its own, to be drawn on."""
    source = frame.surface
    owner = source.owner
    if isinstance(owner, VideoFrame):
        name = owner.format.name
    else:
        name = FORMATS[source.bit_depth, source.c_step, source.shift]
    picture = VideoFrame(source.width, source.height, name)
    copy = surface_of(picture)
    sample = 1 if source.bit_depth == 8 else 2
    chroma_rows, chroma_columns = (source.height + 1) // 2, (source.width + 1) // 2
    _copy_plane(
        copy.y, copy.y_pitch, source.y, source.y_pitch, source.width * sample, source.height
    )
    row = chroma_columns * sample * source.c_step
    _copy_plane(copy.u, copy.c_pitch, source.u, source.c_pitch, row, chroma_rows)
    if source.c_step == 1:
        _copy_plane(copy.v, copy.c_pitch, source.v, source.c_pitch, row, chroma_rows)
    if isinstance(owner, VideoFrame):
        picture.duration = owner.duration
    return replace(frame, surface=copy, writable=True)


def _copy_plane(to: int, to_pitch: int, source: int, pitch: int, row: int, rows: int) -> None:
    if to_pitch == pitch:
        ctypes.memmove(to, source, pitch * (rows - 1) + row)
        return
    for y in range(rows):
        ctypes.memmove(to + y * to_pitch, source + y * pitch, row)


@dataclass(frozen=True)
class _Codec:
    """An encoder of FFmpeg and what may be asked of it. quality is a CRF, lower is better."""

    name: str
    quality: int
    preset: str
    worst_quality: int
    presets: tuple[str, ...]
    full_range_format: str
    even_only: bool
    options: tuple[tuple[str, str], ...] = ()
    live_options: tuple[tuple[str, str], ...] = ()


_X26X_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)
CODECS = {
    "h264": _Codec(
        *("libx264", 23, "veryfast", 51, _X26X_PRESETS, "yuvj420p", True),
        live_options=(("tune", "zerolatency"), ("forced-idr", "1"), ("g", "600")),
    ),
    "hevc": _Codec(
        *("libx265", 26, "veryfast", 51, _X26X_PRESETS, "yuvj420p", True),
        options=(("x265-params", "log-level=none"),),
        live_options=(("tune", "zerolatency"), ("forced-idr", "1"), ("g", "600")),
    ),
    "av1": _Codec(
        *("libsvtav1", 32, "8", 63, tuple(str(n) for n in range(14)), "yuv420p", False),
    ),
}


def _choose_codec(settings: EncoderSettings) -> _Codec:
    """Raises ConfigError for a codec, quality or preset that there is not."""
    codec = CODECS.get(settings.codec)
    if codec is None:
        raise ConfigError(f"no codec {settings.codec!r}: choose one of {', '.join(CODECS)}")
    if settings.quality is not None and not 0 <= settings.quality <= codec.worst_quality:
        raise ConfigError(
            f"quality {settings.quality} is out of range for {settings.codec}: "
            f"choose 0 (best) to {codec.worst_quality} (smallest), {codec.quality} is the default"
        )
    if settings.bframes is not None and not 0 <= settings.bframes <= 16:
        raise ConfigError(f"bframes is a number from 0 to 16, not {settings.bframes}")
    if settings.bframes is not None and settings.codec == "av1":
        raise ConfigError("bframes is for h264 and hevc: av1 chooses its own references")
    if settings.preset is not None and settings.preset not in codec.presets:
        raise ConfigError(
            f"no preset {settings.preset!r} for {settings.codec}: "
            f"choose one of {', '.join(codec.presets)}"
        )
    return codec


class CpuEncoder:
    """Implements vidai.device.Encoder with libx264, libx265 and SVT-AV1.

    The output has the size, time base, colour tags, sample aspect ratio and display matrix
    of `info`, and 8 or 10 bit as the source. H.264 and HEVC hold no odd sizes in 4:2:0:
    there the last column or row is stored twice, so that every pixel keeps its place. Frames
    of another size are scaled. pts are kept; one that does not come after the one before it
    is moved to the next tick and counted in `moved`.

    Raises ConfigError for settings that cannot work.
    """

    def __init__(self, info: StreamInfo, settings: EncoderSettings) -> None:
        self.notes: list[str] = []
        self._written = 0
        self._info = info
        self._settings = settings
        self._codec = _choose_codec(settings)
        self._clock = Clock()
        self._next_keyframe = 0  # ticks, where settings.live
        self._stream: VideoStream | None = None
        padding = self._codec.even_only
        self._width = info.width + (info.width % 2 if padding else 0)
        self._height = info.height + (info.height % 2 if padding else 0)
        if info.bit_depth > 8 and not settings.live:  # few players show 10 bit of what is live
            self._format = "yuv420p10le"
        else:
            full = info.pixel_format.startswith("yuvj")
            self._format = self._codec.full_range_format if full else "yuv420p"

    @property
    def moved(self) -> int:
        return self._clock.moved

    def add_to(self, container: OutputContainer) -> VideoStream:
        """Create the output stream, tagged like the source, and open the encoder.

        Raises EncodeError when the encoder refuses, ValueError (PyAV's) when the container
        cannot hold the codec.
        """
        os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 writes to stderr past FFmpeg's log
        info, settings, codec = self._info, self._settings, self._codec
        rate = info.frame_rate or Fraction(25)
        if settings.codec == "av1":
            if min(info.width, info.height) < SMALLEST_AV1:
                raise EncodeError(
                    f"{info.name}: av1 cannot encode {info.width}x{info.height}, both sides need "
                    f"{SMALLEST_AV1} pixels; choose another codec"
                )
            rate = min(rate, Fraction(240))  # SVT-AV1's limit; pts do not depend on it
        options = {
            "crf": str(codec.quality if settings.quality is None else settings.quality),
            "preset": settings.preset or codec.preset,
            **dict(codec.options),
        }
        if settings.bframes is not None:
            options["bf"] = str(settings.bframes)
        if settings.live:
            options |= dict(codec.live_options)
        stream = cast("VideoStream", container.add_stream(codec.name, rate=rate, options=options))
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = self._width, self._height, self._format
        context.time_base = stream.time_base = info.time_base
        context.sample_aspect_ratio = info.sample_aspect_ratio
        color = info.color
        context.color_range, context.colorspace = color.range, color.matrix
        context.color_primaries, context.color_trc = color.primaries, color.transfer
        context.thread_count = 1 if settings.live else _threads()
        context.flags |= Flags.frame_duration
        if settings.codec == "hevc" and container.format.name in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # Apple's players know no other
        stream.set_display_matrix(info.display_matrix)
        try:
            context.open(strict=False)
        except (av.FFmpegError, ValueError) as error:
            raise EncodeError(
                f"{info.name}: {codec.name} cannot encode {self._width}x{self._height} "
                f"{self._format}: {reason(error)}; choose another codec"
            ) from error
        self._stream = stream
        return stream

    def encode(self, frame: Frame | None, pts: int | None = None) -> list[av.Packet[Any]]:
        """Packets that are ready; None flushes. Raises EncodeError."""
        assert self._stream is not None, "add_to comes first"
        picture = None
        if frame is not None:
            picture = self._picture(frame)
            picture.pts = self._clock.next(frame.pts if pts is None else pts)
            picture.time_base = self._info.time_base
            # Anything else is forced, as would be the source's choice of I, P and B.
            picture.pict_type = PictureType.I if self._needs_keyframe(picture) else 0
        try:
            packets = self._stream.encode(picture)
        except EOFError:
            return []  # flushed before
        except (av.FFmpegError, ValueError) as error:
            where = "the end" if frame is None else f"{frame.time:.3f} s"
            raise EncodeError(
                f"{self._info.name}: {self._codec.name} failed at {where}: {reason(error)}"
            ) from error
        if self._settings.codec == "hevc" and frame is None and not self._written:
            _mend_dts(packets)
        self._written += len(packets)
        return packets

    def _needs_keyframe(self, picture: VideoFrame) -> bool:
        """Whether a second has passed since the last one, where somebody waits for it."""
        assert picture.pts is not None
        if not self._settings.live or picture.pts < self._next_keyframe:
            return False
        self._next_keyframe = picture.pts + round(1 / self._info.time_base)
        return True

    def _picture(self, frame: Frame) -> VideoFrame:
        """The frame as the encoder takes it, without a copy where it fits."""
        owner = frame.surface.owner
        picture = owner if isinstance(owner, VideoFrame) else private_copy(frame).surface.owner
        same_size = (picture.width, picture.height) == (self._info.width, self._info.height)
        if picture.format.name != self._format or not same_size:
            kept = ColorRange.JPEG if frame.info.color.full_range else ColorRange.MPEG
            picture = picture.reformat(
                None if same_size else self._width,
                None if same_size else self._height,
                self._format,
                src_color_range=kept,
                dst_color_range=kept,
                threads=1,
            )
        if same_size and (picture.width, picture.height) != (self._width, self._height):
            picture = _padded(picture, self._width, self._height)
        return picture


def _mend_dts(packets: list[av.Packet[Any]]) -> None:
    """x265 leaves dts unset in a clip of one or two frames, shorter than its reordering."""
    if len(packets) <= 2:
        first = min((p.pts for p in packets if p.pts is not None), default=0)
        for index, packet in enumerate(packets, 1):
            packet.dts = first - len(packets) + index


def _padded(picture: VideoFrame, width: int, height: int) -> VideoFrame:
    """A planar picture with its last column and row repeated up to width x height.

    From an odd to the next even size the chroma planes do not change.
    """
    padded = VideoFrame(width, height, picture.format.name)
    padded.duration = picture.duration
    for to, source in zip(padded.planes, picture.planes, strict=True):
        sample = np.uint8 if picture.format.components[0].bits == 8 else np.uint16
        old, new = (
            np.frombuffer(memoryview(plane), sample).reshape(plane.height, -1)[:, : plane.width]
            for plane in (source, to)
        )
        new[: source.height, : source.width] = old
        new[: source.height, source.width :] = old[:, -1:]
        new[source.height :] = new[source.height - 1]
    return padded
