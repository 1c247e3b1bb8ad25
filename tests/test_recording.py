"""Recordings hold every packet, survive what may happen to them, and make room for new ones."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.live.packets import (
    NOON,
    Feed,
    assert_balanced,
    camera_clip,
    feed_of,
    frames_in,
    give,
    give_samples,
    moved,
    payloads_in,
    place_in,
    random_life,
    times_in,
)
from vidai.errors import ConfigError, SinkError
from vidai.live.outputs import record
from vidai.live.outputs.record import Options, Recording

DAY = "2026-01-31"


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """5 s with a keyframe a second, and sound."""
    folder = tmp_path_factory.mktemp("feed")
    return feed_of(camera_clip(folder / "camera.mp4", 5, audio="aac"))


def recording(folder: Path, **options: Any) -> Recording:
    place, _ = place_in(folder)
    return record.open(Options.model_validate(options), place)


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def assert_whole(folder: Path, feed: Feed) -> None:
    """The files hold every packet of the feed once, in order, and at its time."""
    paths = sorted(folder.rglob("*.m*"))
    video = [data for path in paths for data in payloads_in(path)]
    assert video == [bytes(sample.packet) for sample in feed.video]
    if feed.audio:
        audio = [data for path in paths for data in payloads_in(path, "audio")]
        assert audio == [bytes(sample.packet) for sample in feed.audio]
    assert sum(frames_in(path) for path in paths) == len(feed.video)


@pytest.mark.parametrize(
    ("codec", "audio", "clip", "extension"),
    [
        ("libx264", "aac", "c.mp4", ".mp4"),
        ("libx265", None, "c.mp4", ".mp4"),
        ("mjpeg", None, "c.mov", ".mp4"),
        ("libx264", "libopus", "c.mp4", ".mp4"),
        ("libx264", "pcm_mulaw", "c.mov", ".mov"),
        ("libx265", "pcm_alaw", "c.mov", ".mov"),
    ],
)
def test_every_packet_is_kept(
    codec: str, audio: str | None, clip: str, extension: str, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"pix_fmt": "yuvj420p"} if codec == "mjpeg" else {}
    if codec == "libx265":
        more["options"] = {"x265-params": "log-level=none:keyint=25:bframes=2:open-gop=0"}
    feed = feed_of(camera_clip(tmp_path / clip, 3, codec=codec, audio=audio, **more))
    output = recording(tmp_path / "kept", segment=1)
    give(output, feed)
    output.close()
    status = output.status()
    assert (status.accepted, status.delivered) == (len(feed.samples), len(feed.samples))
    assert {Path(f).suffix for f in files_in(tmp_path / "kept")} == {extension}
    assert_whole(tmp_path / "kept", feed)


def test_files_follow_the_wall_clock_and_are_cut_at_keyframes(tmp_path: Path, feed: Feed) -> None:
    output = recording(tmp_path, segment=2)
    give(output, feed.later(60 * 60 * 11.9999))  # 23:59:59.64
    output.close()
    assert files_in(tmp_path) == [
        f"{DAY}/23-59-59Z.mp4",
        "2026-02-01/00-00-00Z.mp4",
        "2026-02-01/00-00-02Z.mp4",
    ]
    assert [frames_in(tmp_path / name) for name in files_in(tmp_path)] == [25, 50, 50]
    assert times_in(tmp_path / f"{DAY}/23-59-59Z.mp4") == [Fraction(n, 25) for n in range(25)]
    assert_whole(tmp_path, feed)


def test_times_of_b_frames_are_kept(tmp_path: Path) -> None:
    feed = feed_of(camera_clip(tmp_path / "c.mp4", 2, options={"bf": "2"}))
    assert feed.video[0].pts > feed.video[0].dts
    output = recording(tmp_path / "kept", segment=60)
    give(output, feed)
    output.close()
    times = times_in(tmp_path / "kept" / DAY / "12-00-00Z.mp4")
    assert [b - a for a, b in pairwise(times)] == [Fraction(1, 25)] * 49


def test_sound_that_comes_late_is_in_the_file_of_its_time(tmp_path: Path, feed: Feed) -> None:
    order = sorted(feed.samples, key=lambda s: s.dts + (s.kind == "audio") * 27_000)  # 0.3 s
    output = recording(tmp_path, segment=2)
    output.begin(feed.media)
    give_samples(output, order)
    output.close()
    assert output.status().delivered == len(feed.samples)
    assert_whole(tmp_path, feed)
    for path in sorted(tmp_path.rglob("*.mp4")):
        video, audio = times_in(path), times_in(path, "audio")
        assert -0.05 < audio[0] - video[0] < 0.05
        assert -0.1 < audio[-1] - video[-1] < 0.1


def test_sound_that_stays_away_holds_nothing_up(tmp_path: Path, feed: Feed) -> None:
    output = recording(tmp_path, segment=60)
    output.begin(feed.media)
    give_samples(output, feed.video)
    assert output.status().waiting < 60  # of 125: 1 s for the sound, and a fragment
    output.close()
    assert frames_in(tmp_path / DAY / "12-00-00Z.mp4") == 125


def test_the_file_that_is_open_plays_up_to_its_last_second(tmp_path: Path, feed: Feed) -> None:
    output = recording(tmp_path, segment=60)
    give(output, feed)
    assert files_in(tmp_path) == [f"{DAY}/12-00-00Z.part.mp4"]
    copy = tmp_path / "copy.mp4"
    shutil.copy(tmp_path / DAY / "12-00-00Z.part.mp4", copy)
    assert frames_in(copy) == 100
    assert payloads_in(copy) == [bytes(sample.packet) for sample in feed.video[:100]]
    output.close()
    assert frames_in(tmp_path / DAY / "12-00-00Z.mp4") == 125


def test_nothing_is_replaced(tmp_path: Path, feed: Feed) -> None:
    (tmp_path / DAY).mkdir()
    (tmp_path / DAY / "12-00-00Z.mp4").write_text("precious")
    (tmp_path / DAY / "12-00-00Z-2.mov").write_text("too")
    for _ in range(2):
        output = recording(tmp_path, segment=60)
        give(output, feed)
        (tmp_path / DAY / "12-00-00Z-5.mp4").touch()
        output.close()
    assert (tmp_path / DAY / "12-00-00Z.mp4").read_text() == "precious"
    names = [Path(name).name for name in files_in(tmp_path)]
    assert names == [
        "12-00-00Z-2.mov",
        *(f"12-00-00Z-{n}.mp4" for n in (3, 4, 5)),
        "12-00-00Z.mp4",
    ]


def test_a_name_that_was_taken_meanwhile_is_left_alone(tmp_path: Path, feed: Feed) -> None:
    output = recording(tmp_path, segment=60)
    give(output, feed)
    (tmp_path / DAY / "12-00-00Z.mp4").write_text("precious")
    output.close()
    assert (tmp_path / DAY / "12-00-00Z.mp4").read_text() == "precious"
    assert frames_in(tmp_path / DAY / "12-00-00Z-2.mp4") == 125


WRITER = """
import sys
from pathlib import Path
from tests.live.packets import feed_of, place_in
from vidai.live.outputs import record
feed = feed_of(sys.argv[1])
output = record.open(record.Options(segment=60), place_in(Path(sys.argv[2]))[0])
output.begin(feed.media)
for sample in feed.samples:
    output.sample(sample)
print("written", flush=True)
sys.stdin.read()
"""


def test_kill_leaves_a_file_that_plays_and_the_next_start_names_it(tmp_path: Path) -> None:
    clip, kept = camera_clip(tmp_path / "c.mp4", 5, audio="aac"), tmp_path / "kept"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(clip), str(kept)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == b"written\n"
            recording(kept).close()  # while the other is alive, its file is its own
            assert files_in(kept) == [f"{DAY}/12-00-00Z.part.mp4"]
        finally:
            child.send_signal(signal.SIGKILL)
    part = kept / DAY / "12-00-00Z.part.mp4"
    assert frames_in(part) >= 100
    part.write_bytes(part.read_bytes() + b"\0\0\x10\0moof only half of it")
    recording(kept).close()
    assert files_in(kept) == [f"{DAY}/12-00-00Z.mp4"]
    assert frames_in(kept / DAY / "12-00-00Z.mp4") >= 100


def test_a_crash_before_the_first_second_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / DAY).mkdir()
    (tmp_path / DAY / "12-00-00Z.part.mp4").write_bytes(b"\0\0\0\x08free")
    recording(tmp_path).close()
    assert files_in(tmp_path) == []


def shelved(folder: Path, *names: str, size: int = 1000) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))


FOREIGN = (
    "2026-01-01/holiday.mp4",
    "2026-01-01/12-00-00Z.clip.mp4",
    "2026-01-01/12-00-00Z.annotated.mp4",
    "2026-01-01/12-00-00Z.mp4.bak",
    "Best of/12-00-00Z.mp4",
    "12-00-00Z.mp4",
)


def test_what_is_too_old_goes_and_nothing_else(tmp_path: Path) -> None:
    shelved(tmp_path, *FOREIGN)
    shelved(tmp_path, "2026-01-01/12-00-00Z.mp4", "2026-01-02/12-00-00Z-2.mov")
    shelved(tmp_path, f"{DAY}/11-59-59Z.mp4", f"{DAY}/12-00-00Z.mp4")
    outside = tmp_path.parent / "outside.mp4"
    outside.write_text("precious")
    (tmp_path / "2026-01-02" / "12-00-05Z.mp4").symlink_to(outside)
    recording(tmp_path, keep_days=1).tick(NOON + 86_400)
    left = {*FOREIGN, f"{DAY}/12-00-00Z.mp4", "2026-01-02/12-00-05Z.mp4"}
    assert set(files_in(tmp_path)) == left
    assert outside.read_text() == "precious"


def test_an_empty_day_goes_with_its_last_file(tmp_path: Path) -> None:
    shelved(tmp_path, "2026-01-01/12-00-00Z.mp4", f"{DAY}/12-00-00Z.mp4")
    recording(tmp_path, keep_days=2).tick(NOON)
    assert sorted(os.listdir(tmp_path)) == [DAY]


def test_what_is_too_much_goes_oldest_first_but_never_the_open_file(
    tmp_path: Path, feed: Feed
) -> None:
    shelved(tmp_path, *FOREIGN, size=100_000)
    shelved(tmp_path, *(f"2026-01-30/0{n}-00-00Z.mp4" for n in range(9)), size=10_000)
    output = recording(tmp_path, keep_gb=35_000 / 1e9, segment=60)
    output.tick(NOON)
    assert [n for n in files_in(tmp_path) if n not in FOREIGN] == [
        f"2026-01-30/0{n}-00-00Z.mp4" for n in (6, 7, 8)
    ]
    give(output, feed)
    output.end()
    assert (tmp_path / DAY / "12-00-00Z.mp4").stat().st_size > 35_000
    output.tick(NOON)
    assert [n for n in files_in(tmp_path) if n not in FOREIGN] == []  # too large by itself
    give(output, feed)
    output.tick(NOON)
    assert [n for n in files_in(tmp_path) if n not in FOREIGN] == [f"{DAY}/12-00-00Z.part.mp4"]
    output.close()


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_is_told_once_and_the_recording_goes_on(
    tmp_path: Path, feed: Feed
) -> None:
    place, events = place_in(tmp_path)
    output = record.open(Options.model_validate({}), place)
    output.begin(feed.media)
    errors = []
    with file_limit(60_000):
        for sample in [*feed.samples, *feed.later(5).samples]:
            try:
                output.sample(sample)
            except SinkError as error:
                errors.append(str(error))
            assert_balanced(output)
    assert len(errors) == 1
    assert "file too large" in errors[0]
    assert "cannot write" in output.status().state
    give_samples(output, feed.later(10).samples)
    assert output.status().state == "ok"
    assert [event.kind for event in events.since()] == ["output"]
    output.close()
    status = output.status()
    assert status.lost["file too large"] > 0
    paths = sorted(tmp_path.rglob("*.mp4"))
    in_files = sum(len(payloads_in(p, kind)) for p in paths for kind in ("video", "audio"))
    assert status.delivered == in_files
    assert frames_in(paths[0]) in (25, 50, 75)  # whole fragments
    assert frames_in(paths[-1]) >= 125


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "vidai-test", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk needs the right to mount one")
    yield disk
    subprocess.run(["umount", str(disk)], check=True, timeout=30)


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_harms_nothing_and_is_left_when_there_is_space(
    small_disk: Path, feed: Feed
) -> None:
    shelved(small_disk, "2026-01-01/12-00-00Z.mp4")
    output = recording(small_disk, segment=2, keep_days=9999)
    output.begin(feed.media)
    give_samples(output, feed.samples[:200])
    fill(small_disk / "other")
    with pytest.raises(SinkError, match=r"no space left.*goes on"):
        give_samples(output, feed.samples[200:])
    for n in range(1, 4):
        give_samples(output, feed.later(5 * n).samples)  # told once
    (small_disk / "other").unlink()
    give_samples(output, feed.later(20).samples)
    output.close()
    assert output.status().state == "ok"
    names = files_in(small_disk)
    assert names[0] == "2026-01-01/12-00-00Z.mp4"
    assert "2026-01-31/12-00-22Z.mp4" in names
    counts = [frames_in(small_disk / name) for name in names[1:]]
    in_files = sum(
        len(payloads_in(small_disk / name, kind))
        for name in names[1:]
        for kind in ("video", "audio")
    )
    assert min(counts) > 0
    assert output.status().delivered == in_files


def test_a_full_disk_takes_the_oldest_files_where_they_may_go(small_disk: Path, feed: Feed) -> None:
    shelved(small_disk, *(f"2026-01-30/0{n}-00-00Z.mp4" for n in range(8)), size=20_000)
    (small_disk / "other.mp4").write_bytes(bytes(20_000))
    output = recording(small_disk, segment=2, keep_gb=1)
    output.begin(feed.media)
    for n in range(8):
        for sample in feed.later(5 * n).samples:
            with suppress(SinkError):
                output.sample(sample)
            assert_balanced(output)
    output.close()
    names = files_in(small_disk)
    assert "other.mp4" in names
    assert "2026-01-30/00-00-00Z.mp4" not in names
    assert names[-2].startswith(f"{DAY}/12-00-38Z")  # the newest is there


def test_only_a_full_disk_takes_old_files(tmp_path: Path, feed: Feed) -> None:
    shelved(tmp_path, "2026-01-01/12-00-00Z.mp4")
    output = recording(tmp_path, keep_gb=1)
    output.begin(feed.media)
    with file_limit(10_000), pytest.raises(SinkError, match="file too large"):
        give_samples(output, feed.samples)
    (tmp_path / "2026-02-01").write_text("in the way of a folder")
    with pytest.raises(SinkError, match=r"cannot write"):
        give(recording(tmp_path), feed.later(86_400))
    assert "2026-01-01/12-00-00Z.mp4" in files_in(tmp_path)
    output.close()


def test_packets_before_a_keyframe_or_a_beginning_are_counted(tmp_path: Path, feed: Feed) -> None:
    output = recording(tmp_path)
    output.sample(feed.samples[0])
    output.begin(feed.media)
    give_samples(output, feed.video[1:25])
    assert output.status().lost["no keyframe yet"] == 25
    give_samples(output, feed.video[25:])
    output.close()
    assert frames_in(tmp_path / DAY / "12-00-01Z.mp4") == 100


def test_another_media_begins_another_file(tmp_path: Path, feed: Feed) -> None:
    other = feed_of(camera_clip(tmp_path / "o.mp4", 1, width=96), NOON + 5)
    output = recording(tmp_path / "kept")
    give(output, feed)
    output.end()
    give(output, other)
    output.close()
    assert files_in(tmp_path / "kept") == [f"{DAY}/12-00-00Z.mp4", f"{DAY}/12-00-05Z.mp4"]


def test_a_folder_of_the_users_has_one_for_each_stream(tmp_path: Path, feed: Feed) -> None:
    place, _ = place_in(tmp_path / "state", "gate")
    output = record.open(
        Options.model_validate({"path": tmp_path / "films", "of": "annotated"}), place
    )
    give(output, feed)
    output.close()
    assert output.pictures == "annotated"
    assert files_in(tmp_path / "films") == [f"gate/{DAY}/12-00-00Z.annotated.mp4"]


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place, _ = place_in(tmp_path / "state")
    with pytest.raises(ConfigError, match="cannot write in the folder"):
        record.open(Options.model_validate({"path": tmp_path / "file"}), place)


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_balanced_whatever_happens(seed: int, tmp_path: Path, feed: Feed) -> None:
    output = recording(tmp_path, segment=2)
    random_life(output, feed, seed)
    paths = sorted(tmp_path.rglob("*.m*"))
    in_files = sum(len(payloads_in(p, kind)) for p in paths for kind in ("video", "audio"))
    assert output.status().delivered == in_files
    assert not [path for path in paths if ".part." in path.name]


def test_no_descriptor_is_left_open(tmp_path: Path, feed: Feed) -> None:
    give(first := recording(tmp_path, segment=1), feed)
    first.close()
    before = len(os.listdir("/proc/self/fd"))
    for n in range(3):
        give(output := recording(tmp_path, segment=1), feed.later(10 * n))
        output.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_moved_samples_share_their_packet(feed: Feed) -> None:
    assert moved(feed.samples[0], 1).packet is feed.samples[0].packet
