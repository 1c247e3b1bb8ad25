"""What the worker says while it runs: one line each, as JSON or for people, without passwords.

Lines are written by a thread of their own, so a log that cannot be written (a full disk, a pipe
that nobody reads) holds up no stream: lines are left out, counted, and told of once it can.

FFmpeg's own lines stay off. PyAV could hand them to Python, but then a thread of a decoder waits
for the interpreter's lock while whoever holds that lock may be waiting for this thread to end, as
when a decoder is freed: a worker that reconnects often would hang one day. What went wrong
arrives as an exception, and damage is counted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TextIO
from urllib.parse import quote

import av

from vidai.live.events import Event, Events
from vidai.live.output import iso
from vidai.sources.address import HIDDEN, shown

WINDOW = 60.0  # s in which the same message is written once, then counted
REMEMBERED = 1000  # messages that are compared with
RATE, BURST = 50.0, 1000.0  # lines a second in the long run, and at once
WAITING = 5000  # lines that wait for a slow reader
PATIENCE = 2.0  # s for the last lines when all ends
LONGEST = 8192  # characters of one text
ADDRESS = 1024  # characters of one that is looked at
SHORTEST = 4  # characters of a secret that is looked for everywhere

# Events are warnings if their kind, as "output-failed", ends with one of these.
TROUBLE = ("lost", "error", "failed", "refused", "retrying", "damaged", "dropped", "overflow")

# Begins at a word, so that a long one is not looked at again from each of its letters.
_ADDRESS = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s'\"<>]+")
_BEARER = re.compile(r"\b(Bearer|Basic) +[\w~+/.=-]+", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_secrets: dict[str, None] = {}
_secret: re.Pattern[str] | None = None
_lock = threading.Lock()


def hide(secret: str) -> None:
    """Have it written as *** from now on, also where it is percent-encoded.

    One of less than four characters is hidden in addresses only: it would blot out other words.
    """
    global _secret
    if len(secret) < SHORTEST:
        return
    with _lock:
        _secrets.update(dict.fromkeys((secret, quote(secret), quote(secret, safe=""))))
        longest_first = sorted(_secrets, key=len, reverse=True)
        _secret = re.compile("|".join(map(re.escape, longest_first)))


def clean(text: str) -> str:
    """The text without what was hidden, secrets in addresses, and those of HTTP.

    Longer than LONGEST characters, it is cut.
    """
    # Cut again at the end: half of a password would not be known as one.
    text = text[: 2 * LONGEST]
    if _secret is not None:
        text = _secret.sub(HIDDEN, text)
    text = _ADDRESS.sub(_shown, text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _shown(address: re.Match[str]) -> str:
    """One without end is no address, and would take its time."""
    return shown(address[0]) if len(address[0]) <= ADDRESS else HIDDEN


def configure(
    stream: TextIO | None = None, *, text: bool | None = None, level: str = "INFO"
) -> Lines:
    """Send all logging of this process to a stream, until the result is closed.

    stream: None is stderr. text: lines for people instead of JSON; None: where it is a terminal.
    level: the least that is told of vidai; of other packages it is WARNING.
    """
    stream = sys.stderr if stream is None else stream
    av.logging.set_level(None)
    lines = Lines(stream, _is_terminal(stream) if text is None else text)
    lines.install(level)
    return lines


def log_events(events: Events) -> None:
    """Write every event from now on."""
    logger = logging.getLogger("vidai.live")

    def write(event: Event) -> None:
        level = logging.WARNING if event.kind.endswith(TROUBLE) else logging.INFO
        about = {"stream": event.stream, "event": event.kind, "data": event.data}
        logger.log(level, "%s", event.text, extra=about)

    events.listen(write)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


@dataclass
class Line:
    """One line to write, without passwords. repeated: how often it came again and was not
    written."""

    time: float
    level: str
    logger: str
    message: str
    stream: str | None = None
    event: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    repeated: int = 0

    @classmethod
    def of(cls, record: logging.LogRecord) -> Line:
        try:
            message = record.getMessage()
        except Exception as error:  # the arguments do not fit: say what can be said
            message = f"{record.msg} {record.args!r} ({type(error).__name__})"
        told = record.exc_info and "".join(traceback.format_exception(*record.exc_info))
        stream = getattr(record, "stream", None)
        event = getattr(record, "event", None)
        return cls(
            record.created,
            record.levelname,
            record.name,
            clean(message),
            None if stream is None else clean(str(stream)),
            None if event is None else str(event),
            _plain(getattr(record, "data", None) or {}),
            clean(told or record.exc_text or "") or None,
        )

    @property
    def key(self) -> str:
        """The same for lines that say the same; of other packages, but for their numbers."""
        ours = self.logger.partition(".")[0] == "vidai"
        message = self.message if ours else _NUMBER.sub("#", self.message)
        said = (self.level, self.logger, message, self.stream, self.event, self.data)
        return repr((*said, self.error))

    def to_json(self) -> str:
        told = {
            "time": iso(self.time),
            "level": self.level,
            "logger": self.logger,
            "message": self.message,
            "stream": self.stream,
            "event": self.event,
            "data": self.data or None,
            "error": self.error,
            "repeated": self.repeated or None,
        }
        told = {name: value for name, value in told.items() if value is not None}
        return json.dumps(told, ensure_ascii=False, separators=(",", ":"))

    def to_text(self) -> str:
        """On one line, but for a traceback; what would move a terminal's cursor is escaped."""
        where = self.stream or (None if self.event else self.logger)
        message = self.message
        if where and not message.startswith((f"{where} ", f"{where}:")):
            message = f"{where}: {message}"
        parts = [iso(self.time), f"{self.level:7}", _CONTROL.sub(_escaped, message)]
        if self.repeated:
            parts.append(f"(repeated {self.repeated} times)")
        lines = [" ".join(parts)]
        for line in (self.error or "").splitlines():
            lines.append("    " + _CONTROL.sub(_escaped, line))
        return "\n".join(lines)


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


def _plain(value: Any) -> Any:
    """JSON-ready and without passwords."""
    if isinstance(value, dict):
        return {clean(str(name)): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean(str(value))


class Repeats:
    """Which lines are written: a message once a WINDOW, and RATE lines a second in all.

    Its time is that of time.monotonic, in s.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, Line]] = {}  # since when, oldest first
        self._budget, self._filled = BURST, 0.0
        self._left_out = 0

    def admits(self, line: Line, now: float) -> bool:
        key = line.key
        if seen := self._seen.get(key):
            known = seen[1]
            known.repeated, known.time = known.repeated + 1, line.time
            return False
        self._budget = min(BURST, self._budget + (now - self._filled) * RATE)
        self._filled = now
        if self._budget < 1:
            self._left_out += 1
            return False
        self._budget -= 1
        if len(self._seen) < REMEMBERED:
            self._seen[key] = (now, _again(line))
        return True

    def leave_out(self) -> None:
        """Count a line that was admitted and could not be written."""
        self._left_out += 1

    def due(self, now: float) -> list[Line]:
        """What is to be said of lines that were not written. now: inf at the end."""
        told = []
        while self._seen:
            key, (since, line) = next(iter(self._seen.items()))
            if now - since < WINDOW:
                break
            del self._seen[key]
            if line.repeated:
                told.append(line)
        if self._left_out and (self._budget >= 1 or now - self._filled >= 1):
            message = f"{self._left_out} messages were left out: they came too fast for the log"
            told.append(Line(time.time(), "WARNING", __name__, message))
            self._left_out = 0
        return told


def _again(line: Line) -> Line:
    """To be written if the line comes again: without its traceback, which was written."""
    return Line(
        line.time, line.level, line.logger, line.message, line.stream, line.event, line.data
    )


class Lines(logging.Handler):
    """Writes every record as a line, in a thread of its own, until it is closed."""

    def __init__(self, stream: TextIO, text: bool) -> None:
        super().__init__()
        self._stream = stream
        self._render: Callable[[Line], str] = Line.to_text if text else Line.to_json
        self._repeats = Repeats()
        # SimpleQueue, since a signal's handler may log while its thread is within a put.
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._closed = False
        self._undo: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._write_all, name="vidai-logs", daemon=True)
        self._thread.start()

    def install(self, level: str) -> None:
        """Take what the root logger gets, and the warnings and errors of threads."""
        root, ours = logging.getLogger(), logging.getLogger("vidai")
        before = (root.level, ours.level, threading.excepthook)

        def undo() -> None:
            root.removeHandler(self)
            root.setLevel(before[0])
            ours.setLevel(before[1])
            threading.excepthook = before[2]
            logging.captureWarnings(False)

        root.addHandler(self)
        root.setLevel(logging.WARNING)
        ours.setLevel(level.upper())
        logging.captureWarnings(True)
        threading.excepthook = _tell_of_thread
        self._undo.append(undo)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a log must not end what it tells of."""
        with suppress(Exception):
            line = Line.of(record)
            if self._closed or not self._repeats.admits(line, time.monotonic()):
                return
            if self._lines.qsize() < WAITING:
                self._lines.put(line)
            else:
                self._repeats.leave_out()

    def close(self) -> None:
        """Write what waits, for PATIENCE seconds at most. May be called again."""
        with suppress(IndexError):
            self._undo.pop()()
        self.acquire()
        try:
            if self._closed:
                return
            self._closed = True
            for line in self._repeats.due(math.inf):
                self._lines.put(line)
            self._lines.put(None)
        finally:
            self.release()
        if threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE)
        super().close()

    def _write_all(self) -> None:
        while True:
            try:
                line = self._lines.get(timeout=1.0)
            except queue.Empty:
                self._write_due()
                continue
            if line is None:
                break
            self._write(line)
            if self._lines.empty():
                self._write_due()
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _write_due(self) -> None:
        self.acquire()
        try:
            due = self._repeats.due(time.monotonic())
        finally:
            self.release()
        for line in due:
            self._write(line)

    def _write(self, line: Line) -> None:
        try:
            self._stream.write(self._render(line) + "\n")
            self._stream.flush()
        except UnicodeEncodeError:  # the stream's encoding, as of a terminal with LANG=C
            with suppress(OSError, ValueError):
                self._stream.write(self._render(line).encode("ascii", "replace").decode() + "\n")
        except (OSError, ValueError):  # broken, full, or closed
            self.acquire()
            self._repeats.leave_out()
            self.release()

    def _give_up(self) -> None:
        """Let what cannot be written go, else the interpreter fails in its last moment over it."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def _tell_of_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_type is SystemExit or told.exc_value is None:
        return
    name = told.thread.name if told.thread else "a thread"
    what = (told.exc_type, told.exc_value, told.exc_traceback)
    logging.getLogger("vidai.live").critical("%s ended by an error", name, exc_info=what)
