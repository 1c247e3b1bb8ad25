"""An RTSP server that takes streams (ANNOUNCE, RECORD), for the system's Python, which has
GStreamer.

Arguments: port (0: any), file for the video as it came (H.264, Annex B; one more for each
connection: FILE.0, FILE.1 …), user and password ("" for none). Prints JSON, line by line: the
port, then of each picture or sound [connection, kind, pts in ns, bytes]. The end of stdin ends it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

VIDEO = (
    "rtph264depay name=depay0 ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=au "
    "! appsink name=video emit-signals=true sync=false"
)
AUDIO = " rtpmp4gdepay name=depay1 ! appsink name=audio emit-signals=true sync=false"


def main(port: str, path: str, sound: str, user: str, password: str) -> None:
    Gst.init(None)
    lock = threading.Lock()
    connections = itertools.count()
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.set_launch(f"( {VIDEO}{AUDIO if sound == 'sound' else ''} )")
    if user:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        for what in ("access", "construct"):
            permissions.add_permission_for_role("user", f"media.factory.{what}", True)
        factory.set_permissions(permissions)

    def arrived(sink: Any, number: int, kind: str, file: Any) -> Any:
        buffer = sink.emit("pull-sample").get_buffer()
        data = buffer.extract_dup(0, buffer.get_size())
        with lock:
            if kind == "video":
                file.write(data)
                file.flush()
            print(json.dumps([number, kind, buffer.pts, len(data)]), flush=True)
        return Gst.FlowReturn.OK

    def configure(_: Any, media: Any) -> None:
        number = next(connections)
        file = open(f"{path}.{number}", "wb")  # noqa: SIM115
        for kind in ("video", "audio"):
            sink = media.get_element().get_by_name(kind)
            if sink is not None:
                sink.connect("new-sample", arrived, number, kind, file)

    factory.connect("media-configure", configure)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print(json.dumps(server.get_bound_port()), flush=True)

    def listen() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    GLib.MainLoop().run()


main(*sys.argv[1:])
