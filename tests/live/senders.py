"""Streams for tests that need no camera: MPEG-TS over UDP, RTMP, HLS, JPEGs over HTTP."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer

PATIENCE = 30.0  # s for a thread to end


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody has just now."""
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def sending(
    clip: Path, url: str, form: str, options: dict[str, str] | None = None
) -> Iterator[threading.Event]:
    """Send a clip over and over, in real time, while the context lasts or the event is unset.

    form, options: FFmpeg's of the container.
    """
    stop = threading.Event()

    def run() -> None:
        with av.open(url, "w", format=form, options=options or {}) as out:
            _send(clip, out, stop)

    thread = threading.Thread(target=run, name=f"sender of {form}", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"the sender of {form} hangs"


@contextlib.contextmanager
def serving_rtmp(clip: Path) -> Iterator[str]:
    """An RTMP server for one client, soon after; its address. It ends with its client.

    In a process of its own, since PyAV holds the interpreter's lock while FFmpeg waits for the
    client; "tee" because it alone hands "listen" on to the protocol.
    """
    url = f"rtmp://127.0.0.1:{free_port()}/live/one"
    command = [sys.executable, "-m", "tests.live.senders", str(clip), f"[f=flv:listen=1]{url}"]
    process = subprocess.Popen([*command, "tee"], stderr=subprocess.DEVNULL)
    try:
        yield url
    finally:
        process.kill()
        process.wait(PATIENCE)


def _send(clip: Path, out: OutputContainer, stop: threading.Event) -> None:
    with av.open(str(clip)) as first:
        to: dict[int, Any] = {
            stream.index: out.add_stream_from_template(stream)
            for stream in (*first.streams.video, *first.streams.audio)
        }
        duration = (first.duration or 0) + 100_000  # µs; the sound begins before 0
    begin = time.monotonic()
    turn = 0
    while not stop.is_set():
        with av.open(str(clip)) as source:
            for packet in source.demux():
                if packet.dts is None or packet.stream.index not in to:
                    continue
                shift = round(turn * duration / 1_000_000 / packet.time_base)
                due = begin + float((packet.dts + shift) * packet.time_base)
                if stop.wait(max(0.0, due - time.monotonic())):
                    return
                packet.stream = to[packet.stream.index]
                packet.pts, packet.dts = (packet.pts or 0) + shift, packet.dts + shift
                out.mux(packet)
        turn += 1


@contextlib.contextmanager
def serving_folder(folder: Path) -> Iterator[str]:
    """An HTTP server of files; its address, without a slash at the end."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None: ...

    with _serving(partial(Handler, directory=str(folder))) as url:
        yield url


@contextlib.contextmanager
def serving_jpegs(pictures: list[bytes], fps: float) -> Iterator[str]:
    """Endless multipart/x-mixed-replace of these JPEGs, as simple cameras send; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            with contextlib.suppress(OSError):
                while True:
                    data = pictures[number % len(pictures)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}"
                    self.wfile.write(head.encode() + b"\r\n\r\n" + data + b"\r\n")
                    number += 1
                    time.sleep(1 / fps)

        def log_message(self, *words: Any) -> None: ...

    with _serving(Handler) as url:
        yield f"{url}/video.mjpg"


@contextlib.contextmanager
def _serving(handler: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


if __name__ == "__main__":
    _clip, _url, _form = sys.argv[1:]
    with av.open(_url, "w", format=_form) as _out:
        _send(Path(_clip), _out, threading.Event())
