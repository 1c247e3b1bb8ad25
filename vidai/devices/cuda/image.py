"""vidai.ops.image on the CUDA device, with CV-CUDA. Arrays are checked (H, W, 3) uint8.

CV-CUDA reads device arrays where they lie, works on the device's stream and writes into arrays
of the device. It serves these operators only: what every frame goes through (letterbox, rgb,
overlay, redact) works on the decoder's NV12 and P010 surfaces by the kernels in kernels/,
because of CV-CUDA 0.19
- `cvtcolor` takes NV12 for BT.601 of limited range, whatever the stream is tagged with;
- `advcvtcolor` knows BT.709 and BT.2020, but computes in full range;
- nothing takes P010, so no video of 10 bits;
- `osd`, `bndbox` and `boxblur` draw on RGB only, which would cost every frame two conversions
  and its colour a second subsampling.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.devices.cuda import CudaDevice
from vidai.devices.cuda.driver import translated
from vidai.devices.cuda.memory import DeviceArray
from vidai.errors import DeviceUnavailable, KernelError

try:
    import cvcuda
except ImportError as error:
    raise DeviceUnavailable(
        f"resize, rotate, warp and gaussian on CUDA need CV-CUDA ({error}): pip install cvcuda-cu13"
    ) from error


def hq_resize(device: CudaDevice, rgb: DeviceArray, width: int, height: int) -> DeviceArray:
    out = device.empty((height, width, 3), np.uint8)
    with translated(KernelError, "CV-CUDA cannot resize a picture"):
        cvcuda.hq_resize_into(
            _tensor(out),
            _tensor(rgb),
            antialias=True,
            interpolation=cvcuda.Interp.LANCZOS,
            stream=_stream(device),
        )
    return out


def warp(device: CudaDevice, rgb: DeviceArray, back: npt.NDArray[np.float64]) -> DeviceArray:
    """back: the matrix from points of the result to points of rgb, as in vidai.ops.image.

    Also rotates: what `cvcuda.rotate_into` finds outside the picture it leaves unwritten.
    """
    # CV-CUDA counts from the centre of the first pixel.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    out = device.empty(rgb.shape, np.uint8)
    with translated(KernelError, "CV-CUDA cannot warp a picture"):
        cvcuda.warp_perspective_into(
            _tensor(out),
            _tensor(rgb),
            (np.linalg.inv(half) @ back @ half).astype(np.float32),
            cvcuda.Interp.LINEAR | cvcuda.Interp.WARP_INVERSE_MAP,
            border_mode=cvcuda.Border.CONSTANT,
            border_value=np.zeros(3, np.float32),
            stream=_stream(device),
        )
    return out


def gaussian(device: CudaDevice, rgb: DeviceArray, sigma: float) -> DeviceArray:
    """Along rows, then along columns: CV-CUDA does not separate the filter that it is given."""
    size, border = 2 * math.ceil(3 * sigma) + 1, cvcuda.Border.REPLICATE
    rows, both = device.empty(rgb.shape, np.uint8), device.empty(rgb.shape, np.uint8)
    with translated(KernelError, "CV-CUDA cannot blur a picture"):
        stream, between, sigmas = _stream(device), _tensor(rows), (sigma, sigma)
        cvcuda.gaussian_into(between, _tensor(rgb), (size, 1), sigmas, border, stream=stream)
        cvcuda.gaussian_into(_tensor(both), between, (1, size), sigmas, border, stream=stream)
    return both


def _tensor(array: Any) -> cvcuda.Tensor:
    # It takes what has __cuda_array_interface__, which its types do not say.
    return cvcuda.as_tensor(array, "HWC")


def _stream(device: CudaDevice) -> cvcuda.Stream:
    return cvcuda.as_stream(int(device.stream.handle))
