"""Sends a stream on to a media server, by RTSP (ANNOUNCE and RECORD) or RTMP."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from vidai.errors import ConfigError, SinkError
from vidai.live import output, pusher
from vidai.live.muxing import MUX_ERRORS, Muxer, sound_of, takes_sound
from vidai.live.output import CLOCK, Media, Output, OutputStatus, Place, Sample
from vidai.live.tally import Tally
from vidai.sources.address import Address, without_secrets
from vidai.sources.backoff import Backoff
from vidai.tags import reason

PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}
MOST = 8_000_000  # bytes that may wait for the server
ANSWER = 15.0  # s that a server has to take the stream, and later to take anything
REACH = 2.0  # s to reach it at all
CLOSE = 3.0  # s to send the rest when it is closed
NOT_CONNECTED, SLOW, CUT = "not connected", "the server is too slow", "the connection was lost"


def _pushable(url: str) -> str:
    try:
        address = Address(url)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if address.kind not in ("rtsp", "rtmp"):
        raise ValueError(f"{address}: a stream is pushed to rtsp:// or rtmp://")
    return url


class Options(output.Options):
    """What may be written about a push."""

    url: Annotated[str, AfterValidator(_pushable)] = Field(
        description="rtsp://… of a server that takes streams, as MediaMTX, or rtmp://…"
    )
    of: Literal["annotated", "camera"] = Field(
        "annotated", description="drawn and encoded, or as received"
    )
    transport: Literal["tcp", "udp"] = Field("tcp", description="of RTSP")


def open(options: Options, place: Place) -> Push:  # noqa: A001
    return Push(options, place)


class Push(Output):
    """Holds a connection, through a process of its own, and makes it anew when it is lost.

    Every connection begins with a keyframe. A packet is delivered when FFmpeg has handed it to
    the network; packets that come while there is no connection are lost.
    """

    def __init__(self, options: Options, place: Place) -> None:
        self.pictures = options.of
        self._emit = place.emit
        self._address = Address(options.url)
        self._rtsp = self._address.kind == "rtsp"
        transport: str = options.transport
        self._options = {"rtsp_transport": transport} if self._rtsp else {}
        self._tally = Tally("push", str(self._address), "idle")
        self._backoff = Backoff(first=0.5, quick=10.0)
        self._retry_at = 0.0  # of time.monotonic
        self._media: Media | None = None
        self._sound = False
        self._connection: _Connection | None = None
        self._broken = False  # until a keyframe, after the server was too slow
        self._down = False  # whether an outage has been told
        self._untold: SinkError | None = None

    def begin(self, media: Media) -> None:
        self.end()
        self._sound = media.has_audio
        if not self._rtsp:
            self._sound = takes_sound(media, "flv", "RTMP")
            if media.has_audio and not self._sound:
                self._emit(
                    "output", f"{self._address} gets no sound: RTMP has no {sound_of(media)}"
                )
        self._media = media

    def sample(self, sample: Sample) -> None:
        self._tally.accept()
        self._send(sample)
        self._tell()

    def _send(self, sample: Sample) -> None:
        keyframe = sample.kind == "video" and sample.is_keyframe
        if sample.kind == "audio" and self._media is not None and not self._sound:
            self._tally.lose("RTMP does not take the sound")
            return
        self._listen()
        if keyframe and self._connection is None and time.monotonic() >= self._retry_at:
            self._connect(sample)
        if self._connection is None:
            self._tally.lose(NOT_CONNECTED)
            return
        if self._broken and not keyframe:
            self._tally.lose(SLOW)
            return
        self._broken = not self._connection.send(sample)
        if self._broken:
            self._tally.lose(SLOW)
        self._listen()

    def _connect(self, keyframe: Sample) -> None:
        if self._media is None:
            return
        try:
            self._reach()
            self._connection = _Connection(
                self._address.raw,
                "rtsp" if self._rtsp else "flv",
                self._options,
                _header(self._media, audio=self._sound),
                keyframe.dts,
            )
        except MUX_ERRORS as error:
            self._lost(reason(error))
        self._broken = False

    def _reach(self) -> None:
        """OSError where nothing answers: a process for that would be a waste."""
        parts = urlsplit(self._address.raw)
        port = parts.port or PORTS[parts.scheme.lower()]
        socket.create_connection((self._address.host, port), REACH).close()

    def _listen(self) -> None:
        """Take note of what has been sent, and whether the connection lives."""
        connection = self._connection
        if connection is None:
            return
        was_up = connection.is_up
        connection.pump()
        self._tally.deliver(connection.take_sent())
        self._tally.waiting_bytes = connection.waiting_bytes
        if connection.is_up and not was_up:
            self._backoff.connected()
            self._down, self._tally.state = False, "ok"
            self._emit("output", f"pushing to {self._address}")
        fault = connection.fault()
        if fault is not None:
            self._drop()
            self._lost(fault)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.kill()
            self._tally.deliver(connection.take_sent())
            self._tally.lose(CUT, connection.waiting)
            self._tally.waiting_bytes = 0

    def _lost(self, why: str) -> None:
        """Tell it, once until there is a connection again."""
        why = without_secrets(" ".join(why.split()), self._address)
        error = SinkError(f"cannot push to {self._address}: {why}; it is tried again and again")
        self._retry_at = time.monotonic() + self._backoff.after(error)
        self._tally.state = f"retrying: {why}"
        if not self._down:
            self._down, self._untold = True, error

    def _tell(self) -> None:
        error, self._untold = self._untold, None
        if error is not None:
            raise error

    def end(self) -> None:
        """The connection belongs to the streams that it was announced with."""
        connection, self._connection = self._connection, None
        self._media = None
        self._tally.state = "idle"
        if connection is not None:
            connection.close()
            self._tally.deliver(connection.take_sent())
            self._tally.lose(CUT, connection.waiting)
            self._tally.waiting_bytes = 0

    def tick(self, now: float) -> None:
        self._listen()
        self._tell()

    def close(self) -> None:
        self.end()

    def status(self) -> OutputStatus:
        return self._tally.status()


class _Connection:
    """A process that connects and sends.

    waiting: packets that were given and not sent yet. is_up: whether the server has taken the
    stream.
    """

    def __init__(
        self, url: str, form: str, options: dict[str, str], header: bytes, origin: int
    ) -> None:
        self.waiting = self.waiting_bytes = 0
        self.is_up = False
        self._origin = origin
        self._sent = 0
        self._moved = time.monotonic()  # when something was sent, or there was nothing to send
        order = {"url": url, "format": form, "options": options, "header": len(header)}
        self._rest = bytearray(json.dumps(order).encode() + b"\n" + header)
        self._process = subprocess.Popen(
            # As text: were it run as a file, its folder would come before Python's own modules.
            [sys.executable, "-c", Path(pusher.__file__).read_text(encoding="utf-8")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the worker, which ends it
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)

    def send(self, sample: Sample) -> bool:
        """Whether it was taken: beyond MOST bytes nothing is."""
        if len(self._rest) + sample.packet.size > MOST:
            return False
        packet = sample.packet
        base = packet.time_base
        self._rest += pusher.HEAD.pack(
            sample.kind == "audio",
            packet.is_keyframe,
            sample.pts - self._origin,
            sample.dts - self._origin,
            round((packet.duration or 0) * base / CLOCK) if base else 0,
            packet.size,
        )
        self._rest += memoryview(packet)
        if not self.waiting:
            self._moved = time.monotonic()
        self.waiting += 1
        return True

    def pump(self) -> None:
        """Give the process what it takes, and hear what it has sent. Never waits."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(BlockingIOError, BrokenPipeError):
            while self._rest and not stdin.closed:
                count = os.write(stdin.fileno(), self._rest[: 1 << 16])
                del self._rest[:count]
        self.waiting_bytes = len(self._rest)
        with suppress(BlockingIOError):
            while not stdout.closed and (told := os.read(stdout.fileno(), 1 << 16)):
                self._moved = time.monotonic()
                self.is_up |= pusher.CONNECTED in told
                sent = told.count(pusher.SENT)
                self.waiting -= sent
                self._sent += sent

    def take_sent(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fault(self) -> str | None:
        """Why it is of no use any more."""
        if self._process.poll() is not None:
            assert self._process.stderr is not None
            told = self._process.stderr.read().decode(errors="replace").strip()
            return told.splitlines()[-1] if told else "the connection has ended"
        if self.waiting and time.monotonic() - self._moved > ANSWER:
            return f"the server takes nothing since {ANSWER:.0f} s"
        return None

    def close(self) -> None:
        """Send the rest, for CLOSE s at most."""
        until = time.monotonic() + CLOSE
        assert self._process.stdin is not None

        def go_on(condition: Callable[[], bool]) -> None:
            while condition() and time.monotonic() < until and self._process.poll() is None:
                self.pump()
                time.sleep(0.01)

        go_on(lambda: bool(self._rest))
        self._process.stdin.close()
        go_on(lambda: True)  # until it has said goodbye to the server
        self.kill()

    def kill(self) -> None:
        """What it has sent until then is counted."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.pump()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _header(media: Media, *, audio: bool) -> bytes:
    """The start of a file without packets, which tells the streams. Raises MUX_ERRORS."""
    file = io.BytesIO()
    options = {"movflags": "empty_moov+frag_keyframe"}
    form = "mp4"
    try:
        muxer = Muxer(media, file, form, options, origin=0, audio=audio)
    except MUX_ERRORS:
        file = io.BytesIO()
        muxer = Muxer(media, file, "mov", options, origin=0, audio=audio)
    muxer.close()
    return file.getvalue()
