"""Frames out of the user's clips, pictures and folders: few, and as different as they come."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vidai.device import Device
from vidai.errors import ConfigError, DecodeError, StreamError
from vidai.ops.letterbox import letterbox
from vidai.sources.file import FileSource
from vidai.tags import reason
from vidai.types import Frame, InputSpec

# fmt: off
CLIPS = frozenset((
    ".264", ".265", ".3gp", ".asf", ".avi", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf",
    ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))
# Without HEIC: FFmpeg delivers the tiles that phones cut such a picture into, one at a time.
PICTURES = frozenset((
    ".avif", ".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp",
))
# fmt: on
STEP = 10  # frames from one to the next, where a file does not say how long it is
CANDIDATES = 3  # frames of a stretch to choose from
AHEAD = 1.0  # s that are sooner decoded than a file is opened anew to look for a keyframe in them
ROUNDING = 1e-6  # s by which a time in float may miss a frame's
# What tells scenes apart: the mean colours of 16 × 9 fields.
THUMBNAIL = InputSpec(16, 9, place="stretch")

Thumbnail = npt.NDArray[np.float32]
T = TypeVar("T")


def media_files(paths: Sequence[str | Path]) -> list[Path]:
    """Every clip and picture among the paths and in folders, however deep, each once.

    In the order of the paths and sorted within a folder. In folders, those that are hidden or
    have none of the suffixes in CLIPS and PICTURES are passed over; what is named itself is
    taken whatever it is called. Raises ConfigError for what is not there, and for a folder that
    cannot be read or has nothing to take.
    """
    found: dict[str, Path] = {}  # by real path
    for path in map(Path, paths):
        for file in _within(path):
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _within(path: Path) -> list[Path]:
    try:
        path.stat()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file or folder {path}: check the name") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {reason(error)}") from error
    if not path.is_dir():
        return [path]
    files = list(_in_folder(path, set()))
    if not files:
        raise ConfigError(f"there is no clip or picture in the folder {path}: name another")
    return files


def _in_folder(folder: Path, entered: set[str]) -> Iterator[Path]:
    """entered: real paths of folders, which are not entered again: links may lead in circles."""
    real = os.path.realpath(folder)
    if real in entered:
        return
    entered.add(real)
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot read the folder {folder}: {reason(error)}") from error
    for path in inside:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _in_folder(path, entered)
        elif path.suffix.lower() in CLIPS | PICTURES and path.is_file():
            yield path


def picture(path: str | Path, device: Device) -> Frame:
    """The first frame of a file, upright by its EXIF or display matrix.

    What is not 4:2:0 is converted to it, transparency is ignored. Raises ConfigError and
    StreamError as FileSource and the decoder do, DecodeError where nothing decodes.
    """
    return _first(FileSource(path), device)


def sample(
    files: Sequence[Path],
    device: Device,
    count: int,
    progress: Callable[[str, float], None] = lambda what, part: None,
) -> tuple[list[Frame], list[str]]:
    """Up to `count` frames, in the order of files and times, and a note for each file left out.

    Every file gives as many as the others; what a picture or a short clip cannot give, the
    others do. Of more files than frames, files spread evenly over all of them give one each. A
    clip gives one frame from each of as many equal stretches of its duration, of CANDIDATES in a
    stretch the one that differs most from the frame before. A clip that does not tell its
    duration gives every STEPth frame from its beginning. The choice is the same each time.

    progress: called with what is done and how much of it, 0–1. Frames keep their decoded
    surfaces, on the device: 1.5 bytes a pixel, 3 above 8 bit, which is 3.1 MB for 1920×1080.
    Raises ConfigError for a count below 1, StreamError where no file can be read.
    """
    if count < 1:
        raise ConfigError(f"count is {count}: take at least 1 frame")
    taken: dict[int, list[Frame]] = {}  # by the number of the file
    clips: dict[int, tuple[FileSource, float]] = {}  # closed again, and how many frames it has
    refused: dict[int, Exception] = {}

    def told(more: int = 0) -> None:
        progress("taking frames", (sum(map(len, taken.values())) + more) / count)

    untried = list(range(len(files)))
    while untried and (room := count - len(taken) - len(clips)):
        chosen = _spread(untried, room)
        untried = sorted(set(untried) - set(chosen))
        for number in chosen:
            told()
            try:
                with FileSource(files[number]) as source:
                    if _is_picture(source):
                        taken[number] = [_first(source, device)]
                    else:
                        clips[number] = source, _length(source)
            except (ConfigError, StreamError) as error:
                refused[number] = error

    left = count - len(taken)
    by_length = sorted(clips.items(), key=lambda clip: clip[1][1])  # short ones may leave some
    for done, (number, (source, length)) in enumerate(by_length):
        share = left // (len(clips) - done)
        try:
            taken[number] = _of_clip(source, length, device, share, told)
        except (ConfigError, StreamError) as error:
            refused[number] = error
        else:
            left -= len(taken[number])

    errors = [refused[number] for number in sorted(refused)]
    if not taken:
        raise _nothing(errors)
    progress("taking frames", 1)
    frames = [frame for _, of_file in sorted(taken.items()) for frame in of_file]
    return frames, [f"left out: {error}" for error in errors]


def _nothing(errors: Sequence[Exception]) -> StreamError:
    """What to raise where no file can be read. errors: of each, in order."""
    if not errors:
        return StreamError("there is no file to take frames from: name clips or pictures")
    many = f"none of the {len(errors)} files can be read, the first since " * (len(errors) > 1)
    error = StreamError(f"{many}{errors[0]}")
    error.__cause__ = errors[0]
    return error


def _spread(items: Sequence[T], most: int) -> list[T]:
    """Up to `most` of the items, from the middles of equal parts of them."""
    most = min(most, len(items))
    return [items[(2 * n + 1) * len(items) // (2 * most)] for n in range(most)]


def _is_picture(source: FileSource) -> bool:
    form = source.container.format.name
    return form == "image2" or form.endswith("_pipe") or source.video.frames == 1


def _length(source: FileSource) -> float:
    """How many frames there are, as far as the file says; infinity where it does not."""
    info = source.info
    if source.video.frames:
        return source.video.frames
    if info.duration is None or info.frame_rate is None:
        return math.inf
    return max(1, round(info.duration * info.frame_rate))


def _of_clip(
    source: FileSource, length: float, device: Device, count: int, told: Callable[[int], None]
) -> list[Frame]:
    """Up to `count` frames of a clip with `length`. told: called with how many there are.

    Raises StreamError where there is none.
    """
    if length <= count:
        choice = frames_of(FileSource(source.path), device)
    elif source.info.duration is None:
        choice = every(STEP, FileSource(source.path), device)
    else:
        choice = _most_different(source, source.info.duration / count, device)
    found: dict[int, Frame] = {}  # by pts
    with closing(choice):
        for frame in choice:
            found.setdefault(frame.pts, frame)
            told(len(found))
            if len(found) == count:
                break
    if not found:
        raise DecodeError(f"{source.path}: not one picture of it can be decoded")
    return list(found.values())


def _most_different(
    source: FileSource, stretch: float, device: Device
) -> Generator[Frame, None, None]:
    """From each stretch of that many s, the frame most unlike the one before it."""
    assert source.info.duration is not None, "there is no end to go to"
    begin = source.info.start or 0.0
    step = stretch / CANDIDATES
    times = [n * step for n in range(round(source.info.duration / step))]
    last: Thumbnail | None = None
    with closing(frames_at(source, times, device)) as frames:
        for _, group in groupby(frames, lambda f: int((f.time - begin + ROUNDING) / stretch)):
            candidates = [(frame, _thumbnail(frame)) for frame in group]
            if last is None:
                frame, last = candidates[len(candidates) // 2]
            else:
                before = last
                frame, last = max(candidates, key=lambda c: float(np.abs(c[1] - before).sum()))
            yield frame


def _thumbnail(frame: Frame) -> Thumbnail:
    device = frame.device
    small = device.empty((1, 3, THUMBNAIL.height, THUMBNAIL.width), np.float32)
    letterbox(frame, small, 0, THUMBNAIL)
    return device.to_host(small, "thumbnail")


def frames_at(
    source: FileSource, times: Iterable[float], device: Device
) -> Generator[Frame, None, None]:
    """The first frame at or after each of the times, ascending s from the file's beginning.

    Each frame once, and none past the source's end. The file is opened anew, wherever that saves
    decoding. What cannot be read is left out; raises StreamError where nothing can.
    """
    begin = source.info.start or 0.0
    frames: Generator[Frame, None, None] | None = None
    reached = -math.inf  # pts in s up to which frames are decoded
    given, failure = False, None
    try:
        for time in times:
            wanted = begin + time - ROUNDING
            if reached >= wanted:
                continue  # given for an earlier time
            try:
                if frames is None or wanted - reached > AHEAD:
                    later = FileSource(source.path, start=time, end=source.end)
                    entry = -math.inf if later.entry is None else float(later.entry)
                    if frames is None or entry > reached:
                        if frames is not None:
                            frames.close()
                        frames, reached = frames_of(later, device), max(entry, reached)
                    else:
                        later.close()
                for frame in frames:
                    reached = frame.time
                    if reached >= wanted:
                        given = True
                        yield frame
                        break
            except StreamError as error:
                failure = failure or error
    finally:
        if frames is not None:
            frames.close()
    if failure is not None and not given:
        raise failure


def frames_of(source: FileSource, device: Device) -> Generator[Frame, None, None]:
    """All frames of the source's part, which is read once and closed. Raises StreamError."""
    with source:
        decoder = device.decoder(source.video, source.info)
        packets = (packet for packet in source.packets() if packet.stream is source.video)
        for packet in chain(packets, (None,)):
            for frame in decoder.decode(packet):
                if source.keeps(frame.pts, frame.info.time_base):
                    yield frame


def every(step: int, source: FileSource, device: Device) -> Generator[Frame, None, None]:
    """The first of each `step` frames of the source's part, which is closed then."""
    with closing(frames_of(source, device)) as frames:
        yield from islice(frames, 0, None, step)


def _first(source: FileSource, device: Device) -> Frame:
    """Closes the source. Raises DecodeError where nothing decodes."""
    with closing(frames_of(source, device)) as frames:
        for frame in frames:
            return frame
    raise DecodeError(f"{source.path}: not one picture of it can be decoded")
