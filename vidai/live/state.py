"""The folder in which a worker keeps what outlives it."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import IO, Any

import yaml

from vidai.errors import ConfigError
from vidai.live.history import History
from vidai.tags import reason

Changes = dict[str, dict[str, Any] | None]


class State:
    """One worker's alone, from `take` to `release`.

    streams: the folder of what their outputs keep. history: of events. changes: settings of streams
    that were added or changed while a worker ran, None for one that was removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.streams = folder / "streams"
        self.token_file = folder / "token"
        self.history = History(folder / "events.jsonl")
        self.changes: Changes = {}
        self._changes_file = folder / "changes.yaml"
        self._lock: IO[str] | None = None

    def take(self) -> None:
        """Raises ConfigError where another worker has it, or where it cannot be used."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise ConfigError(
                f"another worker uses the folder {self.folder}: give this one another `state`"
            ) from error
        except OSError as error:
            self.release()
            raise ConfigError(
                f"the state folder {self.folder} cannot be used: {reason(error)}"
            ) from error
        try:
            self.changes = _read_changes(self._changes_file)
        except ConfigError:
            self.release()
            raise
        self.history.open()

    def release(self) -> None:
        self.history.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def keep(self, changes: Changes) -> None:
        """Instead of those that were. Raises ConfigError."""
        try:
            _write_private(self._changes_file, yaml.safe_dump(changes))
        except OSError as error:
            raise ConfigError(
                f"the change cannot be kept in {self._changes_file}: {reason(error)}"
            ) from error
        self.changes = changes

    def token(self) -> str:
        """That of an earlier start, or a new one. Raises ConfigError."""
        path = self.token_file
        try:
            kept = path.read_text(encoding="utf-8").strip() if path.exists() else ""
            if not kept:  # a full disk may have left it empty, with which nobody could sign in
                kept = secrets.token_urlsafe(24)
                _write_private(path, kept + "\n")
            return kept
        except OSError as error:
            raise ConfigError(f"the token cannot be kept in {path}: {reason(error)}") from error


def _read_changes(path: Path) -> Changes:
    """Raises ConfigError."""
    try:
        changes = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; mend it or take it away") from error
    if not isinstance(changes, dict) or not all(
        settings is None or isinstance(settings, dict) for settings in changes.values()
    ):
        raise ConfigError(f"{path} is damaged: mend it or take it away")
    return changes


def _write_private(path: Path, text: str) -> None:
    """For this user alone, as there are passwords in it; all of it or nothing, also when the power
    fails. OSError."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
