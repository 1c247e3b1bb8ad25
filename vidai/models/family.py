"""What a model expects of the picture that it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
