"""A bad network on loopback, between a client and a server: for TCP, and for UDP."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType

CHUNK = 65536  # bytes


class TcpProxy:
    """Listens on a port of its own and passes on to a server; a context manager.

    Change while it runs: stalled (connections stay open, nothing passes, new ones are accepted),
    refusing (the port is closed, as if nobody listened), rate (bytes a second from the server,
    None: no limit), delay (s that each chunk from the server is late).

    counts: "connections", "bytes to server", "bytes to client", "bytes injected".
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.target = (host, port)
        self.stalled = False
        self.rate: float | None = None
        self.delay = 0.0
        self.counts: Counter[str] = Counter()
        self._pairs: dict[socket.socket, socket.socket] = {}  # client: server
        self._lock = threading.Lock()
        self._closed = False
        self._listener: socket.socket | None = None
        self.port = 0
        self.accept()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many are open now."""
        with self._lock:
            return len(self._pairs)

    def accept(self) -> None:
        """After `refuse`: listen again, on the same port."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        _run(self._serve, listener)

    def refuse(self) -> None:
        """New connections are refused from now on; those there are go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)

    def reset(self) -> None:
        """Every connection ends now, by RST on both sides."""
        with self._lock:
            pairs, self._pairs = self._pairs, {}
        for pair in pairs.items():
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)  # wakes the thread that holds it
                end.close()

    def hang_up(self) -> None:
        """Every connection ends now, in good order."""
        with self._lock:
            pairs, self._pairs = self._pairs, {}
        for pair in pairs.items():
            for end in pair:
                _shut(end)

    def inject(self, data: bytes) -> None:
        """Send to every client what its server never said."""
        with self._lock:
            clients = list(self._pairs)
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(data)
                self.counts["bytes injected"] += len(data)

    def close(self) -> None:
        self._closed = True
        self.refuse()
        self.hang_up()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(self.target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs[client] = server
            self.counts["connections"] += 1
            _run(self._pass, client, server, client)
            _run(self._pass, server, client, client)

    def _pass(self, source: socket.socket, sink: socket.socket, client: socket.socket) -> None:
        """Carry bytes one way until one side ends; the pair is known by its client."""
        down = sink is client
        name = "bytes to client" if down else "bytes to server"
        try:
            while data := source.recv(CHUNK if self.rate is None else 1024):
                while self.stalled and not self._closed:
                    time.sleep(0.01)
                if down and (self.delay or self.rate):
                    time.sleep(self.delay + len(data) / (self.rate or float("inf")))
                sink.sendall(data)
                self.counts[name] += len(data)
        except OSError:
            pass
        with self._lock:
            ours = self._pairs.pop(client, None)  # else another ends them, in a way of its own
        if ours is not None:
            _shut(source)
            _shut(sink)


class UdpProxy:
    """Passes datagrams that come to its port on to a server, and answers back; a context manager.

    Change while it runs: loss (the share of datagrams that is lost, 0–1), stalled (all are).
    Which ones are lost follows from the seed. counts: "passed", "lost".
    """

    def __init__(self, port: int, host: str = "127.0.0.1", *, loss: float = 0.0, seed: int = 0):
        self.loss = loss
        self.stalled = False
        self.counts: Counter[str] = Counter()
        self._target = (host, port)
        self._random = random.Random(seed)
        self._client: tuple[str, int] | None = None
        self._outer, self._inner = (_datagrams() for _ in range(2))
        self.port = self._outer.getsockname()[1]
        self._closed = threading.Event()
        self._thread = _run(self._pass)

    def __enter__(self) -> UdpProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(10)
        self._outer.close()
        self._inner.close()

    def _pass(self) -> None:
        with selectors.DefaultSelector() as selector:
            for end in (self._outer, self._inner):
                selector.register(end, selectors.EVENT_READ)
            while not self._closed.is_set():
                for key, _ in selector.select(0.1):
                    with contextlib.suppress(OSError):  # nobody listens there just now
                        self._pass_one(key.fd == self._outer.fileno())

    def _pass_one(self, up: bool) -> None:
        source, sink = (self._outer, self._inner) if up else (self._inner, self._outer)
        data, sender = source.recvfrom(CHUNK)
        if up:
            self._client = sender
        receiver = self._target if up else self._client
        if receiver is None or self.stalled or self._random.random() < self.loss:
            self.counts["lost"] += 1
        else:
            sink.sendto(data, receiver)
            self.counts["passed"] += 1


def _datagrams() -> socket.socket:
    end = socket.socket(type=socket.SOCK_DGRAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    end.bind(("127.0.0.1", 0))
    return end


def _run(target: object, *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def _shut(end: socket.socket) -> None:
    """Close it, and wake who waits for it."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
