"""Tries a detector in every precision of its model, on frames of the video that it is to run on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress

from vidai.detector import Detector
from vidai.device import Device
from vidai.errors import StreamError
from vidai.precision import Detect, Precision, case_of, choose, receipt_path, variants
from vidai.sources.file import FileSource
from vidai.sources.media import STEP, every, frames_at
from vidai.types import Frame

FRAMES = 24

Progress = Callable[[str, float], None]


def settled(
    detector: Detector,
    source: FileSource,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Detector:
    """The detector in the fastest precision that finds the same in frames of the source.

    It is the same one where nothing is left to choose. The source stays where it is. The
    receipt is kept, where the frames show enough. progress: called with what is done and how
    much of it, 0–1, also while engines are built. Raises VidaiError.
    """
    if not detector.undecided:
        return detector
    told = progress or (lambda what, part: None)
    reference, *others = variants(detector.model)
    frames = sample(source, detector.device, told) if others else []
    if not frames:
        why = "no frame can be read to compare others on" if others else "the model has no other"
        detector.precision, detector.undecided = Precision(reference, why), False
        return detector
    detectors: dict[str, Detector] = {}

    def candidate(precision: str) -> Callable[[], Detect]:
        def make() -> Detect:
            detectors[precision] = Detector(  # for all classes, whatever are wanted this time
                detector.model,
                device=detector.device,
                conf=detector.conf,
                iou=detector.iou,
                precision=precision,
                build=lambda what, part: told(f"{precision}: {what}", part),
            )
            return detectors[precision]

        return make

    case = case_of(detector.model, detector.device, detector.conf)
    receipt = choose(
        {precision: candidate(precision) for precision in (reference, *others)},
        frames,
        case,
        layers=lambda detect: detect.layer_precisions() if isinstance(detect, Detector) else {},
        batch=detector.max_batch,
        clock=clock,
        progress=told,
    )
    best = detectors[receipt.chosen]  # its engine is there; those of the others go
    best.classes = detector.classes
    best.precision = Precision(receipt.chosen, receipt.why, receipt)
    if receipt.conclusive:
        path = receipt_path(case)
        try:
            receipt.save(path)
        except OSError as error:
            best.notes.append(
                f"the choice of {receipt.chosen} cannot be kept in {path.parent} and must be made "
                f"again next time: {error}; set VIDAI_CACHE to another folder"
            )
    return best


def sample(
    source: FileSource, device: Device, progress: Progress, most: int = FRAMES
) -> list[Frame]:
    """Up to `most` frames of one size, spread over the part of the file that the source is for.

    The file is opened anew. What cannot be read is left out.
    """
    begin, end = source.start or 0.0, source.end
    if source.info.duration is not None:
        end = min(end or source.info.duration, source.info.duration)
    if end is None:
        choice = every(STEP, FileSource(source.path, start=begin), device)
    else:
        places = [begin + n * (end - begin) / most for n in range(most)]
        choice = frames_at(source, places, device)
    found: dict[int, Frame] = {}  # by pts
    what = "taking frames to compare"
    progress(what, 0)
    with suppress(StreamError), closing(choice):
        for frame in choice:
            found[frame.pts] = frame
            progress(what, len(found) / most)
            if len(found) == most:
                break
    progress(what, 1)
    sizes = [(frame.width, frame.height) for frame in found.values()]
    return [frame for frame, size in zip(found.values(), sizes, strict=True) if size == sizes[0]]
