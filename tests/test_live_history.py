"""Events that outlive a worker."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from vidai.live.events import KEPT, Events
from vidai.live.history import History


def run(path: Path, *texts: str) -> Events:
    """A run that tells of these."""
    events, kept = Events(), History(path)
    events.restore(kept.read())
    events.listen(kept.add)
    for text in texts:
        events.emit("rule", text, "door", place=[1, 2], lost=Counter(late=3))
    kept.close()
    return events


def test_a_run_goes_on_with_the_events_of_the_runs_before(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = run(path, "a", "b").since()
    second = run(path, "c").since()
    assert second[:2] == first
    assert [(event.number, event.text) for event in second] == [(1, "a"), (2, "b"), (3, "c")]
    assert [event.text for event in run(path).since(2)] == ["c"]


def test_a_line_that_was_torn_costs_one_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    run(path, "a", "b", "c")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert [event.text for event in run(path, "d").since()] == ["a", "b", "d"]
    path.write_bytes(b"\xff\x00{]\n" + whole.replace(b'"a"', b'"a"}', 1))
    assert [event.text for event in run(path).since()] == ["b", "c"]


def test_its_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    kept = run(path, *map(str, range(5 * KEPT // 2))).since()
    assert len(path.read_text().splitlines()) <= 2 * KEPT
    again = run(path, "last").since()
    assert len(again) == KEPT
    assert again[:-1] == kept[1:]
    assert json.loads(path.read_text().splitlines()[-1])["text"] == "last"


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    events = run(tmp_path / "missing" / "events.jsonl", "a", "b")
    assert [event.text for event in events.since()] == ["a", "b"]
    assert History(tmp_path).read() == []  # a folder
