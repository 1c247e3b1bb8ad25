"""What a device must be able to do, and how one is opened by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from vidai.errors import DeviceUnavailable
from vidai.transfers import Transfers
from vidai.turns import Turns
from vidai.types import Frame, InputSpec, StreamInfo

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from av.video.stream import VideoStream


FREE_SIZE = InputSpec(0, 0)


@dataclass(frozen=True)
class EncoderSettings:
    """How to encode. None: the encoder's own default.

    quality: the codec's CRF scale (on NVENC its constant quality), lower is better. preset: by
    the encoder's own name. bframes: pictures between two others that may refer to both.
    live: each picture is a packet at once, and one a second is a keyframe.
    """

    codec: str = "h264"
    quality: int | None = None
    preset: str | None = None
    bframes: int | None = None
    live: bool = False


class Decoder(Protocol):
    """Compressed packets of one stream in, frames in display order out."""

    @property
    def damaged(self) -> int:
        """How many packets or frames could not be decoded whole."""
        ...

    @property
    def notes(self) -> list[str]:
        """What a user should know: done in another way than asked for."""
        ...

    def decode(self, packet: av.Packet[Any] | None) -> list[Frame]:
        """Frames that this packet completes; None flushes. Damage is counted, not raised.

        Raises DecodeError where the decoder itself refuses to go on.
        """
        ...


class Encoder(Protocol):
    """Frames in, packets of one output stream out."""

    @property
    def moved(self) -> int:
        """How many frames had a pts that did not come after the one before."""
        ...

    @property
    def notes(self) -> list[str]:
        """What a user should know: done in another way than asked for."""
        ...

    def add_to(self, container: OutputContainer) -> VideoStream:
        """Create the output stream, tagged like the source. Raises EncodeError."""
        ...

    def encode(self, frame: Frame | None, pts: int | None = None) -> list[av.Packet[Any]]:
        """Packets that are ready; None flushes. pts overrides the frame's own, in its ticks."""
        ...


class Session(Protocol):
    """A model loaded for one thread at a time."""

    @property
    def device(self) -> Device:
        """The lane on which it runs."""
        ...

    @property
    def notes(self) -> list[str]:
        """What a user should know: done in another way than asked for."""
        ...

    def layer_precisions(self) -> dict[str, int]:
        """How many layers compute in "fp8", "fp16" and so on; {} where that cannot be told."""
        ...

    def run(self, data: Any) -> list[Any]:
        """Raw outputs, on the device, in the order of the model file, for (N, 3, H, W) data."""
        ...


class Device(Protocol):
    """The handful of verbs that differ between CPU and CUDA.

    A device has lanes. What is asked of one lane happens in that order; two lanes know nothing
    of each other until one waits with `after`. A lane is a CUDA stream; the CPU device, where
    every verb returns when it is done, has one. All lanes of a device are equal (==).
    """

    name: str  # "cpu", "cuda:0"
    dlpack_device: tuple[int, int]
    asynchronous: bool  # verbs queue work and return; only to_host and synchronize wait
    workers: int  # sessions that run side by side for best throughput
    max_batch: int  # pictures in one run of a session, for best throughput
    strict: bool  # what it cannot do itself is an error, not work for the CPU
    transfers: Transfers
    turns: Turns  # of the threads that use an asynchronous device

    @property
    def main(self) -> Device:
        """The device's own lane, one object: for what is prepared once for all lanes."""
        ...

    def lane(self) -> Device:
        """A new lane."""
        ...

    def after(self, other: Device) -> None:
        """What is asked of this lane from now on waits for what was asked of the other."""
        ...

    def __hash__(self) -> int:
        """Ops keep what they have prepared for a device."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """An uninitialised C-contiguous array in device memory."""
        ...

    def to_host(self, array: Any, what: str = "array") -> npt.NDArray[Any]:
        """The array, of any lane, in host memory; what was asked of its lane and of this one
        is done then."""
        ...

    def to_device(self, array: npt.NDArray[Any], what: str = "array") -> Any:
        """A host array (a draw list) where kernels of this lane can read it. what: its name in
        `transfers`."""
        ...

    def borrow(self, array: Any) -> Any:
        """An array of any lane, to be read by this one: each waits for the other."""
        ...

    def constant(self, array: npt.NDArray[Any], what: str = "table") -> Any:
        """A host array that stays as it is, where kernels of every lane can read it."""
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

    def decoder(self, stream: VideoStream, info: StreamInfo, *, low_delay: bool = False) -> Decoder:
        """low_delay: give each picture as soon as it can be shown, at the cost of throughput."""
        ...

    def encoder(self, info: StreamInfo, settings: EncoderSettings) -> Encoder: ...

    def session(
        self,
        model: bytes,
        spec: InputSpec = FREE_SIZE,
        name: str = "model",
        progress: Callable[[str, float], None] | None = None,
    ) -> Session:
        """A session of one worker on an ONNX model. Raises ModelError.

        spec: how large its input is. name: for messages. progress: called with what is being
        done and how much of it is done, 0–1, where a model is first built for a GPU.
        """
        ...

    def synchronize(self) -> None:
        """Wait until all that was asked of this lane is done."""
        ...


def open_device(name: str = "auto", *, strict_gpu: bool = False) -> Device:
    """The device called "cpu", "cuda", "cuda:N", or "auto" (CUDA where there is one).

    strict_gpu: a GPU, on which nothing is left to the CPU: what its NVDEC or NVENC cannot do is
    an error. A device is the module vidai.devices.<kind> with a function `open(index)`.
    Raises DeviceUnavailable.
    """
    if name == "auto":
        try:
            return open_device("cuda", strict_gpu=strict_gpu)
        except DeviceUnavailable:
            if strict_gpu:
                raise
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
    if strict_gpu:
        if kind == "cpu":
            raise DeviceUnavailable(
                "strict_gpu asks for a GPU, and the device is cpu: leave out one of the two"
            )
        device.strict = True
    return device
