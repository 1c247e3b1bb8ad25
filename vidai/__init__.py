"""Video AI: decode, detect, draw and encode, on an NVIDIA GPU or a CPU.

>>> import vidai
>>> report = vidai.run("in.mp4", "out.mp4", model="yolox-nano")      # doctest: +SKIP
>>> for frame, detections in vidai.detect("in.mp4"):                 # doctest: +SKIP
...     print(frame.time, detections.to_dicts())
"""

from importlib.metadata import version

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
    "detect",
    "evaluate",
    "open_device",
    "quantize",
    "run",
]
