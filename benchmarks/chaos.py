"""What happens to cameras in months, in minutes: for soak.py.

Every trouble is caused, ended, and what must come after it is waited for; what does not come is
told in a sentence.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from cameras import CLIP

from tests.live.brokers import Mosquitto
from tests.live.camera import Camera, Mount
from tests.live.proxy import TcpProxy, UdpProxy
from tests.live.senders import free_port, sending

PATIENCE = 60.0  # s for a worker on a busy machine to come back
QUICK = 30  # reconnects, one after the other
KINDS = (  # what a camera is changed to, and back
    {"codec": "h265", "width": 320, "height": 192},
    {"codec": "mjpeg", "width": 320, "height": 192},
    {"codec": "h264", "width": 1280, "height": 720},
)


class Pages:
    """A worker's interface over HTTP."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token

    def ask(self, path: str, method: str = "GET", said: dict[str, Any] | None = None) -> bytes:
        """Raises OSError."""
        request = urllib.request.Request(
            f"{self._url}{path}",
            method=method,
            data=None if said is None else json.dumps(said).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            body: bytes = answer.read()
            return body

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.ask("/api/status"))
        return told

    def streams(self) -> dict[str, dict[str, Any]]:
        return {stream["name"]: stream for stream in self.status()["streams"]}


class Site:
    """The cameras, the broker, and the file that names them.

    Streams "calm…" are left alone by all chaos; without chaos all are. `chaos` brings two
    cameras that it may do anything to, one behind a TCP proxy, and MPEG-TS behind a UDP proxy.
    """

    def __init__(self, folder: Path, stack: ExitStack, count: int, *, chaos: bool) -> None:
        self.folder = folder
        self.file = folder / "cameras.yaml"
        self.broker: Mosquitto | None = None
        rough = min(count - 1, max(3, count * 3 // 4)) if chaos else 0
        calm = [f"calm{n}" for n in range(count - rough)]
        self.calm = Camera({f"/{n}": Mount("clock") for n in calm})
        stack.enter_context(self.calm)
        self.streams = {n: {"url": self.calm.url(f"/{n}")} for n in calm}
        if chaos:
            self._add_rough(stack, rough)

    def _add_rough(self, stack: ExitStack, count: int) -> None:
        names = [f"rough{n}" for n in range(count - 2)]
        self.rough = Camera({f"/{n}": Mount("clock") for n in [*names, "shaky"]})
        stack.enter_context(self.rough)
        self.proxy = TcpProxy(self.rough.port)
        stack.callback(self.proxy.close)
        self.streams |= {n: {"url": self.rough.url(f"/{n}")} for n in names}
        self.streams["shaky"] = {"url": f"rtsp://127.0.0.1:{self.proxy.port}/shaky"}
        port = free_port(socket.SOCK_DGRAM)
        self.lossy = stack.enter_context(UdpProxy(port))
        stack.enter_context(sending(CLIP, f"udp://127.0.0.1:{self.lossy.port}", "mpegts"))
        self.streams["lossy"] = {"url": f"udp://127.0.0.1:{port}"}

    def write(self, config: dict[str, Any]) -> None:
        """cameras.yaml, at once."""
        hidden = self.file.with_suffix(".part")
        hidden.write_text(yaml.safe_dump(config), encoding="utf-8")
        os.replace(hidden, self.file)


class Chaos:
    """One trouble after the other, in an order that follows from the seed, until `stop`.

    told: (s since the epoch, what was done). problems: sentences of what did not come after it.
    """

    def __init__(self, site: Site, config: dict[str, Any], pages: Pages, every: float) -> None:
        self.told: list[tuple[float, str]] = []
        self.problems: list[str] = []
        self.counts: dict[str, int] = {}
        self._site, self._config, self._pages = site, config, pages
        self._every = every
        self._random = random.Random(1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """After what is under way."""
        self._stopping.set()
        self._thread.join(4 * PATIENCE)
        if self._thread.is_alive():
            self.problems.append("the chaos itself hangs")

    def _run(self) -> None:
        troubles: list[Callable[[], None]] = [
            *(self.kill, self.hang, self.switch, self.resize, self.lose_packets, self.storm),
            *(self.stutter, self.add_and_remove, self.edit, self.spoil_the_file, self.look),
        ]
        if self._site.broker is not None:
            troubles.append(self.kill_the_broker)
        while True:
            self._random.shuffle(troubles)
            for trouble in troubles:
                if self._stopping.wait(self._every * self._random.uniform(0.5, 1.5)):
                    return
                self._cause(trouble)

    def _cause(self, trouble: Callable[[], None]) -> None:
        name = trouble.__name__.replace("_", " ")
        self.counts[name] = self.counts.get(name, 0) + 1
        self.told = [*self.told[-999:], (time.time(), name)]
        try:
            trouble()
        except Exception as error:
            self._problem(f"{name}: {type(error).__name__}: {error}")

    def _problem(self, text: str) -> None:
        if len(self.problems) < 100:
            self.problems.append(text)

    def _until(self, condition: Callable[[], object], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not self._holds(condition):
            if self._stopping.is_set():
                return
            if time.monotonic() > until:
                self._problem(f"{what} did not come about in {PATIENCE:.0f} s")
                return
            time.sleep(0.2)

    def _holds(self, condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except (OSError, KeyError):  # the worker is busy, or the stream is not there yet
            return False

    def _all_live(self, after: str) -> None:
        names = set(self._site.streams)
        self._until(
            lambda: all(self._pages.streams()[n]["state"] == "live" for n in names),
            f"after “{after}” all streams live",
        )

    # Troubles.

    def kill(self) -> None:
        self._site.rough.kill()
        self._wait(0.5, 8)
        self._site.rough.restart()
        self._all_live("kill")

    def hang(self) -> None:
        self._site.rough.pause()
        self._wait(1, 15)
        self._site.rough.resume()
        self._all_live("hang")

    def switch(self) -> None:
        """Another codec and size, and back."""
        before = self._site.rough.mounts["/rough0"]
        self._site.rough.switch("/rough0", Mount("clock", **self._random.choice(KINDS)))  # type: ignore[arg-type]
        self._all_live("switch")
        self._wait(2, 8)
        self._site.rough.switch("/rough0", before)
        self._all_live("switch back")

    def resize(self) -> None:
        """Another size within the connection, and back."""
        for width, height in ((320, 192), (640, 360)):
            self._site.rough.resize("/rough0", width, height)
            self._until(partial(self._has_height, height), f"a height of {height}")

    def _has_height(self, height: int) -> bool:
        return bool(self._pages.streams()["rough0"]["height"] == height)

    def lose_packets(self) -> None:
        self._site.lossy.loss = self._random.choice((0.01, 0.05, 0.2, 1.0))
        self._wait(3, 12)
        self._site.lossy.loss = 0.0
        self._all_live("lose packets")

    def storm(self) -> None:
        """Many reconnects, each as soon as the one before is through."""
        for _ in range(QUICK):
            self._until(lambda: self._site.proxy.connections, "a connection")
            self._wait(0.1, 0.5)
            self._site.proxy.reset()
            if self._stopping.is_set():
                return
        self._all_live("storm")

    def stutter(self) -> None:
        """A line that is too slow, then stalls, then has bytes in it that nobody sent."""
        proxy = self._site.proxy
        proxy.rate = 5_000
        self._wait(1, 4)
        proxy.rate, proxy.stalled = None, True
        self._wait(1, 4)
        proxy.stalled = False
        proxy.inject(self._random.randbytes(5000))
        self._all_live("stutter")

    def add_and_remove(self) -> None:
        site, pages = self._site, self._pages
        said = {"name": "guest", "url": site.calm.url("/calm0")}
        pages.ask("/api/streams", "POST", said)
        self._until(lambda: pages.streams()["guest"]["state"] == "live", "a stream that was added")
        pages.ask("/api/streams/guest", "PATCH", {"priority": self._random.randrange(5)})
        self._until(lambda: pages.streams()["guest"]["state"] == "live", "a stream with changes")
        pages.ask("/api/streams/guest", "DELETE")
        self._until(lambda: "guest" not in pages.streams(), "the end of a stream")

    def edit(self) -> None:
        """A stream more in the file, and less again."""
        site = self._site
        more = {**site.streams, "edited": {"url": site.rough.url("/rough0")}}
        site.write({**self._config, "streams": more})
        self._until(
            lambda: self._pages.streams()["edited"]["state"] == "live",
            "a stream of the edited file",
        )
        site.write(self._config)
        self._until(lambda: "edited" not in self._pages.streams(), "the end of a stream")

    def spoil_the_file(self) -> None:
        self._site.file.write_text("streams: {calm0: {ulr: nonsense}", encoding="utf-8")
        self._wait(2, 4)
        self._site.write(self._config)
        self._all_live("spoil the file")

    def look(self) -> None:
        """Somebody opens the page."""
        for path in ("/", "/metrics", "/api/events", "/live/calm0/index.m3u8"):
            self._pages.ask(path)
        self._pages.ask("/snapshot/calm0.jpg")

    def kill_the_broker(self) -> None:
        assert self._site.broker is not None
        self._site.broker.kill()
        self._wait(1, 10)
        self._site.broker.start()

    def _wait(self, least: float, most: float) -> None:
        time.sleep(self._random.uniform(least, most))
