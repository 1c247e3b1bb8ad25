"""The worker as a whole, with real cameras: GStreamer's RTSP server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import av
import pytest
import yaml

from tests.live.camera import Camera, Mount, require_gstreamer
from tests.media import make_clip
from tests.tiny_model import write_tiny_model
from vidai.errors import ConfigError
from vidai.live.config import worker_config
from vidai.live.outlets import folder_names
from vidai.live.output import Record
from vidai.live.status import StreamStatus
from vidai.live.worker import Worker
from vidai.report import Ledger
from vidai.sources.live import LiveSource

PATIENCE = 60.0  # s for what must come; the machine may be busy
SECRET = "pa55word"


def until(true: Callable[[], Any], what: str) -> Any:
    """What it gives, once that is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if answer := true():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited {PATIENCE:g} s: {what}")


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    require_gstreamer()
    mounts = {
        "/a": Mount("clock", width=256, height=160),
        "/b": Mount("pattern", width=128, height=128, audio="aac"),
    }
    with Camera(mounts, user="viewer", password=SECRET) as camera:
        yield camera


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    write_tiny_model(path)
    return path


@pytest.fixture
def config(tmp_path: Path, model: Path, camera: Camera) -> dict[str, Any]:
    outputs: list[Any] = ["jsonl", {"record": {"segment": 2}}, {"hls": {"always": True}}]
    return {
        "model": str(model),
        "http": {"port": 0},
        "state": str(tmp_path / "state"),
        "streams": {
            "a": {"url": camera.url("/a"), "outputs": outputs},
            "b": {"url": camera.url("/b"), "outputs": outputs, "analyze_fps": 2},
        },
    }


class Records:
    """Those that a worker told of, by stream."""

    def __init__(self) -> None:
        self.all: list[Record] = []

    def __call__(self, record: Record) -> None:
        self.all.append(record)

    def of(self, stream: str) -> list[Record]:
        return [record for record in self.all if record.stream == stream]


def status_of(worker: Worker, name: str) -> StreamStatus:
    return next(stream for stream in worker.status().streams if stream.name == name)


def is_live(worker: Worker, name: str) -> bool:
    return status_of(worker, name).state == "live"


def ledgers(worker: Worker) -> dict[str, tuple[Ledger, dict[str, Any]]]:
    """Of every stream, as it was told at its end."""
    told = {}
    for event in worker.events.since():
        if event.kind == "ledger":
            data = event.data
            told[str(event.stream)] = (
                Ledger(data["received"], data["processed"], data["dropped"], data["failed"]),
                data,
            )
    return told


def ask(worker: Worker, path: str, body: Any = None, method: str | None = None) -> Any:
    request = urllib.request.Request(
        f"{worker.url}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {worker.token}", "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read()


def test_streams_are_found_told_recorded_and_shown(
    config: dict[str, Any], camera: Camera, tmp_path: Path
) -> None:
    records = Records()
    config["streams"]["nobody"] = {"url": f"rtsp://viewer:{SECRET}@127.0.0.1:9/x"}
    with Worker(config, on_record=records) as worker:
        until(lambda: len(records.of("a")) > 25 and len(records.of("b")) > 4, "records")
        assert status_of(worker, "nobody").state == "retrying"
        assert ask(worker, "/healthz")
        assert ask(worker, "/readyz")
        until(lambda: b".m4s" in ask(worker, "/live/b/live.m3u8"), "live video")
        assert ask(worker, "/snapshot/a.jpg").startswith(b"\xff\xd8")
        metrics = ask(worker, "/metrics").decode()
        assert 'vidai_frames_received_total{stream="a"}' in metrics
        told = json.dumps(worker.status().to_dict()) + metrics + str(worker.events.since())
    # The red square is found in every picture, under one id.
    found = [record.detections for record in records.of("a")]
    assert all(len(detections) == 1 for detections in found[2:])
    ids = [int(i) for d in found[2:] if d.track_ids is not None for i in d.track_ids]
    assert len(ids) == len(found) - 2
    assert len(set(ids)) <= 1 + len(ids) // 6, "it jumps back now and then"
    assert [r.frame for r in records.of("a")] == sorted({r.frame for r in records.of("a")})
    # b has two analyses a second, and ten pictures.
    b, data = ledgers(worker)["b"]
    assert b.balanced
    assert data["waiting"] == 0
    assert data["analysed"] == len(records.of("b")) < b.processed / 3
    a, data = ledgers(worker)["a"]
    assert a.balanced
    assert not a.failed
    assert data["analysed"] == a.processed
    lines = (
        next(iter((tmp_path / "state" / "streams" / "a" / "jsonl").glob("*.jsonl")))
        .read_text()
        .splitlines()
    )
    assert [json.loads(line)["frame"] for line in lines] == [r.frame for r in records.of("a")]
    recorded = sorted((tmp_path / "state" / "streams" / "b" / "record").rglob("*.mp4"))
    pictures = 0
    for path in recorded:
        with av.open(str(path)) as file:
            assert file.streams.audio, "the sound is kept"
            pictures += sum(1 for _ in file.decode(video=0))
    assert pictures == pytest.approx(b.received, abs=12), "all but the first GOP at most"
    assert SECRET not in told + json.dumps(data)


def test_a_camera_that_comes_back_goes_on(config: dict[str, Any], tmp_path: Path) -> None:
    require_gstreamer()
    records = Records()
    with Camera({"/a": Mount("clock", width=256, height=160)}) as camera:
        config["streams"] = {"a": {"url": camera.url("/a"), "outputs": ["jsonl"]}}
        with Worker(config, on_record=records) as worker:
            until(lambda: len(records.all) > 5, "records")
            for _ in range(3):
                camera.kill()
                until(lambda: status_of(worker, "a").state == "retrying", "the loss")
                before = len(records.all)
                camera.restart()
                until(lambda b=before: bool(len(records.all) > b + 5), "records again")  # type: ignore[misc]
            assert status_of(worker, "a").reconnects == 3
            assert status_of(worker, "a").error is None
            camera.switch("/a", Mount("clock", codec="h265", width=320, height=192))
            until(lambda: status_of(worker, "a").codec == "hevc", "another codec")
            until(lambda: records.all[-1].width == 320, "another size")
    ledger, data = ledgers(worker)["a"]
    assert ledger.balanced
    assert not data["waiting"]
    assert data["analysed"] == len(records.all)
    kinds = [event.kind for event in worker.events.since() if event.stream == "a"]
    assert kinds.count("lost") >= 4
    assert kinds.count("connected") >= 5
    times = [record.time for record in records.all]
    assert times == sorted(times)


def test_a_new_size_within_a_connection_begins_new_files(
    config: dict[str, Any], tmp_path: Path
) -> None:
    require_gstreamer()
    records = Records()
    with Camera({"/a": Mount("clock", width=256, height=160)}) as camera:
        outputs = [{"record": {"segment": 3600}}, {"hls": {"always": True}}]
        config["streams"] = {"a": {"url": camera.url("/a"), "outputs": outputs}}
        with Worker(config, on_record=records) as worker:
            until(lambda: len(records.all) > 10, "records")
            camera.resize("/a", 384, 224)
            until(lambda: records.all[-1].width == 384, "the new size")
            known = len(records.all)
            until(lambda: len(records.all) > known + 15, "more of it")
    sizes = []
    for path in sorted((tmp_path / "state" / "streams" / "a" / "record").rglob("*.mp4")):
        with av.open(str(path)) as file:
            assert sum(1 for _ in file.decode(video=0)) > 5
            sizes.append(file.streams.video[0].width)
    assert sizes[0] == 256
    assert sizes[-1] == 384
    assert ledgers(worker)["a"][0].balanced


def test_streams_come_change_and_go_while_it_runs(config: dict[str, Any], camera: Camera) -> None:
    records = Records()
    b = config["streams"].pop("b")
    with Worker(config, on_record=records) as worker:
        until(lambda: len(records.of("a")) > 3, "records")
        ask(worker, "/api/streams", {"name": "b", **b})
        until(lambda: records.of("b"), "the new stream")
        ask(worker, "/api/streams/b", {"analyze_fps": 9}, "PATCH")
        until(lambda: status_of(worker, "b").wanted_fps == 9, "its new rate")
        until(lambda: is_live(worker, "b"), "it again")
        with pytest.raises(HTTPError) as refused:
            ask(worker, "/api/streams", {"name": "b", **b})
        assert "already" in refused.value.read().decode()
        refused.value.close()
        assert SECRET not in ask(worker, "/api/streams/b").decode()
        ask(worker, "/api/streams/b", method="DELETE")
        assert [s.name for s in worker.status().streams] == ["a"]
        ask(worker, "/api/streams", {"name": "b", **b, "url": camera.url("/a")})
        assert status_of(worker, "a").connections == 1
        assert not status_of(worker, "a").ledger.dropped
    with Worker(config, on_record=records) as again:  # what was added is still there
        assert [s.name for s in again.status().streams] == ["a", "b"]
        until(lambda: is_live(again, "b"), "what was added before")


def test_what_cannot_work_is_told_in_a_sentence(config: dict[str, Any], tmp_path: Path) -> None:
    url = config["streams"]["a"]["url"]
    rule = {"name": "gate", "classes": ["zebra"]}
    with Worker({**config, "streams": {}}) as worker:
        for settings, told in (
            ({"url": url, "outputs": ["carrier-pigeon"]}, "no such output"),
            ({"url": url, "rules": [rule]}, "finds no zebra"),
            ({"url": "gopher://127.0.0.1"}, "gopher"),
            ({}, "url: is missing"),
        ):
            with pytest.raises(ConfigError, match=told) as wrong:
                worker.add("x", settings)
            assert SECRET not in str(wrong.value)
        assert worker.status().streams == []
        with pytest.raises(ConfigError, match="another worker"):
            Worker(config).start()
        with pytest.raises(ConfigError, match="no stream nobody"):
            worker.remove("nobody")


def test_a_stream_that_does_not_fit_is_refused(config: dict[str, Any]) -> None:
    config["analysis"] = {"budget_fps": 4}
    config["defaults"] = {"least_fps": 3}
    with Worker(config) as worker:
        states = {stream.name: stream for stream in worker.status().streams}
        assert states["b"].state == "refused"
        assert "cannot be added: it needs 2 analyses a second" in (states["b"].error or "")
        until(lambda: is_live(worker, "a"), "the first")
        worker.remove("a")
        until(lambda: is_live(worker, "b"), "there is room now, which is seen")


def test_a_budget_is_shared_and_each_step_told(config: dict[str, Any], camera: Camera) -> None:
    records = Records()
    config["analysis"] = {"budget_fps": 6}
    config["streams"]["a"] |= {"analyze_fps": 10, "priority": 1}
    config["streams"]["b"] |= {"analyze_fps": 4}
    with Worker(config, on_record=records) as worker:
        until(lambda: len(records.of("a")) > 10 and len(records.of("b")) > 1, "records")
        granted = {s.name: s.granted_fps or 0.0 for s in worker.status().streams}
        assert sum(granted.values()) <= 6
        assert granted["a"] >= 5
        assert granted["b"] < 4
        worker.remove("a")
        until(lambda: status_of(worker, "b").granted_fps == 4, "the rate rises again")
    steps = [e.data for e in worker.events.since() if e.kind == "rate" and e.stream == "b"]
    assert steps
    assert all(step["before"] != step["after"] for step in steps)
    assert steps[-1]["after"] == 4


def test_the_process_reloads_on_change_and_closes_all_on_sigterm(
    config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "cameras.yaml"
    b = config["streams"].pop("b")
    config |= {"model": "tiny.onnx", "state": "state"}
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "vidai", "serve", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines: list[dict[str, Any]] = []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda: lines.extend(map(json.loads, process.stderr)))  # type: ignore[arg-type]
        reader.start()

        def told(kind: str, stream: str | None = None) -> list[dict[str, Any]]:
            return [x for x in lines if x.get("event") == kind and x.get("stream") == stream]

        try:
            until(lambda: told("connected", "a"), "the first stream")
            path.write_text(yaml.safe_dump({**config, "streams": {"b": b, **config["streams"]}}))
            until(lambda: told("connected", "b"), "the stream that was written into the file")
            path.write_text("streams: [")
            until(lambda: told("reload-failed"), "the broken file")
            path.write_text(yaml.safe_dump({**config, "streams": {"b": b}}))
            os.utime(path, ns=(1, 1))
            process.send_signal(signal.SIGHUP)
            until(lambda: told("removed", "a"), "the stream that was taken out of the file")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            reader.join()
    assert told("stopped")[0]["message"] == "all files are closed"
    assert SECRET not in json.dumps(lines)
    data = told("ledger", "b")[0]["data"]
    assert data["received"] == data["processed"] + sum(data["dropped"].values())
    for path in (tmp_path / "state" / "streams" / "b" / "record").rglob("*.mp4"):
        with av.open(str(path)) as file:
            assert sum(1 for _ in file.decode(video=0))


# What fails, and whom that reaches. These streams are files.


@pytest.fixture
def files(tmp_path: Path, model: Path) -> dict[str, Any]:
    clip = make_clip(tmp_path / "clip.mp4", frames=30, width=128, height=96)
    stream = {"url": str(clip), "loop": True, "outputs": ["jsonl"]}
    return {
        "model": str(model),
        "http": None,
        "state": str(tmp_path / "state"),
        "streams": {"a": stream, "b": stream},
    }


def goes_on(worker: Worker, name: str) -> bool:
    until(lambda: is_live(worker, name), f"{name} is live")
    before = status_of(worker, name).ledger.processed
    return bool(until(lambda: status_of(worker, name).ledger.processed > before, f"{name} goes on"))


def kept_changes(tmp_path: Path) -> Any:
    path = tmp_path / "state" / "changes.yaml"
    if not path.exists():
        return {}
    assert path.stat().st_mode & 0o777 == 0o600
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rules": [{"name": "gate", "classes": ["zebra"]}]}, "finds no zebra"),
        ({"steps": [{"redact": {"classes": ["zebra"]}}]}, "finds no zebra"),
        ({"outputs": [{"jsonl": {"path": "{file}"}}]}, "cannot write in the folder"),
        ({"outputs": [{"jsonl": {"path": "{of a}"}}]}, "another output writes"),
        ({"outputs": [{"jsonl": {"path": "a\0b"}}]}, "null"),
    ],
)
def test_settings_that_cannot_work_change_nothing(
    files: dict[str, Any], tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    folder = tmp_path / "state" / "streams" / "a" / "jsonl"
    text = json.dumps(settings).replace("{file}", files["model"]).replace("{of a}", str(folder))
    settings = json.loads(text)
    with Worker(files) as worker:
        assert goes_on(worker, "b")
        with pytest.raises((ConfigError, ValueError), match=told):
            worker.change("b", settings)
        with pytest.raises((ConfigError, ValueError), match=told):
            worker.add("c", {**files["streams"]["b"], **settings})
        assert goes_on(worker, "a")
        assert goes_on(worker, "b")
        assert [stream.name for stream in worker.status().streams] == ["a", "b"]
        assert worker.stream_config("b") == {**files["streams"]["b"], "outputs": [{"jsonl": {}}]}
        assert not kept_changes(tmp_path)
        worker.change("b", {"analyze_fps": 3})
        assert kept_changes(tmp_path)["b"]["analyze_fps"] == 3
    assert worker.stop()


def test_what_is_not_looked_for_can_be_neither_redacted_nor_a_rule(files: dict[str, Any]) -> None:
    """It would be shown as it is."""
    files |= {"classes": ["red"], "streams": {}}
    clip = {"url": "clip.mp4", "outputs": []}
    with Worker(files) as worker:
        for settings in (
            {"steps": [{"redact": {"classes": ["red", "green"]}}]},
            {"rules": [{"name": "gate", "classes": ["green"]}]},
        ):
            with pytest.raises(ConfigError, match="the model finds no green; it knows red"):
                worker.add("a", {**clip, **settings})
        worker.add("a", {**clip, "steps": [{"redact": {"classes": ["red"]}}]})


def test_a_stream_without_a_folder_is_refused_and_the_others_run(
    files: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "state" / "streams").mkdir(parents=True)
    (tmp_path / "state" / "streams" / "a").write_text("in the way")
    with Worker(files) as worker:
        assert status_of(worker, "a").state == "refused"
        assert "cannot make the folder" in (status_of(worker, "a").error or "")
        assert goes_on(worker, "b")


def test_a_stream_that_cannot_begin_leaves_nothing_open(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ConfigError("tracking needs the package trackers")

    del files["streams"]["b"]
    with monkeypatch.context() as without, Worker(files) as worker:
        assert goes_on(worker, "a")
        without.setattr("vidai.live.stream.Tracker", missing)
        with pytest.raises(ConfigError, match="needs the package trackers"):
            worker.change("a", {"analyze_fps": 3})
        assert status_of(worker, "a").state == "refused"
        without.undo()
        worker.change("a", {"analyze_fps": 3})
        assert goes_on(worker, "a")


def test_a_file_that_cannot_work_leaves_its_streams_as_they_are(
    files: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(yaml.safe_dump(files))
    with Worker(path) as worker:
        assert goes_on(worker, "a")
        line = {"name": "line", "line": [[0, 0], [1, 1]]}
        worker.change("b", {"rules": [line]})
        rules = [{"name": "gate", "classes": ["zebra"]}]
        streams = {name: {**files["streams"][name], "rules": rules} for name in "ab"}
        elsewhere = {"state": str(tmp_path / "elsewhere"), "defaults": {"track": False}}
        path.write_text(yaml.safe_dump({**files, "streams": streams}))
        worker.reload()
        assert goes_on(worker, "a")
        told = [e for e in worker.events.since() if e.kind == "reload-failed" and e.stream == "a"]
        assert told
        assert "the model finds no zebra" in told[-1].text
        assert told[-1].text.endswith("a goes on with the settings that it had")
        # Defaults that do not go with a stream that was changed.
        path.write_text(yaml.safe_dump({**files, "streams": {}, **elsewhere}))
        worker.reload()
        assert [stream.name for stream in worker.status().streams] == ["b"]
        assert goes_on(worker, "b")
        worker.remove("b")
        assert kept_changes(tmp_path) == {}, "in the folder that it began with"
        assert not (tmp_path / "elsewhere").exists()


def test_nothing_begins_before_the_model_is_there_or_after_the_end(
    files: dict[str, Any], tmp_path: Path
) -> None:
    worker = Worker(files)
    with worker:
        pass
    with pytest.raises(ConfigError, match="starts or ends"):
        worker.add("c", files["streams"]["a"])
    assert not kept_changes(tmp_path)


def test_a_keyframe_that_was_waited_for_is_no_stream_without_pictures(
    files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first packet completes no picture where later ones are shown before the next."""
    clip = make_clip(tmp_path / "b.mp4", frames=20, width=128, height=96, options={"bf": "2"})
    packets = LiveSource.packets

    def late(source: LiveSource) -> Iterator[Any]:
        time.sleep(1.0)
        return packets(source)

    monkeypatch.setattr(LiveSource, "packets", late)
    files["streams"] = {"a": {"url": str(clip), "read_timeout": 0.5}}
    with Worker(files) as worker:
        until(lambda: status_of(worker, "a").state == "ended", "the end of the file")
        assert status_of(worker, "a").ledger.received == 20
    assert not [event for event in worker.events.since() if event.kind == "lost"]


def resized_clip(path: Path, bframes: int) -> Path:
    """3 s of one size, 3 s of another, in one stream."""
    with av.open(str(path), "w", format="mpegts") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for part, (width, height) in enumerate([(128, 96), (192, 128)]):
            encoder: Any = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
            encoder.options = {"bf": str(bframes), "g": "25", "b-adapt": "0", "sc_threshold": "0"}
            packets = []
            for index in range(75):
                picture = av.VideoFrame(width, height, "yuv420p")
                for plane in picture.planes:
                    plane.update(bytes([index * 3]) * plane.buffer_size)
                picture.pts = 75 * part + index
                packets += encoder.encode(picture)
            for packet in [*packets, *encoder.encode(None)]:
                packet.stream = stream
                file.mux(packet)
    return path


@pytest.mark.parametrize("bframes", [0, 2])
def test_a_new_size_cuts_recordings_at_its_keyframe(
    files: dict[str, Any], tmp_path: Path, bframes: int
) -> None:
    """Also where the first picture of that size comes some packets after its keyframe."""
    clip = resized_clip(tmp_path / "r.ts", bframes)
    outputs = [{"record": {"segment": 3600}}, {"hls": {"of": "camera", "always": True}}]
    files["streams"] = {"a": {"url": str(clip), "outputs": outputs}}
    with Worker(files) as worker:
        until(lambda: status_of(worker, "a").state == "ended", "the end of the file")
    for output in ledgers(worker)["a"][1]["outputs"]:
        assert (output["accepted"], output["delivered"], output["lost"]) == (150, 150, {})
    found = []
    for path in sorted((tmp_path / "state" / "streams" / "a" / "record").rglob("*.mp4")):
        with av.open(str(path)) as file:
            found.append((file.streams.video[0].width, sum(1 for _ in file.decode(video=0))))
    assert found == [(128, 75), (192, 75)]


def test_files_are_closed_while_the_camera_is_away(config: dict[str, Any], tmp_path: Path) -> None:
    require_gstreamer()
    with Camera({"/a": Mount("clock", width=256, height=160)}) as camera:
        outputs = [{"record": {"of": "annotated", "segment": 3600}}]
        config["streams"] = {"a": {"url": camera.url("/a"), "outputs": outputs}}
        with Worker(config) as worker:
            until(lambda: status_of(worker, "a").ledger.processed > 15, "pictures")
            camera.kill()
            files = tmp_path / "state" / "streams" / "a"
            until(lambda: [f for f in files.rglob("*.mp4") if ".part" not in f.name], "a file")
            assert status_of(worker, "a").state == "retrying"


def test_what_waits_for_a_broker_is_kept_by_where_it_goes() -> None:
    def folders(*outputs: Any) -> list[str]:
        streams = {"a": {"url": "a.mp4", "outputs": [*outputs]}}
        return folder_names(worker_config({"streams": streams}).streams["a"].outputs)

    here, there = {"mqtt": {"host": "here"}}, {"mqtt": {"host": "there", "password": SECRET}}
    first, second = folders(here, there)
    assert first != second
    assert folders(there) == [second]
    assert folders("jsonl", there, here) == ["jsonl", second, first]
    assert folders("jsonl", "jsonl", here, here) == ["jsonl", "jsonl.2", first, f"{first}.2"]
    assert folders({"mqtt": {"host": "there", "password": "other"}}) == [second]


def test_a_worker_that_starts_again_shows_the_clips_of_before(config: dict[str, Any]) -> None:
    rule = {"name": "seen", "classes": ["red"]}
    clips = {"clips": {"before": 0.2, "after": 0.2}}
    config["streams"] = {"a": {**config["streams"]["a"], "rules": [rule], "outputs": [clips]}}
    with Worker(config) as worker:
        until(lambda: [e for e in worker.events.since() if e.kind == "clip"], "a clip")
        clip = next(event for event in worker.events.since() if event.kind == "clip")
    with Worker(config) as worker:
        assert clip in worker.events.since()
        assert worker.clip(clip.data["path"]) == Path(clip.data["path"])
        assert worker.clip(str(config["model"])) is None
        assert worker.events.since()[-1].number > clip.number
