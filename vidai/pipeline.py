"""Wires source, detector, steps and sinks together and runs them. Read this first.

    reader thread          detector threads             writer thread (or your loop)
    demux, decode  ──────▶ letterbox, infer, NMS ─────▶ steps, sinks
       │                        one frame each               ▲
       └── a window of frames in flight, kept in order ──────┘

The window is the only buffer: the reader waits while it is full, so memory is bounded
however long the file is. Packets of sound and subtitles travel in the same order
between the frames and are never decoded.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol, TypeAlias

import av

from vidai.detector import Detector
from vidai.device import Device, open_device
from vidai.errors import DecodeError
from vidai.report import Report
from vidai.sources.file import FileSource
from vidai.types import Detections, Frame

Item: TypeAlias = "Frame | av.Packet[Any]"
Detected: TypeAlias = "tuple[Detections, float]"  # and the seconds that it took
Step = Callable[[Frame, Detections], Frame]


class Sink(Protocol):
    """Takes what comes out of a pipeline. Exactly one of close and abort ends it."""

    warnings: list[str]

    def check(self, source: FileSource) -> None:
        """Raise ConfigError if this cannot work, before anything is written or loaded."""
        ...

    def open(self, source: FileSource, device: Device) -> None: ...

    def write(self, frame: Frame, detections: Detections) -> None: ...

    def write_packet(self, packet: av.Packet[Any]) -> None:
        """A packet of another stream of the source, in the source's order."""
        ...

    def close(self, *, partial: bool = False) -> str:
        """Finish the output and return its path; partial: under a name that says so."""
        ...

    def abort(self) -> None:
        """Leave nothing behind."""
        ...


class Pipeline:
    """One pass of one source through a detector, steps that change frames, and sinks.

    source: a path or an open FileSource. detector: None lets frames through with no
    detections. steps: called in order as `frame = step(frame, detections)`. max_frames:
    stop after so many. strict: damaged input is a DecodeError instead of a count in the
    report.
    """

    def __init__(
        self,
        source: str | FileSource,
        detector: Detector | None = None,
        *,
        steps: Sequence[Step] = (),
        sinks: Sequence[Sink] = (),
        device: Device | None = None,
        max_frames: int | None = None,
        strict: bool = False,
    ) -> None:
        self.source = source if isinstance(source, FileSource) else FileSource(source)
        self.detector = detector
        self.steps = tuple(steps)
        self.sinks = tuple(sinks)
        self.device = device or (detector.device if detector else open_device())
        self.max_frames = max_frames
        self.strict = strict
        info = self.source.info
        self.report = Report(
            input=str(self.source.path),
            model=detector.model.name if detector else None,
            device=self.device.name,
            width=info.width,
            height=info.height,
            source_codec=info.codec,
            expected_frames=_expected_frames(self.source, max_frames),
        )
        self._stop = threading.Event()
        self._abandon = threading.Event()

    def run(self, progress: Callable[[Report], None] | None = None) -> Report:
        """Process everything and return the report.

        progress is called about ten times a second with the report as it grows.
        KeyboardInterrupt ends the run early and leaves a playable output, under a name
        that says it is partial; a second one gives up and leaves nothing. Raises
        StreamError; then, too, no sink leaves anything behind.
        """
        with ThreadPoolExecutor(1, "vidai-writer") as executor:
            writer = executor.submit(self._write_all)
            try:
                self._wait(writer, progress)
            except KeyboardInterrupt:
                self.report.interrupted = True
                self._stop.set()
                try:
                    self._wait(writer, progress)
                except KeyboardInterrupt:
                    self._abandon.set()
                    raise
        return self.report

    def results(self) -> Generator[tuple[Frame, Detections], None, None]:
        """Frames with their detections, in order, as they become ready."""
        with closing(self._ordered()) as ordered:
            for item, detections, _ in ordered:
                if isinstance(item, Frame):
                    yield item, detections

    def stop(self) -> None:
        """End the run after the frames that are in flight; safe from any thread."""
        self._stop.set()

    # Reader thread: packets to frames, each handed to the detector's threads at once.

    def _read(
        self,
        pool: ThreadPoolExecutor,
        window: threading.Semaphore,
        ready: queue.SimpleQueue[tuple[Item, Future[Detected] | None] | None],
    ) -> None:
        try:
            for item in self._selected():
                if not isinstance(item, Frame):
                    ready.put((item, None))
                    continue
                window.acquire()
                if self._stop.is_set():
                    return
                self.report.ledger.received += 1
                ready.put((item, pool.submit(self._detect, item)))
        finally:
            ready.put(None)

    def _selected(self) -> Iterator[Item]:
        """Frames from start to end, numbered from 0, and the other streams' packets between."""
        source = self.source
        count = 0
        for item in self._decoded():
            if not isinstance(item, Frame):
                yield item
            elif count == self.max_frames or source.ends_before(item):
                return
            elif source.keeps(item.pts, item.info.time_base):
                yield replace(item, index=count)
                count += 1

    def _decoded(self) -> Iterator[Item]:
        decoder = self.device.decoder(self.source.video, self.source.info)
        for packet in chain(self.source.packets(), (None,)):
            if self._stop.is_set():
                return
            if packet is not None and packet.stream is not self.source.video:
                yield packet
                continue
            start = time.perf_counter()
            frames = decoder.decode(packet)
            self.report.stages["decode"] += time.perf_counter() - start
            self.report.damaged = decoder.damaged + self.source.damaged
            if self.strict and self.report.damaged:
                where = f" near {frames[0].time:.3f} s" if frames else ""
                raise DecodeError(f"{self.source.path} is damaged{where}, and strict was asked for")
            yield from frames

    def _detect(self, frame: Frame) -> Detected:
        start = time.perf_counter()
        detections = self.detector([frame])[0] if self.detector else Detections.empty()
        return detections, time.perf_counter() - start

    # Consumer: everything in the order in which it was read.

    def _ordered(self) -> Generator[tuple[Item, Detections, float], None, None]:
        workers = self.device.workers if self.detector else 1
        window = threading.Semaphore(2 * workers + 2)
        ready: queue.SimpleQueue[tuple[Item, Future[Detected] | None] | None] = queue.SimpleQueue()
        nothing = Detections.empty()
        with (
            ThreadPoolExecutor(workers, "vidai-detector") as pool,
            ThreadPoolExecutor(1, "vidai-reader") as reader_pool,
        ):
            reader = reader_pool.submit(self._read, pool, window, ready)
            try:
                while (entry := ready.get()) is not None:
                    item, future = entry
                    if future is None:
                        yield item, nothing, 0.0
                        continue
                    detections, seconds = future.result()
                    window.release()
                    yield item, detections, seconds
                reader.result()
            finally:
                self._stop.set()
                window.release()
                pool.shutdown(wait=False, cancel_futures=True)

    # Writer thread of run().

    def _write_all(self) -> None:
        report = self.report
        started, cpu_before = time.perf_counter(), time.process_time()
        try:
            for sink in self.sinks:
                sink.open(self.source, self.device)
            with closing(self._ordered()) as ordered:
                for item, detections, seconds in ordered:
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
            if not report.ledger.processed:
                if not report.interrupted:
                    raise DecodeError(self._nothing_decoded())
                for sink in self.sinks:
                    sink.abort()
                return
            for sink in self.sinks:
                report.outputs.append(sink.close(partial=report.interrupted))
        except BaseException:
            for sink in self.sinks:
                sink.abort()
            raise
        report.seconds = time.perf_counter() - started
        report.cpu_seconds = time.process_time() - cpu_before
        if report.damaged:
            cause = f" ({self.source.damage})" if self.source.damage else ""
            report.warnings.append(
                f"{self.source.path} is damaged{cause}: {report.damaged} packets or frames could "
                f"not be read whole, what could was processed"
            )
        for sink in self.sinks:
            report.warnings += sink.warnings

    def _write(self, frame: Frame, detections: Detections) -> None:
        report = self.report
        start = time.perf_counter()
        for step in self.steps:
            frame = step(frame, detections)
        report.stages["draw"] += time.perf_counter() - start
        start = time.perf_counter()
        for sink in self.sinks:
            sink.write(frame, detections)
        report.stages["encode"] += time.perf_counter() - start
        report.detections.update(detections.name(int(i)) for i in detections.class_ids)
        report.ledger.processed += 1

    def _nothing_decoded(self) -> str:
        if self.report.damaged:
            return f"no frame of {self.source.path} could be decoded: the file is damaged"
        return f"{self.source.path} has no frame in the part that was asked for"

    def _wait(self, writer: Future[None], progress: Callable[[Report], None] | None) -> None:
        while not wait([writer], timeout=0.1).done:
            if progress:
                progress(self.report)
        writer.result()


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
