"""A worker as a process of its own: signals, logs, and its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidai.errors import ConfigError

if TYPE_CHECKING:
    from vidai.live.worker import Worker


def live(module: str) -> Any:
    """A module of vidai.live. Raises ConfigError where its packages are missing."""
    try:
        return import_module(f"vidai.live.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("vidai"):
            raise
        raise ConfigError(
            f"live streams need the package {error.name}: pip install 'vidai[serve]'"
        ) from error


def checked(config: Path) -> str:
    """What a good file says, in a sentence. Raises ConfigError for one that is not."""
    streams = live("config").read_config(config).streams
    return f"{config} is fine; its streams: {', '.join(streams) or 'none'}"


def serve(
    config: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    text: bool | None = None,
    level: str = "INFO",
    download: Callable[[int, int], None] | None = None,
    build: Callable[[str, float], None] | None = None,
) -> bool:
    """Run a worker until SIGTERM or SIGINT; whether all was closed in time.

    host, port: instead of the file's. text, level: as in vidai.live.logs. Raises VidaiError for
    what cannot start.
    """
    logs = live("logs")
    worker: Worker = live("worker").Worker(
        config, host=host, port=port, download=download, build=build
    )
    wanted = threading.Event()
    again = threading.Event()  # SIGHUP
    with closing(logs.configure(text=text, level=level)):
        logs.log_events(worker.events)
        worker.start()  # until it has, signals do what they usually do
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: wanted.set()),
            signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: wanted.set()),
            signal.SIGHUP: signal.signal(signal.SIGHUP, lambda *_: again.set()),
        }
        try:
            _wait(worker, wanted, again)
        finally:
            done = worker.stop()
            for number, handler in before.items():
                signal.signal(number, handler)
    return done


def _wait(worker: Worker, wanted: threading.Event, again: threading.Event) -> None:
    while not wanted.wait(0.5):
        if again.is_set():
            again.clear()
            worker.reload_or_tell()
