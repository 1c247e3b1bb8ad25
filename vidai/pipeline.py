"""Wires source, detector, steps and sinks together and runs them. Read this first.

    reader                 detector                     writer (or your loop)
    demux, decode  ──────▶ letterbox, infer, NMS ─────▶ steps, sinks
       │                   see batcher.py                    ▲
       └── a window of frames in flight, kept in order ──────┘

On a device that computes while its verbs run these are threads. On an asynchronous one they
take turns in one thread, because there each has next to nothing to do: the work is on the GPU,
and threads would only wait for each other.

The window is the only buffer of pictures: reading stops while it is full, so memory is bounded
however long the file is. Packets of sound and subtitles are never decoded; each
waits for the frame of its time, as far as the file has them apart.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Any, Protocol, TypeAlias

import av

from vidai.batcher import Pending, Ready, daemon
from vidai.detector import Detector
from vidai.device import Device, open_device
from vidai.errors import ConfigError, DecodeError, VidaiError, located
from vidai.report import Report
from vidai.sources.file import INTERLEAVE, FileSource
from vidai.steps import Step
from vidai.tracking import Tracker
from vidai.transfers import Transfers
from vidai.types import Detections, Frame

Item: TypeAlias = "Frame | av.Packet[Any]"
Submit: TypeAlias = "Callable[[Frame], Pending]"
Entry: TypeAlias = "tuple[Item, Pending | None]"
Found: TypeAlias = "tuple[Item, Detections, float]"  # and the seconds that it took


class Sink(Protocol):
    """Takes what comes out of a pipeline: check, open, then writes, then close or abort."""

    warnings: list[str]

    def check(self, source: FileSource, device: Device) -> None:
        """Raise ConfigError if this cannot work, before anything is written or loaded."""
        ...

    def open(self, source: FileSource, device: Device) -> None: ...

    def write(self, frame: Frame, detections: Detections) -> None: ...

    def write_packet(self, packet: av.Packet[Any]) -> None:
        """A packet of another stream of the source; it follows the frame that it begins with.

        The packet is shared with the other sinks: leave it as it is.
        """
        ...

    def close(self, *, partial: bool = False) -> str:
        """Finish the output and return its path; partial: under a name that says so."""
        ...

    def abort(self) -> None:
        """Leave nothing behind. May come at any time; after close it does nothing."""
        ...


# A loop that a program left open still has threads inside native code, which must not be
# torn down with the interpreter around them.
_unfinished: set[Callable[[], None]] = set()


@atexit.register
def _end_unfinished() -> None:
    for end in list(_unfinished):
        end()


class Pipeline:
    """One pass of one source through a detector, steps that change frames, and sinks.

    source: a path, or an open FileSource, which stays open. detector: None lets frames
    through with no detections. tracker: gives detections ids that stay with an object, one for
    each pipeline. steps: called in order as `frame = step(frame, detections)`.
    max_frames: stop after so many. strict: damaged input is a DecodeError instead of a
    count in the report. max_host_bytes_per_frame: a TransferError once more than that crossed
    between host and device memory, on average, by whoever uses the device; None: no limit.
    """

    def __init__(
        self,
        source: str | FileSource,
        detector: Detector | None = None,
        *,
        tracker: Tracker | None = None,
        steps: Sequence[Step] = (),
        sinks: Sequence[Sink] = (),
        device: Device | None = None,
        max_frames: int | None = None,
        strict: bool = False,
        max_host_bytes_per_frame: int | None = None,
    ) -> None:
        if max_frames is not None and max_frames < 1:
            raise ConfigError(f"max_frames is a number from 1 up, not {max_frames}")
        self.source = source if isinstance(source, FileSource) else FileSource(source)
        self.detector = detector
        self.tracker = tracker
        self.steps = tuple(steps)
        self.sinks = tuple(sinks)
        self.device = device or (detector.device if detector else open_device())
        self.max_frames = max_frames
        self.strict = strict
        self.max_host_bytes_per_frame = max_host_bytes_per_frame
        if detector and detector.device != self.device:
            raise ConfigError(
                f"the detector is on {detector.device.name}, and the pipeline on "
                f"{self.device.name}: open both on one device"
            )
        self._window = _window(self.device, detector)
        self._transfers_before: Transfers  # when the run began
        info = self.source.info
        self.report = Report(
            input=str(self.source.path),
            model=detector.model.name if detector else None,
            device=self.device.name,
            precision=detector.precision if detector else None,
            width=info.width,
            height=info.height,
            source_codec=info.codec,
            expected_frames=_expected_frames(self.source, max_frames),
            tracks=tracker.counts if tracker else None,
        )
        self._notes: list[str] = []
        self._own_source = not isinstance(source, FileSource)
        self._used = False
        self._end: Fraction | None = None  # where a cut ends, once it is known
        self._stop = threading.Event()
        self._abandon = threading.Event()

    def run(self, progress: Callable[[Report], None] | None = None) -> Report:
        """Process everything and return the report. A pipeline runs once.

        progress is called about ten times a second with the report as it grows; what it
        raises ends the run, and nothing is left. KeyboardInterrupt (and `stop`) end the run
        early and leave a playable output, under a name that says it is partial; a second
        KeyboardInterrupt gives up and leaves nothing. Raises ConfigError before anything is
        written, StreamError later; then no sink that was not finished leaves anything.
        """
        for sink in self.sinks:
            sink.check(self.source, self.device)
        self._begin()
        outcome: Future[None] = Future()
        writer = daemon("vidai-writer", self._write_all, outcome)
        try:
            self._wait(outcome, progress)
        except KeyboardInterrupt:
            self.stop()
            try:
                self._wait(outcome, progress)
            except KeyboardInterrupt:
                self._abandon.set()
                _unfinished.add(writer.join)  # even a third one leaves time to clean up
                self._wait(outcome, None)  # returns if all was finished meanwhile
        except BaseException:
            self._abandon.set()
            self._stop.set()
            wait([outcome])
            raise
        finally:
            if outcome.done():
                writer.join()
                _unfinished.discard(writer.join)
                if self._own_source:
                    self.source.close()
        return self.report

    def results(self) -> Generator[tuple[Frame, Detections], None, None]:
        """Frames with their detections, in order, as they become ready. Steps and sinks
        take no part. A frame is read-only: what draws on it draws on a copy. A pipeline runs
        once."""
        self._begin()
        try:
            with closing(self._ordered()) as ordered:
                for item, detections, _ in ordered:
                    if isinstance(item, Frame):
                        self.report.ledger.processed += 1
                        self._count_done()
                        yield _read_only(item), detections
        finally:
            self._account_for("not taken")
            if self._own_source:
                self.source.close()

    def stop(self) -> None:
        """End the run after the frames that are in flight; safe from any thread."""
        self.report.interrupted = True
        self._stop.set()

    # Reading: packets to frames, each handed to the detector at once.

    def _read_in_turn(self, submit: Submit) -> Generator[Entry, None, None]:
        """Entries in their order, read ahead by a window of frames, in the caller's thread."""
        ahead: deque[Entry] = deque()
        frames, failure = 0, None
        try:
            try:
                for item in self._in_step():
                    if not isinstance(item, Frame):
                        ahead.append((item, None))
                        continue
                    if self._stop.is_set():
                        break
                    self.report.ledger.received += 1
                    ahead.append((item, submit(item)))
                    frames += 1
                    while frames > self._window:
                        frames -= isinstance(ahead[0][0], Frame)
                        yield ahead.popleft()
            except Exception as error:  # what was read before comes first
                failure = error
            while ahead:
                yield ahead.popleft()
        finally:
            for _, pending in ahead:
                if pending:
                    pending.cancel()
        if failure:
            raise failure

    def _read_in_thread(self, submit: Submit) -> Generator[Entry, None, None]:
        """The same, read by a thread of its own."""
        window = threading.Semaphore(self._window)
        ready: queue.SimpleQueue[Entry | BaseException | None] = queue.SimpleQueue()
        reader = daemon("vidai-reader", self._read, submit, window, ready)

        def end() -> None:
            self._stop.set()
            window.release()
            reader.join()
            while not ready.empty():
                entry = ready.get()
                if isinstance(entry, tuple) and entry[1] is not None:
                    entry[1].cancel()

        _unfinished.add(end)
        try:
            while (entry := ready.get()) is not None:
                if isinstance(entry, BaseException):
                    raise entry
                if isinstance(entry[0], Frame):
                    window.release()
                yield entry
        finally:
            end()
            _unfinished.discard(end)

    def _read(
        self,
        submit: Submit,
        window: threading.Semaphore,
        ready: queue.SimpleQueue[Entry | BaseException | None],
    ) -> None:
        try:
            for item in self._in_step():
                if not isinstance(item, Frame):
                    ready.put((item, None))
                    continue
                window.acquire()
                if self._stop.is_set():
                    break
                self.report.ledger.received += 1
                ready.put((item, submit(item)))
        except BaseException as error:
            ready.put(error)
        finally:
            ready.put(None)

    def _in_step(self) -> Iterator[Item]:
        """Frames and packets of the other streams, each packet after the frame of its time.

        So a run that ends early, for whatever reason, ends all streams at one time.
        """
        held: dict[int, deque[av.Packet[Any]]] = {}  # by stream
        for item in self._selected():
            if not isinstance(item, Frame):
                held.setdefault(item.stream_index, deque()).append(item)
                continue
            yield item
            if not held:
                continue
            now = item.pts * item.info.time_base
            for packets in held.values():
                while packets and _time_of(packets[0]) <= now:
                    yield packets.popleft()
        if not self._stop.is_set():
            rest = chain.from_iterable(held.values())
            yield from (p for p in rest if self._end is None or _time_of(p) < self._end)

    def _selected(self) -> Iterator[Item]:
        """Frames from start to end, numbered from 0, and the other streams' packets between."""
        source = self.source
        count = 0
        for item in self._decoded():
            if not isinstance(item, Frame):
                yield item
            elif self._end is not None:
                continue
            elif count == self.max_frames or source.ends_before(item):
                self._end = item.pts * item.info.time_base  # sound before it may still follow
            elif source.keeps(item.pts, item.info.time_base):
                yield item if item.index == count else replace(item, index=count)
                count += 1

    def _decoded(self) -> Iterator[Item]:
        decoder = self.device.decoder(self.source.video, self.source.info)
        self._notes = decoder.notes
        for packet in chain(self.source.packets(), (None,)):
            if self._stop.is_set():
                return
            if packet is not None and packet.stream is not self.source.video:
                yield packet
                continue
            if self._end is not None:
                if packet is None or _time_of(packet) > self._end + INTERLEAVE:
                    return
                continue
            start = time.perf_counter()
            frames = decoder.decode(packet)
            self.report.stages["decode"] += time.perf_counter() - start
            self.report.damaged = decoder.damaged + self.source.damaged
            if self.strict and self.report.damaged:
                where = f" near {frames[0].time:.3f} s" if frames else ""
                raise DecodeError(f"{self.source.path} is damaged{where}, and strict was asked for")
            yield from frames

    # Consumer: everything in the order in which it was read.

    def _begin(self) -> None:
        if self._used:
            raise ConfigError("a pipeline runs once: make another one")
        self._used = True
        self._transfers_before = self.device.transfers.snapshot()

    def _ordered(self) -> Generator[Found, None, None]:
        read = self._read_in_turn if self.device.asynchronous else self._read_in_thread
        nothing = Detections.empty()
        with ExitStack() as shared:
            submit: Submit = _undetected
            if self.detector:
                submit = shared.enter_context(self.detector.batching())
            _unfinished.add(shared.close)
            shared.callback(_unfinished.discard, shared.close)
            with closing(read(submit)) as entries:
                for item, pending in entries:
                    detections, seconds = pending.result() if pending else (nothing, 0.0)
                    if self.tracker and isinstance(item, Frame):
                        detections = self.tracker.update(detections, item.time)
                    yield item, detections, seconds

    # Writer thread of run().

    def _write_all(self, outcome: Future[None]) -> None:
        try:
            self._write_through()
        except BaseException as error:
            for sink in self.sinks:
                with suppress(Exception):  # one that fails must not keep the others
                    sink.abort()
            self._account_for(type(error).__name__)
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    def _write_through(self) -> None:
        report = self.report
        started, cpu_before = time.perf_counter(), time.process_time()
        for sink in self.sinks:
            sink.open(self.source, self.device)
        with closing(self._ordered()) as ordered:
            for item, detections, seconds in self._in_turns(ordered):
                if self._abandon.is_set():
                    raise KeyboardInterrupt
                if not isinstance(item, Frame):
                    for sink in self.sinks:
                        sink.write_packet(item)
                    continue
                report.stages["detect"] += seconds
                self._write(item, detections)
                report.seconds = time.perf_counter() - started
                report.first_frame_seconds = report.first_frame_seconds or report.seconds
        if self._abandon.is_set():
            raise KeyboardInterrupt
        if report.ledger.processed:
            report.outputs += [sink.close(partial=report.interrupted) for sink in self.sinks]
        elif not report.interrupted:
            raise DecodeError(self._nothing_decoded())
        else:
            for sink in self.sinks:
                sink.abort()
        report.seconds = time.perf_counter() - started
        report.cpu_seconds = time.process_time() - cpu_before
        report.transfers = self.device.transfers.since(self._transfers_before)
        if told := self.damage():
            report.warnings.append(told)
        report.warnings += self._notes + (self.detector.notes if self.detector else [])
        for sink in self.sinks:
            report.warnings += sink.warnings

    def _in_turns(self, entries: Iterator[Found]) -> Iterator[Found]:
        """The entries; on an asynchronous device some in a row, then other pipelines' threads."""
        if not self.device.asynchronous:
            yield from entries
            return
        turns, length = self.device.turns, self.device.max_batch
        turns.take()
        try:
            for count, entry in enumerate(entries, 1):
                yield entry
                if count % length == 0 and turns.wanted:
                    turns.give()
                    turns.take()
        finally:
            turns.give()

    def damage(self) -> str | None:
        """What is wrong with the input, as far as it has been read; None while all is well."""
        if not self.report.damaged:
            return None
        cause = f" ({self.source.damage})" if self.source.damage else ""
        return (
            f"{self.source.path} is damaged{cause}: {self.report.damaged} packets or frames could "
            f"not be read whole, what could was processed"
        )

    def _write(self, frame: Frame, detections: Detections) -> None:
        report = self.report
        start = time.perf_counter()
        try:
            for step in self.steps:
                frame = step(frame, detections)
        except VidaiError as error:
            raise located(frame, error)  # noqa: B904 (it sets its cause)
        report.stages["draw"] += time.perf_counter() - start
        start = time.perf_counter()
        for sink in self.sinks:
            sink.write(frame, detections)
        report.stages["encode"] += time.perf_counter() - start
        self._count_done()
        report.detections.update(detections.name(int(i)) for i in detections.class_ids)
        report.ledger.processed += 1

    def _count_done(self) -> None:
        transfers, budget = self.device.transfers, self.max_host_bytes_per_frame
        transfers.frame_done()
        if budget is not None:
            transfers.check(budget, self._window, since=self._transfers_before)

    def _account_for(self, reason: str) -> None:
        """What was received and not processed, because the run ended, is told in the ledger."""
        self.report.transfers = self.device.transfers.since(self._transfers_before)
        ledger = self.report.ledger
        lost = ledger.received - ledger.processed - ledger.dropped.total() - ledger.failed.total()
        if lost:
            ledger.failed[reason] += lost

    def _nothing_decoded(self) -> str:
        if self.report.damaged:
            return f"no frame of {self.source.path} could be decoded: the file is damaged"
        return f"{self.source.path} has no frame in the part that was asked for"

    def _wait(self, outcome: Future[None], progress: Callable[[Report], None] | None) -> None:
        while not wait([outcome], timeout=0.1).done:
            if progress:
                progress(self.report)
        outcome.result()


def _window(device: Device, detector: Detector | None) -> int:
    """How many frames may be in flight: enough to keep the device busy."""
    if device.asynchronous:
        return (device.workers + 1) * (detector.max_batch if detector else 1)
    return 2 * device.workers + 2


def _read_only(frame: Frame) -> Frame:
    return replace(frame, writable=False) if frame.writable else frame


def _undetected(frame: Frame) -> Pending:
    return Ready()


def _time_of(packet: av.Packet[Any]) -> Fraction:
    """When the packet begins, in s; one without a time goes out at once."""
    ticks = packet.dts if packet.pts is None else packet.pts
    return Fraction(-1 << 40) if ticks is None else ticks * packet.time_base


def _expected_frames(source: FileSource, max_frames: int | None) -> int | None:
    """How many frames to expect, from what the container says; None when it does not."""
    info = source.info
    count: float | None = source.video.frames or None
    if info.duration and info.frame_rate:
        first = 0.0 if source.begin is None else float(source.begin) - (info.start or 0.0)
        last = info.duration
        if source.until is not None:
            last = min(last, float(source.until) - (info.start or 0.0))
        share = max(0.0, last - first) / info.duration
        count = share * (count or info.duration * float(info.frame_rate))
    if count is None:
        return max_frames
    return min(round(count), max_frames or round(count))
