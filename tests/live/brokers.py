"""Real brokers for tests, on loopback ports of their own: mosquitto, Redis, Kafka's protocol.

with Mosquitto(folder) as broker:
    broker.port, broker.kill(), broker.start(), broker.pause(), broker.resume(), broker.stop()
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import pytest
from typing_extensions import Self

PATIENCE = 30.0  # s

# librdkafka's own mock of a cluster speaks the real protocol. It ends with the test's process.
KAFKA = """
import logging, sys
from confluent_kafka import Producer

log = logging.getLogger("mock")
log.addHandler(logging.NullHandler())
log.propagate = False
producer = Producer({"test.mock.num.brokers": 1, "logger": log})
(broker,) = producer.list_topics(timeout=20).brokers.values()
print(broker.port, flush=True)
sys.stdin.read()
"""


def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait for it; fails after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about in {PATIENCE:.0f} s")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def program(name: str) -> str:
    """Its path. Skips where it is not installed, and fails there if CI is set."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if path is None:
        if "CI" in os.environ:
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed: apt install {name}")
    return path


class Broker:
    """A server in a process, which keeps its port over restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Returns when it answers."""
        with (self.folder / "broker.log").open("a") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
            )
        until(self._answers, f"{type(self).__name__} on port {self.port}")

    def kill(self) -> None:
        """As the system does it when memory is short."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In order: it keeps what it has promised to keep."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """It hangs: connections come about, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self.folder / "broker.log").read_text())
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class Mosquitto(Broker):
    """users: names and passwords; without them anybody may come in. tls: a PEM file with key and
    certificate. more: lines of its settings. What it keeps for clients that are away is on disk
    within a second."""

    def __init__(
        self,
        folder: Path,
        users: dict[str, str] | None = None,
        tls: Path | None = None,
        more: tuple[str, ...] = (),
    ) -> None:
        super().__init__(folder)
        self._more = more
        self._users = users or {}
        self._tls = tls

    def remembers_readers(self) -> bool:
        """Whether who listens to vidai/# is on disk, so that a kill does not end it."""
        memory = self.folder / "mosquitto.db"
        return memory.exists() and b"vidai/#" in memory.read_bytes()

    def command(self) -> list[str]:
        lines = [
            f"listener {self.port} 127.0.0.1",
            "user root",
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "max_queued_messages 0",
            f"allow_anonymous {'false' if self._users else 'true'}",
            *self._more,
        ]
        if self._tls is not None:
            lines += [f"certfile {self._tls}", f"keyfile {self._tls}"]
        if self._users:
            passwords = self.folder / "passwords"
            passwords.touch(mode=0o600)
            for name, password in self._users.items():
                subprocess.run(
                    [program("mosquitto_passwd"), "-b", str(passwords), name, password], check=True
                )
            lines.append(f"password_file {passwords}")
        settings = self.folder / "mosquitto.conf"
        settings.write_text("\n".join(lines) + "\n")
        return [program("mosquitto"), "-c", str(settings)]


class RedisServer(Broker):
    """What it has acknowledged is on disk, also when it is killed."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        super().__init__(folder)
        self.password = password

    def command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        if self.password is not None:
            options["requirepass"] = self.password
        return [
            program("redis-server"),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]


class KafkaBroker(Broker):
    """Forgets all when it ends. Its own port is another after each start, so clients come in by
    `port`, which stays, and are told the other one."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", KAFKA]

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.inner_port = int(self._process.stdout.readline())
        self._door = Door(self.port, self.inner_port)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._door.close()
        super()._end(number)


class Door:
    """Passes bytes on from one port to another."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE)  # nobody comes in any more
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for one in self._sockets:
            one.close()

    def _run(self, target: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=target, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inside, _ = self._listener.accept()
                self._sockets.append(inside)
                outside = socket.create_connection(("127.0.0.1", self._target), PATIENCE)
                outside.settimeout(None)
                self._sockets.append(outside)
                self._run(lambda a=inside, b=outside: _pass_on(a, b))  # type: ignore[misc]
                self._run(lambda a=inside, b=outside: _pass_on(b, a))  # type: ignore[misc]


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes in memory. Skips where only root could make one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
