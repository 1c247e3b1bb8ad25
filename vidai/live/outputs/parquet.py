"""Records as Parquet files, a row a detection.

A frame in which nothing was found has one row, without class, score, box and track, so that it
can be told from a frame that was not analysed: count(class) counts detections, count(distinct
frame) frames.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import Field

from vidai.errors import ConfigError, SinkError
from vidai.live.output import Output, OutputStatus, Place, Record
from vidai.live.outputs.jsonl import Folder, FolderOptions, Lines, why
from vidai.tags import reason

HOUR = 3600.0  # s
ROW_GROUP = 50_000  # rows that are in memory when a file is made
RETRY = 60.0  # s before a file that could not be made is tried again
BOX = ("x1", "y1", "x2", "y2")
Row = tuple[Any, ...]


class Options(FolderOptions):
    """Where records go: detections-2026-01-31T12-00-00Z.parquet, named by its first frame; a new
    file each hour (UTC)."""

    max_rows: int = Field(200_000, ge=1, description="of a file, then a new one is begun")


def open(options: Options, place: Place) -> Output:  # noqa: A001
    """Raises ConfigError for a folder that cannot be used."""
    try:
        import pyarrow.parquet  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the output parquet needs the package pyarrow: pip install 'vidai[parquet]'"
        ) from error
    return ParquetFiles(Folder(options, place), options.max_rows, place.emit)


class ParquetFiles(Output):
    """What comes is written as lines to a hidden journal at once, since a Parquet file cannot be
    read before its end is written; a file is made of the journal when its hour is over. Journals
    that a crash has left become files after the next start. A record is delivered when it is in a
    file, and waits until then. What a full disk does not take is lost, and counted.
    """

    def __init__(self, folder: Folder, max_rows: int, emit: Callable[..., object]) -> None:
        self._folder = folder
        self._max_rows = max_rows
        self._emit = emit
        self._journal: Lines | None = None
        self._hour = 0  # of the frames in the journal, since 1970
        self._since = 0.0  # s, when it was begun
        self._rows = 0
        self._frames: dict[Path, int] = {}  # in each journal
        self._sizes: dict[Path, int] = {}  # bytes of each
        self._full: list[Path] = []  # journals of which files are to be made
        self._retry = 0.0  # s
        self._status = OutputStatus("parquet", str(folder.path), "idle")
        self._recover()
        folder.sweep(time.time())

    def record(self, record: Record) -> None:
        hour = int(record.time // HOUR)
        if self._journal is not None and (hour != self._hour or self._rows >= self._max_rows):
            self._finish_journal()
        try:
            if self._journal is None:
                self._begin_journal(record.time)
            assert self._journal is not None
            line = record.to_json()
            self._journal.add(line)
        except SinkError as error:
            self._count(accepted=1, lost={why(error): 1}, state=str(error))
            raise
        self._frames[self._journal.path] += 1
        self._sizes[self._journal.path] += len(line.encode()) + 1
        self._rows += max(1, len(record.detections))
        self._count(accepted=1, waiting=1, state="ok" if not self._full else None)
        self._make_files()

    def tick(self, now: float) -> None:
        if self._journal is not None and time.monotonic() - self._since > HOUR:
            self._finish_journal()
        self._make_files()
        self._folder.sweep(now)

    def close(self) -> None:
        self._finish_journal()
        self._retry = 0.0
        try:
            self._make_files()
        finally:
            self._folder.close()

    def status(self) -> OutputStatus:
        # Nothing of the disk is asked here: one that hangs would hold up the status of all.
        now = self._status
        size = sum(self._sizes.copy().values())
        return replace(now, waiting_bytes=size, lost=Counter(now.lost))

    def _recover(self) -> None:
        for half in self._folder.path.glob(".detections-*.parquet.part"):
            with suppress(OSError):
                half.unlink()
        for path in sorted(self._folder.path.glob(".detections-*.journal")):
            try:
                Lines(path).close()  # without the half line that a crash has left
                with path.open("rb") as file:
                    self._frames[path] = sum(1 for _ in file)
                self._sizes[path] = path.stat().st_size
            except (OSError, SinkError) as error:
                self._emit("output-failed", f"parquet: cannot read {path}: {reason(error)}")
                continue
            self._full.append(path)
            self._count(accepted=self._frames[path], waiting=self._frames[path])

    def _begin_journal(self, first: float) -> None:
        stamp = datetime.fromtimestamp(first, timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
        name, number = f"detections-{stamp}", 1
        while True:
            path = self._folder.path / f".{name}.journal"
            if not path.exists() and not _target(path).exists():
                break
            number += 1
            name = f"detections-{stamp}-{number}"
        self._journal = Lines(path)
        self._frames[path] = self._sizes[path] = 0
        self._hour, self._since, self._rows = int(first // HOUR), time.monotonic(), 0

    def _finish_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._full.append(self._journal.path)
            self._journal = None

    def _make_files(self) -> None:
        """Of all journals that are full. Raises SinkError; they are kept then, and tried again."""
        if not self._full or time.monotonic() < self._retry:
            return
        while self._full:
            journal = self._full[0]
            try:
                frames = make_file(journal, _target(journal))
            except SinkError as error:
                self._retry = time.monotonic() + RETRY
                self._count(state=str(error))
                raise
            del self._full[0]
            expected, _ = self._frames.pop(journal), self._sizes.pop(journal)
            lost = {"journal damaged": expected - frames} if frames < expected else {}
            self._count(delivered=frames, waiting=-expected, lost=lost, state="ok")

    def _count(
        self,
        *,
        accepted: int = 0,
        delivered: int = 0,
        waiting: int = 0,
        lost: dict[str, int] | None = None,
        state: str | None = None,
    ) -> None:
        """The status is replaced as a whole, so that readers see it balanced."""
        now = self._status
        self._status = OutputStatus(
            now.kind,
            now.detail,
            now.state if state is None else state,
            now.accepted + accepted,
            now.delivered + delivered,
            now.waiting + waiting,
            lost=now.lost + Counter(lost or {}),
        )


def _target(journal: Path) -> Path:
    """The file that is made of a journal."""
    return journal.with_name(journal.name.removeprefix(".").removesuffix(".journal") + ".parquet")


def make_file(journal: Path, target: Path) -> int:
    """Write the journal's records to a Parquet file, which appears whole, remove the journal, and
    return how many frames there were; lines that are damaged are left out. Raises SinkError.
    """
    import pyarrow as pa

    part = target.with_name(f".{target.name}.part")
    try:
        frames = _write(journal, part)
        if frames:
            with part.open("rb") as file:
                os.fsync(file.fileno())  # before the journal goes
            os.replace(part, target)
        part.unlink(missing_ok=True)
        journal.unlink()
    except (OSError, pa.ArrowException) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise SinkError(f"cannot write {target}: {reason(error)}") from error
    return frames


def _write(journal: Path, path: Path) -> int:
    import pyarrow.parquet as pq

    schema = _schema()
    frames = 0
    rows: list[Row] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for record in _records(journal):
            frames += 1
            rows += record
            if len(rows) >= ROW_GROUP:
                writer.write_table(_table(rows, schema))
                rows = []
        if rows:
            writer.write_table(_table(rows, schema))
    return frames


def _records(journal: Path) -> Iterator[list[Row]]:
    """The rows of each frame."""
    with journal.open("rb") as file:
        for line in file:
            try:
                yield _rows(json.loads(line))
            except (ValueError, KeyError, TypeError):  # after a loss of power, maybe
                continue


def _rows(record: dict[str, Any]) -> list[Row]:
    taken = datetime.fromisoformat(record["time"].replace("Z", "+00:00"))
    frame = (record["stream"], taken, record["frame"], record["width"], record["height"])
    if not record["detections"]:
        return [(*frame, *[None] * 8)]
    return [
        (*frame, d["class"], d["class_id"], d["score"], *d["box"], d.get("track_id"))
        for d in record["detections"]
    ]


def _schema() -> Any:
    import pyarrow as pa

    kinds = {
        "stream": pa.string(),
        "time": pa.timestamp("ms", tz="UTC"),
        "frame": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "class": pa.string(),
        "class_id": pa.int32(),
        "score": pa.float32(),
        **dict.fromkeys(BOX, pa.float32()),
        "track_id": pa.int64(),
    }
    return pa.schema([pa.field(name, kind) for name, kind in kinds.items()])


def _table(rows: list[Row], schema: Any) -> Any:
    import pyarrow as pa

    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
