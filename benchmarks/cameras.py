"""What the benchmarks of live streams share: servers that send what no camera should, and what a
process uses.

    python benchmarks/cameras.py flood CLIP     prints its address, and floods who connects
    python benchmarks/cameras.py garbage        the same, with bytes that mean nothing
"""

from __future__ import annotations

import io
import os
import random
import socketserver
import subprocess
import sys
from collections.abc import Iterator
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
    """What a process has. rss: MiB in memory; uss: MiB of these that are its alone, and are free
    when it ends; pss: uss and its part of what is shared. cpu: s of CPU time since it began."""

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


def transport_stream(clip: Path) -> bytes:
    """A clip as MPEG-TS."""
    file = io.BytesIO()
    with av.open(str(clip)) as source, av.open(file, "w", format="mpegts") as out:
        video = source.streams.video[0]
        to = out.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.stream = to
                out.mux(packet)
    return file.getvalue()


def _serve(kind: str, clip: str | None = None) -> None:
    data = transport_stream(Path(clip)) if clip else random.Random(1).randbytes(1 << 20)
    head = HEAD if kind == "flood" else b""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.recv(4096)
                self.request.sendall(head)
                while True:
                    self.request.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        host, port = server.server_address[:2]
        scheme = "http" if kind == "flood" else "rtsp"
        print(f"{scheme}://{host!s}:{port}/{kind}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
