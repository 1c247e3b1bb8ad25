"""Measures vidai against the loop everyone writes, and against its own limit.

    python benchmarks/bench.py [--clip CLIP] [--model MODEL.onnx] [--rounds 3]

In one interleaved run, every frame processed, x264 veryfast crf 23:
  naive  benchmarks/naive.py: OpenCV, onnxruntime's defaults, supervision, PyAV
  vidai  `vidai run`
  limit  each stage of vidai alone on one core; CPU time a frame, added up, divided by
         the cores: what perfect parallelism could reach
Whole processes are measured from outside: wall clock, CPU time and peak memory as the
kernel accounts them. Figures are medians; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidai.precision import f1
from vidai.types import Detections

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"


@dataclass
class Cost:
    """One whole process: seconds of wall clock and CPU, MB of peak memory."""

    wall: float
    cpu: float
    memory: float


def cost_of(command: list[str]) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def with_sound(clip: Path, out: Path) -> int:
    """The clip as H.264 with an AAC tone; returns its number of frames."""
    with av.open(str(clip)) as source, av.open(str(out), "w") as container:
        stream = source.streams.video[0]
        rate = stream.average_rate or 25
        video = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        video.width, video.height, video.pix_fmt = stream.width, stream.height, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        sound.layout = "mono"
        count = done = 0
        for frame in source.decode(stream):
            frame.pts, frame.time_base = count, 1 / Fraction(rate)
            container.mux(video.encode(frame))
            count += 1
            while done / 48000 < count / rate:
                wave = 0.1 * np.sin(2 * np.pi * 440 * np.arange(done, done + 1024) / 48000)
                tone = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
                tone.sample_rate, tone.pts = 48000, done
                container.mux(sound.encode(tone))
                done += 1024
        container.mux(video.encode())
        container.mux(sound.encode())
    return count


def limit(clip: str, model: str, frames: int = 150) -> dict[str, float]:
    """CPU milliseconds a frame of each stage alone, each on one thread."""
    from vidai import Detector, FileSource
    from vidai.device import EncoderSettings, open_device
    from vidai.steps import Overlay

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    device = open_device("cpu")
    detector = Detector(model, device=device)
    costs: dict[str, float] = {}

    def clock(stage: str, work: Any) -> Any:
        start = time.process_time()
        result = work()
        costs[stage] = (time.process_time() - start) * 1000 / len(result)
        return result

    with FileSource(clip) as source:

        def decode() -> list[Any]:
            decoder, pictures = device.decoder(source.video, source.info), []
            for packet in source.packets():
                if packet.stream is source.video:
                    pictures += decoder.decode(packet)
                if len(pictures) >= frames:
                    break
            return pictures

        pictures = clock("decode", decode)
        detector([pictures[0]])
        found = clock("letterbox, inference, NMS", lambda: [detector([p])[0] for p in pictures])
        overlay = Overlay()
        pairs = list(zip(pictures, found, strict=True))
        drawn = clock("overlay", lambda: [overlay(p, d) for p, d in pairs])
        with av.open(os.devnull, "w", format="null") as container:
            encoder = device.encoder(source.info, EncoderSettings())
            encoder.add_to(container)
            clock("encode", lambda: [encoder.encode(p) for p in drawn] + [encoder.encode(None)])
    return costs


def detections_in(records: Path) -> list[Detections]:
    """What a file of records says of each frame."""
    lines = [json.loads(line)["detections"] for line in records.read_text().splitlines()]
    return [
        Detections(
            np.array([row["box"] for row in rows], np.float32).reshape(-1, 4),
            np.array([row["score"] for row in rows], np.float32),
            np.array([row["class_id"] for row in rows], np.int32),
        )
        for rows in lines
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, default=SHARED / "clips" / "pedestrians_576p.avi")
    parser.add_argument("--model", default=str(SHARED / "models" / "yolox_nano.onnx"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.limit:
        print(json.dumps(limit(str(options.clip), options.model)))
        return
    if not options.clip.exists():
        sys.exit(f"no clip at {options.clip}: give one with --clip, and a model with --model")

    python = sys.executable
    vidai = [python, "-m", "vidai", "run", "--device", "cpu", "--model", options.model, "-y", "-q"]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        clip = here / "clip.mp4"
        frames = with_sound(options.clip, clip)
        out, ours, theirs = str(here / "out.mp4"), here / "vidai.jsonl", here / "naive.jsonl"
        report = here / "report.json"
        naive = [python, str(HERE / "naive.py"), str(clip), out, options.model]
        commands = {
            "naive": [*naive, "--records", str(theirs)],
            "vidai": [*vidai, str(clip), out, "--records", str(ours), "--report", str(report)],
        }
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        first, limits, running = [], [], []
        for _ in range(options.rounds):
            for name, command in commands.items():
                costs[name].append(cost_of(command))
            running.append(json.loads(report.read_text())["fps"])
            first.append(cost_of([*vidai, str(clip), out, "--max-frames", "1"]).wall)
            limit_command = [python, __file__, "--limit", "--clip", str(clip)]
            limits.append(
                json.loads(subprocess.check_output([*limit_command, "--model", options.model]))
            )
        agreement = f1(detections_in(theirs), detections_in(ours))

    cores = len(os.sched_getaffinity(0))
    mid = statistics.median
    stages = {stage: mid(row[stage] for row in limits) for stage in limits[0]}
    limit_fps = [1000 * cores / sum(row.values()) for row in limits]
    fps = {name: [frames / c.wall for c in rows] for name, rows in costs.items()}
    print(
        f"{platform.machine()}, {cpu_name()}, {cores} cores, {frames} frames of {options.clip.name}"
    )
    print(f"{'':8}{'fps':>8}{'CPU ms/frame':>14}{'peak MB':>10}")
    for name, rows in costs.items():
        per_frame = mid(c.cpu for c in rows) * 1000 / frames
        print(f"{name:8}{mid(fps[name]):8.1f}{per_frame:14.1f}{mid(c.memory for c in rows):10.0f}")
    print(f"{'limit':8}{mid(limit_fps):8.1f}{sum(stages.values()):14.1f}")
    for stage, cost in stages.items():
        print(f"  {stage:28}{cost:6.2f} ms CPU/frame")
    speed = [a / b for a, b in zip(fps["vidai"], fps["naive"], strict=True)]
    work = [a.cpu / b.cpu for a, b in zip(costs["vidai"], costs["naive"], strict=True)]
    reach = [a / b for a, b in zip(fps["vidai"], limit_fps, strict=True)]
    print(f"vidai / naive: {mid(speed):.2f} × the fps, {mid(work):.2f} × the CPU time")
    steady = [a / b for a, b in zip(running, limit_fps, strict=True)]
    print(f"vidai / limit: {mid(reach):.2f} × the fps, {mid(steady):.2f} × without the start")
    print(f"same detections: F1 {agreement:.4f} at IoU 0.5")
    print(f"one frame, imports and finished file included: {mid(first):.2f} s")


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
