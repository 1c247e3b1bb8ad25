"""What the benchmarks of live streams share: servers that send what no camera should, and what a
process uses.

    python benchmarks/cameras.py flood CLIP     prints its address, and floods who connects
    python benchmarks/cameras.py garbage        the same, with bytes that mean nothing
"""

from __future__ import annotations

import os
import random
import socket
import socketserver
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # the cameras of the tests are no part of the package
    sys.path.insert(0, str(ROOT))

CLIP = ROOT / "samples" / "shapes.mp4"
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n"
TICKS = os.sysconf("SC_CLK_TCK")  # a second of CPU time


@dataclass(frozen=True)
class Use:
    """What a process has, in MiB. own: what it allocated, also if it is swapped out; files, which
    it maps, are not in it, as these depend on who else does. rss: all that is in memory; uss: of
    that, what no other process has; pss: uss and its part of the rest. cpu: s of CPU time since
    it began."""

    own: float
    rss: float
    pss: float
    uss: float
    threads: int
    fds: int
    cpu: float

    @classmethod
    def of(cls, pid: int) -> Use:
        """As Linux tells it. Raises OSError where the process is gone."""
        process = Path("/proc") / str(pid)
        kib: dict[str, int] = {}
        for line in (process / "smaps_rollup").read_text().splitlines()[1:]:
            name, value, *_ = line.split()
            kib[name] = int(value)
        # The second field may have blanks in it, and ends with a bracket.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        return cls(
            own=(kib["Anonymous:"] + kib["Swap:"]) / 1024,
            rss=kib["Rss:"] / 1024,
            pss=kib["Pss:"] / 1024,
            uss=(kib["Private_Clean:"] + kib["Private_Dirty:"]) / 1024,
            threads=int(fields[17]),
            fds=len(os.listdir(process / "fd")),
            cpu=(int(fields[11]) + int(fields[12])) / TICKS,
        )


def children_cpu() -> float:
    """s of CPU time of the processes that this one started and that run: the cameras."""
    seconds = 0.0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            for pid in (task / "children").read_text().split():
                seconds += Use.of(int(pid)).cpu
    return seconds


def model() -> str:
    """YOLOX-nano: beside the checkout where it lies there, else by its name in the catalog."""
    beside = ROOT.parent / "shared" / "models" / "yolox_nano.onnx"
    return str(beside) if beside.is_file() else "yolox-nano"


@contextmanager
def sender(*words: str) -> Iterator[str]:
    """One of the servers of this file, in a process of its own; its address."""
    command = [sys.executable, __file__, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, f"{' '.join(words)} did not start"
            yield address
        finally:
            process.kill()


class _Connection:
    """A file for a muxer, to a client."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def write(self, data: bytes) -> int:
        self._client.sendall(data)
        return len(data)


def flood(client: socket.socket, clip: Path) -> None:
    """The clip as MPEG-TS, again and again, with times that go on."""
    client.sendall(HEAD)
    with av.open(str(clip)) as first, av.open(_Connection(client), "w", format="mpegts") as out:
        to = out.add_stream_from_template(first.streams.video[0])
        shift = 0
        while True:
            times: list[int] = []
            with av.open(str(clip)) as source:
                for packet in source.demux(source.streams.video[0]):
                    if packet.pts is None or packet.dts is None:
                        continue
                    times += [packet.dts, packet.dts + (packet.duration or 1)]
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = to
                    out.mux(packet)
            shift += max(times) - min(times)


def garbage(client: socket.socket) -> None:
    data = random.Random(1).randbytes(1 << 20)
    while True:
        client.sendall(data)


def _serve(kind: str, *clips: str) -> None:
    senders: dict[str, tuple[str, Callable[..., None]]] = {
        "flood": ("http", flood),
        "garbage": ("rtsp", garbage),
    }
    scheme, send = senders[kind]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, av.FFmpegError):  # the client has gone
                self.request.recv(4096)
                send(self.request, *map(Path, clips))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        host, port = server.server_address[:2]
        print(f"{scheme}://{host!s}:{port}/{kind}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
