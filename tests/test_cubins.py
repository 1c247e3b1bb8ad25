"""Every kernel compiles for every GPU, and keeps its variables in registers; no GPU needed."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

KERNELS = Path(__file__).parents[1] / "kernels"
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]

# Two blocks of 1024 threads leave 32 registers for 200 live values.
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(float *out, const float *in, int n) {
  float v[200];
  #pragma unroll
  for (int i = 0; i < 200; i++) v[i] = in[i * n + threadIdx.x];
  for (int k = 0; k < n; k++) {
    #pragma unroll
    for (int i = 0; i < 200; i++) v[i] = v[i] * v[(i + 7) % 200] + v[(i * 3 + 1) % 200];
  }
  #pragma unroll
  for (int i = 0; i < 200; i++) out[i * n + threadIdx.x] = v[i];
}
"""


@pytest.fixture(scope="module")
def core() -> Any:
    """cuda.core, which brings NVRTC; where CI runs it must be there."""
    if os.environ.get("CI") == "true":
        import cuda.core

        return cuda.core
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-core[cu13] is not installed")
    return pytest.importorskip("cuda.core", reason="cuda-core[cu13] is not installed")


def cubin_of(core: Any, source: str, name: str, arch: str) -> bytes:
    options = core.ProgramOptions(
        name=name, arch=arch, std="c++17", fma=False, include_path=str(KERNELS)
    )
    return bytes(core.Program(source, "c++", options).compile("cubin").code)


def stack_bytes(cubin: bytes) -> dict[str, int]:
    """Bytes of local memory per thread, by function, from a cubin's ELF section .nv.info.

    Its entries are a format byte, an attribute byte and 16 bits: the value, or in format 4
    the size of what follows. Attribute 0x11 is the frame size: symbol index, bytes.
    """
    table, count, names_at = (struct.unpack_from(f, cubin, at)[0] for f, at in _ELF_HEADER)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + 64 * i) for i in range(count)]
    names = headers[names_at][4]
    sections = {_text(cubin, names + header[0]): header for header in headers}
    _, _, _, _, symbols, _, _, _, _, symbol_size = sections[".symtab"]
    strings = sections[".strtab"][4]
    at, size = sections[".nv.info"][4:6]
    frames = {}
    end = at + size
    while at < end:
        form, attribute, value = struct.unpack_from("<BBH", cubin, at)
        if form == 4 and attribute == 0x11:
            symbol, frame = struct.unpack_from("<II", cubin, at + 4)
            name = struct.unpack_from("<I", cubin, symbols + symbol * symbol_size)[0]
            frames[_text(cubin, strings + name)] = frame
        at += 4 + (value if form == 4 else 0)
    return frames


_ELF_HEADER = (("<Q", 40), ("<H", 60), ("<H", 62))  # section table, sections, names' section


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


def test_the_stack_reader_sees_a_kernel_that_spills(core: Any) -> None:
    for arch in ARCHITECTURES:
        assert stack_bytes(cubin_of(core, SPILLING, "spilling.cu", arch))["spilling"] > 0


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.cu")), ids=lambda path: path.stem)
def test_kernels_compile_for_every_architecture_without_local_memory(core: Any, path: Path) -> None:
    for arch in ARCHITECTURES:
        frames = stack_bytes(cubin_of(core, path.read_text(), path.name, arch))
        assert frames, f"{path.name} holds no kernel"
        assert set(frames.values()) == {0}, f"{path.name} on {arch}: {frames}"
