"""Damaged files end in frames or in a VidaiError, never in another exception."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.media import make_clip
from tests.test_encode_mux import convert
from vidai.device import Device
from vidai.devices.cpu.codecs import CpuDecoder
from vidai.errors import DecodeError, VidaiError
from vidai.sources.file import FileSource

CLIPS = [
    ("mp4", "libx264", "aac"),
    ("mp4", "libx265", None),
    ("mp4", "libsvtav1", None),
    ("mkv", "libx264", "flac"),
    ("mkv", "libvpx-vp9", "libopus"),
    ("ts", "libx264", "aac"),
    ("ts", "mpeg2video", "mp2"),
    ("avi", "mpeg4", "libmp3lame"),
    ("avi", "mjpeg", "pcm_s16le"),
    ("mov", "mjpeg", None),
]
MUTATIONS = 30


def small_clip(folder: Path, suffix: str, codec: str, audio: str | None) -> Path:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = folder / f"clip.{suffix}"
    return make_clip(path, codec=codec, audio=audio, frames=8, pix_fmt=pix_fmt)


def decode_all(path: Path, device: Device) -> tuple[int, int, str | None]:
    """(frames, damaged, damage) of a file, as far as it goes."""
    with FileSource(path) as source:
        decoder = CpuDecoder(device, source.video, source.info)
        count = 0
        for packet in source.packets():
            if packet.stream is source.video:
                count += len(decoder.decode(packet))
        count += len(decoder.decode(None))
        return count, decoder.damaged + source.damaged, source.damage


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The data with flipped bytes, a lost or repeated part, or its end missing."""
    kind = rng.integers(5)
    array = bytearray(data)
    if kind == 0:
        return data[: rng.integers(1, len(data))]
    if kind in (1, 2):
        for at in rng.integers(0, len(array), rng.choice([1, 5, 50, 500])):
            array[at] ^= int(rng.integers(1, 256))
        return bytes(array)
    first, size = rng.integers(len(array)), rng.integers(1, 400)
    if kind == 3:
        del array[first : first + size]
    else:
        array[first:first] = array[first : first + size]
    return bytes(array)


@pytest.mark.parametrize(("suffix", "codec", "audio"), CLIPS)
def test_damage_never_escapes(
    suffix: str, codec: str, audio: str | None, device: Device, tmp_path: Path
) -> None:
    clip = small_clip(tmp_path, suffix, codec, audio)
    data = clip.read_bytes()
    rng = np.random.default_rng(sum(map(ord, suffix + codec)))
    path = tmp_path / f"damaged.{suffix}"
    survived, refused = 0, list[str]()
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(data, rng))
        try:
            survived += decode_all(path, device)[0] > 0
        except VidaiError as error:
            refused.append(str(error))
    assert survived > 1
    assert all(str(path) in sentence for sentence in refused)


@pytest.mark.parametrize(("suffix", "codec", "audio"), CLIPS[::3])
def test_damage_passes_to_the_output_or_is_told(
    suffix: str, codec: str, audio: str | None, device: Device, tmp_path: Path
) -> None:
    clip = small_clip(tmp_path, suffix, codec, audio)
    data = clip.read_bytes()
    rng = np.random.default_rng(7)
    path, out = tmp_path / f"damaged.{suffix}", tmp_path / "out.mkv"
    written = 0
    for _ in range(15):
        path.write_bytes(mutated(data, rng))
        out.unlink(missing_ok=True)
        try:
            convert(path, out, device)
            written += 1
            assert out.stat().st_size > 0
        except VidaiError:
            assert not out.exists()
        assert not list(tmp_path.glob(".*"))
    assert written > 1


def test_a_file_that_ends_early_is_told(device: Device, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=40, container_options={"movflags": "+faststart"})
    assert decode_all(clip, device) == (40, 0, None)
    data = clip.read_bytes()
    short = tmp_path / "short.mp4"
    short.write_bytes(data[: len(data) * 2 // 3])
    frames, damaged, damage = decode_all(short, device)
    assert 0 < frames < 40
    assert damaged > 0
    assert damage is not None
    assert "ends early" in damage


def test_an_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4").read_bytes()
    path = tmp_path / "short.mp4"
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(DecodeError, match="damaged"):
        FileSource(path)


def test_damaged_packets_are_counted_and_the_rest_is_decoded(
    device: Device, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=40, options={"g": "5", "bf": "0"})
    with FileSource(clip) as source:
        decoder = CpuDecoder(device, source.video, source.info)
        count = 0
        for number, packet in enumerate(source.packets()):
            if number == 20:
                packet.update(b"\xff" * packet.size)
            count += len(decoder.decode(packet))
        count += len(decoder.decode(None))
    assert decoder.damaged > 0
    assert 30 <= count < 40
