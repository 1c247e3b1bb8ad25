"""What is in a video file, and what vidai would do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from av.stream import Stream

from vidai.devices.cpu.codecs import LAYOUTS
from vidai.sinks.video import FORMATS, fits
from vidai.sources.file import FileSource
from vidai.tags import codec_of

_MATRIX = {1: "BT.709", 4: "FCC", 5: "BT.601", 6: "BT.601", 9: "BT.2020"}


def probe(path: str | Path) -> dict[str, Any]:
    """The file's streams and tags, and under "plan" what a run would do, JSON-ready.

    Raises ConfigError or DecodeError for a file that cannot be used.
    """
    with FileSource(path) as source:
        info = source.info
        color = info.color.resolved(info.height)
        width, height = info.display_size
        video = {
            "codec": info.codec,
            "width": info.width,
            "height": info.height,
            "pixel_format": info.pixel_format,
            "bit_depth": info.bit_depth,
            "frame_rate": float(info.frame_rate) if info.frame_rate else None,
            "time_base": str(info.time_base),
            "frames": source.video.frames or None,
            "rotation": info.rotation,
            "display_width": width,
            "display_height": height,
            "sample_aspect_ratio": str(info.sample_aspect_ratio),
            "matrix": _MATRIX[color.matrix],
            "matrix_is_a_guess": color.matrix != info.color.matrix,
            "range": "full" if color.full_range else "limited",
        }
        return {
            "path": str(source.path),
            "container": source.container.format.name,
            "start": info.start,
            "duration": info.duration,
            "metadata": source.metadata,
            "chapters": len(source.chapters),
            "video": video,
            "streams": [_other(stream) for stream in source.others],
            "plan": _plan(source),
        }


def _other(stream: Stream) -> dict[str, Any]:
    return {
        "index": stream.index,
        "type": stream.type,
        "codec": codec_of(stream),
        "language": stream.language,
        "fits": [suffix for suffix, muxer in FORMATS.items() if fits(stream, muxer)],
    }


def _plan(source: FileSource) -> list[str]:
    """Sentences for a person."""
    info = source.info
    decoded = f"decoded on the CPU as {info.pixel_format}"
    if info.pixel_format not in LAYOUTS:
        decoded += f", converted to 4:2:0 in {8 if info.bit_depth <= 8 else 10} bit"
    plan = [decoded]
    if info.color.resolved(info.height) != info.color:
        plan.append("colour tags are incomplete: what is missing is guessed as players do")
    if info.orientation:
        plan.append(
            f"detection and labels see the upright picture, turned {info.rotation}°; "
            f"the output carries the same rotation"
        )
    for stream in source.others:
        row = _other(stream)
        name = f"{row['type']} stream {row['index']} ({row['codec']})"
        where = ", ".join(row["fits"]) or "no container that vidai writes"
        plan.append(f"{name} is passed through to {where}")
    plan += [f"{what} is left out: one video is processed" for what in source.unused]
    return plan
