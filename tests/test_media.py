"""Frames out of clips, pictures and folders, against Pillow and what is drawn in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.media import ORIENTATIONS, Picture, display_matrix, make_clip, video_times
from vidai.device import Device
from vidai.errors import ConfigError, DecodeError, StreamError
from vidai.sources import media
from vidai.sources.file import FileSource
from vidai.sources.media import frames_at, media_files, picture, sample
from vidai.types import Frame


def gradient(width: int = 96, height: int = 64) -> Picture:
    """Smooth, so that halved chroma loses nothing, and unlike itself however it is turned."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x // width, 255 * y // height, 40 + 100 * (x + y) // (width + height)]
    return np.stack(channels, -1).astype(np.uint8)


def flat(color: tuple[int, int, int]) -> Picture:
    return np.full((48, 64, 3), color, np.uint8)


def numbered(index: int) -> Picture:
    """Gray, lighter with every frame: a frame tells which it is."""
    return flat((16 + 3 * index,) * 3)


def number_of(frame: Frame) -> int:
    return round((float(np.asarray(frame).mean()) - 16) / 3)


def times(frames: list[Frame]) -> list[float]:
    return [frame.time for frame in frames]


def per_file(frames: list[Frame]) -> dict[str, int]:
    names = [frame.info.name for frame in frames]
    return {name: names.count(name) for name in names}


def expect_like(frame: Frame, expected: Picture, mean: float, most: int) -> None:
    got = np.asarray(frame)
    assert got.shape == expected.shape
    off = np.abs(got.astype(int) - expected.astype(int))
    assert off.mean() <= mean
    assert off.max() <= most


# What is a clip or a picture.


def test_folders_are_searched_in_a_stable_order(tmp_path: Path) -> None:
    inside = ["b.MP4", "a.jpg", "deep/down/c.webm", "deep/z.PNG", "x.jpeg"]
    others = ["notes.txt", ".hidden.mp4", ".cache/d.mp4", "no_suffix", "labels.json"]
    for name in (*inside, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "lost.mp4").symlink_to(tmp_path / "nowhere")
    sorted_ones = ["a.jpg", "b.MP4", "deep/down/c.webm", "deep/z.PNG", "x.jpeg"]
    assert media_files([tmp_path]) == [tmp_path / name for name in sorted_ones]
    named = [tmp_path / "x.jpeg", tmp_path / "notes.txt", tmp_path]
    first = ["x.jpeg", "notes.txt", "a.jpg", "b.MP4", "deep/down/c.webm", "deep/z.PNG"]
    assert media_files(list(map(str, named))) == [tmp_path / name for name in first]


def test_each_file_is_taken_once_whatever_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    clip = tmp_path / "in" / "b.mp4"
    clip.touch()
    (tmp_path / "in" / "a.mp4").symlink_to(clip)
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "and round").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "in")
    (found,) = media_files([tmp_path / "in", clip, tmp_path / "elsewhere", tmp_path])
    assert found == tmp_path / "in" / "a.mp4"


def test_a_path_that_leads_to_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"no file or folder .*gone: check the name$"):
        media_files([tmp_path / "gone"])
    with pytest.raises(ConfigError, match="cannot read"):
        media_files(["a\0b"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "read.me").touch()
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ConfigError, match=r"no clip or picture in the folder .*empty"):
        media_files([tmp_path / "clip.mp4", tmp_path / "empty"])

    everything = Path.iterdir

    def refused(folder: Path) -> Iterator[Path]:
        if folder.name == "empty":  # by name: permissions do not stop root
            raise PermissionError(13, "Permission denied")
        return everything(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(ConfigError, match=r"cannot read the folder .*empty: Permission denied"):
        media_files([tmp_path])


# Pictures.

Save = Callable[[Image.Image, Path], None]


def saved(mode: str | None = None, **options: Any) -> Save:
    def save(image: Image.Image, path: Path) -> None:
        (image.convert(mode) if mode else image).save(path, **options)

    return save


PICTURES: dict[str, tuple[str, Save]] = {
    "JPEG 4:2:0": ("jpg", saved(quality=95, subsampling=2)),
    "JPEG 4:2:2": ("jpg", saved(quality=95, subsampling=1)),
    "JPEG 4:4:4": ("jpg", saved(quality=95, subsampling=0)),
    "JPEG progressive": ("jpeg", saved(quality=95, progressive=True)),
    "JPEG gray": ("jpg", saved("L", quality=95)),
    "JPEG CMYK": ("jpg", saved("CMYK", quality=95)),
    "PNG": ("png", saved()),
    "PNG with alpha": ("png", saved("RGBA")),
    "PNG gray": ("png", saved("L")),
    "PNG gray with alpha": ("png", saved("LA")),
    "PNG paletted": ("png", lambda image, path: image.quantize(256).save(path)),
    "PNG of one bit": ("png", saved("1")),
    "WebP": ("webp", saved(quality=95)),
    "WebP lossless": ("webp", saved(lossless=True)),
    "BMP": ("bmp", saved()),
    "TIFF": ("tif", saved()),
    "TIFF of LZW": ("tiff", saved(compression="tiff_lzw")),
    "PPM": ("ppm", saved()),
    "JPEG named PNG": ("png", saved(format="jpeg", quality=95)),
}


def tolerance(kind: str) -> tuple[float, int]:
    """Levels that a picture's samples may be off in the mean and at most; a palette's steps are
    not smooth."""
    return (3, 24) if "paletted" in kind else (2, 8)


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("size", [(96, 64), (53, 37)])
def test_a_picture_has_the_colours_that_pillow_sees(
    device: Device, tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    suffix, save = PICTURES[kind]
    path = tmp_path / f"in.{suffix}"
    save(Image.fromarray(gradient(*size)), path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    expect_like(picture(path, device), expected, *tolerance(kind))


def test_a_picture_of_16_bits_keeps_its_tones(device: Device, tmp_path: Path) -> None:
    gray = np.arange(0, 65536, 16).astype(np.uint16).reshape(64, 64)
    Image.fromarray(gray).save(tmp_path / "in.png")
    expected = np.repeat((gray / 257).round().astype(np.uint8)[..., None], 3, -1)
    expect_like(picture(tmp_path / "in.png", device), expected, 1, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG 4:2:0", "JPEG gray", "PNG", "PNG paletted", "WebP", "TIFF"])
def test_a_picture_is_upright_by_its_exif(
    device: Device, tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A maker of cameras"
    suffix, save = PICTURES[kind]
    image = Image.fromarray(gradient())
    save(image, plain := tmp_path / f"plain.{suffix}")
    with Image.open(plain) as image:
        image.save(path := tmp_path / f"in.{suffix}", exif=exif, quality=95)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape == ((96, 64, 3) if orientation > 4 else (64, 96, 3))
    expect_like(picture(path, device), expected, *tolerance(kind))
    (taken,), notes = sample([path], device, 5)
    assert not notes
    assert (taken.width, taken.height) == expected.shape[1::-1]


def test_the_first_frame_of_a_clip_is_a_picture_too(device: Device, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", draw=numbered)
    assert number_of(picture(str(clip), device)) == 0


def test_what_is_no_picture_is_an_error(device: Device, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        picture(tmp_path / "gone.jpg", device)
    text = tmp_path / "in.mp4"
    text.write_text("Hello.\n" * 100)
    with pytest.raises(StreamError, match=r"in\.mp4"):
        picture(text, device)
    Image.fromarray(gradient()).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(DecodeError, match=r"cut\.png"):
        picture(tmp_path / "cut.png", device)


# Shares.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two long clips, a short one and a picture."""
    make_clip(tmp_path / "a.mp4", frames=75)
    make_clip(tmp_path / "b.mkv", frames=3)
    Image.fromarray(gradient()).save(tmp_path / "c.png")
    make_clip(tmp_path / "d.avi", codec="mpeg4", frames=100)
    return tmp_path


@pytest.mark.parametrize(
    ("count", "shares"),
    [
        (4, (1, 1, 1, 1)),
        (5, (1, 1, 1, 2)),
        (12, (4, 3, 1, 4)),
        (21, (8, 3, 1, 9)),
        (100, (48, 3, 1, 48)),
        (175, (75, 3, 1, 96)),
        (500, (75, 3, 1, 100)),
    ],
)
def test_what_one_file_cannot_give_others_do(
    device: Device, folder: Path, count: int, shares: tuple[int, ...]
) -> None:
    frames, notes = sample(media_files([folder]), device, count)
    assert not notes
    names = ("a.mp4", "b.mkv", "c.png", "d.avi")
    assert per_file(frames) == dict(zip(names, shares, strict=True))
    order = [(names.index(frame.info.name), frame.time) for frame in frames]
    assert order == sorted(set(order))


def test_of_many_files_some_are_taken_evenly(device: Device, tmp_path: Path) -> None:
    for index in range(20):
        Image.fromarray(numbered(index)).save(tmp_path / f"{index:02}.png")
    files = media_files([tmp_path])

    def taken(count: int) -> list[int]:
        frames, _ = sample(files, device, count)
        return list(map(number_of, frames))

    assert taken(1) == [10]
    assert taken(4) == [2, 7, 12, 17]
    assert taken(20) == list(range(20))
    # Those that cannot be read are made up for.
    for index in (2, 12):
        files[index].write_text("no picture")
    frames, notes = sample(files, device, 4)
    assert [number_of(frame) for frame in frames] == [5, 7, 15, 17]
    assert [("02.png" in notes[0]), ("12.png" in notes[1]), len(notes)] == [True, True, 2]


def test_what_cannot_be_read_is_left_out_and_told(device: Device, folder: Path) -> None:
    (folder / "aa.mp4").write_text("Hello.\n" * 100)
    (folder / "bb.jpg").touch()
    make_clip(folder / "cc.wav.mkv", frames=2)
    (folder / "cc.wav.mkv").rename(folder / "cc.mp4")  # a suffix means nothing
    gone = folder / "gone.mp4"
    frames, notes = sample([*media_files([folder]), gone], device, 30)
    assert per_file(frames) == {"a.mp4": 12, "b.mkv": 3, "c.png": 1, "cc.mp4": 2, "d.avi": 12}
    assert [note.startswith("left out: ") for note in notes] == [True] * 3
    for note, name in zip(notes, ("aa.mp4", "bb.jpg", "gone.mp4"), strict=True):
        assert name in note


def test_where_nothing_can_be_read_the_first_reason_is_told(device: Device, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.mp4", "b.jpg", "c.png")]
    for file in files:
        file.touch()
    with pytest.raises(
        StreamError, match=r"none of the 3 files .* the first since .*a\.mp4 is empty"
    ):
        sample(files, device, 2)
    with pytest.raises(StreamError, match=r"^\S*b\.jpg is empty: there is no video in it$"):
        sample(files[1:2], device, 2)
    with pytest.raises(StreamError, match="no file to take frames from"):
        sample([], device, 2)
    with pytest.raises(ConfigError, match="count is 0"):
        sample(files, device, 0)


def test_a_clip_that_fails_later_leaves_its_share_to_others(
    device: Device, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where NVDEC may not decode it, which shows only when its decoder is opened."""
    decoder = device.decoder

    def picky(stream: Any, info: Any) -> Any:
        if info.name == "a.mp4":
            raise DecodeError(f"{info.name}: NVDEC cannot decode it")
        return decoder(stream, info)

    monkeypatch.setattr(device, "decoder", picky)
    frames, notes = sample(media_files([folder]), device, 24)
    assert per_file(frames) == {"b.mkv": 3, "c.png": 1, "d.avi": 20}
    assert notes == ["left out: a.mp4: NVDEC cannot decode it"]


def test_progress_grows_to_1(device: Device, folder: Path) -> None:
    told: list[float] = []
    (folder / "bad.mp4").touch()
    sample(media_files([folder]), device, 40, lambda what, part: told.append(part))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 1)
    assert len(set(told)) > 30


# Within a clip.


def test_frames_come_from_all_of_a_clip(device: Device, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=75, draw=numbered, start=1.4)
    frames, _ = sample([clip], device, 10)
    begin = 1.4
    assert [int((time - begin + 1e-6) / 0.3) for time in times(frames)] == list(range(10))
    again, _ = sample([clip], device, 10)
    assert times(again) == times(frames)
    for frame in frames:
        assert number_of(frame) == round((frame.time - begin) * 25)


def test_a_cut_within_a_stretch_is_not_missed(device: Device, tmp_path: Path) -> None:
    """Of 5 stretches of 20 frames, cuts lie in the middle of the second and the fourth."""
    scenes = [(200, 30, 30), (30, 30, 200), (30, 200, 30)]
    cuts = (30, 70)
    clip = make_clip(
        tmp_path / "in.mp4",
        frames=100,
        draw=lambda index: flat(scenes[sum(index >= cut for cut in cuts)]),
    )
    frames, _ = sample([clip], device, 5)
    indices = [round(time * 25) for time in times(frames)]
    assert 30 <= indices[1] < 40
    assert 70 <= indices[3] < 80
    seen = [int(np.asarray(frame).mean((0, 1)).argmax()) for frame in frames]
    assert seen == [0, 2, 2, 1, 1]


def test_a_flash_is_worth_more_than_what_goes_on(device: Device, tmp_path: Path) -> None:
    """In the middle of a stretch, so that neither its first nor its last candidate has it."""
    clip = make_clip(
        tmp_path / "in.mp4",
        frames=60,
        draw=lambda index: flat((220, 220, 220) if 38 <= index < 44 else (40, 40, 40)),
    )
    frames, _ = sample([clip], device, 2)
    assert 38 <= round(frames[1].time * 25) < 44


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("g", ["10", "1000"])
@pytest.mark.parametrize("start", [0.0, 1.4])
def test_the_frame_at_a_time_is_the_same_however_it_is_reached(
    device: Device, tmp_path: Path, suffix: str, g: str, start: float
) -> None:
    options = {"g": g, "bf": "0"}  # AVI keeps no times of pictures out of order
    clip = make_clip(tmp_path / f"in.{suffix}", frames=200, options=options, start=start)
    all_times = [float(time) for time in video_times(clip)]
    wanted = [0.0, 0.01, 0.5, 0.52, 1.9, 3.3, 3.3, 3.31, 6.0, 7.9]
    with FileSource(clip) as source:
        assert source.info.start is not None
        begin = source.info.start
        got = [frame.time for frame in frames_at(source, wanted, device)]
    expected = {min(t for t in all_times if t >= begin + time - 1e-6) for time in wanted}
    assert got == pytest.approx(sorted(expected))


def test_a_clip_is_opened_anew_only_where_a_keyframe_saves_decoding(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders: list[str] = []
    decoder = device.decoder

    def counted(stream: Any, info: Any) -> Any:
        decoders.append(info.name)
        return decoder(stream, info)

    monkeypatch.setattr(device, "decoder", counted)

    def opened(g: str, count: int) -> int:
        clip = make_clip(tmp_path / f"{g}.mp4", frames=250, options={"g": g})
        decoders.clear()
        frames, _ = sample([clip], device, count)
        assert len(frames) == count
        return len(decoders)

    assert opened("1000", 2) == 1
    assert opened("10", 2) == 6
    assert opened("10", 20) == 1


def test_a_clip_without_duration_is_read_from_its_beginning(device: Device, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.h264", frames=60, draw=numbered)
    frames, _ = sample([clip], device, 4)
    assert [number_of(frame) for frame in frames] == [0, 10, 20, 30]
    assert len(sample([clip], device, 100)[0]) == 6


def test_an_animation_gives_all_its_frames(device: Device, tmp_path: Path) -> None:
    pages = [Image.fromarray(flat(color)) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    pages[0].save(tmp_path / "in.gif", save_all=True, append_images=pages[1:], duration=100)
    frames, _ = sample([tmp_path / "in.gif"], device, 10)
    assert [int(np.asarray(frame).mean((0, 1)).argmax()) for frame in frames] == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_a_truncated_clip_gives_what_decodes(device: Device, tmp_path: Path, suffix: str) -> None:
    clip = make_clip(
        tmp_path / f"in.{suffix}",
        frames=250,
        options={"g": "25"},
        container_options={"movflags": "faststart"} if suffix == "mp4" else None,
    )
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) * 6 // 10])
    frames, notes = sample([clip], device, 20)
    assert not notes
    assert len(frames) >= 10
    assert times(frames) == sorted(set(times(frames)))
    assert times(frames)[-1] < (10 if suffix == "ts" else 7)


def test_frames_on_both_sides_of_damage_are_taken(device: Device, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=250, options={"g": "25"})
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle - 2000 : middle + 2000] = bytes(4000)
    clip.write_bytes(data)
    frames, _ = sample([clip], device, 20)
    assert len(frames) >= 15
    assert times(frames)[0] < 1
    assert times(frames)[-1] > 9


def test_a_turned_clip_is_upright(device: Device, tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "in.mp4",
        width=96,
        height=64,
        frames=50,
        draw=lambda index: gradient(),
        matrix=display_matrix(*ORIENTATIONS["turned 90"]),
    )
    frames, _ = sample([clip], device, 3)
    assert len(frames) == 3
    for frame in frames:
        expect_like(frame, np.rot90(gradient(), -1), 4, 30)


def test_suffixes_are_lower_case_and_apart() -> None:
    assert not media.CLIPS & media.PICTURES
    assert all(s == s.lower() and s.startswith(".") for s in media.CLIPS | media.PICTURES)


def test_a_png_with_a_colour_profile_is_read_and_freed(tmp_path: Path) -> None:
    """In a process of its own: PyAV's side data would crash it when the frame is freed."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "screen.png"
    Image.new("RGB", (64, 48), (200, 100, 50)).save(path, icc_profile=profile)
    program = (
        "import gc, sys, vidai\n"
        "from vidai.sources.media import picture\n"
        "for _ in range(5):\n"
        "    print(picture(sys.argv[1], vidai.open_device('cpu')).rgb()[24, 32].tolist())\n"
        "    gc.collect()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    for line in run.stdout.splitlines():
        np.testing.assert_allclose(json.loads(line), (200, 100, 50), atol=3)
    assert len(run.stdout.splitlines()) == 5
