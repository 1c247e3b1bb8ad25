"""USB cameras, as far as a simulated V4L2 device in a process of its own can be one."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml

from tests.simv4l2 import DEVICE, Camera, build, h264, jpegs, mode, yuyv
from vidai.errors import ConfigError
from vidai.sources.address import Address
from vidai.sources.live import LiveSource
from vidai.sources.usb import Camera as Asked

PATIENCE = 60.0  # s, for what must happen; the machine may be busy
SIZE, SMALL = (320, 240), (160, 128)
COUNT = 20  # pictures, then they begin anew


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("simv4l2"))


@pytest.fixture
def camera(library: Path, tmp_path: Path) -> Camera:
    """One that gives JPEGs in two sizes, raw pictures in one, and 25 or 10 of them a second."""
    folder = tmp_path / "camera"
    folder.mkdir()
    text = mode(folder, "YUYV", SIZE, yuyv(SIZE, COUNT))
    text += mode(folder, "MJPG", SIZE, jpegs(SIZE, COUNT))
    text += mode(folder, "MJPG", SMALL, jpegs(SMALL, COUNT))
    camera = Camera(library, folder, text + "fps 25 10\n")
    camera.become()
    return camera


def read(camera: Camera, address: str = DEVICE, **options: object) -> dict[str, Any]:
    """What tests/simv4l2/reader.py tells."""
    command = [sys.executable, "-m", "tests.simv4l2.reader", address]
    for key, value in options.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    done = subprocess.run(
        command, env=camera.environ, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def check_times(packets: list[Any], fps: float) -> None:
    """Those of the driver: whole frames apart, and no more than a few were missed."""
    times = [time for time, _, _ in packets]
    steps = np.diff(times) * fps
    assert np.abs(steps - np.round(steps)).max() < 0.01
    assert steps.min() > 0.5
    assert all(same and key for _, same, key in packets)


def check_pictures(hashes: list[str], frames: list[bytes]) -> list[int]:
    """Each as the camera gave it, in its order; which they are."""
    known = [hashlib.sha1(frame).hexdigest() for frame in frames]
    numbers = [known.index(found) for found in hashes]
    assert len(set(numbers)) > 1
    steps = np.diff(numbers) % len(frames)
    assert (steps > 0).all()
    return numbers


def test_jpegs_are_preferred(camera: Camera) -> None:
    told = read(camera, frames=12)
    assert (told["codec"], told["pixel_format"]) == ("mjpeg", "yuvj422p")
    assert (told["size"], told["fps"]) == ([*SIZE], 25)
    assert (told["error"], told["damaged"]) == (None, 0)
    assert camera.log == ["format MJPG 320x240"]
    check_times(told["packets"], 25)
    numbers = check_pictures(told["hashes"], jpegs(SIZE, COUNT))
    grays = [frame[0] for frame in told["frames"]]
    assert np.allclose(grays, [10 * number for number in numbers], atol=4)


def test_raw_pictures_where_there_are_no_jpegs(camera: Camera, tmp_path: Path) -> None:
    frames = yuyv(SMALL, COUNT)
    raw = Camera(camera.library, camera.folder, mode(tmp_path, "YUYV", SMALL, frames) + "fps 30\n")
    raw.become()
    told = read(raw, frames=40)  # more than the driver has buffers
    assert (told["codec"], told["pixel_format"]) == ("rawvideo", "yuyv422")
    assert (told["size"], told["damaged"], len(told["frames"])) == ([*SMALL], 0, 40)
    check_times(told["packets"], 30)
    check_pictures(told["hashes"], frames)
    # Luma from 0 is 16 to 235 in a picture of limited range, so black stays black up to 16.
    assert min(frame[0] for frame in told["frames"]) == 0
    assert 160 < max(frame[0] for frame in told["frames"]) < 220


def test_h264_begins_with_a_keyframe(camera: Camera, tmp_path: Path) -> None:
    text = camera.text + mode(tmp_path, "H264", SIZE, h264(SIZE, COUNT))
    both = Camera(camera.library, camera.folder, text)
    both.become()
    told = read(both, f"{DEVICE}?format=h264", frames=12)
    assert (told["codec"], told["size"], told["damaged"]) == ("h264", [*SIZE], 0)
    keys = [key for _, _, key in told["packets"]]
    assert keys[0]
    assert not all(keys)
    assert len(told["frames"]) == 12


def test_what_is_asked_for_is_set(camera: Camera) -> None:
    told = read(camera, "usb:90?size=160x128&fps=10&format=mjpeg", frames=5)
    assert (told["size"], told["fps"]) == ([*SMALL], 10)
    assert camera.log == ["format MJPG 160x128", "fps 10"]
    check_times(told["packets"], 10)
    told = read(camera, f"{DEVICE}?format=yuyv422&fps=30", frames=2)
    assert (told["codec"], told["fps"]) == ("rawvideo", 25)  # the nearest there is
    assert camera.log == ["format YUYV 320x240", "fps 25"]


def test_a_name_that_stays(camera: Camera) -> None:
    name = "/dev/v4l/by-id/usb-046d_HD_Webcam_C525_7A6C-video-index0"
    named = Camera(camera.library, camera.folder, camera.text, name)
    assert len(read(named, f"{name}?fps=25", frames=3)["frames"]) == 3


@pytest.mark.parametrize(
    ("state", "address", "words"),
    [
        ("absent", DEVICE, "is not there"),
        ("denied", DEVICE, "group video"),
        ("busy", DEVICE, "in use by another program"),
        ("metadata", DEVICE, "take another of them"),
        ("output", DEVICE, "take another of them"),
        ("hang", DEVICE, "gave no video within 0.5 s"),
        ("ok", f"{DEVICE}?format=h264", "does not give pictures in this format"),
        ("ok", f"{DEVICE}?size=1920x1080", "gives 320x240 where 1920x1080 was asked for"),
    ],
)
def test_a_camera_that_cannot_be_opened(
    camera: Camera, state: str, address: str, words: str
) -> None:
    camera.become(state=state)
    told = read(camera, address, connect_timeout=0.5 if state == "hang" else PATIENCE)
    assert words in told["error"]
    assert told["error"].startswith(address)
    assert not told["packets"]


@pytest.mark.parametrize(
    ("state", "words"),
    [("unplug", "is gone: it was unplugged"), ("hang", "sent no video for 0.5 s")],
)
def test_a_camera_that_is_lost(camera: Camera, state: str, words: str) -> None:
    camera.become(state=state, after=8)
    told = read(camera, frames=100, read_timeout=0.5)
    assert told["error"].startswith(f"{DEVICE} {words}")
    assert 0 < len(told["frames"]) <= 8


def test_another_thread_closes_it_while_it_waits(camera: Camera) -> None:
    camera.become(state="hang", after=8)
    told = read(camera, frames=100, read_timeout=1000, close_after=5)
    assert told["error"] is None
    assert 5 <= len(told["hashes"]) <= 8


def test_a_damaged_frame_is_left_out(camera: Camera) -> None:
    camera.become(damaged=5)
    told = read(camera, frames=12)
    check_times(told["packets"], 25)
    assert np.diff([time for time, _, _ in told["packets"]]).max() > 1.9 / 25
    assert len(told["frames"]) == 12


def serve(
    camera: Camera, folder: Path, stream: dict[str, Any], model: Path, done: Any
) -> tuple[list[str], Path]:
    """Run `vidai serve` until that is true of its log: the log's messages, the state's folder."""
    state, log = folder / "state", folder / "serve.log"
    file = folder / "cameras.yaml"
    config = {"model": str(model), "http": {"port": 0}, "state": str(state)}
    file.write_text(yaml.safe_dump({**config, "streams": {"desk": stream}}))
    command = [sys.executable, "-m", "vidai", "serve", str(file)]

    def told() -> list[str]:
        lines = log.read_text().splitlines()
        return [json.loads(line)["message"] for line in lines if line.endswith("}")]

    with log.open("w") as out, subprocess.Popen(command, env=camera.environ, stderr=out) as process:
        try:
            end = time.monotonic() + PATIENCE
            while not done(told(), state):
                assert time.monotonic() < end, told()
                assert process.poll() is None, told()
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    return told(), state


def test_it_is_served_recorded_and_back_when_it_is_plugged_in_again(
    camera: Camera, tiny_model: Path, tmp_path: Path
) -> None:
    camera.become(state="unplug", after=40)
    stream = {"url": "usb:90", "outputs": ["jsonl", "record"], "analyze_fps": 2}

    def is_back(told: list[str], _: Path) -> bool:
        return any("is live again" in line for line in told)

    told, state = serve(camera, tmp_path, stream, tiny_model, is_back)
    assert "desk is live: mjpeg 320x240" in told
    assert any("trying again: usb:90 is gone: it was unplugged" in line for line in told)
    packets = []
    for path in sorted(state.rglob("*.mp4")):
        with av.open(str(path)) as video:
            packets += [hashlib.sha1(bytes(p)).hexdigest() for p in video.demux(video=0) if p.size]
    assert len(packets) > 20
    check_pictures(packets[:20], jpegs(SIZE, COUNT))


def test_raw_pictures_are_kept_annotated_only(
    camera: Camera, tiny_model: Path, tmp_path: Path
) -> None:
    outputs = ["record", {"record": {"of": "annotated", "segment": 1}}, {"clips": {"of": "camera"}}]
    rules = [{"name": "any"}]
    stream = {"url": f"{DEVICE}?format=yuyv422", "outputs": outputs, "rules": rules}

    def has_recorded(_: list[str], state: Path) -> bool:
        return any(not path.name.endswith(".part.mp4") for path in state.rglob("*.annotated.mp4"))

    told, state = serve(camera, tmp_path, stream, tiny_model, has_recorded)
    assert any("rawvideo video cannot be recorded: take the annotated one" in t for t in told)
    assert any("clips cannot hold rawvideo video" in line for line in told)
    recordings = [path for path in state.rglob("*.m*") if path.suffix in (".mp4", ".mov")]
    assert recordings
    assert all(".annotated" in path.name for path in recordings)
    with av.open(str(recordings[0])) as video:
        assert len(list(itertools.islice(video.decode(video=0), 3))) == 3


ASKED = [
    ("usb:0", "/dev/video0", {}),
    ("usb:12?fps=7.5", "/dev/video12", {"framerate": "7.5"}),
    ("/dev/video0?", "/dev/video0", {}),
    (
        "/dev/v4l/by-id/usb-Cam_1-video-index0?size=1280x720&fps=30&format=mjpeg",
        "/dev/v4l/by-id/usb-Cam_1-video-index0",
        {"video_size": "1280x720", "framerate": "30", "input_format": "mjpeg"},
    ),
    ("/dev/v4l/by-path/pci-0000:00:14.0-usb-0:1:1.0-video-index0", None, {}),
]


@pytest.mark.parametrize(("text", "device", "options"), ASKED)
def test_addresses(text: str, device: str | None, options: dict[str, str]) -> None:
    address = Address(text)
    assert (address.kind, str(address), address.host) == ("usb", text, "")
    assert Asked.of(text) == Asked(device or text, options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("usb:", "is no camera at this machine: write usb:0"),
        ("usb:front", "is no camera at this machine"),
        ("/dev/video0/x", "is no camera at this machine"),
        ("/dev/v4l/by-id/", "is no camera at this machine"),
        ("usb:0?zoom=2", "zoom=2 cannot be asked for: there is size=1280x720, fps=30, format=mjp"),
        ("usb:0?size=huge", "size=huge cannot"),
        ("usb:0?size=0x720", "size=0x720 cannot"),
        ("usb:0?fps=0", "fps=0 cannot"),
        ("usb:0?fps=30&fps=25", "fps=25 cannot"),
        ("usb:0?format=h265", "format=h265 cannot"),
        ("usb:0?fps", "fps cannot"),
    ],
)
def test_addresses_that_can_never_work(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(text)


def test_a_real_camera() -> None:
    if not os.access("/dev/video0", os.R_OK | os.W_OK):
        pytest.skip("no camera /dev/video0 that this user may open")
    with LiveSource(Address("/dev/video0"), name="real") as source:
        packets = list(itertools.islice(source.packets(), 10))
    times = [packet.pts for packet in packets if packet.pts is not None]
    assert len(times) == 10
    assert times == sorted(set(times))
