"""Arrays in GPU memory, as other libraries take them: without a copy, in the right order."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
from cuda.bindings import driver
from cuda.core.utils import StridedMemoryView

from tests import simdriver
from tests.surfaces import random_frame
from vidai.devices.cuda import CudaDevice
from vidai.devices.cuda.surface import upload


def test_rgb_goes_through_dlpack_without_a_copy(gpu: CudaDevice) -> None:
    """A consumer's stream waits for the kernel that makes the picture."""
    frame = upload(gpu.lane(), random_frame(97, 61, "NV12"))
    picture = frame.rgb()
    consumer = gpu.gpu.new_stream()
    before = gpu.transfers.snapshot()
    view = StridedMemoryView.from_dlpack(picture, stream_ptr=int(consumer.handle))
    assert view.ptr == picture.ptr
    assert tuple(view.shape) == (61, 97, 3)
    assert view.dtype == np.uint8
    assert (view.device_id, view.is_device_accessible) == (0, True)
    assert not gpu.transfers.since(before).bytes.total()
    consumer.sync()  # in deferred mode the kernel has run only if the consumer waits for it
    host = np.empty((61, 97, 3), np.uint8)
    gpu.gpu.copy_to_host(host, view.ptr, consumer, "picture")
    assert (host == np.asarray(frame)).all()


@pytest.mark.simulated
def test_a_view_through_dlpack_keeps_the_memory(gpu: CudaDevice) -> None:
    frame = upload(gpu.lane(), random_frame(64, 48, "NV12"))
    view = StridedMemoryView.from_dlpack(frame, stream_ptr=-1)
    gc.collect()
    driver.cuCtxSynchronize()
    assert view.ptr in [address for address, _, _ in simdriver.live()]


def test_the_interface_of_numba_and_cupy_tells_the_stream(gpu: CudaDevice) -> None:
    array = gpu.empty((3, 5), np.float16)
    told = array.__cuda_array_interface__
    assert (told["shape"], told["typestr"], told["data"]) == ((3, 5), "<f2", (array.ptr, False))
    assert told["stream"] == int(gpu.stream.handle)


def test_what_would_need_a_copy_is_refused(gpu: CudaDevice) -> None:
    array = gpu.empty((4, 4), np.uint8)
    with pytest.raises(BufferError, match="without a copy"):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="without a copy"):
        array.__dlpack__(dl_device=(1, 0))
    with pytest.raises(TypeError, match="to_host"):
        np.asarray(array)


@pytest.mark.parametrize("part", [slice(1, 2), slice(0, 9), slice(None), slice(-1)])
def test_only_first_rows_can_be_taken(part: slice, gpu: CudaDevice) -> None:
    array = gpu.empty((4, 2), np.uint8)
    assert array[:3].shape == (3, 2)
    with pytest.raises(IndexError, match=":n"):
        array[part]


@pytest.mark.simulated
def test_host_code_cannot_read_a_frame(gpu: CudaDevice) -> None:
    """The premise of all else here: device memory is closed to the host."""
    code = (
        "import os; os.environ['VIDAI_TEST_GPU'] = 'strict'\n"
        "import tests.cuda.conftest, ctypes, vidai\n"
        "array = vidai.open_device('cuda').empty((64,), 'uint8')\n"
        "ctypes.string_at(array.ptr, 1)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert ended.returncode == -11, ended.stderr


def test_events_order_two_lanes(gpu: CudaDevice) -> None:
    first, second = gpu.lane(), gpu.lane()
    frame = upload(first, random_frame(321, 241, "P010"))
    picture = frame.rgb()
    second.after(first)
    assert (second.to_host(picture) == np.asarray(frame)).all()
    assert first.stream.is_nonblocking  # lanes do not wait for the default stream either
