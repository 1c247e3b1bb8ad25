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
from PIL import ImageFont

from vidai.errors import ConfigError

if TYPE_CHECKING:
    from vidai.device import Device


class Atlas:
    """The glyphs of one font size, each rendered when it is first needed.

    mask: a byte of full coverage, which filled rectangles look through, then the coverage of
    all glyphs, one after the other, each row by row. table: what kernels/items.cpp must know of
    each glyph. ascent, descent: px of the line above and below the baseline.
    """

    def __init__(self, size: int) -> None:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise ConfigError(
                "labels need Pillow with FreeType, and this one is without: install Pillow again"
            )
        self._font = font
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        self._on_device: WeakKeyDictionary[Device, Any] = WeakKeyDictionary()
        self.mask = np.full(1, 255, np.uint8)
        self.table = b""
        # The line is as high as its capitals and brackets, not as the font's tallest accents.
        _, top, _, bottom = font.getbbox("Hg(|", anchor="ls")
        self.ascent, self.descent = -int(top), int(bottom)

    def number(self, char: str) -> int:
        """The place of a character's glyph in the table."""
        number = self._numbers.get(char)
        return self._render(char) if number is None else number

    def on_device(self, device: Device) -> Any:
        """The mask where kernels can read it, sent again only when it has grown."""
        device = device.main
        sent = self._on_device.get(device)
        if sent is None or len(sent) != len(self.mask):
            sent = self._on_device[device] = device.constant(self.mask, "glyphs")
        return sent

    def _render(self, char: str) -> int:
        with self._lock:
            if char not in self._numbers:
                drawn = unicodedata.normalize("NFKD", char)[0] if char.isprintable() else "?"
                image, (left, top) = self._font.getmask2(drawn, mode="L", anchor="ls")
                advance = round(self._font.getlength(drawn))
                width, height = image.size
                glyph = np.array([len(self.mask), width, height, left, top, advance], np.int32)
                coverage = np.frombuffer(bytes(image), np.uint8)[: width * height]
                self.mask = np.concatenate([self.mask, coverage])
                self.table += glyph.tobytes()
                self._numbers[char] = len(self._numbers)
            return self._numbers[char]


@lru_cache(maxsize=16)
def atlas(size: int) -> Atlas:
    """The glyphs at this font size (px per em)."""
    return Atlas(size)
