"""Which frames are analysed, and how many of a flood get in."""

from __future__ import annotations

import random

import pytest

from vidai.live.follower import Pace
from vidai.live.stream import Meter


@pytest.mark.parametrize("fps", [10.0, 9.0, 4.0, 1.25, 0.5])
@pytest.mark.parametrize("jitter", [0.0, 0.03])
def test_as_many_frames_are_due_as_were_granted(fps: float, jitter: float) -> None:
    rng, pace = random.Random(1), Pace()
    times = [1e9 + n / 10 + rng.uniform(-jitter, jitter) for n in range(2000)]
    due = sum(pace.due(time, fps) for time in times)
    assert due == pytest.approx(200 * fps, rel=0.02, abs=2)


def test_a_clock_that_jumps_stops_no_analysis() -> None:
    pace = Pace()
    for start in (1e9, 1e9 - 3600, 1e9 + 3600):
        assert sum(pace.due(start + n / 10, 2.0) for n in range(100)) == pytest.approx(20, abs=1)


def test_a_rate_that_changes_counts_from_then_on() -> None:
    pace = Pace()
    assert sum(pace.due(n / 10, 10.0) for n in range(100)) == 100
    assert sum(pace.due(10 + n / 10, 1.0) for n in range(100)) == pytest.approx(10, abs=1)
    assert sum(pace.due(20 + n / 10, 10.0) for n in range(100)) == pytest.approx(100, abs=10)


def test_frames_that_were_lost_are_not_made_up_for() -> None:
    """One that takes longer than they are apart would be late for good."""
    pace = Pace()
    assert all(pace.due(float(n), 10.0) for n in range(10))
    assert sum(pace.due(10 + n / 25, 5.0) for n in range(50)) == pytest.approx(10, abs=2)


def test_a_flood_gets_in_at_its_measure_and_goes_on_with_keyframes() -> None:
    meter = Meter(60)
    admitted = [meter.admits(n % 50 == 0, n / 1000) for n in range(10_000)]
    assert sum(admitted) <= 60 * 10 + 2 * 60
    assert sum(admitted) > 60 * 5
    assert meter.is_strained
    for before, now, n in zip(admitted, admitted[1:], range(1, 10_000), strict=False):
        assert before or not now or n % 50 == 0


def test_a_camera_within_its_measure_loses_nothing() -> None:
    rng, meter = random.Random(2), Meter(60)
    times = sorted(n / 59 + rng.uniform(0, 0.5) for n in range(6000))
    for number, time in enumerate(times):
        assert meter.admits(number % 60 == 0, time)
        assert not meter.is_strained
