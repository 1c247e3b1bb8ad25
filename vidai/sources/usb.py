"""Cameras at this machine, as Linux shows them: V4L2 devices, by FFmpeg's input device v4l2."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
from av import error as native
from av.container import InputContainer
from av.container.core import Flags
from av.video.stream import VideoStream

from vidai.errors import ConfigError, SourceLost
from vidai.sources.interrupt import is_over
from vidai.tags import reason

PAUSE = 0.004  # s between looks for a frame; close and timeouts are heard as soon
BEGINS = re.compile(r"usb:|/dev/video\d|/dev/v4l/")
CAMERA = re.compile(r"(usb:\d+|/dev/video\d+|/dev/v4l/by-(?:id|path)/[^/?#]+)(?:\?(.*))?")
# What may be asked for: FFmpeg's name of the option, and how it is written.
PIXELS = "[1-9][0-9]{0,4}"
FORMATS = ("mjpeg", "h264", "yuyv422", "uyvy422", "nv12", "yuv420p", "rgb24", "bgr24", "gray")
SETTINGS = {
    "size": ("video_size", rf"{PIXELS}x{PIXELS}"),
    "fps": ("framerate", r"[1-9][0-9]{0,2}(\.[0-9]{1,3})?"),
    "format": ("input_format", "|".join(FORMATS)),
}
ALLOWED = f"size=1280x720, fps=30, format={'|'.join(FORMATS)}"

# FFmpeg waits for a frame within the kernel, where nothing interrupts it, so it is told not to
# wait. What it looked at when it opened the device is not kept either: it would be a buffer of the
# camera that outlives the device.
OPTIONS = {"fflags": f"+nobuffer+{Flags.non_block.value}"}
# Frames as JPEGs come in every size at full speed; USB is too slow for large ones as they are.
PREFERRED = "mjpeg"


def is_camera(text: str) -> bool:
    """Whether an address means a camera at this machine, properly written or not."""
    return BEGINS.match(text) is not None


@dataclass(frozen=True)
class Camera:
    """A device and what it is asked for. options: FFmpeg's."""

    device: str
    options: dict[str, str]

    @classmethod
    def of(cls, text: str) -> Camera:
        """usb:0, /dev/video0 or /dev/v4l/by-id/NAME, and perhaps ?size=1280x720&fps=30.

        Raises ConfigError for what can never work.
        """
        found = CAMERA.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"{text} is no camera at this machine: write usb:0, /dev/video0, or "
                "/dev/v4l/by-id/ and a name from there"
            )
        device, query = found.groups()
        options: dict[str, str] = {}
        for part in query.split("&") if query else ():
            key, _, value = part.partition("=")
            option, pattern = SETTINGS.get(key, ("", ""))
            if not option or option in options or not re.fullmatch(pattern, value):
                raise ConfigError(f"{text}: {part} cannot be asked for: there is {ALLOWED}")
            options[option] = value
        return cls(device.replace("usb:", "/dev/video"), options)


def connect(text: str, options: dict[str, str], timeout: float) -> InputContainer:
    """Open the camera. options: FFmpeg's, besides the camera's own. timeout: PyAV's, s.

    Raises SourceLost where it gives another size than was asked for, or no pictures at all, and
    what av.open raises.
    """
    camera = Camera.of(text)
    wanted = {**options, **OPTIONS, **camera.options}
    try:
        container = _open(camera, {"input_format": PREFERRED, **wanted}, timeout)
    except native.OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENOTTY):
            raise
        raise SourceLost(
            f"{text} gives no pictures: where a camera has several devices, take another of them"
        ) from error
    except native.ArgumentError:
        if "input_format" in wanted:
            raise
        container = _open(camera, wanted, timeout)  # the first format that both know
    if is_over():  # FFmpeg gives it although no picture came
        container.close()
        raise native.ExitError(0, "no picture came")
    size = wanted.get("video_size")
    context = container.streams.video[0].codec_context
    given = f"{context.width}x{context.height}"
    if size not in (None, given):
        container.close()
        raise SourceLost(f"{text} gives {given} where {size} was asked for: choose a size it has")
    return container


def _open(camera: Camera, options: dict[str, str], timeout: float) -> InputContainer:
    # As `options` they would go to the decoder as well, which knows a video_size of its own.
    return av.open(camera.device, "r", format="v4l2", container_options=options, timeout=timeout)


def packets(container: InputContainer, video: VideoStream) -> Iterator[av.Packet[Any]]:
    """Frames as they come, until the thread's Waiting is over. Raises what PyAV does."""
    while not is_over():
        try:
            packet = _read(container, video)
        except BlockingIOError:
            packet = None
        if packet is None:
            time.sleep(PAUSE)
        else:
            yield packet


def _read(container: InputContainer, video: VideoStream) -> av.Packet[Any] | None:
    """A frame on memory of its own, since that of the driver goes away with the container; None
    for one that was damaged on its way."""
    given = next(container.demux(video))
    if not given.size:
        return None
    packet: av.Packet[Any] = av.Packet(given.size)
    packet.update(bytes(given))
    packet.stream, packet.time_base = video, given.time_base
    packet.pts, packet.dts, packet.duration = given.pts, given.dts, given.duration
    packet.is_keyframe = given.is_keyframe
    return packet


def meaning(error: Exception) -> str:
    """What an error of the device means, in words that follow its name."""
    match getattr(error, "errno", None):
        case errno.ENOENT | errno.ENXIO:
            return "is not there: plug the camera in (a container is given it by --device)"
        case errno.EACCES | errno.EPERM:
            return "may not be opened by this user: let it join the group video"
        case errno.EBUSY:
            return "is in use by another program: end that"
        case errno.ENODEV | errno.EIO:
            return "is gone: it was unplugged or has failed"
        case errno.EINVAL:
            return "does not give pictures in this format: leave it out, or choose another"
        case errno.ENOSPC:
            return "finds no room on its USB bus: choose a smaller size or rate, or another port"
    return f"cannot be read: {reason(error)}"
