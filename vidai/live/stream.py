"""One stream: a thread that reads, and a follower that goes on with its frames. The only retry.

    reader                         inbox                 follower (follower.py)
    connect, demux, decode  ───▶  newest or every  ───▶  detect, track, tell, draw, encode
       │  (again and again)                                 │
       └── camera's packets ──▶ outlets ◀── records, events, annotated packets

Whatever its camera does stays in its threads: others share the detector with it, and nothing
else.
"""

from __future__ import annotations

import io
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any, Literal

import av

from vidai.batcher import daemon
from vidai.device import Decoder, EncoderSettings
from vidai.errors import ConfigError, SourceLost, sentence
from vidai.live.annotated import Annotated
from vidai.live.clock import StreamClock
from vidai.live.config import StreamConfig
from vidai.live.events import Event
from vidai.live.follower import Follower, Shared
from vidai.live.inbox import Arrived, Inbox
from vidai.live.outlet import Outlet
from vidai.live.output import CLOCK, Media, Sample
from vidai.live.rates import Rate
from vidai.live.rules import RuleState
from vidai.live.status import StreamStatus
from vidai.report import Ledger
from vidai.sources.address import Address
from vidai.sources.backoff import Backoff
from vidai.sources.live import LiveSource
from vidai.steps import Redact, steps_from
from vidai.tracking import Tracker
from vidai.types import Frame, StreamInfo

HELD = 64  # packets that at most wait for the picture of their keyframe
FLOOD = 2.0  # s of pictures at max_fps that may come at once
PAUSE = 0.01  # s after a packet too many: who sends faster than that is held back
SPREAD = 0.5  # of the time between pictures at max_fps, that those of a flood are apart at least
USUAL_FPS = 25.0  # of a camera that is not known yet
READER_ENDS = 1.0  # s that it may take


class Stream:
    """One camera, from `start` to `stop`."""

    def __init__(
        self,
        name: str,
        config: StreamConfig,
        shared: Shared,
        make_outlets: Callable[[Callable[..., Event]], Sequence[Outlet]],
    ) -> None:
        self.name = name
        self.config = config
        self._shared = shared
        self._device = shared.device.lane()
        self._address = Address(config.url)
        self._status = StreamStatus(name, str(self._address), priority=config.priority)
        self._inbox = Inbox(newest=config.policy == "newest", max_delay=config.max_delay)
        steps = steps_from(config.steps)
        tracker = Tracker() if config.track else None
        self._came = Rate()
        self._stopping = Flag()
        self._source: LiveSource | None = None
        self._lock = Lock()  # of _source
        self._media: Media | None = None  # of the connection that is read
        self._held: list[Sample] = []  # a keyframe whose size is not known yet, and what followed
        self._last_ticks = 0  # of CLOCK, over all connections
        self._frames = 0
        self._rate = 0.0  # frames a second, as the camera says; 0: it does not
        self._reader: Thread | None = None
        # Last, as what is open then must be closed.
        self.outlets: Sequence[Outlet] = ()
        self.outlets = make_outlets(self._emit)
        settings = EncoderSettings(config.codec, config.quality, bframes=0, live=True)
        self._annotated = Annotated(self._device, steps, settings, self.outlets)
        self.follower = Follower(
            shared,
            self._status,
            self._inbox,
            tracker=tracker,
            rules=RuleState(config.rules) if config.rules else None,
            annotated=self._annotated,
            outlets=self.outlets,
            emit=self._emit,
        )

    def start(self) -> None:
        self._reader = daemon(f"vidai-read-{self.name}", self._read)
        self.follower.start()

    def ask_to_stop(self) -> None:
        """Read no more; what was read goes through."""
        self._stopping.set()
        with self._lock:
            if self._source is not None:
                self._source.close()

    def stop(self, timeout: float) -> bool:
        """End it: frames that were read go through, files are closed. Whether all was done in
        `timeout` s; else the rest ends later, or with the program."""
        until = time.monotonic() + timeout
        self.ask_to_stop()
        if self._reader is not None:
            # One that is just connecting has nothing to lose, and ends when it is done with that.
            self._reader.join(min(READER_ENDS, timeout))
        self._inbox.close()
        through = self.follower.join(until - time.monotonic())
        for outlet in self.outlets:
            outlet.ask_to_close()
        closed = [outlet.close(max(0.1, until - time.monotonic())) for outlet in self.outlets]
        self._shared.metrics.forget(self.name)
        self._tell_ledger()
        return all(closed) and through

    def _tell_ledger(self) -> None:
        """The account, for the log: with the stream its status goes."""
        status = self.status()
        ledger = status.ledger
        self._emit(
            "ledger",
            f"{self.name} ended: {_account(ledger)}",
            received=ledger.received,
            processed=ledger.processed,
            dropped=dict(ledger.dropped),
            failed=dict(ledger.failed),
            waiting=status.waiting,
            analysed=status.analysed,
            connections=status.connections,
            outputs=[vars(output) for output in status.outputs],
        )

    @property
    def native_fps(self) -> float:
        """Frames a second of the camera, as it says or as they came."""
        return self._rate or float(math.ceil(self._came.per_second)) or USUAL_FPS

    def status(self) -> StreamStatus:
        """A copy; frames under way are in `waiting`."""
        status = self._status
        ledger = status.ledger
        return replace(
            status,
            fps_in=self._came.per_second,
            fps_out=self.follower.went.per_second,
            fps_analysed=self.follower.analysed.per_second,
            latency=self.follower.latencies.summary(),
            waiting=self.follower.waiting,
            ledger=replace(ledger, dropped=Counter(ledger.dropped), failed=Counter(ledger.failed)),
            outputs=[outlet.status() for outlet in self.outlets],
            history=status.history.copy(),
            watching=any(outlet.kind == "hls" for outlet in self.outlets),
        )

    @property
    def is_active(self) -> bool:
        """Whether its frames compete for the device."""
        return self._status.state in ("connecting", "live")

    def remember(self) -> None:
        """A point of the history, taken every two seconds."""
        latency = self.follower.latencies.summary().get("p95", 0.0)
        self._status.history.append((self.follower.went.per_second, latency))

    def set_rates(self, wanted: float, granted: float | None) -> None:
        """What was asked for and what is granted, in analyses a second; None: every frame."""
        self.follower.granted = granted
        self._status.wanted_fps = wanted
        self._status.granted_fps = wanted if granted is None else granted

    # The reader's thread.

    def _read(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._become("connecting")
            try:
                self._connect_and_play(backoff)
            except Exception as error:
                if self._stopping.is_set():
                    break
                if isinstance(error, ConfigError) and self._address.kind != "file":
                    self._become("stopped", str(error))
                    self._emit("failed", f"{self.name} can never be read: {error}")
                    break
                self._lost(error)  # also a file that is not there: its disk may come
                self._stopping.wait(backoff.after(error))
            else:
                break
        if self._status.state != "stopped":
            self._become("stopped" if self._stopping.is_set() else "ended")
        self._inbox.close()

    def _connect_and_play(self, backoff: Backoff) -> None:
        """Returns when a file has ended, or on `stop`. Raises VidaiError."""
        config = self.config
        source = LiveSource(
            self._address,
            name=self.name,
            transport=config.transport,
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            loop=config.loop,
        )
        with source:
            with self._lock:
                if self._stopping.is_set():
                    return
                self._source = source
            try:
                backoff.connected()
                self._connected(source.info)
                self._play(source)
            finally:
                with self._lock:
                    self._source = None
                self._end_camera()

    def _play(self, source: LiveSource) -> None:
        clock = StreamClock(self._last_ticks)
        info = replace(source.info, time_base=CLOCK)
        decoder = self._device.decoder(source.video, info, low_delay=True)
        self._begin_camera(Media(info, source.video, source.audio))
        meter = Meter(self.config.max_fps)
        damaged = self._status.damaged
        last_picture: float | None = None  # or when a decoder was last without packets
        for packet in source.packets():
            arrived = time.monotonic()
            clock.stamp(packet, time.time())
            self._last_ticks = clock.last
            if packet.stream is not source.video:
                self._sound(packet)
                continue
            if not meter.admits(packet.is_keyframe, arrived):
                self._status.ledger.received += 1
                self._status.ledger.dropped["flood"] += 1
                self._stopping.wait(PAUSE)
                last_picture = None
                continue
            if meter.is_strained:  # spread over time, not all at once, which others would feel
                self._stopping.wait(SPREAD / self.config.max_fps)
            last_picture = arrived if last_picture is None else last_picture
            self._give_copy(packet)
            frames = decoder.decode(packet)
            self._status.damaged = damaged + decoder.damaged
            if frames:
                last_picture = time.monotonic()
            elif arrived - last_picture > self.config.read_timeout:
                raise SourceLost(
                    f"{self._address} sends packets, but not one picture of them could be decoded "
                    f"for {self.config.read_timeout:g} s"
                )
            for frame in frames:
                info = self._mind_change(info, frame)
                self._take(frame, arrived, last_picture - arrived)
        self._take_rest(decoder)

    def _take_rest(self, decoder: Decoder) -> None:
        now = time.monotonic()
        for frame in decoder.decode(None):
            self._take(frame, now, 0.0)

    def _take(self, frame: Frame, arrived: float, decoding: float) -> None:
        frame = replace(frame, index=self._frames)
        self._frames += 1
        self._came.count()
        ledger = self._status.ledger
        ledger.received += 1
        assert self._media is not None
        if dropped := self._inbox.put(Arrived(frame, arrived, decoding, self._media)):
            ledger.dropped["newer came"] += dropped

    def _connected(self, info: StreamInfo) -> None:
        status = self._status
        status.connections += 1
        status.width, status.height = info.display_size
        status.codec = info.codec
        self._rate = float(info.frame_rate or 0)
        self._become("live")
        again = " again" if status.connections > 1 else ""
        self._emit(
            "connected",
            f"{self.name} is live{again}: {info.codec} {status.width}x{status.height}",
            address=status.address,
        )

    def _lost(self, error: Exception) -> None:
        """Tell why, once for each loss; then again when the reason is another."""
        told = sentence(error)
        before = self._status.error
        self._become("retrying", told)
        if told != before:
            self._emit("lost", f"{self.name} is lost, trying again: {told}")

    def _become(self, state: str, error: str | None = None) -> None:
        status = self._status
        if state == "live":
            status.error = None
        elif error is not None:
            status.error = error
        if status.state != state or not status.since:
            status.state, status.since = state, time.time()

    # What the camera sends, to outputs that take it as it is.

    def _begin_camera(self, media: Media) -> None:
        self._media = media
        for outlet in self._camera_outlets():
            outlet.begin(media)

    def _end_camera(self) -> None:
        self._release()
        self._media = None
        for outlet in self._camera_outlets():
            outlet.end()

    def _camera_outlets(self) -> list[Outlet]:
        return [outlet for outlet in self.outlets if outlet.output.pictures == "camera"]

    def _give_copy(self, packet: av.Packet[Any]) -> None:
        """A packet of the video for those outputs.

        On bytes of its own: a decoder may take the packet's away.
        """
        if not self._camera_outlets():
            return
        copy: av.Packet[Any] = av.Packet(bytes(packet))
        copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
        copy.time_base, copy.is_keyframe = CLOCK, packet.is_keyframe
        copy.is_corrupt = packet.is_corrupt
        self._give(_sample(copy, "video"))

    def _give(self, sample: Sample) -> None:
        """From a keyframe on all is held until its picture tells its size, which takes some more
        packets where pictures come in another order."""
        begins = sample.kind == "video" and sample.is_keyframe
        if begins or len(self._held) >= HELD:
            self._release()
        if begins or self._held:
            self._held.append(sample)
        else:
            self._send(sample)

    def _release(self) -> None:
        held, self._held = self._held, []
        for sample in held:
            self._send(sample)

    def _send(self, sample: Sample) -> None:
        for outlet in self._camera_outlets():
            outlet.sample(sample)

    def _sound(self, packet: av.Packet[Any]) -> None:
        sample = _sample(packet, "audio")
        self._give(sample)
        if self._media is not None:
            self._annotated.sound(sample, self._media)

    def _mind_change(self, before: StreamInfo, frame: Frame) -> StreamInfo:
        """The info from here on. Where the picture changes within a connection, outputs that
        keep packets begin anew, with the headers that came with it."""
        now = frame.info
        known = bool(self._held) and frame.pts >= self._held[0].pts
        same = (before.width, before.height, before.pixel_format)
        if same != (now.width, now.height, now.pixel_format):
            self._status.width, self._status.height = now.display_size
            self._emit(
                "changed",
                f"{self.name} changed from {before.width}x{before.height} "
                f"to {now.width}x{now.height}",
            )
            if known and self._media is not None:
                held, self._held = self._held, []
                media = _with_headers_of(held[0], now, self._media)
                self._end_camera()
                self._begin_camera(media)
                self._held = held
        if known:
            self._release()
        return now

    def _emit(self, kind: str, text: str, **data: Any) -> Event:
        event = self._shared.events.emit(kind, text, self.name, **data)
        if kind != "output-failed":  # an output that fails at telling would never come to an end
            for outlet in self.outlets:
                outlet.event(event)
        return event


def _account(ledger: Ledger) -> str:
    told = [f"{ledger.received} frames came", f"{ledger.processed} went through"]
    told += [f"{count} dropped ({why})" for why, count in ledger.dropped.items()]
    told += [f"{count} failed ({why})" for why, count in ledger.failed.items()]
    return ", ".join(told)


def _sample(packet: av.Packet[Any], kind: Literal["video", "audio"]) -> Sample:
    assert packet.pts is not None
    assert packet.dts is not None
    return Sample(packet, kind, packet.pts, packet.dts)


def _with_headers_of(sample: Sample, info: StreamInfo, before: Media) -> Media:
    """What the video is like from this keyframe on; as it was, where it brings no headers."""
    with (
        suppress(av.FFmpegError, ValueError, IndexError),
        av.open(io.BytesIO(bytes(sample.packet)), format=info.codec) as headers,
    ):
        if (video := headers.streams.video[0]).width:
            return Media(info, video, before.audio)
    return before


class Meter:
    """Lets no more than `fps` pictures a second pass, over some seconds."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._left = FLOOD * fps
        self._last: float | None = None
        self._shut = False  # until a keyframe

    @property
    def is_strained(self) -> bool:
        """Whether more came lately than can go on."""
        return self._left < FLOOD * self._fps / 2

    def admits(self, is_keyframe: bool, now: float) -> bool:
        passed = 0.0 if self._last is None else now - self._last
        self._last = now
        self._left = min(FLOOD * self._fps, self._left + passed * self._fps)
        if self._left < 1 or (self._shut and not is_keyframe):
            self._shut = True
            return False
        self._shut = False
        self._left -= 1
        return True


def check_steps(steps: Sequence[Any], names: Sequence[str]) -> None:
    """Raises ConfigError where what is to be redacted is of a class that the model does not know:
    no picture could ever be shown."""
    for step in steps_from(steps):
        if isinstance(step, Redact) and (unknown := set(step.classes or ()) - set(names)):
            raise ConfigError(
                f"redact: the model finds no {', '.join(sorted(unknown))}; it knows "
                f"{', '.join(names) or 'no class names'}"
            )
