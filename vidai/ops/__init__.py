"""Operations on frames and on a model's raw outputs, each one kernel on every device.

Beside them optional operators on RGB pictures, for which each device has a library: see
vidai.ops.image.
"""

from vidai.ops.candidates import View, candidates
from vidai.ops.image import gaussian, hq_resize, rotate, warp
from vidai.ops.letterbox import letterbox
from vidai.ops.nms import nms
from vidai.ops.overlay import draw
from vidai.ops.redact import redact
from vidai.ops.rgb import rgb
from vidai.ops.yuv import write_rgb

__all__ = [
    "View",
    "candidates",
    "draw",
    "gaussian",
    "hq_resize",
    "letterbox",
    "nms",
    "redact",
    "rgb",
    "rotate",
    "warp",
    "write_rgb",
]
