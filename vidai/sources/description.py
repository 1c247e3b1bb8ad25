"""A video stream in vidai's words."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidai.errors import DecodeError
from vidai.tags import bit_depth, color_of, display_matrix_of
from vidai.types import StreamInfo

FIELDS = range(2, 6)  # FFmpeg's AV_FIELD_TT … AV_FIELD_BT: every order but progressive


def describe(
    where: str,
    name: str,
    video: VideoStream,
    frame: VideoFrame | None,
    *,
    start: float | None = None,
    duration: float | None = None,
) -> StreamInfo:
    """What a container and its first frame, as far as there is one, say of a video.

    where: what messages name. start, duration: s. Raises DecodeError where nothing tells its size
    or pixel format.
    """
    context = video.codec_context
    picture = frame or context
    width, height, pixel_format = picture.width, picture.height, picture.format
    codec = context.codec.canonical_name
    if not (width and height and pixel_format and video.time_base):
        raise DecodeError(f"{where}: not one picture of its {codec} video can be decoded")
    color = color_of(picture, pixel_format, height)
    if codec == "mjpeg" and not color.range:
        color = replace(color, range=2)  # JPEG has no other; FFmpeg leaves gray ones untagged
    return StreamInfo(
        name=name,
        codec=codec,
        width=width,
        height=height,
        pixel_format=pixel_format.name,
        time_base=video.time_base,
        frame_rate=video.average_rate or video.guessed_rate or None,
        color=color,
        bit_depth=bit_depth(pixel_format),
        sample_aspect_ratio=video.sample_aspect_ratio or Fraction(1),
        interlaced=frame.interlaced_frame if frame else context.field_order in FIELDS,
        display_matrix=display_matrix_of(frame) if frame else None,
        start=start,
        duration=duration,
    )
