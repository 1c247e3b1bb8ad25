"""The boxes of MP4 (ISO/IEC 14496-12): what is in fragments, and what players must be told."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

Bytes = bytes | memoryview
NOT_SYNC = 0x10000  # a sample's flag: other samples are needed to decode it
# Bytes of the fields before the boxes within a box.
WITHIN = {"stsd": 8, "avc1": 78, "hvc1": 78, "hev1": 78, "av01": 78, "mp4a": 28, "Opus": 28}


def boxes(data: Bytes) -> Iterator[tuple[str, memoryview, int]]:
    """Kind, content and end (offset in data) of each box that is whole."""
    view, at = memoryview(data), 0
    while (header := _header(bytes(view[at : at + 16]))) is not None:
        kind, begin, size = header
        if at + size > len(view):
            return
        yield kind, view[at + begin : at + size], at + size
        at += size


def _header(data: bytes) -> tuple[str, int, int] | None:
    """Kind, where the content begins, and size of a box; None where it is not whole or endless."""
    if len(data) < 8:
        return None
    size, kind = struct.unpack_from(">I4s", data)
    begin = 8
    if size == 1 and len(data) >= 16:
        (size,) = struct.unpack_from(">Q", data, 8)
        begin = 16
    return None if size < begin else (kind.decode("latin-1"), begin, size)


def whole_fragments(descriptor: int) -> int:
    """Bytes of a fragmented file up to the end of its last whole fragment, 0 where it has none.
    What a writer added to finish it does not count."""
    length = os.fstat(descriptor).st_size
    at = whole = 0
    seen_moov = False
    while (header := _header(os.pread(descriptor, 16, at))) is not None:
        kind, _, size = header
        at += size
        if at > length or (kind == "moov" and seen_moov):
            break
        seen_moov |= kind == "moov"
        if kind == "mdat":
            whole = at
    return whole


def samples_between(descriptor: int, begin: int, end: int) -> int:
    """How many samples the fragments have that lie at these bytes of a file."""
    count = 0
    while begin < end and (header := _header(os.pread(descriptor, 16, begin))) is not None:
        kind, inner, size = header
        if kind == "moof":
            content = os.pread(descriptor, size - inner, begin + inner)
            count += sum(run.samples for run in runs_of(content))
        begin += size
    return count


def find(data: Bytes, *path: str) -> Iterator[memoryview]:
    """The content of every box with that path."""
    kind, *rest = path
    for found, content, _ in boxes(data):
        if found == kind:
            if rest:
                yield from find(content[WITHIN.get(kind, 0) :], *rest)
            else:
                yield content


class Run(NamedTuple):
    """The samples of one track in a fragment.

    begin, duration: ticks of the track. lead: ticks from the first sample's decoding to its
    showing. samples: how many. independent: whether the first is a keyframe.
    """

    track: int
    begin: int
    duration: int
    lead: int
    samples: int
    independent: bool


def runs_of(moof: Bytes) -> Iterator[Run]:
    """What the content of a moof box says of each track."""
    for traf in find(moof, "traf"):
        (header,), (decode_time,) = find(traf, "tfhd"), find(traf, "tfdt")
        track, usual, usual_flags = _defaults(header)
        wide = decode_time[0] == 1
        (begin,) = struct.unpack_from(">Q" if wide else ">I", decode_time, 4)
        duration = samples = lead = 0
        first_flags: int | None = None
        for trun in find(traf, "trun"):
            rows, flags = _rows(trun, usual, usual_flags)
            if not samples and rows:
                first_flags, lead = flags, rows[0][1]
            samples += len(rows)
            duration += sum(row[0] for row in rows)
        yield Run(track, begin, duration, lead, samples, not (first_flags or 0) & NOT_SYNC)


def _defaults(tfhd: memoryview) -> tuple[int, int, int]:
    """Track, duration and flags of its samples, where they do not say otherwise."""
    flags, track = struct.unpack_from(">II", tfhd)
    at = 8 + 8 * bool(flags & 0x1) + 4 * bool(flags & 0x2)
    duration = sample_flags = 0
    if flags & 0x8:
        (duration,) = struct.unpack_from(">I", tfhd, at)
        at += 4
    at += 4 * bool(flags & 0x10)
    if flags & 0x20:
        (sample_flags,) = struct.unpack_from(">I", tfhd, at)
    return track, duration, sample_flags


def _rows(trun: memoryview, usual: int, usual_flags: int) -> tuple[list[tuple[int, int]], int]:
    """Duration and composition offset of each sample, and the flags of the first."""
    flags, count = struct.unpack_from(">II", trun)
    at = 8 + 4 * bool(flags & 0x1)
    first: int | None = None
    if flags & 0x4:
        (first,) = struct.unpack_from(">I", trun, at)
        at += 4
    rows = []
    for _ in range(count):
        duration, offset = usual, 0
        if flags & 0x100:
            (duration,) = struct.unpack_from(">I", trun, at)
            at += 4
        at += 4 * bool(flags & 0x200)
        if flags & 0x400:
            if first is None:
                (first,) = struct.unpack_from(">I", trun, at)
            at += 4
        if flags & 0x800:
            (offset,) = struct.unpack_from(">i", trun, at)
            at += 4
        rows.append((duration, offset))
    return rows, usual_flags if first is None else first


def codecs_of(moov: Bytes) -> str:
    """The codecs as a browser wants them named (RFC 6381), "avc1.64001f,mp4a.40.2", out of the
    content of a moov box; what has no such name is left out."""
    told = []
    for stsd in find(moov, "trak", "mdia", "minf", "stbl", "stsd"):
        for kind, entry, _ in boxes(stsd[8:]):
            told.append(_codec(kind, entry))
    return ",".join(name for name in told if name)


def _codec(kind: str, entry: memoryview) -> str:
    inner = {name: content for name, content, _ in boxes(entry[WITHIN.get(kind, 0) :])}
    if kind == "avc1" and "avcC" in inner:
        return f"avc1.{bytes(inner['avcC'][1:4]).hex()}"
    if kind in ("hvc1", "hev1") and "hvcC" in inner:
        return f"{kind}.{_hevc(bytes(inner['hvcC']))}"
    if kind == "av01" and "av1C" in inner:
        return f"av01.{_av1(bytes(inner['av1C']))}"
    if kind == "mp4a" and "esds" in inner:
        return f"mp4a.{_esds(bytes(inner['esds']))}"
    return "opus" if kind == "Opus" else ""


def _hevc(config: bytes) -> str:
    """ISO/IEC 14496-15, annex E."""
    space = ("", "A", "B", "C")[config[1] >> 6]
    (compatible,) = struct.unpack_from(">I", config, 2)
    mirrored = int(f"{compatible:032b}"[::-1], 2)
    tier = "H" if config[1] & 0x20 else "L"
    constraints = "".join(f".{byte:X}" for byte in config[6:12].rstrip(b"\0"))
    return f"{space}{config[1] & 0x1F}.{mirrored:X}.{tier}{config[12]}{constraints}"


def _av1(config: bytes) -> str:
    """AV1 in ISO media files, section 5."""
    tier = "H" if config[2] & 0x80 else "M"
    bits = 8 if not config[2] & 0x40 else 12 if config[2] & 0x20 else 10
    return f"{config[1] >> 5}.{config[1] & 0x1F:02d}{tier}.{bits:02d}"


def _esds(descriptor: bytes) -> str:
    """Object type, and for MPEG-4 the kind of audio, out of ES > DecoderConfig > DecoderSpecific
    (ISO/IEC 14496-1)."""
    es = _descriptor(descriptor[4:], 0x03)
    flags = es[2]
    at = 3 + 2 * bool(flags & 0x80) + 2 * bool(flags & 0x20)
    if flags & 0x40:
        at += 1 + es[at]
    config = _descriptor(es[at:], 0x04)
    if config[0] != 0x40:
        return f"{config[0]:X}"
    specific = _descriptor(config[13:], 0x05)
    kind = specific[0] >> 3
    if kind == 31:
        kind = 32 + ((specific[0] & 7) << 3 | specific[1] >> 5)
    return f"40.{kind}"


def _descriptor(data: bytes, tag: int) -> bytes:
    """The content of a descriptor that begins here."""
    assert data[0] == tag, f"descriptor {data[0]} where {tag} was expected"
    size, at = 0, 1
    while True:
        size = size << 7 | data[at] & 0x7F
        at += 1
        if not data[at - 1] & 0x80:
            return data[at : at + size]
