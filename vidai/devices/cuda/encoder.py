"""Encoding on NVENC, and on the CPU what this GPU cannot."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from vidai.device import Encoder, EncoderSettings
from vidai.devices.clock import Clock
from vidai.devices.cpu import CpuDevice
from vidai.devices.cpu.codecs import CpuEncoder, surface_of
from vidai.devices.cuda.memory import DeviceArray
from vidai.devices.cuda.surface import download, even, upload
from vidai.devices.cuda.video_codec import nvc, video_errors
from vidai.errors import ConfigError, DeviceError, DeviceUnavailable, EncodeError
from vidai.types import Color, Frame, StreamInfo

if TYPE_CHECKING:
    from vidai.devices.cuda import CudaDevice

DEFAULT_PRESET = "P4"
PRESETS = tuple(f"P{n}" for n in range(1, 8))


# FFmpeg's names of streams without a container.
_ELEMENTARY = {"h264": "h264", "hevc": "hevc", "av1": "obu"}
_KEY_PICTURES = (2, 3)  # NV_ENC_PIC_TYPE: I, IDR


@dataclass(frozen=True)
class _Codec:
    """What NVENC may be asked. quality: constant quality, on the scale of the codec's QP."""

    quality: int
    worst_quality: int
    bits: tuple[int, ...]
    most_bframes: int


CODECS = {
    "h264": _Codec(23, 51, (8,), 4),
    "hevc": _Codec(26, 51, (8, 10), 4),
    "av1": _Codec(32, 63, (8, 10), 0),
}


def open_encoder(device: CudaDevice, info: StreamInfo, settings: EncoderSettings) -> CudaEncoder:
    """Raises ConfigError for settings that cannot work."""
    _check(settings)
    return CudaEncoder(device, info, settings)


def _check(settings: EncoderSettings) -> None:
    """NVENC's wrapper ignores what it does not know, so every option is checked here."""
    codec = CODECS.get(settings.codec)
    if codec is None:
        raise ConfigError(f"no codec {settings.codec!r}: choose one of {', '.join(CODECS)}")
    if settings.quality is not None and not 1 <= settings.quality <= codec.worst_quality:
        raise ConfigError(
            f"quality {settings.quality} is out of range for {settings.codec} on NVENC: "
            f"choose 1 (best) to {codec.worst_quality} (smallest), {codec.quality} is the default"
        )
    if settings.preset is not None and settings.preset.upper() not in PRESETS:
        raise ConfigError(
            f"no preset {settings.preset!r} on NVENC: choose P1 (fastest) to P7 (best), the "
            f"default is {DEFAULT_PRESET}"
        )
    if settings.bframes is not None and not 0 <= settings.bframes <= codec.most_bframes:
        raise ConfigError(
            f"bframes is {settings.bframes}, but {settings.codec} on NVENC takes "
            f"{f'0 to {codec.most_bframes}' if codec.most_bframes else 'none'}"
        )


class CudaEncoder:
    """Implements vidai.device.Encoder: on NVENC, or where that is refused on the CPU.

    The choice falls in `add_to`, once, and is told in `notes`. Where the device is strict a
    refusal is an EncodeError.
    """

    def __init__(self, device: CudaDevice, info: StreamInfo, settings: EncoderSettings) -> None:
        self._device = device
        self._info = info
        self._settings = settings
        self._encoder: Encoder | None = None
        self._refusal: list[str] = []

    @property
    def moved(self) -> int:
        return self._encoder.moved if self._encoder else 0

    @property
    def notes(self) -> list[str]:
        return self._refusal + (self._encoder.notes if self._encoder else [])

    def add_to(self, container: OutputContainer) -> VideoStream:
        """Create the output stream, tagged like the source. Raises EncodeError."""
        try:
            self._encoder = NvEncoder(self._device.lane(), self._info, self._settings)
        except (DeviceError, DeviceUnavailable, EncodeError) as error:
            if self._device.strict:
                raise EncodeError(f"{error}; strict-gpu forbids the encoder on the CPU") from error
            self._refusal = [f"pictures are downloaded and encoded on the CPU: {error}"]
            bframes = self._settings.bframes or None  # 0 goes without saying, for av1 at least
            settings = replace(self._settings, preset=None, bframes=bframes)
            self._encoder = DownloadingEncoder(self._info, settings)
        return self._encoder.add_to(container)

    def encode(self, frame: Frame | None, pts: int | None = None) -> list[av.Packet[Any]]:
        """Packets that are ready; None flushes. Raises EncodeError."""
        assert self._encoder is not None, "add_to comes first"
        return self._encoder.encode(frame, pts)


class NvEncoder:
    """Implements vidai.device.Encoder on NVENC, with a CUDA stream of its own.

    The output has the size (rounded up to even), time base, colour tags, sample aspect ratio
    and display matrix of `info`, and 8 or 10 bit as the source. Frames of another size are
    scaled on the CPU, which is told. Raises EncodeError where NVENC refuses.
    """

    def __init__(self, lane: CudaDevice, info: StreamInfo, settings: EncoderSettings) -> None:
        self.notes: list[str] = []
        self._lane = lane
        self._info = info
        self._settings = settings
        self._clock = Clock()
        self._time_base = info.time_base
        self._duration = max(1, round(1 / (info.frame_rate or Fraction(25)) / info.time_base))
        self._size = even(info.width), even(info.height)
        self._bits = 8 if info.bit_depth == 8 else 10
        self._bframes = settings.bframes or 0
        self._taken = 0  # pictures
        self._pts: dict[int, int] = {}  # of those that have no packet yet, by their number
        self._dts: deque[int] = deque()  # of the packets to come
        self._ended = False
        self._stream: VideoStream | None = None
        self._filter = av.BitStreamFilterContext(_tagging(settings.codec, info), settings.codec)
        self._header = self._first_packet()
        self._encoder = self._open()

    @property
    def moved(self) -> int:
        return self._clock.moved

    def _open(self) -> Any:
        info, settings = self._info, self._settings
        name = f"{info.name}: NVENC cannot encode {self._size[0]}x{self._size[1]} {settings.codec}"
        if self._bits not in CODECS[settings.codec].bits:
            raise EncodeError(f"{name} in {self._bits} bit")
        rate = info.frame_rate or Fraction(25)
        codec = CODECS[settings.codec]
        self._lane.gpu.enter()
        with video_errors(EncodeError, name):
            caps = nvc().GetEncoderCaps(self._lane.gpu.index, settings.codec)
        _check_caps(caps, self._size, name)
        with video_errors(EncodeError, name):
            return nvc().CreateEncoder(
                *self._size,
                "NV12" if self._bits == 8 else "P010",
                False,  # pictures are in device memory
                cudacontext=self._lane.gpu.context,
                cudastream=int(self._lane.stream.handle),
                gpu_id=self._lane.gpu.index,
                codec=settings.codec,
                preset=(settings.preset or DEFAULT_PRESET).upper(),
                **self._timing(rate),
                rc="vbr",
                cq=codec.quality if settings.quality is None else settings.quality,
                bf=self._bframes,
                fps=f"{rate.numerator}/{rate.denominator}",
            )

    def _timing(self, rate: Fraction) -> dict[str, Any]:
        if not self._settings.live:
            return {"tuning_info": "high_quality"}
        return {"tuning_info": "low_latency", "gop": max(1, round(rate))}

    def _first_packet(self) -> bytes:
        """What a session of these settings begins with: a container wants the headers in it
        before there is a picture. The session that makes it encodes one blank one."""
        width, height = self._size
        dtype = np.uint8 if self._bits == 8 else np.uint16
        blank = self._lane.empty((height * 3 // 2, width), dtype)
        encoder = self._open()
        with video_errors(EncodeError, f"{self._info.name}: NVENC gives no headers"):
            made = [*encoder.Encode(_Picture(blank)), *encoder.EndEncode()]
            (packet,) = self._filter.filter(av.Packet(made[0]["data"]))
        return bytes(packet)

    def add_to(self, container: OutputContainer) -> VideoStream:
        """Create the output stream. Raises PyAV's ValueError where the container cannot hold it."""
        codec, info = self._settings.codec, self._info
        with av.open(io.BytesIO(self._header), format=_ELEMENTARY[codec]) as headers:
            template = headers.streams.video[0]
            stream = container.add_stream_from_template(template, opaque=True)
        context = stream.codec_context
        if codec == "hevc" and container.format.name in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # Apple's players know no other
        context.sample_aspect_ratio = info.sample_aspect_ratio
        context.framerate = info.frame_rate or Fraction(25)
        stream.time_base = info.time_base
        stream.set_display_matrix(info.display_matrix)
        self._stream = stream
        return stream

    def encode(self, frame: Frame | None, pts: int | None = None) -> list[av.Packet[Any]]:
        """Packets that are ready; None flushes."""
        if self._ended:
            return []
        self._lane.gpu.enter()
        with video_errors(EncodeError, lambda: self._at(frame)):
            if frame is None:
                self._ended = True
                made = self._encoder.EndEncode()
            else:
                self._take(self._clock.next(frame.pts if pts is None else pts))
                made = self._encode(frame)
        packets = [self._packet(one) for one in made]
        for packet in packets:
            packet.stream = self._stream
            packet.time_base = self._time_base
        return packets

    def _at(self, frame: Frame | None) -> str:
        where = "the end" if frame is None else f"{frame.time:.3f} s"
        return f"{self._info.name}: NVENC failed at {where}"

    def _take(self, pts: int) -> None:
        """Note the pts of the next picture. NVENC gives no dts: a packet's is the pts as many
        pictures earlier as reordering needs."""
        if not self._taken:
            earlier = min(self._bframes, 2)
            self._dts.extend(pts - n * self._duration for n in range(earlier, 0, -1))
        self._pts[self._taken] = pts
        self._dts.append(pts)
        self._taken += 1

    def _encode(self, frame: Frame) -> list[dict[str, Any]]:
        surface = self._fitting(frame).surface
        lane = frame.device
        if (surface.width, surface.height) != self._size:
            sizes = map(np.int32, (surface.y_pitch, self._bits > 8, surface.width, surface.height))
            extent = (1, 2, max(surface.width, surface.height) + 1)
            lane.launch("pad", extent, surface.y, *sizes)
        self._lane.after(lane)
        try:
            made: list[dict[str, Any]] = self._encoder.Encode(_Picture(surface.owner))
        finally:
            lane.after(self._lane)  # NVENC's wrapper copies the picture: until then it must stay
        return made

    def _fitting(self, frame: Frame) -> Frame:
        """The frame in the size and depth of the output."""
        s, info = frame.surface, self._info
        if (s.width, s.height, s.bit_depth) == (info.width, info.height, self._bits):
            return frame
        if self._lane.strict:
            raise EncodeError(
                f"{info.name} at {frame.time:.3f} s: pictures are {s.width}x{s.height} in "
                f"{s.bit_depth} bit from there on; strict-gpu forbids the CPU to fit them"
            )
        if not self.notes:
            self.notes.append(
                f"from {frame.time:.3f} s on pictures are {s.width}x{s.height} in {s.bit_depth} "
                f"bit and are fitted to {info.width}x{info.height} on the CPU"
            )
        lane = cast("CudaDevice", frame.device)
        full = frame.info.color.full_range
        kept = ColorRange.JPEG if full else ColorRange.MPEG
        picture = download(lane, frame, full).reformat(
            info.width,
            info.height,
            "yuv420p10le" if self._bits > 8 else "yuvj420p" if full else "yuv420p",
            src_color_range=kept,
            dst_color_range=kept,
            threads=1,
        )
        return upload(lane, replace(frame, surface=surface_of(picture)))

    def _packet(self, made: dict[str, Any]) -> av.Packet[Any]:
        packet: av.Packet[Any] = av.Packet(made["data"])
        is_key = made["picture_type"] in _KEY_PICTURES
        if is_key:  # they bring the headers, in which the tags are
            (packet,) = self._filter.filter(packet)
        packet.pts, packet.dts = self._pts.pop(made["timestamp"]), self._dts.popleft()
        packet.duration = self._duration
        packet.is_keyframe = is_key
        return packet


class DownloadingEncoder:
    """Implements vidai.device.Encoder on the CPU, with one download a frame."""

    def __init__(self, info: StreamInfo, settings: EncoderSettings) -> None:
        self.notes: list[str] = []
        self._cpu = CpuDevice()
        self._encoder = CpuEncoder(info, settings)

    @property
    def moved(self) -> int:
        return self._encoder.moved

    def add_to(self, container: OutputContainer) -> VideoStream:
        return self._encoder.add_to(container)

    def encode(self, frame: Frame | None, pts: int | None = None) -> list[av.Packet[Any]]:
        """Packets that are ready; None flushes."""
        if frame is None:
            return self._encoder.encode(None)
        lane = cast("CudaDevice", frame.device)
        picture = download(lane, frame, frame.info.pixel_format.startswith("yuvj"))
        here = replace(frame, surface=surface_of(picture), device=self._cpu)
        return self._encoder.encode(here, pts)


class _Picture:
    """A surface as NVENC's wrapper takes it: a call gives what it asks for DLPack.

    It passes its stream without a name, and needs no waiting: `encode` has ordered the two.
    """

    def __init__(self, array: DeviceArray) -> None:
        self._array = array

    def cuda(self) -> _Picture:
        return self

    def __dlpack__(self, stream: int | None = None) -> Any:
        return self._array.__dlpack__(stream=-1)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


def _check_caps(caps: dict[str, int], size: tuple[int, int], name: str) -> None:
    for side, length in zip(("width", "height"), size, strict=True):
        low, high = caps.get(f"{side}_min", 0), caps.get(f"{side}_max", length)
        if not low <= length <= high:
            raise EncodeError(f"{name}: it takes a {side} from {low} to {high} px")


def _tagging(codec: str, info: StreamInfo) -> str:
    """The bitstream filter that writes the stream's colour tags and pixel shape.

    NVENC's wrapper can write none of them. H.264 and HEVC: VUI parameters, annex E of each.
    AV1: color_config, 5.5.2; it has no pixel shape.
    """
    color: Color = info.color
    tags = {
        "matrix_coefficients": color.matrix,
        "transfer_characteristics": color.transfer,
        "color_primaries" if codec == "av1" else "colour_primaries": color.primaries,
    }
    if color.range:
        name = "color_range" if codec == "av1" else "video_full_range_flag"
        tags[name] = int(color.full_range)
    written = [f"{name}={value}" for name, value in tags.items()]
    aspect = info.sample_aspect_ratio
    if codec != "av1" and aspect != 1:
        written.append(f"sample_aspect_ratio={aspect.numerator}/{aspect.denominator}")
    return f"{codec}_metadata={':'.join(written)}"
