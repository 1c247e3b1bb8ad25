"""The edge to PyNvVideoCodec, NVIDIA's Python binding of NVDEC and NVENC."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from cuda.bindings import driver

from vidai.devices.cuda.driver import translated
from vidai.errors import DeviceUnavailable, VidaiError
from vidai.native import load_kernels
from vidai.tags import reason


@cache
def nvc() -> Any:
    """The package PyNvVideoCodec, whose import opens the driver's video libraries.

    A failing cuInit inside it ends the process: open a Gpu first. Raises DeviceUnavailable.
    """
    try:
        import PyNvVideoCodec

        return PyNvVideoCodec
    except ModuleNotFoundError as error:
        raise DeviceUnavailable(
            "NVDEC and NVENC need the package PyNvVideoCodec: pip install 'vidai[cuda]'"
        ) from error
    except Exception as error:
        said = " ".join(reason(error).split())[:160]
        raise DeviceUnavailable(
            f"the driver's video libraries cannot be loaded ({said}): in a container set "
            f"NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        ) from error


class video_errors(translated):  # noqa: N801 (read as a function: with video_errors(…))
    """The same for the wheel's errors, which wrap the driver's in lines of text. vidai's own
    errors get the words of what was being done as well."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, VidaiError):
            what = self._what if isinstance(self._what, str) else self._what()
            raise type(error)(f"{what}: {error}") from error
        super().__exit__(kind, error, trace)

    def said(self, error: Exception) -> str:
        """Which call failed and how, from the lines "Error code : 2" and "Error Type : …"."""
        text = str(error)
        if name := _CUDA_ERROR.search(text):
            return name[0]
        code, call = _CODE.search(text), _CALL.search(text)
        if not code or not call:
            return super().said(error)
        number = int(code[1])
        if call[0].startswith("nvEnc"):
            return f"{call[0]}: {_NVENC.get(number, f'NVENC error {number}')}"
        try:
            return f"{call[0]}: {driver.CUresult(number).name} ({number})"
        except ValueError:
            return f"{call[0]}: CUDA error {number}"


_CODE = re.compile(r"Error code : (\d+)")
_CALL = re.compile(r"nvEnc\w+|cuvid\w+|cu[A-Z]\w+")
_CUDA_ERROR = re.compile(r"CUDA_ERROR_\w+")
# NVENCSTATUS, those that tell a user something; numbers are not CUDA's.
_NVENC = {
    1: "this GPU has no NVENC",
    2: "this GPU has no NVENC",
    8: "it refuses a setting (NV_ENC_ERR_INVALID_PARAM)",
    10: "its sessions or its memory are all taken (NV_ENC_ERR_OUT_OF_MEMORY)",
    12: "it cannot do what was asked for (NV_ENC_ERR_UNSUPPORTED_PARAM)",
    15: "the driver is too old (NV_ENC_ERR_INVALID_VERSION)",
    20: "it failed (NV_ENC_ERR_GENERIC)",
    21: "its sessions are all taken (NV_ENC_ERR_INCOMPATIBLE_CLIENT_KEY)",
}


class PrintedLines:
    """Counts what NVDEC prints about damage while it decodes, and keeps it off the terminal.

    with PrintedLines() as printed: …; then printed.count.
    """

    count = 0

    def __enter__(self) -> PrintedLines:
        _stdout()[0]()
        return self

    def __exit__(self, *_: object) -> None:
        self.count = _stdout()[1]()


@cache
def _stdout() -> tuple[Callable[[], None], Callable[[], int]]:
    """hold_stdout and printed_lines of kernels/stdout.cpp. They keep the GIL: to get it back
    would take longer than they do."""
    library = load_kernels()
    return (
        ctypes.PYFUNCTYPE(None)(("hold_stdout", library)),
        ctypes.PYFUNCTYPE(ctypes.c_int)(("printed_lines", library)),
    )
