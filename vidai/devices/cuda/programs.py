"""kernels/*.cu as cubins for one GPU architecture, compiled by NVRTC and kept on disk.

NVRTC needs no GPU: `vidai kernels build` fills the cache on any machine.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

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
            cubin, _ = build(source, self.architecture)
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


def build(source: Path, architecture: str) -> tuple[bytes, bool]:
    """The file's cubin, and whether it had to be compiled. Raises KernelError with NVRTC's log.

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
    with ExitStack() as stack:
        kept: Any = {}
        with suppress(OSError):  # a cache that cannot be written costs time, no more
            kept = stack.enter_context(FileStreamProgramCache(cache_folder("kernels")))
        cubin = kept.get(key)
        if cubin is not None:
            return bytes(cubin), False
        try:
            cubin = bytes(Program(text, "c++", options).compile("cubin").code)
        except Exception as error:
            raise KernelError(
                f"{source.name} does not compile for {architecture}: {error}"
            ) from error
        with suppress(OSError):
            kept[key] = cubin
        return cubin, True


def _headers(place: Path) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.h")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.digest()
