"""An RTSP server of test streams, for the system's Python: the only one that has GStreamer.

Started by tests.live.camera, which says in one JSON argument what to serve and then gives
commands, JSON line by line, on stdin; every one is answered by a line on stdout. The end of
stdin ends the server.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import (  # noqa: E402
    Gio,
    GLib,
    Gst,
    GstRtsp,
    GstRtspServer,
)

SQUARE = 16  # px of a bit of the clock
BITS = 48
CHECK = 6  # of them, the lowest: the sum of the digits of the rest
RED = (81, 90, 240)  # Y, U, V

VIDEO = {  # encoder, parser and payloader
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast bitrate=2000 key-int-max={gop} "
    "! video/x-h264,profile=constrained-baseline",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast bitrate=2000 key-int-max={gop}",
    "mjpeg": "jpegenc quality=90",
}
PAY = {
    "h264": "h264parse config-interval=-1 ! video/x-h264,alignment=au "
    "! rtph264pay aggregate-mode=zero-latency",
    "h265": "h265parse config-interval=-1 ! video/x-h265,alignment=au "
    "! rtph265pay aggregate-mode=zero-latency",
    "mjpeg": "rtpjpegpay",
    "aac": "rtpmp4gpay",
    "opus": "rtpopuspay",
    "pcmu": "rtppcmupay",
}
AUDIO = {
    "aac": "voaacenc bitrate=64000",
    "opus": "audioresample ! audio/x-raw,rate=48000 ! opusenc",
    "pcmu": "audioresample ! audio/x-raw,rate=8000,channels=1 ! mulawenc",
}
CAPS = {
    "h264": "video/x-h264,stream-format=byte-stream,alignment=au",
    "h265": "video/x-h265,stream-format=byte-stream,alignment=au",
    "mjpeg": "image/jpeg",
    "aac": "audio/mpeg,mpegversion=4,stream-format=raw,rate={rate},channels={channels},"
    "codec_data=(buffer){extradata}",
    "opus": "audio/x-opus,channel-mapping-family=0,rate={rate},channels={channels}",
    "pcmu": "audio/x-mulaw,rate={rate},channels={channels}",
}


def clock_picture(now_ms: int, number: int, width: int, height: int) -> bytes:
    """I420: the time in the top rows, and a red square that moves to the right below it."""
    luma = bytearray(b"\x80" * (width * height))
    value = now_ms << CHECK | sum(map(int, str(now_ms))) % (1 << CHECK)
    per_row = width // SQUARE
    for row in range((BITS + per_row - 1) // per_row):
        line = bytearray(b"\x10" * width)
        for column in range(min(per_row, BITS - row * per_row)):
            if value >> (BITS - 1 - row * per_row - column) & 1:
                line[column * SQUARE : (column + 1) * SQUARE] = b"\xeb" * SQUARE
        begin = row * SQUARE * width
        luma[begin : begin + SQUARE * width] = line * SQUARE
    chroma = [bytearray(b"\x80" * (width * height // 4)) for _ in range(2)]
    left, top = number % 14 * (width // 16), height // 2
    side = min(width // 8, height - top)
    for plane, value, step in zip((luma, *chroma), RED, (1, 2, 2), strict=True):
        stride = width // step
        for y in range(top // step, (top + side) // step):
            begin = y * stride + left // step
            plane[begin : begin + side // step] = bytes([value]) * (side // step)
    return bytes(luma + chroma[0] + chroma[1])


def read_units(path: str) -> Iterator[tuple[int, int, int, bool, bytes]]:
    """What Camera wrote: kind (0 video, 1 sound), pts and dts in ns, keyframe, bytes."""
    with open(path, "rb") as file:
        while head := file.read(22):
            kind, key, pts, dts, size = struct.unpack("<BBqqI", head)
            yield kind, pts, dts, bool(key), file.read(size)


class Mount:
    """One path of the server: what it plays, in how many pixels, to whom."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.width, self.height = spec["width"], spec["height"]
        self.factory = GstRtspServer.RTSPMediaFactory()
        self.factory.set_launch(f"( {self._launch()} )")
        self.factory.set_shared(spec["shared"])
        self.factory.connect("media-configure", self._begin)

    def _launch(self) -> str:
        spec = self.spec
        gop = max(1, round(spec["fps"] * spec["gop"]))
        pay = f"{PAY[spec['codec']]} name=pay0 pt=96"
        sound = spec["audio"] and f"{PAY[spec['audio']]} name=pay1 pt=97"
        source = "appsrc name={} is-live=true format=time"
        if spec["kind"] == "file":
            launch = f"{source.format('video')} ! {pay}"
            return f"{launch} {source.format('audio')} ! {sound}" if sound else launch
        if spec["kind"] == "clock":
            raw = f"{source.format('video')} do-timestamp=true"
        else:
            raw = f"videotestsrc is-live=true pattern={spec['pattern']} ! " + self._raw_caps()
        launch = f"{raw} ! {VIDEO[spec['codec']].format(gop=gop)} ! {pay}"
        if sound:
            tone = "audiotestsrc name=tone is-live=true ! audioconvert"
            launch += f" {tone} ! {AUDIO[spec['audio']]} ! {sound}"
        return launch

    def _raw_caps(self) -> str:
        return (
            f"video/x-raw,format=I420,width={self.width},height={self.height},"
            f"framerate={self.spec['fps']}/1"
        )

    def _begin(self, factory: Any, media: Any) -> None:
        del factory
        tone = media.get_element().get_by_name("tone")
        if tone is not None:
            # The server would seek in it to begin, and fail with the video beside it.
            kind = Gst.PadProbeType.QUERY_UPSTREAM
            tone.get_static_pad("src").add_probe(kind, _refuse_seeking)
        run = {"clock": self._feed_clock, "file": self._feed_file}.get(self.spec["kind"])
        if run is None:
            return
        element = media.get_element()
        sources = [element.get_by_name(name) for name in ("video", "audio")]
        sources = [source for source in sources if source is not None]
        playing = threading.Event()
        sources[0].connect("need-data", lambda *_: playing.set())
        ended = threading.Event()
        media.connect("unprepared", lambda *_: ended.set())

        def feed() -> None:
            while not playing.wait(0.05):
                if ended.is_set():
                    return
            run(sources, ended)

        threading.Thread(target=feed, daemon=True).start()

    def _feed_clock(self, sources: list[Any], ended: threading.Event) -> None:
        source, number = sources[0], 0
        size = 0, 0
        begin = time.monotonic()
        while not ended.is_set():
            if size != (self.width, self.height):
                size = self.width, self.height
                source.set_property("caps", Gst.Caps.from_string(self._raw_caps()))
            # A camera whose encoder is behind leaves frames out, rather than send them late.
            if source.get_property("current-level-buffers") < 2:
                picture = clock_picture(time.time_ns() // 1_000_000, number, *size)
                buffer = Gst.Buffer.new_wrapped(picture)
                if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                    return
            number += 1
            late = time.monotonic() - begin - number / self.spec["fps"]
            if late > 1:  # after a stop, go on with now
                begin += late
            ended.wait(max(0.0, -late))

    def _feed_file(self, sources: list[Any], ended: threading.Event) -> None:
        for source, codec in zip(sources, (self.spec["codec"], self.spec["audio"]), strict=False):
            caps = CAPS[codec].format(**self.spec["sound"])
            source.set_property("caps", Gst.Caps.from_string(caps))
        element = sources[0]
        origin = max(0, element.get_clock().get_time() - element.get_base_time())
        begin = time.monotonic()
        loop = 0
        while True:
            for kind, pts, dts, key, data in read_units(self.spec["units"]):
                shift = loop * self.spec["duration"]
                if ended.wait(max(0.0, begin + (dts + shift) / 1e9 - time.monotonic())):
                    return
                buffer = Gst.Buffer.new_wrapped(data)
                buffer.pts, buffer.dts = (max(0, origin + t + shift) for t in (pts, dts))
                if not key:
                    buffer.set_flags(Gst.BufferFlags.DELTA_UNIT)
                if sources[kind].emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                    return
            loop += 1


def _refuse_seeking(pad: Any, info: Any) -> Any:
    del pad
    seeking = info.get_query().type == Gst.QueryType.SEEKING
    return Gst.PadProbeReturn.DROP if seeking else Gst.PadProbeReturn.OK


class Server:
    def __init__(self, said: dict[str, Any]) -> None:
        self.server = GstRtspServer.RTSPServer()
        self.server.set_address("127.0.0.1")
        self.server.set_service(str(said["port"]))
        self.server.get_thread_pool().set_max_threads(8)
        self.role: str | None = None
        if said["user"] or said["certificate"]:
            self.server.set_auth(self._auth(said))
        self.mounts: dict[str, Mount] = {}
        for path, spec in said["mounts"].items():
            self.mount(path, spec)
        self.server.attach(None)
        self.port = self.server.get_bound_port()

    def _auth(self, said: dict[str, Any]) -> Any:
        auth = GstRtspServer.RTSPAuth()
        if said["certificate"]:
            auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(said["certificate"]))
        self.role = "viewer"
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", self.role)
        if not said["user"]:
            auth.set_default_token(token)
        elif said["auth"] == "digest":
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(said["user"], said["password"], token)
        else:
            basic = GstRtspServer.RTSPAuth.make_basic(said["user"], said["password"])
            auth.add_basic(basic, token)
        return auth

    def mount(self, path: str, spec: dict[str, Any]) -> None:
        mount = self.mounts[path] = Mount(spec)
        if self.role:
            permissions = GstRtspServer.RTSPPermissions()
            for what in ("access", "construct"):
                permissions.add_permission_for_role(self.role, f"media.factory.{what}", True)
            mount.factory.set_permissions(permissions)
        self.server.get_mount_points().add_factory(path, mount.factory)

    def remove(self, path: str) -> None:
        del self.mounts[path]
        self.server.get_mount_points().remove_factory(path)

    def resize(self, path: str, width: int, height: int) -> None:
        self.mounts[path].width, self.mounts[path].height = width, height

    def drop(self) -> int:
        """Ends all connections; how many there were."""
        dropped: list[Any] = []

        def choose(server: Any, client: Any) -> Any:
            del server
            dropped.append(client)
            return GstRtspServer.RTSPFilterResult.REMOVE

        self.server.client_filter(choose)
        for client in dropped:
            client.close()
        return len(dropped)

    def clients(self) -> int:
        return len(self.server.client_filter(lambda *_: GstRtspServer.RTSPFilterResult.REF))


def main() -> None:
    Gst.init(None)
    server = Server(json.loads(sys.argv[1]))
    commands: dict[str, Callable[..., Any]] = {
        name: getattr(server, name) for name in ("mount", "remove", "resize", "drop", "clients")
    }
    print(json.dumps({"port": server.port}), flush=True)

    def obey(line: str) -> bool:
        name, *words = json.loads(line)
        try:
            answer = {"ok": commands[name](*words)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
        return False

    def listen() -> None:
        for line in sys.stdin:
            GLib.idle_add(obey, line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    GLib.MainLoop().run()


main()
