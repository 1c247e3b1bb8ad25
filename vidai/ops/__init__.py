"""Operations on frames and on a model's raw outputs, each one kernel on every device."""

from vidai.ops.candidates import View, candidates
from vidai.ops.letterbox import letterbox
from vidai.ops.nms import nms
from vidai.ops.overlay import draw
from vidai.ops.redact import redact
from vidai.ops.rgb import rgb

__all__ = ["View", "candidates", "draw", "letterbox", "nms", "redact", "rgb"]
