"""A live stream's annotated pictures on the GPU: decoded, drawn and encoded there."""

from __future__ import annotations

from pathlib import Path

from tests.cuda.conftest import BUDGET
from tests.test_live_annotated import annotating, camera_on, check_pictures, found
from vidai.devices.cuda import CudaDevice


def test_pictures_are_drawn_on_and_keep_their_times(gpu: CudaDevice, tmp_path: Path) -> None:
    """And no picture crosses to the host."""
    lane = gpu.lane()
    camera = camera_on(lane, tmp_path / "in.mp4")
    before = gpu.transfers.snapshot()
    with annotating(lane) as setting:
        for frame in camera.frames:
            assert setting.annotated.show(frame, found(frame), camera.media) is not None
    assert gpu.transfers.since(before).host_bytes <= len(camera.frames) * BUDGET // 16
    check_pictures(setting, camera, tmp_path)


def test_nothing_is_encoded_while_nobody_looks(gpu: CudaDevice, tmp_path: Path) -> None:
    lane = gpu.lane()
    camera = camera_on(lane, tmp_path / "in.mp4")
    with annotating(lane) as setting:
        for number, frame in enumerate(camera.frames):
            setting.watcher.looks = number % 20 >= 10
            setting.annotated.show(frame, found(frame), camera.media)
            alive = sum(encoder() is not None for encoder in setting.device.encoders)
            assert alive == setting.watcher.looks
    assert [len(samples) for _, samples in setting.watcher.parts] == [10, 10]
    assert all(samples[0].is_keyframe for _, samples in setting.watcher.parts)
