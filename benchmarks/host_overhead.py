"""What a frame costs the host on the CUDA device: everything but the GPU's own work.

    python benchmarks/host_overhead.py [--frames 600] [--streams 1 16] [--threads]

Runs whole pipelines (demux, NVDEC, letterbox, session, candidates, overlay of ten labelled
boxes, NVENC, mp4) at 1080p on the simulated driver in idle mode: the real NVIDIA wheels are
called as on a GPU, and engines and kernels return at once. What is measured is the CPU time of
the process, all threads: what each frame adds, from a long and a short clip, and what a stream
costs to begin and end. The part of it that is the simulation's stays in. Ten
detections a frame are put into what comes back from the device, since no kernel finds any.

An L40S decodes about 2,700 H.264 frames of this size a second: above 370 µs a frame one process
would be what limits the card.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/simdriver is no part of the package

from tests import simdriver

simdriver.load(idle=1, mem_mb=8192)

from tests.media import make_clip
from tests.simdriver import engine
from tests.tiny_model import write_tiny_model

engine.install(idle=True)

import vidai
from vidai.devices.cuda import CudaDevice
from vidai.pipeline import Pipeline
from vidai.steps import Overlay

WIDTH, HEIGHT = 1920, 1080
FOUND = 10  # detections a frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=600, help="of each stream")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", action="store_true", help="in threads, as on the CPU, for comparison"
    )
    options = parser.parse_args()
    CudaDevice.asynchronous = not options.threads
    put_detections()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "tiny.onnx"
        write_tiny_model(model)
        long, short = (
            make_clip(folder / f"{frames}.mp4", width=WIDTH, height=HEIGHT, frames=frames)
            for frames in (options.frames, options.frames // 6)
        )
        measure(short, folder, model, 1)  # imports, kernels, caches
        rounds = [
            [
                difference(options.frames, *(measure(c, folder, model, n) for c in (long, short)))
                for n in options.streams
            ]
            for _ in range(options.rounds)
        ]
        for streams, results in zip(options.streams, zip(*rounds, strict=True), strict=True):
            frame, start = (
                sorted(values)[len(values) // 2] for values in zip(*results, strict=True)
            )
            spread = f"{min(r[0] for r in results):.0f} to {max(r[0] for r in results):.0f}"
            print(
                f"{streams:2} streams: {frame:4.0f} µs of CPU a frame ({spread}), "
                f"{start / 1000:3.0f} ms a stream to begin and end"
            )


def difference(frames: int, long: float, short: float) -> tuple[float, float]:
    """µs that each frame adds, and what is left for a stream, from the µs of a long and a short
    stream."""
    few = frames // 6
    each = (long - short) / (frames - few)
    return each, short - few * each


def measure(clip: Path, folder: Path, model: Path, streams: int) -> float:
    """CPU µs of a stream when that many run at once."""
    device = vidai.open_device("cuda")
    detector = vidai.Detector(model, device=device, precision="fp32")
    pipelines = [
        Pipeline(
            str(clip),
            detector,
            steps=[Overlay()],
            sinks=[vidai.VideoFile(folder / f"out{n}.mp4", overwrite=True)],
        )
        for n in range(streams)
    ]
    threads = [threading.Thread(target=pipeline.run) for pipeline in pipelines]
    cpu = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frames = sum(pipeline.report.frames for pipeline in pipelines)
    found = sum(pipeline.report.detections.total() for pipeline in pipelines)
    assert found == FOUND * frames, [p.report.to_dict() for p in pipelines]
    return 1e6 * (time.process_time() - cpu) / streams


def put_detections() -> None:
    """Let every picture have FOUND candidates that NMS keeps, none of which a kernel made."""
    rows = np.zeros((1 + FOUND, 7), np.float32)
    rows[0, :1].view(np.int32)[0] = FOUND
    for k in range(FOUND):
        x, y = 10 * k, 4 * k
        rows[1 + k] = (k, k % 3, 0.9 - 0.01 * k, x, y, x + 20, y + 16)
    to_host = CudaDevice.to_host

    def with_detections(self: CudaDevice, array: Any, what: str = "array") -> Any:
        host = to_host(self, array, what)
        if what == "candidates":
            host[:, : 1 + FOUND] = rows
        return host

    CudaDevice.to_host = with_detections  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
