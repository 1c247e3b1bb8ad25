"""Every exception that vidai raises on purpose.

    VidaiError
    ├── ConfigError         an option, name or combination that cannot work
    ├── DeviceUnavailable   the device asked for is not on this machine
    ├── KernelError         a kernel did not build, load or launch
    ├── ModelError          a model file is missing, damaged or of no known family
    └── StreamError         something about one video stream
        ├── SourceLost      the source stopped delivering; trying again may help
        ├── DecodeError     the stream cannot be decoded
        ├── EncodeError     the encoder refused a setting or a frame
        └── SinkError       the output cannot be written

A message is one sentence for a person: what was wrong, where, what to do. Errors of
other libraries are translated once, where they arise, and kept as `__cause__`.
"""


class VidaiError(Exception):
    """Base of all errors raised on purpose by vidai."""


class ConfigError(VidaiError):
    """An option, a name or a combination of them cannot work."""


class DeviceUnavailable(VidaiError):
    """The device that was asked for is not on this machine."""


class KernelError(VidaiError):
    """A kernel did not compile, load or launch; carries the compiler's log."""


class ModelError(VidaiError):
    """A model file is missing, damaged, or fits no known family."""


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
