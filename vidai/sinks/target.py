"""Output files that appear whole or not at all."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from vidai.errors import ConfigError, SinkError
from vidai.tags import reason

_numbers = itertools.count()


def check_target(
    path: str | Path, *, overwrite: bool = False, source: str | Path | None = None
) -> Path:
    """The path with its links followed, if a result may be written there.

    Raises ConfigError when its folder is missing, or when it would replace what must stay:
    an existing file (unless overwrite), or the source, under whatever name.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} to write {path.name} to: make it")
    if not path.exists():
        return path
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
    as check_target does, and when its folder cannot be written to.
    """

    def __init__(
        self, path: str | Path, *, overwrite: bool = False, source: str | Path | None = None
    ) -> None:
        self.path = path = check_target(path, overwrite=overwrite, source=source)
        stem = path.name.encode()[:200].decode(errors="ignore")  # a name may have 255 bytes
        self.temporary = path.with_name(f".{stem}.{os.getpid()}-{next(_numbers)}.part")
        try:
            self.temporary.open("xb").close()
        except OSError as error:
            raise ConfigError(f"cannot write in {path.parent}: {reason(error)}") from error

    def commit(self, *, partial: bool = False) -> str:
        """Give the finished file its name, NAME.partial.EXT if partial, and return it.

        What has that name is replaced.
        """
        path = self.path
        if partial:
            path = path.with_name(f"{path.stem}.partial{path.suffix}")
        try:
            os.replace(self.temporary, path)
        except OSError as error:
            self.discard()
            raise SinkError(f"cannot write {path}: {reason(error)}") from error
        return str(path)

    def discard(self) -> None:
        """Remove what was written."""
        self.temporary.unlink(missing_ok=True)
