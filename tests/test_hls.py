"""Live video is what was encoded, for FFmpeg's own HLS player and by the rules of RFC 8216."""

from __future__ import annotations

import http.server
import io
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.container import InputContainer

from tests.live.packets import (
    NOON,
    SECOND,
    Feed,
    assert_balanced,
    camera_clip,
    feed_of,
    give,
    give_samples,
    place_in,
    random_life,
)
from vidai.errors import SinkError
from vidai.live.events import Events
from vidai.live.outputs import hls
from vidai.live.outputs.hls import Hls, Options


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """6 s with a keyframe a second, and sound."""
    return feed_of(camera_clip(tmp_path_factory.mktemp("feed") / "c.mp4", 6, audio="aac"))


def opened(folder: Path, **options: Any) -> tuple[Hls, Events]:
    place, events = place_in(folder)
    return hls.open(Options.model_validate(options), place), events


@contextmanager
def served(output: Hls) -> Iterator[str]:
    """The address of its master playlist, on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = output.part(self.path.lstrip("/"))
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/index.m3u8"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


def opened_by_player(url: str, **options: str) -> InputContainer:
    more = {"live_start_index": "0", "http_persistent": "0", **options}
    return av.open(url, options=more, timeout=30)


def played(output: Hls) -> dict[str, list[tuple[Fraction, Fraction, bytes]]]:
    """What FFmpeg's player gets of a closed output: pts and dts in s, and data, by kind."""
    found: dict[str, list[tuple[Fraction, Fraction, bytes]]] = {"video": [], "audio": []}
    with served(output) as url, opened_by_player(url) as container:
        for packet in container.demux():
            if packet.size and packet.pts is not None and packet.dts is not None:
                base = packet.stream.time_base
                assert base is not None
                times = packet.pts * base, packet.dts * base
                found[packet.stream.type].append((*times, bytes(packet)))
    return found


def live(output: Hls) -> str:
    data = output.part("live.m3u8")
    assert data is not None
    return data.decode()


def tags(playlist: str, tag: str) -> list[str]:
    return re.findall(rf"^#{tag}:(.*)$", playlist, re.MULTILINE)


def names(playlist: str) -> list[str]:
    return re.findall(r"^[^#].*$", playlist, re.MULTILINE)


@pytest.mark.parametrize(
    ("codec", "audio", "bframes", "codecs"),
    [
        ("libx264", "aac", 0, r"avc1\.[0-9a-f]{6},mp4a\.40\.2"),
        ("libx264", None, 2, r"avc1\.[0-9a-f]{6}"),
        ("libx264", "libopus", 0, r"avc1\.[0-9a-f]{6},opus"),
        ("libx265", None, 0, r"hvc1\.1\.6\.L30(\.[0-9A-F]+)+"),
        ("libsvtav1", None, 0, r"av01\.0\.00M\.08"),
    ],
)
def test_a_player_gets_every_packet_at_its_time(
    codec: str, audio: str | None, bframes: int, codecs: str, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"options": {"bf": str(bframes)}}
    if codec == "libx265":
        more["options"] = {"x265-params": "log-level=none:keyint=25:bframes=0:open-gop=0"}
    elif codec == "libsvtav1":
        more["options"] = {"svtav1-params": "keyint=25:pred-struct=1"}
    feed = feed_of(camera_clip(tmp_path / "c.mp4", 4, codec=codec, audio=audio, **more))
    output, _ = opened(tmp_path, segments=60)
    give(output, feed)
    output.close()
    assert re.fullmatch(codecs, output.codecs)
    found = played(output)
    origin = Fraction(NOON) - found["video"][0][0] + Fraction(feed.video[0].pts, SECOND) - NOON
    for kind, samples in (("video", feed.video), ("audio", feed.audio)):
        assert [data for *_, data in found[kind]] == [bytes(s.packet) for s in samples]
        for (pts, _, _), sample in zip(found[kind], samples, strict=True):
            assert abs(pts + origin - Fraction(sample.pts, SECOND)) < Fraction(1, 10_000)
    assert output.status().delivered == len(feed.samples)


def test_frames_decode_as_they_were_encoded(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=60)
    give(output, feed)
    output.close()
    with served(output) as url, opened_by_player(url) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(frames) == 150
    assert not np.array_equal(frames[0], frames[-1])


def test_the_playlist_obeys_the_rules(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=3)
    output.begin(feed.media)
    assert output.part("live.m3u8") is None
    seen: dict[str, int] = {}
    for sample in feed.samples:
        output.sample(sample)
        if output.part("live.m3u8") is None:
            continue
        playlist = live(output)
        (first,) = map(int, tags(playlist, "EXT-X-MEDIA-SEQUENCE"))
        for number, name in enumerate(names(playlist), first):
            assert seen.setdefault(name, number) == number
            assert output.part(name)
    assert sorted(seen.values()) == list(range(5))  # the sixth ends when the video does
    output.end()
    playlist = live(output)
    assert playlist.startswith("#EXTM3U\n#EXT-X-VERSION:7\n")
    assert len(names(playlist)) == 3
    assert tags(playlist, "EXT-X-MEDIA-SEQUENCE") == ["3"]
    assert tags(playlist, "EXT-X-TARGETDURATION") == ["1"]
    assert tags(playlist, "EXTINF") == ["1.00000,"] * 3
    assert tags(playlist, "EXT-X-PROGRAM-DATE-TIME") == [
        f"2026-01-31T12:00:0{n}.000Z" for n in (3, 4, 5)
    ]
    assert "#EXT-X-INDEPENDENT-SEGMENTS" in playlist
    assert "#EXT-X-ENDLIST" not in playlist
    assert "#EXT-X-DISCONTINUITY\n" not in playlist
    (start,) = tags(playlist, "EXT-X-MAP")
    assert output.part(start.removeprefix('URI="').removesuffix('"'))
    assert output.part("nothing.m4s") is None


def test_the_master_tells_codecs_and_size(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path)
    assert "live.m3u8" in output.playlist()
    give(output, feed)
    master = output.playlist()
    (stream,) = tags(master, "EXT-X-STREAM-INF")
    assert f'CODECS="{output.codecs}"' in stream
    assert "RESOLUTION=64x48" in stream
    peak = int(re.search(r"(?<!-)BANDWIDTH=(\d+)", stream)[1])  # type: ignore[index]
    sizes = [len(output.part(name) or b"") * 8 for name in names(live(output))]
    assert peak >= max(sizes)
    assert output.part("index.m3u8") == master.encode()


def test_another_size_is_a_discontinuity_with_its_own_beginning(tmp_path: Path, feed: Feed) -> None:
    other = feed_of(camera_clip(tmp_path / "o.mp4", 3, width=96, height=64), NOON + 8)
    output, _ = opened(tmp_path, segments=60)
    give(output, feed)
    output.end()
    give(output, other)
    output.close()
    playlist = live(output)
    assert playlist.count("#EXT-X-DISCONTINUITY\n") == 1
    assert len(set(tags(playlist, "EXT-X-MAP"))) == 2
    after = playlist.split("#EXT-X-DISCONTINUITY\n")[1]
    assert after.startswith("#EXT-X-MAP")
    assert tags(after, "EXT-X-PROGRAM-DATE-TIME")[0] == "2026-01-31T12:00:08.000Z"
    # FFmpeg's player reads only the first of the initial segments, so each is decoded by itself.
    sizes = []
    for part in playlist.split("#EXT-X-DISCONTINUITY\n"):
        start = tags(part, "EXT-X-MAP")[0].split('"')[1]
        data = b"".join(output.part(name) or b"" for name in (start, *names(part)))
        with av.open(io.BytesIO(data), "r") as container:
            sizes += [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == [(64, 48)] * 150 + [(96, 64)] * 75
    # The gap of 2 s is one in the segments' own times as well.
    times = [pts for pts, *_ in played(output)["video"]]
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) == Fraction(2) + Fraction(1, 25)
    assert gaps.index(max(gaps)) == 149
    assert set(gaps) - {max(gaps)} == {Fraction(1, 25)}


def test_discontinuities_that_have_left_are_counted(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=3)
    for n in range(6):
        give(output, feed.later(n * 6))
        output.end()
    playlist = live(output)
    (first,) = map(int, tags(playlist, "EXT-X-MEDIA-SEQUENCE"))
    assert first == 33
    assert tags(playlist, "EXT-X-DISCONTINUITY-SEQUENCE") == ["5"]
    assert "#EXT-X-DISCONTINUITY\n" not in playlist
    assert len(output._starts) <= 2  # with what was shown just before


def test_times_go_on_beyond_33_bits(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=60)
    give(output, feed)
    output.end()
    output.tick(NOON + 100)
    give(output, feed.later(40 * 86_400))
    output.close()
    found = played(output)["video"]
    assert len(found) == 150
    assert found[0][0] > Fraction(2**33, SECOND)
    assert {b[0] - a[0] for a, b in pairwise(found)} == {Fraction(1, 25)}
    assert tags(live(output), "EXT-X-PROGRAM-DATE-TIME")[0].startswith("2026-03-12T12:00:00")


def test_a_gap_without_an_end_begins_anew(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=60)
    give(output, feed)
    give_samples(output, feed.later(60).samples)
    output.close()
    playlist = live(output)
    assert playlist.count("#EXT-X-DISCONTINUITY\n") == 1
    assert tags(playlist, "EXTINF") == ["1.00000,"] * 12
    assert tags(playlist, "EXT-X-TARGETDURATION") == ["1"]


def test_slow_keyframes_make_longer_segments(tmp_path: Path) -> None:
    more = {"options": {"g": "60", "keyint_min": "60"}}
    feed = feed_of(camera_clip(tmp_path / "c.mp4", 6, **more))
    output, _ = opened(tmp_path, segments=60)
    give(output, feed)
    output.close()
    playlist = live(output)
    assert tags(playlist, "EXTINF") == ["2.40000,", "2.40000,", "1.20000,"]
    assert tags(playlist, "EXT-X-TARGETDURATION") == ["2"]
    assert [data for *_, data in played(output)["video"]] == [bytes(s.packet) for s in feed.video]


def test_fast_keyframes_are_put_together(tmp_path: Path) -> None:
    feed = feed_of(camera_clip(tmp_path / "c.mp4", 4, options={"g": "5", "keyint_min": "5"}))
    output, _ = opened(tmp_path, segments=60)
    give(output, feed)
    output.close()
    assert tags(live(output), "EXTINF") == ["1.00000,"] * 4


def test_a_video_without_keyframes_is_cut_all_the_same(tmp_path: Path) -> None:
    more = {"options": {"g": "9999", "keyint_min": "9999"}}
    feed = feed_of(camera_clip(tmp_path / "c.mp4", 25, **more))
    output, _ = opened(tmp_path, segments=60)
    give(output, feed)
    output.close()
    playlist = live(output)
    assert [float(t.rstrip(",")) for t in tags(playlist, "EXTINF")] == [10, 10, 5]
    assert "#EXT-X-INDEPENDENT-SEGMENTS" not in playlist


def test_memory_is_bounded(tmp_path: Path) -> None:
    def noise(index: int) -> npt.NDArray[np.uint8]:
        return np.random.default_rng(index).integers(0, 255, (240, 320, 3), np.uint8)

    feed = feed_of(camera_clip(tmp_path / "c.mp4", 6, width=320, height=240, draw=noise))
    assert sum(s.packet.size for s in feed.samples) > 3_000_000
    output, _ = opened(tmp_path, segments=60, memory_mb=4)
    give(output, feed)
    assert 0 < output.status().waiting_bytes <= 2_000_000
    assert 1 <= len(names(live(output))) < 5
    output.close()

    output, _ = opened(tmp_path, segments=60, memory_mb=1)  # a segment has more than half
    output.begin(feed.media)
    give_samples(output, feed.samples)
    output.close()
    assert output.status().lost["keyframes too far apart for the memory"] > 0
    assert output.status().waiting == 0
    # What is believed to be in memory is: else there would be less and less room, over months.
    assert output._size == sum(map(len, output._starts.values())) + sum(
        len(segment.data) for segment in output._segments
    )


def test_it_is_wanted_while_somebody_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("vidai.live.outputs.hls.time.monotonic", lambda: now)
    output, _ = opened(tmp_path)
    assert not output.wanted
    for ask in (output.playlist, output.touch, lambda: output.part("live.m3u8")):
        now += 100
        assert not output.wanted
        ask()
        now += 29
        assert output.wanted
    always, _ = opened(tmp_path, always=True)
    assert always.wanted


def test_what_is_old_is_not_shown_as_live(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=3)
    give(output, feed)
    output.end()
    output.tick(NOON + 30)
    assert len(names(live(output))) == 3
    output.tick(NOON + 60)
    assert output.part("live.m3u8") is None
    give(output, feed.later(100))
    playlist = live(output)
    assert tags(playlist, "EXT-X-MEDIA-SEQUENCE") == ["8"]
    assert tags(playlist, "EXT-X-DISCONTINUITY-SEQUENCE") == ["1"]


def test_a_player_follows_the_live_video(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=60)
    keyframes = [i for i, s in enumerate(feed.samples) if s.kind == "video" and s.is_keyframe]
    output.begin(feed.media)
    give_samples(output, feed.samples[: keyframes[3] + 10])

    def go_on() -> None:
        for begin, end in pairwise([*keyframes[3:], len(feed.samples)]):
            time.sleep(0.3)
            give_samples(output, feed.samples[begin + 10 : end + 10])
        output.close()

    thread = threading.Thread(target=go_on)
    with served(output) as url, opened_by_player(url) as container:
        thread.start()
        data = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        thread.join(30)
    assert data == [bytes(sample.packet) for sample in feed.video]


def test_mjpeg_is_refused_in_one_sentence(tmp_path: Path) -> None:
    feed = feed_of(camera_clip(tmp_path / "c.mov", 1, codec="mjpeg", pix_fmt="yuvj420p"))
    output, _ = opened(tmp_path, of="camera")
    with pytest.raises(SinkError, match="browsers do not play MJPEG"):
        output.begin(feed.media)
    give_samples(output, feed.samples)
    assert output.status().lost.total() == len(feed.samples)


def test_sound_that_mp4_cannot_hold_is_left_out_and_told(tmp_path: Path) -> None:
    feed = feed_of(camera_clip(tmp_path / "c.mov", 2, audio="pcm_mulaw"))
    output, events = opened(tmp_path)
    give(output, feed)
    output.close()
    assert [e.text for e in events.since()] == [
        "live video has no sound: MP4 cannot hold pcm_mulaw"
    ]
    assert output.status().delivered == len(feed.video)
    assert output.status().lost == {"MP4 cannot hold the sound": len(feed.audio)}


def test_sound_that_stays_away_holds_nothing_up(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path)
    output.begin(feed.media)
    give_samples(output, feed.video)
    assert len(names(live(output))) >= 4  # of 5: FFmpeg waits 1 s for the sound
    output.close()
    assert output.status().delivered == len(feed.video)


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_balanced_whatever_happens(seed: int, tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=3)
    random_life(output, feed, seed)
    if output.part("live.m3u8") is not None:
        assert "#EXT-X-ENDLIST" in live(output)


def test_many_threads_may_ask(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, segments=3)
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                for name in names((output.part("live.m3u8") or b"").decode()):
                    assert output.part(name), name  # parts outlive their place in the playlist
                assert_balanced(output)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(3):
            give(output, feed.later(6 * n))
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not failures
