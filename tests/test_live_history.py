"""Events that outlive a worker."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from vidai.live.events import KEPT, Event, Events
from vidai.live.history import History

PATIENCE = 30.0  # s


def run(path: Path, *texts: str) -> list[Event]:
    """All events of a run that tells of these."""
    events, kept = Events(), History(path)
    events.restore(kept.read())
    events.listen(kept.add)
    kept.open()
    for text in texts:
        events.emit("rule", text, "door", place=[1, 2], lost=Counter(late=3))
    kept.close()
    told = events.since()
    events.emit("late", "by now the folder may be another worker's")
    return told


def texts_of(events: list[Event]) -> list[str]:
    return [event.text for event in events]


def test_a_run_goes_on_with_the_events_of_the_runs_before(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = run(path, "a", "b")
    second = run(path, "c")
    assert second[:2] == first
    assert [(event.number, event.text) for event in second] == [(1, "a"), (2, "b"), (3, "c")]
    assert texts_of(run(path)) == ["a", "b", "c"]


def test_a_line_that_was_torn_costs_one_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    run(path, "a", "b", "c")
    path.write_bytes(path.read_bytes()[:-7])
    assert texts_of(run(path, "d")) == ["a", "b", "d"]


@pytest.mark.parametrize("line", ["", "{", "[]", '"x"', '{"number": null}', "\xff\0"])
@pytest.mark.parametrize("change", [{"number": None}, {"number": "x"}, {"data": None}, {"kind": 1}])
def test_what_somebody_else_wrote_into_it_is_passed_over(
    tmp_path: Path, line: str, change: dict[str, object]
) -> None:
    path = tmp_path / "events.jsonl"
    run(path, "a", "b")
    first, second = path.read_text().splitlines()
    changed = json.dumps({**json.loads(first), **change})
    path.write_bytes(f"{changed}\n{line}\n{second}\n".encode("latin-1"))
    assert texts_of(run(path, "c")) == ["b", "c"]


def test_its_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(4):
        kept = run(path, *map(str, range(3 * KEPT // 4)))
        assert len(path.read_text().splitlines()) <= 2 * KEPT
    again = run(path, "last")
    assert len(again) == KEPT
    assert again[:-1] == kept[1:]
    assert json.loads(path.read_text().splitlines()[-1])["text"] == "last"


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    assert texts_of(run(tmp_path / "missing" / "events.jsonl", "a", "b")) == ["a", "b"]
    assert History(tmp_path).read() == []  # a folder


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    os.mkfifo(path)  # to read or write it waits for somebody at its other end
    kept = History(path)
    kept.open()
    for number in range(3 * KEPT):
        kept.add(Event(number, 0.0, "rule", "a"))
    kept.close()
    with path.open("w"):  # and the disk is back
        pass
    for thread in threading.enumerate():
        if thread.name == "vidai-history":
            thread.join(PATIENCE)
            assert not thread.is_alive()
