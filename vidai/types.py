"""What travels through a pipeline: stream descriptions, surfaces, frames, detections.

Packets are PyAV's `av.Packet`: they already carry data, pts, dts, duration (ticks of
their time base) and is_keyframe.

Two coordinate systems meet here. *Stored* pixels are as the codec delivers them;
*display* pixels are upright, as a player shows them after applying the rotation of the
container. Boxes, `Frame.rgb()` and models see display pixels; kernels map them to
stored pixels with `StreamInfo.orientation`, so no picture is ever rotated in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from vidai.device import Device

# Orientation bits: display (x, y) -> stored (x, y): transpose first, then flip.
FLIP_X = 1  # stored x runs against its axis
FLIP_Y = 2  # stored y runs against its axis
TRANSPOSE = 4  # display x runs along stored y


@dataclass(frozen=True)
class Color:
    """Colour tags as ITU-T H.273 code points, as found in the stream (2 = unspecified).

    range: 0 unspecified, 1 limited (16–235 at 8 bit), 2 full (0–255), as in FFmpeg.
    """

    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    range: int = 0

    def resolved(self, height: int) -> Color:
        """The tags with matrix and range decided where the stream is silent.

        An unspecified matrix is BT.709 from 720 rows up, BT.601 below, as players do;
        an unspecified range is limited.
        """
        matrix = self.matrix
        if matrix not in LUMA_WEIGHTS:
            matrix = 1 if height >= 720 else 6
        return replace(self, matrix=matrix, range=self.range or 1)

    @property
    def full_range(self) -> bool:
        return self.range == 2

    @property
    def luma_weights(self) -> tuple[float, float]:
        """(Kr, Kb) of the matrix; resolve first. KeyError for an unresolved matrix."""
        return LUMA_WEIGHTS[self.matrix]


# (Kr, Kb) by H.273 matrix code point, Table 4: BT.709, FCC, BT.470BG, BT.601, BT.2020 NCL.
LUMA_WEIGHTS: dict[int, tuple[float, float]] = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    9: (0.2627, 0.0593),
}


@dataclass(frozen=True)
class StreamInfo:
    """A video stream: what the container and the decoder say of it.

    width, height: stored size in px. time_base: s per tick. frame_rate: 1/s, None when
    unknown. interlaced: its first picture is two fields. display_matrix: the container's nine
    32-bit values (FFmpeg's AV_PKT_DATA_DISPLAYMATRIX) or None. start, duration: s, None when
    unknown.
    """

    name: str
    codec: str
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    frame_rate: Fraction | None = None
    color: Color = field(default_factory=Color)
    bit_depth: int = 8
    sample_aspect_ratio: Fraction = Fraction(1)
    interlaced: bool = False
    display_matrix: tuple[int, ...] | None = None
    start: float | None = None
    duration: float | None = None

    @cached_property
    def orientation(self) -> int:
        """How display maps to stored pixels: bits FLIP_X, FLIP_Y, TRANSPOSE.

        A matrix that is no multiple of 90° counts as upright; it is still kept for the
        output.
        """
        if self.display_matrix is None:
            return 0
        a, b, _, c, d, *_ = self.display_matrix
        # The matrix maps stored to display: x' = a x + c y, y' = b x + d y.
        if b == c == 0 and a and d:
            return (FLIP_X if a < 0 else 0) | (FLIP_Y if d < 0 else 0)
        if a == d == 0 and b and c:
            # display y runs along stored x (sign b), display x along stored y (sign c)
            return TRANSPOSE | (FLIP_X if b < 0 else 0) | (FLIP_Y if c < 0 else 0)
        return 0

    @property
    def rotation(self) -> int:
        """Clockwise degrees (0, 90, 180, 270) by which a player turns the stored picture."""
        return {0: 0, FLIP_X | FLIP_Y: 180, TRANSPOSE | FLIP_Y: 90, TRANSPOSE | FLIP_X: 270}.get(
            self.orientation, 0
        )

    @cached_property
    def display_size(self) -> tuple[int, int]:
        """(width, height) in display px."""
        if self.orientation & TRANSPOSE:
            return self.height, self.width
        return self.width, self.height


@dataclass(frozen=True)
class Surface:
    """4:2:0 planes in the memory of one device.

    y, u, v: addresses of the first samples. Pitches are bytes between rows. c_step is
    the distance between neighbouring chroma samples in samples: 1 planar (I420, I010),
    2 interleaved (NV12, P010). A sample is one byte when bit_depth is 8, else two, and
    its value is `stored >> shift` (P010: 6). Chroma planes are ((width+1)//2,
    (height+1)//2). owner keeps the memory alive.
    """

    width: int
    height: int
    y: int
    u: int
    v: int
    y_pitch: int
    c_pitch: int
    c_step: int = 1
    bit_depth: int = 8
    shift: int = 0
    owner: Any = None


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    index: 0, 1, 2 … in display order of what was selected. pts: ticks of
    info.time_base. The surface of a decoded frame is read-only: `Device.writable`
    gives one to draw on.
    """

    info: StreamInfo
    index: int
    pts: int
    surface: Surface
    device: Device
    writable: bool = False

    @property
    def time(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.info.time_base)

    @property
    def width(self) -> int:
        """Width in display px."""
        return self.info.display_size[0]

    @property
    def height(self) -> int:
        """Height in display px."""
        return self.info.display_size[1]

    def rgb(self) -> Any:
        """The upright picture as an (H, W, 3) uint8 array in the frame's own device memory."""
        from vidai.ops import rgb  # ops is built on types; this is the one way back

        return rgb(self)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.asarray(self.device.to_host(self.rgb(), "frame.rgb()"), dtype=dtype)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.rgb().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device.dlpack_device


@dataclass(frozen=True)
class InputSpec:
    """How a display picture becomes one (3, height, width) slot of a model's input.

    width, height: model px; 0 in both = any multiple of `multiple`, see `size_for`.
    channels: their order in the tensor. Per channel, in that order, a pixel 0–255 becomes
    `(pixel * scale - mean) / std`. pad: the colour (0–255, same order) outside the picture.
    place: "top-left" and "center" keep the aspect ratio, "stretch" fills the input.
    longest: px of the longer side when the size is free and the caller names none.
    """

    width: int
    height: int
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: tuple[float, float, float] = (114.0, 114.0, 114.0)
    place: Literal["top-left", "center", "stretch"] = "center"
    dtype: Literal["float32", "float16"] = "float32"
    multiple: int = 32
    longest: int = 960

    def size_for(self, width: int, height: int, longest: int | None = None) -> tuple[int, int]:
        """(width, height) in model px for a picture of width × height display px.

        Where the model leaves the size free: the picture's own, shrunk (never enlarged)
        until its longer side is at most `longest` px, each axis rounded up to a multiple.
        """
        if self.width:
            return self.width, self.height
        shrink = min(1.0, (longest or self.longest) / max(width, height))
        across, down = (-(-side * shrink // self.multiple) for side in (width, height))
        return int(across) * self.multiple, int(down) * self.multiple


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in a model's input: model = display * scale + pad, per axis, in px."""

    scale_x: float
    scale_y: float
    pad_x: float = 0.0
    pad_y: float = 0.0

    def to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes (K, 4) xyxy from model px to display px."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        pad = np.array([self.pad_x, self.pad_y] * 2, np.float32)
        return ((boxes - pad) / scale).astype(np.float32)


@dataclass(frozen=True)
class Batch:
    """Frames prepared for a model: data (N, 3, H, W) in the model's dtype, on its device."""

    data: Any
    placements: tuple[Placement, ...]
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Detections:
    """What a model found in one frame, as parallel arrays on the host, best first.

    boxes: (K, 4) float32, x1 y1 x2 y2 in display px. scores: (K,) float32, 0–1.
    class_ids: (K,) int32, indices into names. track_ids: (K,) int64 or None.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    names: tuple[str, ...] = ()
    track_ids: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        k = len(self.scores)
        if self.boxes.shape != (k, 4) or self.class_ids.shape != (k,):
            raise ValueError(
                f"boxes, scores and class_ids must have one length: got "
                f"{self.boxes.shape}, {self.scores.shape}, {self.class_ids.shape}"
            )

    @classmethod
    def empty(cls, names: tuple[str, ...] = ()) -> Detections:
        return cls(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), names
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: Any) -> Detections:
        """A part of the detections, by mask, slice or index array."""
        track_ids = None if self.track_ids is None else self.track_ids[keep]
        return Detections(
            self.boxes[keep], self.scores[keep], self.class_ids[keep], self.names, track_ids
        )

    def name(self, class_id: int) -> str:
        """The class's name, or its number where the model has no name for it."""
        return self.names[class_id] if 0 <= class_id < len(self.names) else str(class_id)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One JSON-ready dict a detection: box, score, class_id, class (and track_id)."""
        rows: list[dict[str, Any]] = [
            {
                "box": [round(float(v), 2) for v in box],
                "score": round(float(score), 4),
                "class_id": int(class_id),
                "class": self.name(int(class_id)),
            }
            for box, score, class_id in zip(self.boxes, self.scores, self.class_ids, strict=True)
        ]
        if self.track_ids is not None:
            for row, track_id in zip(rows, self.track_ids, strict=True):
                row["track_id"] = int(track_id)
        return rows

    def to_supervision(self) -> Any:
        """The same as a `supervision.Detections`; needs the package supervision."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.astype(int),
            tracker_id=None if self.track_ids is None else self.track_ids.astype(int),
            data={"class_name": np.array([self.name(int(i)) for i in self.class_ids])},
        )
