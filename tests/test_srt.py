"""SRT, from and to GStreamer."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.camera import PYTHON, require_gstreamer
from tests.live.senders import free_port
from vidai.errors import ConfigError, SourceLost
from vidai.sources import srt
from vidai.sources.address import Address
from vidai.sources.live import LiveSource

SENDER = Path(__file__).parent / "live" / "gst_srt.py"
SECRET = "opensesame1234"
PATIENCE = 30.0  # s


@pytest.fixture(autouse=True)
def installed() -> None:
    require_gstreamer()
    try:
        srt._library()
    except ConfigError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


@pytest.fixture
def port() -> int:
    return free_port(socket.SOCK_DGRAM)


@contextmanager
def sending(url: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [PYTHON, str(SENDER), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"started\n"
            yield process
        finally:
            process.kill()


def connect(url: str, timeout: float = PATIENCE) -> LiveSource:
    return LiveSource(Address(url), name="gate", connect_timeout=timeout)


def seen(source: LiveSource, packets: int = 10) -> list[int]:
    """The times of packets of its video, in ticks."""
    video = (p for p in source.packets() if p.stream is source.video)
    return [packet.dts for packet in itertools.islice(video, packets) if packet.dts is not None]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_sender_that_we_call(port: int, host: str) -> None:
    listens = "[::]" if host == "[::1]" else "127.0.0.1"
    with (
        sending(f"srt://{listens}:{port}?mode=listener&passphrase={SECRET}"),
        connect(f"srt://{host}:{port}?latency=50&passphrase={SECRET}&streamid=%23!::r=a") as source,
    ):
        assert (source.info.codec, source.info.width, source.info.height) == ("h264", 320, 192)
        times = seen(source)
        assert {b - a for a, b in itertools.pairwise(times)} == {3600}  # 1/25 s


def test_a_sender_that_calls_us(port: int) -> None:
    with (
        sending(f"srt://127.0.0.1:{port}?mode=caller&passphrase={SECRET}"),
        connect(f"srt://127.0.0.1:{port}?mode=listener&passphrase={SECRET}") as source,
    ):
        assert len(seen(source)) == 10


@pytest.mark.parametrize("query", ["", "?passphrase=a-wrong-one-this-is"])
def test_a_wrong_passphrase_is_told_and_not_shown(port: int, query: str) -> None:
    with (
        sending(f"srt://127.0.0.1:{port}?mode=listener&passphrase={SECRET}"),
        pytest.raises(SourceLost, match="check the passphrase") as caught,
    ):
        connect(f"srt://127.0.0.1:{port}{query}")
    assert "a-wrong-one" not in str(caught.value)


@pytest.mark.parametrize("mode", ["caller", "listener"])
def test_nobody_is_there(port: int, mode: str) -> None:
    with pytest.raises(SourceLost, match="does not answer"):
        connect(f"srt://127.0.0.1:{port}?mode={mode}", timeout=0.3)


def read_on(source: LiveSource, then: Callable[[], object]) -> str:
    """Let something happen after some packets: why it ended."""
    packets = source.packets()
    assert len(list(itertools.islice(packets, 5))) == 5
    then()
    with source, pytest.raises(SourceLost) as caught:
        for _ in packets:
            pass
    return str(caught.value)


def test_a_sender_that_ends_is_lost_and_can_come_back(port: int) -> None:
    url = f"srt://127.0.0.1:{port}"
    for _ in range(2):
        with sending(f"{url}?mode=listener") as sender:
            assert sender.stdin is not None
            assert "ended: the server closed" in read_on(connect(url), sender.stdin.close)


def test_a_sender_that_is_gone_without_a_word_is_lost(port: int) -> None:
    url = f"srt://127.0.0.1:{port}"
    with sending(f"{url}?mode=listener") as sender:
        assert "ended: the server closed" in read_on(connect(url), sender.kill)


def test_it_can_be_closed_from_another_thread(port: int) -> None:
    url = f"srt://127.0.0.1:{port}"
    with sending(f"{url}?mode=listener") as sender:
        source = connect(url)
        packets = source.packets()
        next(packets)
        sender.kill()  # from now on nothing comes
        threading.Timer(0.2, source.close).start()
        assert len(list(packets)) < 1000  # and no error


WRONG = [
    ("srt://host:1?mode=rendezvous", "mode is one of caller, listener"),
    ("srt://host:1?latency=soon", "latency is a whole number"),
    ("srt://host:1?passphrase=short", "10 to 79"),
    ("srt://host:1?pbkeylen=7", "no pbkeylen of 7"),
    ("srt://host:1?colour=red", "has no colour here: give mode, latency"),
]


@pytest.mark.parametrize(("url", "words"), WRONG)
def test_what_can_never_work_is_one_sentence(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        connect(url, timeout=0.3)
    assert "short" not in str(caught.value)


def test_an_unknown_host() -> None:
    with pytest.raises(SourceLost, match="there is no host"):
        connect("srt://nowhere.invalid:1", timeout=0.3)


def test_without_the_library_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    srt._library.cache_clear()
    try:
        with pytest.raises(ConfigError, match="apt install libsrt"):
            connect("srt://host:1")
    finally:
        srt._library.cache_clear()
