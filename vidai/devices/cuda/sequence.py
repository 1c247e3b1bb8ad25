"""What begins a new sequence in a stream: there NVDEC needs a new decoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

_SPS = {"h264": 7, "hevc": 33}  # NAL unit types: H.264 table 7-1, H.265 table 7-1
_SEQUENCE_HEADER = 1  # AV1 specification, 6.2.2


def sequence_header(codec: str, packet: av.Packet[Any]) -> bytes:
    """The bytes that size and format of a sequence follow from; b"" where none begins.

    H.264 and HEVC (in Annex B form): sequence parameter sets. AV1: the sequence header. VP8
    and VP9: the part of a key frame's header that holds its size.
    """
    if not packet.is_keyframe:
        return b""
    data = bytes(packet)
    if codec in _SPS:
        return b"".join(unit for unit in _nal_units(data) if _type_of(codec, unit) == _SPS[codec])
    if codec == "av1":
        return b"".join(body for kind, body in _obus(data) if kind == _SEQUENCE_HEADER)
    if codec == "vp8":
        return data[6:10]  # RFC 6386, 9.1
    if codec == "vp9":
        return data[:10]  # up to the size, which no flag before it moves within profile 0 to 3
    return b""


def _type_of(codec: str, unit: bytes) -> int:
    if not unit:
        return -1
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def _nal_units(data: bytes) -> Iterator[bytes]:
    """What lies between start codes, without the zeros that may follow."""
    begin = data.find(b"\0\0\1")
    while begin >= 0:
        end = data.find(b"\0\0\1", begin + 3)
        yield data[begin + 3 : end if end >= 0 else None].rstrip(b"\0")
        begin = end


def _obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and contents of each unit of a temporal unit: AV1 specification, 5.3."""
    at = 0
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        size = len(data) - at
        if sized:
            size, at = _leb128(data, at)
        yield kind, data[at : at + size]
        at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number and the place behind it: AV1 specification, 4.10.5."""
    value = 0
    for i in range(8):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << 7 * i
        if byte < 128:
            break
    return value, at
