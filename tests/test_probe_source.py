"""What FileSource tells of a file, which part of it it gives, and what it refuses."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media import ORIENTATIONS, display_matrix, make_clip, open_input
from tests.test_decode import frames_of
from vidai.device import Device
from vidai.errors import ConfigError, DecodeError, VidaiError
from vidai.pipeline import Pipeline
from vidai.sources.file import FileSource
from vidai.types import Color


def test_info_tells_the_stream(tmp_path: Path) -> None:
    path = make_clip(
        *(tmp_path / "clip.mp4",),
        width=70, height=50, frames=30, rate=Fraction(30000, 1001), pix_fmt="yuv420p10le",
        color=(9, 1, 9, 16), aspect=Fraction(4, 3),
    )  # fmt: skip
    with FileSource(path) as source:
        info = source.info
    assert (info.name, info.codec, info.width, info.height) == ("clip.mp4", "h264", 70, 50)
    assert (info.pixel_format, info.bit_depth) == ("yuv420p10le", 10)
    assert info.color == Color(matrix=9, range=1, primaries=9, transfer=16)
    assert info.frame_rate == Fraction(30000, 1001)
    assert info.sample_aspect_ratio == Fraction(4, 3)
    assert info.display_matrix is None
    assert info.start == 0
    assert info.duration == pytest.approx(30 * 1001 / 30000, abs=0.01)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_orientation_says_where_a_displayed_pixel_is_stored(name: str, tmp_path: Path) -> None:
    a, b, c, d = ORIENTATIONS[name]
    path = make_clip(tmp_path / "clip.mp4", frames=2, matrix=display_matrix(a, b, c, d))
    with FileSource(path) as source:
        info = source.info
    # By the matrix: stored (x, y) about the centre goes to display (a x + c y, b x + d y).
    width, height = (info.height, info.width) if b else (info.width, info.height)
    assert info.display_size == (width, height)
    for x, y in [(0, 0), (5, 3), (63, 47)]:
        stored = np.array([x - 31.5, y - 23.5])
        shown = np.array([a * stored[0] + c * stored[1], b * stored[0] + d * stored[1]])
        shown += [(width - 1) / 2, (height - 1) / 2]
        s, t = (shown[1], shown[0]) if info.orientation & 4 else (shown[0], shown[1])
        found = (63 - s if info.orientation & 1 else s, 47 - t if info.orientation & 2 else t)
        assert found == (x, y)


@pytest.mark.parametrize("name", ["upright", "turned 90", "turned 180", "turned 270"])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_rotation_agrees_with_pyav_s(name: str, suffix: str, tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / f"clip.{suffix}", frames=2, matrix=display_matrix(*ORIENTATIONS[name])
    )
    with open_input(path) as container:
        counterclockwise = next(container.decode(video=0)).rotation
    with FileSource(path) as source:
        assert source.info.rotation == -counterclockwise % 360


def test_other_streams_chapters_and_metadata_are_told(tmp_path: Path) -> None:
    path = make_clip(
        *(tmp_path / "clip.mp4",),
        audio=["aac", "aac"], subtitles="mov_text", cover=True, frames=50,
        chapters=[(0, 1, "one"), (1, 2, "two")], metadata={"title": "A day"},
    )  # fmt: skip
    with FileSource(path) as source:
        assert [s.type for s in source.others] == ["audio", "audio", "subtitle"]
        assert source.metadata["title"] == "A day"
        assert [c["metadata"]["title"] for c in source.chapters] == ["one", "two"]
        kinds = {p.stream.type for p in source.packets()}
        assert kinds == {"video", "audio", "subtitle"}


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", cover=True, frames=3)
    with FileSource(path) as source:
        assert (source.info.width, source.info.codec) == (64, "h264")


@pytest.mark.parametrize(
    ("suffix", "origin"),
    [
        *((s, 0.0) for s in ("mp4", "mkv", "ts", "avi", "mov")),
        ("mp4", 1.4),
        ("mkv", 1.4),
        ("ts", 1.4),
    ],
)
def test_a_cut_keeps_the_frames_between_start_and_end(
    suffix: str, origin: float, device: Device, tmp_path: Path
) -> None:
    path = make_clip(
        tmp_path / f"clip.{suffix}", frames=60, start=origin, options={"g": "12", "bf": "2"}
    )
    whole = frames_of(path, device)
    with FileSource(path) as source:
        zero = source.info.start or 0.0
    frames = frames_of(path, device, start=1.0, end=2.0)
    with FileSource(path, start=1.0, end=2.0) as source:
        kept = [f.pts for f in frames if source.keeps(f.pts, f.info.time_base)]
    expected = [f.pts for f in whole if 1.0 <= round(f.time - zero, 6) < 2.0]
    assert kept == expected
    assert len(kept) == 25
    assert len(frames) < 50  # neither read from the top nor to the end


def test_a_cut_keeps_the_other_streams_up_to_its_end(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=100, audio="aac")
    with FileSource(path, end=1.0) as source:
        ends = [
            float(p.pts * p.time_base)
            for p in source.packets()
            if p.stream.type == "audio" and p.pts is not None
        ]
    assert max(ends) >= 0.97


def refuse(error: type[Exception], what: str, path: Path, **cut: Any) -> None:
    with pytest.raises(error, match=what):
        FileSource(path, **cut)


def test_paths_that_cannot_work_are_told_apart(tmp_path: Path) -> None:
    refuse(ConfigError, "no file", tmp_path / "missing.mp4")
    refuse(ConfigError, "is a folder", tmp_path)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    refuse(DecodeError, "is empty", empty)
    text = tmp_path / "text.mp4"
    text.write_text("this is no video\n" * 50)
    refuse(DecodeError, "no video file", text)
    os.mkfifo(tmp_path / "pipe")
    refuse(ConfigError, "not a regular file", tmp_path / "pipe")
    refuse(ConfigError, "cannot read", tmp_path / ("x" * 300))
    refuse(ConfigError, "cannot read", Path("a\0b"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=1)
    path.chmod(0)
    refuse(ConfigError, "Permission denied", path)


def test_files_without_video_are_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mka"
    with av.open(str(path), "w", format="matroska") as out:
        sound: Any = out.add_stream("flac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 9216), np.int16), "s16", "stereo")
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    refuse(DecodeError, "no video stream.*audio", path)


@pytest.mark.parametrize(
    ("cut", "what"),
    [
        ({"start": -1}, "start is -1"),
        ({"end": math.nan}, "end is nan"),
        ({"start": math.inf}, "start is inf"),
        ({"start": 0.4, "end": 0.4}, "must come after"),
        ({"end": 0}, "must come after"),
        ({"start": 60}, "nothing is left"),
    ],
)
def test_ranges_that_cannot_work_are_refused(
    cut: dict[str, float], what: str, tmp_path: Path
) -> None:
    refuse(ConfigError, what, make_clip(tmp_path / "clip.mp4"), **cut)


@pytest.mark.parametrize(
    "name", ["a:b.mp4", "http:x.mp4", "%d.mp4", "ä ö.mp4", "-y.mp4", "a\nb.mp4"]
)
def test_strange_names_are_only_names(name: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=1).rename(tmp_path / name)
    with FileSource(path) as source:
        assert source.info.name == name
        assert len(list(source.packets())) == 1


@pytest.mark.parametrize("audio", [None, "aac"])
@pytest.mark.parametrize("suffix", ["mkv", "avi", "flv"])
def test_a_late_first_packet_is_no_damage(
    suffix: str, audio: str | None, device: Device, tmp_path: Path
) -> None:
    path = make_clip(tmp_path / f"clip.{suffix}", frames=50, start=1.5, audio=audio)
    with FileSource(path) as source:
        assert Pipeline(source, device=device).run().frames == 50
        assert source.damage is None


def test_a_late_file_that_ends_early_is_still_told(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", frames=50, start=1.5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with FileSource(path) as source:
        list(source.packets())
        assert source.damage is not None
        assert "before its header says" in source.damage


@pytest.mark.parametrize(
    ("suffix", "start"),
    # Matroska's header counts from 0: that 2.9 s are too late is found out at the end.
    [("mkv", 2.9), ("mkv", 3.6), ("avi", 3.6), ("flv", 2.9), ("ts", 2.9), ("mp4", 2.9)],
)
def test_a_start_behind_a_late_file_is_not_called_damage(
    suffix: str, start: float, device: Device, tmp_path: Path
) -> None:
    path = make_clip(tmp_path / f"clip.{suffix}", frames=50, start=1.5)
    what = r"nothing is left|no frame in the part"
    with pytest.raises(VidaiError, match=what), FileSource(path, start=start) as source:
        Pipeline(source, device=device).run()
