"""How the GPU is: its figures from NVML, named as metrics."""

from __future__ import annotations

import logging
import uuid
from functools import cache
from typing import Any

# What each figure is, by the name of its metric.
FIGURES = {
    "vidai_gpu_memory_used_bytes": "Memory of the GPU in use, by all programs.",
    "vidai_gpu_memory_total_bytes": "Memory of the GPU.",
    "vidai_gpu_power_watts": "Power that the GPU draws.",
    "vidai_gpu_temperature_celsius": "Temperature of the GPU.",
    "vidai_gpu_utilization_ratio": "Share of time in which a kernel ran, 0-1.",
    "vidai_gpu_encoder_utilization_ratio": "Share of time in which NVENC worked, 0-1.",
    "vidai_gpu_decoder_utilization_ratio": "Share of time in which NVDEC worked, 0-1.",
    "vidai_gpu_encoder_sessions": "Sessions of NVENC, of all programs.",
}

_logger = logging.getLogger(__name__)


def read(device: str) -> dict[str, float]:
    """The figures of a device ("cuda:0") by their metrics' names; none on the CPU.

    What cannot be read, as sessions on a GPU without NVENC, is left out. Takes some ms at most.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return {}
    try:
        import pynvml

        handle = _handle(pynvml, int(index or 0))
    except Exception as error:  # a package, library or GPU that is away; NVML's are many classes
        _logger.debug("no figures of %s: %s", device, error)
        return {}
    figures: dict[str, float] = {}
    for look in (_memory, _power, _temperature, _utilization, _encoder, _decoder, _sessions):
        try:
            figures.update(look(pynvml, handle))
        except Exception as error:
            _logger.debug("%s of %s: %s", look.__name__, device, error)
    return figures


@cache
def _handle(pynvml: Any, index: int) -> Any:
    """NVML's handle of CUDA's device of that number.

    The two count apart from each other (CUDA_VISIBLE_DEVICES, MIG): the UUID is the same.
    """
    from cuda.bindings import driver

    from vidai.devices.cuda.driver import checked

    pynvml.nvmlInit()
    checked(driver.cuInit(0))
    number = checked(driver.cuDeviceGetUuid(checked(driver.cuDeviceGet(index))))
    name = uuid.UUID(bytes=bytes(number.bytes))
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{name}")
    except pynvml.NVMLError_NotFound:
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{name}")


def _memory(pynvml: Any, handle: Any) -> dict[str, float]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "vidai_gpu_memory_used_bytes": float(memory.used),
        "vidai_gpu_memory_total_bytes": float(memory.total),
    }


def _power(pynvml: Any, handle: Any) -> dict[str, float]:
    return {"vidai_gpu_power_watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1000}


def _temperature(pynvml: Any, handle: Any) -> dict[str, float]:
    degrees = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    return {"vidai_gpu_temperature_celsius": float(degrees)}


def _utilization(pynvml: Any, handle: Any) -> dict[str, float]:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return {"vidai_gpu_utilization_ratio": rates.gpu / 100}


def _encoder(pynvml: Any, handle: Any) -> dict[str, float]:
    percent, _ = pynvml.nvmlDeviceGetEncoderUtilization(handle)
    return {"vidai_gpu_encoder_utilization_ratio": percent / 100}


def _decoder(pynvml: Any, handle: Any) -> dict[str, float]:
    percent, _ = pynvml.nvmlDeviceGetDecoderUtilization(handle)
    return {"vidai_gpu_decoder_utilization_ratio": percent / 100}


def _sessions(pynvml: Any, handle: Any) -> dict[str, float]:
    count, _, _ = pynvml.nvmlDeviceGetEncoderStats(handle)
    return {"vidai_gpu_encoder_sessions": float(count)}
