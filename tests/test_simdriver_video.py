"""The simulated NVDEC and NVENC under the unmodified PyNvVideoCodec.

A process can load the driver once, with one set of settings. So the checks are functions of
this file that a fresh process calls, several in a row where their settings are the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from tests import simdriver as sim
from tests.media import make_clip, moving_shapes, open_input, planes_of, to_frame
from tests.simdriver.build import build

ROOT = Path(__file__).parents[1]
Samples = npt.NDArray[Any]

# Name, encoder, its options, pixel format, width, height, NVDEC's codec.
VP9_HIDDEN = {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"}
CLIPS: dict[str, tuple[str, dict[str, str], str, int, int, str]] = {
    "h264.mp4": ("libx264", {}, "yuv420p", 320, 240, "H264"),
    "odd.mp4": ("libx264", {}, "yuv420p", 322, 242, "H264"),
    "hevc.mp4": ("libx265", {}, "yuv420p", 320, 240, "HEVC"),
    "hevc10.mp4": ("libx265", {}, "yuv420p10le", 320, 240, "HEVC"),
    "av1.mp4": ("libsvtav1", {}, "yuv420p", 320, 240, "AV1"),
    "av1_10.mkv": ("libsvtav1", {}, "yuv420p10le", 320, 240, "AV1"),
    "vp9.webm": ("libvpx-vp9", VP9_HIDDEN, "yuv420p", 321, 241, "VP9"),
}
ANNEX_B = {"H264": "h264_mp4toannexb", "HEVC": "hevc_mp4toannexb"}
FRAMES = 24


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    """Where CI runs everything must be there."""
    if find_spec("PyNvVideoCodec") is None and os.environ.get("CI") != "true":
        pytest.skip("PyNvVideoCodec is not installed")
    try:
        build()
    except sim.Missing as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clips."""
    folder = tmp_path_factory.mktemp("clips")
    for name, (codec, options, pix_fmt, width, height, _) in CLIPS.items():
        make_clip(
            folder / name,
            codec=codec,
            pix_fmt=pix_fmt,
            width=width,
            height=height,
            frames=FRAMES,
            options=options,
        )
    return folder


def check(clips: Path, *checks: Callable[[Path], None], **settings: int | str) -> str:
    """Call the checks, one after another, in a new process with these settings of the driver.

    Returns what the process printed.
    """
    names = [each.__name__ for each in checks]
    here = "tests.test_simdriver_video"
    script = f"import {here} as here; here.child({names!r}, {str(clips)!r}, {settings!r})"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VIDAI_SIM_")}
    command = [sys.executable, "-X", "faulthandler", "-c", script]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr
    return result.stdout


def child(names: list[str], clips: str, settings: dict[str, int | str]) -> None:
    """What the new process does; nothing may be left over after each check."""
    sim.load(**settings)
    for name in names:
        sim.reset()
        globals()[name](Path(clips))
        left = sim.counters()
        for what in ("nvdec.sessions", "nvenc.sessions", "nvenc.registered", "memory.live"):
            assert not left.get(what), (name, what, left[what], sim.live())
        assert not [what for what in left if what.startswith("errors.")], (name, left)


# ---- decoding


@dataclass(frozen=True)
class Picture:
    """y and interleaved uv as NVDEC lays them out: 16-bit samples use the upper bits."""

    pts: int
    y: Samples
    uv: Samples

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Picture)
            and self.pts == other.pts
            and np.array_equal(self.y, other.y)
            and np.array_equal(self.uv, other.uv)
        )


class Nvdec:
    """A decoder of PyNvVideoCodec, fed with packets."""

    def __init__(self, name: str, latency: str = "NATIVE", **sizes: int) -> None:
        import PyNvVideoCodec as nvc

        self._nvc, self._width, self._height = nvc, *CLIPS[name][3:5]
        self._whole = latency == "LOW"
        self._decoder = nvc.CreateDecoder(
            gpuid=0,
            codec=getattr(nvc.cudaVideoCodec, CLIPS[name][5]),
            usedevicememory=1,
            latency=getattr(nvc.DisplayDecodeLatencyType, latency),
            **sizes,
        )

    def decode(self, data: bytes, pts: int) -> list[Picture]:
        packet = self._nvc.PacketData()
        memory = np.frombuffer(data, np.uint8)
        packet.bsl_data, packet.bsl, packet.pts = memory.ctypes.data, memory.size, pts
        if self._whole:
            packet.decode_flag = self._nvc.VideoPacketFlag.ENDOFPICTURE
        return [self._read(frame) for frame in self._decoder.Decode(packet)]

    def flush(self) -> list[Picture]:
        return [self._read(frame) for frame in self._decoder.Decode(self._nvc.PacketData())]

    def resize(self, width: int, height: int) -> None:
        """What the next sequence header will say."""
        self._decoder.setReconfigParams(width, height)
        self._width, self._height = width, height

    def all(self, packets: Iterable[tuple[bytes, int]]) -> list[Picture]:
        pictures = [picture for packet in packets for picture in self.decode(*packet)]
        return pictures + self.flush()

    def _read(self, frame: Any) -> Picture:
        wide = frame.format == self._nvc.Pixel_Format.P016
        dtype = np.dtype(np.uint16 if wide else np.uint8)
        width, height = self._width, self._height
        row = width + width % 2  # frames are packed, and as wide as their chroma
        base, size = frame.GetPtrToPlane(0), row * height * dtype.itemsize
        y = sim.read(base, (height, row), dtype)[:, :width]
        return Picture(frame.getPTS(), y, sim.read(base + size, ((height + 1) // 2, row), dtype))


def packets_of(clips: Path, name: str) -> list[tuple[bytes, int]]:
    """(bytes as NVDEC takes them, pts) of each packet."""
    with open_input(clips / name) as container:
        stream = container.streams.video[0]
        converter = ANNEX_B.get(CLIPS[name][5])
        bsf = av.BitStreamFilterContext(converter, stream) if converter else None
        packets = [packet for packet in container.demux(stream) if packet.size]
        if bsf is not None:
            packets = [out for packet in packets for out in bsf.filter(packet)]
        return [(bytes(packet), int(packet.pts or 0)) for packet in packets]


@cache
def truth_of(path: Path) -> list[Picture]:
    """PyAV's own decode."""
    pictures = []
    with open_input(path) as container:
        for frame in container.decode(video=0):
            y, u, v = planes_of(frame)
            shift = 16 - frame.format.components[0].bits if y.itemsize == 2 else 0
            uv = np.stack([u, v], axis=-1).reshape(len(u), -1)
            pictures.append(Picture(int(frame.pts or 0), y << shift, uv << shift))
    return pictures


def pictures_equal_pyav(clips: Path) -> None:
    for name in CLIPS:
        packets, truth = packets_of(clips, name), truth_of(clips / name)
        assert len(truth) == FRAMES
        for latency in ("NATIVE", "LOW"):
            decoder = Nvdec(name, latency)
            found, delays = [], []
            for index, packet in enumerate(packets):
                found += decoder.decode(*packet)
                delays.append(index + 1 - len(found))
            found += decoder.flush()
            assert found == truth, (name, latency)
            hidden = {"vp9.webm": 1}.get(name, 0)
            reordered = CLIPS[name][5] in ("H264", "HEVC")
            assert max(delays) >= (latency == "NATIVE") + reordered, (name, latency)
            assert max(delays) <= (latency == "NATIVE") + hidden + 4 * reordered, (name, latency)
            assert decoder.decode(*packets[0]) + decoder.flush() == truth[:1]  # and begin again
    counters = sim.counters()
    pictures = 2 * len(CLIPS) * (FRAMES + 1)
    assert counters["nvdec.maps"] == counters["nvdec.unmaps"] == pictures
    assert counters["nvdec.pictures"] >= pictures
    assert not any(kind in ("h2d", "d2h") for kind, *_ in sim.copies())


def the_clips_are_what_they_should_be(clips: Path) -> None:
    """Hidden frames and reordering are there to be got right."""
    superframes = [data for data, _ in packets_of(clips, "vp9.webm") if data[-1] & 0xE0 == 0xC0]
    assert superframes
    frame_header = 3 << 3 | 2  # a unit that shows a frame which an earlier packet held, hidden
    assert any(data[0] == frame_header for data, _ in packets_of(clips, "av1.mp4"))
    times = [pts for _, pts in packets_of(clips, "h264.mp4")]
    assert times != sorted(times)


def a_change_of_size_begins_a_sequence(clips: Path) -> None:
    import PyNvVideoCodec as nvc

    for codec, small in (("libx264", "h264.mp4"), ("libsvtav1", "av1.mp4"), ("libvpx-vp9", "vp9.webm")):
        with TemporaryDirectory() as folder:
            large = Path(folder) / small
            make_clip(large, codec=codec, width=352, height=288, frames=6)
            first, second = packets_of(clips, small), packets_of(large.parent, small)
            truth = truth_of(large)
        decoder = Nvdec(small, maxwidth=640, maxheight=480)
        assert decoder.all(first) == truth_of(clips / small)
        decoder.resize(352, 288)
        assert decoder.all(second) == truth, small
        assert sim.calls()["cuvidReconfigureDecoder"] == 1
        sim.reset()
        del decoder
        with pytest.raises(nvc.PyNvVCException):  # larger than what the session was made for
            Nvdec(small).all(first + second)


def damage_ends_in_pictures_or_an_error(clips: Path) -> None:
    import PyNvVideoCodec as nvc

    rng = np.random.default_rng(5)
    for name in CLIPS:
        for trial in range(4):
            decoder = Nvdec(name, ("NATIVE", "LOW")[trial % 2])
            try:
                pictures = decoder.all(_damaged(packets_of(clips, name), rng))
            except nvc.PyNvVCException:
                continue
            assert len(pictures) <= FRAMES
            if trial % 2 == 0:
                times = [picture.pts for picture in pictures]
                assert all(a < b for a, b in pairwise(times)) or CLIPS[name][5] == "H264"
            # A sound stream decodes again, whatever came before.
            assert decoder.all(packets_of(clips, name)) == truth_of(clips / name), name


def _damaged(
    packets: list[tuple[bytes, int]], rng: np.random.Generator
) -> Iterable[tuple[bytes, int]]:
    """Some packets with other bytes, some cut short, some lost."""
    for data, pts in packets:
        fate, damaged = rng.random(), np.frombuffer(data, np.uint8).copy()
        if fate < 0.3:
            where = rng.integers(len(damaged), size=rng.integers(1, 20))
            damaged[where] = rng.integers(256, size=len(where))
        elif fate < 0.4:
            damaged = damaged[: rng.integers(1, len(damaged) + 1)]
        if fate < 0.95:
            yield damaged.tobytes(), pts


def faults_of_the_decoder_are_raised(clips: Path) -> None:
    import PyNvVideoCodec as nvc

    packets = packets_of(clips, "h264.mp4")
    for rule in ("cuvidDecodePicture:3:999", "cuvidMapVideoFrame64:2:205", "cuvidParseVideoData:4:1"):
        sim.fault(rule)
        decoder = Nvdec("h264.mp4")
        with pytest.raises(nvc.PyNvVCException, match=rule.split(":")[2]):
            decoder.all(packets)
        sim.fault("")
        decoder.flush()
        del decoder
        assert Nvdec("h264.mp4").all(packets) == truth_of(clips / "h264.mp4")
    sim.fault("cuvidCreateDecoder:1:2")
    with pytest.raises(nvc.PyNvVCException, match="2"):
        Nvdec("h264.mp4").all(packets)
    sim.fault("cuvidGetDecodeStatus.status:2:8")
    assert len(Nvdec("h264.mp4").all(packets)) == FRAMES  # printed, and delivered
    sim.fault("")


# ---- encoding


class Plane:
    """A view of device memory for PyNvVideoCodec."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "strides": strides,
            "data": (address, False),
            "typestr": "|u2" if strides[1] == 2 else "|u1",
            "version": 3,
        }


class Nvenc:
    """An encoder of PyNvVideoCodec that is given pictures on a stream of its own."""

    def __init__(self, codec: str, ten_bit: bool, width: int, height: int, **options: Any) -> None:
        import PyNvVideoCodec as nvc
        from cuda.core import Device, StreamOptions

        self._wide, self._width, self._height = ten_bit, width, height
        device = Device(0)
        device.set_current()
        self._stream = device.create_stream(options=StreamOptions(nonblocking=True))
        handle = int(self._stream.handle)
        picture = width * height * 3 // 2 * (1 + ten_bit)
        self._buffer = device.allocate(picture, stream=self._stream)
        self._encoder = nvc.CreateEncoder(
            *(width, height, "P010" if ten_bit else "NV12", False),
            **{"codec": codec, "cudastream": handle, "use_ivf_container": 0, **options},
        )

    def encode(self, picture: Samples) -> list[dict[str, Any]]:
        address, item = int(self._buffer.handle), 1 + self._wide
        sim.write(int(self._stream.handle), address, picture)
        width, height = self._width, self._height
        luma, chroma = (height, width, 1), (height // 2, width // 2, 2)
        # What it demands of 10 bits differs from what such planes have.
        strides = (width * item, item, 1), (width * item, 2, 1)
        planes = (
            Plane(address, luma, strides[0]),
            Plane(address + width * height * item, chroma, strides[1]),
        )

        class Input:
            def cuda(self) -> tuple[Plane, Plane]:
                return planes

        return list(self._encoder.Encode(Input()))

    def finish(self) -> list[dict[str, Any]]:
        return list(self._encoder.EndEncode())

    def close(self) -> None:
        del self._encoder
        self._buffer.close(self._stream)
        self._stream.sync()
        self._stream.close()


def picture_to_encode(index: int, width: int, height: int, ten_bit: bool) -> Samples:
    """NV12 or P010, one below the other."""
    pix_fmt = "yuv420p10le" if ten_bit else "yuv420p"
    y, u, v = planes_of(to_frame(moving_shapes(index, width, height), pix_fmt))
    samples = np.concatenate([y, np.stack([u, v], axis=-1).reshape(height // 2, width)])
    return samples << 6 if ten_bit else samples


def psnr(a: Samples, b: Samples, peak: int) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(peak**2 / max(error, 1e-9)))


def encoded_pictures_resemble_their_inputs(clips: Path) -> None:
    """And each packet comes in coding order, as late as NVENC's B-frames allow."""
    width, height, frames = 320, 240, 12
    expected: list[list[Any]] = []
    for codec, ten_bit, b_frames in (
        *(("h264", False, 0), ("h264", False, 2), ("hevc", False, 0)),
        *(("hevc", True, 0), ("av1", False, 0), ("av1", True, 0)),
    ):
        encoder = Nvenc(codec, ten_bit, width, height, bf=b_frames)
        packets, inputs = [], []
        for index in range(frames):
            picture = picture_to_encode(index, width, height, ten_bit)
            inputs.append(picture >> 6 if ten_bit else picture)
            crc = zlib.crc32(picture.tobytes())
            expected.append([index, width, height, "P010" if ten_bit else "NV12", crc])
            packets += encoder.encode(picture)
            assert len(packets) >= index + 1 - (b_frames + 3)
        packets += encoder.finish()
        encoder.close()
        order = [packet["timestamp"] for packet in packets]
        assert sorted(order) == list(range(frames))
        assert (order == sorted(order)) == (b_frames == 0)
        assert packets[0]["picture_type"] == 3  # a key frame

        decoder = av.CodecContext.create("libdav1d" if codec == "av1" else codec, "r")
        decoded: list[Any] = []
        for packet in packets:
            decoded += decoder.decode(av.Packet(bytes(packet["data"])))
        decoded += decoder.decode(None)
        assert len(decoded) == frames
        for frame, wanted in zip(decoded, inputs, strict=True):
            y, u, v = planes_of(frame)
            uv = np.stack([u, v], axis=-1).reshape(height // 2, width)
            assert psnr(np.concatenate([y, uv]), wanted, 1023 if ten_bit else 255) > 35
    counters = sim.counters()
    assert counters["nvenc.pictures"] == counters["nvenc.packets"] == len(expected)
    assert kept_inputs() == expected


def kept_inputs() -> list[list[Any]]:
    """What NVENC was given, without the number of the session."""
    return [list(row[1:]) for row in sim.encoded_pictures()]


def faults_of_the_encoder_are_raised(clips: Path) -> None:
    import PyNvVideoCodec as nvc

    encoder = Nvenc("h264", False, 320, 240, bf=0)
    sim.fault("nvEncEncodePicture:2:10")
    picture = picture_to_encode(0, 320, 240, False)
    encoder.encode(picture)
    with pytest.raises(nvc.PyNvVCException, match="10"):
        encoder.encode(picture)
    sim.fault("")
    encoder.finish()
    encoder.close()
    with pytest.raises(nvc.PyNvVCException, match="8"):
        Nvenc("h264", False, 144, 64)  # less than NVENC takes


def capabilities_are_those_of_an_l40s(clips: Path) -> None:
    assert decodes("H264", 8) == (3, 4096)
    assert decodes("HEVC", 12) == decodes("HEVC", 8, "444") == (3, 8192)
    assert decodes("AV1", 10) == decodes("VP9", 12) == (3, 8192)
    for codec, depth, chroma in (("H264", 10, "420"), ("HEVC", 8, "422"), ("AV1", 8, "444")):
        assert decodes(codec, depth, chroma) is None

    import PyNvVideoCodec as nvc

    h264, hevc, av1 = (nvc.GetEncoderCaps(0, codec) for codec in ("h264", "hevc", "av1"))
    assert (h264["width_min"], h264["height_min"], h264["width_max"]) == (145, 49, 4096)
    assert [caps["support_10bit_encode"] for caps in (h264, hevc, av1)] == [0, 1, 1]
    assert h264["num_encoder_engines"] == 3


def decodes(codec: str, depth: int, chroma: str = "420") -> tuple[int, int] | None:
    """(engines, largest width), or None."""
    import PyNvVideoCodec as nvc

    chroma_format = getattr(nvc.cudaVideoChromaFormat, chroma)
    caps = nvc.GetDecoderCaps(0, getattr(nvc.cudaVideoCodec, codec), chroma_format, depth)
    return (caps["num_decoder_engines"], caps["width_max"]) if caps["supported"] else None


def another_gpu(clips: Path) -> None:
    """Of the settings no_av1 and nvenc_sessions=1."""
    import PyNvVideoCodec as nvc

    assert decodes("AV1", 8) is None
    assert decodes("VP9", 8)
    first = Nvenc("h264", False, 320, 240, bf=0)
    with pytest.raises(nvc.PyNvVCException, match="Error code : 10"):
        Nvenc("h264", False, 320, 240, bf=0)
    first.close()
    Nvenc("h264", False, 320, 240, bf=0).close()


def no_encoder(clips: Path) -> None:
    import PyNvVideoCodec as nvc

    with pytest.raises(nvc.PyNvVCException, match="Error code : 2"):
        Nvenc("h264", False, 320, 240)


def an_idle_gpu_keeps_order_and_number(clips: Path) -> None:
    for name in CLIPS:
        pictures = Nvdec(name).all(packets_of(clips, name))
        assert [picture.pts for picture in pictures] == [p.pts for p in truth_of(clips / name)]
        assert all(np.array_equal(picture.y, pictures[0].y) for picture in pictures)
    for codec, ten_bit in (("h264", False), ("hevc", True), ("av1", False)):
        encoder = Nvenc(codec, ten_bit, 320, 240, bf=0)
        picture = picture_to_encode(0, 320, 240, ten_bit)
        packets = [packet for _ in range(6) for packet in encoder.encode(picture)]
        packets += encoder.finish()
        encoder.close()
        assert [packet["timestamp"] for packet in packets] == list(range(6))
        decoder = av.CodecContext.create("libdav1d" if codec == "av1" else codec, "r")
        frames = decoder.decode(av.Packet(bytes(packets[-1]["data"]))) + decoder.decode(None)
        assert [(frame.width, frame.height) for frame in frames] == [(320, 240)]  # a key frame


# ---- the processes


@pytest.mark.parametrize("deferred", [0, 1])
def test_nvdec_and_nvenc(clips: Path, deferred: int) -> None:
    """Strict: no sample crosses to the host; deferred: surfaces come and go in stream order."""
    check(
        clips,
        the_clips_are_what_they_should_be,
        pictures_equal_pyav,
        a_change_of_size_begins_a_sequence,
        encoded_pictures_resemble_their_inputs,
        strict=1,
        deferred=deferred,
        keep_input=1,
    )


def test_damage_and_faults(clips: Path) -> None:
    printed = check(
        clips,
        damage_ends_in_pictures_or_an_error,
        faults_of_the_decoder_are_raised,
        faults_of_the_encoder_are_raised,
        capabilities_are_those_of_an_l40s,
        strict=1,
    )
    assert "Decode Error" in printed


def test_other_gpus(clips: Path) -> None:
    check(clips, another_gpu, no_av1=1, nvenc_sessions=1)
    check(clips, no_encoder, no_nvenc=1)


def test_an_idle_gpu(clips: Path) -> None:
    check(clips, an_idle_gpu_keeps_order_and_number, idle=1)
