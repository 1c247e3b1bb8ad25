"""Glyphs of the label font as 8-bit coverage, for the overlay kernel.

The font is the one that Pillow carries (Aileron, ASCII): labels look the same on every
machine, whatever fonts are installed there. A letter with an accent loses it, any other
character that the font lacks is drawn as a box.
"""

from __future__ import annotations

import threading
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from PIL import ImageFont

from vidai.errors import ConfigError

if TYPE_CHECKING:
    from vidai.device import Device

SOLID = 0  # the mask's first byte is full coverage: what filled rectangles look through


class Glyph(NamedTuple):
    """Where a character's coverage starts in the mask, and its box, all px.

    left and top are counted from the pen on the baseline, y down; advance is how far the pen
    moves on.
    """

    start: int
    width: int
    height: int
    left: int
    top: int
    advance: int


class Atlas:
    """The glyphs of one font size, each rendered when it is first needed.

    mask: the coverage of all glyphs, one after the other, each row by row. ascent, descent:
    px of the line above and below the baseline.
    """

    def __init__(self, size: int) -> None:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise ConfigError(
                "labels need Pillow with FreeType, and this one is without: install Pillow again"
            )
        self._font = font
        self._glyphs: dict[str, Glyph] = {}
        self._lock = threading.Lock()
        self._on_device: WeakKeyDictionary[Device, Any] = WeakKeyDictionary()
        self.mask = np.full(1, 255, np.uint8)
        # The line is as high as its capitals and brackets, not as the font's tallest accents.
        _, top, _, bottom = font.getbbox("Hg(|", anchor="ls")
        self.ascent, self.descent = -int(top), int(bottom)

    def glyph(self, char: str) -> Glyph:
        """The glyph of a character."""
        return self._glyphs.get(char) or self._render(char)

    def on_device(self, device: Device) -> Any:
        """The mask where kernels can read it, sent again only when it has grown."""
        sent = self._on_device.get(device)
        if sent is None or len(sent) != len(self.mask):
            sent = self._on_device[device] = device.constant(self.mask, "glyphs")
        return sent

    def _render(self, char: str) -> Glyph:
        with self._lock:
            if char not in self._glyphs:
                drawn = unicodedata.normalize("NFKD", char)[0] if char.isprintable() else "?"
                image, (left, top) = self._font.getmask2(drawn, mode="L", anchor="ls")
                advance = round(self._font.getlength(drawn))
                width, height = image.size
                glyph = Glyph(len(self.mask), width, height, left, top, advance)
                coverage = np.frombuffer(bytes(image), np.uint8)[: width * height]
                self.mask = np.concatenate([self.mask, coverage])
                self._glyphs[char] = glyph
            return self._glyphs[char]


@lru_cache(maxsize=16)
def atlas(size: int) -> Atlas:
    """The glyphs at this font size (px per em)."""
    return Atlas(size)
