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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from tests import simdriver as sim
from tests.media import make_clip, moving_shapes, open_input, planes_of, to_frame

pytestmark = pytest.mark.usefixtures("simulated_driver")

ROOT = Path(__file__).parents[1]
Samples = npt.NDArray[Any]

# Name, encoder, its options, pixel format, width, height, NVDEC's codec.
CLIPS: dict[str, tuple[str, dict[str, str], str, int, int, str]] = {
    "h264.mp4": ("libx264", {}, "yuv420p", 320, 240, "H264"),
    "odd.mp4": ("libx264", {}, "yuv420p", 322, 242, "H264"),
    "hevc.mp4": ("libx265", {}, "yuv420p", 320, 240, "HEVC"),
    "hevc10.mp4": ("libx265", {}, "yuv420p10le", 320, 240, "HEVC"),
    "av1.mp4": ("libsvtav1", {}, "yuv420p", 320, 240, "AV1"),
    "av1_10.mkv": ("libsvtav1", {}, "yuv420p10le", 320, 240, "AV1"),
    "vp9.webm": ("libvpx-vp9", {}, "yuv420p", 321, 241, "VP9"),
}
ANNEX_B = {"H264": "h264_mp4toannexb", "HEVC": "hevc_mp4toannexb"}
FRAMES = 24
FORCE_IDR, IDR = 2, 3  # a flag of NVENC's, and its number of this type of picture


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

    def __init__(self, name: str, latency: str = "NATIVE", **options: int) -> None:
        import PyNvVideoCodec

        self._nvc, self._width, self._height = PyNvVideoCodec, *CLIPS[name][3:5]
        self._whole = latency == "LOW"
        self._stream = options.get("cudastream")
        self._decoder = PyNvVideoCodec.CreateDecoder(
            gpuid=0,
            codec=getattr(PyNvVideoCodec.cudaVideoCodec, CLIPS[name][5]),
            usedevicememory=1,
            latency=getattr(PyNvVideoCodec.DisplayDecodeLatencyType, latency),
            **options,
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
        if self._stream is not None:
            sim.wait(self._stream)
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
            reordered = CLIPS[name][5] in ("H264", "HEVC")
            assert max(delays) >= (latency == "NATIVE") + reordered, (name, latency)
            assert max(delays) <= (latency == "NATIVE") + 4 * reordered, (name, latency)
            assert decoder.decode(*packets[0]) + decoder.flush() == truth[:1]  # and begin again
    counters = sim.counters()
    pictures = 2 * len(CLIPS) * (FRAMES + 1)
    assert counters["nvdec.maps"] == counters["nvdec.unmaps"] == pictures
    assert counters["nvdec.pictures"] >= pictures
    assert not any(kind in ("h2d", "d2h") for kind, *_ in sim.copies())


def hidden_frames_are_not_shown(clips: Path) -> None:
    frame_header = 3 << 3 | 2  # a unit that shows a frame which an earlier packet held, hidden
    assert any(data[0] == frame_header for data, _ in packets_of(clips, "av1.mp4"))

    first, *rest = packets_of(clips, "vp9.webm")
    key, shown = first[0], 0x02
    assert key[0] & shown
    hidden, show_it = bytes([key[0] & ~shown]) + key[1:], b"\x88"
    marker = bytes([0xC0 | 3 << 3 | 1])  # four bytes for each size, two frames
    index = b"".join(len(frame).to_bytes(4, "little") for frame in (hidden, show_it))
    superframe = hidden + show_it + marker + index + marker
    truth = truth_of(clips / "vp9.webm")
    assert Nvdec("vp9.webm").all([(superframe, first[1]), *rest]) == truth
    assert Nvdec("vp9.webm").all([(hidden, -1), (show_it, first[1]), *rest]) == truth


def surfaces_come_and_go_in_stream_order(clips: Path) -> None:
    """On a stream of the caller's, surfaces are unmapped before the copies from them have run."""
    stream = new_stream()
    decoder = Nvdec("h264.mp4", cudastream=int(stream.handle))
    assert decoder.all(packets_of(clips, "h264.mp4")) == truth_of(clips / "h264.mp4")
    del decoder
    stream.close()


def a_change_of_size_begins_a_sequence(clips: Path) -> None:
    import PyNvVideoCodec

    for small in ("h264.mp4", "av1.mp4", "vp9.webm"):
        with TemporaryDirectory() as folder:
            large = Path(folder) / small
            make_clip(large, codec=CLIPS[small][0], width=352, height=288, frames=6)
            first, second = packets_of(clips, small), packets_of(large.parent, small)
            truth = truth_of(large)
        decoder = Nvdec(small, maxwidth=640, maxheight=480)
        assert decoder.all(first) == truth_of(clips / small)
        reconfigured = sim.calls().get("cuvidReconfigureDecoder", 0)
        decoder.resize(352, 288)
        assert decoder.all(second) == truth, small
        assert sim.calls()["cuvidReconfigureDecoder"] == reconfigured + 1
        if small != "vp9.webm":  # which it takes without a word, and shows in the old size
            with pytest.raises(PyNvVideoCodec.PyNvVCException, match="maxwidth"):
                Nvdec(small).all(first + second)


def damage_ends_in_pictures_or_an_error(clips: Path) -> None:
    import PyNvVideoCodec

    rng = np.random.default_rng(5)
    for name in CLIPS:
        for trial in range(4):
            decoder = Nvdec(name, ("NATIVE", "LOW")[trial % 2])
            try:
                pictures = decoder.all(_damaged(packets_of(clips, name), rng))
            except (
                PyNvVideoCodec.PyNvVCException,
                PyNvVideoCodec.PyNvVCExceptionUnsupported,
            ):
                continue
            assert len(pictures) <= FRAMES
        assert Nvdec(name).all(packets_of(clips, name)) == truth_of(clips / name)


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
    import PyNvVideoCodec

    packets = packets_of(clips, "h264.mp4")
    for function, code in (
        ("cuvidDecodePicture", "999"),
        ("cuvidMapVideoFrame64", "205"),
        ("cuvidParseVideoData", "1"),
    ):
        sim.fault(f"{function}:3:{code}")
        decoder = Nvdec("h264.mp4")
        with pytest.raises(PyNvVideoCodec.PyNvVCException, match=code):
            decoder.all(packets)
        sim.fault("")
        decoder.flush()
        del decoder
        assert Nvdec("h264.mp4").all(packets) == truth_of(clips / "h264.mp4")
    sim.fault("cuvidCreateDecoder:1:2")
    with pytest.raises(PyNvVideoCodec.PyNvVCException, match="2"):
        Nvdec("h264.mp4").all(packets)
    sim.fault("cuvidGetDecodeStatus.status:2:8")
    assert len(Nvdec("h264.mp4").all(packets)) == FRAMES  # printed, and delivered
    sim.fault("")


# ---- encoding


def new_stream() -> Any:
    from cuda.core import Device, StreamOptions

    device = Device(0)
    device.set_current()
    return device.create_stream(options=StreamOptions(nonblocking=True))


class Plane:
    """A view of device memory for PyNvVideoCodec."""

    def __init__(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], item: int
    ) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "strides": strides,
            "data": (address, False),
            "typestr": f"|u{item}",
            "version": 3,
        }


class Nvenc:
    """An encoder of PyNvVideoCodec that is given pictures on a stream of its own."""

    def __init__(self, codec: str, ten_bit: bool, width: int, height: int, **options: Any) -> None:
        import PyNvVideoCodec

        self._wide, self._width, self._height = ten_bit, width, height
        self._stream = new_stream()
        handle = int(self._stream.handle)
        picture = width * height * 3 // 2 * (1 + ten_bit)
        self._buffer = self._stream.device.allocate(picture, stream=self._stream)
        self._encoder = PyNvVideoCodec.CreateEncoder(
            *(width, height, "P010" if ten_bit else "NV12", False),
            **{"codec": codec, "cudastream": handle, "use_ivf_container": 0, **options},
        )

    def encode(self, picture: Samples, flags: int = 0) -> list[dict[str, Any]]:
        address, item = int(self._buffer.handle), 1 + self._wide
        sim.write(int(self._stream.handle), address, picture)
        width, height = self._width, self._height
        luma, chroma = (height, width, 1), (height // 2, width // 2, 2)
        # Of 10 bits it demands other strides than such planes have.
        strides = (width * item, item, 1), (width * item, 2, 1)
        planes = (
            Plane(address, luma, strides[0], item),
            Plane(address + width * height * item, chroma, strides[1], item),
        )

        class Input:
            def cuda(self) -> tuple[Plane, Plane]:
                return planes

        return list(self._encoder.Encode(Input(), flags))

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


def decoded_by_pyav(codec: str, packets: list[dict[str, Any]]) -> list[av.VideoFrame]:
    decoder: Any = av.CodecContext.create("libdav1d" if codec == "av1" else codec, "r")
    frames: list[av.VideoFrame] = []
    for packet in packets:
        frames += decoder.decode(av.Packet(bytes(packet["data"])))
    return frames + list(decoder.decode(None))


def psnr(a: Samples, b: Samples, peak: int) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
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
            packets += encoder.encode(picture, flags=FORCE_IDR if index == 7 else 0)
            assert len(packets) >= index + 1 - (b_frames + 3)
        packets += encoder.finish()
        encoder.close()
        order = [packet["timestamp"] for packet in packets]
        assert sorted(order) == list(range(frames))
        assert (order == sorted(order)) == (b_frames == 0)
        keys = [p["timestamp"] for p in packets if p["picture_type"] == IDR]
        assert keys == [0, 7]

        decoded = decoded_by_pyav(codec, packets)
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
    import PyNvVideoCodec

    encoder = Nvenc("h264", False, 320, 240, bf=0)
    sim.fault("nvEncEncodePicture:2:10")
    picture = picture_to_encode(0, 320, 240, False)
    encoder.encode(picture)
    with pytest.raises(PyNvVideoCodec.PyNvVCException, match="10"):
        encoder.encode(picture)
    sim.fault("")
    encoder.finish()
    encoder.close()
    with pytest.raises(PyNvVideoCodec.PyNvVCException, match="8"):
        Nvenc("h264", False, 144, 64)  # less than NVENC takes


def capabilities_are_those_of_an_l40s(clips: Path) -> None:
    assert decodes("H264", 8) == (3, 4096)
    assert decodes("HEVC", 12) == decodes("HEVC", 8, "444") == (3, 8192)
    assert decodes("AV1", 10) == decodes("VP9", 12) == (3, 8192)
    for codec, depth, chroma in (("H264", 10, "420"), ("HEVC", 8, "422"), ("AV1", 8, "444")):
        assert decodes(codec, depth, chroma) is None

    import PyNvVideoCodec

    h264, hevc, av1 = (PyNvVideoCodec.GetEncoderCaps(0, codec) for codec in ("h264", "hevc", "av1"))
    assert (h264["width_min"], h264["height_min"], h264["width_max"]) == (145, 49, 4096)
    assert [caps["support_10bit_encode"] for caps in (h264, hevc, av1)] == [0, 1, 1]
    assert h264["num_encoder_engines"] == 3


def decodes(codec: str, depth: int, chroma: str = "420") -> tuple[int, int] | None:
    """(engines, largest width), or None."""
    import PyNvVideoCodec

    chroma_format = getattr(PyNvVideoCodec.cudaVideoChromaFormat, chroma)
    caps = PyNvVideoCodec.GetDecoderCaps(
        0, getattr(PyNvVideoCodec.cudaVideoCodec, codec), chroma_format, depth
    )
    return (caps["num_decoder_engines"], caps["width_max"]) if caps["supported"] else None


def another_gpu(clips: Path) -> None:
    """Of the settings no_av1 and nvenc_sessions=1."""
    import PyNvVideoCodec

    assert decodes("AV1", 8) is None
    assert decodes("VP9", 8)
    first = Nvenc("h264", False, 320, 240, bf=0)
    with pytest.raises(PyNvVideoCodec.PyNvVCException, match="Error code : 10"):
        Nvenc("h264", False, 320, 240, bf=0)
    first.close()
    Nvenc("h264", False, 320, 240, bf=0).close()


def no_encoder(clips: Path) -> None:
    import PyNvVideoCodec

    with pytest.raises(PyNvVideoCodec.PyNvVCException, match="Error code : 2"):
        Nvenc("h264", False, 320, 240)


def an_idle_gpu_keeps_order_and_number(clips: Path) -> None:
    for name in CLIPS:
        pictures = Nvdec(name).all(packets_of(clips, name))
        assert [picture.pts for picture in pictures] == [p.pts for p in truth_of(clips / name)]
    for codec, ten_bit in (("h264", False), ("hevc", True), ("av1", False)):
        encoder = Nvenc(codec, ten_bit, 320, 240, bf=0)
        picture = picture_to_encode(0, 320, 240, ten_bit)
        packets = [packet for _ in range(6) for packet in encoder.encode(picture)]
        packets += encoder.finish()
        encoder.close()
        assert [packet["timestamp"] for packet in packets] == list(range(6))
        frames = decoded_by_pyav(codec, packets[-1:])
        assert [(frame.width, frame.height) for frame in frames] == [(320, 240)]  # a key frame


# ---- the processes


@pytest.mark.parametrize("deferred", [0, 1])
def test_nvdec_and_nvenc(clips: Path, deferred: int) -> None:
    """Strict: no sample crosses to the host; deferred: surfaces come and go in stream order."""
    check(
        clips,
        pictures_equal_pyav,
        surfaces_come_and_go_in_stream_order,
        hidden_frames_are_not_shown,
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
