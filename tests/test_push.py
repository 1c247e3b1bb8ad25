"""A media server gets the pictures that were pushed, also after it was away."""

from __future__ import annotations

import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from tests.live.camera import PYTHON, require_gstreamer
from tests.live.packets import (
    Feed,
    assert_balanced,
    camera_clip,
    feed_of,
    place_in,
    random_life,
)
from vidai.errors import SinkError
from vidai.live.events import Events
from vidai.live.outputs import push
from vidai.live.outputs.push import Options, Push

SERVER = Path(__file__).parent / "live" / "gst_record_server.py"
PATIENCE = 40.0  # s

Received = list[Any]  # number of the connection, kind, pts in ns, bytes


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 s with a keyframe a second, and sound."""
    return camera_clip(tmp_path_factory.mktemp("feed") / "c.mp4", 4, audio="aac")


@pytest.fixture(scope="module")
def feed(clip: Path) -> Feed:
    return feed_of(clip)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """The same without sound."""
    return feed_of(camera_clip(tmp_path_factory.mktemp("feed") / "s.mp4", 4))


def grey(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    return np.asarray(frame.to_ndarray(format="gray"), np.uint8)


class Server:
    """gst_record_server.py, running. received: what it told, so far."""

    def __init__(self, folder: Path, *said: str, port: int = 0) -> None:
        self.path = folder / f"got-{time.monotonic_ns()}"
        sound, user, password = [*said, "", "", ""][:3]
        self.process = subprocess.Popen(
            [PYTHON, str(SERVER), str(port), str(self.path), sound, user, password],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.lines: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self.received: list[Received] = []
        self.port: int = self.lines.get(timeout=PATIENCE)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def look(self) -> list[Received]:
        with suppress(queue.Empty):
            while True:
                self.received.append(self.lines.get_nowait())
        return self.received

    def videos(self, connection: int = 0) -> list[Received]:
        return [r for r in self.look() if r[0] == connection and r[1] == "video"]

    def sounds(self) -> list[Received]:
        return [r for r in self.look() if r[1] == "audio"]

    def frames(self, connection: int = 0) -> list[npt.NDArray[np.uint8]]:
        path = f"{self.path}.{connection}"
        with av.open(path, "r", format="h264") as container:
            return [grey(frame) for frame in container.decode(video=0)]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def server(folder: Path, *said: str, port: int = 0) -> Iterator[Server]:
    require_gstreamer()
    running = Server(folder, *said, port=port)
    try:
        yield running
    finally:
        running.close()


def opened(folder: Path, url: str, **more: Any) -> tuple[Push, Events]:
    place, events = place_in(folder / "state")
    return push.open(Options.model_validate({"url": url, **more}), place), events


def give_live(
    output: Push, feed: Feed, rounds: int = 1, until: Callable[[], bool] = lambda: False
) -> list[str]:
    """The samples again and again, quicker than live; what errors were raised."""
    errors = []
    length = len(feed.video) / 25
    end = time.monotonic() + PATIENCE
    for n in range(rounds):
        for sample in feed.later(n * length).samples:
            try:
                output.sample(sample)
            except SinkError as error:
                errors.append(str(error))
            assert_balanced(output)
            if until():
                return errors
            assert time.monotonic() < end, output.status()
            time.sleep(0.004)
    return errors


def wait(output: Push, condition: Callable[[], bool]) -> None:
    """Until it has arrived: a server throws away what it has not played when a push ends. Its
    parser keeps the last picture until the next begins."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, output.status()
        output.tick(0)
        time.sleep(0.02)


def of_clip(clip: Path) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(clip)) as container:
        return [grey(frame) for frame in container.decode(video=0)]


def test_the_server_gets_every_picture_and_sound(tmp_path: Path, clip: Path, feed: Feed) -> None:
    with server(tmp_path, "sound") as running:
        output, events = opened(tmp_path, f"rtsp://127.0.0.1:{running.port}/live")
        output.begin(feed.media)
        assert not give_live(output, feed)
        wait(output, lambda: len(running.videos()) >= 99)
        wait(output, lambda: len(running.sounds()) >= len(feed.audio) - 5)
        output.close()
        status = output.status()
        assert (status.delivered, status.lost) == (len(feed.samples), {})
        got, sent = running.frames(), of_clip(clip)
        assert len(got) >= 99
        assert all(np.array_equal(a, b) for a, b in zip(got, sent, strict=False))
        assert [event.kind for event in events.since()] == ["output"]


def test_a_push_begins_with_a_keyframe(tmp_path: Path, clip: Path, silent: Feed) -> None:
    with server(tmp_path) as running:
        output, _ = opened(tmp_path, f"rtsp://127.0.0.1:{running.port}/live")
        output.begin(silent.media)
        give_live(output, Feed(silent.media, silent.samples[10:]))
        wait(output, lambda: len(running.videos()) >= 74)
        output.close()
        assert output.status().lost == {"not connected": 15}
        sent = of_clip(clip)[25:]
        assert all(np.array_equal(a, b) for a, b in zip(running.frames(), sent, strict=False))


def test_a_server_that_was_away_is_found_again(tmp_path: Path, silent: Feed) -> None:
    with server(tmp_path) as first:
        port = first.port
        url = f"rtsp://127.0.0.1:{port}/live"
        output, events = opened(tmp_path, url)
        output.begin(silent.media)
        errors = give_live(output, silent, 99, lambda: output.status().delivered > 0)
    errors += give_live(output, silent.later(4), 99, lambda: "retrying" in output.status().state)
    errors += give_live(output, silent.later(1000), 2)
    assert len(errors) == 1  # it is told once
    assert errors[0].startswith(f"cannot push to {url}: ")
    with server(tmp_path, port=port) as second:
        give_live(output, silent.later(2000), 99, lambda: output.status().state == "ok")
        give_live(output, silent.later(3000), 2)
        wait(output, lambda: len(second.videos()) >= 100)
        output.close()
        assert second.frames()[0].any()
    status = output.status()
    assert status.waiting == 0
    assert status.lost["not connected"] > 0
    assert len(events.since()) == 2


def test_a_server_that_hangs_is_given_up(
    tmp_path: Path, silent: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "ANSWER", 1.5)
    with server(tmp_path) as running:
        output, _ = opened(tmp_path, f"rtsp://127.0.0.1:{running.port}/live")
        running.process.send_signal(signal.SIGSTOP)  # it is reached, but never answers
        output.begin(silent.media)
        errors = give_live(output, silent, 99, lambda: "retrying" in output.status().state)
        running.process.send_signal(signal.SIGCONT)
        assert "takes nothing" in errors[0]
        monkeypatch.setattr(push, "ANSWER", 20.0)
        give_live(output, silent.later(1000), 99, lambda: output.status().state == "ok")
        output.close()


def test_a_hanging_server_does_not_hold_up_the_end(
    tmp_path: Path, silent: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "CLOSE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        output, _ = opened(tmp_path, f"rtsp://127.0.0.1:{deaf.getsockname()[1]}/live")
        output.begin(silent.media)
        give_live(output, silent)
        output.close()
    status = output.status()
    assert status.lost["the connection was lost"] > 0
    assert status.waiting == 0


def test_nothing_there_is_told_without_the_password(tmp_path: Path, silent: Feed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    output, _ = opened(tmp_path, f"rtsp://me:hunter2@127.0.0.1:{port}/live")
    output.begin(silent.media)
    errors = give_live(output, silent)
    assert len(errors) == 1
    assert "refused" in errors[0]
    assert "hunter2" not in errors[0] + str(output.status())
    output.close()
    assert output.status().lost == {"not connected": 100}


def test_a_password_is_used_and_a_wrong_one_told(tmp_path: Path, silent: Feed) -> None:
    with server(tmp_path, "", "me", "hunter2") as running:
        wrong, _ = opened(tmp_path, f"rtsp://me:letmein@127.0.0.1:{running.port}/live")
        wrong.begin(silent.media)
        (error,) = give_live(wrong, silent, 99, lambda: "retrying" in wrong.status().state)
        assert "401" in error
        assert "letmein" not in error
        wrong.close()
        right, _ = opened(tmp_path, f"rtsp://me:hunter2@127.0.0.1:{running.port}/live")
        right.begin(silent.media)
        give_live(right, silent, 99, lambda: right.status().state == "ok")
        give_live(right, silent.later(1000))
        right.close()
        assert right.status().delivered > 0


def test_other_streams_begin_another_connection(tmp_path: Path, silent: Feed) -> None:
    other = feed_of(camera_clip(tmp_path / "o.mp4", 2, width=96))
    with server(tmp_path) as running:
        output, _ = opened(tmp_path, f"rtsp://127.0.0.1:{running.port}/live")
        for number, given in enumerate((silent, other.later(10))):
            output.begin(given.media)
            give_live(output, given)
            count = len(given.samples) - 1
            wait(output, lambda n=number, c=count: len(running.videos(n)) >= c)  # type: ignore[misc]
            output.end()
        output.close()
        assert output.status().lost == {}
        assert {frame.shape for frame in running.frames(1)} == {(48, 96)}


TAKER = """
import av, contextlib, json, sys
got = {"video": [], "audio": []}
with av.open(sys.argv[1], "r", format="flv", options={"listen": "1"}) as container:
    with contextlib.suppress(av.FFmpegError):  # so it calls the other's goodbye
        for packet in container.demux():
            if packet.size:
                got[packet.stream.type].append(float(packet.pts * packet.time_base))
print(json.dumps(got))
"""


def test_rtmp(tmp_path: Path, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"rtmp://127.0.0.1:{port}/app/key"
    output, _ = opened(tmp_path, url)
    # FFmpeg as a server takes one connection: the look whether somebody is there would be it.
    monkeypatch.setattr(Push, "_reach", lambda _: None)
    command = [sys.executable, "-c", TAKER, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as taker:
        try:
            output.begin(feed.media)
            give_live(output, feed, 99, lambda: output.status().state == "ok")
            give_live(output, feed.later(1000))
            output.end()
            told, _ = taker.communicate(timeout=PATIENCE)
        finally:
            taker.kill()
    got = json.loads(told)
    sent = output.status().delivered
    assert sent - 1 <= len(got["video"]) + len(got["audio"]) <= sent
    assert len(got["video"]) > 0
    gaps = [b - a for a, b in pairwise(got["video"])]
    assert sum(abs(gap - 0.04) > 0.002 for gap in gaps) <= 1  # where the feed was moved
    assert output.status().waiting == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "file.mp4", "rtsp://", "udp://1.2.3.4:5"])
def test_what_cannot_be_pushed_to_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({"url": url})


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_balanced_whatever_happens(seed: int, tmp_path: Path, feed: Feed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    output, _ = opened(tmp_path, f"rtsp://127.0.0.1:{port}/live")
    output._down = True  # the outage is told already
    random_life(output, feed, seed)
    assert output.status().delivered == 0
