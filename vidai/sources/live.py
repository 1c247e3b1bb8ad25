"""Live streams: packets out of one connection to a camera or server, or of a file in real time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import Any, Literal

import av
from av import error as native
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from vidai.errors import ConfigError, DecodeError, SourceLost, StreamError
from vidai.sources import usb
from vidai.sources.address import Address, Kind, without_secrets
from vidai.sources.adts import Adts
from vidai.sources.description import describe
from vidai.sources.file import FileSource
from vidai.sources.interrupt import Waiting
from vidai.sources.playing import Pace, play
from vidai.sources.srt import SrtReader
from vidai.sources.times import Times
from vidai.tags import reason
from vidai.types import StreamInfo

Transport = Literal["tcp", "udp", "auto"]

CLOCK = Fraction(1, 90_000)  # s a tick, of streams without times of their own
MOST_FPS = 240  # more is a guess from too few frames
KEYFRAME = 60.0  # s to wait for one, at least: smart codecs send them rarely
ASKS = 1e6  # s, PyAV's own timeout, without which it would not ask: what ends a wait is Waiting
RECEIVE_BUFFER = 4 << 20  # bytes of a UDP socket: a keyframe in 4K comes in one burst

# µs of a stream that FFmpeg looks at before it says what it is. What it looked at is not lost, but
# comes so much late. The first is enough where a keyframe is among it, or where RTSP describes the
# stream; the second is for rare keyframes.
ANALYSE = {"rtsp": (250_000, 10_000_000)}
ANALYSE_ELSE = (1_500_000, 15_000_000)

TRANSPORTS: dict[Transport, dict[str, str]] = {
    "tcp": {"rtsp_transport": "tcp"},
    "udp": {"rtsp_transport": "udp"},
    "auto": {"rtsp_flags": "prefer_tcp"},
}
OPTIONS: dict[Kind, dict[str, str]] = {
    "rtsp": {"allowed_media_types": "video+audio", "buffer_size": str(RECEIVE_BUFFER)},
    "rtmp": {"rtmp_live": "live", "rtmp_buffer": "100"},
    "hls": {"live_start_index": "-1"},
    "udp": {"buffer_size": str(RECEIVE_BUFFER), "overrun_nonfatal": "1"},
}
FORMATS: dict[Kind, str] = {"rtsp": "rtsp", "hls": "hls", "udp": "mpegts", "srt": "mpegts"}


class LiveSource:
    """One connection to a live stream, made when it is constructed; or a file, played in real time.

    name: of the stream, kept in `info`. transport: of RTSP: "tcp" within the connection, "udp",
    or "auto", which is udp where the server does not offer tcp. connect_timeout: s until the
    stream's description and first pictures must be there; only looking up a host's name may take
    longer. read_timeout: s without a packet of video after which the stream counts as lost,
    whatever else comes. loop: begin a file anew at its end.

    info: the video as it is now; its duration is None. video, audio: PyAV's streams, for decoders
    and containers; they live until `close`. Of several, the default ones are taken.

    A stream whose keyframes are rare is connected to once more, and looked at for longer.

    One thread constructs it, uses its streams and reads; `close` may be called from any. Raises
    SourceLost, with the reason and without secrets, ConfigError for an address that can never
    work, and DecodeError for a file without a video that can be decoded.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        transport: Transport = "tcp",
        connect_timeout: float = 10.0,
        read_timeout: float = 10.0,
        loop: bool = False,
    ) -> None:
        self.address = address
        self.name = name
        self.read_timeout = read_timeout
        self._closed = threading.Event()
        # The thread that made it, then the one within `packets`. Only it may close the container:
        # the streams that it is looking at go with that.
        self._user: int | None = threading.get_ident()
        self._lock = threading.RLock()  # a dropped `packets` may end while it is held
        self._file: FileSource | None = None
        self._reader: SrtReader | None = None
        self._loop = loop
        if address.kind == "file":
            self._file = FileSource(address.path)
            self.container, self.video = self._file.container, self._file.video
            self.info = replace(self._file.info, name=name, duration=None)
        else:
            short, long = ANALYSE.get(address.kind, ANALYSE_ELSE)
            try:
                self._open(_options(address.kind, transport, short), connect_timeout)
            except DecodeError:
                try:
                    self._open(_options(address.kind, transport, long), connect_timeout)
                except DecodeError as error:
                    raise SourceLost(str(error)) from error
        self._sound = self.audio = _choose_audio(self.container)
        self._adts: Adts | None = None
        if self._sound and Adts.has(self._sound):
            try:
                self._adts = Adts(self._sound)
                self.audio = self._adts.template
            except (native.FFmpegError, ValueError):  # the pictures are worth more than the sound
                self._sound = self.audio = None

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. From another thread than the one that reads: tell that one to, which
        takes it about 0.1 s where it waits, and its `packets` ends. One that does not read yet
        has to close it itself."""
        with self._lock:
            self._closed.set()
            if self._user in (None, threading.get_ident()):
                self._disconnect()

    def packets(self) -> Iterator[av.Packet[Any]]:
        """Packets of the video and the sound in the order of their arrival, once.

        The video begins with a keyframe. Every packet has pts and dts; dts of each stream rise.
        Ends after `close`, and with a file that is not looped; raises SourceLost otherwise.
        """
        with self._lock:
            if self._closed.is_set():
                self._disconnect()
                return
            self._user = threading.get_ident()
        try:
            for packet in self._play() if self._file is not None else self._receive():
                if self._adts is None or packet.stream is self.video:
                    yield packet
                else:
                    yield from self._adts.strip(packet)
        finally:
            with self._lock:
                self._user = None
                if self._closed.is_set():
                    self._disconnect()

    def _open(self, options: dict[str, str], timeout: float) -> None:
        """Raises SourceLost; DecodeError where there is nothing to decode, or not yet."""
        self.container, self._reader = _connect(self.address, options, timeout)
        try:
            self.video = _choose_video(self.container, self.address)
            self.info = self._describe()
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        self.container.close()
        if self._reader is not None:
            self._reader.close()

    def _describe(self) -> StreamInfo:
        info = describe(str(self.address), self.name, self.video, None)
        rate = info.frame_rate
        if self._has_no_times:
            return replace(info, time_base=CLOCK, frame_rate=None)
        return replace(info, frame_rate=rate if rate and rate <= MOST_FPS else None)

    @property
    def _has_no_times(self) -> bool:
        """JPEGs over HTTP: FFmpeg counts them as if they were 25 a second."""
        return self.container.format.name == "mpjpeg"

    def _play(self) -> Iterator[av.Packet[Any]]:
        assert self._file is not None
        try:
            yield from play(self._file, self._sound, loop=self._loop, closed=self._closed)
        except (ConfigError, StreamError) as error:  # it was there when it was opened
            raise SourceLost(str(error)) from error

    @property
    def _streams(self) -> list[Stream]:
        return [self.video] if self._sound is None else [self.video, self._sound]

    def _receive(self) -> Iterator[av.Packet[Any]]:
        times = {s: Times(str(self.address), s) for s in self._streams}
        # HLS comes in pieces, and is played evenly: a little faster than it comes, or a server's
        # clock that gains on ours would let it fall behind, piece by piece.
        hls = self.address.kind == "hls"
        pace = Pace(self._closed, speed=1.05, late=0.0, longest=10.0) if hls else None
        begin = time.monotonic()
        opened = False  # by a keyframe
        for packet in self._demux():
            if packet.stream is self.video:
                elapsed = time.monotonic() - begin
                if self._has_no_times:
                    packet.time_base = CLOCK
                    packet.pts = packet.dts = round(elapsed / CLOCK)
                opened = opened or packet.is_keyframe
                if not opened and elapsed > max(KEYFRAME, self.read_timeout):
                    raise SourceLost(
                        f"{self.address} sent no keyframe in {elapsed:.0f} s: let the camera "
                        "send one every few seconds (GOP, I-frame interval)"
                    )
                if not opened:
                    continue
            for mended in times[packet.stream].mend(packet):
                if pace is not None and not pace.keep(mended):
                    return
                yield mended

    def _demux(self) -> Iterator[av.Packet[Any]]:
        """Packets as they come, until `close`. Raises SourceLost."""
        silent_from = time.monotonic()  # while nobody waits for packets, none are missing

        def is_over() -> bool:
            return self._closed.is_set() or time.monotonic() - silent_from > self.read_timeout

        waiting = Waiting(is_over)
        if self.address.kind == "usb":
            packets = usb.packets(self.container, self.video)
        else:
            packets = self.container.demux(self._streams)
        while not is_over():
            try:
                with waiting:
                    packet = next(packets, None)
            except (native.FFmpegError, ValueError, IndexError) as error:
                if waiting.ended:
                    break
                raise _lost(self.address, error) from _cleaned(self.address, error)
            if packet is None or (
                not packet.size and packet.dts is None
            ):  # PyAV flushes at the end
                if waiting.ended:
                    break
                raise SourceLost(f"{self.address} ended: the server closed the stream")
            asked = time.monotonic()
            yield packet
            if waiting.ended:  # FFmpeg gave what it had left
                break
            now = time.monotonic()
            silent_from = now if packet.stream is self.video else silent_from + now - asked
        if not self._closed.is_set():
            raise SourceLost(f"{self.address} sent no video for {self.read_timeout:g} s")


def _options(kind: Kind, transport: Transport, analyse: int) -> dict[str, str]:
    options = {**OPTIONS.get(kind, {}), "analyzeduration": str(analyse)}
    return options | TRANSPORTS[transport] if kind == "rtsp" else options


def _connect(
    address: Address, options: dict[str, str], timeout: float
) -> tuple[InputContainer, SrtReader | None]:
    end = time.monotonic() + timeout

    def is_over() -> bool:
        if address.kind == "usb":  # FFmpeg looks for a frame again and again
            time.sleep(usb.PAUSE)
        return time.monotonic() > end

    waiting = Waiting(is_over)
    try:
        with waiting:
            return _opened(address, options)
    except native.ProtocolNotFoundError as error:
        raise ConfigError(
            f"{address}: this FFmpeg was built without what such addresses need"
        ) from _cleaned(address, error)
    except (native.FFmpegError, ValueError) as error:
        if waiting.ended:  # what FFmpeg says then means nothing
            raise SourceLost(f"{address} gave no video within {timeout:g} s") from None
        raise _lost(address, error) from _cleaned(address, error)


def _opened(address: Address, options: dict[str, str]) -> tuple[InputContainer, SrtReader | None]:
    if address.kind == "usb":
        return usb.connect(address.raw, options, ASKS), None
    reader = SrtReader(address) if address.kind == "srt" else None
    try:
        container = av.open(
            reader or address.raw,
            "r",
            format=FORMATS.get(address.kind),
            options=options,
            metadata_errors="replace",
            timeout=ASKS,
        )
    except BaseException:
        if reader is not None:
            reader.close()
        raise
    return container, reader


def _lost(address: Address, error: Exception) -> SourceLost:
    """What a foreign error means, in one sentence."""
    told = "" if isinstance(error, native.EOFError) else _meaning(address, error)
    return SourceLost(f"{address} {told or 'ended: the server closed the stream'}")


def _meaning(address: Address, error: Exception) -> str:
    if address.kind == "usb":
        return usb.meaning(error)
    if isinstance(error, native.HTTPUnauthorizedError):
        return "does not let us in (401): check user and password"
    if isinstance(error, native.HTTPForbiddenError):
        return "does not let us in (403): this user may not see the stream"
    if isinstance(error, native.HTTPNotFoundError):
        return "is not there (404): check the path"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections: check host and port, and whether the server runs"
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, native.InvalidDataError):
        return "answers with something that is no video stream"
    unknown = _unknown_host(address) if isinstance(error, OSError) else None
    if unknown is not None:
        return f"cannot be reached: there is no host {address.host} ({unknown})"
    return f"cannot be read: {without_secrets(reason(error), address)}"


def _unknown_host(address: Address) -> str | None:
    """Why the host's name has no address, which FFmpeg does not tell; None if it has one."""
    if not address.host:
        return None
    try:
        socket.getaddrinfo(address.host, None)
    except (OSError, UnicodeError) as error:
        return reason(error)
    return None


def _cleaned(address: Address, error: Exception) -> Exception:
    """The error for `raise … from`, since its own words repeat the address with the password."""
    words = [without_secrets(a, address) if isinstance(a, str) else a for a in error.args]
    if isinstance(error, native.FFmpegError):
        return type(error)(error.errno or 0, without_secrets(reason(error), address), str(address))
    return type(error)(*words)


def _choose_video(container: InputContainer, address: Address) -> VideoStream:
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        raise DecodeError(f"{address} has no video")
    decodable = [s for s in videos if s.codec_context is not None]
    if not decodable:
        raise DecodeError(
            f"{address}: no decoder for its video codec: set the camera to H.264 or H.265"
        )
    return max(decodable, key=lambda s: bool(s.disposition & Disposition.default))


def _choose_audio(container: InputContainer) -> AudioStream | None:
    sounds = [s for s in container.streams.audio if s.codec_context is not None]
    return max(sounds, key=lambda s: bool(s.disposition & Disposition.default), default=None)
