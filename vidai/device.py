"""What a device must be able to do, and how one is opened by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from vidai.errors import DeviceUnavailable
from vidai.types import Frame, StreamInfo

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class EncoderSettings:
    """How to encode. quality: the codec's own CRF scale, lower is better, None = default."""

    codec: str = "h264"
    quality: int | None = None
    preset: str | None = None


class Decoder(Protocol):
    """Compressed packets of one stream in, frames in display order out."""

    damaged: int  # packets or frames that could not be decoded whole

    def decode(self, packet: av.Packet[Any] | None) -> list[Frame]:
        """Frames that this packet completes; None flushes. Damage is counted, not raised."""
        ...


class Encoder(Protocol):
    """Frames in, packets of one output stream out."""

    moved: int  # frames whose pts did not come after the one before

    def add_to(self, container: OutputContainer) -> VideoStream:
        """Create the output stream, tagged like the source. Raises EncodeError."""
        ...

    def encode(self, frame: Frame | None, pts: int | None = None) -> list[av.Packet[Any]]:
        """Packets that are ready; None flushes. pts overrides the frame's own, in its ticks."""
        ...


class Session(Protocol):
    """A model loaded for one thread at a time."""

    def run(self, data: Any) -> list[Any]:
        """Raw outputs, on the device, in the order of the model file, for (N, 3, H, W) data."""
        ...


class Device(Protocol):
    """The handful of verbs that differ between CPU and CUDA."""

    name: str  # "cpu", "cuda:0"
    dlpack_device: tuple[int, int]
    workers: int  # sessions that run side by side for best throughput

    def __hash__(self) -> int:
        """Ops keep what they have prepared for a device."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """An uninitialised C-contiguous array in device memory."""
        ...

    def to_host(self, array: Any) -> npt.NDArray[Any]: ...

    def to_device(self, array: npt.NDArray[Any]) -> Any:
        """A small host array (draw lists, weights) where kernels can read it."""
        ...

    def launch(self, kernel: str, extent: tuple[int, int, int], *args: Any) -> None:
        """Run a kernel of kernels/*.cu over extent (n, rows, columns).

        args follow the kernel's parameters: arrays and int addresses become pointers,
        np.int32 and np.float32 go by value.
        """
        ...

    def writable(self, frame: Frame) -> Frame:
        """The frame itself if it may be drawn on, else a private copy."""
        ...

    def decoder(self, stream: VideoStream, info: StreamInfo) -> Decoder: ...

    def encoder(self, info: StreamInfo, settings: EncoderSettings) -> Encoder: ...

    def session(self, model: bytes) -> Session:
        """A session of one worker on an ONNX model. Raises ModelError."""
        ...

    def synchronize(self) -> None: ...


def open_device(name: str = "auto") -> Device:
    """The device called "cpu", "cuda", "cuda:N", or "auto" (CUDA where there is one).

    A device is the module vidai.devices.<kind> with a function `open(index)`.
    Raises DeviceUnavailable.
    """
    if name == "auto":
        try:
            return open_device("cuda")
        except DeviceUnavailable:
            return open_device("cpu")
    kind, _, index = name.partition(":")
    if not kind.isidentifier() or (index and not index.isdigit()):
        raise DeviceUnavailable(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N")
    try:
        module = importlib.import_module(f"vidai.devices.{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"vidai.devices.{kind}":
            raise DeviceUnavailable(
                f"device {name!r} needs the package {error.name}: pip install 'vidai[{kind}]'"
            ) from error
        raise DeviceUnavailable(f"no device {name!r} in this version: use auto or cpu") from None
    device: Device = module.open(int(index or 0))
    return device
