"""Many live streams, one device. Read this first.

    cameras.yaml ──▶ Worker ──▶ Stream (stream.py): read, follow ──▶ Outlets (outlet.py), each
                       │           │                                 with an output of outputs/
                       │           └── Gatherer: batches of all streams, one detector
                       ├── once a second: who is analysed how often (budget.py), figures, the file
                       └── HttpServer: pages, metrics, changes

A stream has threads of its own, and so has each of its outputs: what one of them waits for costs
the others nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

from vidai.batcher import daemon
from vidai.detector import Detector
from vidai.device import open_device
from vidai.errors import ConfigError, VidaiError, sentence
from vidai.live import tracing
from vidai.live.budget import Budget, Capacity, Wish, refusal
from vidai.live.config import (
    StreamConfig,
    WorkerConfig,
    check_name,
    read_config,
    stream_config,
    worker_config,
)
from vidai.live.events import Events
from vidai.live.follower import Shared
from vidai.live.gatherer import Gatherer
from vidai.live.http import HttpServer, LiveVideo
from vidai.live.logs import hide
from vidai.live.metrics import Metrics
from vidai.live.notify import Notifier
from vidai.live.outlets import open_outlets
from vidai.live.output import Record
from vidai.live.rates import Batches
from vidai.live.rules import check_rules
from vidai.live.secrecy import secrets_in
from vidai.live.state import State
from vidai.live.status import StreamStatus, WorkerStatus
from vidai.live.stream import USUAL_FPS, Stream, check_steps
from vidai.sources.address import shown

TICK = 1.0  # s between two looks at everything
REMEMBER = 2  # ticks between two points of a history
TRY_AGAIN = 10  # ticks between two tries of streams that were refused
ALIVE = 10.0  # s without a look after which the worker counts as stuck
STOPPED = 10.0  # s for all streams to end and to close their files


class Worker:
    """Reads live streams, finds what is in them, and tells, draws and keeps it, until `stop`.

    config: the path of a YAML file, which is read again when it changes, or the same as a dict.
    host, port: of its pages, instead of what that says.
    on_record: called with a Record for every analysed frame, in a thread of its own for each
    stream. download, build: as for `Detector`. Raises ConfigError, ModelError and
    DeviceUnavailable; what happens to single streams later is told by `events` and `status`.

    Streams that are added, changed or removed while it runs are remembered in the state folder,
    and win over the file.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any],
        *,
        host: str | None = None,
        port: int | None = None,
        on_record: Callable[[Record], None] | None = None,
        download: Callable[[int, int], None] | None = None,
        build: Callable[[str, float], None] | None = None,
    ) -> None:
        self._path = Path(config) if isinstance(config, (str, Path)) else None
        self.config = worker_config(config) if isinstance(config, Mapping) else read_config(config)
        _hide_secrets(self.config.model_dump(mode="json"))
        self._state = State(self.config.state)  # also when the file names another one later
        self._read_at = _modified(self._path)
        self._host, self._port = host, port
        self.events = Events()
        self._on_record = on_record
        self._download, self._build = download, build
        self._streams: dict[str, Stream] = {}
        self._refused: dict[str, Refused] = {}
        self._changing = threading.RLock()
        self._settling = threading.Lock()
        self._capacity = Capacity(self.config.analysis.budget_fps)
        self._budget = Budget()
        self._batches = Batches()
        self._detector: Detector | None = None
        self._shared: Shared | None = None
        self._http: HttpServer | None = None
        self._started = self._looked = 0.0
        self._notifier = Notifier()
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._looker: threading.Thread | None = None
        self.metrics = Metrics(self.status)
        self.token = ""

    # Life.

    def start(self) -> None:
        """Open the pages, load the model, start all streams. Comes once."""
        self._state.take()
        try:
            self.events.restore(self._state.history.read())
            self.events.listen(self._state.history.add)
            self._open_pages()
            self._load()
        except BaseException:
            if self._http is not None:
                self._http.close()
            self._state.release()
            raise
        self._looked, self._started = time.monotonic(), time.time()
        self._looker = daemon("vidai-worker", self._look_after_all)
        settings = self.config.http
        kept = (
            "" if settings is None or settings.token else f", its token in {self._state.token_file}"
        )
        pages = f", pages at {self.url}{kept}" if self.url else ""
        with self._changing:  # its pages take changes already
            wanted = self._wanted()
            self.events.emit("started", f"{counted(len(wanted))}, {self._detector_text()}{pages}")
            self._apply(wanted)

    def stop(self, timeout: float = STOPPED) -> bool:
        """Read no more, let what was read go through, close every file; whether that was done in
        `timeout` s."""
        if self._stopping.is_set() or self._shared is None:
            self._stopping.set()
            self._stopped.set()
            return True
        self._stopping.set()
        until = time.monotonic() + timeout
        if self._http is not None:
            self._http.close()
        held = self._changing.acquire(timeout=timeout / 5)  # a change may wait for a stream
        try:
            done = self._stop_all(self._running(), until)
        finally:
            if held:
                self._changing.release()
        self.events.emit("stopped", "all files are closed" if done else "some outputs hung")
        if self._looker is not None:
            self._looker.join(max(0.1, until - time.monotonic()))
        if done:
            self._shared.gatherer.close()
        if self._shared.tracer is not None:
            self._shared.tracer.close()
        self._state.release()
        self._stopped.set()
        return done

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Until `stop` has been called by another thread, or the time is over; which it was."""
        return self._stopped.wait(timeout)

    @property
    def url(self) -> str | None:
        """Of its pages."""
        return self._http.url if self._http else None

    # Changes. Each holds up the stream that it is about, and no other.

    def add(self, name: str, settings: Mapping[str, Any]) -> None:
        """A stream more. Raises ConfigError: a name that is taken, settings that cannot work, a
        stream that the device has no room for."""
        with self._changing:
            check_name(name)
            if name in self._streams or name in self._refused:
                raise ConfigError(f"there is a stream {name} already: change or remove it")
            config = self._checked(name, settings)
            self._admit(name, config)
            with self._remembered(name, dict(settings)):
                self._start_stream(name, config)
        self.events.emit("added", f"{name} was added", name)

    def change(self, name: str, settings: Mapping[str, Any]) -> None:
        """Other settings for a stream, which begins anew with them; the rest stays as it is.
        Raises ConfigError as `add` does; then it goes on as before."""
        with self._changing:
            config = self._checked(name, {**self._settings_of(name), **settings})
            if name in self._refused:
                self._admit(name, config)
            with self._remembered(name, _plain(config)):
                self._replace_stream(name, config)
        self.events.emit("changed-settings", f"{name} has new settings", name)

    def remove(self, name: str) -> None:
        """A stream less; its files are closed, and stay."""
        with self._changing:
            self._settings_of(name)
            with self._remembered(name, None):
                self._stop_stream(name)
        self.events.emit("removed", f"{name} was removed", name)

    def reload(self) -> None:
        """Read the file again, and change the streams that it changes. Raises ConfigError; then
        all stays as it was."""
        if self._path is None:
            return
        self._notifier.reloading()
        try:
            self._reload(self._path)
        finally:
            self._notifier.ready()

    def _reload(self, path: Path) -> None:
        self._read_at = _modified(path)
        config = read_config(path)
        _hide_secrets(config.model_dump(mode="json"))
        with self._changing:
            before, self.config = self.config, config
            kept = [
                name
                for name in WorkerConfig.model_fields
                if name not in ("streams", "defaults")
                and getattr(before, name) != getattr(config, name)
            ]
            self._apply(self._wanted())
        later = f"; {', '.join(kept)} take effect at the next start" if kept else ""
        self.events.emit("reloaded", f"{path} was read again{later}")

    def reload_soon(self) -> None:
        """The same in a thread, as it may wait for streams to end; what is wrong is told as an
        event."""
        daemon("vidai-reload", self._reload_or_tell)

    def _reload_or_tell(self) -> None:
        try:
            self.reload()
        except Exception as error:
            self.events.emit("reload-failed", f"{sentence(error)}; all stays as it was")

    # What it tells of itself.

    def status(self) -> WorkerStatus:
        """May be asked in any thread."""
        streams = [stream.status() for stream in self._running()]
        streams += [refused.status for refused in self._refused.copy().values()]
        detector = self._detector
        return WorkerStatus(
            version=version("vidai"),
            model=detector.model.name if detector else self.config.model,
            device=detector.device.name if detector else self.config.device,
            precision=detector.precision.name if detector and detector.precision else None,
            started=self._started,
            ready=bool(self._started) and not self._stopping.is_set(),
            healthy=not self._started or time.monotonic() - self._looked < ALIVE,
            capacity_fps=self._capacity.fps,
            batch_fill=self._batches.fill,
            streams=sorted(streams, key=lambda stream: stream.name),
        )

    def stream_config(self, name: str) -> dict[str, Any] | None:
        """A stream's settings, without secrets."""
        stream = self._streams.get(name)
        return stream.config.told() if stream else None

    def hls(self, name: str) -> LiveVideo | None:
        """A stream's live video, None where it has no such output."""
        stream = self._streams.get(name)
        outlets = stream.outlets if stream else ()
        return next((cast("LiveVideo", o.output) for o in outlets if o.kind == "hls"), None)

    def snapshot(self, name: str) -> bytes | None:
        """The newest annotated picture as JPEG."""
        stream = self._streams.get(name)
        return stream.follower.snapshot() if stream else None

    def clip(self, path: str) -> Path | None:
        """The file of a clip that an event told of, if it is still there."""
        told = any(e.kind == "clip" and e.data.get("path") == path for e in self.events.since())
        return Path(path) if told and Path(path).is_file() else None

    # Inside.

    def _load(self) -> None:
        config = self.config
        device = open_device(config.device)
        detector = Detector(
            config.model,
            family=config.family,
            device=device,
            conf=config.conf,
            iou=config.iou,
            classes=config.classes,
            precision=config.precision,
            download=self._download,
            build=self._build,
        )
        detector.prepare(device.workers)
        self._max_batch = min(config.analysis.max_batch or detector.max_batch, detector.max_batch)
        gatherer = Gatherer(
            detector,
            max_batch=self._max_batch,
            max_wait=config.analysis.max_wait_ms / 1000,
            count=device.workers,
            on_batch=self._count_batch,
        )
        self._workers = device.workers
        self._detector = detector
        self._shared = Shared(
            device,
            device.workers,
            gatherer,
            detector.names,
            self.metrics,
            self.events,
            tracing.open(),
        )

    def _detector_text(self) -> str:
        assert self._detector is not None
        return f"{self._detector.model.name} on {self._detector.device.name}"

    def _open_pages(self) -> None:
        settings = self.config.http
        if settings is None:
            return
        self.token = settings.token or self._state.token()
        hide(self.token)
        host = settings.host if self._host is None else self._host
        port = settings.port if self._port is None else self._port
        self._http = HttpServer(self, host, port)
        self._http.start()

    def _count_batch(self, size: int, seconds: float) -> None:
        self._batches.count(size, seconds, self._max_batch)
        self.metrics.observe_batch(size, self._max_batch)

    def _wanted(self) -> dict[str, StreamConfig]:
        """The streams of the file and those that were changed since."""
        wanted = dict(self.config.streams)
        for name, settings in self._state.changes.items():
            wanted.pop(name, None)
            if settings is not None:
                try:
                    wanted[name] = self._checked(name, settings)
                except ConfigError as error:
                    if name in self._streams:
                        wanted[name] = self._streams[name].config
                    self._tell_refusal(name, settings, error)
        return wanted

    def _apply(self, wanted: Mapping[str, StreamConfig]) -> None:
        """Start, change and stop streams so that these run."""
        with self._changing:
            self._refused = {n: s for n, s in self._refused.items() if n in self._state.changes}
            for name in [name for name in self._streams if name not in wanted]:
                self._stop_stream(name)
                self.events.emit("removed", f"{name} was removed", name)
            for name, config in wanted.items():
                running = self._streams.get(name)
                if self._stopping.is_set() or (running is not None and running.config == config):
                    continue
                try:
                    self._admit(name, config)
                    self._replace_stream(name, config)
                except Exception as error:  # whatever it is, the others are to run
                    self._tell_refusal(name, _plain(config), error)

    def _checked(self, name: str, settings: Mapping[str, Any]) -> StreamConfig:
        config = stream_config({**self.config.defaults, **settings}, name)
        _hide_secrets(_plain(config))
        return config

    def _settings_of(self, name: str) -> dict[str, Any]:
        """As they may be written in YAML. Raises ConfigError where there is no such stream."""
        if name in self._streams:
            return _plain(self._streams[name].config)
        if name in self._refused:
            return self._refused[name].settings
        raise ConfigError(f"there is no stream {name}")

    def _admit(self, name: str, config: StreamConfig) -> None:
        capacity = self._capacity.fps
        others = [self._wish(s) for n, s in self._streams.items() if n != name]
        fps = config.analyze_fps or USUAL_FPS
        new = Wish(name, fps, config.priority, min(config.least_fps, fps))
        if capacity is not None and (why := refusal(others, new, capacity)):
            raise ConfigError(why)

    def _admit_refused(self) -> None:
        """Start what there is room for now."""
        with self._changing:
            for name, refused in self._refused.copy().items():
                with suppress(VidaiError):
                    config = self._checked(name, refused.settings)
                    self._admit(name, config)
                    self._start_stream(name, config)
                    self.events.emit("admitted", f"{name} has room now", name)

    def _refuse(self, name: str, settings: dict[str, Any], why: str) -> None:
        status = StreamStatus(name, shown(str(settings.get("url", ""))))
        status.state, status.since, status.error = "refused", time.time(), why
        self._refused[name] = Refused(status, settings)
        self.events.emit("refused", why, name)

    def _tell_refusal(self, name: str, settings: dict[str, Any], error: Exception) -> None:
        if name in self._streams:
            text = f"{sentence(error)}; {name} goes on with the settings that it had"
            self.events.emit("reload-failed", text, name)
        else:
            self._refuse(name, settings, sentence(error))

    def _check_for_model(self, config: StreamConfig) -> None:
        """Raises ConfigError for what the model never finds, and while there is none."""
        if self._shared is None or self._stopping.is_set():
            raise ConfigError("no stream begins while the worker starts or ends: try again later")
        names = self._found_names()
        check_rules(config.rules, names, tracked=config.track)
        check_steps(config.steps, names)

    def _found_names(self) -> list[str]:
        """Of the classes that are looked for."""
        detector = self._detector
        assert detector is not None
        kept = detector.classes
        return [n for i, n in enumerate(detector.names) if kept is None or i in kept]

    def _replace_stream(self, name: str, config: StreamConfig) -> None:
        """Start it, in the place of one of that name. Where that fails, that one goes on."""
        self._check_for_model(config)
        before, refused = self._streams.get(name), self._refused.get(name)
        self._stop_stream(name)
        try:
            self._start_stream(name, config)
        except Exception:
            if before is not None:
                self._start_again(name, before.config)
            elif refused is not None:
                self._refused[name] = refused
            raise

    def _start_again(self, name: str, config: StreamConfig) -> None:
        try:
            self._start_stream(name, config)
        except Exception as error:
            self._refuse(name, _plain(config), sentence(error))

    def _start_stream(self, name: str, config: StreamConfig) -> None:
        self._check_for_model(config)
        assert self._shared is not None
        stream = Stream(
            name,
            config,
            self._shared,
            lambda emit: open_outlets(
                config.outputs, name, self._state.streams / name, emit, self._on_record
            ),
        )
        self._refused.pop(name, None)
        self._streams[name] = stream
        wish = self._wish(stream)
        stream.set_rates(wish.fps, config.analyze_fps)
        self._settle()
        stream.start()

    def _stop_stream(self, name: str) -> None:
        self._refused.pop(name, None)
        if (stream := self._streams.pop(name, None)) is not None:
            stream.stop(STOPPED)

    def _stop_all(self, streams: list[Stream], until: float) -> bool:
        for stream in streams:
            stream.ask_to_stop()
        done: list[bool] = []
        threads = [
            daemon("vidai-stop", lambda s=s: done.append(s.stop(until - time.monotonic())))
            for s in streams
        ]
        for thread in threads:
            thread.join(max(0.0, until + 0.5 - time.monotonic()))
        return len(done) == len(streams) and all(done)

    @contextmanager
    def _remembered(self, name: str, settings: dict[str, Any] | None) -> Iterator[None]:
        """Keep a change, if what is done meanwhile succeeds. Raises ConfigError where it cannot
        be kept."""
        before = self._state.changes
        changes = {**before, name: settings}
        if settings is None and name not in self.config.streams:
            del changes[name]
        self._state.keep(changes)
        try:
            yield
        except BaseException:
            with suppress(ConfigError):
                self._state.keep(before)
            raise

    # Once a second.

    def _look_after_all(self) -> None:
        notifier = self._notifier
        notifier.ready()
        ticks = 0
        while True:
            self._looked = time.monotonic()
            notifier.alive()
            if self._stopping.wait(TICK):
                break
            ticks += 1
            try:
                self._measure()
                self._settle()
                if ticks % REMEMBER == 0:
                    for stream in self._running():
                        stream.remember()
                    notifier.status(self._summary())
                if ticks % TRY_AGAIN == 0 and self._refused:
                    daemon("vidai-admit", self._admit_refused)
                self._reload_if_changed()
            except Exception as error:  # a bug, but no reason to end months of work
                self.events.emit("worker-failed", f"{type(error).__name__}: {error}")
        notifier.stopping()
        notifier.close()

    def _running(self) -> list[Stream]:
        # Not under the lock: figures are told, too, while a stream is being stopped.
        return list(self._streams.copy().values())

    def _measure(self) -> None:
        frames, busy = self._batches.take()
        waits = [stream.follower.wait_times().get("p95", 0.0) for stream in self._running()]
        self._capacity.measure(frames, busy / self._workers, max(waits, default=0.0))

    def _settle(self) -> None:
        """Grant every stream its rate."""
        with self._settling:  # also when a stream begins
            streams = {s.name: s for s in self._running() if s.is_active}
            wishes = [self._wish(stream) for stream in streams.values()]
            for change in self._budget.settle(wishes, self._capacity):
                slower = change.after < change.before
                self.events.emit(
                    "rate",
                    f"{change.name} is analysed {change.after:.3g} times a second, "
                    f"{'down' if slower else 'up'} from {change.before:.3g}: the device "
                    f"{'cannot keep up' if slower else 'has room again'}",
                    change.name,
                    before=change.before,
                    after=change.after,
                )
            for wish in wishes:
                granted = self._budget.granted(wish)
                stream = streams[wish.name]
                every = stream.config.analyze_fps is None and granted == wish.fps
                stream.set_rates(wish.fps, None if every else granted)

    def _wish(self, stream: Stream) -> Wish:
        config = stream.config
        fps = config.analyze_fps or stream.native_fps
        return Wish(stream.name, fps, config.priority, min(config.least_fps, fps))

    def _summary(self) -> str:
        streams = self._running()
        live = sum(stream.is_active for stream in streams)
        return f"{live} of {counted(len(streams))} live"

    def _reload_if_changed(self) -> None:
        if self._path is None or (now := _modified(self._path)) in (None, self._read_at):
            return
        self._read_at = now
        self.reload_soon()


class Refused(NamedTuple):
    """A stream that cannot run, and its settings as in YAML."""

    status: StreamStatus
    settings: dict[str, Any]


def _plain(config: StreamConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_unset=True)


def counted(streams: int) -> str:
    return f"{streams} stream{'' if streams == 1 else 's'}"


def _hide_secrets(settings: dict[str, Any]) -> None:
    for secret in secrets_in(settings):
        hide(secret)


def _modified(path: Path | None) -> int | None:
    try:
        return None if path is None else path.stat().st_mtime_ns
    except OSError:  # between two versions of it
        return None
