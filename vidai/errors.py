"""Every exception that vidai raises on purpose.

    VidaiError
    ├── ConfigError         an option, name or combination that cannot work
    ├── DeviceUnavailable   the device asked for is not on this machine
    ├── DeviceError         the device failed while in use, or its memory is full
    ├── KernelError         a kernel did not build, load or launch
    ├── ModelError          a model file is missing, damaged or of no known family
    ├── TransferError       more bytes crossed between host and device than allowed
    └── StreamError         something about one video stream
        ├── SourceLost      the source stopped delivering; trying again may help
        ├── DecodeError     the stream cannot be decoded
        ├── EncodeError     the encoder refused a setting or a frame
        └── SinkError       the output cannot be written

A message is one sentence for a person: what was wrong, where, what to do. Errors of
other libraries are translated once, where they arise, and kept as `__cause__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidai.types import Frame


class VidaiError(Exception):
    """Base of all errors raised on purpose by vidai."""


def located(frame: Frame, error: BaseException) -> BaseException:
    """The error with the stream and time of the frame in its words, if it is one of vidai's
    that does not name them yet."""
    if not isinstance(error, VidaiError) or str(error).startswith(frame.info.name):
        return error
    told = type(error)(f"{frame.info.name} at {frame.time:.3f} s: {error}")
    told.__cause__ = error
    return told


def sentence(error: BaseException) -> str:
    """What went wrong, in words; of an error that is not vidai's with its kind."""
    return str(error) if isinstance(error, VidaiError) else f"{type(error).__name__}: {error}"


class ConfigError(VidaiError):
    """An option, a name or a combination of them cannot work."""


class DeviceUnavailable(VidaiError):
    """The device that was asked for is not on this machine."""


class DeviceError(VidaiError):
    """The device failed while it was in use, or its memory is full."""


class KernelError(VidaiError):
    """A kernel did not compile, load or launch; carries the compiler's log."""


class ModelError(VidaiError):
    """A model file is missing, damaged, or fits no known family."""


class TransferError(VidaiError):
    """More bytes crossed between host and device memory than the run allows."""


class StreamError(VidaiError):
    """Something about one video stream."""


class SourceLost(StreamError):
    """The source stopped delivering; connecting again may help."""


class DecodeError(StreamError):
    """The stream, or this part of it, cannot be decoded."""


class EncodeError(StreamError):
    """The encoder refused a setting or a frame."""


class SinkError(StreamError):
    """The output cannot be written."""
