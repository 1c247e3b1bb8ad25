"""Output files that appear whole or not at all."""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import suppress
from pathlib import Path

from vidai.errors import ConfigError, SinkError
from vidai.tags import reason

_numbers = itertools.count()
_being_written: set[Path] = set()
_lock = threading.Lock()


def check_target(
    path: str | Path, *, overwrite: bool = False, source: str | Path | None = None
) -> Path:
    """The path with its links followed, if a result may be written there.

    Raises ConfigError when its folder is missing, or when it would replace what must stay:
    an existing file (unless overwrite), or the source, under whatever name.
    """
    try:
        path = Path(os.path.realpath(path))
        if not path.parent.is_dir():
            raise ConfigError(f"there is no folder {path.parent} to write {path.name} to: make it")
        path.stat()
    except FileNotFoundError:
        return Path(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {reason(error)}") from error
    if path.is_dir():
        raise ConfigError(f"the output {path} is a folder: name a file in it")
    if source is not None and path.samefile(source):
        raise ConfigError(f"the output {path} is the input itself: choose another name")
    if not path.is_file():
        raise ConfigError(f"the output {path} is not a regular file: choose another name")
    if not overwrite:
        raise ConfigError(f"the output {path} exists: choose another name, or -y to replace it")
    return path


class Target:
    """A file that is written under a hidden temporary name beside it and renamed when done.

    path: where the result will be. temporary: where to write until then. Raises ConfigError
    as check_target does, when its folder cannot be written to, and when another target of
    this process is being written to the same path.
    """

    def __init__(
        self, path: str | Path, *, overwrite: bool = False, source: str | Path | None = None
    ) -> None:
        self.path = path = check_target(path, overwrite=overwrite, source=source)
        self._overwrite = overwrite
        with _lock:
            if path in _being_written:
                raise ConfigError(f"two outputs are named {path}: choose another name for one")
            _being_written.add(path)
        stem = path.name.encode()[:200].decode(errors="ignore")  # a name may have 255 bytes
        self.temporary = path.with_name(f".{stem}.{os.getpid()}-{next(_numbers)}.part")
        try:
            self.temporary.open("xb").close()
        except OSError as error:
            _being_written.discard(path)
            raise ConfigError(f"cannot write in {path.parent}: {reason(error)}") from error

    def commit(self, *, partial: bool = False) -> str:
        """Give the finished file its name and return it; NAME.partial.EXT if partial.

        Without overwrite, and always for a partial file, nothing is replaced: a file that
        appeared under the name meanwhile stays, and this one gets the next free name.
        """
        try:
            if partial:
                path = self._link_as("partial")
            elif self._overwrite or self._is_first():
                path = self.path
                os.replace(self.temporary, path)
            else:
                path = self._link_as("new")
        except OSError as error:
            self.discard()
            raise SinkError(f"cannot write {self.path}: {reason(error)}") from error
        self.discard()
        return str(path)

    def _is_first(self) -> bool:
        """Take the name, unless it exists."""
        try:
            self.path.open("xb").close()
        except FileExistsError:
            return False
        return True

    def _link_as(self, word: str) -> Path:
        """The file under the first free name of NAME.word.EXT, NAME.word-2.EXT …"""
        for number in itertools.count(1):
            middle = word if number == 1 else f"{word}-{number}"
            path = self.path.with_name(f"{self.path.stem}.{middle}{self.path.suffix}")
            try:
                path.open("xb").close()  # ours from now on, whoever else looks for a name
            except FileExistsError:
                continue
            os.replace(self.temporary, path)
            return path
        raise AssertionError("count() has no end")

    def discard(self) -> None:
        """Remove what was written, unless it has its name already."""
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)
        _being_written.discard(self.path)
