"""The outputs of a stream, opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path

from vidai.errors import ConfigError
from vidai.live.config import OutputConfig
from vidai.live.events import Event
from vidai.live.outlet import Outlet
from vidai.live.output import Output, OutputStatus, Place, Record
from vidai.live.spool import SpoolOptions
from vidai.live.tally import Tally
from vidai.tags import reason

CLOSED = 10.0  # s that an output may take


def open_outlets(
    outputs: Sequence[OutputConfig],
    stream: str,
    folder: Path,
    emit: Callable[..., Event],
    on_record: Callable[[Record], None] | None,
) -> list[Outlet]:
    """All of them, or none. folder: what they keep is in folders of their own there. on_record: a
    function of the program, as one more. Raises ConfigError for what cannot work."""
    outlets: list[Outlet] = []
    try:
        for entry, own in zip(outputs, folder_names(outputs), strict=True):
            module = import_module(f"vidai.live.outputs.{entry.kind}")
            place = Place(stream, made(folder / own), emit)
            outlets.append(Outlet(entry.kind, module.open(entry.options, place), emit))
    except BaseException:
        for outlet in outlets:
            outlet.close(CLOSED)
        raise
    if on_record is not None:
        outlets.append(Outlet("callback", Callback(on_record), emit))
    return outlets


def folder_names(outputs: Sequence[OutputConfig]) -> list[str]:
    """Of the folders of a stream's outputs: by what they are and where they go, so that what waits
    for a broker is not sent to another one when outputs are added or removed."""
    names: list[str] = []
    for entry in outputs:
        name = entry.kind
        if isinstance(entry.options, SpoolOptions):
            name += f"-{sha256(entry.options.destination().encode()).hexdigest()[:8]}"
        again = sum(other == name or other.startswith(f"{name}.") for other in names)
        names.append(f"{name}.{again + 1}" if again else name)
    return names


def made(folder: Path) -> Path:
    """The folder, which exists now. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {reason(error)}") from error
    return folder


class Callback(Output):
    """An output that is a function of the program."""

    def __init__(self, call: Callable[[Record], None]) -> None:
        self._call = call
        self._tally = Tally("callback", "")

    def record(self, record: Record) -> None:
        self._tally.accept()
        try:
            self._call(record)
        except BaseException as error:
            self._tally.lose(type(error).__name__)
            raise
        self._tally.deliver()

    def status(self) -> OutputStatus:
        return self._tally.status()
