"""Sends packets to a server, in a process of its own: run as a script by `outputs.push`.

PyAV holds the interpreter's lock while FFmpeg connects to a server, however long that takes: in
the worker's own process all cameras would stand still. This imports nothing of vidai, so that it
starts quickly.

On stdin: a line of JSON with url, format, options and header; `header` bytes of an MP4 or MOV
without packets, which tells the streams; then packets, each a HEAD and its bytes. On stdout:
CONNECTED, then SENT for each packet. What goes wrong is one line on stderr.
"""

from __future__ import annotations

import io
import json
import signal
import struct
import sys
from fractions import Fraction
from typing import Any, BinaryIO

import av

# stream (0 the video, 1 the sound), whether it is a keyframe, pts, dts, duration, size in bytes
HEAD = struct.Struct(">B?qqqI")
CLOCK = Fraction(1, 90_000)  # s a tick
CONNECTED, SENT = b"C", b"."
STUCK = 30  # s that a server may keep it waiting; then it ends, also if nobody is there to end it


def push(given: BinaryIO, told: BinaryIO) -> None:
    order = json.loads(given.readline())
    signal.alarm(STUCK)  # its default ends the process even within FFmpeg
    with (
        av.open(io.BytesIO(given.read(order["header"])), "r") as head,
        av.open(order["url"], "w", format=order["format"], options=order["options"]) as out,
    ):
        streams: list[Any] = [out.add_stream_from_template(s, opaque=True) for s in head.streams]
        for stream in streams:
            stream.time_base = CLOCK
        out.start_encoding()
        told.write(CONNECTED)
        told.flush()
        signal.alarm(0)
        while len(read := given.read(HEAD.size)) == HEAD.size:
            number, keyframe, pts, dts, duration, size = HEAD.unpack(read)
            packet: av.Packet[Any] = av.Packet(given.read(size))
            packet.pts, packet.dts, packet.duration = pts, dts, duration
            packet.time_base, packet.is_keyframe = CLOCK, keyframe
            packet.stream = streams[number]
            signal.alarm(STUCK)
            out.mux(packet)
            signal.alarm(0)
            told.write(SENT)
            told.flush()
        signal.alarm(STUCK)  # for the goodbye


if __name__ == "__main__":
    try:
        push(sys.stdin.buffer, sys.stdout.buffer)
    except (av.FFmpegError, OSError, ValueError) as error:
        sys.exit(getattr(error, "strerror", None) or str(error))
    except KeyboardInterrupt:
        pass
