"""Sends a test picture over SRT, for the system's Python: the only one that has GStreamer.

    gst_srt.py srt://127.0.0.1:5000?mode=listener&passphrase=…

The properties of GStreamer's srtsink are given in the address. Its end is that of stdin.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

PIPELINE = """
videotestsrc is-live=true ! video/x-raw,width=320,height=192,framerate=25/1
! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! h264parse config-interval=-1
! mpegtsmux alignment=7 ! srtsink name=sink wait-for-connection=false
"""

Gst.init(None)
pipeline = Gst.parse_launch(PIPELINE)
pipeline.get_by_name("sink").set_property("uri", sys.argv[1])
pipeline.set_state(Gst.State.PLAYING)
print("started", flush=True)
sys.stdin.read()
pipeline.set_state(Gst.State.NULL)
