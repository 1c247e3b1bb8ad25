"""A simulated USB camera: a library that takes the place of a V4L2 device in another process."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

SOURCE = Path(__file__).with_name("simv4l2.cpp")
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
DEVICE = "/dev/video90"


def build(folder: Path) -> Path:
    """The library, compiled; skips a test where there is no compiler."""
    if shutil.which("g++") is None and os.environ.get("CI") != "true":
        pytest.skip("the simulated camera is compiled with g++, which is missing: apt install g++")
    library = folder / "simv4l2.so"
    subprocess.run(["g++", *FLAGS, str(SOURCE), "-o", str(library), "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Camera:
    """What the library is told. folder: for its files; text: of modes and rates."""

    library: Path
    folder: Path
    text: str
    device: str = DEVICE

    def become(self, **settings: object) -> None:
        """state: "busy", …; after, damaged: frames. From the next time on that it is opened."""
        lines = [self.text, f"log {self.folder / 'log'}\n"]
        lines += [f"{key} {value}\n" for key, value in settings.items()]
        fresh = self.folder / "fresh"
        fresh.write_text("".join(lines))
        fresh.replace(self.folder / "camera")

    @property
    def log(self) -> list[str]:
        """What was set, since the last call."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    @property
    def environ(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "LD_PRELOAD": str(self.library),
            "SIMV4L2": str(self.folder / "camera"),
            "SIMV4L2_DEVICE": self.device,
        }


def mode(folder: Path, fourcc: str, size: tuple[int, int], frames: Sequence[bytes]) -> str:
    """The line for a format in which the camera gives these frames."""
    path = folder / f"{fourcc}-{size[0]}x{size[1]}"
    path.write_bytes(b"".join(struct.pack("<I", len(frame)) + frame for frame in frames))
    return f"mode {fourcc} {size[0]} {size[1]} {path}\n"


def pictures(size: tuple[int, int], count: int) -> Iterator[np.ndarray[Any, Any]]:
    """RGB, each in a gray of its own, with a bright square that moves."""
    for number in range(count):
        rgb = np.full((size[1], size[0], 3), 10 * number, np.uint8)
        rgb[16:48, 4 * number : 4 * number + 32] = 255
        yield rgb


def jpegs(size: tuple[int, int], count: int) -> list[bytes]:
    """4:2:2, as most cameras."""
    files = []
    for rgb in pictures(size, count):
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "JPEG", subsampling="4:2:2", quality=90)
        files.append(file.getvalue())
    return files


def yuyv(size: tuple[int, int], count: int) -> list[bytes]:
    frames = []
    for rgb in pictures(size, count):
        packed = np.full((size[1], size[0], 2), 128, np.uint8)
        packed[:, :, 0] = rgb[:, :, 0]
        frames.append(packed.tobytes())
    return frames


def h264(size: tuple[int, int], count: int) -> list[bytes]:
    """Access units, each fourth a keyframe with its headers."""
    with av.open(io.BytesIO(), "w", format="h264") as out:
        options = {"g": "4", "bf": "0", "tune": "zerolatency"}
        stream = out.add_stream("libx264", rate=Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        units: list[bytes] = []
        for rgb in pictures(size, count):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            units += map(bytes, stream.encode(picture))
        return units + [bytes(packet) for packet in stream.encode(None)]
