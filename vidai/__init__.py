"""Video AI: decode, detect, draw and encode, on an NVIDIA GPU or a CPU.

>>> import vidai
>>> report = vidai.run("in.mp4", "out.mp4", model="yolox-nano")      # doctest: +SKIP
>>> for frame, detections in vidai.detect("in.mp4"):                 # doctest: +SKIP
...     print(frame.time, detections.to_dicts())
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vidai.api import detect, run
from vidai.detector import Detector
from vidai.device import open_device
from vidai.errors import VidaiError
from vidai.evaluation import Evaluation, evaluate
from vidai.pipeline import Pipeline
from vidai.quantization import QuantizationRecord, quantize
from vidai.report import Report
from vidai.sinks.jsonl import JsonLines
from vidai.sinks.video import VideoFile
from vidai.sources.file import FileSource
from vidai.steps import Overlay, Redact
from vidai.types import Detections, Frame

if TYPE_CHECKING:
    from vidai.live.worker import Worker

__version__ = version("vidai")

__all__ = [
    "Detections",
    "Detector",
    "Evaluation",
    "FileSource",
    "Frame",
    "JsonLines",
    "Overlay",
    "Pipeline",
    "QuantizationRecord",
    "Redact",
    "Report",
    "VidaiError",
    "VideoFile",
    "Worker",
    "detect",
    "evaluate",
    "open_device",
    "quantize",
    "run",
]


def __getattr__(name: str) -> Any:
    """Worker is loaded when it is asked for: it needs the extra `serve`."""
    if name != "Worker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vidai.serving import live

    return live("worker").Worker
