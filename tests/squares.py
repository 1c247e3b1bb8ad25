"""Clips of coloured squares whose detections by the tiny model are known exactly."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.media import Picture, make_clip
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


def crowd_at(index: int) -> Picture:
    """25 squares, of all classes, which the tiny model gives scores from 0 to 1: four in five
    of them 0.6 or more, few near the threshold. Each is 2 px larger on all sides, so that the
    colours of a 4:2:0 picture are whole in it."""
    rng = np.random.default_rng((index, 11))
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    for y in range(0, SIDE - SQUARE, 24):
        for x in range(0, SIDE - SQUARE, 24):
            score = rng.uniform(0.6, 1) if rng.random() < 0.8 else rng.uniform(0, 0.5)
            square = rgb[max(0, y - 2) : y + SQUARE + 2, max(0, x - 2) : x + SQUARE + 2]
            square[..., rng.integers(3)] = round(255 * (3 + score) / 4)
    return rgb


def crowd_clip(path: Path, indices: Iterable[int]) -> Path:
    """A clip of these crowds, without loss but that of 4:2:0."""
    shown = [*indices]
    return squares_clip(path, len(shown), draw=lambda i: crowd_at(shown[i]), options={"crf": "0"})
