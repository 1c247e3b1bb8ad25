"""What operators see of a worker: its log, its traces, the GPU's figures, what systemd is told."""

from __future__ import annotations

import http.server
import json
import logging
import math
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vidai.errors import ConfigError, SinkError
from vidai.live import logs, telemetry, tracing
from vidai.live.events import Events
from vidai.live.notify import Notifier

ROOT = Path(__file__).parents[1]
TIMEOUT = 30.0  # s, for what ends in a moment unless it hangs


def run_python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A process of its own, for what changes or ends a process."""
    return subprocess.run(
        [sys.executable, "-c", code], text=True, cwd=ROOT, timeout=4 * TIMEOUT, **options
    )


# Logs


@pytest.fixture
def read_log(tmp_path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Logs to a file; calling it ends that and gives the lines."""
    path = tmp_path / "log"
    with path.open("w+", encoding="utf-8") as file:
        lines = logs.configure(file, text=False, level="DEBUG")

        def read() -> list[dict[str, Any]]:
            lines.close()
            return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

        yield read
        lines.close()


@pytest.fixture
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_secrets", {})
    monkeypatch.setattr(logs, "_secret", None)


def test_an_event_is_one_line_of_json(read_log: Callable[[], list[dict[str, Any]]]) -> None:
    events = Events(clock=lambda: 1_700_000_000.5)
    logs.log_events(events)
    before = time.time()
    events.emit("connected", "front is live:\n1280×720", "front", fps=25.0, size=[1280, 720])
    (line,) = read_log()
    told = time.strptime(line.pop("time"), "%Y-%m-%dT%H:%M:%S.%fZ")
    assert abs(time.mktime(told) - time.timezone - before) < TIMEOUT
    assert line == {
        "level": "INFO",
        "logger": "vidai.live",
        "message": "front is live:\n1280×720",
        "stream": "front",
        "event": "connected",
        "data": {"fps": 25.0, "size": [1280, 720]},
    }


def test_levels_tell_trouble_apart(read_log: Callable[[], list[dict[str, Any]]]) -> None:
    events = Events()
    logs.log_events(events)
    for kind in ("lost", "output-failed", "rule", "clip"):
        events.emit(kind, f"about {kind}")
    assert [line["level"] for line in read_log()] == ["WARNING", "WARNING", "INFO", "INFO"]


PASSWORDS = [
    ("rtsp://admin:s3cret@10.0.0.5:554/stream1", "rtsp://admin:***@10.0.0.5:554/stream1"),
    ("no rtsp://admin:p@s/s3cret@10.0.0.5/a answers", "no rtsp://admin:***@10.0.0.5/a answers"),
    ("rtsp://:s3cret@cam, and rtsp://a:s3cret@b", "rtsp://:***@cam, and rtsp://a:***@b"),
    ("http://cam/a.cgi?password=s3cret&channel=1", "http://cam/a.cgi?password=***&channel=1"),
    ("Authorization: Bearer s3cret.abc", "Authorization: Bearer ***"),
    (f"rtsp://a/{'x' * 2000}:s3cret@cam is long", "*** is long"),
    ("'mqtt://u:12s3cret@broker'", "'mqtt://u:***@broker'"),
    # Nothing to hide:
    ("rtsp://10.0.0.5:554/stream1", "rtsp://10.0.0.5:554/stream1"),
    ("http://cam:80, mail a@b", "http://cam:80, mail a@b"),
    ("rtsp://admin@10.0.0.5/x", "rtsp://admin@10.0.0.5/x"),
]


@pytest.mark.parametrize(("said", "written"), PASSWORDS)
def test_passwords_in_addresses_are_not_written(said: str, written: str) -> None:
    assert logs.clean(said) == written


@pytest.mark.usefixtures("_own_secrets")
def test_a_secret_is_hidden_wherever_it_is(read_log: Callable[[], list[dict[str, Any]]]) -> None:
    logs.hide("hüsh/ 1")
    logs.hide("a")  # would hide every a
    logs.hide("")
    logger = logging.getLogger("vidai.test")
    logger.info("it is %s or %r, encoded %s", "hüsh/ 1", {"key": "hüsh/ 1"}, "h%C3%BCsh%2F%201")
    logger.info("data", extra={"data": {"hüsh/ 1": ["hüsh/ 1", Path("/x/hüsh/ 1"), 3]}})
    try:
        try:
            raise OSError("cannot open rtsp://a:other@cam with hüsh/ 1")
        except OSError as error:
            raise SinkError("hüsh/ 1") from error
    except SinkError:
        logger.exception("failed at rtsp://a:other@cam")
    written = read_log()
    assert "hüsh" not in repr(written)
    assert "h%C3" not in repr(written)
    assert "other" not in repr(written)
    assert written[1]["data"] == {"***": ["***", "/x/***", 3]}
    assert "OSError: cannot open rtsp://a:***@cam" in written[2]["error"]


def test_what_repeats_is_counted(read_log: Callable[[], list[dict[str, Any]]]) -> None:
    logger = logging.getLogger("vidai.test")
    for _ in range(313):
        logger.warning("a packet is damaged", extra={"stream": "front"})
    logger.warning("a packet is damaged", extra={"stream": "back"})
    written = read_log()
    assert [(line["stream"], line.get("repeated")) for line in written] == [
        ("front", None),
        ("back", None),
        ("front", 312),
    ]


def test_packages_that_count_their_tries_repeat_themselves(
    read_log: Callable[[], list[dict[str, Any]]],
) -> None:
    for number in range(5):
        logging.getLogger("opentelemetry.x").warning("away, retrying in 1.%02d s", number)
        logging.getLogger("vidai.x").warning("camera %d is away", number)
    written = read_log()
    assert [line.get("repeated") for line in written] == [None] * 6 + [4]


def test_what_repeats_for_hours_is_two_lines_a_minute_at_most() -> None:
    repeats = logs.Repeats()
    written: list[logs.Line] = []
    for second in range(2 * 3600):
        for _ in range(10):
            line = logs.Line(second, "WARNING", "vidai", "damaged")
            if repeats.admits(line, second):
                written.append(line)
        written += repeats.due(second)
    written += repeats.due(math.inf)
    assert len(written) <= 2 * 120
    assert sum(1 for line in written if not line.repeated) <= 121
    repeated = sum(line.repeated for line in written)
    assert repeated + sum(1 for line in written if not line.repeated) == 2 * 3600 * 10


def test_a_flood_of_different_lines_is_cut_and_told() -> None:
    repeats = logs.Repeats()
    written: list[logs.Line] = []
    for number in range(100_000):  # a hundred thousand within 100 s
        now = 5.0 + number / 1000
        line = logs.Line(now, "WARNING", "vidai", f"packet {number} is damaged")
        if repeats.admits(line, now):
            written.append(line)
        written += repeats.due(now)
    written += repeats.due(math.inf)
    told = [re.match(r"(\d+) messages were left out", line.message) for line in written]
    left_out = sum(int(found[1]) for found in told if found)
    assert len(written) - sum(map(bool, told)) + left_out == 100_000
    assert len(written) <= 2 * (logs.BURST + 100 * logs.RATE + 1)


def test_a_log_that_nobody_can_write_raises_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for target in (writing, os.open("/dev/full", os.O_WRONLY)):
        with open(target, "w", encoding="utf-8") as file:
            lines = logs.configure(file)
            for number in range(100):
                logging.getLogger("vidai.test").warning("line %d", number)
            lines.close()  # what could not be written goes to nowhere


def test_a_full_disk_does_not_change_how_a_process_ends() -> None:
    code = (
        "import logging\nfrom vidai.live import logs\nlogs.configure()\n"
        "logging.getLogger('vidai').warning('lost')\n"
    )
    with open("/dev/full", "w") as full:
        assert run_python(code, stderr=full).returncode == 0


def test_a_reader_that_sleeps_holds_nothing_up() -> None:
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as file:
        lines = logs.configure(file)
        for number in range(300):
            logging.getLogger("vidai.test").warning("%d %s", number, "x" * 4000)
        lines.close()  # gives up after a while
        os.close(reading)  # lets the writer go
        lines._thread.join(TIMEOUT)
        assert not lines._thread.is_alive()


def test_lines_for_people_name_the_stream(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+", encoding="utf-8") as file:
        lines = logs.configure(file, text=True)
        for said in ("a is lost", "a: why", "another output has its folder"):
            logging.getLogger("vidai.test").warning(said, extra={"stream": "a", "event": "lost"})
        lines.close()
    told = [line.split(" ", 2)[2] for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    assert told == ["a is lost", "a: why", "a: another output has its folder"]


def test_lines_for_people_cannot_move_the_cursor(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+", encoding="utf-8") as file:
        lines = logs.configure(file, text=True)
        logging.getLogger("vidai.test").warning(
            "name \x1b[2Jof\na camera\r\u2028", extra={"stream": "front", "event": "lost"}
        )
        try:
            raise ValueError("why\x1b[0m")
        except ValueError:
            logging.getLogger("vidai.test").exception("it failed")
        lines.close()
    first, second, *rest = (tmp_path / "log").read_text("utf-8").splitlines()
    assert first.partition(" ")[2] == r"WARNING front: name \x1b[2Jof\na camera\r\u2028"
    assert second.partition(" ")[2] == "ERROR   vidai.test: it failed"
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == r"    ValueError: why\x1b[0m"


def test_other_packages_warn_only_and_threads_that_fail_are_told(
    read_log: Callable[[], list[dict[str, Any]]],
) -> None:
    logging.getLogger("uvicorn.access").info("GET /healthz")
    logging.getLogger("paho").warning("socket closed")
    logging.getLogger("vidai.x").debug("told")

    def fail() -> None:
        raise RuntimeError("at rtsp://a:b@cam")

    thread = threading.Thread(target=fail, name="vidai-test")
    thread.start()
    thread.join(TIMEOUT)
    warning, debug, failed = read_log()
    assert (warning["logger"], debug["message"]) == ("paho", "told")
    assert failed["message"] == "vidai-test ended by an error"
    assert failed["error"].endswith("RuntimeError: at rtsp://a:***@cam\n")


def test_arguments_that_do_not_fit_are_told_as_they_are() -> None:
    record = logging.LogRecord("vidai", logging.INFO, "", 1, "%d at rtsp://a:b@c", ("x",), None)
    assert logs.Line.of(record).message == "%d at rtsp://a:***@c ('x',) (TypeError)"


def test_closing_leaves_logging_as_it_was(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, threading.excepthook, threading.active_count())
    with (tmp_path / "log").open("w") as file:
        logs.configure(file).close()
    after = (root.handlers[:], root.level, threading.excepthook, threading.active_count())
    assert after == before


def test_decoders_may_be_freed_while_their_threads_complain() -> None:
    """Freeing a decoder waits for its threads with the interpreter's lock held, so a thread
    that needed this lock to log its damaged packet would wait for ever."""
    code = """
import random, sys, av
from vidai.live import logs
logs.configure(level="DEBUG")
with av.open("samples/face.mp4") as file:
    video = file.streams.video[0]
    packets = [bytes(p) for p in file.demux(video) if p.size][:24]
    extradata = video.codec_context.extradata
chance = random.Random(1)
for count in list(range(4, 24)) * 2:
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata, decoder.thread_type, decoder.thread_count = extradata, "FRAME", 8
    for whole in packets[:count]:
        damaged = bytearray(whole)
        for _ in range(40):
            damaged[chance.randrange(len(damaged) // 2, len(damaged))] ^= 255
        packet = av.Packet(len(damaged))  # FFmpeg's own memory, as from a camera
        packet.update(bytes(damaged))
        try:
            decoder.decode(packet)
        except av.FFmpegError:
            pass
    del decoder
print("all are free")
"""
    done = run_python(code, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all are free\n", "")


# Systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A real socket of a service manager, and its address as systemd tells it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(TIMEOUT)
        if request.param == "path":
            listening.bind(str(tmp_path / "notify"))
            yield str(tmp_path / "notify"), listening
        else:
            listening.bind("")  # the kernel chooses a free abstract name
            yield "@" + listening.getsockname()[1:].decode(), listening


def test_the_manager_hears_all_states(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000"})
    assert notifier.interval == 10.0
    begin = time.monotonic_ns() // 1000
    notifier.ready()
    notifier.status("3 streams,\n2 live")
    notifier.reloading()
    notifier.alive()
    notifier.stopping()
    notifier.close()
    notifier.alive()  # nothing more
    heard = [listening.recv(1000).decode() for _ in range(5)]
    assert heard[:2] == ["READY=1", "STATUS=3 streams, 2 live"]
    assert heard[3:] == ["WATCHDOG=1", "STOPPING=1"]
    state, _, stamp = heard[2].partition("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1"
    assert begin <= int(stamp) <= time.monotonic_ns() // 1000
    listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        listening.recv(1000)


def test_a_manager_that_sleeps_or_is_gone_holds_nothing_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(10_000):  # more than the socket holds
            notifier.alive()
    notifier.alive()
    notifier.close()


@pytest.mark.parametrize(
    "environ",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/" + "x" * 200}],
)
def test_elsewhere_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready()
    notifier.close()
    assert notifier.interval is None


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    usec = {"WATCHDOG_USEC": "4000000"}
    assert Notifier({**usec, "WATCHDOG_PID": str(os.getpid())}).interval == 2.0
    assert Notifier({**usec, "WATCHDOG_PID": "1"}).interval is None
    assert Notifier({"WATCHDOG_USEC": "0"}).interval is None
    assert Notifier({"WATCHDOG_USEC": "soon"}).interval is None


# Traces


@pytest.fixture
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


class Collector:
    """A real receiver of OTLP over HTTP. status: what it answers."""

    def __init__(self) -> None:
        self.spans: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.resources: list[dict[str, str]] = []
        self.paths: set[str] = set()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.receive(self.path, self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def receive(self, path: str, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        self.paths.add(path)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {a.key: a.value.string_value for a in group.resource.attributes}
            self.resources.append(about)
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.put(span)

    def all_spans(self) -> list[Any]:
        """After the sender has closed."""
        found = []
        with suppress(queue.Empty):
            while True:
                found.append(self.spans.get_nowait())
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(TIMEOUT)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def stages(begin: float, step: float = 0.01) -> dict[str, tuple[float, float]]:
    names = ("decode", "wait", "detect", "draw", "encode", "sinks")
    return {name: (begin + i * step, begin + (i + 1) * step) for i, name in enumerate(names)}


@pytest.mark.usefixtures("_no_environment")
def test_a_frame_arrives_with_its_stages(collector: Collector) -> None:
    tracer = tracing.open(collector.address, share=1.0)
    assert tracer is not None
    begin = time.monotonic() - 1
    epoch = time.time() - time.monotonic()
    tracer.frame("front", 7, stages(begin))
    tracer.close()
    spans = {span.name: span for span in collector.all_spans()}
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "vidai"
    assert set(spans) == {"frame", *stages(0)}
    frame = spans["frame"]
    told = {a.key: a.value.string_value or a.value.int_value for a in frame.attributes}
    assert told == {"vidai.stream": "front", "vidai.frame": 7}
    assert not frame.parent_span_id
    for name, (began, ended) in stages(begin).items():
        span = spans[name]
        assert (span.parent_span_id, span.trace_id) == (frame.span_id, frame.trace_id)
        assert span.start_time_unix_nano / 1e9 == pytest.approx(began + epoch, abs=1e-3)
        assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 == pytest.approx(
            ended - began, abs=1e-6
        )
    assert frame.start_time_unix_nano == spans["decode"].start_time_unix_nano
    assert frame.end_time_unix_nano == spans["sinks"].end_time_unix_nano


@pytest.mark.usefixtures("_no_environment")
def test_a_share_of_the_frames_and_some_slow_ones_are_told(collector: Collector) -> None:
    tracer = tracing.open(collector.address + "/v1/traces", share=0.05, slow=1.0)
    assert tracer is not None
    tracer._random.seed(3)
    for number in range(1000):
        tracer.frame("front", number, {"decode": (number / 25, number / 25 + 0.04)})
    for number in range(100):  # overload: 100 slow ones within a second
        begin = 100 + number / 100
        tracer.frame("slow", number, {"decode": (begin, begin + 2.0)})
    tracer.close()
    frames = [span for span in collector.all_spans() if span.name == "frame"]
    streams = [span.attributes[0].value.string_value for span in frames]
    assert collector.paths == {"/v1/traces"}
    assert 25 <= streams.count("front") <= 80
    assert 5 <= streams.count("slow") <= 16  # five by time, and of the rest a share


@pytest.mark.usefixtures("_no_environment")
def test_the_environment_names_a_collector(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracing.open() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "cameras")
    tracer = tracing.open(share=1.0)
    assert tracer is not None
    tracer.frame("front", 1, stages(time.monotonic()))
    tracer.frame("front", 2, {})  # nothing to tell
    tracer.close()
    assert len(collector.all_spans()) == 7
    assert collector.resources[0]["service.name"] == "cameras"


@pytest.mark.usefixtures("_no_environment")
def test_a_collector_that_is_away_holds_nothing_up() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        tracer = tracing.open(f"http://127.0.0.1:{closed.getsockname()[1]}", share=1.0)
        assert tracer is not None
        for number in range(1000):  # 7000 spans, three times the queue
            tracer.frame("front", number, stages(number / 25))
        ending = threading.Thread(target=tracer.close, daemon=True)
        ending.start()
        ending.join(TIMEOUT)
        assert not ending.is_alive()


@pytest.mark.usefixtures("_no_environment")
@pytest.mark.parametrize(("endpoint", "share"), [("collector:4318", 0.1), ("http://c", 1.5)])
def test_traces_that_cannot_be_are_one_sentence(endpoint: str, share: float) -> None:
    with pytest.raises(ConfigError, match=r"http://|from 0 to 1"):
        tracing.open(endpoint, share=share)


@pytest.mark.usefixtures("_no_environment")
def test_traces_without_their_package_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'vidai\[otel\]'"):
        tracing.open("http://127.0.0.1:4318")


def test_without_traces_the_package_is_not_loaded() -> None:
    code = (
        "import sys\nfrom vidai.live import tracing\nassert tracing.open() is None\n"
        "sys.exit('opentelemetry' in sys.modules)"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    assert run_python(code, env=environ).returncode == 0


# The GPU's figures

# NVML with two GPUs, of which the second is CUDA's cuda:0. Functions that are not here are as
# missing in an old driver; NVML_SIM_FAIL names those that fail.
NVML = r"""
#include <stdlib.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Rates;
static long second;
static int fails(const char *name) {
  const char *list = getenv("NVML_SIM_FAIL");
  return list && strstr(list, name) ? 3 : 0; /* NVML_ERROR_NOT_SUPPORTED */
}
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
const char *nvmlErrorString(int code) { return "Not Supported"; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  if (strcmp(uuid, getenv("NVML_SIM_UUID"))) return 6; /* NVML_ERROR_NOT_FOUND */
  *device = &second;
  return 0;
}
#define KNOWN if (device != &second) return 2
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
  KNOWN;
  memory->total = 24ull << 30, memory->used = 5ull << 30, memory->free = 19ull << 30;
  return fails("memory");
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) {
  KNOWN; *mw = 71500; return fails("power");
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) {
  KNOWN; *degrees = 51 + sensor; return fails("temperature");
}
int nvmlDeviceGetUtilizationRates(void *device, Rates *rates) {
  KNOWN; rates->gpu = 83, rates->memory = 9; return fails("utilization");
}
int nvmlDeviceGetDecoderUtilization(void *device, unsigned *percent, unsigned *us) {
  KNOWN; *percent = 40, *us = 1000; return fails("decoder");
}
int nvmlDeviceGetEncoderStats(void *device, unsigned *n, unsigned *fps, unsigned *latency) {
  KNOWN; *n = 3, *fps = 25, *latency = 900; return fails("sessions");
}
"""
READ = (
    "import json\nfrom tests import simdriver\nsimdriver.load()\n"
    "from vidai.live import telemetry\nprint(json.dumps(telemetry.read('cuda:0')))"
)
UUID = "51515151-5151-5151-5151-515151515100"  # of the simulated driver's first GPU


@pytest.fixture
def read_figures(tmp_path: Path, simulated_driver: None) -> Callable[..., dict[str, float]]:
    """What is read on the simulated driver, with an NVML of its own."""
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", str(tmp_path / "nvml.c"), "-o", str(library)], check=True
    )

    def read(**settings: str) -> dict[str, float]:
        environ = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), **settings}
        done = run_python(READ, env=environ, stdout=subprocess.PIPE)
        assert done.returncode == 0
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    return read


ALL = {
    "vidai_gpu_memory_used_bytes": 5 * 2.0**30,
    "vidai_gpu_memory_total_bytes": 24 * 2.0**30,
    "vidai_gpu_power_watts": 71.5,
    "vidai_gpu_temperature_celsius": 51.0,
    "vidai_gpu_utilization_ratio": 0.83,
    "vidai_gpu_decoder_utilization_ratio": 0.4,
    "vidai_gpu_encoder_sessions": 3.0,
}


def test_figures_are_those_of_the_gpu_that_cuda_uses(
    read_figures: Callable[..., dict[str, float]],
) -> None:
    assert read_figures(NVML_SIM_UUID=f"GPU-{UUID}") == ALL
    assert ALL.keys() < telemetry.FIGURES.keys()  # NVENC's is missing in this driver


def test_figures_that_fail_are_left_out(read_figures: Callable[..., dict[str, float]]) -> None:
    figures = read_figures(NVML_SIM_UUID=f"MIG-{UUID}", NVML_SIM_FAIL="power,sessions,memory")
    left = {name for name in ALL if not re.search("power|sessions|memory", name)}
    assert figures.keys() == left
    assert read_figures(NVML_SIM_UUID="GPU-other") == {}


def test_a_machine_without_gpu_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert telemetry.read("cpu") == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert telemetry.read("cuda:0") == {}
