"""Decoding on NVDEC, and on the CPU what this GPU's NVDEC cannot do.

Each picture is copied once, from the memory that NVDEC's wrapper uses again for the next one
to memory of its own: from there on it belongs to its frame, and may be drawn on.
"""

from __future__ import annotations

import heapq
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidai.device import Decoder
from vidai.devices.cpu.codecs import CpuDecoder, info_of
from vidai.devices.cuda.driver import address
from vidai.devices.cuda.sequence import cuts_top_left, parameter_sets, sequence_header
from vidai.devices.cuda.surface import even, fill, new_surface, upload
from vidai.devices.cuda.video_codec import PrintedLines, nvc, video_errors
from vidai.errors import DecodeError, DeviceUnavailable
from vidai.types import Frame, StreamInfo

if TYPE_CHECKING:
    from vidai.devices.cuda import CudaDevice

# What NVDEC has a name for. Others, such as MPEG-4 in AVI, it decodes in part only.
CODECS = {"h264": "H264", "hevc": "HEVC", "av1": "AV1", "vp9": "VP9", "vp8": "VP8"}
# Formats of 4:2:0 that NVDEC delivers as NV12 or P016, by bits.
FORMATS = {
    "yuv420p": 8,
    "yuvj420p": 8,
    "nv12": 8,
    "yuv420p10le": 10,
    "p010le": 10,
}
# Profiles that NVDEC decodes, as FFmpeg calls them; of codecs not named, any.
PROFILES = {
    "h264": ("Baseline", "Constrained Baseline", "Main", "High", "Constrained High"),
    "hevc": ("Main", "Main 10", "Main Still Picture", "Rext"),
}
_TO_ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_REORDER = 16  # pictures at most between decode and display order, in any codec


def open_decoder(
    lane: CudaDevice, stream: VideoStream, info: StreamInfo, *, low_delay: bool = False
) -> Decoder:
    """A decoder on NVDEC where it can decode the stream, else on the CPU, which is told.

    Raises DecodeError for the latter where the device is strict.
    """
    context = stream.codec_context
    try:
        refusal = why_not(lane, info, context.profile, context.extradata or b"")
    except DeviceUnavailable as error:
        refusal = str(error)
    if refusal is None:
        return NvDecoder(lane, stream, info, low_delay=low_delay)
    if lane.strict:
        raise DecodeError(
            f"{info.name}: NVDEC cannot decode it, {refusal}; strict-gpu forbids the CPU to"
        )
    return UploadingDecoder(lane, stream, info, refusal, low_delay=low_delay)


def why_not(lane: CudaDevice, info: StreamInfo, profile: str | None, headers: bytes) -> str | None:
    """Why this GPU's NVDEC cannot decode a stream, in words; None: it can.

    profile: FFmpeg's name. headers: as for `cuts_top_left`. Raises DeviceUnavailable where there
    is no NVDEC to ask.
    """
    if info.codec not in CODECS:
        return f"it has no {info.codec} decoder"
    bits = FORMATS.get(info.pixel_format)
    if bits is None:
        return f"it does not give {info.pixel_format} as 4:2:0"
    if profile and profile not in PROFILES.get(info.codec, (profile,)):
        return f"it does not know {info.codec}'s profile {profile}"
    if info.interlaced:
        return "it would deinterlace the pictures"
    if cuts_top_left(info.codec, headers):
        return "it would ignore that the stream cuts its pictures on the left or at the top"
    lane.gpu.enter()
    with video_errors(DeviceUnavailable, "NVDEC cannot be asked what it decodes"):
        codec = getattr(nvc().cudaVideoCodec, CODECS[info.codec])
        chroma = getattr(nvc().cudaVideoChromaFormat, "420")
        caps = nvc().GetDecoderCaps(lane.gpu.index, codec, chroma, bits)
    if not caps["supported"]:
        return f"it has no {bits} bit {info.codec} decoder"
    for side, size in (("width", info.width), ("height", info.height)):
        low, high = caps[f"{side}_min"], caps[f"{side}_max"]
        if not low <= size <= high:
            return f"its {info.codec} decoder takes a {side} from {low} to {high}, not {size}"
    return None


class NvDecoder:
    """Implements vidai.device.Decoder on NVDEC, on the lane's CUDA stream.

    Packets go in as they are (H.264 and HEVC in Annex B form), pictures come out in display
    order with the pts of their packets. A new sequence header begins a new decoder. Damage that
    NVDEC conceals is counted; what it refuses is a DecodeError.
    """

    def __init__(
        self, lane: CudaDevice, stream: VideoStream, info: StreamInfo, *, low_delay: bool = False
    ) -> None:
        self.damaged = 0
        self.notes: list[str] = []
        self._lane = lane
        self._info = info
        self._index = 0
        self._last_pts: int | None = None
        self._fed = 0  # packets
        self._pts: dict[int, int | None] = {}  # of packets without a picture yet, by number
        self._dts: list[tuple[int, int]] = []  # and number, of those without pts: a heap
        self._reorders = stream.codec_context.has_b_frames
        self._latency = "LOW" if low_delay and not self._reorders else "NATIVE"
        self._time: int | None = None  # pts of the packet that NVDEC has
        self._header = b""
        name = _TO_ANNEX_B.get(info.codec)
        self._filter = av.BitStreamFilterContext(name, stream) if name else None
        # A cut may begin at a picture before which the filter puts none.
        self._parameters = parameter_sets(info.codec, stream.codec_context.extradata or b"")
        self._decoder = self._open()

    def _open(self) -> Any:
        self._lane.gpu.enter()
        with video_errors(DecodeError, f"{self._info.name}: NVDEC cannot be opened"):
            return nvc().CreateDecoder(
                gpuid=self._lane.gpu.index,
                codec=getattr(nvc().cudaVideoCodec, CODECS[self._info.codec]),
                cudacontext=self._lane.gpu.context,
                cudastream=int(self._lane.stream.handle),
                usedevicememory=True,
                latency=getattr(nvc().DisplayDecodeLatencyType, self._latency),
            )

    def decode(self, packet: av.Packet[Any] | None) -> list[Frame]:
        """Frames that this packet completes, in display order; None flushes."""
        if packet is not None and packet.size == 0:
            return []
        whole = [packet]
        if self._filter is not None:
            try:
                whole = list(self._filter.filter(packet))
            except (av.FFmpegError, ValueError):
                self.damaged += 1
                return []
        frames = [frame for part in whole if part is not None for frame in self._feed(part)]
        return frames if packet is not None else frames + self._decode(nvc().PacketData())

    def _feed(self, packet: av.Packet[Any]) -> list[Frame]:
        frames: list[Frame] = []
        header = sequence_header(self._info.codec, packet)
        if header and self._header and header != self._header:
            frames += self._decode(nvc().PacketData())
            self._begin_sequence(packet)
        data = nvc().PacketData()
        data.bsl_data, data.bsl = packet.buffer_ptr, packet.size
        if not self._fed and not header and self._parameters:
            whole = np.frombuffer(self._parameters + bytes(packet), np.uint8)
            data.bsl_data, data.bsl = address(whole), len(whole)
        self._header = header or self._header
        data.pts = self._stamp(packet)
        return frames + self._decode(data)

    def _decode(self, data: Any) -> list[Frame]:
        self._lane.gpu.enter()
        with video_errors(DecodeError, self._at), PrintedLines() as printed:
            frames = [self._frame(picture) for picture in self._decoder.Decode(data)]
        self.damaged += printed.count
        return frames

    def _begin_sequence(self, packet: av.Packet[Any]) -> None:
        """A new decoder, for what the packet's picture is like. Libavcodec tells what that is."""
        self._time = packet.pts
        context: Any = av.CodecContext.create(self._info.codec, "r")
        with suppress(av.FFmpegError, ValueError):
            pictures = [*context.decode(packet), *context.decode(None)]
            self._info = (
                info_of(cast("VideoFrame", pictures[0]), self._info) if pictures else self._info
            )
        refusal = why_not(self._lane, self._info, context.profile, bytes(packet))
        if refusal:
            raise DecodeError(
                f"{self._at()}: from there on it cannot decode the stream, {refusal}; use "
                f"--device cpu"
            )
        self._decoder = self._open()

    def _at(self) -> str:
        time = None if self._time is None else float(self._time * self._info.time_base)
        where = "" if time is None else f" near {time:.3f} s"
        return f"{self._info.name}: NVDEC failed{where}"

    def _stamp(self, packet: av.Packet[Any]) -> int:
        """The packet's number, which NVDEC gives back with its picture."""
        number = self._fed
        self._fed += 1
        self._time = packet.pts
        self._pts[number] = packet.pts
        if packet.pts is None and packet.dts is not None:
            heapq.heappush(self._dts, (packet.dts, number))
        return number

    def _frame(self, picture: Any) -> Frame:
        info = self._info_for(picture)
        surface = new_surface(self._lane, info.width, info.height, info.bit_depth)
        row = picture.shape[1] * (1 if info.bit_depth == 8 else 2)
        fill(self._lane, surface, picture.GetPtrToPlane(0), row)
        pts = self._pts_of(picture.getPTS())
        frame = Frame(info, self._index, pts, surface, self._lane, writable=True)
        self._index += 1
        self._last_pts = pts
        return frame

    def _info_for(self, picture: Any) -> StreamInfo:
        """The stream's info; renewed where NVDEC delivers something else, header or not."""
        info = self._info
        rows, columns = picture.shape[:2]
        depth = 10 if picture.format == nvc().Pixel_Format.P016 else 8
        expected = (info.height * 3 // 2, even(info.width), info.bit_depth)
        if (rows, columns, depth) != expected:
            self._info = replace(
                info,
                width=columns,
                height=-(-rows * 2 // 3),
                bit_depth=depth,
                pixel_format="yuv420p" if depth == 8 else "yuv420p10le",
            )
        return self._info

    def _pts_of(self, number: int) -> int:
        """The pts of the picture's packet, else the next dts in order, else one frame later."""
        pts = self._pts.pop(number, None)
        for lost in [old for old in self._pts if old < number - _REORDER]:
            del self._pts[lost]
        earliest = number - (_REORDER if self._reorders else 0)
        while self._dts and self._dts[0][1] < earliest:
            heapq.heappop(self._dts)  # of a picture that never came
        if pts is not None:
            return pts
        if self._dts:
            return heapq.heappop(self._dts)[0]
        if self._last_pts is None:
            return 0
        rate = self._info.frame_rate or Fraction(25)
        return self._last_pts + max(1, round(1 / rate / self._info.time_base))


class UploadingDecoder:
    """Implements vidai.device.Decoder on the CPU, with one upload a frame."""

    def __init__(
        self,
        lane: CudaDevice,
        stream: VideoStream,
        info: StreamInfo,
        refusal: str,
        *,
        low_delay: bool = False,
    ) -> None:
        self.notes = [
            f"{info.name} is decoded on the CPU and uploaded, since NVDEC cannot: {refusal}"
        ]
        self._lane = lane
        self._decoder = CpuDecoder(lane, stream, info, low_delay=low_delay)

    @property
    def damaged(self) -> int:
        return self._decoder.damaged

    def decode(self, packet: av.Packet[Any] | None) -> list[Frame]:
        """Frames that this packet completes, in display order; None flushes."""
        return [upload(self._lane, frame) for frame in self._decoder.decode(packet)]
