"""Clips hold what was before and after a match, and appear whole or not at all."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.live.packets import (
    NOON,
    SECOND,
    Feed,
    assert_balanced,
    camera_clip,
    feed_of,
    frames_in,
    give_samples,
    payloads_in,
    place_in,
    random_life,
    times_in,
)
from tests.test_recording import file_limit, files_in
from vidai.errors import SinkError
from vidai.live.events import Event, Events
from vidai.live.outputs import clips
from vidai.live.outputs.clips import Clips, Options

DAY = "2026-01-31"


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """40 s with a keyframe a second, and sound."""
    return feed_of(camera_clip(tmp_path_factory.mktemp("feed") / "c.mp4", 40, audio="aac"))


def opened(folder: Path, **options: Any) -> tuple[Clips, Events]:
    place, events = place_in(folder)
    output = clips.open(Options.model_validate(options), place)
    events.listen(output.event)  # as the worker does: it hears of its own clips, too
    return output, events


def match(events: Events, second: float, rule: str = "gate") -> Event:
    return events.emit("rule", f"{rule}!", "door", rule=rule, record_time=NOON + second)


def play(
    output: Clips, feed: Feed, *at: tuple[float, Callable[[], Any]], until: float = math.inf
) -> None:
    """Give the samples, and call what is to happen at each second of them."""
    output.begin(feed.media)
    waiting = list(at)
    for sample in feed.samples:
        time = sample.dts / SECOND - NOON
        while waiting and time >= waiting[0][0]:
            waiting.pop(0)[1]()
        if time >= until:
            break
        output.sample(sample)
        assert_balanced(output)


def told(events: Events) -> list[Event]:
    return [event for event in events.since() if event.kind == "clip"]


def test_a_clip_begins_before_the_match_and_ends_after_it(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=3, after=2)
    play(output, feed, (20.5, lambda: match(events, 20)))
    (clip,) = told(events)
    assert clip.data["path"] == str(tmp_path / DAY / "12-00-17Z.clip.mp4")
    assert clip.data["rule"] == "gate"
    assert clip.data["events"] == [1]
    assert clip.data["seconds"] == 5
    video = [s for s in feed.video if NOON + 17 <= s.pts / SECOND < NOON + 22]
    assert payloads_in(clip.data["path"]) == [bytes(sample.packet) for sample in video]
    assert frames_in(clip.data["path"]) == 125
    audio = times_in(clip.data["path"], "audio")
    assert audio[0] < 0.1
    assert 4.8 < audio[-1] < 5
    output.close()
    assert output.status().lost.total() == 0
    assert output.status().delivered == len(feed.samples)


def test_a_browser_finds_the_index_in_front(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=1, after=1)
    play(output, feed, (20.5, lambda: match(events, 20)))
    data = Path(told(events)[0].data["path"]).read_bytes()
    assert data[4:8] == b"ftyp"
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(told(events)[0].data["path"]) as container:
        assert container.duration == pytest.approx(2_000_000, abs=50_000)


def test_the_picture_shows_the_match(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=3, after=2)
    play(output, feed, (19, lambda: match(events, 20.5)))  # before its packets came
    (clip,) = told(events)
    with av.open(clip.data["path"]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    shown = np.asarray(Image.open(clip.data["picture"]))
    assert clip.data["picture"] == str(Path(clip.data["path"]).with_suffix(".jpg"))
    differences = [np.abs(frame.astype(int) - shown).mean() for frame in frames[::25]]
    assert int(np.argmin(differences)) == 3  # the keyframe at 20 s, 3 s into the clip
    assert min(differences) < 6


def test_matches_prolong_a_clip_up_to_the_longest(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=1, after=3, longest=8)
    second = [(10.0, lambda: match(events, 10)), (12.0, lambda: match(events, 12, "yard"))]
    play(output, feed, *second)
    (clip,) = told(events)
    assert clip.data["seconds"] == 6  # 9 to 15
    assert clip.data["rules"] == ["gate", "yard"]
    assert clip.data["events"] == [1, 2]
    output.end()
    later = feed.later(100)
    times = [n + 100.0 for n in range(10, 32)]
    play(output, later, *((t, lambda t=t: match(events, t)) for t in times))
    output.close()
    found = told(events)[1:]
    assert [clip.data["seconds"] for clip in found[:2]] == [8, 8]
    assert sum(len(clip.data["events"]) for clip in found) == len(times)


def test_only_the_rules_that_were_named_make_clips(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, rules=["yard"], before=1, after=1)
    play(output, feed, (10, lambda: match(events, 10)), (20, lambda: match(events, 20, "yard")))
    assert [clip.data["rules"] for clip in told(events)] == [["yard"]]
    assert files_in(tmp_path) == [f"{DAY}/12-00-19Z.clip.jpg", f"{DAY}/12-00-19Z.clip.mp4"]


def test_nothing_is_seen_of_a_clip_until_it_is_finished(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=1, after=5)
    play(output, feed, (10, lambda: match(events, 10)), until=12)
    assert files_in(tmp_path) == [f"{DAY}/.12-00-09Z.clip.part.mp4"]
    opened(tmp_path)[0].close()  # another that starts meanwhile leaves it alone
    output.close()
    assert [name for name in files_in(tmp_path) if name.endswith(".mp4")] == [
        f"{DAY}/12-00-09Z.clip.mp4"
    ]
    assert frames_in(tmp_path / DAY / "12-00-09Z.clip.mp4") == 75


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / DAY).mkdir()
    for name in (".12-00-09Z.clip.part.mp4", ".my.clip.part.mp4", "12-00-09Z.part.mp4"):
        (tmp_path / DAY / name).write_text("half")
    opened(tmp_path)[0].close()
    assert files_in(tmp_path) == [f"{DAY}/.my.clip.part.mp4", f"{DAY}/12-00-09Z.part.mp4"]


def test_a_match_before_the_first_picture_waits_for_it(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=3, after=2)
    match(events, 0.5)
    play(output, feed)
    (clip,) = told(events)
    assert clip.data["seconds"] == 2.52
    output.end()
    match(events, 100)
    with pytest.raises(
        SinkError, match=r"gate matched at 2026-01-31T12:01:40.000Z, but no picture"
    ):
        output.tick(NOON + 120)
    output.tick(NOON + 130)


def test_a_stream_that_stalls_ends_its_clip(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=3, after=5)
    play(output, feed, (20, lambda: match(events, 20)), until=22)
    output.tick(NOON + 30)
    assert not told(events)
    output.tick(NOON + 36)
    assert [clip.data["seconds"] for clip in told(events)] == [pytest.approx(5, abs=0.05)]


def test_sound_that_mp4_cannot_hold_is_left_out_and_told(tmp_path: Path) -> None:
    feed = feed_of(camera_clip(tmp_path / "c.mov", 6, audio="pcm_mulaw"))
    output, events = opened(tmp_path / "kept", before=1, after=1)
    play(output, feed, (3, lambda: match(events, 3)))
    output.close()
    assert "clips have no sound: MP4 cannot hold pcm_mulaw" in [e.text for e in events.since()]
    assert output.status().lost["MP4 cannot hold the sound"] == len(feed.audio)
    assert frames_in(told(events)[0].data["path"]) == 50


def test_the_memory_is_bounded_by_time_and_bytes(tmp_path: Path, feed: Feed) -> None:
    output, _ = opened(tmp_path, before=2, after=1)
    play(output, feed)
    kept = 6 * SECOND  # 2 s, what a match may be late, and a group of pictures
    assert output.status().waiting <= sum(s.dts > feed.samples[-1].dts - kept for s in feed.samples)
    assert output.status().waiting_bytes > 0
    output.close()

    large = feed_of(camera_clip(tmp_path / "l.mp4", 4, width=640, height=480, draw=_noise))
    total = sum(sample.packet.size for sample in large.samples)
    assert total > 4_000_000
    output, _ = opened(tmp_path / "kept", before=5, after=1, memory_mb=2)
    play(output, large)
    assert output.status().waiting_bytes <= 2_000_000
    assert "raise memory_mb" in output.status().state
    output.close()


def _noise(index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(index).integers(0, 255, (480, 640, 3), np.uint8)


def test_a_disk_that_refuses_costs_the_clip_and_nothing_else(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=3, after=3)
    with file_limit(20_000), pytest.raises(SinkError, match=r"cannot write a clip .* too large"):
        play(output, feed, (20, lambda: match(events, 20)))
    assert files_in(tmp_path) == []
    assert_balanced(output)
    rest = [s for s in feed.samples if s.dts > NOON * SECOND + 26 * SECOND]
    match_at = NOON + 30
    events.emit("rule", "again", "door", rule="gate", record_time=match_at)
    give_samples(output, rest)
    output.close()
    assert len(told(events)) == 1
    assert output.status().waiting == 0


def test_old_clips_go_with_their_pictures(tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=1, after=1, keep_gb=50_000 / 1e9)
    play(output, feed, *((float(n), lambda n=n: match(events, n)) for n in range(5, 35, 5)))
    output.close()
    assert len(told(events)) == 6
    left = files_in(tmp_path)
    assert f"{DAY}/12-00-29Z.clip.mp4" in left
    assert f"{DAY}/12-00-04Z.clip.mp4" not in left
    assert {n[:-4] for n in left if n.endswith(".jpg")} == {
        n[:-4] for n in left if n.endswith(".mp4")
    }


def test_a_clip_is_upright_in_its_picture(tmp_path: Path) -> None:
    feed = feed_of(
        camera_clip(tmp_path / "c.mp4", 2, matrix=(0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    )
    assert feed.media.info.rotation == 90
    image = Image.open(io.BytesIO(clips.jpeg_of(feed.media, feed.video[0])))
    assert image.size == (48, 64)


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_balanced_whatever_happens(seed: int, tmp_path: Path, feed: Feed) -> None:
    output, events = opened(tmp_path, before=2, after=4, longest=10)
    sample = output.sample

    def with_matches(given: Any) -> None:
        sample(given)
        if given.is_keyframe and given.kind == "video" and given.pts // SECOND % (7 + seed) == 0:
            match(events, given.pts / SECOND - NOON)

    output.sample = with_matches  # type: ignore[method-assign, assignment]
    random_life(output, feed, seed)
    assert not [name for name in files_in(tmp_path) if ".part" in name]
    for clip in told(events):
        assert frames_in(clip.data["path"]) > 0


def test_no_descriptor_is_left_open(tmp_path: Path, feed: Feed) -> None:
    def once(n: int) -> None:
        output, events = opened(tmp_path, before=1, after=1)
        play(output, feed.later(n * 50), (n * 50 + 10, lambda: match(events, n * 50 + 10)))
        output.close()

    once(0)
    before = len(os.listdir("/proc/self/fd"))
    once(1)
    once(2)
    assert len(os.listdir("/proc/self/fd")) == before
