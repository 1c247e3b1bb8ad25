"""What PyAV says of a stream or frame, in the words of vidai.types."""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from vidai.types import Color

SIDE_DATA_KINDS = 64  # numbers that FFmpeg may give to a kind of side data; it uses half


def reason(error: Exception) -> str:
    """What a foreign error says, without its codes and repeated file names."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def codec_of(stream: Stream) -> str:
    """The codec's name, "aac"; an attachment's file name; "unknown" where nothing decodes it."""
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    return getattr(stream, "name", None) or "unknown"


def is_rgb(pixel_format: VideoFormat) -> bool:
    return pixel_format.is_rgb or pixel_format.has_palette


def bit_depth(pixel_format: VideoFormat) -> int:
    return max(component.bits for component in pixel_format.components)


def color_of(tagged: Any, pixel_format: VideoFormat, height: int) -> Color:
    """Colour of the 4:2:0 picture that a frame or codec context (`tagged`) leads to.

    RGB is converted to limited range, BT.709 from 720 rows up and BT.601 below; everything
    else keeps its tags. The yuvj formats are full range whatever their tag says.
    """
    color = Color(
        int(tagged.colorspace),
        int(tagged.color_primaries),
        int(tagged.color_trc),
        2 if pixel_format.name.startswith("yuvj") else int(tagged.color_range),
    )
    if is_rgb(pixel_format):
        return Color(2, color.primaries, color.transfer, 1).resolved(height)
    return color


def display_matrix_of(frame: VideoFrame) -> tuple[int, ...] | None:
    """The nine 32-bit values of the container's display matrix, None when there is none.

    PyAV cannot read side data of a kind that it has no name for, as of EXIF, from which FFmpeg
    makes a display matrix; and frees what belongs to some twice, as of a PNG's colour profile. So
    all but the matrix is taken off first, by FFmpeg's own filter.
    """
    graph = av.filter.Graph()
    source = last = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    for kind in set(range(SIDE_DATA_KINDS)) - {Type.DISPLAYMATRIX.value}:
        last.link_to(taker := graph.add("sidedata", f"mode=delete:type={kind}"))
        last = taker
    last.link_to(sink := graph.add("buffersink"))
    graph.configure()
    source.push(frame)
    data = cast(Any, sink.pull()).side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return None
    return tuple(int(v) for v in np.frombuffer(bytes(data), np.int32))
