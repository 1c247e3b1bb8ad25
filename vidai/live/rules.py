"""What is worth an event: somebody appears, is in a zone, stays, crosses a line.

A rule looks at tracks, and believes one that was found often enough and well enough. Where there
are no tracks, all things of a class in a frame count as one.

Points are relative to the upright picture, 0–1 from its left and top, so that they hold for any
size. Where a thing is, is told by its anchor: the middle of its box's bottom, where feet and
wheels are, or of the box. A box that the picture's edge cuts stands at the edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import copysign, hypot
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator
from typing_extensions import Self

from vidai.errors import ConfigError
from vidai.live.output import Options, Record

FORGET = 10.0  # s without being found after which nothing is remembered of a track
BAND = 0.1  # heights of its box that an anchor must be beside a line: boxes are never quite still
EDGE = 1e-6  # a zone up to the picture's edge holds what stands at the edge

Place = tuple[float, float]


def _place(point: Any) -> Place:
    if (
        not isinstance(point, (list, tuple))
        or len(point) != 2
        or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in point)
        or not all(0 <= v <= 1 for v in point)
    ):
        raise ValueError(
            f"a point is [x, y], each from 0 to 1, parts of the picture's width and height from "
            f"its top left; not {point!r}"
        )
    return float(point[0]), float(point[1])


Point = Annotated[Place, BeforeValidator(_place)]


class Rule(Options):
    """When things are worth an event. Without zone, line and dwell: when one appears.

    in: over the line from left to right, as seen when looking from its first point to its second;
    with the first point on the picture's left that is downwards.
    """

    name: str = Field(min_length=1, max_length=64, description="as it is told in events")
    classes: list[str] | None = Field(
        None, min_length=1, description="names of the model's classes; none: all"
    )
    min_score: float = Field(0.0, ge=0, le=1, description="that a track must have had once")
    min_frames: int = Field(
        2, ge=1, le=1000, description="analysed frames in which a track must have been found"
    )
    zone: list[Point] | None = Field(None, description="corners, three or more, in order")
    dwell: float | None = Field(
        None, gt=0, le=86_400, description="s in the zone, or in the picture, before it matches"
    )
    line: list[Point] | None = Field(None, description="two points")
    direction: Literal["both", "in", "out"] = Field("both", description="over the line")
    anchor: Literal["bottom", "center"] = Field("bottom", description="of a box: where it stands")
    cooldown: float = Field(
        0.0, ge=0, le=86_400, description="s after a match in which nothing matches"
    )
    again: float | None = Field(
        None,
        gt=0,
        le=86_400,
        description="s after which the same track may match again; none: a track matches once, "
        "and whenever it crosses the line",
    )

    @field_validator("zone")
    @classmethod
    def _is_area(cls, zone: list[Place] | None) -> list[Place] | None:
        if zone is None:
            return None
        if len(zone) < 3:
            raise ValueError(f"a zone has three corners or more, not {len(zone)}")
        first, *others = zone
        if not any(abs(_cross(first, a, b)) > 1e-9 for a in others for b in others):
            raise ValueError("the corners of a zone must not all be on one line")
        return zone

    @field_validator("line")
    @classmethod
    def _is_line(cls, line: list[Place] | None) -> list[Place] | None:
        if line is not None and (len(line) != 2 or line[0] == line[1]):
            raise ValueError(f"a line has two points that differ, not {line}")
        return line

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.line is not None and (self.zone is not None or self.dwell is not None):
            other = "zone" if self.zone is not None else "dwell"
            raise ValueError(f"a rule has a line or a {other}, not both: make two rules of it")
        if self.line is None and self.direction != "both":
            raise ValueError("direction needs a line to be crossed")
        return self

    @property
    def needs_tracks(self) -> bool:
        """Whether it makes no sense where things have no ids."""
        return self.line is not None or self.dwell is not None


@dataclass(frozen=True)
class Match:
    """A rule came true. rule: its name. time: s since 1970. track_id: None without tracks.
    box: x1 y1 x2 y2 in display px. text: a sentence."""

    rule: str
    time: float
    track_id: int | None
    class_name: str
    score: float
    box: tuple[float, float, float, float]
    text: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without time and text: an event has them already."""
        return {
            "rule": self.rule,
            "track_id": self.track_id,
            "class": self.class_name,
            "score": round(self.score, 4),
            "box": [round(v, 2) for v in self.box],
        }


def check_rules(rules: Sequence[Rule], names: Sequence[str], *, tracked: bool) -> None:
    """Raises ConfigError for a rule that could never match: of a class that the model does not
    know (names: those it knows, empty where it has none), or of tracks where there are none."""
    for rule in rules:
        unknown = sorted(set(rule.classes or ()) - set(names)) if names else []
        if unknown:
            raise ConfigError(
                f"rule {rule.name}: the model finds no {', '.join(unknown)}; it knows "
                f"{', '.join(names)}"
            )
        if rule.needs_tracks and not tracked:
            what = "a line" if rule.line is not None else "dwell"
            raise ConfigError(f"rule {rule.name}: {what} needs tracks, which are off: track: true")


@dataclass
class _Thing:
    """What a rule remembers of a track; times are the state's own.

    side: where it was last clearly beside the line, relative. entered: when it was first in the
    zone without having been seen outside since. matched: when it did.
    """

    seen: float
    frames: int = 0
    best: float = 0.0
    side: Place | None = None
    entered: float | None = None
    matched: float | None = None


@dataclass(frozen=True)
class _Look:
    """One detection, as rules see it. key: the track's id, below 0 a class without tracks."""

    key: int
    class_name: str
    score: float
    box: tuple[float, float, float, float]

    @property
    def who(self) -> str:
        return f"{self.class_name} #{self.key}" if self.key > 0 else self.class_name


class RuleState:
    """The rules of one stream, and what they remember. Not for several threads at once.

    Memory is bounded by the tracks of the last FORGET s.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = [_Watch(rule) for rule in rules]
        self._time: float | None = None  # of the last record
        self._clock = 0.0  # s of all records; never goes back, as a camera's clock may

    def update(self, record: Record) -> list[Match]:
        """What came true with this record. Records come in order, also those without detections;
        one that is not after the last counts as of the same time."""
        if self._time is not None:
            self._clock += max(0.0, record.time - self._time)
        self._time = record.time
        looks, now = list(_looks(record)), self._clock
        return [match for watch in self._rules for match in watch.update(looks, record, now)]


class _Watch:
    """One rule at work."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._things: dict[int, _Thing] = {}
        self._quiet_until = 0.0

    def update(self, looks: Sequence[_Look], record: Record, now: float) -> Iterator[Match]:
        rule = self.rule
        gone = [key for key, thing in self._things.items() if now - thing.seen > FORGET]
        for key in gone:
            del self._things[key]
        here: dict[int, _Look] = {}
        for look in looks:  # best first
            if (rule.classes is None or look.class_name in rule.classes) and (
                look.key > 0 or self._is_inside(look, record)
            ):
                here.setdefault(look.key, look)
        for key, look in here.items():
            thing = self._things.setdefault(key, _Thing(now))
            thing.seen = now
            thing.frames += 1
            thing.best = max(thing.best, look.score)
            what = self._happened(thing, look, record, now)
            if what is not None and self._believed(thing, now):
                thing.matched = now
                self._quiet_until = now + rule.cooldown
                yield Match(
                    rule.name,
                    record.time,
                    key if key > 0 else None,
                    look.class_name,
                    look.score,
                    look.box,
                    f"{look.who} {what}",
                )

    def _believed(self, thing: _Thing, now: float) -> bool:
        rule = self.rule
        if now < self._quiet_until or thing.frames < rule.min_frames:
            return False
        if thing.best < rule.min_score:
            return False
        if thing.matched is None:
            return True
        if rule.again is None:
            return rule.line is not None
        return now - thing.matched >= rule.again

    def _happened(self, thing: _Thing, look: _Look, record: Record, now: float) -> str | None:
        """What a thing does now that the rule is about."""
        rule = self.rule
        if rule.line is not None:
            way = self._crossed(thing, look, record)
            if way is None or rule.direction not in ("both", way):
                return None
            return f"crossed line {rule.name} {way}wards"
        if not self._is_inside(look, record):
            thing.entered = None
            return None
        thing.entered = now if thing.entered is None else thing.entered
        if rule.dwell is None:
            return f"appeared ({rule.name})" if rule.zone is None else f"is in zone {rule.name}"
        stayed = now - thing.entered
        if stayed < rule.dwell:
            return None
        where = f"in the picture ({rule.name})" if rule.zone is None else f"in zone {rule.name}"
        return f"has been {where} for {round(stayed, 1):g} s"

    def _is_inside(self, look: _Look, record: Record) -> bool:
        zone = self.rule.zone
        return zone is None or is_inside(self._anchor(look, record), zone)

    def _crossed(self, thing: _Thing, look: _Look, record: Record) -> Literal["in", "out"] | None:
        """The way in which it went over the line since it was last clearly beside it."""
        assert self.rule.line is not None
        size = (record.width, record.height)
        start, end = (_scaled(point, size) for point in self.rule.line)
        anchor = self._anchor(look, record)
        length = hypot(end[0] - start[0], end[1] - start[1])
        after = _cross(start, end, _scaled(anchor, size)) / length  # px to the right of the line
        if abs(after) <= BAND * (look.box[3] - look.box[1]):
            return None
        was, thing.side = thing.side, anchor
        if was is None:
            return None
        x1, y1 = _scaled(was, size)
        x2, y2 = _scaled(anchor, size)
        before = _cross(start, end, (x1, y1)) / length
        if not before or copysign(1, before) == copysign(1, after):
            return None
        part = before / (before - after)  # of its way until the line
        x, y = x1 + part * (x2 - x1) - start[0], y1 + part * (y2 - y1) - start[1]
        along = (x * (end[0] - start[0]) + y * (end[1] - start[1])) / length
        if not 0 <= along <= length:  # it went around the line's end
            return None
        return "in" if after > 0 else "out"

    def _anchor(self, look: _Look, record: Record) -> Place:
        x1, y1, x2, y2 = look.box
        x = (x1 + x2) / 2 / record.width
        y = (y2 if self.rule.anchor == "bottom" else (y1 + y2) / 2) / record.height
        return min(max(x, EDGE), 1 - EDGE), min(max(y, EDGE), 1 - EDGE)


def is_inside(point: Place, corners: Sequence[Place]) -> bool:
    """Whether a point is in a polygon: a ray from it crosses the outline an odd number of
    times. Points on the outline are in or not."""
    x, y = point
    inside = False
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            inside = not inside
    return inside


def _cross(start: Place, end: Place, point: Place) -> float:
    """Above 0: the point is to the right of the line, where y goes down."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])


def _scaled(point: Place, size: tuple[int, int]) -> Place:
    return point[0] * size[0], point[1] * size[1]


def _looks(record: Record) -> Iterator[_Look]:
    found = record.detections
    ids = -1 - found.class_ids if found.track_ids is None else found.track_ids
    for key, class_id, score, box in zip(
        ids.tolist(), found.class_ids.tolist(), found.scores.tolist(), found.boxes, strict=True
    ):
        if np.isfinite(box).all():
            x1, y1, x2, y2 = (float(value) for value in box)
            yield _Look(key, found.name(class_id), score, (x1, y1, x2, y2))
