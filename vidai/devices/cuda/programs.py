"""kernels/*.cu as cubins for one GPU architecture, compiled by NVRTC and kept on disk.

NVRTC needs no GPU: `vidai kernels build` fills the cache on any machine.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cuda.core import ObjectCode, Program, ProgramOptions
from cuda.core.utils import FileStreamProgramCache, make_program_cache_key

from vidai.errors import KernelError
from vidai.resources import cache_folder, folder

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
_KERNEL = re.compile(r"^\s*(?:KERNEL|CANDIDATES)\((\w+)", re.MULTILINE)


class Programs:
    """The kernels of one architecture, such as "sm_89", loaded one file at a time."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self._loaded: dict[Path, Any] = {}

    def kernel(self, name: str) -> Any:
        """The kernel, ready to be launched. Raises KernelError."""
        source = sources().get(name)
        if source is None:
            raise KernelError(f"no kernel {name!r} in {folder('kernels')}")
        code = self._loaded.get(source)
        if code is None:
            cubin = build(source, self.architecture).cubin
            code = self._loaded[source] = ObjectCode.from_cubin(cubin, name=source.name)
        try:
            return code.get_kernel(name)
        except Exception as error:
            raise KernelError(
                f"kernel {name} of {source.name} cannot be loaded for {self.architecture}: "
                f"{' '.join(str(error).split())}"
            ) from error


@cache
def sources() -> dict[str, Path]:
    """Which file each kernel is in, by the kernel's name."""
    return {
        name: path
        for path in sorted(folder("kernels").glob("*.cu"))
        for name in _KERNEL.findall(path.read_text(encoding="utf-8"))
    }


class Built(NamedTuple):
    """A file's cubin, whether it had to be compiled, and why the cache does not have it now."""

    cubin: bytes
    compiled: bool
    not_kept: OSError | None


def build(source: Path, architecture: str) -> Built:
    """The file's cubin, from the cache or compiled. Raises KernelError with NVRTC's log.

    The cache's key is made of the source, the headers, the options and the compiler's version.
    """
    text = source.read_text(encoding="utf-8")
    options = ProgramOptions(
        name=source.name,
        arch=architecture,
        std="c++17",
        fma=False,  # no contraction, so that results are the CPU's
        include_path=str(source.parent),
    )
    key = make_program_cache_key(
        code=text,
        code_type="c++",
        options=options,
        target_type="cubin",
        extra_digest=_headers(source.parent),
    )
    place = cache_folder("kernels")
    # A cache that cannot be used costs time, no more.
    with suppress(OSError), FileStreamProgramCache(place) as store:
        kept = store.get(key)
        if kept is not None:
            return Built(bytes(kept), False, None)
    try:
        cubin = bytes(Program(text, "c++", options).compile("cubin").code)
    except Exception as error:
        raise KernelError(f"{source.name} does not compile for {architecture}: {error}") from error
    try:
        with FileStreamProgramCache(place) as store:
            store[key] = cubin
    except OSError as error:
        return Built(cubin, True, error)
    return Built(cubin, True, None)


def _headers(place: Path) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.h")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.digest()
