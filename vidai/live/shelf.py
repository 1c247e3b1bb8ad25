"""Files of months on a disk: named by day and time, the oldest of them removed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from vidai.errors import ConfigError
from vidai.tags import reason

DAY = re.compile(r"\d{4}-\d\d-\d\d")
RESCAN = 3600.0  # s until what others removed is noticed
GB = 1e9  # bytes


class Kept(NamedTuple):
    """A finished file. time: s since 1970, as its name says. size: bytes, with its companion."""

    time: float
    path: Path
    size: int


class Part(NamedTuple):
    """A file that is being written. descriptor: open and locked, as long as its writer lives."""

    path: Path
    final: Path
    descriptor: int


class Shelf:
    """The files of one output: FOLDER/2026-01-31/12-00-00Z.mp4, by UTC.

    Only what is named just so is ever touched. mark: stands before the extension and tells apart
    the files of outputs that share a folder. hidden: whether a file that is being written,
    12-00-00Z.part.mp4, is hidden by a dot. companion: extension of a file that stands beside each
    and goes with it. keep_days, keep_gb: what is older or beyond is removed by `tidy`.

    Raises ConfigError where the folder cannot be made. Not safe from several threads.
    """

    def __init__(
        self,
        folder: Path,
        mark: str = "",
        *,
        hidden: bool = False,
        companion: str | None = None,
        keep_days: float | None = None,
        keep_gb: float | None = None,
    ) -> None:
        self.folder = folder
        self._mark, self._dot = mark, "." if hidden else ""
        self._companion = companion
        self._days, self._bytes = keep_days, None if keep_gb is None else keep_gb * GB
        time = r"(\d\d-\d\d-\d\d)Z(?:-(\d+))?" + re.escape(mark)
        self._finished = re.compile(time + r"\.(?:mp4|mov)")
        self._unfinished = re.compile(re.escape(self._dot) + time + r"\.part\.(?:mp4|mov)")
        self._kept: deque[Kept] = deque()
        self._size = 0
        self._scanned = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(0, "it may not be written to")
        except OSError as error:
            raise ConfigError(f"cannot write in the folder {folder}: {reason(error)}") from error

    @property
    def size(self) -> int:
        """Bytes of the finished files."""
        return self._size

    def scan(self, now: float) -> None:
        """Look what is there. now: s since 1970."""
        self._scanned = now
        self._kept = deque(sorted(self._files()))
        self._size = sum(kept.size for kept in self._kept)

    def _files(self) -> Iterator[Kept]:
        for entry in self._matching(self._finished):
            with suppress(OSError, ValueError):
                path = Path(entry.path)
                yield Kept(_time_of(path), path, self._size_of(path))

    def _matching(self, pattern: re.Pattern[str]) -> Iterator[os.DirEntry[str]]:
        with suppress(OSError), os.scandir(self.folder) as days:
            for day in days:
                if not (DAY.fullmatch(day.name) and day.is_dir(follow_symlinks=False)):
                    continue
                with suppress(OSError), os.scandir(day.path) as entries:
                    for entry in entries:
                        if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                            yield entry

    def _size_of(self, path: Path) -> int:
        size = path.stat().st_size
        if self._companion is not None:
            with suppress(OSError):
                size += path.with_suffix(self._companion).stat().st_size
        return size

    def begin(self, time: float, extension: str) -> Part:
        """A new file for what begins at `time`, s since 1970, under a free name. OSError."""
        moment = datetime.fromtimestamp(time, timezone.utc)
        day = self.folder / moment.strftime("%Y-%m-%d")
        stem = moment.strftime("%H-%M-%SZ")
        number = 1
        while True:
            name = stem + (f"-{number}" if number > 1 else "") + self._mark
            final, part = day / f"{name}{extension}", day / f"{self._dot}{name}.part{extension}"
            number += 1
            if self._is_taken(final):
                continue
            day.mkdir(parents=True, exist_ok=True)  # another output may remove an empty one
            try:
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                continue
            with suppress(OSError):  # some network folders cannot lock
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Part(part, final, descriptor)

    def _is_taken(self, final: Path) -> bool:
        """By either container: numbers tell files of one second apart, whatever they are."""
        return any(os.path.lexists(final.with_suffix(ending)) for ending in (".mp4", ".mov"))

    def finish(self, part: Part) -> Path:
        """Give a written file its name and shelve it. Nothing is ever replaced. OSError."""
        path = part.final
        number = 2
        while True:
            try:
                path.open("xb").close()  # ours from now on, whoever else looks for a name
                break
            except FileExistsError:
                stem = part.final.name[: len("12-00-00Z")]
                path = part.final.with_name(f"{stem}-{number}{self._mark}{part.final.suffix}")
                number += 1
        try:
            os.replace(part.path, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._shelve(path)
        return path

    def _shelve(self, path: Path) -> None:
        kept = Kept(_time_of(path), path, self._size_of(path))
        self._kept.append(kept)
        self._size += kept.size
        if len(self._kept) > 1 and self._kept[-2] > kept:
            self._kept = deque(sorted(self._kept))

    def leftovers(self) -> Iterator[Part]:
        """Files that nobody writes any more, after a crash: open and locked like any Part, to be
        finished or removed, and closed, by the caller."""
        for entry in sorted(self._matching(self._unfinished), key=lambda entry: entry.path):
            path = Path(entry.path)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)  # another process is at it
                continue
            except OSError:
                pass
            name = path.name.removeprefix(self._dot).replace(".part", "")
            yield Part(path, path.with_name(name), descriptor)

    def tidy(self, now: float, coming: int = 0) -> None:
        """Remove what is too old, and the oldest of what is too much. now: s since 1970.
        coming: bytes for which there shall be room."""
        if self._days is None and self._bytes is None:
            return
        if not 0 <= now - self._scanned < RESCAN:
            self.scan(now)
        if self._days is not None:
            while self._kept and self._kept[0].time < now - self._days * 86_400:
                self.remove_oldest()
        if self._bytes is not None:
            while self._kept and self._size + coming > self._bytes:
                self.remove_oldest()

    def make_room(self, coming: int) -> None:
        """Where files may go because of their size, remove the oldest until the disk has room
        for `coming` bytes."""
        with suppress(OSError):
            while self._bytes is not None and self._kept and self._free() < coming:
                self.remove_oldest()

    def give_way(self, error: BaseException) -> bool:
        """Where the error says that the disk is full, and files may go because of their size,
        remove the oldest. Whether one went."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return full and self._bytes is not None and self.remove_oldest()

    def _free(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def remove_oldest(self) -> bool:
        """Whether it is gone."""
        if not self._kept:
            return False
        kept = self._kept.popleft()
        self._size -= kept.size
        try:
            kept.path.unlink(missing_ok=True)
            if self._companion is not None:
                kept.path.with_suffix(self._companion).unlink(missing_ok=True)
        except OSError:
            return False  # it is not ours to remove, and `scan` finds it again
        with suppress(OSError):
            kept.path.parent.rmdir()  # if the day is empty now
        return True


def _time_of(path: Path) -> float:
    """s since 1970, out of the names of a file and its day. ValueError where there is none."""
    told = f"{path.parent.name} {path.name[:8]}"
    return datetime.strptime(told, "%Y-%m-%d %H-%M-%S").replace(tzinfo=timezone.utc).timestamp()
