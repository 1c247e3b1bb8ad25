"""Arrays in GPU memory, as other libraries take them: without a copy, in the right order."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cuda.bindings import driver
from cuda.core.utils import StridedMemoryView

from tests import simdriver
from tests.cuda.keep import planes_of
from tests.surfaces import random_frame
from vidai.devices.cuda import CudaDevice
from vidai.devices.cuda.surface import upload
from vidai.ops import letterbox, write_rgb
from vidai.ops.candidates import View, candidates
from vidai.types import InputSpec


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


def test_an_array_of_another_lane_is_read_when_it_is_made(gpu: CudaDevice) -> None:
    first, second = gpu.lane(), gpu.lane()
    frame = upload(first, random_frame(321, 241, "P010"))
    picture = frame.rgb()
    assert (second.to_host(picture) == np.asarray(frame)).all()
    assert first.stream.is_nonblocking  # lanes do not wait for the default stream either


@pytest.mark.simulated
def test_memory_that_a_consumer_dropped_waits_for_its_stream(gpu: CudaDevice) -> None:
    """A view may go while the consumer's stream still reads: the next picture comes later."""
    lane = gpu.lane()
    first, second = (upload(lane, random_frame(96, 64, "NV12", seed=n)) for n in range(2))
    truth = np.asarray(first)
    consumer = gpu.gpu.new_stream()
    seen = gpu.empty(truth.shape, np.uint8)
    gpu.synchronize()
    view = StridedMemoryView.from_dlpack(first, stream_ptr=int(consumer.handle))
    gpu.gpu.copy_within(seen.ptr, view.ptr, seen.nbytes, consumer, "picture")
    del view
    gc.collect()
    later = [second.rgb() for _ in range(4)]
    lane.synchronize()  # the consumer is slow
    consumer.sync()
    assert (gpu.to_host(seen) == truth).all()
    assert len(later) == 4  # they are there while the consumer reads


@pytest.mark.simulated
def test_a_picture_of_another_lane_is_waited_for(gpu: CudaDevice) -> None:
    """And its memory is used again only after it has been read."""
    lane = gpu.lane()
    source = upload(lane, random_frame(96, 64, "NV12"))
    target, same = (upload(gpu.lane(), random_frame(96, 64, "NV12", seed=1)) for _ in range(2))
    other = upload(lane, random_frame(96, 64, "NV12", seed=2))
    expected = np.asarray(write_rgb(same, np.asarray(source)))
    write_rgb(target, source.rgb())
    later = [other.rgb() for _ in range(4)]
    lane.synchronize()  # the reader is slow
    assert (np.asarray(target) == expected).all()
    assert len(later) == 4  # they are there while the reader reads


@pytest.mark.simulated
def test_what_ops_prepare_holds_no_stream_and_is_shared_by_files(gpu: CudaDevice) -> None:
    batch = gpu.empty((1, 3, 64, 64), np.float32)
    gpu.synchronize()

    def use(n: int) -> None:
        frame = upload(gpu.lane(), random_frame(96, 64, "NV12"))
        info = replace(frame.info, name=f"{n}.mp4", duration=n + 1.0, start=n / 7)
        frame = replace(frame, info=info)
        letterbox(frame, batch, 0, InputSpec(64, 64))
        write_rgb(frame, frame.rgb())
        frame.device.synchronize()

    use(0)
    gc.collect()
    streams, sent = simdriver.counters()["streams.live"], gpu.transfers.calls["setup"]
    for n in range(1, 9):
        use(n)
    gc.collect()
    assert simdriver.counters()["streams.live"] == streams
    assert gpu.transfers.calls["setup"] == sent


@pytest.mark.simulated
def test_freed_memory_of_all_streams_leaves_the_threads_context(gpu: CudaDevice) -> None:
    array = gpu.constant(np.zeros(4, np.float32))
    driver.cuCtxSetCurrent(0)
    del array
    gc.collect()
    _, current = driver.cuCtxGetCurrent()
    gpu.gpu.enter()
    assert int(current) == 0


def test_a_read_only_frame_is_copied_on_the_gpu_to_be_drawn_on(gpu: CudaDevice) -> None:
    frame = replace(upload(gpu.lane(), random_frame(97, 61, "P010")), writable=False)
    before = [plane.copy() for plane in planes_of(frame)]
    count = gpu.transfers.snapshot()
    black = write_rgb(frame, np.zeros((61, 97, 3), np.uint8))
    moved = gpu.transfers.since(count)
    assert black.writable
    assert ("device_to_device", "private copy") in moved.sources
    assert all((a == b).all() for a, b in zip(planes_of(frame), before, strict=True))
    assert not np.asarray(black).any()


def test_a_crowded_picture_is_gone_through_once_the_room_is_known(gpu: CudaDevice) -> None:
    anchors = 1500
    boxes, scores = np.zeros((anchors, 4), np.float32), np.full(anchors, 0.5, np.float32)
    calls = []
    for _ in range(3):
        view = View(gpu.to_device(boxes), 0, 4, 1), View(gpu.to_device(scores), 0, 1, 1)
        before = gpu.transfers.snapshot()
        (found,) = candidates(
            gpu,
            pictures=1,
            anchors=anchors,
            classes=1,
            boxes=view[0],
            scores=view[1],
            coding="xyxy",
            size=(64, 64),
            conf=0.25,
        )
        assert len(found.scores) == anchors
        calls.append(gpu.transfers.since(before).calls["device_to_host"])
    assert calls == [2, 1, 1]
