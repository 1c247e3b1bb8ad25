"""Who is analysed how often, when the device cannot do all that is asked for."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidai.live.budget import (
    HEADROOM,
    LATE,
    RISE_AFTER,
    STEPS,
    SURE,
    Budget,
    Capacity,
    Change,
    Wish,
    refusal,
    shares,
)
from vidai.live.rates import Latencies, Rate

RATES = st.floats(0.1, 120)


@st.composite
def some_wishes(draw: st.DrawFn) -> list[Wish]:
    wishes = []
    for number in range(draw(st.integers(1, 8))):
        fps = draw(RATES)
        least = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) * fps
        wishes.append(Wish(f"camera-{number}", fps, draw(st.integers(0, 2)), least))
    return wishes


def granted(wishes: Sequence[Wish], capacity: float) -> dict[str, float]:
    return {
        w.name: w.rate(step) for w, step in zip(wishes, in_order(wishes, capacity), strict=True)
    }


def in_order(wishes: Sequence[Wish], capacity: float) -> list[int]:
    steps = shares(wishes, capacity)
    assert steps.keys() == {wish.name for wish in wishes}
    return [steps[wish.name] for wish in wishes]


def floor(wish: Wish) -> float:
    """Below this it never falls: what it needs, or a 64th of what it asks for."""
    return max(wish.least, wish.fps / 64)


@settings(max_examples=300, deadline=None)
@given(some_wishes(), st.floats(0, 400), st.randoms())
def test_all_fit_as_far_as_what_was_promised_lets_them(
    wishes: list[Wish], capacity: float, rng: random.Random
) -> None:
    rates = granted(wishes, capacity)
    for wish in wishes:
        assert floor(wish) * (1 - 1e-9) <= rates[wish.name] <= wish.fps
    at_least = all(rates[w.name] == pytest.approx(floor(w)) for w in wishes)
    assert sum(rates.values()) <= capacity * (1 + 1e-6) or at_least
    if sum(wish.fps for wish in wishes) <= capacity:
        assert in_order(wishes, capacity) == [0] * len(wishes)
    # The lower ones give all that they can before a higher one gives anything.
    for high in wishes:
        for low in wishes:
            if high.priority > low.priority and rates[high.name] < high.fps:
                assert rates[low.name] == pytest.approx(floor(low))
    # Whoever is named first has no advantage.
    shuffled = rng.sample(wishes, len(wishes))
    assert granted(shuffled, capacity) == rates


@settings(max_examples=100, deadline=None)
@given(some_wishes(), st.floats(0, 400), st.floats(0.5, 1))
def test_less_room_never_gives_anybody_more(
    wishes: list[Wish], capacity: float, part: float
) -> None:
    much, little = granted(wishes, capacity), granted(wishes, capacity * part)
    assert all(little[name] <= much[name] for name in much)


def test_streams_that_ask_alike_are_treated_alike() -> None:
    wishes = [Wish(f"camera-{n}", 10.0) for n in range(8)]
    assert granted(wishes, 10.0) == {f"camera-{n}": 1.25 for n in range(8)}
    assert granted(wishes, 80.0) == {f"camera-{n}": 10.0 for n in range(8)}
    # One step apart where the room is no whole part.
    assert set(granted(wishes, 50.0).values()) == {7.5, 5.0}


def test_a_busy_camera_gives_before_a_calm_one() -> None:
    assert granted([Wish("busy", 60.0), Wish("calm", 5.0)], 40.0) == {"busy": 30.0, "calm": 5.0}


def test_what_is_promised_is_kept_to_the_point() -> None:
    """Four streams of 10 that need 3 each have room where 12 are: not at a step, but at 3."""
    wishes = [Wish(f"camera-{n}", 10.0, least=3.0) for n in range(4)]
    assert refusal(wishes[:3], wishes[3], 12.0) is None
    assert granted(wishes, 12.0) == {f"camera-{n}": 3.0 for n in range(4)}


def test_the_least_of_a_usual_camera_can_be_reached() -> None:
    """Half an analysis a second, of 25."""
    wishes = [Wish(f"camera-{n}", 25.0, least=0.5) for n in range(10)]
    assert sum(granted(wishes, 5.0).values()) == pytest.approx(5.0)


def test_a_stream_is_refused_where_the_promises_do_not_fit() -> None:
    running = [Wish(name, 10.0, least=least) for name, least in (("door", 2.0), ("yard", 3.0))]
    assert refusal(running, Wish("gate", 10.0, least=5.0), 10.0) is None
    why = refusal(running, Wish("gate", 10.0, least=5.5), 10.0)
    assert why is not None
    assert why.startswith("gate cannot be added: it needs 5.5 analyses a second")
    assert "5.0 of the 10.0" in why
    assert "\n" not in why
    assert refusal([], Wish("gate", 25.0, least=0.5), 0.4) is not None


def test_promises_that_fit_exactly_fit() -> None:
    """0.1 + 0.2 is more than 0.3 for a computer."""
    assert refusal([Wish("a", 1, least=0.1)], Wish("b", 1, least=0.2), 0.3) is None


# What the device has.


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def known(fps: float) -> Capacity:
    """A capacity of that many analyses a second, by measurement."""
    capacity = Capacity()
    measure(capacity, fps, times=1)
    return capacity


def measure(capacity: Capacity, fps: float, times: int = 60) -> None:
    for _ in range(times):
        capacity.measure(1000, 1000 / (fps / HEADROOM), 0.0)


def test_a_capacity_is_unknown_until_something_was_measured_or_named() -> None:
    capacity = Capacity()
    assert capacity.fps is None
    assert capacity.sure is None
    capacity.measure(0, 0.0, 0.0)
    capacity.measure(0, 3.0, 0.0)
    capacity.measure(10, 0.0, 0.0)
    assert capacity.fps is None
    assert Capacity(10.0).fps == Capacity(10.0).sure == 10.0


def test_a_limit_holds_whatever_the_device_could() -> None:
    capacity = Capacity(10.0)
    measure(capacity, 500)
    assert capacity.fps == capacity.sure == 10.0
    measure(capacity, 4.0)
    assert capacity.fps == pytest.approx(4.0)
    assert capacity.sure == pytest.approx(4.0 * SURE)


@pytest.mark.parametrize(("before", "after"), [(100.0, 30.0), (30.0, 100.0)])
def test_a_capacity_converges_to_what_is_measured(before: float, after: float) -> None:
    capacity, rng = Capacity(), random.Random(2)
    for true in (before, after):
        for _ in range(30):
            frames = rng.randint(5, 40)
            capacity.measure(frames, frames / (true * rng.uniform(0.95, 1.05)), 0.01)
        assert capacity.fps == pytest.approx(true * HEADROOM, rel=0.06)


def test_frames_that_wait_too_long_lower_what_is_believed_until_they_do_not() -> None:
    capacity = known(100.0)
    for _ in range(5):
        capacity.measure(100, 0.85, LATE + 0.05)
    assert capacity.fps == pytest.approx(100 * 0.8**5, rel=0.01)
    for _ in range(500):
        capacity.measure(100, 0.85, 5.0)
    assert capacity.fps is not None
    assert capacity.fps >= 9.9  # never to nothing, from where there is no way back
    for _ in range(100):
        capacity.measure(100, 0.85, LATE)
    assert capacity.fps == pytest.approx(100.0, rel=0.01)


# Settling.


def settle(
    budget: Budget, clock: Clock, wishes: list[Wish], capacity: Capacity, seconds: int
) -> list[list[Change]]:
    """Once a second, as a worker does it. No rate ever changes by more than a step, or without
    a word, but that a new stream begins where it fits."""
    history = []
    for _ in range(seconds):
        clock.now += 1.0
        new = {wish.name for wish in wishes} - set(budget._steps)
        before = {wish.name: budget.granted(wish) for wish in wishes}
        changes = budget.settle(wishes, capacity)
        for change in changes:
            assert change.name not in new
            wish = next(w for w in wishes if w.name == change.name)
            rates = list(dict.fromkeys(wish.rate(step) for step in range(len(STEPS))))
            assert change.before == before[change.name] != change.after
            assert change.after == budget.granted(wish)
            assert abs(rates.index(change.before) - rates.index(change.after)) == 1
        changed = new | {change.name for change in changes}
        for wish in wishes:
            assert wish.name in changed or budget.granted(wish) == before[wish.name]
        history.append(changes)
    return history


def eight() -> list[Wish]:
    return [Wish(f"camera-{n}", 10.0, least=0.5) for n in range(8)]


def test_nobody_is_limited_while_nothing_is_known() -> None:
    budget, clock = Budget(), Clock()
    assert budget.granted(Wish("door", 25.0)) == 25.0
    assert settle(budget, clock, eight(), Capacity(), 3) == [[]] * 3


def test_streams_that_are_there_from_the_beginning_begin_where_they_fit() -> None:
    clock = Clock()
    budget, wishes = Budget(clock), eight()
    assert settle(budget, clock, wishes, Capacity(10.0), 60) == [[]] * 60
    assert [budget.granted(wish) for wish in wishes] == [1.25] * 8


def test_rates_fall_by_a_step_a_second_and_rise_by_one_in_five() -> None:
    clock, capacity = Clock(), known(200.0)
    budget, wishes = Budget(clock), eight()
    assert settle(budget, clock, wishes, capacity, 10) == [[]] * 10
    measure(capacity, 10.0)
    falls = settle(budget, clock, wishes, capacity, 20)
    assert [bool(changes) for changes in falls] == [True] * 6 + [False] * 14
    assert [budget.granted(wish) for wish in wishes] == [1.25] * 8
    measure(capacity, 200.0)
    rises = settle(budget, clock, wishes, capacity, 60)
    when = [second for second, changes in enumerate(rises) if changes]
    assert len(when) == 6
    assert all(after - before > RISE_AFTER for before, after in itertools.pairwise(when))
    assert [budget.granted(wish) for wish in wishes] == [10.0] * 8


@pytest.mark.parametrize("fps", [10.0, 17.0, 30.0, 41.0, 55.0, 79.0, 90.0])
def test_a_capacity_that_is_measured_a_little_differently_each_time_changes_nothing(
    fps: float,
) -> None:
    """±5 % around any value: once settled, nobody's rate goes up and down."""
    clock, rng = Clock(), random.Random(7)
    budget, wishes = Budget(clock), eight()
    wishes += [Wish("important", 5.0, priority=1), Wish("odd", 24.0)]
    changes = 0
    for second in range(600):
        capacity = known(fps * rng.uniform(0.95, 1.05))
        (now,) = settle(budget, clock, wishes, capacity, 1)
        changes += len(now) if second > 120 else 0
    assert changes == 0


def test_a_new_stream_begins_where_it_fits_and_takes_no_more_from_others_than_it_must() -> None:
    clock = Clock()
    budget, wishes = Budget(clock), eight()
    capacity = Capacity(80.0)
    settle(budget, clock, wishes, capacity, 20)
    wishes.append(Wish("new", 10.0, least=0.5))
    settle(budget, clock, wishes, capacity, 20)
    rates = [budget.granted(wish) for wish in wishes]
    assert sorted(set(rates)) == [7.5, 10.0]
    assert sum(rates) <= 80.0
    wishes.pop()
    settle(budget, clock, wishes, capacity, 30)
    assert [budget.granted(wish) for wish in wishes] == [10.0] * 8


def test_an_important_stream_is_spared() -> None:
    clock = Clock()
    budget = Budget(clock)
    wishes = [*eight(), Wish("important", 20.0, priority=5, least=1.0)]
    capacity = known(200.0)
    settle(budget, clock, wishes, capacity, 5)
    measure(capacity, 30.0)
    for _ in range(30):
        settle(budget, clock, wishes, capacity, 1)
        assert budget.granted(wishes[-1]) == 20.0
    assert [budget.granted(wish) for wish in wishes[:8]] == [1.25] * 8
    measure(capacity, 15.0)
    settle(budget, clock, wishes, capacity, 30)
    assert [budget.granted(wish) for wish in wishes[:8]] == [0.5] * 8
    assert budget.granted(wishes[-1]) == 10.0


def test_a_camera_that_changes_its_rate_is_given_its_part_of_the_new_one() -> None:
    clock = Clock()
    budget, capacity = Budget(clock), Capacity(20.0)
    settle(budget, clock, [Wish("door", 40.0, least=1)], capacity, 10)
    assert budget.granted(Wish("door", 40.0, least=1)) == 20.0
    slower = [Wish("door", 15.0, least=1)]
    settle(budget, clock, slower, capacity, 30)
    assert budget.granted(slower[0]) == 15.0


def test_nothing_is_kept_of_streams_that_are_gone() -> None:
    clock = Clock()
    budget = Budget(clock)
    for number in range(500):
        settle(budget, clock, [Wish(f"camera-{number}", 10.0)], Capacity(5.0), 1)
    assert len(budget._steps) == 1


# All of it, before a device.


@pytest.mark.parametrize(
    ("service", "workers", "streams"),
    [(0.5, 2, 4), (0.25, 2, 8), (0.1, 2, 8), (0.03, 2, 8), (0.005, 1, 16)],
)
def test_a_device_is_used_and_rates_come_to_rest(
    service: float, workers: int, streams: int
) -> None:
    """service: s that a frame takes one of its workers, more or less. All cameras have 25 frames
    a second, of which as many are asked for as are granted; who waits asks for no other."""
    seconds, settled, rng = 200, 80, random.Random(1)
    clock, capacity = Clock(), Capacity()
    budget, begin = Budget(clock), clock.now
    wishes = [Wish(f"camera-{n}", 25.0, least=0.5) for n in range(streams)]
    rates = [25.0] * streams
    free = [begin] * workers  # when each worker is
    asked = [(begin + rng.random() / 25, n) for n in range(streams)]
    heapq.heapify(asked)
    busy, waits, changes, done = 0.0, [0.0], 0, 0
    while clock.now < begin + seconds:
        ask, stream = heapq.heappop(asked)
        worker = min(range(workers), key=lambda n: free[n])
        start = max(ask, free[worker])
        while start >= clock.now + 1:
            clock.now += 1
            late = sorted(waits)[int(0.95 * (len(waits) - 1))]
            capacity.measure(len(waits) - 1, busy / workers, late)
            busy, waits = 0.0, [0.0]
            told = budget.settle(wishes, capacity)
            changes += len(told) if clock.now > begin + settled else 0
            rates = [budget.granted(wish) for wish in wishes]
        took = service * rng.uniform(0.9, 1.1)
        free[worker] = start + took
        busy += took
        waits.append(start - ask)
        done += start > begin + settled
        due = ask + rng.uniform(0.9, 1.1) / rates[stream]
        heapq.heappush(asked, (max(due, start + took), stream))
    part = done / (seconds - settled) / (workers / service)
    assert 0.65 < part < 0.95
    assert changes <= streams


# The figures that it decides by.


def test_a_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    rate = Rate(clock)
    assert rate.per_second == 0.0
    for _ in range(100):
        clock.now += 0.04
        rate.count()
    assert rate.per_second == pytest.approx(25.0, rel=0.01)
    for _ in range(500):
        clock.now += 0.1
        rate.count()
    assert rate.per_second == pytest.approx(10.0, rel=0.03)
    clock.now += 2.5
    assert rate.per_second == pytest.approx(5.0, rel=0.05)
    clock.now += 1000
    assert rate.per_second == 0.0


def test_the_last_waits_are_summed_up() -> None:
    waits = Latencies()
    assert waits.summary() == {}
    waits.add(0.5)
    assert waits.summary() == {"p50": 0.5, "p95": 0.5, "max": 0.5}
    for number in range(1000):
        waits.add(number / 1000)
    assert waits.summary() == {
        "p50": pytest.approx(0.9, abs=0.002),
        "p95": pytest.approx(0.99, abs=0.002),
        "max": 0.999,
    }
    waits.clear()
    assert waits.summary() == {}
