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
    if codec == "vp9":  # profile, and what lies between the sync code and the end of the size
        return bytes([data[0] & 0xF0, *data[4:8], data[8] & 0xF0]) if len(data) > 8 else b""
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


def cuts_top_left(codec: str, headers: bytes) -> bool:
    """Whether a parameter set cuts columns from the left or rows from the top.

    headers: a container's codec data, or packets in Annex B form. Sets that cannot be read,
    and codecs without such a cut, count as no.
    """
    if codec not in _SPS:
        return False
    read = _h264_cut if codec == "h264" else _hevc_cut
    for unit in (*_nal_units(headers), *_stored_units(codec, headers)):
        if _type_of(codec, unit) == _SPS[codec]:
            try:
                left, top = read(_Bits(unit))
            except IndexError:
                continue
            if left or top:
                return True
    return False


def parameter_sets(codec: str, data: bytes) -> bytes:
    """A container's codec data as NAL units in Annex B form; b"" for other codecs than H.264
    and HEVC."""
    if codec not in _SPS:
        return b""
    units = (*_stored_units(codec, data), *(() if data[:1] == b"\1" else _nal_units(data)))
    return b"".join(b"\0\0\0\1" + unit for unit in units if unit)


def _stored_units(codec: str, data: bytes) -> Iterator[bytes]:
    """Parameter sets of mp4 and Matroska: ISO/IEC 14496-15, 5.3.3.1 (avcC) and 8.3.3.1 (hvcC)."""
    if not data or data[0] != 1:
        return
    at, arrays = (5, 2) if codec == "h264" else (23, data[22] if len(data) > 22 else 0)
    for array in range(arrays):
        if codec == "h264":  # sequence, then picture parameter sets
            mask = 255 if array else 31
            count, at = data[at] & mask if len(data) > at else 0, at + 1
        else:
            count, at = int.from_bytes(data[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2], "big")
            yield data[at + 2 : at + 2 + size]
            at += 2 + size


class _Bits:
    """Reads a NAL unit bit by bit; IndexError behind its end."""

    def __init__(self, unit: bytes) -> None:
        self._data = unit.replace(b"\0\0\3", b"\0\0")  # emulation prevention
        self._at = 0

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> (7 - self._at % 8) & 1
            self._at += 1
        return value

    def ue(self) -> int:
        """An unsigned Exp-Golomb number: H.264 and H.265, 9.1 and 9.2."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    se = ue  # as long as only its length matters


# Profiles whose parameter sets tell the chroma format: H.264, 7.3.2.1.1.
_HIGH_PROFILES = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)


def _h264_cut(bits: _Bits) -> tuple[int, int]:
    """(left, top) of H.264's frame_crop offsets: 7.3.2.1.1."""
    bits.take(8)
    profile = bits.take(8)
    bits.take(16)
    bits.ue()
    if profile in _HIGH_PROFILES:
        chroma = bits.ue()
        if chroma == 3:
            bits.take(1)
        bits.ue(), bits.ue(), bits.take(1)
        if bits.take(1):
            for i in range(8 if chroma != 3 else 12):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    bits.ue()
    order = bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.take(1), bits.se(), bits.se()
        for _ in range(bits.ue()):
            bits.se()
    bits.ue(), bits.take(1), bits.ue(), bits.ue()
    if not bits.take(1):
        bits.take(1)
    bits.take(1)
    if not bits.take(1):
        return 0, 0
    left, _, top = bits.ue(), bits.ue(), bits.ue()
    return left, top


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    """H.264, 7.3.2.1.1.1."""
    last = following = 8
    for _ in range(size):
        if following:
            coded = bits.ue()
            delta = (coded + 1) // 2 * (1 if coded % 2 else -1)
            following = (last + delta) % 256
        last = following or last


def _hevc_cut(bits: _Bits) -> tuple[int, int]:
    """(left, top) of HEVC's conformance window: H.265, 7.3.2.2 and 7.3.3."""
    bits.take(16 + 4)
    layers = bits.take(3)
    bits.take(1 + 88 + 8)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)
    bits.ue()
    if bits.ue() == 3:
        bits.take(1)
    bits.ue(), bits.ue()
    if not bits.take(1):
        return 0, 0
    left, _, top = bits.ue(), bits.ue(), bits.ue()
    return left, top
