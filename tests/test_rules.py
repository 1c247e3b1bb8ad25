"""Rules, by cases worked out by hand, and geometry by matplotlib's."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

pydantic = pytest.importorskip("pydantic", reason="needs pydantic: pip install 'vidai[serve]'")

from vidai.errors import ConfigError  # noqa: E402
from vidai.live.output import Record  # noqa: E402
from vidai.live.rules import FORGET, Match, Rule, RuleState, check_rules, is_inside  # noqa: E402
from vidai.types import Detections  # noqa: E402

WIDTH, HEIGHT = 200, 100  # px of the display picture
SIZE = 10  # px of a box, so that a line's band is 1 px wide on each side
NAMES = ("person", "car")
EPOCH = 1.8e9
LEFT_HALF = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
UPRIGHT = [(0.5, 0.9), (0.5, 0.1)]  # looked along upwards: its left is the picture's left
Thing = tuple[int | None, float, float]  # id, and where it stands in px


def record(
    time: float,
    *things: Thing,
    classes: Sequence[int] | None = None,
    score: float = 0.8,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Record:
    boxes = [(x - SIZE / 2, y - SIZE, x + SIZE / 2, y) for _, x, y in things]
    ids = [number for number, _, _ in things]
    detections = Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(things), score, np.float32),
        np.array(classes or [0] * len(things), np.int32),
        NAMES,
        None if None in ids else np.array(ids, np.int64),
    )
    return Record("door", EPOCH + time, 0, *size, detections)


def rule(name: str = "gate", **options: Any) -> Rule:
    return Rule.model_validate({"name": name, "min_frames": 1, **options})


def fired(state: RuleState, *records: Record) -> list[tuple[float, int | None]]:
    """When, in s, and for which track."""
    return [
        (round(match.time - EPOCH, 3), match.track_id)
        for one in records
        for match in state.update(one)
    ]


def walk(state: RuleState, *xs: float, y: float = 50, track: int = 7) -> list[Match]:
    """One who is at these places, one a second."""
    return [m for t, x in enumerate(xs) for m in state.update(record(t, (track, x, y)))]


# Appearing


def test_each_track_appears_once() -> None:
    records = [record(t, (1, 50, 50), *([(2, 150, 50)] if t >= 2 else [])) for t in range(6)]
    assert fired(RuleState([rule()]), *records) == [(0, 1), (2, 2)]


def test_a_match_says_everything() -> None:
    (match,) = RuleState([rule("all")]).update(record(0, (7, 50, 50), score=0.75))
    assert match == Match(
        "all",
        EPOCH,
        7,
        "person",
        0.75,
        (45.0, 40.0, 55.0, 50.0),
        "person #7 appeared (all)",
    )
    assert match.to_dict() == {
        "rule": "all",
        "track_id": 7,
        "class": "person",
        "score": 0.75,
        "box": [45.0, 40.0, 55.0, 50.0],
    }


def test_a_track_of_one_frame_is_not_believed_by_default() -> None:
    state = RuleState([Rule(name="all")])
    records = [record(0, (1, 50, 50)), record(1, (2, 150, 50)), record(2, (2, 150, 50))]
    assert fired(state, *records) == [(2, 2)]


def test_classes_and_scores_choose() -> None:
    state = RuleState([rule(classes=["car"], min_score=0.7)])
    assert not state.update(record(0, (1, 50, 50), classes=[0]))
    assert not state.update(record(1, (2, 50, 50), classes=[1], score=0.6))
    assert fired(state, record(2, (2, 50, 50), classes=[1], score=0.75)) == [(2, 2)]


def test_a_cooldown_silences_the_rule_and_others_come_after_it() -> None:
    """Who is still there when it is over is told then."""
    state = RuleState([rule(cooldown=3.0)])
    records = [
        record(t, (1, 50, 50), (2, 150, 50), *([(3, 20, 20)] if t == 1 else [])) for t in range(6)
    ]
    assert fired(state, *records) == [(0, 1), (3, 2)]


def test_a_track_may_match_again_after_some_time() -> None:
    records = [record(t, (1, 50, 50)) for t in range(8)]
    assert fired(RuleState([rule(again=3.0)]), *records) == [(0, 1), (3, 1), (6, 1)]


# Zones


def test_a_zone_matches_once_a_track_when_its_feet_are_in_it() -> None:
    state = RuleState([rule("yard", zone=LEFT_HALF)])
    (match,) = walk(state, 150, 120, 101, 99, 60, 120, 60)
    assert match.time == EPOCH + 3
    assert match.text == "person #7 is in zone yard"


def test_the_anchor_may_be_the_middle() -> None:
    """Feet at 55 px, the middle 5 px higher."""
    upper_half = [(0, 0), (1, 0), (1, 0.52), (0, 0.52)]
    feet, middle = rule("f", zone=upper_half), rule("m", zone=upper_half, anchor="center")
    told = RuleState([feet, middle]).update(record(0, (1, 50, 55)))
    assert [match.rule for match in told] == ["m"]


@pytest.mark.parametrize("y", [90, 100, 130])
@pytest.mark.parametrize("x", [-3, 0, 100, 200, 204])
def test_a_zone_to_the_edge_holds_what_the_edge_cuts(x: float, y: float) -> None:
    whole = [(0, 0), (1, 0), (1, 1), (0, 1)]
    assert fired(RuleState([rule(zone=whole)]), record(0, (1, x, y))) == [(0, 1)]


def test_zones_hold_for_any_size_of_the_picture() -> None:
    state = RuleState([rule(zone=LEFT_HALF)])
    small = record(0, (1, 150, 50), size=(200, 100))
    large = record(1, (1, 150, 50), size=(400, 200))
    assert fired(state, small, large) == [(1, 1)]


def test_dwell_counts_from_when_it_went_in() -> None:
    """In at 2 s, out at 4 s, in at 5 s, and not found at 7 s; three seconds later it is 8 s."""
    state = RuleState([rule("yard", zone=LEFT_HALF, dwell=3.0)])
    places = {0: 150, 1: 120, 2: 90, 3: 60, 4: 120, 5: 60, 6: 60, 8: 60, 9: 60}
    records = [record(t, *([(7, places[t], 50)] if t in places else [])) for t in range(10)]
    told = [match for one in records for match in state.update(one)]
    assert [(m.time - EPOCH, m.text) for m in told] == [
        (8, "person #7 has been in zone yard for 3 s")
    ]


def test_dwell_without_a_zone_is_of_the_picture() -> None:
    state = RuleState([rule("long", dwell=2.5)])
    told = [m for t in range(5) for m in state.update(record(t, (7, 40 * t, 50)))]
    assert [(m.time - EPOCH, m.text) for m in told] == [
        (3, "person #7 has been in the picture (long) for 3 s")
    ]


# Lines


def test_a_line_is_crossed_from_left_to_right_inwards() -> None:
    state = RuleState([rule("gate", line=UPRIGHT)])
    told = walk(state, 60, 90, 110, 150)
    assert [(m.time - EPOCH, m.text) for m in told] == [(2, "person #7 crossed line gate inwards")]
    back = state.update(record(9, (7, 60, 50)))
    assert [m.text for m in back] == ["person #7 crossed line gate outwards"]


def test_over_a_line_from_left_to_right_in_is_downwards() -> None:
    state = RuleState([rule(line=[(0.1, 0.5), (0.9, 0.5)], direction="in")])
    assert not state.update(record(0, (1, 100, 40)))
    assert fired(state, record(1, (1, 100, 60))) == [(1, 1)]
    assert not state.update(record(2, (1, 100, 40)))


@pytest.mark.parametrize(
    ("direction", "times"), [("both", [1, 2, 3]), ("in", [1, 3]), ("out", [2])]
)
def test_directions(direction: str, times: list[float]) -> None:
    told = walk(RuleState([rule(line=UPRIGHT, direction=direction)]), 60, 140, 60, 140)
    assert [m.time - EPOCH for m in told] == times


def test_who_goes_around_the_end_of_a_line_has_not_crossed_it() -> None:
    """The line is from 10 to 90 px down."""
    for y, crossings in ((5, 0), (9, 0), (11, 1), (89, 1), (91, 0)):
        assert len(walk(RuleState([rule(line=UPRIGHT)]), 60, 140, y=y)) == crossings, y


def test_who_stands_on_a_line_and_sways_crosses_it_once_or_never() -> None:
    """Within a tenth of the box's height of the line nothing is decided."""
    sway = (99.2, 100.7, 99.1, 100.9, 100.0)
    assert len(walk(RuleState([rule(line=UPRIGHT)]), 60, *sway, 140)) == 1
    assert not walk(RuleState([rule(line=UPRIGHT)]), 60, *sway, 60)
    assert not walk(RuleState([rule(line=UPRIGHT)]), *sway)


def test_a_track_that_flickers_still_crosses() -> None:
    state = RuleState([rule(line=UPRIGHT)])
    records = [record(0, (1, 60, 50)), record(1), record(2), record(3, (1, 140, 50))]
    assert fired(state, *records) == [(3, 1)]


def test_another_track_has_not_crossed() -> None:
    state = RuleState([rule(line=UPRIGHT)])
    assert not fired(state, record(0, (1, 60, 50)), record(1, (2, 140, 50)))


def test_a_crossing_may_have_to_wait() -> None:
    told = walk(RuleState([rule(line=UPRIGHT, again=2.5)]), 60, 140, 60, 140, 60)
    assert [m.time - EPOCH for m in told] == [1, 4]


coordinates = st.floats(0.05, 0.95)
places = st.tuples(coordinates, coordinates)


@settings(max_examples=200, deadline=None)
@given(line=st.tuples(places, places), one=places, other=places)
def test_there_and_back_is_in_and_out(
    line: tuple[tuple[float, float], tuple[float, float]],
    one: tuple[float, float],
    other: tuple[float, float],
) -> None:
    """Whatever the line: none, or one each way, in turn; and with the line turned round the ways
    are the other ones."""
    assume(line[0] != line[1])
    there, back = ((p[0] * WIDTH, p[1] * HEIGHT) for p in (one, other))

    def ways(points: Sequence[tuple[float, float]]) -> list[str]:
        state = RuleState([rule(line=points)])
        path = enumerate((there, back, there, back))
        told = [m for t, (x, y) in path for m in state.update(record(t, (1, x, y)))]
        return [m.text.split()[-1] for m in told]

    forwards, backwards = ways(line), ways(line[::-1])
    assert forwards in (
        [],
        ["inwards", "outwards", "inwards"],
        ["outwards", "inwards", "outwards"],
    )
    assert [{"inwards": "outwards", "outwards": "inwards"}[w] for w in forwards] == backwards
    crossing = meets([(x * WIDTH, y * HEIGHT) for x, y in line], there, back)
    if crossing is not None:
        assert bool(forwards) == crossing


def meets(line: list[tuple[float, float]], a: Any, b: Any) -> bool | None:
    """Whether two segments cross, by solving for where; None where it is a close thing."""
    (p, q), a, b = np.array(line), np.array(a), np.array(b)
    matrix = np.column_stack([q - p, a - b])
    if abs(np.linalg.det(matrix)) < 1e-6:
        return None
    along, way = np.linalg.solve(matrix, a - p)
    normal = np.array([q[1] - p[1], p[0] - q[0]]) / np.hypot(*(q - p))
    beside = np.abs([(a - p) @ normal, (b - p) @ normal])
    if (np.abs(beside - 1) < 0.01).any() or min(abs(along), abs(along - 1)) < 1e-3:
        return None
    return bool(0 < along < 1 and 0 < way < 1 and (beside > 1).all())


# Without tracks


def test_without_ids_a_class_counts_as_one_until_it_is_gone() -> None:
    """Two persons at once, then nobody for longer than FORGET, then one."""
    state = RuleState([rule()])
    last = 2 + FORGET + 1
    records = [
        record(0, (None, 50, 50), (None, 150, 50)),
        record(1, (None, 50, 50)),
        record(2, (None, 60, 50)),
        record(last, (None, 50, 50)),
    ]
    (first, *rest) = [m for one in records for m in state.update(one)]
    assert (first.track_id, first.text) == (None, "person appeared (gate)")
    assert [m.time - EPOCH for m in rest] == [last]


def test_without_ids_who_is_outside_a_zone_does_not_keep_it_busy() -> None:
    state = RuleState([rule(zone=LEFT_HALF)])
    always = (None, 150.0, 50.0)
    visits = {1: (None, 50.0, 50.0), 20: (None, 50.0, 50.0)}
    records = [record(t, always, *([visits[t]] if t in visits else [])) for t in range(25)]
    assert fired(state, *records) == [(1, None), (20, None)]


# Time and memory


def test_a_clock_that_goes_back_fires_nothing_twice() -> None:
    state = RuleState([rule()])
    assert fired(state, *(record(t, (1, 50, 50)) for t in (0, 1, -3600, -3599))) == [(0, 1)]


def test_what_is_gone_is_forgotten() -> None:
    """A new track in every record: what is kept stays at FORGET s of them."""
    rules = [rule("a"), rule("z", zone=LEFT_HALF, dwell=1), rule("l", line=UPRIGHT)]
    state = RuleState(rules)

    def some(start: int, count: int) -> int:
        for n in range(start, start + count):
            state.update(record(n / 5, (n + 1, n % WIDTH, 50)))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = some(0, 500)
        assert some(500, 2000) - before < 20_000
    finally:
        tracemalloc.stop()
    assert all(len(watch._things) <= 5 * FORGET + 1 for watch in state._rules)


def test_boxes_that_are_none_fire_nothing() -> None:
    odd = record(0, (1, float("nan"), 50), (2, 50, 50))
    assert fired(RuleState([rule()]), odd) == [(0, 2)]


# Polygons


@settings(max_examples=300, deadline=None)
@given(corners=st.lists(places, min_size=3, max_size=8), point=places)
def test_inside_is_where_the_outline_winds_oddly(
    corners: list[tuple[float, float]], point: tuple[float, float]
) -> None:
    """By the angle under which the outline is seen from the point: a whole turn each time that it
    goes around. Also where it crosses itself."""
    around = np.array([*corners, corners[0]]) - point
    steps = np.diff(around, axis=0)
    near = np.abs(around[:-1, 0] * steps[:, 1] - around[:-1, 1] * steps[:, 0])
    assume((near > 1e-6).all())
    angles = np.arctan2(around[:, 1], around[:, 0])
    turns = (np.diff(angles) + np.pi) % (2 * np.pi) - np.pi
    assert is_inside(point, corners) == bool(round(turns.sum() / (2 * np.pi)) % 2)


def test_inside_is_where_matplotlib_says() -> None:
    """A concave zone, at 2,000 places."""
    zone = [(0.1, 0.2), (0.9, 0.1), (0.6, 0.5), (0.8, 0.9), (0.3, 0.7), (0.4, 0.45)]
    points = np.random.default_rng(5).random((2000, 2))
    truth = Outline([*zone, zone[0]], closed=True).contains_points(points)
    assert 0.2 < truth.mean() < 0.8
    assert [is_inside((x, y), zone) for x, y in points.tolist()] == truth.tolist()


# What may be written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"zone": [(0, 0), (1, 1)]}, "three corners or more, not 2"),
        ({"zone": [(0, 0), (0.1, 0.1), (0.3, 0.3)]}, "all be on one line"),
        ({"zone": [(0, 0), (640, 0), (640, 360)]}, "from 0 to 1.*not \\(640, 0\\)"),
        ({"zone": [(0, 0), (1, 0, 1), (1, 1)]}, "a point is \\[x, y\\]"),
        ({"zone": [(0, 0), (1, float("nan")), (1, 1)]}, "from 0 to 1"),
        ({"line": [(0, 0), ("1", 0)]}, "a point is \\[x, y\\]"),
        ({"line": [(0, 0), (True, 0)]}, "a point is \\[x, y\\]"),
        ({"line": [(0.5, 0.5), (0.5, 0.5)]}, "two points that differ"),
        ({"line": UPRIGHT[:1]}, "two points that differ"),
        ({"line": UPRIGHT, "zone": LEFT_HALF}, "a line or a zone, not both"),
        ({"line": UPRIGHT, "dwell": 2}, "a line or a dwell, not both"),
        ({"direction": "in"}, "direction needs a line"),
        ({"dwell": 0}, "greater than 0"),
        ({"classes": []}, "at least 1 item"),
        ({"min_score": 2}, "less than or equal to 1"),
        ({"name": ""}, "at least 1 character"),
        ({"zones": LEFT_HALF}, "zones"),
    ],
)
def test_what_cannot_be_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=f"(?s){words}"):
        rule(**options)


def test_rules_survive_being_written_down() -> None:
    for one in (rule(zone=LEFT_HALF, dwell=2), rule(line=UPRIGHT, direction="out")):
        assert Rule.model_validate(one.model_dump(mode="json")) == one


def test_rules_that_could_never_match_are_refused() -> None:
    check_rules([rule(classes=["car"]), rule(dwell=1)], NAMES, tracked=True)
    check_rules([rule(classes=["7"]), rule(zone=LEFT_HALF)], (), tracked=False)
    with pytest.raises(ConfigError, match="rule gate: the model finds no persn; it knows person"):
        check_rules([rule(classes=["persn"])], NAMES, tracked=True)
    for options, what in (({"line": UPRIGHT}, "a line"), ({"dwell": 1}, "dwell")):
        with pytest.raises(ConfigError, match=f"rule gate: {what} needs tracks"):
            check_rules([rule(**options)], NAMES, tracked=False)
