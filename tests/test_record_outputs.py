"""JSON lines and Parquet files: what is in them, and what a crash and a full disk do to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.live.brokers import small_disk
from vidai.errors import ConfigError, SinkError
from vidai.live.events import Events
from vidai.live.output import Output, OutputStatus, Place, Record
from vidai.live.outputs import jsonl, parquet
from vidai.types import Detections

NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc).timestamp()
BOTH = pytest.mark.parametrize("kind", [jsonl, parquet], ids=["jsonl", "parquet"])


def record(number: int, at: float | None = None, found: int = 2, tracked: bool = True) -> Record:
    """A frame whose detections tell its number."""
    when = NOON + number / 10 if at is None else at
    boxes = np.array([[k, number % 100, k + 10.5, 99.25] for k in range(found)], np.float32)
    return Record(
        "gate",
        when,
        number,
        640,
        480,
        Detections(
            boxes.reshape(-1, 4),
            np.linspace(0.9, 0.5, found, dtype=np.float32),
            np.arange(found, dtype=np.int32) % 2,
            ("person", "car"),
            np.arange(found, dtype=np.int64) + number if tracked else None,
        ),
    )


class Made:
    """An output in a folder, and the events that it told."""

    def __init__(self, kind: ModuleType, folder: Path, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.events = Events()
        options = {"keep_days": None, **options}
        place = Place("gate", folder, self.events.emit)
        self.output: Output = kind.open(kind.Options(**options), place)

    def status(self) -> OutputStatus:
        status = self.output.status()
        assert status.accepted == status.delivered + status.waiting + sum(status.lost.values())
        return status

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.since()]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    table: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return table


def frames_in(folder: Path) -> list[int]:
    """The numbers of all frames in all files, in order of the files' names."""
    found: list[int] = []
    for path in sorted(folder.glob("detections-*")):
        if path.suffix == ".jsonl":
            found += [line["frame"] for line in lines(path)]
        else:
            found += dict.fromkeys(row["frame"] for row in rows(path))
    return found


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def test_json_lines_are_the_records_a_file_a_day(tmp_path: Path) -> None:
    made = Made(jsonl, tmp_path)
    evening = NOON + 12 * 3600 - 0.001
    given = [record(1), record(2, found=0), record(3, evening), record(4, evening + 0.001)]
    for one in given:
        made.output.record(one)
        assert frames_in(tmp_path)[-1] == one.frame  # readable at once
    assert made.status().delivered == 4
    assert made.status().state == "ok"
    made.output.close()
    assert names(tmp_path) == ["detections-2026-01-31.jsonl", "detections-2026-02-01.jsonl"]
    assert lines(tmp_path / "detections-2026-01-31.jsonl") == [one.to_dict() for one in given[:3]]
    assert lines(tmp_path / "detections-2026-02-01.jsonl") == [given[3].to_dict()]


def test_parquet_has_a_row_a_detection(tmp_path: Path) -> None:
    made = Made(parquet, tmp_path)
    given = [record(1, found=3), record(2, found=0), record(3, found=1, tracked=False)]
    for one in given:
        made.output.record(one)
    assert made.status().waiting == 3
    assert made.status().waiting_bytes > 0
    made.output.close()
    assert made.status().delivered == 3
    assert made.status().waiting_bytes == 0
    assert names(tmp_path) == ["detections-2026-01-31T12-00-00Z.parquet"]
    expected = []
    for one in given:
        start = {
            "stream": "gate",
            "time": datetime.fromtimestamp(one.time, timezone.utc),
            "frame": one.frame,
            "width": 640,
            "height": 480,
        }
        for d in one.detections.to_dicts() or [{"box": [None] * 4}]:
            score = d.get("score")
            expected.append(
                {
                    **start,
                    "class": d.get("class"),
                    "class_id": d.get("class_id"),
                    "score": score and float(np.float32(score)),
                    **dict(zip(("x1", "y1", "x2", "y2"), d["box"], strict=True)),
                    "track_id": d.get("track_id"),
                }
            )
    assert rows(tmp_path / "detections-2026-01-31T12-00-00Z.parquet") == expected


def test_parquet_files_are_compressed_and_typed(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    made = Made(parquet, tmp_path)
    made.output.record(record(1))
    made.output.close()
    file = pq.ParquetFile(next(tmp_path.glob("*.parquet")))
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    kinds = {field.name: str(field.type) for field in file.schema_arrow}
    assert kinds["time"] == "timestamp[ms, tz=UTC]"
    assert kinds["track_id"] == "int64"


def test_parquet_begins_a_file_each_hour_and_when_one_is_large(tmp_path: Path) -> None:
    made = Made(parquet, tmp_path, max_rows=10)
    for number in range(12):  # 2 rows each: files of 5, 5 and 2
        made.output.record(record(number))
    made.output.record(record(12, NOON + 3600))
    assert made.status().delivered == 12
    assert len(list(tmp_path.glob("*.parquet"))) == 3  # whole while others are being written
    made.output.close()
    assert names(tmp_path) == [
        "detections-2026-01-31T12-00-00Z-2.parquet",
        "detections-2026-01-31T12-00-00Z.parquet",
        "detections-2026-01-31T12-00-01Z.parquet",
        "detections-2026-01-31T13-00-00Z.parquet",
    ]
    assert sorted(frames_in(tmp_path)) == list(range(13))


def test_parquet_of_an_idle_stream_is_finished_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(parquet, tmp_path)
    made.output.record(record(1))
    made.output.tick(time.time())
    assert made.status().delivered == 0
    monkeypatch.setattr(parquet, "HOUR", -1.0)
    made.output.tick(time.time())
    assert made.status().delivered == 1
    made.output.close()


def test_a_disk_that_hangs_holds_up_no_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object, **__: object) -> None:
        raise AssertionError("the disk was asked")

    made = Made(parquet, tmp_path)
    for number in range(5):
        made.output.record(record(number))
    (journal,) = tmp_path.glob(".*.journal")
    size = journal.stat().st_size
    with monkeypatch.context() as hanging:
        hanging.setattr(Path, "stat", hang)
        assert made.status().waiting_bytes == size
    made.output.close()
    assert made.status().waiting_bytes == 0


def test_many_rows_go_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(parquet, "ROW_GROUP", 10)
    made = Made(parquet, tmp_path)
    for number in range(20):
        made.output.record(record(number))
    made.output.close()
    (path,) = tmp_path.glob("*.parquet")
    assert pq.ParquetFile(path).num_row_groups == 4
    assert frames_in(tmp_path) == list(range(20))


WRITES_UNTIL_KILLED = """
import sys
from pathlib import Path
from tests.test_record_outputs import Made, record
from vidai.live.outputs import jsonl, parquet
made = Made({"jsonl": jsonl, "parquet": parquet}[sys.argv[1]], Path(sys.argv[2]))
number = 0
while True:
    made.output.record(record(number))
    print(number, flush=True)
    number += 1
"""


@BOTH
def test_a_killed_process_loses_nothing_that_was_recorded(kind: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES_UNTIL_KILLED, kind.__name__.split(".")[-1]]
    with subprocess.Popen([*command, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().splitlines()
    last = int(told[-1] or told[-2])
    (file,) = (p for p in tmp_path.iterdir() if p.name != ".lock")
    with file.open("ab") as half:
        half.write(b'{"stream":"gate","time":"2026-01-31T1')
    again = Made(kind, tmp_path)
    again.output.tick(time.time())
    again.output.record(record(1_000_000, NOON + 100))
    again.output.close()
    found = frames_in(tmp_path)
    assert found == [*range(len(found) - 1), 1_000_000]
    assert last <= found[-2] <= last + 1
    status = again.status()
    assert status.delivered == status.accepted == (1 if kind is jsonl else len(found))
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize(
    ("tail", "kept", "events"),
    [
        (b'{"frame":1}\n{"frame":2', b'{"frame":1}\n', ["file-mended"]),
        (b'{"frame":1}\n{"frame":2}', b'{"frame":1}\n{"frame":2}\n', []),
        (b'{"frame":1}\n12', b'{"frame":1}\n', ["file-mended"]),
        (b'{"frame":1}\n' + b"\0" * 200_000, b'{"frame":1}\n', ["file-mended"]),
        (b"x" * 200_000, b"", ["file-mended"]),
        (b'{"frame":1}\n', b'{"frame":1}\n', []),
        (b"", b"", []),
    ],
)
def test_a_half_line_is_completed_or_cut(
    tail: bytes, kept: bytes, events: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "detections-2026-01-30.jsonl"
    path.write_bytes(tail)
    made = Made(jsonl, tmp_path)
    made.output.record(record(1))
    made.output.close()
    assert path.read_bytes() == kept
    assert made.kinds() == events


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    made = Made(jsonl, tmp_path)
    made.output.record(record(1))
    path = tmp_path / "detections-2026-01-31.jsonl"
    path.rename(tmp_path / "moved")
    made.output.tick(time.time())
    made.output.record(record(2))
    made.output.close()
    assert [line["frame"] for line in lines(path)] == [2]


def test_a_damaged_journal_gives_what_is_whole(tmp_path: Path) -> None:
    made = Made(parquet, tmp_path)
    for number in range(3):
        made.output.record(record(number))
    (journal,) = tmp_path.glob(".*.journal")
    text = journal.read_bytes().split(b"\n")
    text[1] = bytes(len(text[1]))
    journal.write_bytes(b"\n".join(text))
    made.output.close()
    assert frames_in(tmp_path) == [0, 2]
    assert made.status().lost == Counter({"journal damaged": 1})


def test_half_of_a_parquet_file_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / ".detections-2026-01-31T12-00-00Z.journal").write_text(record(7).to_json() + "\n")
    (tmp_path / ".detections-2026-01-31T12-00-00Z.parquet.part").write_bytes(b"PAR1 half")
    made = Made(parquet, tmp_path)
    assert made.status().waiting == 1
    made.output.close()
    assert names(tmp_path) == ["detections-2026-01-31T12-00-00Z.parquet"]
    assert frames_in(tmp_path) == [7]


@BOTH
def test_old_files_go(kind: ModuleType, tmp_path: Path) -> None:
    now = time.time()
    days = {
        days: datetime.fromtimestamp(now - days * 86400, timezone.utc).strftime("%Y-%m-%d")
        for days in (0, 6, 7, 8, 900)
    }
    for day in days.values():
        (tmp_path / f"detections-{day}.jsonl").touch()
        (tmp_path / f"detections-{day}T12-00-00Z.parquet").touch()
    (tmp_path / "detections-of-mine").touch()
    made = Made(kind, tmp_path, keep_days=7)
    made.output.close()
    kept = [days[n] for n in (0, 6, 7)]
    assert names(tmp_path) == sorted(
        [
            "detections-of-mine",
            *(f"detections-{day}.jsonl" for day in kept),
            *(f"detections-{day}T12-00-00Z.parquet" for day in kept),
        ]
    )


@BOTH
def test_two_outputs_do_not_share_a_folder(kind: ModuleType, tmp_path: Path) -> None:
    made = Made(kind, tmp_path)
    with pytest.raises(ConfigError, match="another output writes"):
        Made(kind, tmp_path / "other", path=str(tmp_path))
    Made(kind, tmp_path / "other", path=str(tmp_path / "{stream}")).output.close()
    assert (tmp_path / "gate").is_dir()
    made.output.close()
    Made(kind, tmp_path).output.close()


@BOTH
def test_a_folder_that_cannot_be_made(kind: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write in the folder"):
        Made(kind, tmp_path, path=str(tmp_path / "file" / "folder"))


@BOTH
def test_a_full_disk_loses_what_is_new_and_leaves_whole_lines(
    kind: ModuleType, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        hog = disk / "hog"
        hog.write_bytes(bytes(800_000))
        made = Made(kind, disk)
        kept = []
        for number in range(1000):
            try:
                made.output.record(record(number))
                kept.append(number)
            except SinkError as error:
                told = str(error)
            made.status()
        assert 10 < len(kept) < 1000
        assert "No space left" in told
        assert made.status().lost == Counter({"disk full": 1000 - len(kept)})
        assert "No space left" in made.status().state
        hog.unlink()
        made.output.record(record(5000))
        made.output.close()
        assert made.status().delivered == len(kept) + 1
        assert made.status().state == "ok"
        assert frames_in(disk) == [*kept, 5000]


def test_a_parquet_file_that_does_not_fit_is_made_later(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        hog = disk / "hog"
        made = Made(parquet, disk)
        for number in range(1000):
            made.output.record(record(number))
        room = os.statvfs(disk)
        hog.write_bytes(bytes(room.f_bavail * room.f_bsize))
        with pytest.raises(SinkError, match="No space left"):
            made.output.record(record(1000, NOON + 3600))
        assert made.status().waiting + made.status().lost["disk full"] == 1001
        hog.unlink()
        made.output.close()
        assert made.status().waiting == 0
        assert frames_in(disk)[:1000] == list(range(1000))
        assert not list(disk.glob(".detections*"))
