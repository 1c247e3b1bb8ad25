"""Whether something grows that should not, told apart from what goes up and down.

A leak lifts the lowest values: what a process has at its quietest never comes back. So the time
is cut into parts, of each the lowest value is taken (the lower envelope), and through these goes
the line of Theil and Sen: its slope is the median of the slopes of all pairs, which a few odd
values do not move. Sen's interval, from Kendall's test, says between what the slope lies with 98 %
(so it is above its lower end with 99 %). Something grows if even that lower end is more than is
allowed; if only the upper end is, the run was too short or too restless to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

PARTS = 30  # of the time
LEAST_PARTS = 6  # below which nothing is told
SURE = 2.33  # standard deviations: 99 % on one side


@dataclass(frozen=True)
class Allowed:
    """How much something may grow. an_hour: relative to its level. once: in its own unit, over
    the whole run: what fills up and then stays, and what cannot be told from noise."""

    an_hour: float
    once: float


@dataclass(frozen=True)
class Growth:
    """A line through a lower envelope. level: its middle. slope, least, most: an hour, in the
    unit of the values; the slope lies between the other two. hours: that were looked at."""

    level: float
    slope: float
    least: float
    most: float
    hours: float

    @classmethod
    def of(cls, seconds: Sequence[float], values: Sequence[float]) -> Growth | None:
        """None where there are too few to tell."""
        parts = min(PARTS, len(values) // 2)
        if parts < LEAST_PARTS or seconds[-1] <= seconds[0]:
            return None
        points = _envelope(seconds, values, parts)
        slopes = sorted(
            3600 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]
        )
        n = len(points)
        deviation = SURE * (n * (n - 1) * (2 * n + 5) / 18) ** 0.5
        below = max(0, round((len(slopes) - deviation) / 2))
        return cls(
            level=median(value for _, value in points),
            slope=median(slopes),
            least=slopes[below],
            most=slopes[len(slopes) - 1 - below],
            hours=(seconds[-1] - seconds[0]) / 3600,
        )

    def limit(self, allowed: Allowed) -> float:
        """The slope, an hour, above which it is too much."""
        return abs(self.level) * allowed.an_hour + allowed.once / self.hours

    def is_too_much(self, allowed: Allowed) -> bool:
        return self.least > self.limit(allowed)

    def is_undecided(self, allowed: Allowed) -> bool:
        return self.most > self.limit(allowed) >= self.least


def _envelope(
    seconds: Sequence[float], values: Sequence[float], parts: int
) -> list[tuple[float, float]]:
    """The lowest value of each part of the time, and when it was."""
    begin, length = seconds[0], (seconds[-1] - seconds[0]) / parts
    lowest: dict[int, tuple[float, float]] = {}
    for when, value in zip(seconds, values, strict=True):
        part = min(parts - 1, int((when - begin) / length))
        if part not in lowest or value < lowest[part][1]:
            lowest[part] = when, value
    return [lowest[part] for part in sorted(lowest)]
