"""Glyphs of the label font as 8-bit coverage, for the overlay kernel.

The font is the one that Pillow carries (Aileron, ASCII): labels look the same on every
machine, whatever fonts are installed there. A letter with an accent loses it, any other
character that the font lacks is drawn as a box.
"""

from __future__ import annotations

import threading
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from PIL import ImageFont

if TYPE_CHECKING:
    from vidai.device import Device

START, WIDTH, HEIGHT, LEFT, TOP, ADVANCE = range(6)  # columns of Atlas.metrics
SOLID = 0  # the mask's first byte is full coverage: what filled rectangles look through


class Atlas:
    """The glyphs of one font size, each rendered when it is first needed.

    mask: the coverage of all glyphs, one after the other, each row by row. ascent, descent:
    px of the line above and below the baseline.
    """

    def __init__(self, size: int) -> None:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise ImportError("Pillow was built without FreeType, which draws the label font")
        self._font = font
        self._rows: dict[str, int] = {}
        self._lock = threading.Lock()
        self._on_device: WeakKeyDictionary[Device, Any] = WeakKeyDictionary()
        self._table = np.empty((0, 6), np.int32)
        self.mask = np.full(1, 255, np.uint8)
        # The line is as high as its capitals and brackets, not as the font's tallest accents.
        _, top, _, bottom = font.getbbox("Hg(|", anchor="ls")
        self.ascent, self.descent = -int(top), int(bottom)

    def metrics(self, text: str) -> npt.NDArray[np.int32]:
        """For each character a row of START … ADVANCE: (len(text), 6).

        Where its coverage starts in the mask, its width and height, its left and top from
        the pen on the baseline (y down), and how far the pen moves on: all px.
        """
        try:
            rows = [self._rows[char] for char in text]
        except KeyError:
            for char in dict.fromkeys(text):
                self._add(char)
            rows = [self._rows[char] for char in text]
        return np.asarray(self._table[rows])

    def on_device(self, device: Device) -> Any:
        """The mask where kernels can read it, sent again only when it has grown."""
        sent = self._on_device.get(device)
        if sent is None or len(sent) != len(self.mask):
            sent = self._on_device[device] = device.to_device(self.mask)
        return sent

    def _add(self, char: str) -> None:
        with self._lock:
            if char in self._rows:
                return
            drawn = unicodedata.normalize("NFKD", char)[0] if char.isprintable() else "?"
            image, (left, top) = self._font.getmask2(drawn, mode="L", anchor="ls")
            width, height = image.size
            advance = round(self._font.getlength(drawn))
            glyph = np.array([[len(self.mask), width, height, left, top, advance]], np.int32)
            coverage = np.frombuffer(bytes(image), np.uint8)
            self.mask = np.concatenate([self.mask, coverage[: width * height]])
            self._table = np.concatenate([self._table, glyph])
            self._rows[char] = len(self._table) - 1


@lru_cache(maxsize=16)
def atlas(size: int) -> Atlas:
    """The glyphs at this font size (px per em)."""
    return Atlas(size)
