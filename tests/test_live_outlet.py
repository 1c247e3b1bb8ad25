"""The queue before an output: what a slow, a broken and a hanging one cost."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from tests.live.packets import NOON, SECOND, Feed, camera_clip, feed_of, moved
from vidai.errors import SinkError
from vidai.live import outlet as module
from vidai.live.events import Event, Events
from vidai.live.outlet import MOST_BYTES, MOST_ITEMS, SLOW, Outlet
from vidai.live.output import Media, Output, OutputStatus, Record, Sample
from vidai.live.tally import Tally
from vidai.types import Detections

PATIENCE = 30.0  # s until what must happen counts as never happening

Given = Media | Sample | Record | Event | Literal["end", "close"]


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """Four seconds with sound, a keyframe each second."""
    return feed_of(camera_clip(tmp_path_factory.mktemp("clip") / "in.mp4", audio="aac"))


def record_of(number: int) -> Record:
    return Record("door", NOON + number, number, 64, 48, Detections.empty())


class Kept(Output):
    """Keeps what it is given, and counts packets or records. gate: it waits for it before each.
    fail: raises the error for each packet or record."""

    def __init__(self, pictures: Literal["camera", "annotated"] | None = "camera") -> None:
        self.pictures = pictures
        self.given: list[Given] = []
        self.ticks: list[float] = []
        self.gate = threading.Event()
        self.gate.set()
        self.hanging = False  # at the gate
        self.fail: Callable[[], BaseException] | None = None
        self._tally = Tally("kept", "")

    def _take(self, item: Given, counts: bool = False) -> None:
        self.hanging = not self.gate.is_set()
        assert self.gate.wait(PATIENCE)
        self.hanging = False
        self.given.append(item)
        if counts:
            self._tally.accept()
            if self.fail is not None:
                self._tally.lose("broken")
                raise self.fail()
            self._tally.deliver()

    def begin(self, media: Media) -> None:
        self._take(media)

    def sample(self, sample: Sample) -> None:
        self._take(sample, self.pictures is not None)

    def end(self) -> None:
        self._take("end")

    def record(self, record: Record) -> None:
        self._take(record, self.pictures is None)

    def event(self, event: Event) -> None:
        self._take(event)

    def tick(self, now: float) -> None:
        self.ticks.append(now)

    def close(self) -> None:
        self._take("close")

    def status(self) -> OutputStatus:
        return self._tally.status()

    @property
    def samples(self) -> list[Sample]:
        return [item for item in self.given if isinstance(item, Sample)]


@contextmanager
def outlet_to(output: Kept, events: Events | None = None) -> Iterator[Outlet]:
    outlet = Outlet("kept", output, (events or Events()).emit)
    try:
        yield outlet
    finally:
        output.gate.set()
        assert outlet.close(PATIENCE)


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def balanced(outlet: Outlet) -> OutputStatus:
    status = outlet.status()
    assert status.kind == "kept"
    assert min(status.accepted, status.delivered, status.waiting, status.waiting_bytes) >= 0
    assert status.accepted == status.delivered + status.waiting + status.lost.total()
    return status


def hold(outlet: Outlet, output: Kept) -> None:
    """The output hangs at something that is not counted."""
    output.gate.clear()
    outlet.event(Event(0, NOON, "hold", "hold"))
    until(lambda: output.hanging)


def endless(feed: Feed) -> Iterator[Sample]:
    """The samples again and again, as of a camera that never ends."""
    for turn in itertools.count():
        for sample in feed.samples:
            yield moved(sample, 10 * turn)


def decodes(samples: list[Sample]) -> None:
    """Each picture but the keyframes comes right after the one before it."""
    video = [sample for sample in samples if sample.kind == "video"]
    assert video[0].is_keyframe
    for before, after in itertools.pairwise(video):
        assert after.dts > before.dts
        assert after.is_keyframe or after.dts - before.dts < SECOND / 20


def test_everything_arrives_in_its_order(feed: Feed) -> None:
    output = Kept()
    wanted: list[Given] = [feed.media, *feed.samples, "end", feed.media]
    wanted += [*feed.later(10).samples[:9], record_of(1), Event(1, NOON, "rule", "somebody came")]
    with outlet_to(output) as outlet:
        for item in wanted:
            if isinstance(item, Media):
                outlet.begin(item)
            elif isinstance(item, Sample):
                outlet.sample(item)
            elif isinstance(item, Record):
                outlet.record(item)
            elif isinstance(item, Event):
                outlet.event(item)
            else:
                outlet.end()
    assert output.given == [*wanted, "close"]
    assert balanced(outlet).delivered == len(feed.samples) + 9


def test_a_video_begins_with_a_keyframe(feed: Feed) -> None:
    """Sound and pictures from before it are not what an output is there for: they are no loss."""
    output = Kept()
    first = next(
        n for n, s in enumerate(feed.samples) if n > 30 and s.is_keyframe and s.kind == "video"
    )
    with outlet_to(output) as outlet:
        for media in (1, 2):
            outlet.begin(feed.media)
            for sample in feed.later(10 * media).samples[5:]:
                outlet.sample(sample)
            outlet.end()
    expected = len(feed.samples) - first
    assert len(output.samples) == 2 * expected
    for part in (output.samples[:expected], output.samples[expected:]):
        assert part[0].is_keyframe
        assert part[0].kind == "video"
    assert balanced(outlet).accepted == 2 * expected


def test_nothing_comes_between_an_end_and_the_next_beginning(feed: Feed) -> None:
    """Sound is brought by another thread, which may be late."""
    output = Kept()
    with outlet_to(output) as outlet:
        outlet.begin(feed.media)
        for sample in feed.samples[:20]:
            outlet.sample(sample)
        outlet.end()
        for sample in feed.audio[:5]:
            outlet.sample(sample)
        outlet.begin(feed.media)
        for sample in feed.audio[5:9]:
            outlet.sample(sample)
        outlet.sample(moved(feed.video[0], 10))
    kinds = [type(item).__name__ if not isinstance(item, str) else item for item in output.given]
    assert kinds == ["Media", *["Sample"] * 20, "end", "Media", "Sample", "close"]
    assert output.samples[-1].is_keyframe


def test_after_an_overflow_the_video_goes_on_with_a_keyframe(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out until then is lost, and counted: of all that was given nothing is gone."""
    monkeypatch.setattr(module, "MOST_ITEMS", 60)
    output, gave = Kept(), 0
    with outlet_to(output) as outlet:
        outlet.begin(feed.media)
        samples = endless(feed)
        for part in (5, 300, 700):
            hold(outlet, output)
            for sample in itertools.islice(samples, part):
                outlet.sample(sample)
                gave += 1
                assert balanced(outlet).accepted == gave
            output.gate.set()
            until(lambda: balanced(outlet).waiting == 0)
        for sample in itertools.islice(samples, 300):
            outlet.sample(sample)
            gave += 1
            until(lambda: balanced(outlet).waiting < 30)
    status = balanced(outlet)
    decodes(output.samples)
    assert status.accepted == gave == 1305
    assert status.delivered == len(output.samples)
    assert status.lost == Counter({SLOW: gave - len(output.samples)})
    assert status.lost[SLOW] > 500
    assert output.samples[-1] == sample


def test_lost_records_are_no_lost_packets_and_the_other_way_round(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ITEMS", 10)
    of_records, of_packets = Kept(None), Kept("camera")
    for output in (of_records, of_packets):
        with outlet_to(output) as outlet:
            hold(outlet, output)
            outlet.begin(feed.media)
            for number, sample in enumerate(feed.samples[:50]):
                outlet.sample(sample)
                outlet.record(record_of(number))
                outlet.event(Event(number, NOON, "rule", "somebody came"))
                balanced(outlet)
        status = balanced(outlet)
        assert status.accepted == 50
        assert status.waiting == 0
        assert status.lost.total() == 50 - status.delivered > 40


@pytest.mark.parametrize("pictures", ["camera", None])
def test_counts_are_balanced_and_never_fall_while_all_goes_on(
    feed: Feed, pictures: Literal["camera"] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pages and metrics ask: at any moment, and in several threads."""
    monkeypatch.setattr(module, "MOST_ITEMS", 20)
    output, over = Kept(pictures), threading.Event()
    failures: list[BaseException] = []

    def watch() -> None:
        accepted = delivered = lost = 0
        try:
            while not over.is_set():
                status = balanced(outlet)
                told = status.accepted, status.delivered, status.lost.total()
                assert told[0] >= accepted
                assert told[1] >= delivered
                assert told[2] >= lost
                accepted, delivered, lost = told
        except BaseException as error:
            failures.append(error)

    with outlet_to(output) as outlet:
        watchers = [threading.Thread(target=watch, daemon=True) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        outlet.begin(feed.media)
        rng = random.Random(1)
        for number, sample in enumerate(itertools.islice(endless(feed), 3000)):
            outlet.sample(sample)
            outlet.record(record_of(number))
            if rng.random() < 0.03:
                time.sleep(0.001)
        until(lambda: balanced(outlet).waiting == 0)
        over.set()
        for watcher in watchers:
            watcher.join(PATIENCE)
    assert failures == []
    assert balanced(outlet).accepted == 3000


def test_an_output_that_tells_of_its_own_object_is_not_changed_by_asking() -> None:
    """However often somebody asks."""

    class Bare(Kept):
        kept_status = OutputStatus("bare")

        def status(self) -> OutputStatus:
            return self.kept_status

    output = Bare(None)
    with outlet_to(output) as outlet:
        hold(outlet, output)
        for number in range(5):
            outlet.record(record_of(number))
        told = [outlet.status() for _ in range(3)]
        assert told[0] == told[1] == told[2]
        assert told[0].accepted == told[0].waiting == 5
        assert output.kept_status == OutputStatus("bare")


def test_a_hanging_output_holds_nobody_up(feed: Feed) -> None:
    output = Kept()
    with outlet_to(output) as outlet:
        hold(outlet, output)
        outlet.begin(feed.media)

        def bring() -> None:
            for sample in itertools.islice(endless(feed), 2 * MOST_ITEMS):
                outlet.sample(sample)
            outlet.end()
            outlet.status()

        thread = threading.Thread(target=bring, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert not outlet.close(0.05)
        assert balanced(outlet).accepted == 2 * MOST_ITEMS
    # With the hold over, all that waited was written.
    assert output.given[-2:] == ["end", "close"]
    assert len(output.samples) == MOST_ITEMS
    decodes(output.samples)


def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, feed: Feed) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 20_000)
    assert MOST_BYTES == 32 << 20
    output, biggest = Kept(), max(sample.packet.size for sample in feed.samples)
    with outlet_to(output) as outlet:
        hold(outlet, output)
        outlet.begin(feed.media)
        for sample in itertools.islice(endless(feed), 2000):
            outlet.sample(sample)
            assert outlet.status().waiting_bytes <= 20_000 + biggest
        assert outlet.status().waiting_bytes > 20_000
    assert balanced(outlet).waiting_bytes == 0


def test_a_camera_that_comes_and_goes_for_months_fills_no_memory(feed: Feed) -> None:
    """Before an output that hangs: each connection has a beginning, an end and some events."""
    output = Kept()
    with outlet_to(output) as outlet:
        hold(outlet, output)
        for turn in range(20_000):
            outlet.event(Event(turn, NOON, "connected", "live"))
            outlet.begin(feed.media)
            if turn % 3:
                outlet.event(Event(turn, NOON, "rule", "somebody came"))
            if turn % 7 == 0:
                outlet.sample(moved(feed.video[0], turn))
            outlet.end()
        assert len(outlet._queue) < MOST_ITEMS + 10
        outlet.begin(feed.media)
        outlet.end()
    kinds = [
        "begin" if isinstance(item, Media) else item
        for item in output.given
        if isinstance(item, Media) or item == "end"
    ]
    assert kinds == ["begin", "end"] * (len(kinds) // 2)
    assert balanced(outlet).accepted == -(-20_000 // 7)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (lambda: SinkError("the disk is full"), "kept: the disk is full"),
        (lambda: ZeroDivisionError("by zero"), "kept: ZeroDivisionError: by zero"),
        (lambda: SystemExit(3), "kept: SystemExit: 3"),
    ],
)
def test_what_an_output_raises_is_told_once_a_minute(
    feed: Feed,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], BaseException],
    told: str,
) -> None:
    """It goes on with the next call all the while."""
    now = SimpleNamespace(monotonic=1000.0)
    monkeypatch.setattr(
        module, "time", SimpleNamespace(monotonic=lambda: now.monotonic, time=time.time)
    )
    output, events = Kept(), Events()
    output.fail = error
    with outlet_to(output, events) as outlet:
        outlet.begin(feed.media)
        for expected, later in ((1, 0.0), (1, 30.0), (2, 31.0), (2, 5.0), (3, 60.0)):
            now.monotonic += later
            for sample in feed.samples[:20]:
                outlet.sample(sample)
            until(lambda: balanced(outlet).waiting == 0)
            assert len(events.since()) == expected
    assert [(event.kind, event.text) for event in events.since()] == [("output-failed", told)] * 3
    assert len(output.samples) == 100
    assert balanced(outlet).lost == Counter({"broken": 100})


def test_errors_that_differ_each_time_are_no_flood(feed: Feed) -> None:
    """As those that name a time or a number of bytes."""
    output, events, numbers = Kept(), Events(), itertools.count()
    output.fail = lambda: SinkError(f"cannot write byte {next(numbers)}")
    with outlet_to(output, events) as outlet:
        outlet.begin(feed.media)
        for sample in itertools.islice(endless(feed), 500):
            outlet.sample(sample)
    texts = [event.text for event in events.since()]
    assert texts == [f"kept: cannot write byte {n}" for n in range(len(texts))]
    assert 2 <= len(texts) <= 10


def test_two_errors_in_turn_are_told_once_each(feed: Feed) -> None:
    output, events = Kept(), Events()
    errors = itertools.cycle(["the disk is full", "the network is gone"])
    output.fail = lambda: SinkError(next(errors))
    with outlet_to(output, events) as outlet:
        outlet.begin(feed.media)
        for sample in feed.samples[:50]:
            outlet.sample(sample)
    assert len(events.since()) == 2


def test_an_output_that_fails_at_its_end_ends_all_the_same() -> None:
    class Worst(Kept):
        def close(self) -> None:
            raise OSError("no")

    events = Events()
    outlet = Outlet("kept", Worst(), events.emit)
    assert outlet.close(PATIENCE)
    assert [event.text for event in events.since()] == ["kept: OSError: no"]


def test_what_comes_after_the_end_is_lost_and_grows_nothing(feed: Feed) -> None:
    output = Kept()
    outlet = Outlet("kept", output, Events().emit)
    assert outlet.close(PATIENCE)
    for _ in range(10):
        outlet.begin(feed.media)
        for sample in feed.samples[:10]:
            outlet.sample(sample)
        outlet.end()
    assert output.given == ["close"]
    assert len(outlet._queue) == 0
    status = balanced(outlet)
    assert status.waiting == 0
    assert status.lost == Counter({"output closed": 100})


def test_time_passes_for_an_output_also_when_the_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = SimpleNamespace(time=NOON + 0.0)
    monkeypatch.setattr(
        module, "time", SimpleNamespace(monotonic=time.monotonic, time=lambda: now.time)
    )
    output = Kept(None)
    with outlet_to(output) as outlet:
        for later in (0.4, 0.7, 0.4, -3600.0, 0.5, 0.6, 5.0):
            now.time += later
            before = len(output.given)
            outlet.record(record_of(0))
            until(lambda before=before: len(output.given) > before)  # type: ignore[misc]
            outlet.record(record_of(0))
            until(lambda before=before: len(output.given) > before + 1)  # type: ignore[misc]
    expected = [NOON + 1.1, NOON - 3598.5, NOON - 3597.4, NOON - 3592.4]
    assert output.ticks == pytest.approx(expected, abs=1e-3)


def test_no_thread_and_no_packet_is_left(feed: Feed) -> None:
    class Forgetful(Kept):
        def sample(self, sample: Sample) -> None:
            self._tally.accept()
            self._tally.deliver()

    before = threading.active_count()
    outlet = Outlet("kept", Forgetful(), Events().emit)
    assert threading.active_count() == before + 1
    outlet.begin(feed.media)
    copies = [moved(sample, 10) for sample in feed.samples[:20]]
    held = [weakref.ref(sample) for sample in copies]
    for sample in copies:
        outlet.sample(sample)
    until(lambda: balanced(outlet).delivered == 20)
    gc.disable()
    try:
        del copies, sample
        until(lambda: not any(ref() for ref in held))
    finally:
        gc.enable()
    assert outlet.close(PATIENCE)
    assert threading.active_count() == before


def test_the_clip_is_what_these_tests_believe(feed: Feed, tmp_path: Path) -> None:
    assert len(feed.video) == 100
    assert sum(sample.is_keyframe for sample in feed.video) == 4
    assert len(feed.audio) > 150
