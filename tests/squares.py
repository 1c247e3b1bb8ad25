"""Clips of coloured squares whose detections by the tiny model are known exactly."""

from __future__ import annotations

from pathlib import Path

from tests.media import make_clip
from tests.tiny_model import SIDE, SQUARE, picture


def squares_at(index: int) -> list[tuple[int, int, int]]:
    """(x, y, class) of the squares of a frame: one of each class, stepping by 8 px."""
    return [
        (8 * ((index + 3 * class_id) % 15), 8 + 40 * class_id, class_id) for class_id in range(3)
    ]


def boxes_at(index: int) -> list[tuple[int, list[int]]]:
    """(class, box) of the squares of a frame, in display px."""
    return [(c, [x, y, x + SQUARE, y + SQUARE]) for x, y, c in squares_at(index)]


def squares_clip(path: Path, frames: int = 10, **options: object) -> Path:
    """A 128×128 clip, colours kept whole (4:4:4, nearly lossless)."""
    settings: dict[str, object] = {
        "codec": "libx264",
        "pix_fmt": "yuv444p",
        "width": SIDE,
        "height": SIDE,
        "frames": frames,
        "options": {"crf": "4"},
        "draw": lambda i: picture(squares_at(i)),
        **options,
    }
    return make_clip(path, **settings)  # type: ignore[arg-type]
