"""Decoding on NVDEC, and on the CPU what this GPU's NVDEC cannot do.

Each picture is copied once, from the memory that NVDEC's wrapper uses again for the next one
to memory of its own: from there on it belongs to its frame, and may be drawn on.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from av.video.stream import VideoStream

from vidai.device import Decoder
from vidai.devices.cpu.codecs import CpuDecoder
from vidai.devices.cuda.sequence import cuts_top_left, sequence_header
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
_NO_PTS = -(1 << 62)  # what a packet without pts tells NVDEC


def open_decoder(lane: CudaDevice, stream: VideoStream, info: StreamInfo) -> Decoder:
    """A decoder on NVDEC where it can decode the stream, else on the CPU, which is told.

    Raises DecodeError for the latter where the device is strict.
    """
    try:
        refusal = why_not(lane, stream, info)
    except DeviceUnavailable as error:
        refusal = str(error)
    if refusal is None:
        return NvDecoder(lane, stream, info)
    if lane.strict:
        raise DecodeError(
            f"{info.name}: NVDEC cannot decode it, {refusal}; strict-gpu forbids the CPU to"
        )
    return UploadingDecoder(lane, stream, info, refusal)


def why_not(lane: CudaDevice, stream: VideoStream, info: StreamInfo) -> str | None:
    """Why this GPU's NVDEC cannot decode a stream, in words; None: it can.

    Raises DeviceUnavailable where there is no NVDEC to ask.
    """
    if info.codec not in CODECS:
        return f"it has no {info.codec} decoder"
    bits = FORMATS.get(info.pixel_format)
    if bits is None:
        return f"it does not give {info.pixel_format} as 4:2:0"
    profile = stream.codec_context.profile
    if profile and profile not in PROFILES.get(info.codec, (profile,)):
        return f"it does not know {info.codec}'s profile {profile}"
    if info.interlaced:
        return "it would deinterlace the pictures"
    if cuts_top_left(info.codec, stream.codec_context.extradata or b""):
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

    def __init__(self, lane: CudaDevice, stream: VideoStream, info: StreamInfo) -> None:
        self.damaged = 0
        self.notes: list[str] = []
        self._lane = lane
        self._info = info
        self._index = 0
        self._last_pts: int | None = None
        self._unstamped: list[int] = []  # dts of packets without pts, a heap
        self._header = b""
        self._fed: int | None = None  # pts of the packet that NVDEC has
        name = _TO_ANNEX_B.get(info.codec)
        self._filter = av.BitStreamFilterContext(name, stream) if name else None
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
        frames: list[Frame] = []
        for part in whole if packet is not None else [*whole, None]:
            frames += self._feed(part)
        return frames

    def _feed(self, packet: av.Packet[Any] | None) -> list[Frame]:
        frames: list[Frame] = []
        data = nvc().PacketData()
        if packet is not None:
            header = sequence_header(self._info.codec, packet)
            if header and self._header and header != self._header:
                self._check_cut(packet)
                frames += self._feed(None)
                self._decoder = self._open()
            self._header = header or self._header
            data.bsl_data, data.bsl = packet.buffer_ptr, packet.size
            data.pts = self._stamp(packet)
            self._fed = packet.pts
        self._lane.gpu.enter()
        with video_errors(DecodeError, self._at), PrintedLines() as printed:
            decoded = self._decoder.Decode(data)
            frames += [self._frame(picture) for picture in decoded]
        self.damaged += printed.count
        return frames

    def _at(self) -> str:
        time = None if self._fed is None else float(self._fed * self._info.time_base)
        where = "" if time is None else f" near {time:.3f} s"
        return f"{self._info.name}: NVDEC failed{where}"

    def _check_cut(self, packet: av.Packet[Any]) -> None:
        if cuts_top_left(self._info.codec, bytes(packet)):
            self._fed = packet.pts
            raise DecodeError(
                f"{self._at()}: from there on the stream cuts its pictures on the left or at the "
                f"top, which NVDEC ignores; use --device cpu"
            )

    def _stamp(self, packet: av.Packet[Any]) -> int:
        if packet.pts is not None:
            return packet.pts
        if packet.dts is not None:
            heapq.heappush(self._unstamped, packet.dts)
        return _NO_PTS

    def _frame(self, picture: Any) -> Frame:
        info = self._info_for(picture)
        surface = new_surface(self._lane, info.width, info.height, info.bit_depth)
        row = picture.shape[1] * (1 if info.bit_depth == 8 else 2)
        fill(self._lane, surface, picture.GetPtrToPlane(0), row)
        pts = self._pts(picture.getPTS())
        frame = Frame(info, self._index, pts, surface, self._lane, writable=True)
        self._index += 1
        self._last_pts = pts
        return frame

    def _info_for(self, picture: Any) -> StreamInfo:
        """The stream's info, renewed when size or depth change in mid-stream."""
        info = self._info
        rows, columns = picture.shape[:2]
        depth = 10 if picture.format == nvc().Pixel_Format.P016 else 8
        expected = (info.height * 3 // 2, even(info.width), info.bit_depth)
        if (rows, columns, depth) != expected:
            self._info = replace(
                info,
                width=columns,
                height=rows * 2 // 3,
                bit_depth=depth,
                pixel_format="yuv420p" if depth == 8 else "yuv420p10le",
            )
        return self._info

    def _pts(self, pts: int) -> int:
        """The picture's pts, else the next dts in order, else one frame after the last."""
        if pts != _NO_PTS:
            return pts
        if self._unstamped:
            return heapq.heappop(self._unstamped)
        if self._last_pts is None:
            return 0
        rate = self._info.frame_rate or Fraction(25)
        return self._last_pts + max(1, round(1 / rate / self._info.time_base))


class UploadingDecoder:
    """Implements vidai.device.Decoder on the CPU, with one upload a frame."""

    def __init__(
        self, lane: CudaDevice, stream: VideoStream, info: StreamInfo, refusal: str
    ) -> None:
        self.notes = [
            f"{info.name} is decoded on the CPU and uploaded, since NVDEC cannot: {refusal}"
        ]
        self._lane = lane
        self._decoder = CpuDecoder(lane, stream, info)

    @property
    def damaged(self) -> int:
        return self._decoder.damaged

    def decode(self, packet: av.Packet[Any] | None) -> list[Frame]:
        """Frames that this packet completes, in display order; None flushes."""
        return [upload(self._lane, frame) for frame in self._decoder.decode(packet)]
