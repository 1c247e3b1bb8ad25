"""The simulated CUDA driver under the unmodified cuda.core.

A process can load the driver once, with one set of settings. So the checks are functions of
this file that a fresh process calls, several in a row where their settings are the same.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import simdriver as sim
from tests.simdriver.build import host_kernels
from tests.surfaces import random_frame
from vidai.devices.cpu import CpuDevice
from vidai.ops.rgb import rgb

pytestmark = pytest.mark.usefixtures("simulated_driver")

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels"
PROBES = ROOT / "tests/simdriver/src/probe.cu"


def run(*checks: Callable[[Gpu], None], **settings: int | str) -> subprocess.CompletedProcess[str]:
    """The checks, one after another, in a new process with these settings of the driver."""
    names = [check.__name__ for check in checks]
    script = f"import tests.test_simdriver_cuda as here; here.child({names!r}, {settings!r})"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VIDAI_SIM_")}
    command = [sys.executable, "-X", "faulthandler", "-c", script]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def check(*checks: Callable[[Gpu], None], **settings: int | str) -> None:
    result = run(*checks, **settings)
    assert result.returncode == 0, result.stderr


def child(names: list[str], settings: dict[str, int | str]) -> None:
    """What the new process does."""
    sim.load(**settings)
    for name in names:
        sim.reset()
        globals()[name](Gpu())


class Gpu:
    """What the checks need of cuda.core: a device, a stream, memory and kernels."""

    def __init__(self) -> None:
        from cuda.core import Device

        self.device = Device(0)
        self.device.set_current()
        self.stream = self.new_stream()

    def new_stream(self) -> Any:
        from cuda.core import StreamOptions

        return self.device.create_stream(options=StreamOptions(nonblocking=True))

    def empty(self, size: int) -> Any:
        return self.device.allocate(size, stream=self.stream)

    def upload(self, array: npt.NDArray[Any]) -> Any:
        """The array in device memory, by the tests' own way, which is not counted."""
        buffer = self.empty(array.nbytes)
        sim.write(int(self.stream.handle), int(buffer.handle), array)
        return buffer

    def kernel(self, name: str, source: Path = PROBES, arch: str = "sm_89") -> Any:
        from cuda.core import Program, ProgramOptions

        options = ProgramOptions(
            name=name, arch=arch, std="c++17", fma=False, include_path=str(KERNELS)
        )
        code = Program(source.read_text(), "c++", options).compile("cubin")
        return code.get_kernel(name)

    def launch(self, kernel: Any, *args: Any, block: int = 32) -> None:
        from cuda.core import LaunchConfig, launch

        config = LaunchConfig(grid=(2, 3), block=(block, 2))
        launch(self.stream, config, kernel, *args)

    def set(self, kernel: Any, buffer: Any, value: int) -> None:
        """The kernel probe_set."""
        self.launch(kernel, int(buffer.handle), np.int32(value))


FRESH = int(np.full(4, 0xCD, np.uint8).view(np.int32)[0])  # what lies in new memory


def first_int(buffer: Any) -> int:
    return int(sim.read(int(buffer.handle), (1,), np.int32)[0])


# ---- device memory


def host_reads_device_memory(gpu: Gpu) -> None:
    ctypes.string_at(int(gpu.empty(4096).handle), 16)


def test_the_host_cannot_read_device_memory() -> None:
    assert run(host_reads_device_memory).returncode == -signal.SIGSEGV
    check(host_reads_device_memory, strict=0)


def memory_runs_out(gpu: Gpu) -> None:
    from cuda.core._utils.cuda_utils import CUDAError

    half = gpu.empty(2 << 20)
    with pytest.raises(CUDAError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        gpu.empty(3 << 20)
    half.close(gpu.stream)
    gpu.empty(3 << 20).close(gpu.stream)
    assert sim.counters()["memory.peak"] == 3 << 20


def a_cubin_for_another_gpu_is_refused(gpu: Gpu) -> None:
    from cuda.core._utils.cuda_utils import CUDAError

    assert gpu.device.compute_capability == (8, 0)
    gpu.kernel("probe_set", arch="sm_80")
    with pytest.raises(CUDAError, match="CUDA_ERROR_NO_BINARY_FOR_GPU"):
        gpu.kernel("probe_set", arch="sm_89")


def test_a_small_gpu_of_another_architecture() -> None:
    check(memory_runs_out, a_cubin_for_another_gpu_is_refused, mem_mb=4, cc=80)


# ---- counting


def copies_are_counted_by_direction(gpu: Gpu) -> None:
    from cuda.core import PinnedMemoryResource

    a, b = gpu.empty(64), gpu.empty(64)
    pinned = PinnedMemoryResource().allocate(64, stream=gpu.stream)
    np.from_dlpack(pinned)[:] = np.arange(64)
    a.copy_from(pinned, stream=gpu.stream)
    b.copy_from(a, stream=gpu.stream)
    b.copy_to(pinned, stream=gpu.stream)
    gpu.stream.sync()
    kinds = [(kind, width * height) for kind, width, height, _ in sim.copies()]
    assert kinds == [("h2d", 64), ("d2d", 64), ("d2h", 64)]
    numbers = sim.counters()
    assert [numbers[f"{kind}.bytes"] for kind in ("h2d", "d2d", "d2h")] == [64, 64, 64]
    assert numbers["sync.stream"] == 1
    np.testing.assert_array_equal(sim.read(int(b.handle), (64,), np.uint8), np.arange(64))


def what_lives_is_counted(gpu: Gpu) -> None:
    kinds = ("allocations.live", "memory.live", "streams.live", "events.live", "libraries.live")
    before = [sim.counters()[kind] for kind in kinds]
    kept = [gpu.empty(100), gpu.new_stream(), gpu.device.create_event()]
    kept.append(gpu.kernel("probe_set"))
    after = [sim.counters()[kind] for kind in kinds]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 100, 1, 1, 1]
    assert (int(kept[0].handle), 100, "pool") in sim.live()
    kept.pop(0).close(gpu.stream)
    kept.clear()
    assert [sim.counters()[kind] for kind in kinds[:4]] == before[:4]


def a_write_past_the_end_is_seen(gpu: Gpu) -> None:
    array = gpu.upload(np.zeros(3, np.uint8))
    gpu.set(gpu.kernel("probe_set"), array, 1)
    array.close(gpu.stream)
    assert sim.counters()["errors.overrun"] == 1


# ---- kernels


class Recorder(CpuDevice):
    """The CPU device, which also tells what it was to launch, and on what."""

    def launch(self, kernel: str, extent: tuple[int, int, int], *args: Any) -> None:
        self.kernel, self.args = kernel, args
        super().launch(kernel, extent, *args)


def kernels_give_what_the_cpu_gives(gpu: Gpu) -> None:
    """Its CUDA form in strided threads, against the host's own traversal."""
    kernel = gpu.kernel("rgb", KERNELS / "rgb.cu")
    for layout, orientation in (("NV12", 0), ("I010", 3), ("P010", 6)):
        device = Recorder()
        frame = random_frame(101, 47, layout, orientation=orientation)
        frame = replace(frame, device=device)
        picture = rgb(frame)
        planes = [(plane, gpu.upload(plane)) for plane in frame.surface.owner]
        buffers = [(arg, gpu.upload(arg)) for arg in device.args if isinstance(arg, np.ndarray)]
        places = [(array.ctypes.data, array.nbytes, buffer) for array, buffer in planes + buffers]
        gpu.launch(kernel, *(_on_gpu(arg, places) for arg in device.args))
        out = next(buffer for array, buffer in buffers if array is picture)
        sim.write(int(gpu.stream.handle), int(out.handle), np.zeros_like(picture))
        gpu.launch(kernel, *(_on_gpu(arg, places) for arg in device.args))
        found = sim.read(int(out.handle), picture.shape, picture.dtype)
        np.testing.assert_array_equal(found, picture)
    assert sim.calls()["launch.rgb"] == 6


def _on_gpu(arg: Any, places: list[tuple[int, int, Any]]) -> Any:
    """An address where the same bytes lie in device memory; numbers as they are."""
    if isinstance(arg, np.int32):
        return arg
    address = arg.ctypes.data if isinstance(arg, np.ndarray) else arg
    start, buffer = next((s, b) for s, size, b in places if s <= address < s + size)
    return int(buffer.handle) + address - start


def every_thread_of_a_launch_runs_once(gpu: Gpu) -> None:
    memory = gpu.upload(np.zeros(2, np.int32))
    gpu.launch(gpu.kernel("probe_threads"), int(memory.handle))
    threads = 2 * 3 * 32 * 2
    x, y, block = np.arange(32).mean(), 0.5, 0.5
    found = sim.read(int(memory.handle), (2,), np.int32)
    assert found.tolist() == [threads, threads * (x + 100 * y + 10000 * block)]


def bad_launches_are_refused(gpu: Gpu) -> None:
    from cuda.core._utils.cuda_utils import CUDAError

    kernel = gpu.kernel("probe_set")
    host, freed = np.zeros(1, np.int32), gpu.empty(4)
    address = int(freed.handle)
    freed.close(gpu.stream)
    for wrong in (host.ctypes.data, address, 8):
        with pytest.raises(CUDAError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            gpu.launch(kernel, wrong, np.int32(0))
    assert sim.counters()["errors.kernel_argument"] == 3
    with pytest.raises(CUDAError, match="CUDA_ERROR_INVALID_VALUE"):  # grid.h promises 256 threads
        gpu.launch(kernel, int(gpu.empty(4).handle), np.int32(0), block=512)
    assert "launches" not in sim.counters()


# ---- faults


def faults_come_when_asked_for(gpu: Gpu) -> None:
    from cuda.core._utils.cuda_utils import CUDAError

    kernel, memory = gpu.kernel("probe_set"), gpu.empty(4)
    gpu.set(kernel, memory, 5)
    sim.fault("launch.probe_set:2:700,cuStreamSynchronize:1:999:1000000")
    gpu.set(kernel, memory, 5)
    with pytest.raises(CUDAError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        gpu.set(kernel, memory, 5)
    gpu.set(kernel, memory, 5)
    for _ in range(3):  # a lost device stays lost
        with pytest.raises(CUDAError, match="CUDA_ERROR_UNKNOWN"):
            gpu.stream.sync()
    sim.fault("")
    gpu.stream.sync()
    for wrong in ("cuMemAlloc:1:2", "cuInit", "cuInit:0:2", "cuInit:1:2:3:4", "cuInit:1:x"):
        with pytest.raises(ValueError, match="known function"):
            sim.fault(wrong)


def it_is_loaded_once(gpu: Gpu) -> None:
    with pytest.raises(RuntimeError, match=r"libcuda\.so\.1 is loaded already"):
        sim.load()


def test_counts_kernels_and_faults() -> None:
    check(
        copies_are_counted_by_direction,
        what_lives_is_counted,
        a_write_past_the_end_is_seen,
        every_thread_of_a_launch_runs_once,
        kernels_give_what_the_cpu_gives,
        bad_launches_are_refused,
        faults_come_when_asked_for,
        it_is_loaded_once,
    )


# ---- deferred mode


def a_missing_synchronisation_shows(gpu: Gpu) -> None:
    kernel, memory = gpu.kernel("probe_set"), gpu.empty(4)
    gpu.set(kernel, memory, 5)
    assert first_int(memory) == FRESH
    gpu.stream.sync()
    assert first_int(memory) == 5


def streams_wait_for_events_only(gpu: Gpu) -> None:
    kernel, memory, other = gpu.kernel("probe_set"), gpu.empty(4), gpu.empty(4)
    second = gpu.new_stream()
    gpu.set(kernel, memory, 5)
    other.copy_from(memory, stream=second)  # too early
    second.sync()
    assert first_int(other) == FRESH
    event = gpu.stream.record()
    assert not event.is_done
    gpu.set(kernel, memory, 5)
    gpu.stream.wait(second)
    second.wait(event)
    other.copy_from(memory, stream=second)
    assert first_int(other) == FRESH
    second.sync()
    assert first_int(other) == 5


def memory_is_freed_in_stream_order(gpu: Gpu) -> None:
    kernel, memory = gpu.kernel("probe_set"), gpu.empty(4)
    gpu.set(kernel, memory, 5)
    memory.close(gpu.stream)
    assert len(sim.live()) == 1
    gpu.stream.sync()
    assert not sim.live()
    early, second = gpu.empty(4), gpu.new_stream()
    gpu.set(kernel, early, 5)
    early.close(second)
    second.sync()  # it is freed before the kernel has run
    gpu.stream.sync()
    assert sim.counters()["errors.kernel_argument"] == 1


def host_memory_follows_the_rules(gpu: Gpu) -> None:
    """Pageable memory is read at the call and written before it returns; pinned memory is not."""
    from cuda.bindings import driver
    from cuda.core import PinnedMemoryResource

    memory = gpu.empty(8)
    pinned = PinnedMemoryResource().allocate(8, stream=gpu.stream)
    seen = np.from_dlpack(pinned)
    pageable = np.full(8, 1, np.uint8)
    source, target = pageable.ctypes.data, int(memory.handle)
    assert driver.cuMemcpyHtoDAsync(target, source, 8, gpu.stream.handle)[0] == 0
    pageable[:] = 2
    seen[:] = 3
    memory.copy_to(pinned, stream=gpu.stream)
    assert seen[0] == 3
    assert driver.cuMemcpyDtoHAsync(source, target, 8, gpu.stream.handle)[0] == 0
    assert pageable[0] == 1
    assert seen[0] == 1


def threads_keep_their_own_order(gpu: Gpu) -> None:
    kernel = gpu.kernel("probe_set")
    found: dict[int, list[int]] = {}

    def work(value: int) -> None:
        lane = Gpu()
        memory, copy = lane.empty(4), lane.empty(4)
        for _ in range(200):
            sim.write(int(lane.stream.handle), int(memory.handle), np.full(1, 9, np.int32))
            lane.set(kernel, memory, value)
            copy.copy_from(memory, stream=lane.stream)
            lane.stream.sync()
            found.setdefault(value, []).append(first_int(copy))

    threads = [Thread(target=work, args=[value]) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {value: [value] * 200 for value in range(4)}


def test_deferred_mode() -> None:
    check(
        a_missing_synchronisation_shows,
        streams_wait_for_events_only,
        memory_is_freed_in_stream_order,
        host_memory_follows_the_rules,
        threads_keep_their_own_order,
        deferred=1,
    )


# ---- the build


def test_a_kernel_that_synchronises_its_block_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "reduce.cu"
    source.write_text(
        '#include "grid.h"\nKERNEL(reduce)(int *out) { __syncthreads(); *out = 1; }\n'
    )
    with pytest.raises(RuntimeError, match=r"reduce\.cu: .* cannot use __shared__"):
        host_kernels(source)
