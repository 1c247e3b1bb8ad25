"""The GPU as the driver shows it. Each function is meant for a process of its own.

CUDA is asked through the driver's library alone, which needs no package; its error names the
cause that the packages only report as "failed".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

from vidai.doctor import surroundings
from vidai.doctor.finding import Finding, one_line
from vidai.doctor.surroundings import OLDEST, REPAIR, Place, install, install_video, nodes, place

SECTION = "GPU"
DRIVER = surroundings.SECTION
_OLDEST_GPU = (7, 5)  # Turing: the oldest that CUDA 13 and TensorRT run on
_FIRST_FP8 = (8, 9)
_LITTLE_MEMORY = 2 << 30  # bytes, about what a run with a small model takes
_CAPABILITY = (75, 76)  # CUdevice_attribute: major, minor

_CUDA, _NVML = "libcuda.so.1", "libnvidia-ml.so.1"
_LIBRARIES = {
    _CUDA: "CUDA",
    "libnvcuvid.so.1": "NVDEC",
    "libnvidia-encode.so.1": "NVENC",
    _NVML: "figures of the GPU",
}

_RESTART = "restart the machine: the driver was updated while its old kernel module is loaded"
# What to do about an error of CUDA's, by its name.
_ADVICE = {
    "CUDA_ERROR_NO_DEVICE": "check CUDA_VISIBLE_DEVICES, that `nvidia-smi` lists the GPU, and that "
    "a container was started with --gpus all",
    "CUDA_ERROR_OUT_OF_MEMORY": "end other programs that use the GPU: `nvidia-smi` lists them",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "end the program that holds the GPU alone, or run "
    "`nvidia-smi -c DEFAULT`",
    "CUDA_ERROR_STUB_LIBRARY": "take the CUDA toolkit's `stubs` folder out of LD_LIBRARY_PATH",
    "CUDA_ERROR_SYSTEM_NOT_READY": "start the fabric manager: sudo systemctl start "
    "nvidia-fabricmanager",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": _RESTART,
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "take CUDA's `compat` folder out of "
    f"LD_LIBRARY_PATH and install driver {OLDEST} or newer",
    "CUDA_ERROR_MPS_CONNECTION_FAILED": "restart nvidia-cuda-mps-control, or unset "
    "CUDA_MPS_PIPE_DIRECTORY; a container needs --ipc=host",
    "CUDA_ERROR_OPERATING_SYSTEM": "check that this user may read and write /dev/nvidia*",
    "CUDA_ERROR_UNKNOWN": "load the driver's modules (sudo nvidia-modprobe -u -c 0) or restart the "
    "machine, then look at `dmesg`",
}


class _CudaError(Exception):
    """An error of the driver's, by its name."""


class _Driver:
    """libcuda's functions. Every failure is a _CudaError, also a function that is not there."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_CUDA)

    def __getattr__(self, name: str) -> Callable[..., None]:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise _CudaError(f"the driver has no {name}") from None

        def call(*args: Any) -> None:
            if code := function(*args):
                text = ctypes.c_char_p()
                self._library.cuGetErrorName(code, ctypes.byref(text))
                raise _CudaError((text.value or b"error").decode() + f" ({code})")

        return call

    def number(self, name: str, *args: Any) -> int:
        value = ctypes.c_int()
        getattr(self, name)(ctypes.byref(value), *args)
        return value.value

    def text(self, name: str, *args: Any) -> str:
        value = ctypes.create_string_buffer(256)
        getattr(self, name)(value, 256, *args)
        return value.value.decode(errors="replace")


def cuda(index: str) -> Iterator[Finding]:
    """What the driver says of GPU number `index`: usable if a finding named "cuda:N" is ok."""
    where = place()
    yield from _libraries(where)
    try:
        driver = _Driver()
    except OSError:
        return  # told above
    name = f"cuda:{index}"
    try:
        yield _cuda_version(driver.number("cuDriverGetVersion"), install(where))
        driver.cuInit(0)
        count = driver.number("cuDeviceGetCount")
        if int(index) >= count:
            there = ", ".join(f"cuda:{number}" for number in range(count)) or "no GPU"
            advice = "choose one of these, or --device cpu"
            yield Finding(SECTION, name, f"there is {there}", "problem", advice)
            return
        device = driver.number("cuDeviceGet", int(index))
        title = driver.text("cuDeviceGetName", device)
        major, minor = (driver.number("cuDeviceGetAttribute", n, device) for n in _CAPABILITY)
        # Whether a context can be had is a test by itself: another program may hold the GPU.
        context = ctypes.c_void_p()
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        driver.cuCtxSetCurrent(context)
    except _CudaError as error:
        advice = _ADVICE.get(str(error).split()[0], f"run `nvidia-smi`; {install(where)}")
        yield Finding(SECTION, name, str(error), "problem", advice)
        return
    value = f"{title}, compute capability {major}.{minor}"
    if (major, minor) < _OLDEST_GPU:
        advice = "use a GPU from Turing on, or --device cpu"
        yield Finding(SECTION, name, f"{value}, too old: 7.5 is needed", "problem", advice)
        return
    yield Finding(SECTION, name, value)
    fp8 = (major, minor) >= _FIRST_FP8
    yield Finding(SECTION, "FP8", "yes" if fp8 else "no: it begins with 8.9 (Ada)")
    yield _memory(driver)
    try:
        address = driver.text("cuDeviceGetPCIBusId", device)
    except _CudaError as error:
        yield _unknown("settings", str(error))
    else:
        yield from _settings(address)


def _libraries(where: Place) -> Iterator[Finding]:
    """Which of the driver's libraries load."""
    failed: dict[str, str] = {}
    for name, use in _LIBRARIES.items():
        try:
            ctypes.CDLL(name)
        except OSError as error:
            # The loader names the library first.
            failed[name] = f"{name}, for {use}, does not load: {str(error).rpartition(': ')[2]}"
    if here := [name for name in _LIBRARIES if name not in failed]:
        yield Finding(DRIVER, "libraries", ", ".join(here))
    if _CUDA in failed:
        value = failed[_CUDA]
        if files := nodes():
            value += f"; /dev/{files[0]} is here, so the driver's libraries are not mounted"
        yield Finding(DRIVER, "libraries", value, "problem", install(where))
        return
    for name in failed:
        if name == _NVML:
            advice = "in a container add utility to NVIDIA_DRIVER_CAPABILITIES"
            yield Finding(DRIVER, "libraries", failed[name], "note", advice)
        else:
            yield Finding(DRIVER, "libraries", failed[name], "problem", install_video(where))


def _cuda_version(number: int, advice: str) -> Finding:
    version = f"{number // 1000}.{number % 1000 // 10}"
    if number >= 13000:
        return Finding(DRIVER, "CUDA", version)
    return Finding(DRIVER, "CUDA", f"{version}, too old: 13.0 is needed", "problem", advice)


def _memory(driver: _Driver) -> Finding:
    """Of the GPU whose context is current."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    except _CudaError as error:
        return _unknown("memory", str(error))
    value = f"{total.value >> 20} MiB, {free.value >> 20} MiB free"
    if free.value >= _LITTLE_MEMORY:
        return Finding(SECTION, "memory", value)
    advice = "end other programs that use the GPU: `nvidia-smi` lists them"
    return Finding(SECTION, "memory", value, "note", advice)


def nvml() -> Iterator[Finding]:
    """The driver's version and all GPUs, from NVML; also where CUDA does not work."""
    where = place()
    try:
        import pynvml

        pynvml.nvmlInit()
        version = str(pynvml.nvmlSystemGetDriverVersion())
    except Exception as error:  # each of NVML's errors is a class of its own
        if on_disk := surroundings.version_on_disk():
            yield surroundings.judged(on_disk, where)
        yield _nvml_failed(error)
        return
    yield surroundings.judged(version, where)
    for number in range(pynvml.nvmlDeviceGetCount()):
        name = f"GPU {number} of nvidia-smi"
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            title = str(pynvml.nvmlDeviceGetName(handle))
        except pynvml.NVMLError as error:
            yield Finding(DRIVER, name, one_line(error), "problem", REPAIR)
        else:
            yield Finding(DRIVER, name, title)


def _nvml_failed(error: Exception) -> Finding:
    said = one_line(error)
    if "mismatch" in said:
        return Finding(DRIVER, "NVML", said, "problem", _RESTART)
    if "Not Loaded" in said:
        return Finding(DRIVER, "NVML", said, "problem", install(place()))
    advice = ""
    if isinstance(error, ModuleNotFoundError):
        advice = "pip install 'vidai[cuda]' to see the driver's figures"
    return Finding(DRIVER, "NVML", f"not known: {said}", "note", advice)


def _settings(address: str) -> Iterator[Finding]:
    """What NVML alone knows of the GPU at this bus address; each value may be missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(address.encode())
    except Exception as error:
        yield _unknown("settings", one_line(error))
        return
    on = ("off", "on")
    modes = ("default", "exclusive to a thread", "prohibited", "exclusive to a process")
    values: dict[str, Callable[[], str]] = {
        "ECC": lambda: on[pynvml.nvmlDeviceGetEccMode(handle)[0]],
        "power limit": lambda: (
            f"{pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000:.0f} W of "
            f"{pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1000:.0f} W"
        ),
        "MIG": lambda: on[pynvml.nvmlDeviceGetMigMode(handle)[0]],
        "compute mode": lambda: modes[pynvml.nvmlDeviceGetComputeMode(handle)],
    }
    for name, read in values.items():
        try:
            yield _setting(name, read())
        except Exception as error:
            yield _unknown(name, one_line(error))


def _setting(name: str, value: str) -> Finding:
    if name == "MIG" and value == "on":
        advice = "check NVDEC and NVENC below: a small instance may have neither"
        return Finding(SECTION, name, value, "note", advice)
    if name == "compute mode" and value != "default":
        advice = "nvidia-smi -c DEFAULT lets several programs use the GPU"
        return Finding(SECTION, name, value, "note", advice)
    return Finding(SECTION, name, value)


def _unknown(name: str, why: str) -> Finding:
    """NVML says "Not Supported" for what a GPU does not have, which is no fault."""
    if why == "Not Supported":
        return Finding(SECTION, name, "this GPU has none")
    return Finding(SECTION, name, f"not known: {why}", "note")


def codecs() -> Iterator[Finding]:
    """What NVDEC and NVENC of the first visible GPU do: PyNvVideoCodec asks no other."""
    try:
        import PyNvVideoCodec as nvc  # noqa: N813
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError)
        advice = "pip install 'vidai[cuda]'" if missing else install_video(place())
        yield Finding(SECTION, "NVDEC, NVENC", one_line(error), "problem", advice)
        return
    for name, look in (("NVDEC", _decoders), ("NVENC", _encoders)):
        try:
            yield look(nvc)
        except Exception as error:  # the wheel's errors have no base class of their own
            yield Finding(SECTION, name, one_line(error), "problem", REPAIR)


def _decoders(nvc: Any) -> Finding:
    chroma = getattr(nvc.cudaVideoChromaFormat, "420")
    known = {"H.264": "H264", "HEVC": "HEVC", "AV1": "AV1", "VP9": "VP9", "VP8": "VP8"}
    known |= {"MPEG-4": "MPEG4", "MPEG-2": "MPEG2", "VC-1": "VC1", "JPEG": "JPEG"}
    engines, here = 0, []
    for name, member in known.items():
        depths = []
        for depth in (8, 10, 12):
            caps = nvc.GetDecoderCaps(0, getattr(nvc.cudaVideoCodec, member), chroma, depth)
            if caps["supported"]:
                depths.append(str(depth))
                engines = max(engines, int(caps["num_decoder_engines"]))
        if depths:
            here.append(f"{name} {'/'.join(depths)} bit")
    if here:
        return Finding(SECTION, "NVDEC", f"{_engines(engines)}: {', '.join(here)}")
    advice = "give the MIG instance an engine, or run with --device cpu"
    return Finding(SECTION, "NVDEC", "this GPU decodes nothing", "problem", advice)


def _encoders(nvc: Any) -> Finding:
    engines, here, why = 0, [], ""
    for name, codec in (("H.264", "h264"), ("HEVC", "hevc"), ("AV1", "av1")):
        try:
            caps = nvc.GetEncoderCaps(0, codec)
        except Exception as error:  # how it says that there is no such encoder
            why = why or one_line(error)
            continue
        engines = max(engines, int(caps["num_encoder_engines"]))
        here.append(f"{name} {'8/10' if caps['support_10bit_encode'] else '8'} bit")
    if here:
        return Finding(SECTION, "NVENC", f"{_engines(engines)}: {', '.join(here)}")
    advice = "nothing, if this is an A100, H100, H200 or B200: they have no NVENC, the CPU encodes"
    return Finding(SECTION, "NVENC", f"none: {why}", "note", advice)


def _engines(count: int) -> str:
    return "1 engine" if count == 1 else f"{count} engines"
