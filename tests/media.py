"""Makes small video files of every kind, the same ones each time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer, OutputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame

if TYPE_CHECKING:
    from av.container.core import Chapter
    from av.video.stream import VideoStream

os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 reads it once and is noisy without

Picture = npt.NDArray[np.uint8]

# Settings that make an encoder quick, quiet and repeatable.
QUICK: dict[str, dict[str, str]] = {
    "libx264": {"preset": "ultrafast", "crf": "18", "bf": "2"},
    "libx265": {"preset": "ultrafast", "crf": "18", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "10", "crf": "20"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "mpeg2video": {"bf": "2"},
    "mpeg4": {"bf": "2"},
}
BIT_RATE = {"libvpx", "libvpx-vp9", "mpeg2video", "mpeg4", "mjpeg"}


def moving_shapes(index: int, width: int, height: int) -> Picture:
    """A colour gradient with a bright square that moves to the right and down."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack(
        [x * 200 // width, y * 200 // height, np.full_like(x, 40 + index * 7 % 100)], axis=-1
    ).astype(np.uint8)
    size = max(2, min(width, height) // 4)
    left, top = index * 3 % max(1, width - size), index * 2 % max(1, height - size)
    picture[top : top + size, left : left + size] = (240, 230, 60)
    return picture


def display_matrix(a: int, b: int, c: int, d: int) -> tuple[int, ...]:
    """FFmpeg's display matrix of x' = a x + c y, y' = b x + d y."""
    one = 1 << 16
    return (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)


# Every orientation there is: display matrix entries by what a player does.
ORIENTATIONS = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "turned 180": (-1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "turned 90": (0, 1, -1, 0),
    "turned 270": (0, -1, 1, 0),
    "anti-transposed": (0, -1, -1, 0),
}


def make_clip(
    path: str | Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    width: int = 64,
    height: int = 48,
    frames: int = 12,
    rate: Fraction | int = 25,
    time_base: Fraction | None = None,
    pts: Sequence[int] | None = None,
    start: float = 0.0,
    draw: Callable[[int], Picture] | None = None,
    matrix: Sequence[int] | None = None,
    color: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    audio: str | Sequence[str] | None = None,
    audio_language: str = "deu",
    subtitles: str | None = None,
    attachment: bytes | None = None,
    cover: bool = False,
    chapters: Sequence[tuple[float, float, str]] = (),
    metadata: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container: str | None = None,
) -> Path:
    """Write a clip to path; the container follows from its extension unless it is named.

    codec, pix_fmt: FFmpeg's names of the video encoder and pixel format. pts: one a frame,
    in ticks of time_base (default: 0, 1, 2 … frames). start: s added to all times. draw:
    index -> (height, width, 3) uint8 RGB, else `moving_shapes`. matrix: display matrix.
    color: matrix, range, primaries, transfer. audio: encoder names, one stream each, of
    sines as long as the video. subtitles: a text codec, two lines. chapters: (start s,
    end s, title).
    """
    path = Path(path)
    tick = time_base or 1 / Fraction(rate)
    times = list(pts) if pts is not None else [round(i / (rate * tick)) for i in range(frames)]
    shift = round(Fraction(str(start)) / tick)
    with av.open(str(path), "w", format=container, container_options=container_options) as out:
        out.metadata.update(metadata or {})
        stream = cast(
            "VideoStream",
            out.add_stream(codec, rate=rate, options={**QUICK.get(codec, {}), **(options or {})}),
        )
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pix_fmt
        context.time_base = stream.time_base = tick
        context.thread_count = 1
        if codec in BIT_RATE:
            context.bit_rate = 2_000_000
        if color is not None:
            context.colorspace, context.color_range = color[:2]
            context.color_primaries, context.color_trc = color[2:]
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if matrix is not None:
            stream.set_display_matrix(matrix)
        sounds = [
            _add_audio(out, name, audio_language)
            for name in ([audio] if isinstance(audio, str) else audio or ())
        ]
        texts = _add_subtitles(out, subtitles) if subtitles else None
        prefix = subtitles == "mov_text"  # its packets begin with their length
        if attachment is not None:
            out.add_attachment("note.txt", "text/plain", attachment)
        picture = _add_cover(out) if cover else None
        if chapters:
            out.set_chapters([_chapter(i, *c, start) for i, c in enumerate(chapters)])
        if picture is not None:
            out.mux(picture)
        seconds = float((times[-1] + 1) * tick) if times else 0.0
        for sound in sounds:
            _write_sine(out, sound, seconds, start)
        if texts is not None:
            _write_subtitles(out, texts, prefix, seconds, start)
        for index, time in enumerate(times):
            rgb = draw(index) if draw else moving_shapes(index, width, height)
            frame = to_frame(rgb, pix_fmt, color)
            frame.pts, frame.time_base = time + shift, tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def to_frame(
    rgb: Picture, pix_fmt: str, color: tuple[int, int, int, int] | None = None
) -> VideoFrame:
    """An RGB picture in any pixel format."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
    if pix_fmt == "pal8":
        colors, indices = np.unique(rgb.reshape(-1, 3) // 64 * 64, axis=0, return_inverse=True)
        palette = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
        palette[: len(colors), 1:] = colors
        return VideoFrame.from_ndarray(  # PyAV takes a pair, but its stubs do not say so
            cast(Any, (indices.reshape(rgb.shape[:2]).astype(np.uint8), palette)), "pal8"
        )
    frame = frame.reformat(format=pix_fmt)
    if color is not None:
        frame.colorspace, frame.color_range = color[:2]
        frame.color_primaries, frame.color_trc = color[2:]
    return frame


def _add_audio(out: OutputContainer, name: str, language: str) -> Any:
    sound: Any = out.add_stream(name, rate=48000)
    sound.metadata["language"] = language
    return sound


def _write_sine(out: OutputContainer, sound: Any, seconds: float, start: float) -> None:
    context = sound.codec_context
    if not context.is_open:
        context.open()
    size = context.frame_size or 1024
    layout, kind = context.layout, context.format
    resampler = av.AudioResampler(format=kind, layout=layout, rate=48000)
    origin = round(start * 48000)
    for first in range(0, max(size, round(seconds * 48000)), size):
        t = np.arange(first, first + size) / 48000
        wave = (np.sin(2 * np.pi * 440 * t) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(
            np.repeat(wave[None], len(layout.channels), 0), "s16p", layout.name
        )
        frame.sample_rate, frame.pts, frame.time_base = 48000, first + origin, Fraction(1, 48000)
        for part in resampler.resample(frame):
            part.pts = first + origin
            out.mux(sound.encode(part))
    out.mux(sound.encode(None))


def _add_subtitles(out: OutputContainer, name: str) -> Stream:
    stream = out.add_mux_stream(name)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "eng"
    return stream


def _write_subtitles(
    out: OutputContainer, stream: Stream, prefix: bool, seconds: float, start: float
) -> None:
    for index, text in enumerate((b"Hello", b"Bye")):
        data = len(text).to_bytes(2, "big") + text if prefix else text
        packet = av.Packet(data)
        packet.stream = stream
        packet.time_base = Fraction(1, 1000)
        packet.pts = packet.dts = round((start + index * seconds / 2) * 1000)
        packet.duration = max(1, round(seconds * 500))
        packet.is_keyframe = True
        out.mux(packet)


def _add_cover(out: OutputContainer) -> av.Packet[Any]:
    stream = out.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
    stream.disposition = Disposition.attached_pic
    packet = stream.encode(to_frame(moving_shapes(0, 32, 32), "yuvj420p"))[0]
    packet.stream = stream
    return packet


def _chapter(number: int, begin: float, end: float, title: str, start: float) -> Chapter:
    return {
        "id": number,
        "start": round((begin + start) * 1000),
        "end": round((end + start) * 1000),
        "time_base": Fraction(1, 1000),
        "metadata": {"title": title},
    }


def open_input(path: str | Path) -> InputContainer:
    return av.open(str(path), "r")


def video_times(path: str | Path) -> list[Fraction]:
    """Presentation times in s of all decoded frames, by PyAV alone."""
    with open_input(path) as container:
        stream = container.streams.video[0]
        return [
            f.pts * f.time_base
            for f in container.decode(stream)
            if f.pts is not None and f.time_base
        ]


def packet_bytes(path: str | Path, kind: str) -> list[list[bytes]]:
    """The payload of every packet of every stream of a kind ("audio", "subtitle")."""
    with open_input(path) as container:
        streams = [s for s in container.streams if s.type == kind]
        found: dict[int, list[bytes]] = {s.index: [] for s in streams}
        for packet in container.demux():
            if packet.size and packet.stream_index in found:
                found[packet.stream_index].append(bytes(packet))
        return list(found.values())


def planes_of(picture: VideoFrame) -> list[npt.NDArray[Any]]:
    """The samples of each plane of a planar or semi-planar picture, without padding."""
    wide = picture.format.components[0].bits > 8
    step = 2 if picture.format.name in ("nv12", "p010le") else 1
    planes = []
    for index, plane in enumerate(picture.planes):
        columns = plane.width * (step if index else 1)
        samples = np.frombuffer(memoryview(plane), np.uint16 if wide else np.uint8)
        planes.append(samples.reshape(plane.height, -1)[:, :columns].copy())
    return planes
