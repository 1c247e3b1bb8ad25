"""Each stage of a run, tried on a device with pictures made here. One process a stage.

Nothing in here knows which device it is: what works for `cpu` is tried on `cuda:0` too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from vidai.device import Device, EncoderSettings, open_device
from vidai.doctor import child
from vidai.doctor.finding import Finding
from vidai.errors import DecodeError, EncodeError, KernelError, ModelError
from vidai.ops import letterbox
from vidai.sources.file import FileSource
from vidai.tags import reason
from vidai.types import Frame, InputSpec, StreamInfo, Surface

WIDTH, HEIGHT, FRAMES = 320, 240, 12
YUV = (120, 100, 160)
RGB = (172, 106, 65)  # what BT.601, limited range, makes of YUV
TOLERANCE = 4  # of a lossy codec at its default quality, in 255ths
SIDE = 8  # px of the model's input


_ADVICE = (
    "mend what is told above, then install the packages again (pip install --force-reinstall "
    "vidai, for a GPU 'vidai[cuda]'); --device cpu needs no GPU"
)


def section(device: str) -> str:
    return f"stages on {device}"


def try_out(device: str, told: Callable[[str], None]) -> list[Finding]:
    """All stages on a device, as far as it makes sense. told: is given what is tried."""
    found: list[Finding] = []
    failed: set[str] = set()
    for name, look in STAGES.items():
        if name == "encode" and "decode" in failed:  # which makes its frames
            found.append(Finding(section(device), name, "not tried: decode fails", "note"))
            break
        told(f"{name} on {device}")
        (answer,) = child.run(child.Job(section(device), name, look, _ADVICE, (device,)))
        found += answer
        if any(finding.status == "problem" for finding in answer):
            failed.add(name)
            if name == "open":
                break
    return found


def opens(name: str) -> Iterator[Finding]:
    begin = time.perf_counter()
    device = open_device(name)
    yield _finding(name, "open", f"{_ms(begin)}, {device.workers} sessions side by side")


def kernels(name: str) -> Iterator[Finding]:
    """A kernel is made, launched and gives the right numbers."""
    device = open_device(name)
    frame = _plain_frame(device)
    spec = InputSpec(WIDTH // 2, HEIGHT // 2)
    batch = device.empty((1, 3, HEIGHT // 2, WIDTH // 2), np.float32)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        letterbox(frame, batch, 0, spec)
        device.synchronize()
        times.append(_ms(begin))
    wrong = _distance(device.to_host(batch)[0].transpose(1, 2, 0))
    if wrong > 1:
        raise KernelError(f"the letterbox kernel gives wrong numbers, by up to {wrong:.0f}")
    yield _finding(name, "kernels", f"letterbox in {times[0]}, then {times[1]}")


def decode(name: str) -> Iterator[Finding]:
    """A clip is decoded, every frame of it and in the right colour."""
    device = open_device(name)
    with tempfile.TemporaryDirectory() as folder, _sample(Path(folder)) as source:
        begin = time.perf_counter()
        frames, notes = _decoded(device, source)
        frames[-1].device.synchronize()
        took = _ms(begin)
        wrong = _distance(np.asarray(frames[-1]))
        if wrong > TOLERANCE:
            raise DecodeError(f"the decoder gives wrong colours, by up to {wrong:.0f} of 255")
        yield _finding(name, "decode", f"{FRAMES} frames of H.264 in {took}", notes)


def model(name: str) -> Iterator[Finding]:
    """A model of one operation runs and gives the right numbers."""
    device = open_device(name)
    begin = time.perf_counter()
    session = device.session(_averaging_model(), InputSpec(SIDE, SIDE), "mean")
    ready = _ms(begin)
    picture = np.arange(3 * SIDE * SIDE, dtype=np.float32).reshape(1, 3, SIDE, SIDE)
    data = session.device.to_device(picture)
    begin = time.perf_counter()
    (output,) = session.run(data)
    mean = session.device.to_host(output)
    took = _ms(begin)
    if not np.allclose(mean.ravel(), picture.mean((0, 2, 3)), rtol=1e-3):
        raise ModelError(f"the session gives wrong numbers: {mean.ravel().tolist()}")
    yield _finding(name, "model", f"ready in {ready}, runs in {took}", session.notes)


def encode(name: str) -> Iterator[Finding]:
    """A clip is encoded, and FFmpeg decodes every frame of it in the right shade."""
    device = open_device(name)
    with tempfile.TemporaryDirectory() as folder, _sample(Path(folder)) as source:
        frames, _ = _decoded(device, source)
        path = Path(folder) / "encoded.mp4"
        begin = time.perf_counter()
        # On the lane on which the frames come to be, so that no other has to wait for them.
        encoder = frames[0].device.encoder(source.info, EncoderSettings("h264"))
        with av.open(str(path), "w") as container:
            encoder.add_to(container)
            for frame in (*frames, None):
                container.mux(encoder.encode(frame))
        took = _ms(begin)
        with av.open(str(path)) as container:
            shades = [picture.to_ndarray()[:HEIGHT].mean() for picture in container.decode(video=0)]
    if len(shades) != FRAMES:
        raise EncodeError(f"the encoder gave {len(shades)} of {FRAMES} frames")
    wrong = max(abs(shade - YUV[0]) for shade in shades)
    if wrong > TOLERANCE:
        raise EncodeError(f"the encoder gives wrong shades, by up to {wrong:.0f} of 255")
    yield _finding(name, "encode", f"{FRAMES} frames to H.264 in {took}", encoder.notes)


STAGES = {"open": opens, "kernels": kernels, "decode": decode, "model": model, "encode": encode}


def _finding(device: str, stage: str, value: str, notes: list[str] | None = None) -> Finding:
    if notes:
        return Finding(section(device), stage, f"{value}; {'; '.join(notes)}", "note")
    return Finding(section(device), stage, value)


def _ms(begin: float) -> str:
    return f"{(time.perf_counter() - begin) * 1000:.1f} ms"


def _distance(rgb: npt.NDArray[Any]) -> float:
    """How far (H, W, 3) values are from the colour of all pictures here, at most."""
    return float(np.abs(rgb.astype(np.float32) - RGB).max())


def _planes() -> Iterator[npt.NDArray[np.uint8]]:
    for value, divisor in zip(YUV, (1, 2, 2), strict=True):
        yield np.full((HEIGHT // divisor, WIDTH // divisor), value, np.uint8)


def _plain_frame(device: Device) -> Frame:
    """A picture in the memory of the device, without a decoder."""
    info = StreamInfo("sample", "h264", WIDTH, HEIGHT, "yuv420p", Fraction(1, 25))
    # Kernels take these arrays where a decoder's surface has addresses.
    y, u, v = (device.to_device(plane) for plane in _planes())
    surface = Surface(WIDTH, HEIGHT, y, u, v, y_pitch=WIDTH, c_pitch=WIDTH // 2)
    return Frame(info, 0, 0, surface, device)


def _sample(folder: Path) -> FileSource:
    """A clip of FRAMES pictures in one colour. Raises EncodeError where x264 is missing."""
    path = folder / "sample.mp4"
    picture = VideoFrame(WIDTH, HEIGHT, "yuv420p")
    for plane, pixels in zip(picture.planes, _planes(), strict=True):
        row = np.full((plane.height, plane.line_size), pixels[0, 0], np.uint8)
        plane.update(row.tobytes())
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for index in range(FRAMES):
                picture.pts, picture.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        raise EncodeError(f"x264 cannot make the sample for this: {reason(error)}") from error
    return FileSource(path)


def _decoded(device: Device, source: FileSource) -> tuple[list[Frame], list[str]]:
    """All frames of the sample, and what the decoder wants to be known."""
    decoder = device.decoder(source.video, source.info)
    frames = [frame for packet in source.packets() for frame in decoder.decode(packet)]
    frames += decoder.decode(None)
    if len(frames) != FRAMES or decoder.damaged:
        raise DecodeError(
            f"the decoder gave {len(frames)} of {FRAMES} frames, {decoder.damaged} damaged"
        )
    return frames, decoder.notes


def _averaging_model() -> bytes:
    """An ONNX file: (1, 3, SIDE, SIDE) float32 to the means of its channels, (1, 3, 1, 1).

    Written field by field, by the numbers in onnx.proto, as the package onnx is not needed
    to run vidai.
    """
    node = _message((1, "x"), (2, "y"), (4, "GlobalAveragePool"))
    graph = _message((1, node), (2, "mean"), (11, _value("x", SIDE)), (12, _value("y", 1)))
    return _message((1, 8), (7, graph), (8, _message((2, 13))))  # IR version 8, opset 13


def _value(name: str, side: int) -> bytes:
    shape = _message(*((1, _message((1, size))) for size in (1, 3, side, side)))
    return _message((1, name), (2, _message((1, _message((1, 1), (2, shape))))))  # 1: float32


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protobuf message of numbered fields; a number must be below 128."""
    message = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            message += bytes([number << 3, value])
        else:
            data = value.encode() if isinstance(value, str) else value
            assert len(data) < 128, "longer lengths take more than one byte"
            message += bytes([number << 3 | 2, len(data)]) + data
    return bytes(message)
