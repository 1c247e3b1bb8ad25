"""Reads a camera as a live stream does and prints as JSON what came: python -m …reader ADDRESS."""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
from typing import Any

from vidai.devices.cpu import CpuDevice
from vidai.errors import VidaiError
from vidai.ops.rgb import rgb
from vidai.sources.address import Address
from vidai.sources.live import LiveSource


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--connect-timeout", type=float, default=30.0)
    parser.add_argument("--read-timeout", type=float, default=30.0)
    parser.add_argument("--close-after", type=int, help="frames until another thread closes it")
    arguments = parser.parse_args()
    told: dict[str, Any] = {"packets": [], "frames": [], "error": None}
    try:
        read(arguments, told)
    except VidaiError as error:
        told["error"] = str(error)
    print(json.dumps(told))


def read(arguments: argparse.Namespace, told: dict[str, Any]) -> None:
    kept = []
    with LiveSource(
        Address(arguments.address),
        name="desk",
        connect_timeout=arguments.connect_timeout,
        read_timeout=arguments.read_timeout,
    ) as source:
        info = source.info
        told["size"], told["codec"] = [info.width, info.height], info.codec
        told["pixel_format"], told["fps"] = info.pixel_format, float(info.frame_rate or 0)
        decoder = CpuDevice().decoder(source.video, info, low_delay=True)
        for packet in source.packets():
            kept.append(packet)
            for frame in decoder.decode(packet):
                told["frames"].append([int(value) for value in rgb(frame)[0, 0]])
            assert packet.pts is not None
            told["packets"].append([packet.pts / 1e6, packet.dts == packet.pts, packet.is_keyframe])
            if len(kept) == arguments.close_after:
                threading.Timer(0.2, source.close).start()
            elif len(kept) == arguments.frames:
                break
        told["damaged"] = decoder.damaged
    # What was read is still there when the driver's memory is gone.
    told["hashes"] = [hashlib.sha1(bytes(packet)).hexdigest() for packet in kept]


if __name__ == "__main__":
    main()
