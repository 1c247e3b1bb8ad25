"""Ids that stay with an object: by things whose identity is known, and through the command."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import vidai
from tests.squares import squares_clip
from tests.tiny_model import NAMES, picture
from vidai import tracking
from vidai.cli import cli
from vidai.config import load_config
from vidai.errors import ConfigError
from vidai.pipeline import Pipeline
from vidai.tracking import LOST, Tracker
from vidai.types import Detections

pytest.importorskip("trackers", reason="needs the package trackers: pip install 'vidai[track]'")


def found(*boxes: Iterable[float], classes: Iterable[int] | None = None) -> Detections:
    """Detections of these boxes, all of class 0 unless named."""
    array = np.array([list(box) for box in boxes], np.float32).reshape(-1, 4)
    kinds = [0] * len(array) if classes is None else list(classes)
    return Detections(
        array, np.full(len(array), 0.8, np.float32), np.array(kinds, np.int32), ("person", "car")
    )


def at(x: float, y: float = 100, width: float = 40, height: float = 100) -> tuple[float, ...]:
    return x, y, x + width, y + height


def ids(tracked: Detections) -> list[int]:
    assert tracked.track_ids is not None
    assert tracked.track_ids.dtype == np.int64
    return [int(i) for i in tracked.track_ids]


def test_what_comes_in_goes_out_in_its_order_with_an_id_each() -> None:
    """Boxes by the dozen, in a new order in each frame, some of them new."""
    rng, tracker = np.random.default_rng(0), Tracker()
    numbers: dict[int, int] = {}  # of what is at a place
    for frame in range(12):
        places = rng.permutation(4 + 3 * frame)
        boxes = [at(60.0 * (p % 20) + rng.uniform(-2, 2), 120.0 * (p // 20)) for p in places]
        given = found(*boxes)
        told = tracker.update(given, frame / 5)
        assert np.array_equal(told.boxes, given.boxes)
        assert np.array_equal(told.scores, given.scores)
        assert np.array_equal(told.class_ids, given.class_ids)
        assert told.names == given.names
        for place, number in zip(places.tolist(), ids(told), strict=True):
            assert numbers.setdefault(place, number) == number
    assert sorted(numbers.values()) == list(range(1, len(numbers) + 1))


def test_two_who_cross_keep_their_ids() -> None:
    """They walk towards each other; the one behind is hidden while they pass."""
    tracker = Tracker()
    for frame in range(60):
        right, left = 100 + 5 * frame, 400 - 5 * frame
        boxes = [at(right, 100), at(left, 110)]
        hidden = abs(right - left) < 30
        told = ids(tracker.update(found(*boxes[: 1 if hidden else 2]), frame / 10))
        assert told == ([1] if hidden else [1, 2])


@pytest.mark.parametrize("rate", [25.0, 10.0, 5.0, 2.0, 1.0])
def test_one_who_walks_keeps_the_id_at_any_rate(rate: float) -> None:
    """76 px/s, almost twice the box's width: between two looks at 1 fps boxes do not meet."""
    tracker = Tracker()
    told = {
        tuple(ids(tracker.update(found(at(20 + 76 * now)), now)))
        for now in np.arange(0, 12, 1 / rate)
    }
    assert told == {(1,)}


def test_one_who_walks_keeps_the_id_while_the_rate_changes() -> None:
    rng, tracker, now = np.random.default_rng(3), Tracker(), 0.0
    for _ in range(60):
        assert ids(tracker.update(found(at(20 + 76 * now), at(900)), now)) == [1, 2]
        now += float(rng.choice([0.1, 0.2, 0.5, 1.0]))


def test_a_class_never_becomes_another() -> None:
    tracker = Tracker()
    assert ids(tracker.update(found(at(10), classes=[0]), 0.0)) == [1]
    assert ids(tracker.update(found(at(10), classes=[1]), 0.1)) == [2]
    assert ids(tracker.update(found(at(10), at(10), classes=[1, 0]), 0.2)) == [2, 1]


@pytest.mark.parametrize(("gap", "kept"), [(LOST - 0.3, True), (LOST + 0.3, False)])
@pytest.mark.parametrize("rate", [1.0, 5.0])
def test_lost_ones_are_forgotten_after_seconds_not_frames(
    gap: float, kept: bool, rate: float
) -> None:
    tracker = Tracker()
    for frame in range(5):
        tracker.update(found(at(10)), frame / rate)
    last = 4 / rate
    for now in np.arange(last + 1 / rate, last + gap, 1 / rate):
        assert ids(tracker.update(found(), now)) == []
    assert ids(tracker.update(found(at(10)), last + gap)) == ([1] if kept else [2])


def test_a_gap_without_any_frame_ages_tracks_too() -> None:
    tracker = Tracker()
    tracker.update(found(at(10)), 0.0)
    assert ids(tracker.update(found(at(10)), 3600.0)) == [2]


def test_a_clock_that_goes_back_costs_no_id() -> None:
    """A camera's clock is set back by an hour; no warning, no exception."""
    tracker, epoch = Tracker(), 1.8e9
    for now in (epoch, epoch + 0.1, epoch + 0.1, epoch - 3600, epoch - 3599.9):
        assert ids(tracker.update(found(at(10)), now)) == [1]


def test_boxes_that_are_none_are_not_lost_either() -> None:
    tracker = Tracker()
    tracker.update(found(at(10)), 0.0)
    odd = found((np.nan, 0, 1, 1), at(10), (5, 5, 5, 5), (0, 0, np.inf, 1))
    told = tracker.update(odd, 0.1)
    assert sorted(ids(told)) == [1, 2, 3, 4]
    assert ids(told)[1] == 1
    assert ids(tracker.update(found((np.nan, 0, 1, 1)), 0.2)) == [5]


def test_the_same_detections_always_get_the_same_ids() -> None:
    def one_run() -> list[list[int]]:
        rng, tracker = np.random.default_rng(7), Tracker()
        return [
            ids(tracker.update(found(*(at(*rng.uniform(0, 500, 2)) for _ in range(6))), n / 5))
            for n in range(20)
        ]

    assert one_run() == one_run()


def test_trackers_do_not_share_ids() -> None:
    first, second = Tracker(), Tracker()
    first.update(found(at(10), at(200)), 0.0)
    assert ids(second.update(found(at(10)), 0.0)) == [1]


def test_memory_is_bounded() -> None:
    """Things that stay, and new ones in every frame: after a while nothing grows any more."""
    rng, tracker = np.random.default_rng(0), Tracker()

    def some_frames(start: int, count: int) -> int:
        for number in range(start, start + count):
            boxes = [at(10), at(300), at(*rng.uniform((500, 0), (1500, 900)))]
            tracker.update(found(*boxes), number / 2)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = some_frames(0, 300)
        assert some_frames(300, 300) - before < 40_000  # 44 bytes a box
    finally:
        tracemalloc.stop()
    assert len(tracker._engine.tracks) <= 3 + LOST * 2
    assert len(tracker._once) <= 3 + LOST * 2


def test_counts_are_of_things_found_twice() -> None:
    tracker = Tracker()
    tracker.update(found(at(10), at(300), at(600), classes=[0, 0, 1]), 0.0)
    assert tracker.counts == {}
    for now in (0.1, 0.2, 0.3):
        tracker.update(found(at(10), at(600), classes=[0, 1]), now)
    assert tracker.counts == {"person": 1, "car": 1}


def test_carried_boxes_go_on_as_they_went() -> None:
    """50 px/s to the right and 20 down, until 0.9 s; what stands still stays."""
    tracker = Tracker()
    for frame in range(10):
        now = frame / 10
        tracker.update(found(at(100 + 50 * now, 100 + 20 * now), at(500)), now)
    later = tracker.carried(1.9)
    assert ids(later) == [1, 2]
    assert later.boxes[0] == pytest.approx(at(100 + 50 * 1.9, 100 + 20 * 1.9), abs=4)
    assert later.boxes[1] == pytest.approx(at(500), abs=0.1)
    assert later.names == ("person", "car")
    assert np.array_equal(tracker.carried(0.9).boxes, tracker.carried(0.5).boxes)


def test_nothing_is_carried_for_long_or_before_there_is_anything() -> None:
    tracker = Tracker()
    assert len(tracker.carried(5.0)) == 0
    tracker.update(found(at(10)), 0.0)
    assert ids(tracker.carried(LOST - 0.1)) == [1]
    assert ids(tracker.carried(LOST + 0.1)) == []
    tracker.update(found(), 0.2)
    assert ids(tracker.carried(0.3)) == []


def test_without_the_package_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ConfigError, match=r"pip install 'vidai\[track\]'"):
        Tracker()


def test_a_package_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenCV's wheel does on a machine without a display."""

    def fails(name: str, *_: Any) -> Any:
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(tracking, "import_module", fails)
    with pytest.raises(ConfigError, match=r"libGL\.so\.1.*apt install libgl1.*headless"):
        Tracker()


# Through the pipeline and the command.

STEP = 4  # px a frame: slow enough to be followed, a quarter of a square


def moving(index: int) -> list[tuple[int, int, int]]:
    """Two red squares that move in opposite directions and a green one that is away in between."""
    squares = [(STEP * 2 * index, 8, 0), (104 - STEP * 2 * index, 48, 0)]
    return squares if 4 <= index < 7 else [*squares, (56, 88, 1)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return squares_clip(tmp_path / "in.mp4", frames=12, draw=lambda i: picture(moving(i)), rate=10)


def vidai_run(*args: object) -> Any:
    return CliRunner().invoke(cli, ["run", *(str(a) for a in args)])


def by_place(rows: list[dict[str, Any]]) -> dict[tuple[str, int], set[int]]:
    """The ids of what is at a height of the picture."""
    told: dict[tuple[str, int], set[int]] = {}
    for row in rows:
        for one in row["detections"]:
            told.setdefault((one["class"], round(one["box"][1])), set()).add(one["track_id"])
    return told


def test_squares_keep_their_ids_through_the_command(clip: Path, tiny_model: Path) -> None:
    out, report = clip.with_name("out.mp4"), clip.with_name("report.json")
    args = ("--model", tiny_model, "--track", "--records", "-", "--report", report, "-q")
    result = vidai_run(clip, out, *args)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [len(row["detections"]) for row in rows] == [len(moving(i)) for i in range(12)]
    told = by_place(rows)
    assert set(told) == {("red", 8), ("red", 48), ("green", 88)}
    assert all(len(numbers) == 1 for numbers in told.values())
    assert set.union(*told.values()) == {1, 2, 3}
    assert json.loads(report.read_text())["tracks"] == {"red": 2, "green": 1}


def test_the_summary_tells_how_many_there_were(clip: Path, tiny_model: Path) -> None:
    args = (clip, "--model", tiny_model, "--report", clip.with_name("r.json"))
    assert "red 2, green 1" in vidai_run(*args, "--track").stderr
    untracked = vidai_run(*args, "-y")
    assert untracked.exit_code == 0
    assert "tracks" not in untracked.stderr


def test_without_track_there_are_no_ids(clip: Path, tiny_model: Path) -> None:
    rows = vidai_run(clip, "--model", tiny_model, "--records", "-", "-q").stdout
    assert "track_id" not in rows


def test_a_pipeline_file_may_ask_for_tracks(clip: Path, tiny_model: Path) -> None:
    file = clip.with_name("p.yaml")
    file.write_text(
        f"model: {tiny_model}\ntrack: true\nsteps: [{{overlay: {{color_by: track}}}}]\n"
    )
    assert load_config(str(file)).track
    args = (clip, "--pipeline", file, "--records", "-", "-q")
    assert "track_id" in vidai_run(*args).stdout
    assert "track_id" not in vidai_run(*args, "--no-track").stdout


@pytest.mark.parametrize("value", ["1", "often", "[red]"])
def test_track_in_a_pipeline_file_is_true_or_false(value: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"model: m\ntrack: {value}\n")
    with pytest.raises(ConfigError, match="track must be true or false"):
        load_config(str(tmp_path / "p.yaml"))


def test_detect_gives_the_same_ids(clip: Path, tiny_model: Path) -> None:
    told = [
        {"detections": detections.to_dicts()}
        for _, detections in vidai.detect(clip, model=tiny_model, device="cpu", track=True)
    ]
    assert all(len(numbers) == 1 for numbers in by_place(told).values())


def test_steps_and_sinks_see_the_ids(clip: Path, tiny_model: Path) -> None:
    seen: list[list[int]] = []

    def step(frame: vidai.Frame, detections: Detections) -> vidai.Frame:
        seen.append(sorted(ids(detections)))
        return frame

    report = Pipeline(
        str(clip), vidai.Detector(tiny_model, device="cpu"), tracker=Tracker(), steps=[step]
    ).run()
    assert [len(row) for row in seen] == [len(moving(i)) for i in range(12)]
    assert report.tracks == {"red": 2, "green": 1}
    assert set(report.tracks) <= set(NAMES)


def test_a_run_without_the_package_writes_nothing(
    clip: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    result = vidai_run(clip, clip.with_name("o.mp4"), "--model", tiny_model, "--track")
    assert result.exit_code == 1
    assert result.stderr.strip().endswith("pip install 'vidai[track]'")
    assert len(result.stderr.splitlines()) == 1
    assert not clip.with_name("o.mp4").exists()


def test_the_package_is_loaded_only_when_it_is_needed() -> None:
    code = "import sys, vidai, vidai.api, vidai.tracking; print('trackers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
