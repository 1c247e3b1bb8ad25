"""Makes docs/demo.png: one frame annotated, and the same frame anonymised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import vidai

FOLDER = Path(__file__).parent

found = vidai.detect(FOLDER / "face.mp4", model="centerface", start=3.0, max_frames=1)
frame, detections = next(iter(found))
pictures = [step(frame, detections).rgb() for step in (vidai.Overlay(), vidai.Redact())]
gap = np.full((frame.height, 8, 3), 255, np.uint8)
Image.fromarray(np.hstack([pictures[0], gap, pictures[1]])).save(
    FOLDER.parent / "docs" / "demo.png"
)
