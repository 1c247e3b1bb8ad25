"""The way from a file to a file: what must survive, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.container import OutputContainer
from av.video.stream import VideoStream

from tests.media import (
    ORIENTATIONS,
    display_matrix,
    make_clip,
    open_input,
    packet_bytes,
    planes_of,
    video_times,
)
from tests.test_decode import frames_of, truth_of
from vidai.device import Device, EncoderSettings
from vidai.devices.cpu import CpuDevice
from vidai.devices.cpu.codecs import CpuEncoder, private_copy
from vidai.errors import ConfigError, EncodeError, SinkError
from vidai.pipeline import Pipeline, Sink
from vidai.sinks.jsonl import JsonLines
from vidai.sinks.video import VideoFile
from vidai.sources.file import FileSource
from vidai.types import Detections, Frame, StreamInfo


def convert(
    source_path: Path,
    path: Path,
    device: Device,
    *,
    codec: str = "h264",
    quality: int | None = None,
    audio: bool = True,
    copy: bool = False,
    overwrite: bool = False,
    **cut: float,
) -> VideoFile:
    """The whole way, with a copy of each frame if wanted."""
    with FileSource(source_path, **cut) as source:
        sink = VideoFile(path, codec=codec, quality=quality, audio=audio, overwrite=overwrite)
        steps = [lambda frame, _: private_copy(frame)] if copy else []
        report = Pipeline(source, device=device, steps=steps, sinks=[sink]).run()
        assert report.outputs == [os.path.realpath(path)]
    return sink


def psnr(one: Path, other: Path) -> float:
    """The worst luma PSNR of any frame in dB, at equal sizes and bit depths."""
    worst = 99.0
    for a, b in zip(truth_of(one), truth_of(other), strict=True):
        x, y = planes_of(a)[0].astype(float), planes_of(b)[0].astype(float)
        peak = 255 if a.format.components[0].bits == 8 else 1023
        y = y[: x.shape[0], : x.shape[1]]
        worst = min(worst, 10 * float(np.log10(peak**2 / max(1e-9, np.mean((x - y) ** 2)))))
    return worst


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        *(("h264", "mp4"), ("h264", "mov"), ("h264", "mkv"), ("hevc", "mp4"), ("hevc", "mkv")),
        *(("av1", "mp4"), ("av1", "mkv"), ("av1", "webm")),
    ],
)
def test_pictures_times_and_tags_survive(
    codec: str, suffix: str, copy: bool, device: Device, tmp_path: Path
) -> None:
    source = make_clip(
        *(tmp_path / "in.mp4",),
        frames=30, color=(1, 1, 1, 1), aspect=Fraction(4, 3), width=96, height=64,
        matrix=display_matrix(*ORIENTATIONS["turned 90"]),
    )  # fmt: skip
    out = tmp_path / f"out.{suffix}"
    sink = convert(source, out, device, codec=codec, quality=14, copy=copy)
    assert video_times(out) == video_times(source)
    assert psnr(source, out) > 35
    with FileSource(source) as a, FileSource(out) as b:
        same: dict[str, Any] = {"name": "", "codec": "", "time_base": a.info.time_base}
        if sink.warnings:
            assert codec == "av1"
            assert "pixel aspect ratio 4/3" in sink.warnings[0]
            same["sample_aspect_ratio"] = Fraction(1)
        assert replace(b.info, **same, duration=a.info.duration) == replace(a.info, **same)
        assert b.info.codec == codec
    assert {p.name for p in tmp_path.iterdir()} == {"in.mp4", out.name}


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuvj420p", "yuv444p", "gray"])
def test_depth_and_range_survive(codec: str, pix_fmt: str, device: Device, tmp_path: Path) -> None:
    encoder = {"yuvj420p": "mjpeg", "gray": "ffv1"}.get(pix_fmt, "libx264")
    source = make_clip(tmp_path / "in.mkv", codec=encoder, pix_fmt=pix_fmt, frames=4)
    out = tmp_path / "out.mkv"
    convert(source, out, device, codec=codec, quality=14)
    with FileSource(source) as a, FileSource(out) as b:
        assert b.info.bit_depth == a.info.bit_depth
        assert b.info.color.full_range == a.info.color.full_range
    assert psnr(source, out) > 35


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("size", [(65, 49), (65, 48), (64, 49)])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_odd_sizes_keep_every_pixel_in_its_place(
    codec: str, size: tuple[int, int], pix_fmt: str, device: Device, tmp_path: Path
) -> None:
    width, height = size
    source = make_clip(
        *(tmp_path / "in.mkv",),
        codec="libvpx-vp9" if pix_fmt == "yuv420p" else "ffv1",
        pix_fmt=pix_fmt, width=width, height=height, frames=3,
    )  # fmt: skip
    out = tmp_path / "out.mp4"
    convert(source, out, device, codec=codec, quality=12)
    last = truth_of(out)[-1]
    even = codec != "av1"
    assert (last.width, last.height) == (width + even * (width % 2), height + even * (height % 2))
    assert psnr(source, out) > 33
    luma = planes_of(last)[0].astype(int)
    close = 8 if pix_fmt == "yuv420p" else 32
    if last.width > width:
        assert np.abs(luma[:, -1] - luma[:, -2]).mean() < close
    if last.height > height:
        assert np.abs(luma[-1] - luma[-2]).mean() < close


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("origin", [0.0, 1.4, 7.32])
def test_a_later_start_survives_with_sound_in_step(
    suffix: str, origin: float, device: Device, tmp_path: Path
) -> None:
    source = make_clip(tmp_path / "in.ts", frames=30, audio="ac3", start=origin)
    out = tmp_path / f"out.{suffix}"
    convert(source, out, device)
    grid = 1 if suffix == "mp4" else 1000
    found, expected = (
        [(round(t * 1000) if grid == 1000 else t) for t in video_times(p)] for p in (out, source)
    )
    assert found == expected
    assert packet_bytes(out, "audio") == packet_bytes(source, "audio")
    first = [sound_start(p) - video_times(p)[0] for p in (source, out)]
    assert abs(first[0] - first[1]) <= Fraction(1, 900)


def sound_start(path: Path) -> Fraction:
    with open_input(path) as container:
        packet = next(p for p in container.demux(audio=0) if p.pts is not None)
        assert packet.pts is not None
        return packet.pts * packet.time_base


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_variable_rate_survives(suffix: str, device: Device, tmp_path: Path) -> None:
    pts = [0, 40, 41, 90, 300, 1000, 1033]
    source = make_clip(tmp_path / "in.mkv", pts=pts, time_base=Fraction(1, 1000))
    out = tmp_path / f"out.{suffix}"
    convert(source, out, device)
    assert [t * 1000 for t in video_times(out)] == pts


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_the_shortest_clips_work(codec: str, count: int, device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=count)
    convert(source, tmp_path / "out.mp4", device, codec=codec)
    assert video_times(tmp_path / "out.mp4") == video_times(source)


@pytest.mark.parametrize(
    ("audio", "subtitles", "suffix"),
    [("aac", "mov_text", "mp4"), ("libopus", "subrip", "mkv"), ("pcm_s16le", None, "mov")],
)
def test_other_streams_pass_bit_for_bit(
    audio: str, subtitles: str | None, suffix: str, device: Device, tmp_path: Path
) -> None:
    source = make_clip(
        *(tmp_path / f"in.{suffix}",),
        frames=40, audio=[audio, audio], subtitles=subtitles,
        chapters=[(0, 0.5, "one"), (0.5, 1.6, "two")],
        metadata={"title": "A day", "artist": "Nobody"},
    )  # fmt: skip
    out = tmp_path / f"out.{suffix}"
    sink = convert(source, out, device)
    assert sink.warnings == []
    assert sink.dropped == 0
    assert packet_bytes(out, "audio") == packet_bytes(source, "audio")
    assert len(packet_bytes(out, "audio")) == 2
    texts = [b"".join(data) for data in packet_bytes(out, "subtitle")]
    assert [b"Hello" in text and b"Bye" in text for text in texts] == [True] * bool(subtitles)
    with FileSource(source) as a, FileSource(out) as b:
        assert [(s.language, s.disposition) for s in b.others] == [
            (s.language, s.disposition) for s in a.others
        ]
        assert b.others[0].language == (None if suffix == "mov" else "deu")
        assert titled_times(b) == titled_times(a) == [(0, 0.5, "one"), (0.5, 1.6, "two")]
        assert b.metadata["title"] == "A day"


def titled_times(source: FileSource) -> list[tuple[float, float, str]]:
    return [
        (float(c["start"] * base), float(c["end"] * base), c["metadata"]["title"])
        for c in source.chapters
        if (base := c["time_base"]) is not None
    ]


def test_attachments_pass_between_mkv(device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", attachment=b"keep me")
    convert(source, tmp_path / "out.mkv", device)
    with open_input(tmp_path / "out.mkv") as container:
        kept = container.streams.attachments[0]
        assert (kept.name, kept.mimetype, kept.data) == ("note.txt", "text/plain", b"keep me")
    sink = convert(source, tmp_path / "out.mp4", device)
    assert sink.warnings == [
        "attachment stream 1 (note.txt) cannot be stored in .mp4 and is left out"
    ]


def test_a_cut_begins_at_zero_with_its_sound_and_chapters(device: Device, tmp_path: Path) -> None:
    source = make_clip(
        *(tmp_path / "in.mp4",),
        frames=75, audio="aac", chapters=[(0, 1, "one"), (1, 3, "two")], options={"g": "10"},
    )  # fmt: skip
    out = tmp_path / "out.mp4"
    convert(source, out, device, start=0.8, end=2.0)
    whole = video_times(source)
    assert video_times(out) == [t - Fraction("0.8") for t in whole if Fraction("0.8") <= t < 2]
    assert 0 <= sound_start(out) < Fraction(1024, 48000)
    assert 50 <= sum(map(len, packet_bytes(out, "audio"))) <= 57
    with FileSource(out) as cut:
        assert titled_times(cut) == [(0, 0.2, "one"), (0.2, 1.2, "two")]
        assert cut.info.duration == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_orientation_survives(name: str, suffix: str, device: Device, tmp_path: Path) -> None:
    matrix = display_matrix(*ORIENTATIONS[name])
    source = make_clip(tmp_path / "in.mp4", frames=2, matrix=matrix)
    out = tmp_path / f"out.{suffix}"
    convert(source, out, device)
    with FileSource(source) as a, FileSource(out) as b:
        assert b.info.orientation == a.info.orientation


def test_frames_of_another_size_are_scaled(device: Device, tmp_path: Path) -> None:
    small = make_clip(tmp_path / "small.ts", frames=5)
    large = make_clip(tmp_path / "large.ts", width=96, height=80, frames=5, start=0.2)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    convert(joined, tmp_path / "out.mp4", device)
    assert [(f.width, f.height) for f in truth_of(tmp_path / "out.mp4")] == [(64, 48)] * 10


def test_repeated_times_move_to_the_next_tick(device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=3)
    frames = frames_of(source, device)
    with FileSource(source) as opened:
        sink = VideoFile(tmp_path / "out.mp4")
        sink.open(opened, device)
        for frame, pts in zip(frames, (100, 100, 50), strict=True):
            sink.write(replace(frame, pts=pts))
        sink.close()
        base = opened.info.time_base
    assert video_times(tmp_path / "out.mp4") == [100 * base, 101 * base, 102 * base]


def test_hevc_in_mp4_has_the_tag_that_all_players_know(device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=2)
    convert(source, tmp_path / "out.mp4", device, codec="hevc")
    with open_input(tmp_path / "out.mp4") as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_mp4_has_its_index_in_front(device: Device, tmp_path: Path) -> None:
    convert(make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4", device)
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_encoders_write_nothing_to_the_terminal(
    device: Device, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=2)
    capfd.readouterr()
    for codec in ("h264", "hevc", "av1"):
        convert(source, tmp_path / f"{codec}.mp4", device, codec=codec)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (EncoderSettings("vp9"), "no codec 'vp9'.*h264, hevc, av1"),
        (EncoderSettings("h264", 52), "0 .best. to 51"),
        (EncoderSettings("av1", -1), "0 .best. to 63"),
        (EncoderSettings("hevc", preset="p5"), "no preset 'p5'.*ultrafast"),
        (EncoderSettings("av1", preset="fast"), "no preset 'fast'.*13"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    settings: EncoderSettings, what: str, device: Device, tmp_path: Path
) -> None:
    info = frames_of(make_clip(tmp_path / "in.mp4", frames=1), device)[0].info
    with pytest.raises(ConfigError, match=what):
        CpuEncoder(info, settings)


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    before = {p.name: p.stat().st_size for p in folder.iterdir()}
    yield
    assert {p.name: p.stat().st_size for p in folder.iterdir()} == before


def refuse(what: str, source: Path, out: Path, device: Device, **options: Any) -> None:
    with nothing_left(source.parent), pytest.raises(ConfigError, match=what):
        convert(source, out, device, **options)


def test_outputs_that_cannot_work_are_refused(device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=3)
    (tmp_path / "there.mp4").write_bytes(b"old")
    (tmp_path / "link.mp4").symlink_to(source)
    os.link(source, tmp_path / "hard.mp4")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    refuse("must end in one of .mp4, .mov, .mkv, .webm", source, tmp_path / "out.avi", device)
    refuse("must end in", source, tmp_path / "out", device)
    refuse("no folder", source, tmp_path / "none" / "out.mp4", device)
    refuse("exists.*-y", source, tmp_path / "there.mp4", device)
    refuse("is a folder", source, tmp_path / "folder.mp4", device, overwrite=True)
    refuse("not a regular file", source, tmp_path / "pipe.mp4", device, overwrite=True)
    for same in ("in.mp4", "link.mp4", "hard.mp4"):
        refuse("input itself", source, tmp_path / same, device, overwrite=True)
    for codec in ("h264", "hevc"):
        refuse(
            ".webm cannot hold.*choose the codec av1",
            source,
            tmp_path / "out.webm",
            device,
            codec=codec,
        )
    what = ".mov cannot hold av1: choose the codec h264 or hevc, or .mp4 or .mkv"
    refuse(what, source, tmp_path / "out.mov", device, codec="av1")


def test_overwrite_replaces_and_keeps_a_link(device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=3)
    real = tmp_path / "real.mp4"
    real.write_bytes(b"old")
    (tmp_path / "out.mp4").symlink_to(real)
    convert(source, tmp_path / "out.mp4", device, overwrite=True)
    assert (tmp_path / "out.mp4").is_symlink()
    assert video_times(real) == video_times(source)


@pytest.mark.parametrize("name", ["a:b.mp4", "%d.mp4", "-y.mp4", "ä ö.mp4", "é" * 120 + ".mp4"])
def test_strange_output_names_are_only_names(name: str, device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=1)
    convert(source, tmp_path / name, device)
    assert {p.name for p in tmp_path.iterdir()} == {"in.mp4", name}


def test_audio_that_does_not_fit_is_refused_or_left_out(device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", frames=3, audio="pcm_u8", subtitles="subrip")
    what = r"audio stream 1 \(pcm_u8\) cannot be stored in .mp4: choose .mkv or pass --no-audio"
    refuse(what, source, tmp_path / "out.mp4", device)
    sink = convert(source, tmp_path / "out.mp4", device, audio=False)
    assert sink.warnings == ["subtitle stream 2 (subrip) cannot be stored in .mp4 and is left out"]
    assert packet_bytes(tmp_path / "out.mp4", "audio") == []


def test_a_size_that_the_encoder_refuses_leaves_nothing(device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", width=8, height=8, frames=2)
    with nothing_left(tmp_path), pytest.raises(EncodeError, match="libx265 cannot encode 8x8"):
        convert(source, tmp_path / "out.mp4", device, codec="hevc")


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_full_disk_is_told_and_leaves_nothing(
    suffix: str, device: Device, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 144, 176, 3), np.uint8)
    source = make_clip(
        tmp_path / "in.mp4", width=176, height=144, frames=24, draw=lambda i: noise[i % 8]
    )
    out = tmp_path / f"out.{suffix}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
        with nothing_left(tmp_path), pytest.raises(SinkError, match=f"cannot write .*out.{suffix}"):
            convert(source, out, device, quality=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_stopping_early_keeps_a_partial_file_or_nothing(device: Device, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=10, audio="aac")
    frames = frames_of(source, device)
    for keep in (False, True):
        with FileSource(source) as opened:
            sink = VideoFile(tmp_path / "out.mp4")
            sink.open(opened, device)
            for frame in frames[:4]:
                sink.write(frame)
            if keep:
                assert sink.close(partial=True) == str(tmp_path / "out.partial.mp4")
            else:
                sink.abort()
                sink.abort()
                assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
    assert len(video_times(tmp_path / "out.partial.mp4")) == 4


class LateHeader(CpuEncoder):
    """Into a stream that gets its header from the first packet, as one from hardware may: until
    then the container keeps all packets."""

    def add_to(self, container: OutputContainer) -> VideoStream:
        # MPEG-TS has the headers in the packets.
        own = super().add_to(av.open(os.devnull, "w", format="mpegts"))
        late = container.add_mux_stream(
            *("h264", 25), width=own.width, height=own.height, time_base=own.time_base
        )
        self._late = cast("VideoStream", late)
        return self._late

    def encode(self, frame: Frame | None, pts: int | None = None) -> list[av.Packet[Any]]:
        packets = super().encode(frame, pts)
        for packet in packets:
            packet.stream = self._late
        return packets


class Remembering(CpuDevice):
    """A CPU device that knows which of its encoders live."""

    kind = CpuEncoder

    def __init__(self) -> None:
        super().__init__()
        self.encoders: list[weakref.ref[CpuEncoder]] = []

    def encoder(self, info: StreamInfo, settings: EncoderSettings) -> CpuEncoder:
        made = self.kind(info, settings)
        self.encoders.append(weakref.ref(made))
        return made

    @property
    def alive(self) -> int:
        return sum(encoder() is not None for encoder in self.encoders)


class LateDevice(Remembering):
    kind = LateHeader


class Keeper:
    """A sink that keeps every packet of the other streams and what it was like."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.packets: list[tuple[av.Packet[Any], object]] = []

    def check(self, source: FileSource, device: Device) -> None: ...

    def open(self, source: FileSource, device: Device) -> None: ...

    def write(self, frame: Frame, detections: Detections) -> None: ...

    def write_packet(self, packet: av.Packet[Any]) -> None:
        self.packets.append((packet, self.look(packet)))

    @staticmethod
    def look(packet: av.Packet[Any]) -> object:
        times = (packet.pts, packet.dts, packet.duration, packet.time_base)
        side = [(data.data_type, bytes(data)) for data in packet.iter_sidedata()]
        return packet.stream, packet.stream_index, times, packet.is_keyframe, side, bytes(packet)

    def close(self, *, partial: bool = False) -> str:
        return ""

    def abort(self) -> None: ...


def sound_of(path: Path) -> list[tuple[object, ...]]:
    """Times, flags, bytes and side data of every packet of the first sound."""
    with open_input(path) as container:
        return [
            (
                *(p.pts, p.dts, p.duration, p.is_keyframe, bytes(p)),
                *((data.data_type, bytes(data)) for data in p.iter_sidedata()),
            )
            for p in container.demux(audio=0)
            if p.size
        ]


@pytest.mark.parametrize(
    ("audio", "suffix"), [("aac", "mp4"), ("aac", "mkv"), ("libopus", "mkv"), ("ac3", "mp4")]
)
@pytest.mark.parametrize("cut", [{}, {"start": 0.44, "end": 1.3}])
def test_packets_kept_by_the_container_are_not_touched(
    cut: dict[str, Any], audio: str, suffix: str, device: Device, tmp_path: Path
) -> None:
    source = make_clip(tmp_path / "in.mkv", frames=40, audio=audio, options={"g": "5"})
    direct, late = tmp_path / f"direct.{suffix}", tmp_path / f"late.{suffix}"
    convert(source, direct, device, **cut)
    keepers = Keeper(), Keeper()
    with FileSource(source, **cut) as opened:
        sinks: list[Sink] = [keepers[0], VideoFile(late), keepers[1]]
        Pipeline(opened, device=LateDevice(), sinks=sinks).run()
        for packet, was in (pair for keeper in keepers for pair in keeper.packets):
            assert Keeper.look(packet) == was
    assert [was for _, was in keepers[0].packets] == [was for _, was in keepers[1].packets]
    assert len(sound_of(direct)) > 10
    assert sound_of(late) == sound_of(direct)
    assert video_times(late) == video_times(direct)


@pytest.mark.parametrize("make", [Remembering, LateDevice])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("frames", [-1, 0, 1, 8])
def test_an_abort_leaves_nothing_at_any_moment(
    frames: int, suffix: str, make: type[Remembering], tmp_path: Path
) -> None:
    """frames: how many were written; -1: only sound."""
    source = make_clip(tmp_path / "in.mp4", frames=10, audio="aac")
    memory = make()
    with FileSource(source) as opened, nothing_left(tmp_path):
        sink = VideoFile(tmp_path / f"out.{suffix}")
        sink.open(opened, memory)
        if frames:
            for packet in opened.packets():
                if packet.stream.type == "audio":
                    sink.write_packet(packet)
        for frame in frames_of(source, memory)[: max(frames, 0)]:
            sink.write(frame)
        sink.abort()
        assert not memory.alive
        del sink


def test_a_closed_file_lets_its_encoder_go(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=3)
    memory = Remembering()
    frames = frames_of(source, memory)
    with FileSource(source) as opened:
        sink = VideoFile(tmp_path / "out.mp4")
        sink.open(opened, memory)
        for frame in frames:
            sink.write(replace(frame, pts=100))
        assert memory.alive == 1
        sink.close()
        assert memory.alive == 0
        sink.abort()
    assert sink.warnings[0].startswith("2 frames had a time")
    assert len(video_times(tmp_path / "out.mp4")) == 3


def test_json_lines_hold_what_was_found(
    device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = frames_of(make_clip(tmp_path / "in.mp4", frames=3), device)[2]
    found = Detections(
        np.array([[1, 2, 3, 4.5]], np.float32), np.array([0.5], np.float32),
        np.array([0], np.int32), ("cät",),
    )  # fmt: skip
    expected = {"frame": 2, "pts": frame.pts, "time": 0.08, "detections": found.to_dicts()}
    path = tmp_path / "out.jsonl"
    with FileSource(tmp_path / "in.mp4") as source:
        lines = JsonLines(path)
        lines.check(source, device)
        lines.open(source, device)
        lines.write(frame, found)
        lines.write(frame, Detections.empty())
        assert not path.exists()
        assert lines.close() == str(path)
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert rows == [expected, {**expected, "detections": []}]
        with pytest.raises(ConfigError, match="exists"):
            JsonLines(path).check(source, device)
        again = JsonLines(path, overwrite=True)
        again.open(source, device)
        again.abort()
        assert len(path.read_text("utf-8").splitlines()) == 2
        capsys.readouterr()
        standard = JsonLines("-")
        standard.open(source, device)
        standard.write(frame, found)
        assert standard.close() == "-"
    assert json.loads(capsys.readouterr().out) == expected
    assert {p.name for p in tmp_path.iterdir()} == {"in.mp4", "out.jsonl"}
