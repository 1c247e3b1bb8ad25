"""A camera for tests: GStreamer's RTSP server in a process of its own, on loopback."""

from __future__ import annotations

import json
import os
import queue
import signal
import struct
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.bitstream import BitStreamFilterContext

PYTHON = "/usr/bin/python3"  # Debian's: PyGObject is not in a virtual environment
SERVER = Path(__file__).with_name("gst_server.py")
PATIENCE = 30.0  # s for the server to start or to answer
SQUARE, BITS, CHECK = 16, 48, 6  # as in gst_server.py
ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
CODECS = {"hevc": "h265", "pcm_mulaw": "pcmu"}
PROBE = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
missing = [n for n in "x264enc rtph264pay appsrc".split() if not Gst.ElementFactory.find(n)]
assert not missing, f"no {missing}"
"""


@dataclass(frozen=True)
class Mount:
    """What one path of a camera plays.

    kind: "pattern" (videotestsrc), "clock" (grey, the time in the top rows for `read_clock`, and
    a pure red square, width / 8 px wide, top at height / 2, that moves by width / 16 px a frame),
    or "file", looped. codec, audio: of what is encoded here; a file brings its own (h264, h265,
    mjpeg; aac, opus, pcmu). gop: s between keyframes. width: a multiple of 32, 128 or more.
    """

    kind: Literal["pattern", "clock", "file"] = "pattern"
    codec: Literal["h264", "h265", "mjpeg"] = "h264"
    audio: Literal["aac", "opus", "pcmu"] | None = None
    width: int = 640
    height: int = 360
    fps: int = 10
    gop: float = 1.0
    pattern: str = "ball"
    path: Path | None = None
    sound: bool = True  # of a file: whether to play it
    shared: bool = False


@cache
def missing_gstreamer() -> str | None:
    """Why no camera can be started here; None if one can."""
    try:
        done = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, text=True, timeout=60)
    except OSError as error:
        return f"needs GStreamer's RTSP server for {PYTHON}: {error}"
    if done.returncode:
        return f"needs GStreamer's RTSP server for {PYTHON}: {done.stderr.strip()[-200:]}"
    return None


def require_gstreamer() -> None:
    """Skip the test where there is no GStreamer, and fail it there in CI."""
    if why := missing_gstreamer():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


class Camera:
    """A running RTSP server; a context manager.

    mounts: by path, as {"/one": Mount("clock")}. user, password, auth: asked from all clients.
    tls: rtsps:// with a certificate that nobody has signed.
    """

    def __init__(
        self,
        mounts: Mapping[str, Mount],
        *,
        user: str = "",
        password: str = "",
        auth: Literal["basic", "digest"] = "basic",
        tls: bool = False,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="camera-")
        self.mounts = dict(mounts)
        self._said: dict[str, Any] = {"user": user, "password": password, "auth": auth}
        self._said["certificate"] = str(self._certificate()) if tls else ""
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def url(self, path: str, *, user: str | None = None, password: str | None = None) -> str:
        """The address of a path, with the camera's own user and password if none are given."""
        user = self._said["user"] if user is None else user
        password = self._said["password"] if password is None else password
        login = f"{user}:{quote(password, safe='')}@" if user else ""
        scheme = "rtsps" if self._said["certificate"] else "rtsp"
        return f"{scheme}://{login}127.0.0.1:{self.port}{path}"

    def kill(self) -> None:
        """The power goes: connections are reset, the port is closed."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(PATIENCE)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def restart(self) -> None:
        """After `kill`: the same port and mounts again."""
        self.kill()
        said = {
            **self._said,
            "port": self.port,
            "mounts": {path: self._spec(path, mount) for path, mount in self.mounts.items()},
        }
        with (Path(self._folder.name) / "log").open("a") as log:
            self._process = subprocess.Popen(
                [PYTHON, str(SERVER), json.dumps(said)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )
        self._answers = queue.Queue()
        threading.Thread(
            target=_listen, args=(self._process.stdout, self._answers), daemon=True
        ).start()
        self.port = self._answer()["port"]

    def pause(self) -> None:
        """It hangs: connections stay open, and nothing comes."""
        assert self._process is not None, "it is not running"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None, "it is not running"
        self._process.send_signal(signal.SIGCONT)

    def switch(self, path: str, mount: Mount) -> None:
        """From now on play something else at a path; connections are ended, as a camera does."""
        self.mounts[path] = mount
        self._ask("mount", path, self._spec(path, mount))
        self.drop()

    def remove(self, path: str) -> None:
        """From now on the path is not found; connections go on."""
        del self.mounts[path]
        self._ask("remove", path)

    def resize(self, path: str, width: int, height: int) -> None:
        """Change the size of a "clock" within its connections."""
        self._ask("resize", path, width, height)

    def drop(self) -> int:
        """End all connections; how many there were."""
        return int(self._ask("drop"))

    def clients(self) -> int:
        """How many connections there are."""
        return int(self._ask("clients"))

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()

    def _ask(self, *words: Any) -> Any:
        assert self._process is not None, "it is not running"
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def _answer(self) -> dict[str, Any]:
        line = self._answers.get(timeout=PATIENCE)
        log = Path(self._folder.name) / "log"
        assert line, f"the camera ended: {log.read_text()[-2000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _spec(self, path: str, mount: Mount) -> dict[str, Any]:
        spec = {**asdict(mount), "path": str(mount.path)}
        if mount.kind == "file":
            assert mount.path is not None, f"{path}: a file has a path"
            units = Path(self._folder.name) / f"units-{path.strip('/')}"
            spec |= _write_units(mount.path, units, sound=mount.sound)
        return spec

    def _certificate(self) -> Path:
        path = Path(self._folder.name) / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=127.0.0.1"]
        subprocess.run(
            [*command, "-keyout", str(path), "-out", f"{path}.crt"], check=True, capture_output=True
        )
        with path.open("a") as file:
            file.write(Path(f"{path}.crt").read_text())
        return path


def _listen(pipe: Any, answers: queue.Queue[str]) -> None:
    """Hand on what the server says; an empty line at its end."""
    try:
        for line in pipe:
            answers.put(line)
    except ValueError:  # closed by kill
        pass
    answers.put("")


def _write_units(path: Path, target: Path, *, sound: bool) -> dict[str, Any]:
    """Take a file apart for gst_server.read_units; what the server must know of it."""
    with av.open(str(path)) as source, target.open("wb") as file:
        video = source.streams.video[0]
        audio = source.streams.audio[0] if sound and source.streams.audio else None
        name = video.codec_context.codec.canonical_name
        unpack = BitStreamFilterContext(ANNEX_B[name], video) if name in ANNEX_B else None
        units: list[tuple[int, bytes]] = []
        end = 0
        for packet in source.demux([video, audio] if audio else [video]):
            if packet.pts is None or packet.dts is None:
                continue
            is_video = packet.stream is video
            tick = packet.time_base * 10**9  # ns; the filter takes the packet's own
            for part in unpack.filter(packet) if unpack and is_video else [packet]:
                assert part.pts is not None
                assert part.dts is not None
                pts, dts = (round(t * tick) for t in (part.pts, part.dts))
                data = bytes(part)
                head = struct.pack("<BBqqI", not is_video, part.is_keyframe, pts, dts, len(data))
                units.append((dts, head + data))
                if is_video:
                    end = max(end, pts + round((part.duration or 0) * tick))
        for _, unit in sorted(units, key=lambda unit: unit[0]):
            file.write(unit)
        heard = audio.codec_context if audio else None
        return {
            "units": str(target),
            "duration": end,
            "codec": CODECS.get(name, name),
            "audio": heard and CODECS.get(heard.name, heard.name),
            "sound": {
                "rate": heard.sample_rate if heard else 0,
                "channels": heard.layout.nb_channels if heard else 0,
                "extradata": (heard.extradata or b"").hex() if heard else "",
            },
        }


def read_clock(rgb: npt.NDArray[np.uint8]) -> float:
    """When a frame of a "clock" was made, s since 1970, to the millisecond.

    rgb: (height, width, 3) or the luma alone, in the size that the camera sent. Raises ValueError
    where the digits do not agree with their check.
    """
    per_row = rgb.shape[1] // SQUARE
    top = rgb[: -(-BITS // per_row) * SQUARE]
    grey = top.mean(axis=2) if top.ndim == 3 else top
    value = 0
    for bit in range(BITS):
        y, x = bit // per_row * SQUARE, bit % per_row * SQUARE
        value = value << 1 | bool(grey[y + 4 : y + 12, x + 4 : x + 12].mean() > 127)
    now_ms, check = value >> CHECK, value & (1 << CHECK) - 1
    if check != sum(map(int, str(now_ms))) % (1 << CHECK):
        raise ValueError("this frame carries no clock")
    return now_ms / 1000
