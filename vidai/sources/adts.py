"""AAC as MPEG-TS has it, with a header before each packet, made as MP4 wants it: with one header
for all, which a fragmented file needs before its first packet."""

from __future__ import annotations

import io
from typing import Any

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext


class Adts:
    """The packets of a stream of AAC without their headers.

    template: a stream that is like the packets then. Its header is that of FFmpeg's own encoder
    for the same rate and channels (ISO/IEC 14496-3, 1.6.2.1). Raises av.FFmpegError or ValueError
    where that knows no such sound.
    """

    def __init__(self, stream: AudioStream) -> None:
        context = stream.codec_context
        self._home = av.open(io.BytesIO(), "w", format="mp4")
        self.template = self._home.add_stream(
            "aac", rate=context.sample_rate, layout=context.layout.name
        )
        self._home.start_encoding()
        self._filter = BitStreamFilterContext("aac_adtstoasc", stream)

    @staticmethod
    def has(stream: AudioStream) -> bool:
        """Whether its packets have headers."""
        context = stream.codec_context
        return context is not None and context.codec.name == "aac" and not context.extradata

    def strip(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        """Nothing where it is damaged."""
        stream, base = packet.stream, packet.time_base
        try:
            stripped = list(self._filter.filter(packet))
        except (av.FFmpegError, ValueError):
            self._filter.flush()
            return []
        for made in stripped:
            made.stream, made.time_base = stream, base
        return stripped
