"""Detections as JSON lines, one line a frame."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import av

from vidai.device import Device
from vidai.errors import ConfigError, SinkError
from vidai.sinks.target import Target, check_target
from vidai.sources.file import FileSource
from vidai.tags import reason
from vidai.types import Detections, Frame


class JsonLines:
    """Writes `{"frame": index, "pts": ticks, "time": s, "detections": [...]}` a frame.

    path "-" is the standard output; a file appears when it is closed, whole. `check` and
    `open` raise ConfigError for a path that cannot work, the rest SinkError.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.warnings: list[str] = []
        self._path = path
        self._overwrite = overwrite
        self._target: Target | None = None
        self._file: TextIO = sys.stdout

    def check(self, source: FileSource, device: Device) -> None:
        if self._is_standard_output:
            if sys.stdout is None:
                raise ConfigError("cannot write to the standard output: it is closed")
        else:
            check_target(self._path, overwrite=self._overwrite, source=source.path)

    def open(self, source: FileSource, device: Device) -> None:
        self.check(source, device)
        if not self._is_standard_output:
            self._target = Target(self._path, overwrite=self._overwrite, source=source.path)
            try:
                self._file = self._target.temporary.open("w", encoding="utf-8")
            except OSError as error:
                raise self._failed(error) from error

    def write(self, frame: Frame, detections: Detections) -> None:
        row = {
            "frame": frame.index,
            "pts": frame.pts,
            "time": round(frame.time, 6),
            "detections": detections.to_dicts(),
        }
        try:
            self._file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise self._failed(error) from error

    def write_packet(self, packet: av.Packet[Any]) -> None:
        """Other streams have no place here."""

    def close(self, *, partial: bool = False) -> str:
        """Finish; the path of the result. partial: under NAME.partial.EXT."""
        try:
            self._file.flush()
            if self._target is not None:
                self._file.close()
        except OSError as error:
            raise self._failed(error) from error
        return "-" if self._target is None else self._target.commit(partial=partial)

    def abort(self) -> None:
        """Remove what was written."""
        if self._target is not None:
            self._target.discard()
            with suppress(OSError):  # what could not be flushed is gone anyway
                self._file.close()

    @property
    def _is_standard_output(self) -> bool:
        return str(self._path) == "-"

    def _failed(self, error: OSError) -> SinkError:
        self.abort()
        name = "to the standard output" if self._is_standard_output else str(self._path)
        return SinkError(f"cannot write {name}: {reason(error)}")
