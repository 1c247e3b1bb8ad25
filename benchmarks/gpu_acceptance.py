"""Everything that only a real GPU can tell, in one command.

    python benchmarks/gpu_acceptance.py [--out report.json] [--seconds 2] [--model NAME|FILE]
        [--fp8-model FILE] [--clip FILE] [--parts tests,decode,…]

Needs a checkout with `pip install -e '.[cuda,test]'`. It prints a table for each part and writes
all of it as JSON; the exit code is 0 where nothing failed. Each case is measured in a process
apart: one that fails, dies or hangs is told with its sentence, and the rest goes on.

The environment variable VIDAI_TEST_GPU=strict runs it over the simulated driver instead, with
little of everything: that shows that the script works, and says nothing of any GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version as version_of
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any, cast

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests is no part of the package

import av
import numpy as np
import numpy.typing as npt

from tests.media import BIT_RATE, make_clip, moving_shapes
from tests.test_damage import CLIPS as DAMAGED
from tests.test_damage import mutated
from vidai.cache import keep
from vidai.detector import Detector
from vidai.device import Device, EncoderSettings, Session, open_device
from vidai.doctor import wheels
from vidai.doctor.finding import one_line
from vidai.errors import ConfigError, DecodeError, DeviceError, EncodeError, VidaiError
from vidai.models import Model, load_model
from vidai.models.half import half
from vidai.ops import draw, letterbox, redact, rgb, write_rgb
from vidai.pipeline import Pipeline
from vidai.precision import f1
from vidai.sinks.video import VideoFile
from vidai.sources.file import FileSource
from vidai.steps import Overlay
from vidai.types import Detections, Frame, InputSpec, StreamInfo

if TYPE_CHECKING:
    from vidai.devices.cuda import CudaDevice

ROOT = Path(__file__).parents[1]
MODE = os.environ.get("VIDAI_TEST_GPU", "real")
DEATHS = 5  # in a row; then what is left of a part is not tried
HD = 1920 * 1080

Row = dict[str, Any]


# ---- what NVIDIA publishes


@dataclass(frozen=True)
class Limits:
    """Pictures of 1920 × 1080 px that one engine can do in a second, 8 bit unless named so.

    decode: by codec, at `clock` MHz of the video clock, and proportional to it. encode: by codec
    and preset, with the tuning high quality and variable bit rate, which vidai asks for.
    """

    name: str
    clock: int
    decode: dict[str, int]
    encode: dict[str, dict[str, int]]


PRESETS = ("P1", "P3", "P5", "P7")  # those that are published


def _limits(name: str, clock: int, decode: str, h264: str, hevc: str, av1: str) -> Limits:
    codecs = ("h264", "hevc", "hevc10", "vp9", "av1")
    rows = {"h264": h264, "hevc": hevc, "av1": av1}
    return Limits(
        name,
        clock,
        dict(zip(codecs, map(int, decode.split()), strict=False)),
        {
            codec: dict(zip(PRESETS, map(int, row.split()), strict=False))
            for codec, row in rows.items()
        },
    )


SOURCE = "NVDEC and NVENC Application Notes of NVIDIA's Video Codec SDK 13.0"
# The decoders of A100 and H100 are of Turing's kind, but their clocks are others; they have no
# NVENC.
_TURING = _limits("Turing", 1860, "771 1316 1158 932", "", "", "")
_AMPERE = _limits(
    "Ampere", 1665, "748 1415 1299 1075 790", "846 617 266 213", "939 557 335 171", ""
)
_ADA = _limits(
    *("Ada", 2160, "903 1641 1520 1290 1018"),
    *("885 647 283 211", "1037 706 411 181", "741 549 440 323"),
)
_BLACKWELL = _limits(
    *("Blackwell", 2362, "2172 1872 1818 1445 1119"),
    *("948 708 317 227", "1119 947 521 181", "957 678 552 401"),
)
LIMITS = {
    **dict.fromkeys([(7, 5), (8, 0), (9, 0)], _TURING),
    (8, 6): _AMPERE,
    (8, 9): _ADA,
    **dict.fromkeys([(10, 0), (12, 0)], _BLACKWELL),
}


# ---- how much is measured


@dataclass(frozen=True)
class Clip:
    """How a clip is made. suffix: of the file, which names the container."""

    encoder: str
    suffix: str = "mp4"
    pix_fmt: str = "yuv420p"


CLIPS = {
    "h264": Clip("libx264"),
    "hevc": Clip("libx265"),
    "hevc10": Clip("libx265", pix_fmt="yuv420p10le"),
    "av1": Clip("libsvtav1"),
    "vp9": Clip("libvpx-vp9", "webm"),
}


@dataclass(frozen=True)
class Scope:
    """How much of everything. sessions, streams: at one time. mutations: of each damaged clip.

    tests: for pytest. runs: of a kernel. busy: bytes of the copies that keep a GPU busy while
    kernels are queued behind them.
    """

    size: tuple[int, int]
    frames: int
    codecs: tuple[str, ...]
    decode_sessions: tuple[int, ...]
    encoders: dict[str, tuple[int, ...]]  # codecs, with the bits that they take
    presets: tuple[str, ...]
    timed_presets: tuple[str, ...]
    encode_sessions: tuple[int, ...]
    batches: tuple[int, ...]
    streams: tuple[int, ...]
    mutations: int
    damaged: int
    tests: tuple[str, ...]
    runs: int
    busy: int


FULL = Scope(
    size=(1920, 1080),
    frames=300,
    codecs=tuple(CLIPS),
    decode_sessions=(1, 2, 3, 4, 6, 8),
    encoders={"h264": (8,), "hevc": (8, 10), "av1": (8, 10)},
    presets=("P1", "P2", "P3", "P4", "P5", "P6", "P7"),
    timed_presets=("P1", "P3", "P4", "P5", "P7"),
    encode_sessions=(1, 2, 3, 6),
    batches=(1, 2, 4, 8),
    streams=(1, 4, 16),
    mutations=30,
    damaged=len(DAMAGED),
    tests=("tests/cuda",),
    runs=50,
    busy=256 << 20,
)
LITTLE = Scope(
    size=(320, 192),
    frames=8,
    codecs=("h264", "hevc10"),
    decode_sessions=(1, 2),
    encoders={"h264": (8,), "hevc": (10,)},
    presets=("P4",),
    timed_presets=("P3", "P4"),
    encode_sessions=(2,),
    batches=(1, 2),
    streams=(1, 2),
    mutations=2,
    damaged=2,
    tests=("tests/cuda/test_kernels.py", "-k", "pad"),
    runs=2,
    busy=1 << 16,
)
SCOPE = FULL if MODE == "real" else LITTLE


@dataclass(frozen=True)
class Setup:
    """What the user asked for. folder: for clips, given to every process."""

    folder: str
    seconds: float
    model: str
    fp8_model: str | None
    clip: str | None

    @property
    def main_clip(self) -> str:
        return "given" if self.clip else "h264"


class NotMeasured(Exception):
    """There is nothing to measure, for a reason that is no fault."""


class Bench:
    """What the cases of one process share; each is made at its first use."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.folder = Path(setup.folder)
        self._models: dict[str, Model] = {}
        self._sessions: dict[str, tuple[Session, Row]] = {}

    @cached_property
    def device(self) -> CudaDevice:
        """The GPU, on which nothing is left to the CPU."""
        if MODE != "real":
            import tests.cuda.conftest  # noqa: F401 (loads the simulated driver)
        return cast("CudaDevice", open_device("cuda", strict_gpu=True))

    @property
    def limits(self) -> Limits | None:
        return LIMITS.get(self.device.gpu.capability)

    def clip(self, name: str) -> Path:
        """Of a codec, or the user's own. Raises ConfigError where it could not be made."""
        if name == "given":
            return Path(self.setup.clip or "")
        path = self.folder / f"{name}.{CLIPS[name].suffix}"
        if not path.exists():
            raise ConfigError(f"there is no {name} clip: see part clips")
        return path

    def small(self, name: str, bframes: int | None = None) -> Path:
        """A clip of the tests' coloured squares, of 24 frames."""
        from tests.cuda.conftest import make_squares

        clip = CLIPS[name]
        path = self.folder / f"small-{name}-{bframes}.{clip.suffix}"
        if not path.exists():
            how = {} if bframes is None else {"options": {"bf": str(bframes)}}
            make_squares(path, 24, codec=clip.encoder, pix_fmt=clip.pix_fmt, **how)
        return path

    def model(self, precision: str) -> Model:
        """Raises ModelError for one that cannot be had in that precision."""
        if precision not in self._models:
            given = self.setup.fp8_model if precision == "fp8" else self.setup.model
            model = load_model(given or "")
            if precision == "fp32" and model.spec.dtype != "float32":
                raise NotMeasured(f"the model takes {model.spec.dtype}")
            if precision == "fp16" and model.spec.dtype != "float16":
                model = half(model)
            self._models[precision] = model
        return self._models[precision]

    def session(self, precision: str) -> tuple[Session, Row]:
        """Of the model, and what there is to tell of its engine."""
        from vidai.devices.cuda import engine as engines_of
        from vidai.devices.cuda.session import CudaSession

        if precision not in self._sessions:
            model, lane, gpu = self.model(precision), self.device.lane(), self.device.gpu
            start = time.perf_counter()
            chip = engines_of.GpuInfo(gpu.index, gpu.name, gpu.capability)
            settings = engines_of.EngineSettings(lane.max_batch, model.name, model.spec)
            gpu.enter()
            engine = engines_of.open_engine(model.onnx, settings, chip)
            row = {"made_in_s": time.perf_counter() - start, "layers": engine.layer_precisions()}
            self._sessions[precision] = CudaSession(lane, engine), row
        return self._sessions[precision]

    @cached_property
    def frames(self) -> list[Frame]:
        """Some of the clip, on the GPU."""
        return Player(self, self.setup.main_clip).take(8)

    @cached_property
    def copy_rate(self) -> float:
        """Bytes a second that a copy in device memory reads and writes."""
        return 2 * SCOPE.busy / (gpu_time(self.device, self.copy, SCOPE.runs, 0)[0] * 1e-6)

    @cached_property
    def _buffers(self) -> list[Any]:
        return [self.device.empty((SCOPE.busy,), np.uint8) for _ in range(2)]

    def copy(self) -> None:
        """SCOPE.busy bytes, within device memory."""
        a, b = self._buffers
        self.device.gpu.copy_within(a.ptr, b.ptr, SCOPE.busy, self.device.stream, "for the clock")


class Player:
    """Decodes a clip again and again, its packets from memory."""

    def __init__(self, bench: Bench, name: str) -> None:
        with FileSource(bench.clip(name)) as source:
            self.info = source.info
            self._packets = [
                (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
                for packet in source.packets()
                if packet.stream is source.video
            ]
            self._decoder = bench.device.decoder(source.video, source.info)

    def play(self) -> Iterator[list[Frame]]:
        """What each packet gives; without end."""
        while True:
            for data, pts, dts, is_key in self._packets:
                packet: av.Packet[Any] = av.Packet(data)
                packet.pts, packet.dts, packet.is_keyframe = pts, dts, is_key
                packet.time_base = self.info.time_base
                yield self._decoder.decode(packet)

    def take(self, count: int) -> list[Frame]:
        """The next frames."""
        taken: list[Frame] = []
        for frames in self.play():
            taken += frames
            if len(taken) >= count:
                break
        return taken[:count]


def in_threads(count: int, work: Callable[[int], int]) -> tuple[int, float]:
    """(sum of what work(0), work(1) … return, seconds that they took), side by side."""
    start = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        total = sum(pool.map(work, range(count)))
    return total, time.perf_counter() - start


def compared(fps: float, limit: float | None, info: StreamInfo) -> Row:
    """fps beside what is published, for pictures of that size."""
    if limit is None:
        return {"fps": fps, "limit": None, "ratio": None}
    limit *= HD / (info.width * info.height)
    return {"fps": fps, "limit": limit, "ratio": fps / limit}


def gpu_time(
    device: CudaDevice, work: Callable[[], object], runs: int, ahead: float, fill: Any = None
) -> tuple[float, float, bool]:
    """(µs of the GPU, µs of the host, whether the host was ahead) for one of `runs` runs.

    fill: keeps the GPU busy for `ahead` seconds each time, until all runs are queued; else its
    time would be that which the host takes to queue them.
    """
    from cuda.core import EventOptions

    def queue() -> float:
        start = time.perf_counter()
        for _ in range(runs):
            work()
        return time.perf_counter() - start

    timing = EventOptions(timing_enabled=True)
    work()
    device.synchronize()
    host = queue()  # and everything is warm
    device.synchronize()
    for _ in range(min(500, int(3 * host / ahead) + 1) if ahead else 0):
        fill()
    begin = device.stream.record(options=timing)
    host = queue()
    is_ahead = not begin.is_done
    end = device.stream.record(options=timing)
    device.synchronize()
    return float(end - begin) * 1000 / runs, host * 1e6 / runs, is_ahead


# ---- the machine


def machine(bench: Bench, gpu: str) -> Row:
    """What is measured here."""
    from cuda.bindings import driver

    chip = bench.device.gpu
    limits = bench.limits
    cuda = int(driver.cuDriverGetVersion()[1])
    packages = wheels.installed()
    packages |= {name: version_of(name) for name in ("av", "numpy", "onnxruntime", "vidai")}
    return {
        "name": chip.name,
        "capability": ".".join(map(str, chip.capability)),
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        **{f"{unit}_engines": count for unit, count in engines(bench).items()},
        "published": {"source": SOURCE, **asdict(limits)} if limits else None,
        "cpu": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
        "nvml": nvml(),
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def nvml() -> Row:
    """Driver, power and clocks, as far as NVML tells."""
    try:
        import pynvml

        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        kinds = {"graphics": 0, "sm": 1, "memory": 2, "video": 3}
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "power_limit_w": pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000,
            "mhz": {n: pynvml.nvmlDeviceGetClockInfo(gpu, k) for n, k in kinds.items()},
            "most_mhz": {n: pynvml.nvmlDeviceGetMaxClockInfo(gpu, k) for n, k in kinds.items()},
        }
    except Exception as error:  # each of its errors is a class of its own
        return {"unknown": one_line(error)}


def video_clock() -> int | None:
    """MHz at this moment."""
    clocks = nvml().get("mhz")
    return clocks["video"] if clocks else None


def engines(bench: Bench) -> dict[str, int]:
    """How many NVDECs and NVENCs the GPU has."""
    from vidai.devices.cuda.video_codec import nvc

    nv = nvc()
    chroma = getattr(nv.cudaVideoChromaFormat, "420")
    found = {"nvdec": 0, "nvenc": 0}
    bench.device.gpu.enter()
    with suppress(Exception):
        caps = nv.GetDecoderCaps(0, nv.cudaVideoCodec.H264, chroma, 8)
        found["nvdec"] = int(caps["num_decoder_engines"])
    with suppress(Exception):  # how it says that there is none
        found["nvenc"] = int(nv.GetEncoderCaps(0, "h264")["num_encoder_engines"])
    return found


# ---- what already judges itself


def doctor(bench: Bench, command: str) -> Row:
    """What it tells, whole; an error where vidai does not work."""
    run = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    found = json.loads(run.stdout)
    problems = [f"{f['name']}: {f['value']}" for f in found["findings"] if f["status"] == "problem"]
    row = {"verdict": found["verdict"], "problems": problems, "told": found}
    return row if found["works"] else {**row, "error": "; ".join([found["verdict"], *problems])}


def tests(bench: Bench, pytest: str) -> Row:
    """The tests of the CUDA device, among them every kernel's against the CPU's."""
    path = bench.folder / "tests.xml"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *pytest.split(), f"--junitxml={path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if not path.exists():
        return {"error": f"pytest did not run: {(run.stdout + run.stderr)[-300:]}"}
    cases = list(ElementTree.parse(path).iter("testcase"))
    failed = [case_name(case) for case in cases if case.findall("failure") + case.findall("error")]
    skipped = {case_name(c): s.get("message") for c in cases for s in c.findall("skipped")}
    row: Row = {"passed": len(cases) - len(failed) - len(skipped), "failed": failed}
    row |= {"skipped": len(skipped), "why_skipped": skipped}
    if failed or run.returncode:
        row |= {"told": run.stdout[-20_000:]}
        row |= {"error": f"{len(failed)} tests fail: {', '.join(failed[:8])}"}
    return row


def case_name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"


def clips(bench: Bench, codec: str) -> Row:
    """What the timings decode."""
    clip, size = CLIPS[codec], SCOPE.size
    options = {} if clip.encoder in BIT_RATE or codec == "av1" else {"crf": "23", "g": "60"}
    path = bench.folder / f"{codec}.{clip.suffix}"
    how = {"codec": clip.encoder, "pix_fmt": clip.pix_fmt, "frames": SCOPE.frames}
    make_grainy(path, size, options=options, **how)
    bits = path.stat().st_size * 8
    return {"frames": SCOPE.frames, "mbit_s": bits / SCOPE.frames * 25 / 1e6}


def make_grainy(path: Path, size: tuple[int, int], **how: Any) -> None:
    """A clip of a moving square under film grain: flat pictures would be coded too fast."""
    width, height = size
    cells = np.random.default_rng(0).integers(0, 24, (-(-height // 4), -(-width // 4), 3), np.uint8)
    grain = cells.repeat(4, 0).repeat(4, 1)[:height, :width]
    picture = moving_shapes(0, width, height) // 2

    def draw(index: int) -> npt.NDArray[np.uint8]:
        moved = np.roll(picture, 4 * index, 1)
        drawn: npt.NDArray[np.uint8] = moved + np.roll(grain, 977 * index, (0, 1))
        return drawn

    make_clip(path, width=width, height=height, draw=draw, **how)


# ---- NVDEC and NVENC: what their documentation does not say


def nvdec(bench: Bench, clip: str) -> Row:
    """Pictures are those of libavcodec; how many packets go in before the first comes out."""
    if clip == "size change":
        from tests.cuda.test_run import joined

        path = joined(bench.folder, [{"frames": 8}, {"frames": 8, "width": 320, "height": 192}])
    else:
        name, _, bframes = clip.partition(" bf=")
        path = bench.small(name, int(bframes) if bframes else None)
    ours, packets_in = decoded(path, bench.device)
    truth, _ = decoded(path, open_device("cpu"))
    row = {
        "packets_before_first_frame": packets_in,
        "frames": len(ours),
        "sizes": " ".join(sorted({f"{frame.width}x{frame.height}" for frame in ours})),
    }
    if [frame.pts for frame in ours] != [frame.pts for frame in truth]:
        raise DecodeError(f"{len(ours)} frames have other times than libavcodec's {len(truth)}")
    different = sum(not same(*frames) for frames in zip(ours, truth, strict=True))
    if different:
        raise DecodeError(f"{different} of {len(ours)} frames are not libavcodec's")
    return row


def decoded(path: Path, device: Device) -> tuple[list[Frame], int]:
    """All frames of a file, and how many packets went in before the first of them came out."""
    frames: list[Frame] = []
    before = 0
    with FileSource(path) as source:
        decoder = device.decoder(source.video, source.info)
        for packet in source.packets():
            if packet.stream is source.video:
                frames += decoder.decode(packet)
                before += not frames
        frames += decoder.decode(None)
    return frames, before


def same(ours: Frame, truth: Frame) -> bool:
    from tests.cuda.keep import planes_of

    pairs = zip(planes_of(ours), planes_of(truth), strict=True)
    return all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)


def nvenc(
    bench: Bench, codec: str, bits: int, preset: str, bframes: int, quality: int | None
) -> Row:
    """A setting is taken, and what comes out is whole, in order and like what went in."""
    clip = bench.small("h264" if bits == 8 else "hevc10")
    frames, _ = decoded(clip, bench.device)
    path = bench.folder / "nvenc.mkv"
    settings = EncoderSettings(codec, quality, preset, bframes)
    encoder = bench.device.encoder(frames[0].info, settings)
    times: list[tuple[int | None, int | None]] = []
    delay = 0
    with av.open(str(path), "w") as container:
        encoder.add_to(container)
        for frame in (*frames, None):
            made = encoder.encode(frame)
            times += [(packet.pts, packet.dts) for packet in made]
            delay += not times
            container.mux(made)
    with av.open(str(path)) as container:
        pictures = [picture.to_ndarray() for picture in container.decode(video=0)]
    row = {"pictures_before_first_packet": delay, "kbit": path.stat().st_size * 8 / 1000}
    if len(pictures) != len(frames):
        raise EncodeError(f"{len(pictures)} of {len(frames)} pictures come back from the file")
    if any(dts is None or pts is None or dts > pts for pts, dts in times):
        raise EncodeError(f"a packet is to be decoded after it is shown: {times}")
    return {**row, "psnr": min(map(psnr, frames, pictures))}


def psnr(frame: Frame, picture: npt.NDArray[Any]) -> float:
    """Of the luma, dB."""
    from tests.cuda.keep import planes_of

    y = planes_of(frame)[0].astype(float)
    error = np.mean((y - picture[: frame.info.height]) ** 2)
    return float(10 * np.log10(((1 << frame.info.bit_depth) - 1) ** 2 / max(float(error), 1e-9)))


def damage(bench: Bench, clip: int, mutation: int | None) -> Row:
    """What becomes of a damaged file; of a whole one after them all, where mutation is None."""
    suffix, codec, _ = DAMAGED[clip]
    path = bench.folder / f"damage-{codec}.{suffix}"
    if not path.exists():
        make_grainy(path, (256, 192), codec=codec, frames=24)
    row: Row = {"codec": codec, "container": suffix}
    if mutation is None:
        frames, damaged, refused = survived(path, bench.device)
        if (frames, damaged, refused) != (24, 0, None):
            raise DecodeError(f"a whole file after them gives {frames} of 24 frames: {refused}")
        return {**row, "frames": frames}
    rng = np.random.default_rng((clip, mutation))
    broken = bench.folder / f"broken.{suffix}"
    broken.write_bytes(mutated(path.read_bytes(), rng))
    for device in (bench.device, open_device("cpu")):
        prefix = "cpu_" if device.name == "cpu" else ""
        results = zip(("frames", "damaged", "refused"), survived(broken, device), strict=True)
        row |= {prefix + key: value for key, value in results}
    return row


def survived(path: Path, device: Device) -> tuple[int, int, str | None]:
    """Frames that a file gives, how often damage was counted, and how it was refused."""
    frames = damaged = 0
    try:
        with FileSource(path) as source:
            decoder = device.decoder(source.video, source.info)
            for packet in (*source.packets(), None):
                if packet is None or packet.stream is source.video:
                    frames += len(decoder.decode(packet))
                damaged = decoder.damaged + source.damaged
    except DeviceError:
        raise
    except VidaiError as error:
        return frames, damaged, str(error)
    return frames, damaged, None


# ---- how fast each stage is


def decode(bench: Bench, clip: str, sessions: int) -> Row:
    players = [Player(bench, clip) for _ in range(sessions)]
    for player in players:
        player.take(1)  # its session is open now
    clocks: list[int | None] = []

    def work(number: int) -> int:
        end, count = time.perf_counter() + bench.setup.seconds, 0
        last: list[Frame] = []
        for frames in players[number].play():
            count += len(frames)
            last = frames or last
            if last and time.perf_counter() >= end:
                break
        if not number:
            clocks.append(video_clock())
        last[-1].device.synchronize()
        return count

    count, took = in_threads(sessions, work)
    limits, info = bench.limits, players[0].info
    name = f"{info.codec}10" if info.bit_depth > 8 else info.codec
    one = limits.decode.get(name) if limits else None
    limit = one and one * min(sessions, engines(bench)["nvdec"])
    return {**compared(count / took, limit, info), "video_mhz": clocks[0]}


def encode(bench: Bench, codec: str, preset: str, sessions: int) -> Row:
    parts = [Player(bench, "h264").take(8) for _ in range(sessions)]
    info = parts[0][0].info
    files = [av.open(os.devnull, "w", format="null") for _ in parts]
    encoders = [bench.device.encoder(info, EncoderSettings(codec, preset=preset)) for _ in parts]
    for encoder, file in zip(encoders, files, strict=True):
        encoder.add_to(file)

    def work(number: int) -> int:
        end, count = time.perf_counter() + bench.setup.seconds, 0
        step = max(1, round(1 / (info.frame_rate or 25) / info.time_base))
        while not count or time.perf_counter() < end:
            frame = parts[number][count % len(parts[number])]
            encoders[number].encode(frame, count * step)
            count += 1
        encoders[number].encode(None)
        return count

    count, took = in_threads(sessions, work)
    for file in files:
        file.close()
    one = encode_limit(bench.limits, codec, preset)
    limit = one and one * min(sessions, engines(bench)["nvenc"])
    return compared(count / took, limit, info)


def encode_limit(limits: Limits | None, codec: str, preset: str) -> float | None:
    """Of one engine; between its neighbours where the preset itself is not published."""
    rows = limits.encode.get(codec, {}) if limits else {}
    if preset in rows:
        return rows[preset]
    number = int(preset[1:])
    near = [rows.get(f"P{n}") for n in (number - 1, number + 1)]
    return None if None in near else sum(filter(None, near)) / 2


def kernels(bench: Bench, kernel: str) -> Row:
    """Times of the GPU and of the host, which run side by side: the slower one counts."""
    frame = bench.frames[0]
    lane: Any = frame.device
    if kernel == "copy":
        return {"gb_s": bench.copy_rate / 1e9, "bytes": 2 * SCOPE.busy}
    work, size = KERNELS[kernel](frame)
    ahead = 2 * SCOPE.busy / bench.copy_rate

    def fill() -> None:
        bench.copy()
        lane.after(bench.device)

    micros, host, is_ahead = gpu_time(lane, work, SCOPE.runs, ahead, fill)
    row = {"gpu_us": micros, "host_us": host, "host_was_ahead": is_ahead}
    if not size:
        return row
    rate = size / (micros * 1e-6)
    return {**row, "bytes": size, "gb_s": rate / 1e9, "of_copy": rate / bench.copy_rate}


Timed = tuple[Callable[[], object], int]


def _letterbox(frame: Frame, dtype: Any) -> Timed:
    spec = InputSpec(640, 640, scale=1 / 255, dtype=dtype)
    batch = frame.device.empty((1, 3, 640, 640), dtype)
    size = surface_bytes(frame) + 3 * 640 * 640 * np.dtype(dtype).itemsize
    return lambda: letterbox(frame, batch, 0, spec), size


def _rgb(frame: Frame) -> Timed:
    return lambda: rgb(frame), surface_bytes(frame) + 3 * frame.width * frame.height


def _write_rgb(frame: Frame) -> Timed:
    picture = rgb(frame)
    return lambda: write_rgb(frame, picture), surface_bytes(frame) + 3 * frame.width * frame.height


def _overlay(frame: Frame, count: int) -> Timed:
    boxes = boxes_in(frame, count)
    colors = np.full((count, 3), 200, np.uint8)
    labels = [f"person 0.{n:02}" for n in range(count)]
    return lambda: draw(frame, boxes, colors, labels), 0


def _redact(frame: Frame, style: str) -> Timed:
    boxes = boxes_in(frame, 4)
    return lambda: redact(frame, boxes, style=style), 0


KERNELS: dict[str, Callable[[Frame], Timed]] = {
    "letterbox float32": lambda frame: _letterbox(frame, "float32"),
    "letterbox float16": lambda frame: _letterbox(frame, "float16"),
    "rgb": _rgb,
    "rgb_to_yuv": _write_rgb,
    "overlay of 10 boxes": lambda frame: _overlay(frame, 10),
    "overlay of 100 boxes": lambda frame: _overlay(frame, 100),
    "redact 4 regions": lambda frame: _redact(frame, "blur"),
}


def surface_bytes(frame: Frame) -> int:
    s = frame.surface
    return s.width * s.height * 3 // 2 * (1 if s.bit_depth == 8 else 2)


def boxes_in(frame: Frame, count: int) -> npt.NDArray[np.float32]:
    """Boxes a tenth as wide and high as the picture, the same ones each time."""
    rng = np.random.default_rng(count)
    size = np.array([frame.width, frame.height], np.float32)
    corners = rng.random((count, 2), np.float32) * size * 0.9
    return np.concatenate([corners, corners + size / 10], 1)


def models(bench: Bench, precision: str, batch: int) -> Row:
    """A run of the network, and the candidates of what it gives on the host."""
    model = bench.model(precision)
    if model.max_batch and batch > model.max_batch:
        raise NotMeasured(f"the model takes {model.max_batch} at a time")
    session, engine = bench.session(precision)
    lane, frame = session.device, bench.frames[0]
    width, height = size = model.spec.size_for(frame.width, frame.height)
    data = lane.empty((batch, 3, height, width), model.spec.dtype)
    lane.synchronize()
    for slot in range(batch):
        letterbox(frame, data, slot, model.spec)
    lane.after(frame.device)
    outputs = session.run(data)

    def timed(work: Callable[[], object]) -> float:
        work()
        lane.synchronize()
        start, count = time.perf_counter(), 0
        while not count or time.perf_counter() < start + bench.setup.seconds / 2:
            for _ in range(SCOPE.runs):
                work()
            lane.synchronize()
            count += SCOPE.runs
        return (time.perf_counter() - start) / count

    run = timed(lambda: session.run(data))
    found = timed(lambda: model.candidates(lane, outputs, size, 0.35))
    row = {"input": f"{width}x{height}", "ms": 1000 * run, "fps": batch / run}
    return {**row, "candidates_us": 1e6 * found, **engine}


def fp8(bench: Bench, model: str | None) -> Row:
    """The model with Q/DQ nodes beside the other one in halves, on the same frames, in turn."""
    if model is None:
        raise NotMeasured("name a model with Q/DQ nodes with --fp8-model")
    frames = Player(bench, bench.setup.main_clip).take(min(64, SCOPE.frames))
    detectors = {
        name: Detector(bench.model(name), device=bench.device, precision=name)
        for name in ("fp32", "fp16", "fp8")
    }
    found: dict[str, list[Detections]] = {}
    times: dict[str, list[float]] = {name: [] for name in detectors}
    for _ in range(4):
        for name, detector in detectors.items():
            start = time.perf_counter()
            found[name] = detector(frames)
            times[name].append(1000 * (time.perf_counter() - start) / len(frames))
    ms = {name: median(taken[1:]) for name, taken in times.items()}
    return {
        **{f"{name}_ms": value for name, value in ms.items()},
        "fp16_over_fp8": ms["fp16"] / ms["fp8"],
        "boxes": sum(map(len, found["fp32"])),
        **{f"{name}_f1": f1(found["fp32"], found[name]) for name in ("fp16", "fp8")},
    }


def pipelines(bench: Bench, precision: str, streams: int) -> Row:
    """Whole runs, file to file, as often as there is time; every stream has its own file."""
    clip = bench.clip(bench.setup.main_clip)
    detector = Detector(bench.model(precision), device=bench.device, precision=precision)
    warnings: set[str] = set()

    def work(number: int) -> int:
        sink = VideoFile(bench.folder / f"out{number}.mp4", overwrite=True)
        pipeline = Pipeline(str(clip), detector, steps=[Overlay()], sinks=[sink])
        report = pipeline.run()
        warnings.update(report.warnings)
        return report.frames

    in_threads(streams, work)  # engines, kernels and memory are there now
    before, cpu = bench.device.transfers.snapshot(), time.process_time()
    count, took = 0, 0.0
    while not count or took < bench.setup.seconds:
        frames, seconds = in_threads(streams, work)
        count, took = count + frames, took + seconds
    cpu = time.process_time() - cpu
    crossed = bench.device.transfers.since(before).to_dict()
    per_frame = crossed["per_frame"]
    with FileSource(clip) as source:
        info = source.info
    return {
        **compared(count / took, pipeline_limit(bench, info, streams), info),
        "cpu_us": 1e6 * cpu / count,
        "to_device": per_frame["host_to_device_bytes"],
        "to_host": per_frame["device_to_host_bytes"],
        "waits": per_frame["stream_waits"],
        "warnings": sorted(warnings),
        "transfers": crossed,
    }


def pipeline_limit(bench: Bench, info: StreamInfo, streams: int) -> float | None:
    """Of NVDEC and of NVENC, as vidai encodes by default, the slower one."""
    limits, count = bench.limits, engines(bench)
    if limits is None:
        return None
    name = f"{info.codec}10" if info.bit_depth > 8 else info.codec
    both = {"nvdec": limits.decode.get(name), "nvenc": encode_limit(limits, "h264", "P4")}
    return min((one * min(streams, count[unit]) for unit, one in both.items() if one), default=None)


# ---- the table


@dataclass(frozen=True)
class Part:
    """measure(bench, **case) gives a row; limit: s that one may take before it is ended."""

    title: str
    measure: Callable[..., Row]
    cases: Callable[[Setup], list[Row]]
    limit: float = 120.0


def nvenc_cases(setup: Setup) -> list[Row]:
    """Every preset with and without B-frames, and the ends of the scale of quality."""
    from vidai.devices.cuda.encoder import CODECS

    cases = []
    for codec, depths in SCOPE.encoders.items():
        most, worst = CODECS[codec].most_bframes, CODECS[codec].worst_quality
        for bits in depths:
            common = {"codec": codec, "bits": bits}
            for preset in SCOPE.presets:
                for bframes in sorted({0, min(2, most), most}):
                    cases.append({**common, "preset": preset, "bframes": bframes, "quality": None})
            for quality in (1, worst):
                cases.append({**common, "preset": "P4", "bframes": 0, "quality": quality})
    return cases


def damage_cases(setup: Setup) -> list[Row]:
    encoders = {clip.encoder for clip in CLIPS.values()}
    known = [n for n, (_, codec, _) in enumerate(DAMAGED) if codec in encoders]
    return [
        {"clip": clip, "mutation": mutation}
        for clip in known[: SCOPE.damaged]
        for mutation in (*range(SCOPE.mutations), None)
    ]


def every(**axes: Sequence[Any]) -> list[Row]:
    """Every combination, the last axis fastest."""
    cases: list[Row] = [{}]
    for name, values in axes.items():
        cases = [{**case, name: value} for case in cases for value in values]
    return cases


PARTS = {
    "machine": Part("The machine", machine, lambda s: [{"gpu": "cuda:0"}]),
    "doctor": Part("vidai doctor", doctor, lambda s: [{"command": "vidai doctor --json"}], 900),
    "tests": Part(
        "Tests of the CUDA device", tests, lambda s: [{"pytest": " ".join(SCOPE.tests)}], 3600
    ),
    "clips": Part("Clips made for what follows", clips, lambda s: every(codec=SCOPE.codecs), 600),
    "nvdec": Part(
        "NVDEC: pictures of small clips, bit for bit libavcodec's, and how late they come",
        nvdec,
        lambda s: every(clip=("h264 bf=0", "h264 bf=2", *SCOPE.codecs[1:], "size change")),
    ),
    "nvenc": Part(
        "NVENC: every setting that vidai can ask for (tuning high quality, VBR)", nvenc, nvenc_cases
    ),
    "damage": Part("NVDEC: damaged files, as it and libavcodec take them", damage, damage_cases),
    "kernels": Part("Kernels on one picture", kernels, lambda s: every(kernel=("copy", *KERNELS))),
    "models": Part(
        "Models: a batch through the engine, and its candidates",
        models,
        lambda s: every(
            precision=("fp32", "fp16", *(("fp8",) if s.fp8_model else ())), batch=SCOPE.batches
        ),
        3600,  # engines are built
    ),
    "fp8": Part("FP8 beside FP16", fp8, lambda s: [{"model": s.fp8_model}], 3600),
    "decode": Part(
        "Decoding alone, sessions side by side",
        decode,
        lambda s: every(
            clip=tuple(dict.fromkeys((*SCOPE.codecs, s.main_clip))), sessions=SCOPE.decode_sessions
        ),
    ),
    "encode": Part(
        "Encoding alone, sessions side by side",
        encode,
        lambda s: every(
            codec=tuple(SCOPE.encoders),
            preset=SCOPE.timed_presets,
            sessions=SCOPE.encode_sessions,
        ),
    ),
    "pipelines": Part(
        "Whole pipelines: decode, detect, draw, encode to H.264 P4, mux",
        pipelines,
        lambda s: every(precision=("fp32", "fp16"), streams=SCOPE.streams),
        3600,
    ),
}


# ---- processes apart


def run_part(name: str, cases: list[Row], setup: Setup) -> list[Row]:
    """A row for each case, with "error" where there is no answer."""
    rows: list[Row] = []
    deaths = 0
    while len(rows) < len(cases):
        command = [sys.executable, __file__, "--child", name, "--first", str(len(rows))]
        command += ["--setup", json.dumps(asdict(setup))]
        answered = len(rows)
        for row in answers(command, PARTS[name].limit):
            if len(rows) < len(cases):
                rows.append({**cases[len(rows)], **row})
        deaths = 0 if len(rows) > answered + 1 else deaths + 1
        if deaths == DEATHS:
            rows += [
                {**case, "error": "not tried: those before it died"} for case in cases[len(rows) :]
            ]
    return rows


def answers(command: Sequence[str], limit: float) -> Iterator[Row]:
    """The rows that a process writes, lines of JSON; a last one tells if it hung or died."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, bufsize=0, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        assert process.stdout is not None
        try:
            while True:
                if not select.select([process.stdout], [], [], limit)[0]:
                    yield {"error": f"it hangs: no answer in {limit:.0f} s"}
                    return
                line = process.stdout.readline()
                if not line:
                    break
                yield json.loads(line)
            if code := process.wait():
                yield {"error": f"{death(code)}: {last_line(errors)}"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and whatever it has started
                with suppress(subprocess.TimeoutExpired):  # a driver's call cannot be killed
                    process.wait(10)
            process.stdout.close()


def death(code: int) -> str:
    if code > 0:
        return f"its process ended with exit code {code}"
    return f"its process died of signal {-code} ({signal.strsignal(-code)})"


def last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else "it said nothing"


def child(name: str, first: int, setup: Setup) -> None:
    """Measures the cases of a part from one on. What libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.environ["VIDAI_TEST_GPU"] = MODE  # which tests/cuda/conftest.py reads
    part, bench = PARTS[name], Bench(setup)
    for case in part.cases(setup)[first:]:
        start = time.perf_counter()
        lost = False
        try:
            row = part.measure(bench, **case)
        except NotMeasured as reason:
            row = {"note": str(reason)}
        except Exception as error:
            kind = "" if isinstance(error, VidaiError) else f"{type(error).__name__}: "
            row = {"error": kind + one_line(error)}
            lost = isinstance(error, DeviceError)
        out.write(json.dumps({**row, "took_s": round(time.perf_counter() - start, 3)}) + "\n")
        if lost:  # a new process has a new context
            break
    os._exit(0)  # what a library does at its end is not asked here


# ---- the summary


def told(name: str, cases: list[Row], rows: list[Row]) -> Iterator[str]:
    """A part in lines."""
    yield f"\n{PARTS[name].title}"
    summary = SUMMARIES.get(name)
    yield from table(summary(rows) if summary else rows)
    for case, row in zip(cases, rows, strict=True):
        if "error" in row:
            yield f"  FAILED {', '.join(f'{k} {v}' for k, v in case.items())}: {row['error']}"


def table(rows: list[Row]) -> Iterator[str]:
    """What is a word or a number in the rows, in columns."""
    plain = (str, int, float, bool, type(None))
    names = [k for row in rows for k, v in row.items() if isinstance(v, plain) and k != "error"]
    columns = [
        [name, *(cell(row[name]) if name in row else "" for row in rows)]
        for name in dict.fromkeys(names)
    ]
    widths = [max(map(len, column)) for column in columns]
    for line in zip(*columns, strict=True):
        yield "  " + "  ".join(map(str.ljust, line, widths)).rstrip()


def cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def machine_summary(rows: list[Row]) -> list[Row]:
    """One fact a line."""
    (row,) = rows
    return [{"fact": name, "value": str(value)} for name, value in row.items()]


def damage_summary(rows: list[Row]) -> list[Row]:
    """One clip a line."""
    summed = ("frames", "cpu_frames", "damaged", "cpu_damaged")
    lines = []
    for clip in dict.fromkeys(row["clip"] for row in rows):
        suffix, codec, _ = DAMAGED[clip]
        own = [row for row in rows if row["clip"] == clip]
        tried = [row for row in own if "cpu_frames" in row]
        line = {"clip": f"{codec} in {suffix}", "files": len(own)}
        line |= {"failed": sum("error" in row for row in own)}
        line |= {name: sum(row[name] for row in tried) for name in summed}
        for name in ("refused", "cpu_refused"):
            line[name] = sum(row[name] is not None for row in tried)
        lines.append(line)
    return lines


SUMMARIES = {"machine": machine_summary, "damage": damage_summary}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_acceptance.json"))
    parser.add_argument("--seconds", type=float, default=2.0, help="that one timing takes")
    parser.add_argument("--model", default="yolox-nano", metavar="NAME|FILE")
    parser.add_argument("--fp8-model", metavar="FILE", help="the same with Q/DQ nodes")
    parser.add_argument("--clip", metavar="FILE", help="for pipelines, in place of a made one")
    parser.add_argument("--parts", default=",".join(PARTS), help="only these: %(default)s")
    for hidden in ("--child", "--first", "--setup"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, int(options.first), Setup(**json.loads(options.setup)))
    wanted = options.parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(folder, options.seconds, options.model, options.fp8_model, options.clip)
        return measure([name for name in PARTS if name in ("machine", *wanted)], setup, options.out)


def measure(names: list[str], setup: Setup, out: Path) -> int:
    """All of the parts, told and written as they are done; the exit code."""
    report: Row = {"mode": MODE, "setup": asdict(setup), "scope": asdict(SCOPE)}
    report |= {"began": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "failed": 0, "parts": {}}
    for name in names:
        cases = PARTS[name].cases(setup)
        rows = run_part(name, cases, setup)
        if name == "machine" and "error" in rows[0]:
            print(rows[0]["error"])
            return 1
        report["parts"][name] = rows
        report["failed"] += sum("error" in row for row in rows)
        keep(out, (json.dumps(report, indent=1) + "\n").encode())
        for line in told(name, cases, rows):
            print(line, flush=True)
    print(f"\n{report['failed']} cases failed; the whole report is {out}")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
