"""Frames between a stream's threads, and on their way into batches of all streams."""

from __future__ import annotations

import gc
import io
import itertools
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.surfaces import random_frame
from vidai.errors import DecodeError, DeviceError, ModelError, VidaiError
from vidai.live.gatherer import Found, Gatherer
from vidai.live.inbox import NEWEST_AGE, NEWEST_COUNT, Arrived, Inbox
from vidai.live.output import Media
from vidai.types import Detections, Frame

PATIENCE = 30.0  # s until what must happen counts as never happening


@cache
def picture(width: int = 32, height: int = 32) -> Frame:
    return random_frame(width, height)


def frame_of(number: int = 0, stream: str = "door", size: int = 32) -> Frame:
    frame = picture(size, size)
    return replace(frame, info=replace(frame.info, name=stream), index=number, pts=number)


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


# The inbox.


@cache
def connection() -> Media:
    with av.open(io.BytesIO(), "w", format="matroska") as home:
        return Media(picture().info, home.add_stream("mpeg4", rate=25))


def arrived(number: int, at: float = 0.0) -> Arrived:
    return Arrived(frame_of(number), at, 0.0, connection())


def left_in(inbox: Inbox) -> list[int]:
    inbox.close()
    return [one.frame.index for one in iter(inbox.get, None)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, 2)), max_size=80),
)
def test_the_newest_frames_stay_and_each_dropped_one_is_counted(
    life: list[tuple[float, int]],
) -> None:
    """Frames come after some time, then some are taken."""
    inbox, now = Inbox(newest=True, max_delay=2.0), 100.0
    got, dropped = [], 0
    for number, (wait, takes) in enumerate(life):
        now += wait
        dropped += inbox.put(arrived(number, now))
        assert 1 <= len(inbox) <= NEWEST_COUNT
        for _ in range(min(takes, len(inbox))):
            one = inbox.get()
            assert one is not None
            assert now - one.arrived <= NEWEST_AGE
            got.append(one.frame.index)
    got += left_in(inbox)
    assert got == sorted(set(got))
    assert len(got) + dropped == len(life)
    assert not life or got[-1] == len(life) - 1


def test_a_burst_leaves_the_last_of_it() -> None:
    inbox = Inbox(newest=True, max_delay=2.0)
    assert sum(inbox.put(arrived(n)) for n in range(100)) == 100 - NEWEST_COUNT
    assert left_in(inbox) == [*range(100 - NEWEST_COUNT, 100)]


@pytest.mark.parametrize("release", ["get", "close"])
def test_where_every_frame_counts_its_bringer_waits(release: str) -> None:
    inbox = Inbox(newest=False, max_delay=2.0)
    for number in range(3):
        assert inbox.put(arrived(number, number)) == 0
    dropped: list[int] = []
    thread = in_thread(lambda: dropped.append(inbox.put(arrived(3, 3.0))))
    time.sleep(0.05)
    assert thread.is_alive()
    assert len(inbox) == 3
    first = []
    if release == "get":
        one = inbox.get()
        assert one is not None
        first = [one.frame.index]
    else:
        inbox.close()
    ended(thread)
    assert dropped == [0]
    assert first + left_in(inbox) == [0, 1, 2, 3]


def test_who_waits_for_a_frame_is_told_of_the_end() -> None:
    inbox = Inbox(newest=True, max_delay=2.0)
    got: list[Arrived | None] = []
    threads = [in_thread(lambda: got.append(inbox.get())) for _ in range(3)]
    inbox.put(arrived(7))
    until(lambda: len(got) == 1)
    inbox.close()
    for thread in threads:
        ended(thread)
    assert sorted(one.frame.index if one else -1 for one in got) == [-1, -1, 7]
    assert inbox.get() is None


@pytest.mark.parametrize("newest", [True, False])
def test_nothing_is_lost_between_two_threads(newest: bool) -> None:
    inbox, got = Inbox(newest=newest, max_delay=0.05), []
    dropped = 0

    def take() -> None:
        while (one := inbox.get()) is not None:
            got.append(one.frame.index)

    taker = in_thread(take)
    for number in range(3000):
        dropped += inbox.put(arrived(number, number / 1000))
    inbox.close()
    ended(taker)
    assert len(got) + dropped == 3000
    assert got == sorted(set(got))
    assert newest or not dropped


def test_an_inbox_holds_no_frame_that_was_taken_or_dropped() -> None:
    inbox = Inbox(newest=True, max_delay=2.0)
    frames = [frame_of(n) for n in range(20)]
    held = [weakref.ref(frame) for frame in frames]
    for frame in frames:
        inbox.put(Arrived(frame, 0.0, 0.0, connection()))
    inbox.get()
    del frames, frame
    assert sum(ref() is not None for ref in held) == NEWEST_COUNT - 1


# The gatherer.


@dataclass
class Fake:
    """A detector whose result names the frame: one box per frame, its score of no meaning.

    bad: numbers of frames on which it fails, with this error. gate: it waits for it.
    """

    bad: frozenset[int] = frozenset()
    error: Callable[[], BaseException] = lambda: DeviceError("the GPU failed")
    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[tuple[str, int]]] = field(default_factory=list)
    sizes: list[set[tuple[int, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def input_size(self, frame: Frame) -> tuple[int, int]:
        return frame.width, frame.height

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        self.batches.append([(frame.info.name, frame.index) for frame in frames])
        self.sizes.append({self.input_size(frame) for frame in frames})
        assert self.gate.wait(PATIENCE)
        if self.bad & {frame.index for frame in frames}:
            raise self.error()
        return [found_in(frame) for frame in frames]


class Paced(Fake):
    """Ends a batch for every permit."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = threading.Semaphore(0)
        self.finished = 0
        self._lock = threading.Lock()
        self._under_way = 0

    def under_way(self) -> int:
        """Frames."""
        return self._under_way

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        with self._lock:
            self._under_way += len(frames)
            self.batches.append([(frame.info.name, frame.index) for frame in frames])
        assert self.permits.acquire(timeout=PATIENCE)
        with self._lock:
            self.finished += 1
            self._under_way -= len(frames)
        return [found_in(frame) for frame in frames]


def found_in(frame: Frame) -> Detections:
    box = np.full((1, 4), frame.index, np.float32)
    return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int32), (frame.info.name,))


@contextmanager
def gathering(
    detector: Fake,
    *,
    max_batch: int = 4,
    max_wait: float = 0.0,
    count: int = 1,
    clock: Callable[[], float] = time.monotonic,
    on_batch: Callable[[int, float], None] = lambda size, seconds: None,
) -> Iterator[Gatherer]:
    gatherer = Gatherer(
        detector,
        max_batch=max_batch,
        max_wait=max_wait,
        count=count,
        on_batch=on_batch,
        clock=clock,
    )
    try:
        yield gatherer
    finally:
        detector.gate.set()
        ended(in_thread(gatherer.close))


class Askers:
    """Threads that each ask for one frame, one after the other."""

    def __init__(self, gatherer: Gatherer, detector: Fake) -> None:
        self._gatherer = gatherer
        self._detector = detector
        self._threads: list[threading.Thread] = []
        self.outcomes: dict[tuple[str, int], Found | BaseException] = {}

    def ask(self, frame: Frame) -> None:
        key = frame.info.name, frame.index

        def detect() -> None:
            try:
                self.outcomes[key] = self._gatherer.submit(frame).result()
            except BaseException as error:
                self.outcomes[key] = error

        self._threads.append(in_thread(detect))
        until(lambda: self._brought() == len(self._threads))

    def _brought(self) -> int:
        begun = {key for batch in self._detector.batches for key in batch}
        return len(begun) + len(self._gatherer._waiting)

    def occupy(self) -> None:
        """The detector has the first frame, and waits at its gate."""
        self._detector.gate.clear()
        self.ask(frame_of(0))
        until(lambda: len(self._detector.batches) == 1)

    def all(self) -> dict[tuple[str, int], Found | BaseException]:
        for thread in self._threads:
            ended(thread)
        return self.outcomes


def test_a_frame_alone_goes_when_it_has_waited_long_enough() -> None:
    detector = Fake()
    with gathering(detector, max_wait=0.05) as gatherer:
        found = gatherer.submit(frame_of(3)).result()
    assert found.detections.boxes.tolist() == [[3.0] * 4]
    assert found.waited >= 0.05
    assert detector.batches == [[("door", 3)]]


def test_a_full_batch_waits_for_nobody() -> None:
    """The clock stands still, and the wait would be longer than anybody's patience."""
    detector, sizes = Fake(), []
    with gathering(
        detector, max_wait=1000, clock=lambda: 5.0, on_batch=lambda n, s: sizes.append((n, s))
    ) as gatherer:
        askers = Askers(gatherer, detector)
        for number in range(3):
            askers.ask(frame_of(number))
        assert detector.batches == []
        askers.ask(frame_of(3))
        outcomes = askers.all()
    assert detector.batches == [[("door", n) for n in range(4)]]
    assert sizes == [(4, 0.0)]
    assert all(isinstance(o, Found) and (o.waited, o.took) == (0.0, 0.0) for o in outcomes.values())


def test_the_wait_is_that_of_the_first() -> None:
    """Once its time is over the others go with it, though theirs is not."""
    now, detector = [100.0], Fake()
    with gathering(detector, max_wait=1000, clock=lambda: now[0]) as gatherer:
        askers = Askers(gatherer, detector)
        askers.ask(frame_of(0))
        now[0] += 999
        askers.ask(frame_of(1))
        assert detector.batches == []
        now[0] += 1.5
        askers.ask(frame_of(2))  # in time for the batch or not
        until(lambda: len(detector.batches) == 1)
        ended(in_thread(gatherer.close))
        outcomes = askers.all()
    assert detector.batches[0][:2] == [("door", 0), ("door", 1)]
    waited = {index: o.waited for (_, index), o in outcomes.items() if isinstance(o, Found)}
    assert waited == {0: 1000.5, 1: 1.5, 2: 0.0}


def test_what_came_meanwhile_is_one_batch_of_at_most_max_batch() -> None:
    detector = Fake()
    with gathering(detector) as gatherer:
        askers = Askers(gatherer, detector)
        askers.occupy()
        for number in range(1, 10):
            askers.ask(frame_of(number))
        detector.gate.set()
        outcomes = askers.all()
    assert [len(batch) for batch in detector.batches] == [1, 4, 4, 1]
    assert [index for batch in detector.batches for _, index in batch] == [*range(10)]
    for (_, index), found in outcomes.items():
        assert isinstance(found, Found)
        assert found.detections.boxes[0, 0] == index


def test_frames_of_different_input_sizes_never_share_a_batch() -> None:
    detector = Fake()
    with gathering(detector) as gatherer:
        askers = Askers(gatherer, detector)
        askers.occupy()
        for number in range(1, 12):
            askers.ask(frame_of(number, size=(32, 16, 16)[number % 3]))
        detector.gate.set()
        assert all(isinstance(o, Found) for o in askers.all().values())
    assert all(len(sizes) == 1 for sizes in detector.sizes)
    # First come, first served; those of the same size go along.
    assert [[index for _, index in batch] for batch in detector.batches] == [
        *([0], [1, 2, 4, 5], [3, 6, 9], [7, 8, 10, 11])
    ]


@pytest.mark.parametrize(("max_batch", "count"), [(3, 1), (4, 1), (4, 2), (1, 2)])
@pytest.mark.parametrize("odd", [None, 2])
def test_streams_that_all_want_more_are_served_alike(
    max_batch: int, count: int, odd: int | None
) -> None:
    """All of them wait whenever a batch begins. odd: one with another input size, which may
    neither win nor lose by that."""
    detector, names = Paced(), [f"camera-{n}" for n in range(7)]
    over = threading.Event()

    def hammer(name: str, size: int) -> None:
        for number in itertools.count():
            if over.is_set():
                break
            gatherer.submit(frame_of(number, name, size)).result()

    with gathering(detector, max_batch=max_batch, count=count) as gatherer:
        for n, name in enumerate(names):
            in_thread(partial(hammer, name, 16 if n == odd else 32))
        for _ in range(60):
            until(
                lambda: (
                    len(detector.batches) - detector.finished == count
                    and len(gatherer._waiting) + detector.under_way() == len(names)
                )
            )
            detector.permits.release()
        over.set()
        detector.permits.release(1000)
    served = Counter(dict.fromkeys(names, 0))
    for batch in detector.batches[:60]:
        served.update(name for name, _ in batch)
        assert max(served.values()) - min(served.values()) <= (1 if odd is None else 2)


def test_one_bad_frame_of_a_batch_fails_alone() -> None:
    detector = Fake(bad=frozenset([2]))
    with gathering(detector) as gatherer:
        askers = Askers(gatherer, detector)
        askers.occupy()
        for number in (1, 2, 3):
            askers.ask(frame_of(number, f"camera-{number}"))
        detector.gate.set()
        outcomes = askers.all()
        assert isinstance(gatherer.submit(frame_of(4)).result(), Found)
    error = outcomes.pop(("camera-2", 2))
    assert isinstance(error, DeviceError)
    assert str(error) == "camera-2 at 0.080 s: the GPU failed"
    for (_, index), found in outcomes.items():
        assert isinstance(found, Found)
        assert found.detections.boxes[0, 0] == index


@pytest.mark.parametrize(
    "kind", [ValueError, MemoryError, DecodeError, SystemExit, KeyboardInterrupt, GeneratorExit]
)
@pytest.mark.parametrize("companions", [0, 2])
def test_whatever_a_detector_raises_reaches_who_asked_and_nobody_else(
    kind: type[BaseException], companions: int
) -> None:
    """Also what would end a thread: the next frame finds it alive. It never is an error that
    `except Exception` lets through, which would end the stream's thread."""
    detector = Fake(bad=frozenset([1]), error=lambda: kind("no luck"))
    with gathering(detector) as gatherer:
        askers = Askers(gatherer, detector)
        askers.occupy()
        askers.ask(frame_of(1))
        for number in range(companions):
            askers.ask(frame_of(2 + number))
        detector.gate.set()
        outcomes = askers.all()
        assert isinstance(gatherer.submit(frame_of(9)).result(), Found)
    error = outcomes.pop(("door", 1))
    assert isinstance(error, Exception)
    assert "no luck" in str(error)
    assert all(isinstance(found, Found) for found in outcomes.values())


@pytest.mark.parametrize("given", [0, 1, 3])
def test_a_detector_that_gives_too_little_or_too_much_is_an_error(given: int) -> None:
    class Miscounting(Fake):
        def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
            super().__call__(frames)
            return [Detections.empty()] * given

    detector = Miscounting()
    with gathering(detector) as gatherer:
        askers = Askers(gatherer, detector)
        askers.occupy()
        askers.ask(frame_of(1))
        askers.ask(frame_of(2))
        detector.gate.set()
        outcomes = askers.all()
    assert len(outcomes) == 3
    wrong = [o for o in outcomes.values() if isinstance(o, ModelError)]
    assert len(wrong) == (0 if given == 1 else 3)  # where they are tried alone one is right


def test_a_frame_without_an_input_size_fails_alone() -> None:
    class Picky(Fake):
        def input_size(self, frame: Frame) -> tuple[int, int]:
            if frame.index == 1:
                raise ZeroDivisionError
            return super().input_size(frame)

    with gathering(Picky(), count=2) as gatherer:
        for _ in range(3):
            pending = gatherer.submit(frame_of(1))
            with pytest.raises(ZeroDivisionError):
                pending.result()
        assert isinstance(gatherer.submit(frame_of(0)).result(), Found)


def test_a_count_that_fails_keeps_nobody_waiting() -> None:
    def fail(size: int, seconds: float) -> None:
        raise RuntimeError("no metrics")

    seen: list[str] = []
    before, threading.excepthook = threading.excepthook, lambda args: seen.append(str(args))
    try:
        with gathering(Fake(), on_batch=fail) as gatherer:
            assert isinstance(gatherer.submit(frame_of(0)).result(), Found)
    finally:
        threading.excepthook = before


def test_closing_serves_what_waits_and_ends_all_threads() -> None:
    detector, before = Fake(), threading.active_count()
    with gathering(detector, max_wait=1000, count=3) as gatherer:
        askers = Askers(gatherer, detector)
        for number in range(3):
            askers.ask(frame_of(number))
        assert detector.batches == []
        ended(in_thread(gatherer.close))
        assert all(isinstance(found, Found) for found in askers.all().values())
    assert len(detector.batches) == 1
    until(lambda: threading.active_count() == before)


def test_a_frame_that_comes_after_the_end_is_refused() -> None:
    with gathering(Fake()) as gatherer:
        gatherer.close()
        thread_ended: list[BaseException] = []

        def late() -> None:
            try:
                gatherer.submit(frame_of(0)).result()
            except VidaiError as error:
                thread_ended.append(error)

        ended(in_thread(late))
        assert len(thread_ended) == 1


@pytest.mark.parametrize("companions", [0, 2])
@pytest.mark.parametrize(
    "error", [None, DeviceError("the GPU failed"), ValueError("no"), KeyboardInterrupt()]
)
def test_nothing_of_a_frame_is_held_when_it_is_done(
    error: BaseException | None, companions: int
) -> None:
    """Its memory goes at once, and not when the garbage collector comes: it may be a GPU's."""
    bad = frozenset() if error is None else frozenset(range(1, 4))

    class Fresh(Fake):
        def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
            held_here = [np.array(frame.width) for frame in frames]
            assert held_here
            return super().__call__(frames)

    detector = Fresh(bad=bad, error=lambda: type(error)(*error.args) if error else ValueError())
    detector.gate.clear()
    failures: list[str] = []

    def follow(gatherer: Gatherer, frame: list[Frame]) -> None:
        """As a stream's thread does it."""
        try:
            gatherer.submit(frame.pop()).result()
        except Exception as failure:
            failures.append(str(failure))

    gc.collect()
    gc.disable()
    try:
        with gathering(detector) as gatherer:
            refs, threads = [], []
            for number in range(2 + companions):
                frame = frame_of(number)
                refs.append(weakref.ref(frame))
                waiting = len(gatherer._waiting)
                box = [frame]
                del frame
                threads.append(in_thread(partial(follow, gatherer, box)))
                until(
                    lambda waiting=waiting: (  # type: ignore[misc]
                        len(gatherer._waiting) != waiting or bool(detector.batches)
                    )
                )
            detector.gate.set()
            for thread in threads:
                ended(thread)
            until(lambda: not any(ref() for ref in refs))
    finally:
        gc.enable()
    assert len(failures) == (0 if error is None else 1 + companions)
