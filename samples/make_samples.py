"""Makes the clips of this folder: `make samples`. See README.md here for their origin.

face.mp4: the portrait of Eileen Collins that scikit-image carries, panned and zoomed,
with a tone as sound. shapes.mp4: coloured squares for the hand-made test model.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import skimage.data
from PIL import Image

FOLDER = Path(__file__).parent
RATE, SOUND_RATE = 25, 48000


def portrait(index: int, count: int) -> Any:
    """A 640×360 view into the 512×512 portrait, drifting and closing in on the face."""
    t = index / (count - 1)
    ease = t * t * (3 - 2 * t)
    width = 500 - 200 * ease
    height = width * 9 / 16
    x = 5 + (120 - 5) * ease + 12 * np.sin(6 * t)
    y = 4 + (20 - 4) * ease
    picture = Image.fromarray(skimage.data.astronaut())
    return picture.resize((640, 360), Image.Resampling.LANCZOS, (x, y, x + width, y + height))


def shapes(index: int, count: int) -> Any:
    """Red, green and blue squares of 16 px that step over a dark 320×192 picture."""
    image = np.full((192, 320, 3), 16, np.uint8)
    for channel in range(3):
        x = 16 * ((index // 5 + 5 * channel) % 20)
        y = 16 * (2 + 4 * channel)
        image[y : y + 16, x : x + 16, channel] = 255
    return Image.fromarray(image)


def make(path: Path, draw: Any, count: int, tone: float) -> None:
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        container.metadata["title"] = path.stem
        video = container.add_stream("libx264", rate=RATE, options={"crf": "24", "preset": "slow"})
        sound = container.add_stream("aac", rate=SOUND_RATE)
        sound.bit_rate = 64000
        sound.layout = "mono"
        first = draw(0, count)
        video.width, video.height = first.size
        video.pix_fmt = "yuv420p"
        # A colour-tagged file, so that players and vidai agree without guessing.
        video.codec_context.colorspace = video.codec_context.color_primaries = 1
        video.codec_context.color_trc = video.codec_context.color_range = 1
        samples = np.arange(count * SOUND_RATE // RATE)
        wave = 0.1 * np.sin(2 * np.pi * tone * samples / SOUND_RATE)
        done = 0
        for index in range(count):
            image = np.asarray(draw(index, count))
            picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709"
            )
            picture.pts, picture.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(picture))
            while done + 1024 <= len(wave) and done / SOUND_RATE <= index / RATE:
                block = wave[None, done : done + 1024].astype(np.float32)
                tone_frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                tone_frame.sample_rate, tone_frame.pts = SOUND_RATE, done
                container.mux(sound.encode(tone_frame))
                done += 1024
        container.mux(video.encode())
        container.mux(sound.encode())


if __name__ == "__main__":
    make(FOLDER / "face.mp4", portrait, 150, 440.0)
    make(FOLDER / "shapes.mp4", shapes, 100, 330.0)
