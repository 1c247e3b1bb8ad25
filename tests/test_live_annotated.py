"""A stream's annotated pictures: encoded while somebody wants them, and only then."""

from __future__ import annotations

import gc
import itertools
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
import pytest

from tests.live.packets import NOON, SECOND, Feed, camera_clip, feed_of
from tests.media import display_matrix
from vidai.device import Device, EncoderSettings
from vidai.errors import EncodeError, VidaiError
from vidai.live.annotated import Annotated, Times
from vidai.live.events import Events
from vidai.live.outlet import Outlet
from vidai.live.output import CLOCK, Media, Output, OutputStatus, Sample
from vidai.sources.file import FileSource
from vidai.steps import Overlay, Redact, Step
from vidai.types import Detections, Frame

PATIENCE = 30.0  # s until what must happen counts as never happening
WIDTH, HEIGHT = 256, 192
BOX = (64.0, 48.0, 192.0, 144.0)

Given = Media | Sample | Literal["end"]


class Watcher(Output):
    """Somebody who looks at times, and keeps what is given."""

    def __init__(self, pictures: Literal["camera", "annotated"] | None = "annotated") -> None:
        self.pictures = pictures
        self.looks = True
        self.given: list[Given] = []

    @property
    def wanted(self) -> bool:
        return self.looks

    def begin(self, media: Media) -> None:
        self.given.append(media)

    def sample(self, sample: Sample) -> None:
        self.given.append(sample)

    def end(self) -> None:
        self.given.append("end")

    def status(self) -> OutputStatus:
        return OutputStatus("watcher")

    @property
    def parts(self) -> list[tuple[Media, list[Sample]]]:
        """Each Media, and its samples; between them comes an end, and after the last."""
        parts: list[tuple[Media, list[Sample]]] = []
        running = False
        for item in self.given:
            if isinstance(item, Media):
                assert not running
                parts.append((item, []))
            elif isinstance(item, Sample):
                assert running
                parts[-1][1].append(item)
            running = item != "end"
        assert not running
        return parts


class Counting:
    """A device that counts its encoders. fail: what the next one raises when asked for."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.encoders: list[weakref.ref[Any]] = []
        self.fail: VidaiError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def encoder(self, info: Any, settings: EncoderSettings) -> Any:
        if self.fail is not None:
            raise self.fail
        encoder = self._device.encoder(info, settings)
        self.encoders.append(weakref.ref(encoder))
        return encoder


@dataclass
class Setting:
    annotated: Annotated
    device: Counting
    watchers: list[Watcher]
    outlets: list[Outlet] = field(default_factory=list)

    @property
    def watcher(self) -> Watcher:
        return self.watchers[0]

    def close(self) -> None:
        self.annotated.end()
        for outlet in self.outlets:
            assert outlet.close(PATIENCE)


@contextmanager
def annotating(
    device: Device,
    watchers: list[Watcher] | None = None,
    steps: list[Step] | None = None,
    codec: str = "h264",
) -> Iterator[Setting]:
    watchers = [Watcher()] if watchers is None else watchers
    outlets = [Outlet("watcher", watcher, Events().emit) for watcher in watchers]
    counting = Counting(device)
    settings = EncoderSettings(codec, 10, bframes=0, live=True)
    annotated = Annotated(
        cast(Device, counting), [Overlay()] if steps is None else steps, settings, outlets
    )
    with ExitStack() as stack:
        setting = Setting(annotated, counting, watchers, outlets)
        stack.callback(setting.close)
        yield setting


def found(frame: Frame) -> Detections:
    box = np.array([BOX], np.float32)
    return Detections(box, np.full(1, 0.9, np.float32), np.zeros(1, np.int32), ("person",))


@dataclass
class Camera:
    """A connection: its Media and its decoded frames, 25 a second from NOON on."""

    media: Media
    feed: Feed
    frames: list[Frame]


def grey(index: int) -> Any:
    return np.full((HEIGHT, WIDTH, 3), 60 + index, np.uint8)


def camera_on(device: Device, path: Path, **how: Any) -> Camera:
    """A clip as a stream decodes it on the device."""
    how = {"width": WIDTH, "height": HEIGHT, "seconds": 1.6, "audio": "aac", "draw": grey, **how}
    feed = feed_of(camera_clip(path, **how))
    with FileSource(path) as source, av.open(str(path)) as container:
        info = replace(source.info, time_base=CLOCK, duration=None)
        decoder = device.decoder(container.streams.video[0], info, low_delay=True)
        frames = []
        for sample in feed.video:
            packet = sample.packet
            packet.pts, packet.dts, packet.time_base = sample.pts, sample.dts, CLOCK
            frames += decoder.decode(packet)
        frames += decoder.decode(None)
    assert len(frames) == len(feed.video) == 40
    return Camera(feed.media, feed, frames)


@pytest.fixture
def camera(device: Device, tmp_path: Path) -> Camera:
    return camera_on(device, tmp_path / "in.mp4")


def decoded(media: Media, samples: list[Sample], folder: Path) -> tuple[list[int], list[Any]]:
    """pts in ticks of CLOCK, and RGB pictures, as any player sees them."""
    path = folder / "seen.mkv"
    origin = samples[0].dts
    with av.open(str(path), "w") as container:
        streams = media.add_to(container)
        for sample in samples:
            container.mux(sample.copy(streams[sample.kind], origin))
    times, pictures = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            times.append(round(frame.pts * frame.time_base / CLOCK) + origin)
            pictures.append(frame.to_ndarray(format="rgb24"))
    return times, pictures


def check_pictures(setting: Setting, camera: Camera, folder: Path, first: int = 0) -> None:
    """What the watcher has of a whole connection is its pictures, with boxes, at their times."""
    ((media, samples),) = setting.watcher.parts
    video = [sample for sample in samples if sample.kind == "video"]
    times, pictures = decoded(media, video, folder)
    frames = camera.frames[first:]
    assert [sample.pts for sample in video] == [frame.pts for frame in frames]
    assert all(b.dts > a.dts for a, b in itertools.pairwise(video))
    assert [sample.is_keyframe for sample in video[:2]] == [True, False]
    assert sum(sample.is_keyframe for sample in video) == 2  # one a second
    # The container has milliseconds.
    assert all(abs(t - f.pts) < SECOND / 500 for t, f in zip(times, frames, strict=True))
    (left, top, right, bottom) = map(int, BOX)
    for number, picture in enumerate(pictures):
        level = picture[10:30, 210:250].mean()
        assert level == pytest.approx(60 + first + number, abs=4)
        inside = picture[top + 30 : bottom - 30, left + 30 : right - 30]
        assert inside.mean() == pytest.approx(60 + first + number, abs=6)
        edge = picture[(top + bottom) // 2, left - 2 : left + 4].astype(int)
        assert abs(edge - level).max() > 50  # the box
    assert media.info.width == WIDTH


def test_pictures_are_drawn_on_and_keep_their_times(
    device: Device, camera: Camera, tmp_path: Path
) -> None:
    with annotating(device) as setting:
        for frame in camera.frames:
            before = time.monotonic()
            times = setting.annotated.show(frame, found(frame), camera.media)
            assert isinstance(times, Times)
            (draw, drawn), (encode, encoded) = times
            assert before <= draw <= drawn <= encode <= encoded <= time.monotonic()
    check_pictures(setting, camera, tmp_path)
    assert len(setting.device.encoders) == 1


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_every_picture_is_a_packet_at_once(device: Device, camera: Camera, codec: str) -> None:
    watcher = Watcher()
    with annotating(device, [watcher], codec=codec) as setting:
        for number, frame in enumerate(camera.frames[:10], 1):
            setting.annotated.show(frame, found(frame), camera.media)
            until(lambda number=number: len(watcher.given) == number + 1)  # type: ignore[misc]
    assert len(watcher.parts) == 1


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def test_nothing_is_encoded_while_nobody_looks(device: Device, camera: Camera) -> None:
    """Each time that somebody begins to look there is an encoder, and a keyframe."""
    with annotating(device) as setting:
        setting.watcher.looks = False
        opened = []
        for number, frame in enumerate(camera.frames):
            setting.watcher.looks = number % 10 >= 5
            times = setting.annotated.show(frame, found(frame), camera.media)
            assert (times is not None) == setting.watcher.looks
            alive = sum(encoder() is not None for encoder in setting.device.encoders)
            assert alive == setting.watcher.looks
            opened.append(len(setting.device.encoders))
    assert opened == [sum(n % 10 == 5 for n in range(number + 1)) for number in range(40)]
    parts = setting.watcher.parts
    assert len(parts) == 4
    for part, (_, samples) in enumerate(parts):
        wanted = camera.frames[10 * part + 5 : 10 * part + 10]
        assert [sample.pts for sample in samples] == [frame.pts for frame in wanted]
        assert samples[0].is_keyframe


def test_one_of_several_who_looks_is_enough(device: Device, camera: Camera) -> None:
    """Packets go to outputs of annotated pictures only."""
    watchers = [Watcher(), Watcher(), Watcher("camera"), Watcher(None)]
    watchers[0].looks = False
    with annotating(device, watchers) as setting:
        for frame in camera.frames[:8]:
            setting.annotated.show(frame, found(frame), camera.media)
    assert len(setting.device.encoders) == 1
    assert [len(watcher.given) for watcher in watchers] == [10, 10, 0, 0]
    assert watchers[0].given == watchers[1].given


def test_without_outputs_of_pictures_nothing_is_done(device: Device, camera: Camera) -> None:
    with annotating(device, [Watcher("camera"), Watcher(None)]) as setting:
        frame = camera.frames[0]
        assert setting.annotated.show(frame, found(frame), camera.media) is None
    assert setting.device.encoders == []


def test_pictures_of_another_size_begin_anew(
    device: Device, camera: Camera, tmp_path: Path
) -> None:
    """A camera that was set to another size, in the same connection, and back."""
    other = camera_on(device, tmp_path / "other.mp4", width=320, height=160, draw=None)
    with annotating(device) as setting:
        for frame in [*camera.frames[:5], *other.frames[5:10], *camera.frames[10:15]]:
            setting.annotated.show(frame, found(frame), camera.media)
    parts = setting.watcher.parts
    assert [(m.info.width, m.info.height) for m, _ in parts] == [(256, 192), (320, 160), (256, 192)]
    for media, samples in parts:
        _, pictures = decoded(media, samples, tmp_path)
        assert len(pictures) == 5
        assert pictures[0].shape[:2] == (media.info.height, media.info.width)


def test_another_connection_begins_anew(device: Device, camera: Camera, tmp_path: Path) -> None:
    """Also one with the same pictures: its sound may be another."""
    silent = camera_on(device, tmp_path / "silent.mp4", audio=None)
    with annotating(device) as setting:
        for connection in (camera, silent):
            for frame in connection.frames[:5]:
                setting.annotated.show(frame, found(frame), connection.media)
    assert [media.has_audio for media, _ in setting.watcher.parts] == [True, False]
    assert len(setting.device.encoders) == 2


def test_sound_goes_with_the_pictures_of_its_connection(
    device: Device, camera: Camera, tmp_path: Path
) -> None:
    """Not before them, not after them, not with those of another connection."""
    other = camera_on(device, tmp_path / "other.mp4")
    sounds = iter(camera.feed.audio)
    with annotating(device) as setting:
        annotated = setting.annotated

        def show(frame: Frame, connection: Camera = camera) -> None:
            annotated.show(frame, found(frame), connection.media)

        annotated.sound(next(sounds), camera.media)
        show(camera.frames[0])
        heard = [next(sounds), next(sounds)]
        for sample in heard:
            annotated.sound(sample, camera.media)
        annotated.sound(next(sounds), other.media)  # its pictures are still to come
        setting.watcher.looks = False
        show(camera.frames[1])
        annotated.sound(next(sounds), camera.media)
        setting.watcher.looks = True
        show(other.frames[2], other)
        annotated.sound(next(sounds), camera.media)  # its pictures are over
        annotated.end()
        annotated.sound(next(sounds), other.media)
    first, second = setting.watcher.parts
    assert [s.kind for s in first[1]] == ["video", "audio", "audio"]
    assert first[1][1:] == heard
    assert [s.kind for s in second[1]] == ["video"]


def test_sound_is_muxed_with_the_pictures(device: Device, camera: Camera, tmp_path: Path) -> None:
    with annotating(device) as setting:
        frames = iter(camera.frames)
        for sample in camera.feed.samples:
            if sample.kind == "video":
                frame = next(frames)
                setting.annotated.show(frame, found(frame), camera.media)
            else:
                setting.annotated.sound(sample, camera.media)
    ((media, samples),) = setting.watcher.parts
    _, pictures = decoded(media, samples, tmp_path)
    assert len(pictures) == 40
    with av.open(str(tmp_path / "seen.mkv")) as container:
        heard = [packet for packet in container.demux(audio=0) if packet.size]
        assert len(heard) == sum(sample.kind == "audio" for sample in samples) > 60


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1)])
def test_a_turned_picture_stays_turned(
    device: Device, camera: Camera, tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    info = replace(camera.frames[0].info, display_matrix=display_matrix(*matrix))
    with annotating(device) as setting:
        for frame in camera.frames[:3]:
            turned = replace(frame, info=info)
            setting.annotated.show(turned, found(turned), camera.media)
    ((media, samples),) = setting.watcher.parts
    decoded(media, samples, tmp_path)
    with av.open(str(tmp_path / "seen.mkv")) as container:
        (stream,) = container.streams.video
        picture = next(container.decode(stream))
        assert picture.rotation % 180 == (90 if matrix[0] == 0 else 0)


def test_a_picture_can_be_drawn_without_being_shown(device: Device, camera: Camera) -> None:
    """As for a snapshot: the frame itself stays as it was."""
    frame = camera.frames[0]
    before = np.asarray(frame)
    with annotating(device, steps=[Overlay(), Redact()]) as setting:
        drawn = np.asarray(setting.annotated.draw(frame, found(frame)))
    assert (np.asarray(frame) == before).all()
    assert (drawn != before).any()
    assert setting.watcher.given == []


class Faulty:
    """A step that raises at some of its calls."""

    def __init__(self, *calls: int) -> None:
        self._calls, self._count = calls, 0

    def __call__(self, frame: Frame, detections: Detections) -> Frame:
        self._count += 1
        if self._count in self._calls:
            raise EncodeError("cannot draw")
        return frame


def test_a_picture_that_fails_costs_no_more_than_itself(device: Device, camera: Camera) -> None:
    """The stream ends what is shown then, as it does after any failure, and goes on."""
    with annotating(device, steps=[Faulty(3, 7)]) as setting:
        failures = 0
        for frame in camera.frames[:10]:
            try:
                setting.annotated.show(frame, found(frame), camera.media)
            except VidaiError:
                failures += 1
                setting.annotated.end()
    assert failures == 2
    assert [len(samples) for _, samples in setting.watcher.parts] == [2, 3, 3]
    assert all(samples[0].is_keyframe for _, samples in setting.watcher.parts)


def test_an_encoder_that_cannot_be_had_is_tried_again(device: Device, camera: Camera) -> None:
    with annotating(device) as setting:
        setting.device.fail = EncodeError("all sessions are taken")
        for frame in camera.frames[:3]:
            with pytest.raises(EncodeError, match="all sessions are taken"):
                setting.annotated.show(frame, found(frame), camera.media)
            setting.annotated.sound(camera.feed.audio[0], camera.media)
        setting.annotated.end()
        setting.device.fail = None
        setting.annotated.show(camera.frames[3], found(camera.frames[3]), camera.media)
    ((_, samples),) = setting.watcher.parts
    assert [sample.pts for sample in samples] == [camera.frames[3].pts]


def test_an_encoder_that_fails_at_its_end_ends_all_the_same(device: Device, camera: Camera) -> None:
    with annotating(device) as setting:
        setting.annotated.show(camera.frames[0], found(camera.frames[0]), camera.media)
        encoder = setting.device.encoders[0]()
        assert encoder is not None

        def fail(*_: object) -> None:
            raise EncodeError("lost")

        encoder.encode = fail
        del encoder
        with pytest.raises(EncodeError, match="lost"):
            setting.annotated.end()
        setting.annotated.end()
        setting.annotated.show(camera.frames[1], found(camera.frames[1]), camera.media)
    assert [len(samples) for _, samples in setting.watcher.parts] == [1, 1]


def test_nothing_is_held_of_what_was_shown(device: Device, camera: Camera) -> None:
    gc.collect()
    gc.disable()
    try:
        with annotating(device) as setting:
            held = []
            for index in range(10):
                frame = replace(camera.frames[index])
                held.append(weakref.ref(frame))
                setting.annotated.show(frame, found(frame), camera.media)
                del frame
            assert not any(ref() for ref in held)
            setting.annotated.end()
            assert setting.device.encoders[0]() is None
    finally:
        gc.enable()


def test_the_camera_is_what_these_tests_believe(camera: Camera) -> None:
    assert camera.frames[0].pts == NOON * SECOND
    assert len(camera.feed.audio) > 60
