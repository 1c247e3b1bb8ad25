"""SRT, from and to GStreamer."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import threading
import time
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
SETTLE = 1.5  # s until what libsrt does after a close is done


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


@pytest.mark.parametrize(
    ("mode", "told"), [("caller", "does not answer"), ("listener", "was not called by anybody")]
)
def test_nobody_is_there(port: int, mode: str, told: str) -> None:
    with pytest.raises(SourceLost, match=told):
        connect(f"srt://127.0.0.1:{port}?mode={mode}", timeout=0.3)


def test_a_port_that_another_has(port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
        with pytest.raises(SourceLost, match="the port is another program's"):
            connect(f"srt://127.0.0.1:{port}?mode=listener")


def test_a_host_of_which_one_address_answers(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        *socket.getaddrinfo("::1", port, type=socket.SOCK_DGRAM),
        *socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_DGRAM),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with (
        sending(f"srt://127.0.0.1:{port}?mode=listener"),
        connect(f"srt://gate.example:{port}") as source,
    ):
        assert len(seen(source)) == 10


def test_nothing_is_left_open_of_attempts_that_fail(port: int) -> None:
    def fail(source: LiveSource) -> None:
        raise ValueError("nobody expected this")

    with sending(f"srt://127.0.0.1:{port}?mode=listener"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveSource, "_describe", fail)
        for attempt in range(4):
            with pytest.raises(ValueError, match="nobody"):
                connect(f"srt://127.0.0.1:{port}")
            if attempt == 0:
                time.sleep(SETTLE)
                before = len(os.listdir("/proc/self/fd"))
        end = time.monotonic() + PATIENCE
        while len(os.listdir("/proc/self/fd")) > before:  # libsrt closes its own a little later
            assert time.monotonic() < end
            time.sleep(0.1)


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
    ("mode=rendezvous", "mode of SRT is caller or listener"),
    ("latency=soon", "latency of SRT is a whole number of ms"),
    ("latency=999999", "a whole number of ms"),
    ("latency=\u00b2", "a whole number of ms"),
    ("passphrase=half1", "passphrase of SRT is 10 to 79 characters"),
    ("passphrase=opensesame&half2", "write an & within a value as %26"),
    ("pbkeylen=7", "16, 24 or 32"),
    ("colour=half3", "SRT takes mode, latency, passphrase, pbkeylen, streamid here"),
]


@pytest.mark.parametrize(("query", "words"), WRONG)
def test_what_can_never_work_is_one_sentence(query: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address(f"srt://host:1?{query}")
    assert words in str(caught.value)
    assert "half" not in str(caught.value)


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
