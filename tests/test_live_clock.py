"""Times of live packets, whatever cameras, networks and the machine's own clock do.

Cameras here take pictures at known times; what the worker's clock makes of their packets is
compared with those.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidai.live.clock import StreamClock
from vidai.live.output import CLOCK

NOON = 1_769_860_800.0  # s since 1970: 2026-01-31T12:00:00Z
TICKS = 90_000  # a second
FRAME = 1 / 25  # s
SOUND = 1024 / 48_000  # s
RTP = Fraction(1, 90_000)  # s a tick of a camera's clock

_home = av.open(io.BytesIO(), "w", format="matroska")
VIDEO, AUDIO = _home.add_stream("mpeg4", rate=25), _home.add_stream("aac", rate=48_000)


class Sent(NamedTuple):
    """A packet of a camera. media, later: s of its clock: dts, and pts - dts. arrived: s."""

    stream: Any
    media: float
    arrived: float
    later: float = 0.0


class Stamped(NamedTuple):
    """dts, pts: s on the worker's clock."""

    stream: Any
    media: float
    arrived: float
    dts: float
    pts: float


def packet_of(
    stream: Any, dts: int | None, pts: int | None, base: Fraction = RTP, duration: int = 0
) -> av.Packet[Any]:
    packet: av.Packet[Any] = av.Packet(b"x")
    packet.stream = stream
    packet.time_base, packet.dts, packet.pts, packet.duration = base, dts, pts, duration
    return packet


def stamped(clock: StreamClock, sent: Iterable[Sent]) -> list[Stamped]:
    """All of them on the worker's clock; on the way dts rise strictly in each stream."""
    last: dict[int, int] = {}
    told = []
    for one in sent:
        dts = round(one.media / RTP)
        packet = packet_of(one.stream, dts, dts + round(one.later / RTP))
        clock.stamp(packet, one.arrived)
        assert packet.dts is not None
        assert packet.pts is not None
        assert packet.time_base == CLOCK
        index = packet.stream_index
        assert packet.dts > last.get(index, 0)
        assert packet.pts >= packet.dts
        last[index] = packet.dts
        told.append(
            Stamped(one.stream, one.media, one.arrived, packet.dts / TICKS, packet.pts / TICKS)
        )
    return told


def camera(
    seconds: float,
    *,
    begin: float = NOON,
    media: float = 1000.0,
    speed: float = 1.0,
    every: float = FRAME,
    stream: Any = VIDEO,
) -> list[Sent]:
    """Pictures that arrive when they are taken. media: s of the camera's clock at the first."""
    count = round(seconds / every)
    return [Sent(stream, media + n * every * speed, begin + n * every) for n in range(count)]


def with_sound(pictures: Iterable[Sent], every: float = SOUND) -> list[Sent]:
    """Sound of the same clock between pictures, in the order of arrival."""
    pictures = list(pictures)
    first, last = pictures[0], pictures[-1]
    speed = (last.media - first.media) / (last.arrived - first.arrived)
    count = int((last.arrived - first.arrived) / every)
    sounds = [
        Sent(AUDIO, first.media + n * every * speed, first.arrived + n * every)
        for n in range(count)
    ]
    return sorted([*pictures, *sounds], key=lambda sent: sent.arrived)


def steps(told: Iterable[Stamped], stream: Any = VIDEO) -> list[float]:
    """s between the dts of neighbours of one stream."""
    times = [one.dts for one in told if one.stream is stream]
    return [after - before for before, after in itertools.pairwise(times)]


def ahead(told: Iterable[Stamped]) -> list[float]:
    """s by which each is stamped later than it arrived."""
    return [one.dts - one.arrived for one in told]


def delayed(sent: Iterable[Sent], delays: Iterator[float]) -> list[Sent]:
    """The same over a network, which keeps the order."""
    late, now = [], 0.0
    for one in sent:
        now = max(now, one.arrived + next(delays))
        late.append(one._replace(arrived=now))
    return late


TIMES = st.one_of(
    st.none(),
    st.integers(-100, 100),
    st.integers(-(2**33), 2**33),
    st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**33 - 1, -(2**40), 2**40, 90_000 * 3600 * 7]),
)
WAITS = st.one_of(
    st.floats(0, 0.1), st.sampled_from([0.0, 5.0, 11.0, 3600.0, -0.5, -3600.0, 86_400.0 * 30])
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1]),
            TIMES,
            TIMES,
            WAITS,
            st.sampled_from([Fraction(1, 90_000), Fraction(1, 1000), Fraction(1, 48_000)]),
        ),
        max_size=60,
    )
)
def test_whatever_a_camera_says_dts_rise_and_pictures_follow_them(
    said: list[tuple[int, int | None, int | None, float, Fraction]],
) -> None:
    """Missing, repeated, wrapped, garbled times; a machine whose clock is set; reconnects."""
    now, clock, highest = NOON, StreamClock(), 0
    last: dict[int, int] = {}
    for number, (index, dts, pts, wait, base) in enumerate(said):
        now += wait
        if number % 20 == 19:
            assert clock.last >= highest
            clock, last = StreamClock(clock.last), dict.fromkeys((0, 1), clock.last)
        packet = packet_of((VIDEO, AUDIO)[index], dts, pts, base)
        clock.stamp(packet, now)
        assert packet.dts is not None
        assert packet.pts is not None
        assert packet.dts > last.get(index, 0)
        assert packet.dts <= packet.pts <= packet.dts + 10 * TICKS
        last[index] = packet.dts
        highest = max(highest, packet.dts)


@pytest.mark.parametrize("speed", [0.96, 0.98, 0.9999, 1.0, 1.0001, 1.02, 1.04])
def test_a_clock_of_another_speed_is_followed(speed: float) -> None:
    clock = StreamClock()
    told = stamped(clock, camera(300, speed=speed))
    assert clock.jumps == 0
    assert max(map(abs, ahead(told))) < 1.0
    settled = steps(told)[1000:]
    assert sum(settled) / len(settled) == pytest.approx(FRAME, rel=2e-3)
    assert min(settled) > 0.9 * FRAME
    assert max(settled) < 1.1 * FRAME


@pytest.mark.parametrize("speed", [1 - 1e-4, 1 + 1e-4])
def test_a_month_brings_no_drift(speed: float) -> None:
    """100 ppm are 4 minutes a month."""
    clock = StreamClock()
    told = stamped(clock, camera(30 * 86_400, speed=speed, every=300))
    assert clock.jumps == 0
    assert max(map(abs, ahead(told))) < 0.05


def test_a_jittering_network_makes_pictures_neither_late_nor_early() -> None:
    rng = random.Random(3)
    delays = (min(rng.expovariate(20), 0.8) for _ in itertools.count())
    clock, sent = StreamClock(), camera(300)
    told = stamped(clock, delayed(sent, delays))
    assert clock.jumps == 0
    taken = [one.arrived for one in sent]
    wrong = [one.dts - true for one, true in zip(told, taken, strict=True)][250:]
    assert max(map(abs, wrong)) < 0.1
    assert max(steps(told)[250:]) < 1.1 * FRAME


def test_sound_and_pictures_stay_in_step() -> None:
    """At every moment the same time of the camera is the same time of the worker."""
    clock, rng = StreamClock(), random.Random(5)
    delays = (rng.uniform(0, 0.3) for _ in itertools.count())
    told = stamped(clock, delayed(with_sound(camera(120, speed=1.01)), delays))
    assert clock.jumps == 0
    before = told[0]
    for one in told[1:]:
        if one.stream is not before.stream:
            assert one.dts - before.dts == pytest.approx(one.media - before.media, abs=0.025)
        before = one


def test_sound_that_a_container_has_late_is_in_step_all_the_same() -> None:
    """A second and a half behind the pictures, in the same stream."""
    pictures = camera(60)
    late = [
        s._replace(media=s.media - 1.5) if s.stream is AUDIO else s for s in with_sound(pictures)
    ]
    clock = StreamClock()
    told = stamped(clock, late)
    assert clock.jumps == 0
    picture = {round((one.media - 1000) / FRAME): one for one in told if one.stream is VIDEO}
    for one in told:
        if one.stream is AUDIO and one.media > 1002:
            near = picture[round((one.media - 1000) / FRAME)]
            # What the clock was led by in the second and a half between the two.
            assert one.dts - near.dts == pytest.approx(one.media - near.media, abs=0.09)


def test_sound_with_a_clock_of_its_own_counts_by_its_arrival() -> None:
    sent = [
        s._replace(media=s.media + 86_400) if s.stream is AUDIO else s
        for s in with_sound(camera(60))
    ]
    clock = StreamClock()
    told = stamped(clock, sent)
    assert clock.jumps == 0
    assert max(map(abs, ahead(told))) < 0.05


@pytest.mark.parametrize("hours", [-7.0, -0.01, 0.01, 1.0, 500.0])
@pytest.mark.parametrize("stragglers", [0, 5])
def test_a_jump_of_the_camera_counts_once_for_all_its_streams(
    hours: float, stragglers: int
) -> None:
    """stragglers: packets of sound that come from before, among pictures from after it."""
    jump = hours * 3600
    sent = with_sound(camera(60))
    moment = NOON + 30
    sounds = [s.arrived for s in sent if s.stream is AUDIO and s.arrived >= moment]
    after = {VIDEO: moment, AUDIO: sounds[stragglers]}
    jumped = [s._replace(media=s.media + jump) if s.arrived >= after[s.stream] else s for s in sent]
    clock = StreamClock()
    told = stamped(clock, jumped)
    assert clock.jumps == 1
    assert max(map(abs, ahead(told))) < 0.1
    before = told[-200]
    for one in told[-199:]:
        if one.stream is not before.stream:
            assert one.dts - before.dts == pytest.approx(one.media - before.media, abs=0.005)
        before = one


def test_a_counter_of_32_bits_begins_anew() -> None:
    wrap = 2**32 / TICKS
    sent = with_sound(camera(60, media=wrap - 30))
    clock = StreamClock()
    told = stamped(clock, [s._replace(media=s.media % wrap) for s in sent])
    assert clock.jumps == 1
    assert max(map(abs, ahead(told))) < 0.1
    assert max(steps(told)) < 2 * FRAME


def test_segments_that_come_at_once_are_spread_over_their_time() -> None:
    """Six seconds of pictures each, all of them when the segment is complete."""
    sent = [
        s._replace(arrived=NOON + 6 * ((s.arrived - NOON) // 6 + 1))
        for s in with_sound(camera(180))
    ]
    clock = StreamClock()
    told = stamped(clock, sent)
    assert clock.jumps == 0
    assert min(steps(told)) > 0.94 * FRAME
    assert max(steps(told)) < 1.06 * FRAME
    assert max(map(abs, ahead(told))) < 6.5


def test_a_stall_of_the_network_leaves_no_trace_in_the_times() -> None:
    """For five seconds nothing comes, then all of it at once."""
    sent = camera(120)
    stalled = [
        s._replace(arrived=max(s.arrived, NOON + 65)) if s.arrived > NOON + 60 else s for s in sent
    ]
    clock = StreamClock()
    told = stamped(clock, stalled)
    assert clock.jumps == 0
    wrong = [one.dts - s.arrived for one, s in zip(told, sent, strict=True)]
    assert max(map(abs, wrong)) < 0.3
    assert min(steps(told)) > 0.94 * FRAME
    assert max(steps(told)) < 1.06 * FRAME


def test_pictures_that_stay_late_are_believed_to_be_that_late() -> None:
    """Half a minute without a packet, while the camera's clock stood still."""
    before = camera(30)
    after = camera(30, begin=NOON + 60, media=before[-1].media + FRAME)
    clock = StreamClock()
    told = stamped(clock, [*before, *after])
    assert clock.jumps == 1
    assert max(map(abs, ahead(told))) < 0.1


@pytest.mark.parametrize("gap", [0.0, 0.1, 20.0])
def test_after_a_reconnect_nothing_goes_back_and_nothing_piles_up(gap: float) -> None:
    """Also where the connection before ran ahead, as after a burst, and where its last picture
    is shown later than its last packet."""
    burst = [s._replace(arrived=NOON, later=3 * FRAME) for s in with_sound(camera(5))]
    first = StreamClock()
    before = stamped(first, burst)
    second = StreamClock(first.last)
    after = stamped(second, with_sound(camera(30, begin=NOON + gap, media=5.0)))
    assert min(one.dts for one in after) > max(one.pts for one in before)
    assert second.jumps == 0
    assert min(steps(after)) > 0.94 * FRAME
    assert max(steps(after)) < 1.06 * FRAME
    if gap > 10:
        assert max(map(abs, ahead(after))) < 0.1


def test_a_machine_whose_clock_is_set_back_gives_pictures_their_distance_all_the_same() -> None:
    """By an hour, as at the first contact with a time server."""
    sent = [
        s._replace(arrived=s.arrived - 3600) if s.arrived > NOON + 30 else s
        for s in with_sound(camera(90))
    ]
    clock = StreamClock()
    told = stamped(clock, sent)
    assert clock.jumps == 1
    assert sum(step < 0.94 * FRAME for step in steps(told)) <= 1  # where it was set
    assert max(steps(told)) < 1.06 * FRAME
    again = stamped(StreamClock(clock.last), camera(30, begin=NOON - 3500))
    assert again[0].dts > told[-1].dts
    assert min(steps(again)) > 0.94 * FRAME


def test_a_machine_whose_clock_is_set_forward_is_followed_at_once() -> None:
    sent = [
        s._replace(arrived=s.arrived + 3600) if s.arrived > NOON + 30 else s
        for s in with_sound(camera(60))
    ]
    clock = StreamClock()
    told = stamped(clock, sent)
    assert clock.jumps == 1
    assert max(map(abs, ahead(told))) < 0.1


def test_the_order_in_which_pictures_are_shown_is_kept() -> None:
    """I P B B P B B …, and the distance from dts to pts with it."""
    later = [1 * FRAME] + [4 * FRAME, 1 * FRAME, 1 * FRAME] * 100
    sent = [s._replace(later=by) for s, by in zip(camera(12.04), later, strict=True)]
    told = stamped(StreamClock(), sent)
    shown = sorted(range(len(told)), key=lambda n: sent[n].media + sent[n].later)
    assert sorted(range(len(told)), key=lambda n: told[n].pts) == shown
    for one, by in zip(told, later, strict=True):
        assert one.pts - one.dts == pytest.approx(by, abs=1.5 / TICKS)


@pytest.mark.parametrize("wrong", [2**32, -(2**32), -5])
def test_a_pts_that_cannot_be_is_the_dts(wrong: int) -> None:
    packet = packet_of(VIDEO, 1000, 1000 + wrong)
    StreamClock().stamp(packet, NOON)
    assert packet.pts == packet.dts == NOON * TICKS


def test_a_packet_without_times_counts_by_its_arrival() -> None:
    clock = StreamClock()
    stamped(clock, camera(1))
    packet = packet_of(VIDEO, None, None)
    clock.stamp(packet, NOON + 1.5)
    assert clock.jumps == 1
    assert packet.pts == packet.dts == round((NOON + 1.5) * TICKS)


def test_durations_are_told_in_ticks_of_the_worker() -> None:
    packet = packet_of(AUDIO, 7, 7, Fraction(1, 48_000), 1024)
    StreamClock().stamp(packet, NOON)
    assert packet.duration == 1920
