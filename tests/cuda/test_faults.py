"""What goes wrong on a GPU ends in one sentence, leaves nothing behind, and hurts nobody else."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import vidai
from tests import simdriver
from tests.cuda.conftest import boxes_of, make_squares
from tests.cuda.keep import Keep
from vidai.devices.cuda import CudaDevice
from vidai.errors import DecodeError, DeviceError, EncodeError, KernelError, VidaiError
from vidai.pipeline import Pipeline, Sink
from vidai.steps import Overlay

pytestmark = pytest.mark.simulated

NEAR = r"in.mp4: NVDEC failed near 0\.\d+ s"

# What fails, at which call, with which code; the error it ends in, and words of its sentence.
FAULTS = {
    "decoder is not created": ("cuvidCreateDecoder:1:999", DecodeError, "in.mp4: NVDEC"),
    "packet is not parsed": ("cuvidParseVideoData:5:999", DecodeError, NEAR),
    "picture is not decoded": ("cuvidDecodePicture:7:999", DecodeError, NEAR),
    "picture is not mapped": ("cuvidMapVideoFrame64:6:205", DecodeError, NEAR),
    "no memory for the decoder": ("cuvidCreateDecoder:1:2", DeviceError, "memory is full"),
    "no memory for a surface": (
        "cuMemAllocFromPoolAsync:9:2:1000000",
        DeviceError,
        "memory is full",
    ),
    "no memory for a table": ("cuMemAlloc_v2:2:2:1000000", DeviceError, "memory is full"),
    "letterbox does not launch": ("launch.letterbox:3:700:1000000", DeviceError, "the GPU failed"),
    "overlay does not launch": ("launch.overlay:3:1", KernelError, r"in.mp4 at 0\.\d+ s: kernel"),
    "candidates do not launch": ("launch.candidates:2:1", KernelError, r"in.mp4 at 0\.\d+ s: ker"),
    "picture is not encoded": ("nvEncEncodePicture:6:20", EncodeError, "in.mp4: NVENC failed at"),
    "device is lost": ("cuMemcpyDtoHAsync_v2:2:719:1000000", DeviceError, "the GPU failed"),
    "device is lost while decoding": (
        "cuvidDecodePicture:3:719:1000000",
        DeviceError,
        "in.mp4: NVDEC failed near .* the GPU failed",
    ),
    "decoded picture is not copied": (
        "cuMemcpyDtoDAsync_v2:4:719:1000000",
        DeviceError,
        "in.mp4: NVDEC failed near",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_ends_in_one_sentence_and_leaves_nothing(
    what: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    rules, kind, words = FAULTS[what]
    clip, out = make_squares(tmp_path / "in.mp4", frames=20), tmp_path / "out.mp4"
    simdriver.fault(rules)
    with pytest.raises(kind, match=words) as caught:
        vidai.run(clip, out, model=tiny_model, device=gpu)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert list(tmp_path.iterdir()) == [clip]
    simdriver.fault("")
    del caught
    assert vidai.run(clip, out, model=tiny_model, device=gpu).frames == 20


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("nvEncOpenEncodeSessionEx:1:10:1000", "sessions or its memory are all taken"),
        ("nvEncOpenEncodeSessionEx:1:2:1000", "this GPU has no NVENC"),
        ("cuMemAllocPitch_v2:1:2:1000", "memory is full"),
    ],
)
def test_a_refused_nvenc_session_leaves_encoding_to_the_cpu(
    rule: str, words: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path
) -> None:
    clip, out = make_squares(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    simdriver.fault(rule)
    report = vidai.run(clip, out, model=tiny_model, device=gpu)
    (told,) = report.warnings
    assert "encoded on the CPU" in told
    assert words in told
    gpu.strict = True
    with pytest.raises(EncodeError, match="strict-gpu"):
        vidai.run(clip, tmp_path / "strict.mp4", model=tiny_model, device=gpu)


def test_what_nvdec_prints_of_damage_is_counted_and_not_shown(
    gpu: CudaDevice, tmp_path: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = make_squares(tmp_path / "in.mp4")
    simdriver.fault("cuvidGetDecodeStatus.status:5:8:2")
    report = vidai.run(clip, model=tiny_model, device=gpu, records="-")
    assert report.damaged == 2
    assert report.frames == 12
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(line.startswith("{") for line in lines)


# A fault of one stream: those at which call it strikes, the other streams pass.
ONE_STREAM = [
    "cuvidCreateDecoder:3:999",
    "cuvidParseVideoData:30:999",
    "cuvidDecodePicture:31:999",
    "cuvidMapVideoFrame64:25:205",
    "nvEncEncodePicture:20:20",
    "launch.overlay:21:1",
]


@pytest.mark.parametrize("rules", ONE_STREAM)
def test_other_streams_go_on(rules: str, gpu: CudaDevice, tmp_path: Path, tiny_model: Path) -> None:
    clips = [make_squares(tmp_path / f"in{n}.mp4", frames=20) for n in range(4)]
    detector = vidai.Detector(tiny_model, device=gpu)
    keeps = [Keep() for _ in clips]
    errors: dict[int, VidaiError] = {}

    def run(n: int) -> None:
        sinks: list[Sink] = [vidai.VideoFile(tmp_path / f"out{n}.mp4"), keeps[n]]
        try:
            Pipeline(str(clips[n]), detector, steps=[Overlay()], sinks=sinks).run()
        except VidaiError as error:
            errors[n] = error

    simdriver.fault(rules)
    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((failed, error),) = errors.items()
    assert f"in{failed}.mp4" in str(error)
    for n, keep in enumerate(keeps):
        assert (tmp_path / f"out{n}.mp4").exists() == (n != failed)
        if n != failed:
            found = [
                sorted((row["class_id"], [round(v) for v in row["box"]]) for row in rows.to_dicts())
                for _, _, rows in keep.kept
            ]
            assert len(found) == 20
            for index, rows in enumerate(found):
                assert [class_id for class_id, _ in rows] == [c for c, _ in sorted(boxes_of(index))]
