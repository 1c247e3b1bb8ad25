"""Live streams from real servers on loopback: what comes, and how each of them fails."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.live.camera import Camera, Mount, read_clock, require_gstreamer
from tests.live.proxy import TcpProxy, UdpProxy
from tests.live.senders import (
    free_port,
    sending,
    serving_folder,
    serving_jpegs,
    serving_rtmp,
)
from tests.media import make_clip, moving_shapes, planes_of
from vidai.errors import ConfigError, DecodeError, SourceLost
from vidai.live.output import CLOCK, Media, Sample
from vidai.sources.address import Address, shown, without_secrets
from vidai.sources.adts import Adts
from vidai.sources.backoff import Backoff
from vidai.sources.live import LiveSource, Transport
from vidai.sources.playing import Pace
from vidai.sources.times import Times

PATIENCE = 30.0  # s, for what must happen
FRAMES = 50
RATE = 25

FACE = Path(__file__).parents[1] / "samples" / "face.mp4"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds with sound, B-frames, and a keyframe each second."""
    path = tmp_path_factory.mktemp("live") / "clip.mp4"
    options = {"g": str(RATE), "bf": "2"}
    return make_clip(path, frames=FRAMES, width=160, height=96, audio="aac", options=options)


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of video, then sound alone for a minute."""
    path = tmp_path_factory.mktemp("gap") / "clip.mp4"
    times = [*range(RATE), 60 * RATE]
    return make_clip(path, frames=len(times), pts=times, audio="aac", options={"bf": "0"})


@pytest.fixture(scope="module")
def camera(clip: Path, gap: Path) -> Iterator[Camera]:
    """For tests that leave it as it is."""
    require_gstreamer()
    mounts = {
        "/clip": Mount("file", path=clip),
        "/mute": Mount("file", path=clip, sound=False),
        "/gap": Mount("file", path=gap),
        "/clock": Mount("clock"),
        "/h265": Mount(codec="h265", width=320, height=192),
        "/mjpeg": Mount(codec="mjpeg", audio="pcmu", width=320, height=192),
        "/opus": Mount(audio="opus", width=320, height=192),
    }
    with Camera(mounts, user="viewer", password="s3cret/?#", auth="digest") as camera:
        yield camera


@pytest.fixture
def mortal() -> Iterator[Camera]:
    """For tests that end it."""
    require_gstreamer()
    with Camera({"/clock": Mount("clock", width=320, height=192)}) as camera:
        yield camera


def connect(url: str | Path, *, read_timeout: float = PATIENCE, **options: Any) -> LiveSource:
    options = {"connect_timeout": PATIENCE, **options}
    return LiveSource(Address(str(url)), name="gate", read_timeout=read_timeout, **options)


def eventually(url: str, **options: Any) -> LiveSource:
    """A connection to a server that is only starting."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return connect(url, **options)
        except SourceLost:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def through(camera: Camera, proxy: TcpProxy, path: str) -> str:
    return camera.url(path).replace(f":{camera.port}/", f":{proxy.port}/")


def digest(picture: av.VideoFrame) -> str:
    return hashlib.sha1(b"".join(p.tobytes() for p in planes_of(picture))).hexdigest()


def pictures_of(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [digest(picture) for picture in container.decode(video=0)]


class Seen:
    """What came from a source until there were `frames` of it."""

    def __init__(self, source: LiveSource, frames: int) -> None:
        self.pictures: list[str] = []
        self.packets: dict[str, list[av.Packet[Any]]] = {"video": [], "audio": []}
        for packet in source.packets():
            self.packets[packet.stream.type].append(packet)
            if packet.stream is source.video:
                self.pictures += map(digest, source.video.codec_context.decode(packet))
            if len(self.pictures) >= frames:
                break

    def check_times(self) -> None:
        for packets in self.packets.values():
            dts = [packet.dts for packet in packets]
            assert None not in dts
            assert dts == sorted(set(dts))  # type: ignore[type-var]
            for packet in packets:
                assert packet.pts is not None
                assert packet.dts is not None
                assert packet.pts >= packet.dts


def in_order(pictures: list[str], all_pictures: list[str]) -> bool:
    """Whether these are pictures of a looped clip, none left out."""
    begin = all_pictures.index(pictures[0])
    return all(p == all_pictures[(begin + n) % FRAMES] for n, p in enumerate(pictures))


# What comes


@pytest.mark.parametrize("transport", ["tcp", "udp", "auto"])
def test_rtsp_gives_the_frames_and_the_sound_of_the_file(
    camera: Camera, clip: Path, transport: Transport
) -> None:
    with connect(camera.url("/clip"), transport=transport) as source:
        assert source.info.name == "gate"
        assert (source.info.codec, source.info.width, source.info.height) == ("h264", 160, 96)
        assert source.info.pixel_format == "yuv420p"
        assert source.info.frame_rate == RATE
        assert source.info.duration is None
        assert source.audio is not None
        seen = Seen(source, FRAMES - 2)
    assert seen.pictures == pictures_of(clip)[: len(seen.pictures)]
    assert seen.packets["video"][0].is_keyframe
    seen.check_times()
    with av.open(str(clip)) as container:
        sound = [bytes(p) for p in container.demux(audio=0) if p.size]
    heard = [bytes(p) for p in seen.packets["audio"]]
    assert len(heard) > 20
    assert heard == (sound * 2)[: len(heard)]  # it is looped


def test_times_are_those_of_the_file_though_the_first_comes_without(
    camera: Camera, clip: Path
) -> None:
    with connect(camera.url("/mute")) as source:
        assert source.audio is None
        times = [
            p.pts * p.time_base for p in Seen(source, 20).packets["video"] if p.pts is not None
        ]
    with av.open(str(clip)) as container:
        wanted = [p.pts * p.time_base for p in container.demux(video=0) if p.pts is not None]
    shifts = [float(a - b) for a, b in zip(times, wanted, strict=False)]
    assert max(shifts) - min(shifts) < 0.002
    assert len(shifts) >= 20


@pytest.mark.parametrize(
    ("path", "codec", "audio", "pixel_format"),
    [
        ("/h265", "hevc", None, "yuv420p"),
        ("/mjpeg", "mjpeg", "pcm_mulaw", "yuvj420p"),
        ("/opus", "h264", "opus", "yuv420p"),
    ],
)
def test_codecs_of_cameras(
    camera: Camera, path: str, codec: str, audio: str | None, pixel_format: str
) -> None:
    with connect(camera.url(path)) as source:
        assert (source.info.codec, source.info.pixel_format) == (codec, pixel_format)
        assert (source.info.width, source.info.height) == (320, 192)
        assert source.info.frame_rate == 10
        assert (source.audio and source.audio.codec_context.name) == audio
        Seen(source, 5).check_times()


def test_rtsp_over_tls(clip: Path) -> None:
    require_gstreamer()
    with Camera({"/clip": Mount("file", path=clip)}, user="a", password="b", tls=True) as camera:
        assert camera.url("/clip").startswith("rtsps://")
        with connect(camera.url("/clip")) as source:
            seen = Seen(source, 10)
    assert seen.pictures == pictures_of(clip)[: len(seen.pictures)]


def test_frames_tell_when_they_were_made(camera: Camera) -> None:
    before = time.time()
    with connect(camera.url("/clock")) as source:
        times: list[float] = []
        for packet in source.packets():
            for picture in source.video.codec_context.decode(packet):
                rgb: Any = picture.to_ndarray(format="rgb24")
                times.append(read_clock(rgb))
                assert times[-1] <= time.time()
            if len(times) == 8:
                break
    assert times[0] > before - 1
    steps = np.diff(times)
    assert (steps > 0).all()


def test_mpegts_over_udp(clip: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    url = f"udp://127.0.0.1:{port}"
    with sending(clip, f"{url}?pkt_size=1316", "mpegts"), connect(url) as source:
        assert source.audio is not None
        seen = Seen(source, FRAMES)
    assert in_order(seen.pictures, pictures_of(clip))
    assert seen.packets["audio"]
    seen.check_times()


def test_mpegts_goes_on_where_datagrams_are_lost(clip: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with (
        UdpProxy(port, loss=0.1, seed=3) as proxy,
        sending(clip, f"udp://127.0.0.1:{proxy.port}?pkt_size=188", "mpegts"),
        connect(f"udp://127.0.0.1:{port}") as source,
    ):
        videos = (packet for packet in source.packets() if packet.stream is source.video)
        assert len(list(itertools.islice(videos, FRAMES))) == FRAMES
        assert proxy.counts["lost"]


def test_rtmp(clip: Path) -> None:
    with serving_rtmp(clip) as url, eventually(url) as source:
        assert source.audio is not None
        seen = Seen(source, FRAMES)
    assert in_order(seen.pictures, pictures_of(clip))
    seen.check_times()


def test_hls_comes_in_real_time_though_it_is_read_in_pieces(clip: Path, tmp_path: Path) -> None:
    options = {"hls_time": "1", "hls_list_size": "3", "hls_flags": "delete_segments"}
    playlist = tmp_path / "live.m3u8"
    with (
        sending(clip, str(playlist), "hls", options),
        serving_folder(tmp_path) as url,
        eventually(f"{url}/live.m3u8") as source,
    ):
        begin = time.monotonic()
        seen = Seen(source, FRAMES)
        took = time.monotonic() - begin
    assert in_order(seen.pictures, pictures_of(clip))
    seen.check_times()
    assert took > 0.7 * FRAMES / RATE


def test_jpegs_over_http_get_the_time_of_their_arrival() -> None:
    jpegs = []
    for number in range(5):
        data = io.BytesIO()
        Image.fromarray(moving_shapes(number, 160, 96)).save(data, "JPEG")
        jpegs.append(data.getvalue())
    with serving_jpegs(jpegs, fps=10) as url, connect(url) as source:
        assert (source.info.codec, source.info.width, source.info.height) == ("mjpeg", 160, 96)
        assert source.info.frame_rate is None
        begin = time.monotonic()
        seen = Seen(source, 12)
        took = time.monotonic() - begin
    packets = seen.packets["video"]
    assert [bytes(p) for p in packets] == [jpegs[n % 5] for n in range(12)]
    seen.check_times()
    assert source.info.time_base == packets[-1].time_base
    assert (packets[-1].pts or 0) * packets[-1].time_base == pytest.approx(took, abs=0.5)


# Files


def test_a_file_comes_in_real_time_and_ends(clip: Path) -> None:
    begin = time.monotonic()
    with connect(clip) as source:
        seen = Seen(source, FRAMES + 1)
    assert time.monotonic() - begin > 0.9 * FRAMES / RATE
    assert len(seen.packets["video"]) == FRAMES
    seen.check_times()


def test_a_looped_file_goes_on_as_one(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "short.mp4", frames=6, audio="aac", options={"bf": "2"})
    with connect(path, loop=True) as source:
        seen = Seen(source, 20)
        video = source.video
        assert all(p.stream is video for p in seen.packets["video"])
    expected = pictures_of(path)
    assert seen.pictures == (expected * 4)[: len(seen.pictures)]
    seen.check_times()
    pts = sorted(p.pts * p.time_base for p in seen.packets["video"] if p.pts is not None)
    steps = {b - a for a, b in itertools.pairwise(pts)}
    assert min(steps) == Fraction(1, RATE)
    assert max(steps) < Fraction(3, RATE)  # the sound may be some longer than the video


def test_sound_that_is_stored_far_ahead_waits_for_its_time(gap: Path) -> None:
    with av.open(str(gap)) as container:
        stored = [float(p.dts * p.time_base) for p in container.demux() if p.dts is not None]
    assert stored != sorted(stored)
    with connect(gap) as source:
        packets = list(itertools.islice(source.packets(), 40))
    times = [float((p.dts or 0) * p.time_base) for p in packets]
    assert times == sorted(times)
    assert sum(p.stream is source.video for p in packets) > 10


def test_a_file_without_times_is_counted(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "raw.h264", frames=10, container="h264", options={"bf": "0"})
    begin = time.monotonic()
    with connect(path) as source:
        seen = Seen(source, 11)
    seen.check_times()
    assert len(seen.packets["video"]) == 10
    assert time.monotonic() - begin > 0.3


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        connect(tmp_path / "no.mp4")
    (tmp_path / "text.txt").write_text("no video")
    with pytest.raises(DecodeError):
        connect(tmp_path / "text.txt")


# Closing


def test_connections_leave_nothing_open(camera: Camera) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def use_all() -> None:
        with connect(camera.url("/clock"), transport="udp") as source:
            next(iter(source.packets()))
        reason_of(camera.url("/nowhere"))
        reason_of(f"rtsp://127.0.0.1:{free_port()}/x")

    use_all()
    before, threads = descriptors(), threading.active_count()
    for _ in range(3):
        use_all()
    assert descriptors() == before
    assert threading.active_count() == threads


def close_while_reading(source: LiveSource) -> None:
    """Close from here while another thread waits for packets; it must end soon."""
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in source.packets():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    time.sleep(1.5)  # it has read all there is by now
    source.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert errors == []
    assert list(source.packets()) == []


def test_close_ends_a_read_that_waits_for_a_server(mortal: Camera) -> None:
    source = connect(mortal.url("/clock"), read_timeout=1e6)
    mortal.pause()
    close_while_reading(source)


def test_close_ends_the_wait_for_the_next_frame_of_a_file(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "slow.mp4", frames=2, pts=[0, 10**6], options={"bf": "0"})
    close_while_reading(connect(path))


def test_close_ends_a_wait_for_datagrams(clip: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with sending(clip, f"udp://127.0.0.1:{port}?pkt_size=1316", "mpegts"):
        source = connect(f"udp://127.0.0.1:{port}", read_timeout=1e6)
    close_while_reading(source)


def test_a_close_from_elsewhere_leaves_the_streams_to_who_is_about_to_read_them(clip: Path) -> None:
    source = connect(clip)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join()
    media = Media(source.info, source.video, source.audio)  # would be of freed memory
    assert media.has_audio == (source.audio is not None)
    assert list(source.packets()) == []
    with pytest.raises(AssertionError, match="not open"):
        list(source.container.demux())


# How it fails


def reason_of(url: str, **options: Any) -> str:
    with pytest.raises(SourceLost) as caught:
        connect(url, **options).close()
    return clean(caught.value, url)


def clean(error: BaseException, url: str) -> str:
    """The error's words, once nothing in its chain repeats the password of the address."""
    secret = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    chain, told = error, []
    while chain is not None:
        told.append(f"{chain} {chain!r}")
        chain = chain.__cause__  # type: ignore[assignment]
    for spelling in {secret, unquote(secret)} - {""}:
        assert spelling not in " ".join(told)
    assert "\n" not in str(error)
    return str(error)


def test_a_wrong_password_is_told_as_such(camera: Camera) -> None:
    assert "(401)" in reason_of(camera.url("/clock", password="wr0ngpass"))
    assert "(401)" in reason_of(camera.url("/clock", user=""))


def test_a_wrong_path_is_told_as_such(camera: Camera) -> None:
    assert "(404)" in reason_of(camera.url("/nowhere"))


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "http"])
def test_what_cannot_be_reached_is_told_as_such(scheme: str) -> None:
    url = f"{scheme}://u:pa55word@127.0.0.1:{free_port()}/x"
    assert "refuses connections" in reason_of(url)
    assert "there is no host nowhere.invalid" in reason_of(f"{scheme}://u:pa55@nowhere.invalid/x")


def test_a_page_that_is_not_there(tmp_path: Path) -> None:
    with serving_folder(tmp_path) as url:
        assert "(404)" in reason_of(f"{url}/live.m3u8")
        (tmp_path / "page.html").write_text("<html>" * 1000)
        assert "no video stream" in reason_of(f"{url}/page.html")


def test_a_file_without_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "tone.ts"), "w") as out:
        sound: Any = out.add_stream("aac", rate=48000)
        tone = np.zeros((1, 48000), np.float32)
        frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        frame.sample_rate, frame.pts = 48000, 0
        out.mux([*sound.encode(frame), *sound.encode(None)])
    with serving_folder(tmp_path) as url:
        assert "has no video" in reason_of(f"{url}/tone.ts")


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp", "http"])
def test_garbage_is_no_stream(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as client:
                client.recv(1024)
                client.sendall(random.Random(1).randbytes(100_000))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        reason_of(f"{scheme}://u:pa55word@127.0.0.1:{server.getsockname()[1]}/x")
        thread.join(PATIENCE)


def test_endless_garbage_does_not_keep_the_processor_busy() -> None:
    """FFmpeg looks at each byte of it, and takes the interpreter's lock for that."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as client, contextlib.suppress(OSError):
                while True:
                    client.sendall(b"x" * 65536)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        begin, busy = time.monotonic(), time.thread_time()
        url = f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"
        assert "within 3 s" in reason_of(url, connect_timeout=3.0)
        assert time.thread_time() - busy < 0.5 * (time.monotonic() - begin)
        thread.join(PATIENCE)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "rtmp", "http"])
def test_a_server_that_says_nothing_is_given_up(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"{scheme}://u:pa55word@127.0.0.1:{server.getsockname()[1]}/x"
        assert "within 0.5 s" in reason_of(url, connect_timeout=0.5)


def test_nothing_comes_by_udp() -> None:
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    assert "within 0.5 s" in reason_of(url, connect_timeout=0.5)


def lost(source: LiveSource, then: Callable[[], object]) -> str:
    """Read some packets, let something happen, and read on: why it ended."""
    packets = source.packets()
    assert len(list(itertools.islice(packets, 5))) == 5
    then()
    with pytest.raises(SourceLost) as caught:
        collections.deque(packets, maxlen=0)
    source.close()
    return clean(caught.value, source.address.raw)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_server_that_hangs_counts_as_lost(mortal: Camera, transport: Transport) -> None:
    source = connect(mortal.url("/clock"), read_timeout=1.0, transport=transport)
    assert "sent no video for 1 s" in lost(source, mortal.pause)
    assert "within 1 s" in reason_of(mortal.url("/clock"), connect_timeout=1.0)


def test_sound_without_video_counts_as_lost(camera: Camera) -> None:
    source = connect(camera.url("/gap"), read_timeout=1.0)
    heard: list[float] = []
    with pytest.raises(SourceLost, match="sent no video for 1 s"):
        heard.extend(float((p.pts or 0) * p.time_base) for p in source.packets())
    source.close()
    assert max(heard) > 1.5  # sound of the time without video


def test_a_server_that_dies_is_lost_and_comes_back(mortal: Camera) -> None:
    assert "ended" in lost(connect(mortal.url("/clock")), mortal.kill)
    assert "refuses connections" in reason_of(mortal.url("/clock"))
    mortal.restart()
    with connect(mortal.url("/clock")) as source:
        assert len(Seen(source, 3).pictures) == 3


def test_a_camera_that_changes_its_codec_is_lost_and_comes_back_as_another(
    mortal: Camera,
) -> None:
    other = Mount(codec="h265", width=256, height=160)
    lost(connect(mortal.url("/clock")), lambda: mortal.switch("/clock", other))
    with connect(mortal.url("/clock")) as source:
        assert (source.info.codec, source.info.width) == ("hevc", 256)


@pytest.mark.parametrize("what", ["reset", "hang_up"])
def test_a_connection_that_breaks(camera: Camera, what: str) -> None:
    with TcpProxy(camera.port) as proxy:
        source = connect(through(camera, proxy, "/clock"))
        assert "ended" in lost(source, getattr(proxy, what))


def test_garbage_within_a_stream_does_not_hang(camera: Camera) -> None:
    with TcpProxy(camera.port) as proxy:
        source = connect(through(camera, proxy, "/clock"), read_timeout=2.0)
        noise = random.Random(2).randbytes(50_000)
        end = threading.Timer(3, proxy.hang_up)  # where it goes on in spite of that

        def disturb() -> None:
            proxy.inject(noise)
            end.start()

        lost(source, disturb)
        end.join(PATIENCE)
        assert proxy.counts["bytes injected"] == len(noise)


# Addresses

KINDS = [
    ("rtsp://cam/live", "rtsp"),
    ("rtsps://cam:322/live", "rtsp"),
    ("RTSP://cam/live", "rtsp"),
    ("rtmp://host/app/key", "rtmp"),
    ("rtmps://host/app/key", "rtmp"),
    ("http://host/x.m3u8?token=1", "hls"),
    ("https://host/video.mjpg", "http"),
    ("udp://@239.0.0.1:5000", "udp"),
    ("udp://:5000", "udp"),
    ("srt://host:9000", "srt"),
    ("usb:0", "usb"),
    ("videos/a.mp4", "file"),
    ("/videos/a.mp4", "file"),
    ("file:///videos/a%20b.mp4", "file"),
]


@pytest.mark.parametrize(("text", "kind"), KINDS)
def test_kinds_of_addresses(text: str, kind: str) -> None:
    assert Address(text).kind == kind


def test_the_path_of_a_file() -> None:
    assert Address("file:///videos/a%20b.mp4").path == Path("/videos/a b.mp4")
    assert Address("videos/a.mp4").path == Path("videos/a.mp4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("rtsp://cam/a\nb", "control character"),
        ("ftp://host/a.mp4", "ftp://"),
        ("rtsp:///live", "no host"),
        ("udp://127.0.0.1", "no port"),
        ("rtsp://u:pass#1@cam/live", "%23"),
        ("rtsp://cam:99999/live", "host and port"),
        ("rtsp://[::1/live", "host and port"),
    ],
)
def test_addresses_that_can_never_work(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address(text)
    assert words in str(caught.value)
    assert "pass#1" not in str(caught.value)


SHOWN = [
    ("rtsp://cam:554/live", "rtsp://cam:554/live"),
    ("rtsp://u@cam/live", "rtsp://u@cam/live"),
    ("rtsp://u:p@cam/live", "rtsp://u:***@cam/live"),
    ("rtsp://u:p@ss/w?o#rd@cam:554/live", "rtsp://u:***@cam:554/live"),
    ("rtsp://cam/x?channel=1&subtype=0", "rtsp://cam/x?channel=1&subtype=0"),
    ("rtsp://cam/x?channel=1&token=abc", "rtsp://cam/x?channel=1&token=***"),
    ("https://host/x.m3u8?abc", "https://host/x.m3u8?***"),
    ("rtmp://u:p@host/app/key", "rtmp://u:***@host/app/***"),
    ("rtmps://host:443/app/live/key?x=1", "rtmps://host:443/app/***?x=***"),
    ("rtmp://host//key", "rtmp://host//***"),
    ("rtmp://host/app", "rtmp://host/app"),
    ("https://host/x?key=a=b==&t=1#abc", "https://host/x?key=***&t=***#***"),
    (
        "rtsp://cam/user=admin_password=tlJw_channel=1_stream=0.sdp?real_stream",
        "rtsp://cam/user=admin_password=***_channel=1_stream=0.sdp?real_stream",
    ),
    ("/videos/a@b:c?d=e", "/videos/a@b:c?d=e"),
]


@pytest.mark.parametrize(("text", "expected"), SHOWN)
def test_what_is_shown_of_an_address(text: str, expected: str) -> None:
    address = Address.__new__(Address)
    address.raw = text
    assert shown(text) == str(address) == expected
    assert shown(expected) == expected
    told = without_secrets(f"[tcp] cannot open '{text}': Server returned 401", text)
    assert told == f"[tcp] cannot open '{expected}': Server returned 401"


word = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=20)


def assert_hidden(told: str, *secrets: str) -> None:
    assert not [secret for secret in secrets if secret in told]


@given(password=word, token=word.filter(lambda t: not set(t) & set("&#@")))
def test_no_message_tells_a_password_or_a_token(password: str, token: str) -> None:
    secret, hidden = f"Zq{password}", f"Xw{token}"  # found nowhere else in the text
    text = f"rtsp://admin:{secret}@10.0.0.5:554/live?channel=2&auth={hidden}"
    try:
        address = Address(text)
    except ConfigError as refusal:
        assert_hidden(str(refusal), secret, hidden)
        return
    message = f"{text} and {secret} and {hidden} and {text[:-3]} and again '{text}'"
    for told in (str(address), repr(address), without_secrets(message, address)):
        assert_hidden(told, secret, hidden)
    assert "admin" in str(address)
    assert "10.0.0.5:554" in str(address)


def test_short_passwords_leave_words_alone() -> None:
    told = without_secrets("a timeout after 1 try as a", "rtsp://u:a@cam/live")
    assert told == "*** timeout after 1 try as ***"


# Times and waiting


def packets_at(*times: tuple[int | None, int | None]) -> tuple[Any, list[av.Packet[Any]]]:
    """A stream of 25 frames a second, and packets with these pts and dts in 1/90000 s."""
    out = av.open(io.BytesIO(), "w", format="matroska")
    stream = out.add_stream("libx264", rate=25)
    packets = []
    for pts, dts in times:
        packet: av.Packet[Any] = av.Packet(b"x")
        packet.stream, packet.time_base = stream, Fraction(1, 90_000)
        packet.pts, packet.dts = pts, dts
        packets.append(packet)
    return stream, packets


def test_a_clock_that_goes_back_is_a_lost_source() -> None:
    stream, packets = packets_at((0, 0), (90_000, 90_000), (89_000, 89_000), (-500_000, -500_000))
    times = Times("rtsp://cam/live", stream)
    for packet in packets[:3]:
        assert times.mend(packet) == [packet]
    assert (packets[2].pts, packets[2].dts) == (90_001, 90_001)  # a little disorder is mended
    with pytest.raises(SourceLost, match="rtsp://cam/live went back in time by 6"):
        times.mend(packets[3])


def test_a_stream_without_any_times_is_counted() -> None:
    stream, packets = packets_at(*[(None, None)] * 10)
    times = Times("x", stream)
    ready = [done for packet in packets for done in times.mend(packet)] + times.mend(None)
    assert ready == packets
    assert [p.pts for p in packets] == [3600 * n for n in range(10)]


class Slept(threading.Event):
    """An event that nobody sets, on a clock that goes only while somebody waits for it."""

    now = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0
        return False


def latest(pace: Pace, closed: Slept, packet: av.Packet[Any]) -> float:
    """How late, in s, the latest packet came of ten minutes in pieces of 2 s, each sent as soon as
    it is whole, by a clock that gains 2 %."""
    delays = []
    for number in range(25 * 600):
        packet.pts = packet.dts = number * 3600
        arrived = (number // 50 + 1) * 2 / 1.02
        closed.now = max(closed.now, arrived)
        pace.keep(packet)
        delays.append(closed.now - arrived)
    return max(delays)


def test_a_stream_of_a_fast_clock_does_not_come_later_and_later() -> None:
    _, (packet,) = packets_at((0, 0))
    closed = Slept()
    assert latest(Pace(closed, clock=lambda: closed.now), closed, packet) > 10
    closed = Slept()
    pace = Pace(closed, speed=1.05, late=0.0, longest=10, clock=lambda: closed.now)
    assert latest(pace, closed, packet) < 2


def test_a_file_of_few_frames_keeps_its_time() -> None:
    _, (packet,) = packets_at((0, 0))
    closed = Slept()
    pace = Pace(closed, clock=lambda: closed.now)
    for number in range(100):  # one in 5 s
        packet.pts = packet.dts = number * 450_000
        pace.keep(packet)
        assert closed.now == pytest.approx(5 * number)
    closed.now += 1000  # the process was stopped
    for late in (0, 5):
        packet.pts = packet.dts = (500 + late) * 90_000
        pace.keep(packet)
        assert closed.now == pytest.approx(495 + 1000 + late)


def failure(cause: BaseException | None) -> SourceLost:
    error = SourceLost("lost")
    error.__cause__ = cause
    return error


class Highest(random.Random):
    """Draws the largest number each time."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_waits_double_up_to_a_bound_that_the_error_decides() -> None:
    refused = failure(av.error.ConnectionRefusedError(111, "refused"))
    denied = failure(av.error.HTTPUnauthorizedError(401, "no"))
    quick = Backoff(rng=Highest())
    assert [quick.after(refused) for _ in range(5)] == [0.25, 0.5, 1, 1.5, 1.5]
    assert quick.after(denied) == 8  # the count goes on
    assert Backoff(rng=Highest()).after(denied) == 0.25
    slow = Backoff(rng=Highest())
    assert [slow.after(denied) for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]
    assert slow.after(refused) == 1.5
    assert [Backoff().after(failure(None)) <= 0.25 for _ in range(20)] == [True] * 20


def test_waits_are_spread_and_repeatable() -> None:
    waits = [Backoff(rng=random.Random(seed)).after(failure(None)) for seed in range(100)]
    assert waits == [Backoff(rng=random.Random(seed)).after(failure(None)) for seed in range(100)]
    assert min(waits) < 0.05
    assert max(waits) > 0.2


def test_a_connection_that_lasts_begins_the_count_anew() -> None:
    now = 0.0
    backoff = Backoff(rng=Highest(), lasting=10, clock=lambda: now)
    for _ in range(6):
        backoff.after(failure(None))
    backoff.connected()
    now += 9
    assert backoff.after(failure(None)) == 1.5
    backoff.connected()
    now += 10
    assert backoff.after(failure(None)) == 0.25
    backoff.after(failure(None))
    backoff.reset()
    assert backoff.after(failure(None)) == 0.25


def test_a_backoff_of_years_does_not_overflow() -> None:
    backoff = Backoff()
    for _ in range(5000):
        assert backoff.after(failure(None)) <= 1.5


def test_pictures_are_worth_more_than_a_sound_that_nothing_can_hold(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(self: Adts, sound: object) -> None:
        raise ValueError("there is no such layout")

    monkeypatch.setattr(Adts, "__init__", unknown)
    port = free_port(socket.SOCK_DGRAM)
    url = f"udp://127.0.0.1:{port}"
    with sending(clip, f"{url}?pkt_size=1316", "mpegts"), connect(url) as source:
        assert source.audio is None
        packets = list(itertools.islice(source.packets(), FRAMES))
        assert {packet.stream for packet in packets} == {source.video}


def test_sound_of_mpeg_ts_fits_files_that_are_written_as_they_grow(tmp_path: Path) -> None:
    """Its packets have headers of their own, which a fragmented MP4 cannot take."""
    clip = tmp_path / "in.ts"
    with av.open(str(FACE)) as file, av.open(str(clip), "w", format="mpegts") as ts:
        both = (file.streams.video[0], file.streams.audio[0])
        streams: dict[Any, Any] = {s: ts.add_stream_from_template(s) for s in both}
        for packet in file.demux(*streams):
            if packet.dts is not None and packet.dts * packet.time_base < 1.5:
                packet.stream = streams[packet.stream]
                ts.mux(packet)
    with av.open(str(clip)) as file:
        told = [frame.to_ndarray() for frame in file.decode(audio=0)]
    grown = io.BytesIO()
    with (
        LiveSource(Address(str(clip)), name="a") as source,
        av.open(grown, "w", format="mp4", options={"movflags": "empty_moov+frag_keyframe"}) as out,
    ):
        to = Media(source.info, source.video, source.audio).add_to(out)
        out.start_encoding()
        for packet in source.packets():
            assert packet.pts is not None
            assert packet.dts is not None
            kind: Literal["video", "audio"] = "video" if packet.stream is source.video else "audio"
            base = packet.time_base / CLOCK
            packet.pts, packet.dts = round(packet.pts * base), round(packet.dts * base)
            packet.time_base = CLOCK
            out.mux(Sample(packet, kind, packet.pts, packet.dts).copy(to[kind], 0))
    grown.seek(0)
    with av.open(grown, "r") as file:
        kept = [frame.to_ndarray() for frame in file.decode(audio=0)]
    assert len(told) > 50
    assert np.array_equal(np.hstack(kept), np.hstack(told))
