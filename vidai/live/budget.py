"""How often each stream is analysed, when the device cannot do all that is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

# Parts of what a stream asked for: the steps on which its rate falls and rises.
STEPS = (1, 3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8, 1 / 12, 1 / 16, 1 / 32, 1 / 64)
SAME = 1e-9  # part by which sums of rates may be off
HEADROOM = 0.85  # of what the device could do: the rest is for arrivals that meet
# s that a frame may wait for its batch, for 95 of 100, before that is overload; and as many times
# that of one frame, which is what a slow model takes when nothing is wrong.
LATE, TURNS = 0.15, 4
SURE = 0.9  # of the capacity that is left to be used by rates that rise, lest they fall again
SMOOTH = 0.3  # weight of the newest measurement
RISE_AFTER = 5.0  # s without overload before a rate rises by a step


@dataclass(frozen=True)
class Wish:
    """What a stream asks for. fps, least: analyses a second; least: below it never falls."""

    name: str
    fps: float
    priority: int = 0
    least: float = 0.0

    def rate(self, step: int) -> float:
        """Analyses a second at a step of STEPS; the last ones may all be `least`."""
        return max(self.fps * STEPS[step], min(self.least, self.fps))


def shares(wishes: Iterable[Wish], capacity: float) -> dict[str, int]:
    """The step in STEPS of each stream at which all of them fit, if they can.

    Streams of the lowest priority go down first; among those, whoever has most.
    """
    wanted = {wish.name: wish for wish in wishes}
    steps = dict.fromkeys(wanted, 0)
    total = sum(wish.rate(0) for wish in wanted.values())
    able = [(wish.priority, -wish.rate(0), wish.name) for wish in wanted.values()]
    heapify(able)
    while able and total > capacity * (1 + SAME):
        priority, rate, name = able[0]
        step = steps[name] + 1
        lower = wanted[name].rate(step) if step < len(STEPS) else -rate
        if lower < -rate:
            steps[name] = step
            total += rate + lower
            heapreplace(able, (priority, -lower, name))
        else:
            heappop(able)
    return steps


def refusal(wishes: Iterable[Wish], new: Wish, capacity: float) -> str | None:
    """Why a stream cannot be taken on, in words; None: it can."""
    promised = sum(wish.least for wish in wishes)
    if promised + new.least <= capacity * (1 + SAME):
        return None
    return (
        f"{new.name} cannot be added: it needs {new.least:g} analyses a second at least, and "
        f"{promised:.1f} of the {capacity:.1f} that this device has are promised to other "
        f"streams; lower least_fps of some, or remove one"
    )


class Capacity:
    """How many analyses a second the device has, learned from how busy it was.

    limit: what it may be asked for at most, None for all that it can.
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = limit
        self._measured: float | None = None
        self._caution = 1.0  # falls while frames wait too long

    @property
    def fps(self) -> float | None:
        """None until known."""
        return self._within(1.0)

    @property
    def sure(self) -> float | None:
        """The same with something to spare."""
        return self._within(SURE)

    def _within(self, part: float) -> float | None:
        if self._measured is None:
            return self._limit
        believed = self._measured * HEADROOM * self._caution * part
        return believed if self._limit is None else min(believed, self._limit)

    def measure(self, analysed: int, busy: float, waited: float) -> None:
        """What an interval showed. analysed: frames. busy: s that the device's workers needed
        for them, all at work. waited: s until a frame's batch began, at the 95th percentile."""
        allowed = LATE
        if analysed and busy > 0:
            rate = analysed / busy
            allowed += TURNS / rate
            old = rate if self._measured is None else self._measured
            self._measured = old + SMOOTH * (rate - old)
        if waited > allowed:
            self._caution = max(0.1, self._caution * 0.8)
        else:
            self._caution = min(1.0, self._caution * 1.05)


class Change(NamedTuple):
    """A stream's rate before and after, in analyses a second."""

    name: str
    before: float
    after: float


class Budget:
    """Who is granted what, changed by a step at a time. A new stream begins where it fits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: dict[str, int] = {}
        self._changed = clock()

    def granted(self, wish: Wish) -> float:
        """Analyses a second."""
        return wish.rate(self._steps.get(wish.name, 0))

    def settle(self, wishes: list[Wish], capacity: Capacity) -> list[Change]:
        """Go a step towards what fits; the streams whose rate that changes."""
        if capacity.fps is None or capacity.sure is None:
            return []
        most, least = shares(wishes, capacity.sure), shares(wishes, capacity.fps)
        self._steps = {w.name: self._steps.get(w.name, least[w.name]) for w in wishes}
        may_rise = self._clock() - self._changed > RISE_AFTER
        changes = []
        for wish in wishes:
            step, before = self._steps[wish.name], self.granted(wish)
            if step < least[wish.name]:
                self._steps[wish.name] = step + 1
            elif step > most[wish.name] and may_rise:
                self._steps[wish.name] = step - 1
            else:
                continue
            changes.append(Change(wish.name, before, self.granted(wish)))
        if changes:
            self._changed = self._clock()
        return [change for change in changes if change.before != change.after]
