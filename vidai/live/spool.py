"""What a server has not taken yet waits on disk, in order, until it has."""

from __future__ import annotations

import json
import random
import socket
import sqlite3
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

from pydantic import Field

from vidai.batcher import daemon
from vidai.errors import ConfigError, SinkError, VidaiError
from vidai.live.events import Event
from vidai.live.output import Options, Output, OutputStatus, Place, Record, iso
from vidai.tags import reason

T = TypeVar("T")
S = TypeVar("S", bound="Spooled")

LOCK_PATIENCE = 2.0  # s for another process to let go of a spool
PAGE = 1024  # bytes; records are small, and a change writes whole pages: 4096 write twice as much
CHECKPOINT = 4000  # pages of changes, after which they go into the file itself
SPARE = 1024  # free pages that a file may keep
BATCH = 100  # records that are on their way at a time
TIMEOUT = 5.0  # s for a server to answer
DRAIN = 3.0  # s that a closing output goes on sending
RETRIES = (0.5, 30.0)  # s between attempts: the first, and the longest
EVENTS = ("rule", "clip")  # kinds of events that are sent beside records


class Waiting(NamedTuple):
    """A message that waits. topic: "detections" or "events"."""

    id: int
    topic: str
    body: bytes


@dataclass(frozen=True)
class Counts:
    """accepted = delivered + waiting + lost. What waited at the start is accepted too."""

    accepted: int = 0
    delivered: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    lost: Counter[str] = field(default_factory=Counter)


class Spool:
    """A bounded queue on disk, first in, first out, for one that puts and one that takes.

    What `put` has returned from outlives a kill of the process; after a loss of power the last
    seconds may be missing. When more than max_bytes wait, the oldest go ("spool full" in
    `counts.lost`), except those that are taken just then; the file may take twice as much. On a
    full disk what is put is lost ("disk full") until there is room again. A damaged file is set
    aside, under another name, and what waited in it is lost ("spool damaged"). emit: told of that.

    counts: as they are now, always balanced; may be read in any thread. trouble: why the disk
    did not do the last that was asked of it, or None. Raises ConfigError if another process, or
    another output of this one, uses the file.
    """

    def __init__(self, path: Path, max_bytes: int, emit: Callable[..., object]) -> None:
        self.counts = Counts()
        self.trouble: str | None = None
        self._path = path
        self._max_bytes = max_bytes
        self._emit = emit
        self._lock = threading.Lock()
        self._closed = False
        self._next = 1  # id
        self._done = 0  # id up to which all is delivered, though it may still be in the file
        self._taken: list[Waiting] = []
        self._connection: sqlite3.Connection | None = None
        with suppress(SinkError):  # in `trouble`, and tried again whenever something is put
            self._run(lambda _: None)

    def put(self, body: bytes, topic: str = "") -> None:
        """Raises SinkError if it is lost, because of the disk."""
        with self._lock:
            try:
                self._run(
                    lambda disk: disk.execute(
                        "INSERT INTO waiting VALUES (?, ?, ?)", (self._next, topic, body)
                    )
                )
            except VidaiError:
                self._count(accepted=1, lost="disk full" if self._disk_is_full else "disk error")
                raise
            self._next += 1
            self._count(accepted=1, waiting=1, waiting_bytes=len(body))
            if self.counts.waiting_bytes > self._max_bytes:
                self._make_room()

    def take(self, most: int) -> list[Waiting]:
        """The oldest, which stay until they are `done`; none are taken after `close`. Raises
        SinkError."""
        with self._lock:
            if self._closed:
                return []
            rows = self._run(
                lambda disk: disk.execute(
                    "SELECT id, topic, body FROM waiting WHERE id > ? ORDER BY id LIMIT ?",
                    (self._done, most),
                ).fetchall()
            )
            self._taken = [Waiting(*row) for row in rows]
            return self._taken

    def release(self) -> None:
        """What was taken waits again."""
        with self._lock:
            self._taken = []

    def done(self, lost: str | None = None) -> None:
        """What was taken is delivered, or lost for that reason."""
        with self._lock:
            if self._closed or not self._taken:
                return
            n, size = len(self._taken), sum(len(item.body) for item in self._taken)
            self._done = self._taken[-1].id
            self._taken = []
            if lost is None:
                self._count(delivered=n, waiting=-n, waiting_bytes=-size)
            else:
                self._count(waiting=-n, waiting_bytes=-size, lost=lost, lost_count=n)
            try:
                self._run(
                    lambda disk: disk.execute("DELETE FROM waiting WHERE id <= ?", (self._done,))
                )
                self._shrink()
            except SinkError:
                # Nothing of it is sent again as long as `_done` is known. A disk that is full of
                # this very file gets room only by its end.
                if not self.counts.waiting:
                    self._start_over()

    def close(self) -> None:
        """What waits, waits for the next start."""
        with self._lock:
            self._closed = True
            self._taken = []
            self._disconnect()

    @property
    def _disk_is_full(self) -> bool:
        return self.trouble is not None and "full" in self.trouble

    def _count(
        self,
        *,
        accepted: int = 0,
        delivered: int = 0,
        waiting: int = 0,
        waiting_bytes: int = 0,
        lost: str | None = None,
        lost_count: int = 1,
    ) -> None:
        """The counts are replaced as a whole, so that readers see them balanced."""
        now = self.counts
        losses = now.lost
        if lost is not None:
            losses = losses + Counter({lost: lost_count})
        self.counts = Counts(
            now.accepted + accepted,
            now.delivered + delivered,
            now.waiting + waiting,
            now.waiting_bytes + waiting_bytes,
            losses,
        )

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The work, in one transaction. Raises SinkError if the disk does not do it."""
        for _ in range(2):  # again in a new file, if this one turns out to be damaged
            try:
                result = _transaction(self._connect(), work)
                self.trouble = None
                return result
            except sqlite3.OperationalError as error:
                raise self._failed(error) from error
            except sqlite3.DatabaseError as error:
                self._set_aside(error)
        raise self._failed(sqlite3.OperationalError("every new file is damaged at once"))

    def _failed(self, error: Exception) -> SinkError:
        self.trouble = f"cannot use the spool {self._path}: {reason(error)}"
        return SinkError(self.trouble)

    def _connect(self) -> sqlite3.Connection:
        if self._closed:
            raise sqlite3.OperationalError("it is closed")
        if self._connection is None:
            disk = sqlite3.connect(
                self._path, timeout=LOCK_PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(disk)
            except BaseException as error:
                disk.close()
                if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                    raise ConfigError(
                        f"the spool {self._path} is in use by another process or output: "
                        f"stop that one, or give this one another folder"
                    ) from error
                raise
            self._connection = disk
        return self._connection

    def _prepare(self, disk: sqlite3.Connection) -> None:
        for setting in (
            f"page_size={PAGE}",
            "locking_mode=EXCLUSIVE",
            "auto_vacuum=INCREMENTAL",
            "journal_mode=WAL",
            "synchronous=NORMAL",  # a checkpoint waits for the disk, a record does not
            f"wal_autocheckpoint={CHECKPOINT}",
            f"journal_size_limit={CHECKPOINT * PAGE}",
            "cache_size=-1000",  # KiB
        ):
            disk.execute(f"PRAGMA {setting}").fetchall()
        disk.execute("CREATE TABLE IF NOT EXISTS waiting (id INTEGER PRIMARY KEY, topic, body)")
        ((verdict,),) = disk.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        count, size, last = disk.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0), coalesce(max(id), 0) FROM waiting"
        ).fetchone()
        self._next = max(self._next, last + 1)
        self._count(accepted=count, waiting=count, waiting_bytes=size)

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _set_aside(self, error: Exception) -> None:
        """Raises SinkError if even that fails."""
        self._disconnect()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        aside = self._path.with_name(f"{self._path.name}.damaged-{stamp}-{time.time_ns() % 10**9}")
        try:
            self._path.rename(aside)
            log = self._log
            if log.exists():
                log.rename(f"{aside}-wal")
        except OSError as failure:
            raise self._failed(failure) from failure
        now = self.counts
        self._taken = []
        if now.waiting:
            self._count(
                waiting=-now.waiting,
                waiting_bytes=-now.waiting_bytes,
                lost="spool damaged",
                lost_count=now.waiting,
            )
        self._emit(
            "spool-damaged",
            f"the spool {self._path} is damaged ({reason(error)}): it is kept as {aside.name}, "
            f"what waited in it is not sent, and a new one is begun",
        )

    @property
    def _log(self) -> Path:
        return self._path.with_name(f"{self._path.name}-wal")

    def _start_over(self) -> None:
        """Nothing waits: begin a new file in place of one that cannot be emptied."""
        self._disconnect()
        for path in (self._path, self._log):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _make_room(self) -> None:
        """The oldest go, except those that are on their way."""
        kept = self._taken[-1].id if self._taken else self._done
        excess = self.counts.waiting_bytes - self._max_bytes

        def drop(disk: sqlite3.Connection) -> tuple[int, int]:
            gone, size, last = 0, 0, kept
            rows = disk.execute(
                "SELECT id, length(body) FROM waiting WHERE id > ? ORDER BY id", (kept,)
            )
            for row in rows:
                gone, size, last = gone + 1, size + row[1], row[0]
                if size >= excess:
                    break
            rows.close()
            disk.execute("DELETE FROM waiting WHERE id > ? AND id <= ?", (kept, last))
            return gone, size

        with suppress(SinkError):  # in `trouble`; the next that is put tries again
            gone, size = self._run(drop)
            if gone:
                self._count(waiting=-gone, waiting_bytes=-size, lost="spool full", lost_count=gone)

    def _shrink(self) -> None:
        """Give the disk back what an outage took, a part at a time."""
        disk = self._connect()
        try:
            ((free,),) = disk.execute("PRAGMA freelist_count").fetchall()
            ((pages,),) = disk.execute("PRAGMA page_count").fetchall()
            if free > SPARE and 2 * free > pages:
                # `execute` would stop after the first page.
                disk.executescript(f"PRAGMA incremental_vacuum({4 * SPARE})")
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error


def _transaction(disk: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    disk.execute("BEGIN IMMEDIATE")
    try:
        result = work(disk)
        disk.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            disk.execute("ROLLBACK")
        raise
    return result


class Refused(SinkError):
    """A message that the server will never take, as it is too large for it."""


class SpoolOptions(Options):
    """What every output over a network has."""

    spool_mb: float = Field(
        256.0,
        gt=0,
        le=1_000_000,
        description="MB of records that may wait on disk while the server is away; then the "
        "oldest go",
    )
    events: bool = Field(False, description="also what rules find, and clips, as events")

    def destination(self) -> str:
        """Where it goes, without secrets: what waits for one is never sent to another."""
        raise NotImplementedError


class Spooled(Output):
    """Base of outputs over a network: what they take waits in a spool until the server has it.

    Everything is sent in order and at least once: after a failure the last records may come
    again. A subclass has `_ready` and `_send`, called in one thread, which raise SinkError when
    it must be tried again and Refused when that is of no use, and in which nothing waits for
    longer than `_patience()`.
    """

    kind: ClassVar[str]

    def __init__(self, options: SpoolOptions, place: Place, detail: str) -> None:
        """detail: where it goes, without passwords. Raises ConfigError as Spool does."""
        self._events = options.events
        self._emit = place.emit
        self._detail = detail
        self._state = "idle"
        self._failing = False
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._wake = threading.Event()
        path = place.folder / "spool.sqlite"
        self._spool = Spool(path, int(options.spool_mb * 1e6), place.emit)
        self._name = f"vidai-{self.kind}-{place.stream}"
        self._thread: threading.Thread | None = None

    def start(self: S) -> S:
        """Connect, and send what waits."""
        self._thread = daemon(self._name, self._serve)
        return self

    def record(self, record: Record) -> None:
        self._put("detections", record.to_json())

    def event(self, event: Event) -> None:
        if self._events and event.kind in EVENTS:
            told = {"event": {**asdict(event), "time": iso(event.time)}}
            self._put("events", json.dumps(told, ensure_ascii=False, separators=(",", ":")))

    def close(self) -> None:
        """Goes on sending for DRAIN s at most; what is left waits for the next start."""
        self._deadline = time.monotonic() + DRAIN
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(DRAIN + TIMEOUT / 2)
        self._spool.close()

    def status(self) -> OutputStatus:
        counts = self._spool.counts
        return OutputStatus(
            self.kind,
            self._detail,
            self._spool.trouble or self._state,
            counts.accepted,
            counts.delivered,
            counts.waiting,
            counts.waiting_bytes,
            Counter(counts.lost),
        )

    def _ready(self) -> None:
        """Connect, unless connected."""
        raise NotImplementedError

    def _send(self, messages: Sequence[Waiting]) -> None:
        """Return when the server has acknowledged all of them."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Let go of a connection that failed."""
        raise NotImplementedError

    def _leave(self) -> None:
        """End a connection that is in order."""
        self._drop()

    def _patience(self) -> float:
        """s that may be waited for an answer."""
        return max(0.0, min(TIMEOUT, self._deadline - time.monotonic()))

    def _tell_trouble(self, told: str) -> None:
        """Told once an outage."""
        self._state = f"retrying: {told}"
        if not self._failing:
            self._failing = True
            self._emit("output-retrying", f"{self.kind}: {told}; records wait on disk meanwhile")

    def _put(self, topic: str, body: str) -> None:
        self._spool.put(body.encode(), topic)
        self._wake.set()

    def _serve(self) -> None:
        most, failures = 1, 0
        while not (self._closing.is_set() and self._patience() == 0):
            self._wake.clear()
            try:
                self._ready()
                sent = self._send_some(most)
            except Exception as error:
                self._failed(error)
                if self._closing.is_set():
                    return
                self._closing.wait(_delay(failures))
                most, failures = 1, failures + 1
                continue
            self._works()
            if sent:
                # One by one after a failure, so that a slow line is not asked for too much
                # again, and that it is known which message is refused.
                most, failures = min(2 * most, BATCH), 0
            elif self._closing.is_set():
                break
            else:
                self._wake.wait(1.0)
        with suppress(Exception):
            self._leave()

    def _send_some(self, most: int) -> bool:
        """Whether there was something to send."""
        messages = self._spool.take(most)
        if not messages:
            return False
        try:
            self._send(messages)
        except Refused as refused:
            if len(messages) > 1:
                raise
            self._spool.done(lost="refused")
            self._emit("output-refused", f"{self.kind}: a message is lost: {refused}")
        else:
            self._spool.done()
        return True

    def _works(self) -> None:
        self._state = "ok"
        if self._failing:
            self._failing = False
            self._emit("output-back", f"{self.kind}: {self._detail} takes records again")

    def _failed(self, error: Exception) -> None:
        self._spool.release()
        with suppress(Exception):
            self._drop()
        known = isinstance(error, SinkError)
        self._tell_trouble(str(error) if known else f"{type(error).__name__}: {error}")


def _delay(failures: int) -> float:
    """s before the next attempt; drawn, so that many outputs do not come back as one."""
    first, longest = RETRIES
    return min(longest, first * 2.0 ** min(failures, 20)) * random.uniform(0.5, 1.0)


def unreachable(error: BaseException, address: str) -> SinkError:
    """What it means that no connection came about, or that it broke."""
    if isinstance(error, ConnectionRefusedError):
        return SinkError(f"connection refused by {address}")
    if isinstance(error, TimeoutError):
        return SinkError(f"no answer from {address}")
    if isinstance(error, socket.gaierror):
        return SinkError(f"the name in {address} is not known: {reason(error)}")
    if isinstance(error, ssl.SSLError):
        return SinkError(f"TLS with {address} failed: {reason(error)}")
    text = reason(error) if isinstance(error, Exception) else type(error).__name__
    return SinkError(f"connection to {address} broken: {text}")


def topic_of(template: str, stream: str) -> str:
    """The template with the stream's name for {stream}."""
    return template.replace("{stream}", stream)
