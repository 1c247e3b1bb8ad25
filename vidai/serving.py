"""A worker as a process of its own: signals, logs, and its end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from vidai.detector import Detector
from vidai.errors import ConfigError
from vidai.models.catalog import CATALOG, find

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
    """What a good file says, in a sentence. Raises ConfigError or ModelError for one that is not.

    A model that is here is looked into, for the classes that the file names; none is fetched.
    """
    settings = live("config").read_config(config)
    told = f"{config} is fine; its streams: {', '.join(settings.streams) or 'none'}"
    if settings.model in CATALOG and find(settings.model) is None:
        return f"{told}; {settings.model} is fetched at the start, its classes were not checked"
    detector = Detector(
        settings.model, family=settings.family, device="cpu", classes=settings.classes
    )
    for name, stream in settings.streams.items():
        try:
            live("rules").check_rules(stream.rules, detector.names, tracked=stream.track)
        except ConfigError as error:
            raise ConfigError(f"{config}: streams.{name}: {error}") from error
    return told


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
    memory = live("memory")
    memory.give_back_large()
    logs = live("logs")
    worker: Worker = live("worker").Worker(
        config, host=host, port=port, download=download, build=build
    )
    # Unlike an Event, it can be put into while a handler has interrupted a wait for it.
    signals: SimpleQueue[int] = SimpleQueue()
    with closing(logs.configure(text=text, level=level)):
        logs.log_events(worker.events)
        before: dict[int, Any] = {}
        try:
            worker.start()  # until it has, a signal ends it as it does any command
            for awaited in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                before[awaited] = signal.signal(awaited, lambda number, _: signals.put(number))
            memory.keep_for_good()
            while _next(signals, memory.collect) == signal.SIGHUP:
                worker.reload_soon()
        finally:
            done = worker.stop()
            for number, handler in before.items():
                signal.signal(number, handler)
    return done


def _next(signals: SimpleQueue[int], meanwhile: Callable[[], None]) -> int:
    """The next signal; every half second, another thread may be the one that it interrupts."""
    while True:
        with suppress(Empty):
            return signals.get(timeout=0.5)
        meanwhile()
