"""A pipeline as a whole: exact detections, order, cuts, the ledger, and its bad days."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import vidai
from tests.media import (
    ORIENTATIONS,
    display_matrix,
    make_clip,
    packet_bytes,
    video_times,
)
from tests.squares import boxes_at, squares_clip
from tests.tiny_model import NAMES
from vidai.device import Device
from vidai.errors import ConfigError, DecodeError, ModelError, SinkError
from vidai.ops import draw
from vidai.pipeline import Sink
from vidai.types import Detections, Frame


def found_in(detections: Detections) -> list[tuple[int, list[int]]]:
    """(class, box) rounded to whole px, by class."""
    boxes = np.rint(detections.boxes).astype(int).tolist()
    return sorted(zip(detections.class_ids.tolist(), boxes, strict=True))


def test_detections_are_where_the_squares_are(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=20)
    count = 0
    for frame, detections in vidai.detect(clip, model=tiny_model):
        assert frame.index == count
        assert found_in(detections) == boxes_at(count)
        assert detections.names == NAMES
        assert (detections.scores > 0.5).all()  # 4:2:0 takes some colour from the edges
        assert (np.diff(detections.scores) <= 0).all()
        count += 1
    assert count == 20


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_detections_are_upright_whatever_the_rotation(
    name: str, tmp_path: Path, tiny_model: Path
) -> None:
    """The stored picture is turned so that it shows upright; so are the boxes."""
    from tests.squares import squares_at
    from tests.tiny_model import picture

    a, b, c, d = ORIENTATIONS[name]

    def stored(index: int) -> Any:
        upright = picture(squares_at(index))
        if a == 0:  # display (x, y) is stored (y, x), then flipped
            upright = upright.transpose(1, 0, 2)
        if a < 0 or b < 0:
            upright = upright[:, ::-1]
        if d < 0 or c < 0:
            upright = upright[::-1]
        return upright

    matrix = display_matrix(a, b, c, d)
    clip = squares_clip(tmp_path / "in.mp4", frames=3, draw=stored, matrix=matrix)
    out = tmp_path / "out.mp4"
    vidai.run(clip, out, model=tiny_model)
    for source in (clip, out):
        results = list(vidai.detect(source, model=tiny_model, conf=0.5))
        # In the output a label may hide a neighbouring square, never the first one's place.
        for index, (frame, detections) in enumerate(results):
            if source is clip:
                assert found_in(detections) == boxes_at(index)
            assert frame.info.orientation == results[0][0].info.orientation
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        turns = [next(c.decode(video=0)).rotation for c in (before, after)]
    assert turns[0] == turns[1]


def test_output_has_the_sources_times_and_sound(tmp_path: Path, tiny_model: Path) -> None:
    pts = [0, 7, 8, 30, 31, 90, 91, 92, 200, 201]  # of 1/100 s: a variable frame rate
    clip = squares_clip(
        tmp_path / "in.mp4", frames=10, pts=pts, time_base=Fraction(1, 100), audio="aac"
    )
    for name in ("out.mp4", "out.mkv", "out.mov"):
        out = tmp_path / name
        report = vidai.run(clip, out, model=tiny_model)
        assert report.outputs == [str(out)]
        assert video_times(out) == [Fraction(p, 100) for p in pts]
        assert packet_bytes(out, "audio") == packet_bytes(clip, "audio")


def test_undrawn_regions_stay_as_they_were(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=6)
    out = tmp_path / "out.mp4"
    vidai.run(clip, out, model=tiny_model, quality=10)
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        for a, b in zip(before.decode(video=0), after.decode(video=0), strict=True):
            corner = [x.to_ndarray(format="gray")[110:].astype(float) for x in (a, b)]
            assert np.square(corner[0] - corner[1]).mean() < 4  # PSNR above 42 dB
    assert_drawn(clip, out)


def assert_drawn(clip: Path, out: Path) -> None:
    """The first red square has an outline in the output that it had not."""
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        a, b = (
            next(c.decode(video=0)).to_ndarray(format="rgb24").astype(int) for c in (before, after)
        )
    assert np.abs(a - b).max() > 60


def test_ledger_and_report_account_for_every_frame(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=15)
    report = vidai.run(clip, model=tiny_model, records=tmp_path / "r.jsonl")
    assert report.ledger.received == report.ledger.processed == report.frames == 15
    assert report.ledger.balanced
    assert report.detections == dict.fromkeys(NAMES, 15)
    assert report.expected_frames == 15
    assert report.first_frame_seconds is not None
    assert 0 < report.first_frame_seconds <= report.seconds


def test_frames_in_flight_are_bounded(tmp_path: Path, tiny_model: Path) -> None:
    """A consumer that stands still stops the reader."""
    clip = squares_clip(tmp_path / "in.mp4", frames=60)
    with vidai.FileSource(clip) as source:
        pipeline = vidai.Pipeline(source, vidai.Detector(tiny_model))
        results = pipeline.results()
        next(results)
        bound = 2 * pipeline.device.workers + 4
        for _ in range(20):
            threading.Event().wait(0.01)
        assert pipeline.report.ledger.received <= bound
        results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("vidai-")]


def test_breaking_out_of_detect_ends_its_threads(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=60)
    results = vidai.detect(clip, model=tiny_model)
    for _ in results:
        break
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("vidai-")]


def test_max_frames_start_and_end(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=50)
    kept = [f.pts for f, _ in vidai.detect(clip, model=tiny_model, start=0.4, end=0.8)]
    every = [f.pts for f, _ in vidai.detect(clip, model=tiny_model)]
    assert kept == every[10:20]
    assert len(list(vidai.detect(clip, model=tiny_model, start=0.4, max_frames=3))) == 3


def test_a_step_may_be_any_function(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=4)
    seen: list[int] = []

    def step(frame: Frame, detections: Detections) -> Frame:
        seen.append(len(detections))
        return frame

    vidai.Pipeline(str(clip), vidai.Detector(tiny_model), steps=[step]).run()
    assert seen == [3, 3, 3, 3]


def test_an_error_in_a_step_leaves_nothing_behind(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=40)

    def step(frame: Frame, _: Detections) -> Frame:
        if frame.index == 7:
            raise RuntimeError("a bug in the user's step")
        return frame

    pipeline = vidai.Pipeline(
        str(clip),
        vidai.Detector(tiny_model),
        steps=[step],
        sinks=[vidai.VideoFile(tmp_path / "o.mp4"), vidai.JsonLines(tmp_path / "o.jsonl")],
    )
    with pytest.raises(RuntimeError, match="user's step"):
        pipeline.run()
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
    assert not [t for t in threading.enumerate() if t.name.startswith("vidai-")]


def test_a_sink_that_fails_to_close_takes_the_others_with_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=3)

    class Failing(vidai.JsonLines):
        def close(self, *, partial: bool = False) -> str:
            raise SinkError("the disk is full")

    sinks: list[Sink] = [Failing(tmp_path / "o.jsonl"), vidai.VideoFile(tmp_path / "o.mp4")]
    with pytest.raises(SinkError, match="full"):
        vidai.Pipeline(str(clip), vidai.Detector(tiny_model), sinks=sinks).run()
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_detector_errors_come_out_of_the_loop(
    tmp_path: Path, tiny_model: Path, device: Device
) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=10)
    detector = vidai.Detector(tiny_model, device=device)
    object.__setattr__(detector.model, "onnx", b"no model at all")
    with pytest.raises(ModelError, match="cannot load the model"):
        vidai.Pipeline(str(clip), detector).run()


def test_a_file_without_one_whole_frame_is_an_error(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=10)
    with pytest.raises(DecodeError, match="no frame"):
        vidai.Pipeline(vidai.FileSource(clip, start=0.39, end=0.395), None).run()


def test_resolution_change_is_kept_to_the_first_size(tmp_path: Path, tiny_model: Path) -> None:
    small, large = tmp_path / "a.ts", tmp_path / "b.ts"
    squares_clip(small, frames=5, pix_fmt="yuv420p")
    make_clip(large, frames=5, width=192, height=160, start=0.4)
    clip = tmp_path / "both.ts"
    clip.write_bytes(small.read_bytes() + large.read_bytes())
    out = tmp_path / "out.mp4"
    report = vidai.run(clip, out, model=tiny_model)
    assert report.frames == 10
    with av.open(str(out)) as container:
        sizes = [(f.width, f.height) for f in container.decode(video=0)]
    assert sizes == [(128, 128)] * 10


def test_unknown_classes_and_values_out_of_range(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="dragon"):
        vidai.Detector(tiny_model, classes=["dragon"])
    with pytest.raises(ConfigError, match="99"):
        vidai.Detector(tiny_model, classes=[99])
    with pytest.raises(ConfigError, match="conf"):
        vidai.Detector(tiny_model, conf=1.5)
    detector = vidai.Detector(tiny_model, classes=["green", 2, "0"])
    assert detector.classes == frozenset({0, 1, 2})


def sound_end(path: Path) -> float:
    with av.open(str(path)) as container:
        ends = [
            (p.pts + (p.duration or 0)) * p.time_base for p in container.demux(audio=0) if p.pts
        ]
        return float(max(ends))


def test_max_frames_ends_the_sound_with_the_picture(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=100, audio="aac")
    out = tmp_path / "out.mp4"
    vidai.run(clip, out, model=tiny_model, max_frames=25)
    assert video_times(out)[-1] == Fraction(24, 25)
    assert 0.95 < sound_end(out) < 1.05


def test_a_cut_of_a_loosely_interleaved_file_keeps_its_sound(
    tmp_path: Path, tiny_model: Path
) -> None:
    """All the sound lies before the picture in this file."""
    clip = squares_clip(tmp_path / "in.mkv", frames=120, audio="aac", options={"g": "10"})
    out = tmp_path / "out.mkv"
    vidai.run(clip, out, model=tiny_model, start=3.0, end=4.0)
    assert len(video_times(out)) == 25
    assert 0.95 < sound_end(out) < 1.05


def test_two_video_files_of_one_run_are_equal(tmp_path: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=60, audio="aac")
    paths = [tmp_path / "a.mp4", tmp_path / "b.mkv"]
    with vidai.FileSource(clip, start=1.0) as source:
        vidai.Pipeline(source, sinks=[vidai.VideoFile(p) for p in paths]).run()
    sounds = [packet_bytes(p, "audio") for p in paths]
    assert sounds[0] == sounds[1]
    assert len(sounds[0][0]) > 50


def test_a_cut_moves_sound_and_picture_by_one_time(tmp_path: Path) -> None:
    """At one frame a second the cut begins with the first picture after its start."""
    clip = squares_clip(tmp_path / "in.mp4", frames=8, rate=1, audio="aac", options={"g": "1"})
    out = tmp_path / "out.mp4"
    with vidai.FileSource(clip, start=2.5) as source:
        vidai.Pipeline(source, sinks=[vidai.VideoFile(out)]).run()
    assert video_times(out) == [Fraction(i) for i in range(5)]
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        sounds = [
            {bytes(p): p.pts or 0 for p in c.demux(audio=0) if p.size} for c in (before, after)
        ]
    moved = {sounds[0][data] - pts for data, pts in sounds[1].items()}
    assert moved == {3 * 48000}


def test_sound_with_unnamed_channels_goes_into_mp4(tmp_path: Path) -> None:
    clip = squares_clip(tmp_path / "in.avi", frames=25, codec="mpeg4", pix_fmt="yuv420p",
                        audio="pcm_s16le", options={})  # fmt: skip
    out = tmp_path / "out.mp4"
    vidai.Pipeline(str(clip), sinks=[vidai.VideoFile(out)]).run()
    joined = [b"".join(packet_bytes(p, "audio")[0]) for p in (clip, out)]
    assert joined[0] == joined[1]


def test_an_error_in_progress_ends_the_run(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=2000)

    def progress(_: vidai.Report) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        vidai.run(clip, tmp_path / "o.mp4", model=tiny_model, progress=progress)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_stop_leaves_a_partial_file(tmp_path: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=200)
    pipeline: vidai.Pipeline

    def step(frame: Frame, _: Detections) -> Frame:
        if frame.index == 5:
            pipeline.stop()
        return frame

    pipeline = vidai.Pipeline(str(clip), steps=[step], sinks=[vidai.VideoFile(tmp_path / "o.mp4")])
    report = pipeline.run()
    assert report.interrupted
    assert report.ledger.balanced
    assert report.outputs == [str(tmp_path / "o.partial.mp4")]
    assert 5 < len(video_times(tmp_path / "o.partial.mp4")) < 200


def test_a_failed_run_has_a_balanced_ledger(tmp_path: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=40)

    def step(frame: Frame, _: Detections) -> Frame:
        if frame.index == 3:
            raise RuntimeError("no")
        return frame

    pipeline = vidai.Pipeline(str(clip), steps=[step])
    with pytest.raises(RuntimeError):
        pipeline.run()
    ledger = pipeline.report.ledger
    assert (ledger.processed, set(ledger.failed)) == (3, {"RuntimeError"})
    assert ledger.balanced


def test_a_sink_whose_abort_fails_does_not_hang_the_run(tmp_path: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=5)

    class Stubborn(vidai.JsonLines):
        def write(self, frame: Frame, detections: Detections) -> None:
            raise SinkError("full")

        def abort(self) -> None:
            super().abort()
            raise OSError("worse")

    sinks: list[Sink] = [Stubborn(tmp_path / "o.jsonl"), vidai.VideoFile(tmp_path / "o.mp4")]
    with pytest.raises(SinkError, match="full"):
        vidai.Pipeline(str(clip), sinks=sinks).run()
    assert not (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4", "mov", "ts"])
def test_every_container_can_be_cut_with_its_sound(suffix: str, tmp_path: Path) -> None:
    codec, sound = ("mpeg4", "mp2") if suffix == "avi" else ("libx264", "aac")
    clip = make_clip(
        tmp_path / f"in.{suffix}", codec=codec, audio=sound, frames=150, options={"g": "25"}
    )
    out = tmp_path / "out.mp4"
    with vidai.FileSource(clip, start=3.0) as source:
        report = vidai.Pipeline(source, sinks=[vidai.VideoFile(out)], max_frames=50).run()
    assert report.frames == 50
    assert video_times(out)[0] == 0
    assert 1.9 < sound_end(out) < 2.1


def test_max_frames_waits_for_sound_that_lags_in_the_file(tmp_path: Path) -> None:
    """Here all the picture lies before the sound of its second."""
    clip = make_clip(tmp_path / "in.mkv", frames=100, audio="aac", options={"bf": "0"})
    late = tmp_path / "late.mkv"
    loose = {"max_interleave_delta": "1"}  # µs: packets are written in the order of muxing
    with (
        av.open(str(clip)) as source,
        av.open(str(late), "w", container_options=loose) as target,
    ):
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        packets = [p for p in source.demux() if p.size]
        late_by = {"audio": Fraction(4, 5), "video": Fraction(0)}
        packets.sort(key=lambda p: (p.pts or 0) * p.time_base + late_by[p.stream.type])
        for packet in packets:
            packet.dts, packet.stream = packet.pts, streams[packet.stream_index]
            target.mux_one(packet)
    with av.open(str(late)) as container:
        kinds = [p.stream.type for p in container.demux() if p.size]
    assert kinds.index("audio") > 10
    out = tmp_path / "out.mkv"
    vidai.Pipeline(str(late), sinks=[vidai.VideoFile(out)], max_frames=50).run()
    assert 1.9 < sound_end(out) < 2.1


def test_colours_fit_a_converted_12_bit_picture(tmp_path: Path) -> None:
    """The stream has 12 bits, the surface it is drawn on has 10."""
    clip = make_clip(tmp_path / "in.mkv", codec="libx265", pix_fmt="yuv422p12le", frames=1)
    frame, _ = next(vidai.Pipeline(str(clip)).results())
    boxes = np.array([[8, 8, 40, 40]], np.float32)
    drawn = draw(frame, boxes, np.array([[255, 255, 255]], np.uint8), thickness=4)
    assert (drawn.rgb()[7:9, 12:36] > 250).all()


def test_a_pipeline_runs_once(tmp_path: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=2)
    pipeline = vidai.Pipeline(str(clip))
    pipeline.run()
    with pytest.raises(ConfigError, match="runs once"):
        pipeline.run()


def test_a_loop_left_open_does_not_keep_the_program_alive(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=2000)
    code = f"import vidai; g = vidai.detect({str(clip)!r}, model={str(tiny_model)!r}); next(g)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_detect_warns_of_damage(tmp_path: Path, tiny_model: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=60)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.warns(UserWarning, match="damaged"):
        assert list(vidai.detect(clip, model=tiny_model))
    with pytest.raises(DecodeError, match="strict"):
        list(vidai.detect(clip, model=tiny_model, strict=True))


def test_a_failed_run_is_reported_too(tmp_path: Path, tiny_model: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=60)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    report = tmp_path / "report.json"
    with pytest.raises(DecodeError):
        vidai.run(clip, tmp_path / "o.mp4", model=tiny_model, strict=True, report=report)
    account = json.loads(report.read_text())
    assert "damaged" in account["error"]
    assert account["outputs"] == []
    assert not (tmp_path / "o.mp4").exists()


def test_outputs_of_one_name_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=2)
    one = tmp_path / "one.mp4"
    for names in ({"records": one}, {"report": one}):
        with pytest.raises(ConfigError, match="two outputs"):
            vidai.run(clip, one, model=tiny_model, **names)  # type: ignore[arg-type]
        assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_detectors_keep_their_sessions(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=30)
    detector = vidai.Detector(tiny_model)
    made = 0
    session = detector.device.session

    def counted(model: bytes, *how: Any) -> Any:
        nonlocal made
        made += 1
        return session(model, *how)

    detector.device.session = counted  # type: ignore[method-assign,assignment]
    for _ in range(4):
        vidai.Pipeline(str(clip), detector).run()
    assert made <= detector.device.workers


@pytest.mark.parametrize("value", [0, -1])
def test_max_frames_is_positive(value: int, tmp_path: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=2)
    with pytest.raises(ConfigError, match="max_frames"):
        vidai.Pipeline(str(clip), max_frames=value)


def test_classes_may_be_text_or_numpy_and_never_nothing(tiny_model: Path) -> None:
    assert vidai.Detector(tiny_model, classes="red, blue").classes == frozenset({0, 2})
    assert vidai.Detector(tiny_model, classes=np.array([0, 1])).classes == frozenset({0, 1})
    empties: list[Any] = [[], "", ","]
    for empty in empties:
        with pytest.raises(ConfigError, match="none"):
            vidai.Detector(tiny_model, classes=empty)
    with pytest.raises(ConfigError, match="did you mean green"):
        vidai.Detector(tiny_model, classes=["gren"])


@pytest.fixture(scope="module")
def centerface() -> Iterator[Path]:
    from vidai.models.catalog import resolve

    try:
        yield resolve("centerface")
    except ModelError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the model centerface cannot be had here: {error}")


def test_anonymize_hides_the_real_face(tmp_path: Path, centerface: Path) -> None:
    """After anonymizing, the face has lost its detail and is found no more; the rest is kept."""
    sample = Path(__file__).parents[1] / "samples" / "face.mp4"
    out = tmp_path / "out.mp4"
    report = vidai.run(sample, out, pipeline="anonymize", max_frames=30, quality=12)
    assert report.detections["face"] == 30
    before = list(vidai.detect(sample, model="centerface", max_frames=30))
    after = list(vidai.detect(out, model="centerface", conf=0.5))
    for (frame, faces), (hidden, _) in zip(before, after, strict=True):
        assert len(faces) == 1
        x0, y0, x1, y1 = faces.boxes[0].astype(int)
        assert 40 < x1 - x0 < 200
        assert y1 - y0 > x1 - x0
        inside = (slice(y0 + 10, y1 - 10), slice(x0 + 10, x1 - 10))
        assert detail(hidden.rgb()[inside]) < 0.2 * detail(frame.rgb()[inside])
        far = (slice(0, 360), slice(500, 640))
        difference = hidden.rgb()[far].astype(int) - frame.rgb()[far]
        assert np.abs(difference).mean() < 3
    assert sum(len(found) for _, found in after) < 3


def detail(image: Any) -> float:
    """Mean squared difference of neighbouring pixels."""
    return float(np.square(np.diff(image.astype(float), axis=1)).mean())


def test_yolox_finds_people_in_a_real_clip(shared: Path) -> None:
    clip, model = shared / "clips" / "pedestrians_576p.avi", shared / "models" / "yolox_nano.onnx"
    counts = [
        sum(detections.name(int(i)) == "person" for i in detections.class_ids)
        for _, detections in vidai.detect(clip, model=model, max_frames=5)
    ]
    assert min(counts) >= 4
