"""Records as JSON lines, a file a day."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from pydantic import Field

from vidai.errors import ConfigError, SinkError
from vidai.live import output
from vidai.live.output import Output, OutputStatus, Place, Record
from vidai.live.spool import topic_of
from vidai.tags import reason

DAY = re.compile(r"detections-(\d{4}-\d\d-\d\d)[\w-]*\.(jsonl|parquet)$")  # removed when old
SWEEP = 3600.0  # s between two looks for old files
TAIL = 1 << 16  # bytes that are read at a time when the end of a file is looked for


class FolderOptions(output.Options):
    """What every output of files has."""

    path: str | None = Field(
        None,
        min_length=1,
        description="folder; {stream} stands for the stream's name; none: in the state folder",
    )
    keep_days: int | None = Field(30, ge=1, description="days that files stay; none: for ever")


class Options(FolderOptions):
    """Where records go: detections-2026-01-31.jsonl, by the day in UTC on which the frame was
    taken."""


def open(options: Options, place: Place) -> Output:  # noqa: A001
    """Raises ConfigError for a folder that cannot be used."""
    return JsonLines(Folder(options, place), place.emit)


class Folder:
    """A folder that one output at a time writes to. Raises ConfigError."""

    def __init__(self, options: FolderOptions, place: Place) -> None:
        named = options.path and topic_of(options.path, place.stream)
        if named and ("{" in named or "}" in named):
            raise ConfigError(f"the folder {named}: {{stream}} alone stands for something")
        self.path = Path(named or place.folder).absolute()
        self._keep_days = options.keep_days
        self._swept = 0.0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"cannot write in the folder {self.path}: {reason(error)}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"another output writes in the folder {self.path}: give each its own, as with "
                f"{{stream}} in its path"
            ) from error

    def sweep(self, now: float, using: Path | None = None) -> None:
        """Remove files of days that are too long ago, once an hour; not the one in use."""
        if self._keep_days is None or abs(now - self._swept) < SWEEP:
            return
        self._swept = now
        oldest = datetime.fromtimestamp(now, timezone.utc) - timedelta(days=self._keep_days)
        for file in self.path.iterdir():
            day = DAY.match(file.name)
            if day and day[1] < f"{oldest:%Y-%m-%d}" and file != using:
                with suppress(OSError):
                    file.unlink()

    def close(self) -> None:
        os.close(self._lock)


class Lines:
    """A file of lines, which grows by whole lines only: what a crash or a full disk has left of
    one is mended or cut when it is opened, and cut at once.

    cut: bytes of a half line that were cut when it was opened. Raises SinkError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self.cut = self._mend()
        except OSError as error:
            self.close()
            raise self._failed(error) from error

    @property
    def moved(self) -> bool:
        """Whether somebody has removed or renamed it."""
        try:
            return not os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return True

    def add(self, line: str) -> None:
        """Raises SinkError if it is not there afterwards."""
        data = line.encode() + b"\n"
        try:
            size = os.fstat(self._file).st_size
            try:
                while data:
                    data = data[os.write(self._file, data) :]
            except OSError:
                os.ftruncate(self._file, size)
                raise
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        os.close(self._file)

    def _mend(self) -> int:
        """Complete or cut a last line without an end. Returns how many bytes were cut."""
        size = os.fstat(self._file).st_size
        tail = b""
        begin = size
        while begin and b"\n" not in tail:
            end, begin = begin, max(0, begin - TAIL)
            tail = os.pread(self._file, end - begin, begin) + tail
        half = tail[tail.rfind(b"\n") + 1 :]
        if not half:
            return 0
        if _is_whole(half):
            os.write(self._file, b"\n")
            return 0
        os.ftruncate(self._file, size - len(half))
        return len(half)

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(f"cannot write {self.path}: {reason(error)}")


class JsonLines(Output):
    """A record is delivered when the system has its line: it outlives the process from then on,
    and a loss of power when the system has written it, by itself, some seconds later. What a full
    disk does not take is lost, and counted.
    """

    def __init__(self, folder: Folder, emit: Callable[..., object]) -> None:
        self._folder = folder
        self._emit = emit
        self._lines: Lines | None = None
        self._status = OutputStatus("jsonl", str(folder.path), "idle")
        # The last file may have been left in the middle of a line, on another day.
        files = sorted(folder.path.glob("detections-*.jsonl"))
        if files:
            with suppress(SinkError):
                self._open(files[-1]).close()
        folder.sweep(time.time())

    def record(self, record: Record) -> None:
        day = datetime.fromtimestamp(record.time, timezone.utc).strftime("%Y-%m-%d")
        path = self._folder.path / f"detections-{day}.jsonl"
        try:
            if self._lines is None or self._lines.path != path:
                self._finish()
                self._lines = self._open(path)
            self._lines.add(record.to_json())
        except SinkError as error:
            self._count(lost=why(error), state=str(error))
            raise
        self._count(state="ok")

    def tick(self, now: float) -> None:
        if self._lines is not None and self._lines.moved:
            self._finish()
        self._folder.sweep(now, self._lines.path if self._lines else None)

    def close(self) -> None:
        self._finish()
        self._folder.close()

    def status(self) -> OutputStatus:
        now = self._status
        return replace(now, lost=Counter(now.lost))

    def _open(self, path: Path) -> Lines:
        lines = Lines(path)
        if lines.cut:
            self._emit("file-mended", f"a half line of {lines.cut} bytes was cut from {path}")
        return lines

    def _finish(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _count(self, *, state: str, lost: str | None = None) -> None:
        """The status is replaced as a whole, so that readers see it balanced."""
        now = self._status
        self._status = OutputStatus(
            now.kind,
            now.detail,
            state,
            now.accepted + 1,
            now.delivered + (lost is None),
            lost=now.lost if lost is None else now.lost + Counter({lost: 1}),
        )


def why(error: SinkError) -> str:
    """The word under which a loss is counted."""
    return "disk full" if "No space left" in str(error) else "disk error"


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
