"""Whole runs on the GPU: the same pictures, detections and times as on the CPU device."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import vidai
from tests import simdriver
from tests.cuda.conftest import BUDGET, SIMULATED, boxes_of, make_squares
from tests.cuda.keep import Keep
from tests.media import ORIENTATIONS, display_matrix, packet_bytes, video_times
from vidai.devices.cuda import CudaDevice
from vidai.errors import DecodeError, EncodeError, TransferError
from vidai.pipeline import Pipeline
from vidai.steps import Overlay, Redact
from vidai.transfers import Transfers

CLIPS: dict[str, dict[str, Any]] = {
    "h264": {"options": {"crf": "4", "bf": "2"}},
    "hevc": {"codec": "libx265"},
    "hevc 10 bit": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "av1": {"codec": "libsvtav1"},
    "vp9": {"codec": "libvpx-vp9"},
    "odd": {"width": 251, "height": 187, "draw": None, "codec": "libvpx-vp9"},
    "full range": {"pix_fmt": "yuvj420p"},
    "variable rate": {
        "pts": [0, 7, 8, 30, 31, 90, 91, 92, 200, 201, 300, 302],
        "time_base": Fraction(1, 100),
    },
}


def seen_on(device: str | CudaDevice, clip: Path, model: Path) -> Keep:
    keep = Keep()
    detector = vidai.Detector(model, device=device)
    Pipeline(str(clip), detector, steps=[Redact(shape="box"), Overlay()], sinks=[keep]).run()
    return keep


@pytest.mark.parametrize("kind", CLIPS)
def test_pictures_before_encoding_are_those_of_the_cpu(
    kind: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    suffix = ".webm" if "libvpx-vp9" in CLIPS[kind].values() else ".mp4"
    clip = make_squares(tmp_path / f"in{suffix}", **CLIPS[kind])
    ours, truth = seen_on(gpu, clip, tiny_model), seen_on("cpu", clip, tiny_model)
    expect_same(ours, truth)
    assert len(truth.kept) == 12


def expect_same(ours: Keep, truth: Keep) -> None:
    """The same pts, pictures and detections."""
    assert [pts for pts, _, _ in ours.kept] == [pts for pts, _, _ in truth.kept]
    for (_, planes, found), (_, wanted, expected) in zip(ours.kept, truth.kept, strict=True):
        assert found.to_dicts() == expected.to_dicts()
        for plane, want in zip(planes, wanted, strict=True):
            assert plane.shape == want.shape
            assert (plane == want).all()


def test_a_run_moves_no_picture_to_the_host(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    """The pictures that reach NVENC come back from the file, and all else of the source."""
    clip = make_squares(tmp_path / "in.mp4", frames=20, audio="aac")
    out, records = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    if SIMULATED:
        simdriver.reset()
    report = vidai.run(
        *(clip, out),
        model=tiny_model,
        device=gpu,
        records=records,
        max_host_bytes_per_frame=BUDGET,
        report=tmp_path / "report.json",
    )
    assert not report.warnings
    assert video_times(out) == video_times(clip)
    assert packet_bytes(out, "audio") == packet_bytes(clip, "audio")
    for index, line in enumerate(records.read_text().splitlines()):
        found = sorted((row["class_id"], row["box"]) for row in json.loads(line)["detections"])
        for (class_id, box), (want_id, want) in zip(found, sorted(boxes_of(index)), strict=True):
            assert class_id == want_id
            assert np.abs(np.array(box) - want).max() <= 1

    crossed = json.loads((tmp_path / "report.json").read_text())["transfers"]
    assert crossed["frames"] == 20
    assert crossed["per_frame"]["device_to_host_bytes"] < 8192
    assert crossed["per_frame"]["host_to_device_bytes"] < BUDGET
    # One copy out of the decoder, and the pictures are nowhere else.
    assert crossed["total"]["device_to_device_calls"] == 20
    assert crossed["per_frame"]["device_to_device_bytes"] == 256 * 256 * 1.5
    assert crossed["total"]["device_waits"] == 0
    if SIMULATED:
        expect_the_drivers_counts(report.transfers)


def expect_the_drivers_counts(transfers: Transfers) -> None:
    """What vidai says of copies between host and device is what the driver saw."""
    counters, ours = simdriver.counters(), transfers.bytes
    assert counters["d2h.bytes"] == ours["device_to_host"]
    assert counters["h2d.bytes"] == ours["host_to_device"] + ours["setup"]
    biggest = max(width * rows for kind, width, rows, _ in simdriver.copies() if kind == "d2h")
    assert biggest < 256 * 256  # not even a luma plane


@pytest.mark.simulated
@pytest.mark.parametrize("kind", ["h264", "hevc 10 bit", "odd"])
def test_nvenc_gets_the_very_pictures_that_the_cpu_draws(
    kind: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mkv", **CLIPS[kind])
    vidai.run(clip, tmp_path / "out.mp4", model=tiny_model, device=gpu, codec="hevc")
    truth, detector = Keep(), vidai.Detector(tiny_model, device="cpu")
    Pipeline(str(clip), detector, steps=[Overlay()], sinks=[truth]).run()
    encoded = simdriver.encoded_pictures()
    sums = [row[-1] for row in encoded if row[0] == encoded[-1][0]]  # of the last session
    assert sums == [crc_of(planes) for _, planes, _ in truth.kept]


def crc_of(planes: tuple[Any, Any, Any]) -> int:
    """CRC-32 of the picture as NV12 or P010, its sides made even."""
    y, u, v = planes
    y = np.pad(y, [(0, y.shape[0] % 2), (0, y.shape[1] % 2)], mode="edge")
    uv = np.stack([u, v], -1).reshape(u.shape[0], -1)
    shift = 0 if y.dtype == np.uint8 else 6
    return zlib.crc32(np.concatenate([y, uv]).astype(y.dtype).__lshift__(shift).tobytes())


@pytest.mark.parametrize(
    ("codec", "suffix", "clip_options"),
    [
        ("h264", ".mp4", {}),
        ("h264", ".mkv", {}),
        ("hevc", ".mp4", {"codec": "libx265", "pix_fmt": "yuv420p10le"}),
        ("hevc", ".mov", {"width": 251, "height": 187, "draw": None, "codec": "libvpx-vp9"}),
        ("av1", ".webm", {}),
    ],
)
def test_encodes_every_codec_with_times_colours_and_shape(
    codec: str,
    suffix: str,
    clip_options: dict[str, Any],
    gpu: CudaDevice,
    tmp_path: Path,
    tiny_model: Path,
) -> None:
    color = (1, 1, 1, 1)
    options = {"color": color, "aspect": Fraction(4, 3), **clip_options}
    clip = make_squares(tmp_path / "in.mkv", **options)
    out = tmp_path / f"out{suffix}"
    report = vidai.run(clip, out, model=tiny_model, device=gpu, codec=codec)
    assert not [line for line in report.warnings if "CPU" in line], report.warnings
    assert video_times(out) == video_times(clip)
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        source, result = before.streams.video[0], after.streams.video[0]
        assert result.codec_context.codec.canonical_name == codec
        if codec != "av1":
            assert (result.sample_aspect_ratio or 1) == (source.sample_aspect_ratio or 1)
        if codec == "hevc":
            assert result.codec_context.codec_tag == "hvc1"
        first, wanted = next(after.decode(result)), next(before.decode(source))
        assert bool(first.format.components[0].bits > 8) == ("pix_fmt" in clip_options)
        tags = [first.colorspace, first.color_range, first.color_primaries, first.color_trc]
        assert [int(tag) for tag in tags] == list(color)
        assert (first.width, first.height) == (wanted.width + wanted.width % 2,) * 1 + (
            wanted.height + wanted.height % 2,
        )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("name", ["turned 90", "turned 180", "mirrored", "transposed"])
def test_the_output_is_turned_as_the_source(
    name: str, suffix: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    matrix = display_matrix(*ORIENTATIONS[name])
    clip = make_squares(tmp_path / "in.mp4", frames=3, width=320, height=192, matrix=matrix)
    out = tmp_path / f"out{suffix}"
    for codec in ("h264", "hevc") if suffix == ".mp4" else ("h264",):
        vidai.run(clip, out, model=tiny_model, device=gpu, codec=codec, overwrite=True)
        with vidai.FileSource(clip) as before, vidai.FileSource(out) as after:
            assert before.info.orientation
            assert after.info.orientation == before.info.orientation


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("cut", [{}, {"start": 0.4}])
def test_sound_that_comes_first_is_whole(
    suffix: str, cut: dict[str, float], gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    """NVENC gives its first packet with the fourth frame: until then sound waits in the muxer."""
    clip = make_squares(tmp_path / "in.mkv", frames=40, audio="aac", options={"g": "5"})
    outputs = []
    for device in (gpu, "cpu"):
        out = tmp_path / f"{getattr(device, 'name', 'cpu')[:4]}{suffix}"
        report = vidai.run(clip, out, model=tiny_model, device=device, **cut)  # type: ignore[arg-type]
        assert not report.warnings
        outputs.append(out)
    assert packet_bytes(outputs[0], "audio") == packet_bytes(outputs[1], "audio")
    assert len(packet_bytes(outputs[0], "audio")[0]) > 10
    assert video_times(outputs[0]) == video_times(outputs[1])


def test_b_frames_get_times_that_decode_in_order(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=30)
    out = tmp_path / "out.mp4"
    vidai.run(clip, out, model=tiny_model, device=gpu, bframes=2)
    assert video_times(out) == video_times(clip)
    with av.open(str(out)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    pts, dts = (np.array([getattr(p, name) for p in packets]) for name in ("pts", "dts"))
    assert (pts != dts).any()
    assert (dts <= pts).all()
    assert (np.diff(dts) > 0).all()


NOT_FOR_NVDEC: dict[str, tuple[dict[str, Any], str]] = {
    "chroma": ({"pix_fmt": "yuv444p"}, "yuv444p"),
    "codec": ({"codec": "mpeg4", "options": {}}, "no mpeg4 decoder"),
    "profile": ({"options": {"qp": "0", "crf": "-1"}}, "profile High 4:4:4 Predictive"),
    "interlaced": ({"options": {"crf": "4", "x264-params": "tff=1"}}, "deinterlace"),
    "depth": ({"pix_fmt": "yuv420p10le", "options": {"crf": "4"}}, "High 10"),
    "size": ({"width": 40, "height": 40, "draw": None}, "takes a width from 48"),
}


@pytest.mark.parametrize("kind", NOT_FOR_NVDEC)
def test_what_nvdec_cannot_decode_is_uploaded_and_told(
    kind: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    options, words = NOT_FOR_NVDEC[kind]
    clip = make_squares(tmp_path / "in.mp4", **options)
    ours, truth = seen_on(gpu, clip, tiny_model), seen_on("cpu", clip, tiny_model)
    expect_same(ours, truth)
    report = vidai.run(clip, model=tiny_model, device=gpu, records=tmp_path / "out.jsonl")
    (told,) = report.warnings
    assert "decoded on the CPU" in told
    assert words in told
    height, width = (side + side % 2 for side in truth.kept[0][1][0].shape)
    samples = width * height * 3 // 2 * (2 if kind == "depth" else 1)
    uploads = report.transfers.sources["host_to_device", "picture decoded on the CPU"]
    assert uploads == (12 * samples, 12)
    gpu.strict = True
    with pytest.raises(DecodeError, match="strict-gpu"):
        vidai.run(clip, model=tiny_model, device=gpu, records=tmp_path / "strict.jsonl")
    assert not (tmp_path / "strict.jsonl").exists()


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_picture_cut_at_the_top_left_is_not_shifted(
    codec: str, suffix: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    whole = make_squares(tmp_path / "whole.mp4", codec={"h264": "libx264"}.get(codec, "libx265"))
    clip = filtered(whole, tmp_path / f"in{suffix}", codec, "crop_left=64:crop_top=32")
    ours, truth = seen_on(gpu, clip, tiny_model), seen_on("cpu", clip, tiny_model)
    assert truth.kept[0][1][0].shape == (224, 192)
    expect_same(ours, truth)


def filtered(source: Path, path: Path, codec: str, options: str) -> Path:
    """The clip with other headers: FFmpeg's h264_metadata or hevc_metadata."""
    with av.open(str(source)) as whole, av.open(str(path), "w") as out:
        video = whole.streams.video[0]
        output = out.add_stream_from_template(video, opaque=True)
        change = av.BitStreamFilterContext(f"{codec}_metadata={options}", video, output)
        for packet in whole.demux(video):
            for part in change.filter(packet if packet.size else None):
                part.stream = output
                out.mux(part)
    return path


def test_what_nvenc_cannot_encode_is_downloaded_and_told(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", codec="libx265", pix_fmt="yuv420p10le")
    out = tmp_path / "out.mp4"
    report = vidai.run(clip, out, model=tiny_model, device=gpu, codec="h264", preset="P1")
    (told,) = [line for line in report.warnings if "CPU" in line]
    assert "10 bit" in told
    assert video_times(out) == video_times(clip)
    downloads = report.transfers.sources["device_to_host", "picture for the encoder on the CPU"]
    assert downloads == (12 * 256 * 256 * 3, 12)
    gpu.strict = True
    with pytest.raises(EncodeError, match="strict-gpu"):
        vidai.run(clip, tmp_path / "strict.mp4", model=tiny_model, device=gpu, codec="h264")


def test_a_budget_names_what_breaks_it(gpu: CudaDevice, tmp_path: Path, tiny_model: Path) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=90, pix_fmt="yuv444p")
    out = tmp_path / "out.mp4"
    with pytest.raises(TransferError, match="picture decoded on the CPU"):
        vidai.run(*(clip, out), model=tiny_model, device=gpu, max_host_bytes_per_frame=BUDGET)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "veryfast"}, "P1"),
        ({"quality": 0}, "1 .best. to 51"),
        ({"bframes": 9}, "0 to 4"),
        ({"codec": "av1", "bframes": 1}, "takes none"),
    ],
)
def test_options_that_nvenc_would_ignore_are_refused(
    options: dict[str, Any], words: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=2)
    with pytest.raises(vidai.VidaiError, match=words):
        vidai.run(clip, tmp_path / "out.mp4", model=tiny_model, device=gpu, **options)


def test_a_cut_begins_where_it_should(gpu: CudaDevice, tmp_path: Path, tiny_model: Path) -> None:
    clip = make_squares(tmp_path / "in.mp4", frames=50)
    frames = vidai.detect(clip, model=tiny_model, device=gpu, start=0.6, end=1.2)
    assert [round(frame.time * 25) for frame, _ in frames] == list(range(15, 30))


def test_the_size_may_change_in_mid_stream(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip = joined(tmp_path, [{"frames": 8}, {"frames": 8, "width": 320, "height": 192}])
    sizes = []
    for frame, _ in vidai.detect(clip, model=tiny_model, device=gpu):
        sizes.append((frame.width, frame.height))
    assert sizes == [(256, 256)] * 8 + [(320, 192)] * 8
    out = tmp_path / "out.mp4"
    report = vidai.run(clip, out, model=tiny_model, device=gpu)
    assert report.frames == 16
    assert any("320x192" in line for line in report.warnings)


def test_an_odd_size_in_mid_stream_is_right_to_the_last_row(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    """Two VP9 sequences in one stream, with other colours as well."""
    clip = tmp_path / "in.mkv"
    parts: list[dict[str, Any]] = [
        {"color": (1, 1, 1, 1)},
        {"width": 321, "height": 187, "draw": None, "color": (9, 1, 1, 1)},
    ]
    with av.open(str(clip), "w") as out:
        stream = out.add_mux_stream("vp9", rate=25, width=256, height=256)
        stream.time_base = Fraction(1, 25)
        for number, options in enumerate(parts):
            part = make_squares(tmp_path / f"{number}.mkv", codec="libvpx-vp9", **options)
            with av.open(str(part)) as source:
                for index, packet in enumerate(p for p in source.demux(video=0) if p.size):
                    packet.time_base = Fraction(1, 25)
                    packet.pts = packet.dts = 12 * number + index
                    packet.stream = stream  # type: ignore[assignment]
                    out.mux(packet)
    ours, truth = seen_on(gpu, clip, tiny_model), seen_on("cpu", clip, tiny_model)
    assert [planes[0].shape for _, planes, _ in truth.kept] == [(256, 256)] * 12 + [(187, 321)] * 12
    expect_same(ours, truth)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_cut_may_begin_at_any_key_frame(
    suffix: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    """H.264's open groups begin with I pictures that bring no parameter sets of their own."""
    options = {"crf": "4", "g": "10", "bf": "2", "x264-params": "open-gop=1:scenecut=0"}
    clip = make_squares(tmp_path / f"in{suffix}", frames=50, options=options)

    def seen(device: Any) -> list[tuple[int, Any]]:
        frames = vidai.detect(clip, model=tiny_model, device=device, start=1.24)
        return [(frame.pts, found.to_dicts()) for frame, found in frames]

    assert len(seen("cpu")) > 10
    assert seen(gpu) == seen("cpu")


@pytest.mark.parametrize("bframes", ["0", "2"])
def test_a_picture_that_never_comes_moves_no_other(
    bframes: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    """AVI gives no pts, only the order."""
    clip = make_squares(
        tmp_path / "whole.avi", frames=60, options={"crf": "4", "bf": bframes, "g": "10"}
    )
    holed = tmp_path / "holed.avi"
    with av.open(str(clip)) as source, av.open(str(holed), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream = stream
            if number not in (11, 12, 13):
                out.mux(packet)
    ours = [frame.pts for frame, _ in vidai.detect(holed, model=tiny_model, device=gpu)]
    truth = [frame.pts for frame, _ in vidai.detect(holed, model=tiny_model, device="cpu")]
    assert ours[-20:] == truth[-20:]


def joined(folder: Path, parts: list[dict[str, Any]]) -> Path:
    """Elementary H.264 streams one after the other in a transport stream."""
    path = folder / "joined.ts"
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_mux_stream("h264", rate=25, width=256, height=256)
        stream.time_base = Fraction(1, 90_000)
        shift = 0
        for number, options in enumerate(parts):
            draw: Callable[[int], Any] | None = None
            options = {"draw": draw, **options} if "width" in options else options
            part = make_squares(folder / f"part{number}.ts", **options)
            times = []
            with av.open(str(part)) as source:
                for packet in source.demux(video=0):
                    if not packet.size or packet.pts is None or packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    times.append(packet.pts)
                    packet.stream = stream  # type: ignore[assignment]
                    out.mux(packet)
            shift = max(times) + 3600
    return path


def test_a_run_that_is_stopped_leaves_a_playable_part(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip, out = make_squares(tmp_path / "in.mp4", frames=200, audio="aac"), tmp_path / "out.mp4"

    def stop_early(frame: vidai.Frame, _: vidai.Detections) -> vidai.Frame:
        if frame.index == 10:
            pipeline.stop()
        return frame

    pipeline = Pipeline(
        str(clip),
        vidai.Detector(tiny_model, device=gpu),
        steps=[stop_early, Overlay()],
        sinks=[vidai.VideoFile(out)],
    )
    report = pipeline.run()
    assert report.interrupted
    assert report.ledger.balanced
    assert report.outputs == [str(tmp_path / "out.partial.mp4")]
    assert 10 < report.frames < 100
    assert len(video_times(tmp_path / "out.partial.mp4")) == report.frames
    assert sorted(tmp_path.iterdir()) == [clip, tmp_path / "out.partial.mp4"]


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_truncated_file_gives_what_is_there(
    suffix: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    whole = make_squares(tmp_path / f"whole{suffix}", frames=60, options={"crf": "4", "g": "10"})
    clip = tmp_path / f"in{suffix}"
    clip.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    out = tmp_path / "out.mp4"
    report = vidai.run(clip, out, model=tiny_model, device=gpu)
    assert report.ledger.balanced
    assert 20 < report.frames < 60
    assert len(video_times(out)) == report.frames
