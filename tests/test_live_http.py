"""Pages, changes, video and metrics over HTTP: a real server, asked by a real client."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.media import make_clip, moving_shapes, to_frame
from vidai.errors import ConfigError
from vidai.live.auth import SESSION_SECONDS, WRONG_SECONDS, WRONG_TOKENS, Door, TooManyTries
from vidai.live.events import Events
from vidai.live.http import BODY_BYTES, HttpServer
from vidai.live.metrics import STAGES, STATES, Metrics
from vidai.live.output import OutputStatus
from vidai.live.status import StreamStatus, WorkerStatus

TOKEN = "a-token-of-the-tests"
WINDOW = 4  # segments in a playlist


class LoopedVideo:
    """Live HLS of a clip that begins again at its end: real parts, as FFmpeg's muxer makes them,
    in a playlist that moves on with the clock."""

    def __init__(self, folder: Path, width: int = 160, height: int = 96) -> None:
        folder.mkdir(parents=True)
        with av.open(
            str(folder / "all.m3u8"),
            "w",
            format="hls",
            options={
                "hls_time": "1",
                "hls_list_size": "0",
                "hls_segment_type": "fmp4",
                "hls_segment_filename": str(folder / "seg-%d.m4s"),
                "hls_fmp4_init_filename": "init-0.mp4",
            },
        ) as out:
            stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast", "g": "10"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(40):
                frame = to_frame(moving_shapes(index, width, height), "yuv420p")
                frame.pts = index
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        self.parts = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".m3u8"}
        self.segments = sum(name.startswith("seg-") for name in self.parts)
        self.begun = time.monotonic() - WINDOW  # as if it had run for a while
        self.touched = 0
        record = self.parts["init-0.mp4"].partition(b"avcC")[2]
        self.codecs = f"avc1.{record[1:4].hex()}"

    def playlist(self) -> str:
        return f'#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9,CODECS="{self.codecs}"\nlive.m3u8\n'

    def part(self, name: str) -> bytes | None:
        return self._live().encode() if name == "live.m3u8" else self.parts.get(name)

    def _live(self) -> str:
        last = int(time.monotonic() - self.begun)
        first = max(0, last - WINDOW)
        lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-TARGETDURATION:1"]
        lines += [f"#EXT-X-MEDIA-SEQUENCE:{first}", '#EXT-X-MAP:URI="init-0.mp4"']
        for number in range(first, last):
            if number % self.segments == 0:
                lines.append("#EXT-X-DISCONTINUITY")
            lines += ["#EXTINF:1.0,", f"seg-{number % self.segments}.m4s"]
        return "\n".join(lines) + "\n"

    def touch(self) -> None:
        self.touched += 1


class SmallWorker:
    """What the pages need of a worker, made of the real parts, without a model and cameras."""

    def __init__(self) -> None:
        self.token = TOKEN
        self.events = Events()
        self.metrics = Metrics(self.status)
        self.settings: dict[str, dict[str, Any]] = {}
        self.streams: dict[str, StreamStatus] = {}
        self.videos: dict[str, LoopedVideo] = {}
        self.pictures: dict[str, bytes] = {}
        self.ready = self.healthy = True
        self.started = time.time() - 3661

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            version="0.2.0",
            model="yolox-nano",
            device="cpu",
            precision="fp32",
            started=self.started,
            ready=self.ready,
            healthy=self.healthy,
            capacity_fps=90.0,
            batch_fill=0.75,
            streams=list(self.streams.values()),
        )

    def stream_config(self, name: str) -> dict[str, Any] | None:
        return self.settings.get(name)

    def add(self, name: str, settings: dict[str, Any]) -> None:
        if "url" not in settings:
            raise ConfigError(f"{name}: url: is missing")
        self.settings[name] = settings
        self.streams[name] = StreamStatus(name, settings["url"], since=time.time())
        self.events.emit("added", f"{name} was added", name)

    def change(self, name: str, settings: dict[str, Any]) -> None:
        self.check(name)
        if "colour" in settings:
            raise ConfigError(f"{name}: colour: is not known here: check the spelling")
        self.settings[name] = {**self.settings[name], **settings}

    def remove(self, name: str) -> None:
        self.check(name)
        self.settings.pop(name, None)
        del self.streams[name]

    def check(self, name: str) -> None:
        if name not in self.streams:
            raise ConfigError(f"there is no stream {name}")

    def hls(self, name: str) -> LoopedVideo | None:
        return self.videos.get(name)

    def snapshot(self, name: str) -> bytes | None:
        return self.pictures.get(name)

    def clip(self, path: str) -> Path | None:
        named = {event.data.get("path") for event in self.events.since() if event.kind == "clip"}
        return Path(path) if path in named else None


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> LoopedVideo:
    return LoopedVideo(tmp_path_factory.mktemp("hls") / "parts")


@pytest.fixture
def worker() -> SmallWorker:
    return SmallWorker()


@pytest.fixture
def server(worker: SmallWorker) -> Iterator[HttpServer]:
    server = HttpServer(worker, port=0)
    server.start()
    yield server
    server.close()


@pytest.fixture
def anyone(server: HttpServer) -> Iterator[httpx.Client]:
    """A client without the token."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def client(server: HttpServer) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=server.url, timeout=30, headers=headers) as client:
        yield client


@pytest.fixture
def browser(anyone: httpx.Client, server: HttpServer) -> httpx.Client:
    """A client with a session, that names its page as browsers do."""
    assert anyone.post("/api/login", json={"token": TOKEN}).status_code == 200
    anyone.headers["origin"] = server.url
    return anyone


def sentence(response: httpx.Response, status: int) -> str:
    """What the error says."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


GUARDED = [
    ("GET", "/api/status"),
    ("GET", "/api/events"),
    ("GET", "/api/streams"),
    ("GET", "/api/streams/yard"),
    ("POST", "/api/streams"),
    ("PATCH", "/api/streams/yard"),
    ("DELETE", "/api/streams/yard"),
    ("GET", "/live/yard/index.m3u8"),
    ("GET", "/live/yard/seg-0.m4s"),
    ("GET", "/snapshot/yard.jpg"),
    ("GET", "/clips/1"),
    ("GET", "/clips/1.jpg"),
    ("GET", "/no/such/page"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_the_token_nothing_is_told_or_changed(
    anyone: httpx.Client, worker: SmallWorker, video: LoopedVideo, method: str, path: str
) -> None:
    worker.add("yard", {"url": "rtsp://camera/1"})
    worker.videos["yard"], worker.pictures["yard"] = video, b"jpeg"
    assert "sign in" in sentence(anyone.request(method, path, json={"name": "b", "url": "c"}), 401)
    wrong = {"authorization": "Bearer " + TOKEN[:-1]}
    assert "not the worker's token" in sentence(anyone.request(method, path, headers=wrong), 401)
    forged = {"cookie": f"vidai-{anyone.base_url.port}=9999999999.00.{'0' * 64}"}
    sentence(anyone.request(method, path, headers=forged), 401)
    assert list(worker.settings) == ["yard"]


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/healthz", "/readyz", "/metrics"])
def test_the_page_and_probes_are_open(anyone: httpx.Client, path: str) -> None:
    assert anyone.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/status", "/no", "/metrics"])
def test_every_answer_keeps_a_browser_safe(anyone: httpx.Client, path: str) -> None:
    headers = anyone.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["media-src"] == "'self' blob:"
    assert "script-src" not in policy  # no exception from default-src
    assert "access-control-allow-origin" not in headers


def raw(server: HttpServer, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """A request with nothing put in order on its way."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    try:
        connection.putrequest("GET", path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", ""]
)
def test_a_page_with_a_name_of_its_own_reaches_nothing(server: HttpServer, host: str) -> None:
    for path in ("/", "/healthz", "/api/status"):
        status, body = raw(server, path, {"Host": host, "Authorization": f"Bearer {TOKEN}"})
        assert status == 421
        assert "localhost" in json.loads(body)["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80"])
def test_this_machine_is_known_by_its_names(server: HttpServer, host: str) -> None:
    assert raw(server, "/healthz", {"Host": host})[0] == 200


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/api/status", "localhost/healthz?"),
        ("/api/status", "localhost/static/"),
        ("/static/../api/status", "localhost"),
        ("/static/%2e%2e/http.py", "localhost"),
        ("/static/..%2fhttp.py", "localhost"),
        ("/static//etc/passwd", "localhost"),
        ("/healthz%3F/../api/status", "localhost"),
        ("//api/status", "localhost"),
    ],
)
def test_no_spelling_gets_past_the_guard(server: HttpServer, path: str, host: str) -> None:
    status, body = raw(server, path, {"Host": host})
    assert status in (401, 404, 421)
    assert list(json.loads(body)) == ["error"]


def test_signing_in_and_out(anyone: httpx.Client) -> None:
    assert "not the worker's token" in sentence(anyone.post("/api/login", json={"token": "x"}), 401)
    answer = anyone.post("/api/login", json={"token": TOKEN})
    flags = answer.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    assert TOKEN not in answer.headers["set-cookie"]
    assert anyone.get("/api/status").status_code == 200
    cookies = dict(anyone.cookies)
    anyone.post("/api/logout")
    sentence(anyone.get("/api/status"), 401)
    headers = {"cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())}
    sentence(anyone.get("/api/status", headers=headers), 401)  # it is over, not only forgotten


@pytest.mark.parametrize("body", [{}, {"token": 5}, {"token": None}])
def test_a_login_without_a_token(anyone: httpx.Client, body: dict[str, Any]) -> None:
    assert "token" in sentence(anyone.post("/api/login", json=body), 400)


def test_half_a_character_is_a_wrong_token(anyone: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    sentence(anyone.post("/api/login", content=b'{"token": "\\ud800"}', headers=headers), 401)


def test_guessing_is_slow(anyone: httpx.Client) -> None:
    for _ in range(WRONG_TOKENS):
        sentence(anyone.post("/api/login", json={"token": "guess"}), 401)
    refused = anyone.post("/api/login", json={"token": TOKEN})
    assert "try again" in sentence(refused, 429)
    assert 0 < int(refused.headers["retry-after"]) <= WRONG_SECONDS + 1
    assert sentence(anyone.get("/api/status", headers={"authorization": f"Bearer {TOKEN}"}), 429)


def test_a_signed_in_browser_is_not_shut_out_by_a_guesser(browser: httpx.Client) -> None:
    for _ in range(WRONG_TOKENS + 1):
        browser.post("/api/login", json={"token": "guess"})
    assert browser.get("/api/status").status_code == 200


def test_the_door_by_the_clock() -> None:
    now = 1_000_000.0
    door = Door(TOKEN, lambda: now)
    session = door.begin_session()
    for _ in range(WRONG_TOKENS):
        assert not door.opens("guess", "10.0.0.1")
    with pytest.raises(TooManyTries):
        door.opens(TOKEN, "10.0.0.1")
    assert door.opens(TOKEN, "10.0.0.2")
    now += WRONG_SECONDS
    assert door.opens(TOKEN, "10.0.0.1")
    assert door.knows(session)
    assert Door(TOKEN, lambda: now).knows(session)  # after a restart
    assert not Door(TOKEN + "2", lambda: now).knows(session)
    now += SESSION_SECONDS
    assert not door.knows(session)
    end, nonce, signature = session.split(".")
    assert not door.knows(f"{int(end) * 2}.{nonce}.{signature}")
    for nonsense in ("", ".", "..", "x.y.z", "\ud800", "9" * 5000):
        assert not door.knows(nonsense)
    assert not Door("").opens("", "here")
    assert not Door("").knows(Door("").begin_session())


def test_what_the_door_remembers_is_bounded() -> None:
    door = Door(TOKEN)
    for number in range(3000):
        door.opens("guess", f"address {number}")
        door.end_session(door.begin_session())
    assert len(door._wrong) <= 1000
    assert len(door._ended) <= 1000


def test_changes_of_a_session_come_from_its_own_page(
    browser: httpx.Client, worker: SmallWorker, server: HttpServer
) -> None:
    other = f"http://127.0.0.1:{int(server.url.rpartition(':')[2]) + 1}"
    new = {"name": "yard", "url": "rtsp://camera/1"}
    for origin in (other, "http://evil.example", "null", ""):
        answer = browser.post("/api/streams", json=new, headers={"origin": origin})
        assert "own page" in sentence(answer, 403)
    del browser.headers["origin"]
    sentence(browser.post("/api/streams", json=new), 403)
    assert not worker.settings
    assert browser.post("/api/streams", json=new, headers={"origin": server.url}).status_code == 201
    assert "JSON" in sentence(
        browser.post("/api/streams", data={"name": "x"}, headers={"origin": server.url}), 415
    )


def test_streams_are_added_changed_and_removed(client: httpx.Client, worker: SmallWorker) -> None:
    answer = client.post("/api/streams", json={"name": "yard", "url": "rtsp://camera/1"})
    assert answer.status_code == 201
    assert client.get(answer.headers["location"]).json() == {
        "name": "yard",
        "settings": {"url": "rtsp://camera/1"},
    }
    assert client.patch("/api/streams/yard", json={"priority": 2}).json()["settings"] == {
        "url": "rtsp://camera/1",
        "priority": 2,
    }
    assert worker.settings == {"yard": {"url": "rtsp://camera/1", "priority": 2}}
    assert client.get("/api/streams").json() == {"streams": worker.settings}
    assert client.delete("/api/streams/yard").status_code == 204
    assert client.get("/api/streams").json() == {"streams": {}}


def test_what_cannot_be_done_is_one_sentence(client: httpx.Client, worker: SmallWorker) -> None:
    worker.add("yard", {"url": "rtsp://camera/1"})
    twice = client.post("/api/streams", json={"name": "yard", "url": "x"})
    assert "a stream yard already" in sentence(twice, 409)
    assert sentence(client.post("/api/streams", json={"name": "b"}), 422) == "b: url: is missing"
    spelled = client.patch("/api/streams/yard", json={"colour": 1})
    assert "check the spelling" in sentence(spelled, 422)
    for name in ("", None, 5):
        assert "name" in sentence(client.post("/api/streams", json={"name": name}), 400)
    for method in ("GET", "PATCH", "DELETE"):
        gone = client.request(method, "/api/streams/gone", json={})
        assert sentence(gone, 404) == "there is no stream gone"
    assert sentence(client.get("/no"), 404)
    assert "PUT" in sentence(client.put("/api/streams", json={}), 405)
    assert worker.settings == {"yard": {"url": "rtsp://camera/1"}}


def test_a_stream_that_begins_anew_can_be_changed(
    client: httpx.Client, worker: SmallWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another change replaces it, the worker has it in no list for a moment."""
    worker.add("yard", {"url": "rtsp://camera/1"})
    begun, change = worker.streams, worker.change

    def when_it_has_begun(name: str, settings: dict[str, Any]) -> None:
        worker.streams = begun
        change(name, settings)

    monkeypatch.setattr(worker, "change", when_it_has_begun)
    worker.streams = {}
    assert client.patch("/api/streams/yard", json={"priority": 1}).status_code == 200
    assert worker.settings["yard"]["priority"] == 1


def test_a_refused_stream_can_be_removed(client: httpx.Client, worker: SmallWorker) -> None:
    """It has no settings, only a state that says why."""
    worker.streams["yard"] = StreamStatus("yard", "rtsp://camera/1", state="refused", error="full")
    assert client.get("/api/streams").json() == {"streams": {"yard": None}}
    assert client.get("/api/streams/yard").json() == {"name": "yard", "settings": None}
    sentence(client.post("/api/streams", json={"name": "yard", "url": "x"}), 409)
    assert client.delete("/api/streams/yard").status_code == 204
    assert not worker.streams


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b'{"name": "a", "analyze_fps": NaN}', 400),
        (b"[" * 60_000, 400),
        (b'{"name": "' + b"a" * BODY_BYTES + b'"}', 413),
    ],
)
def test_garbage_is_one_sentence(
    client: httpx.Client, worker: SmallWorker, body: bytes, status: int
) -> None:
    headers = {"content-type": "application/json"}
    assert sentence(client.post("/api/streams", content=body, headers=headers), status)
    assert not worker.settings


ODD = ["a b", "größe", "a/b", "../etc", "100%25", "?x=1#y", "<img src=x onerror=alert(1)>", "'\""]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_names(client: httpx.Client, worker: SmallWorker, name: str) -> None:
    place = client.post("/api/streams", json={"name": name, "url": "u"}).headers["location"]
    worker.pictures[name] = b"\xff\xd8picture"
    assert client.get(place).json()["name"] == name
    assert client.get(f"/snapshot/{quote(name, safe='')}.jpg").content == b"\xff\xd8picture"
    assert client.delete(place).status_code == 204
    assert not worker.settings


def test_status_is_the_workers(client: httpx.Client, worker: SmallWorker) -> None:
    worker.add("yard", {"url": "rtsp://camera/1"})
    stream = worker.streams["yard"]
    stream.ledger.received, stream.ledger.processed = 9, 4
    stream.ledger.dropped["late"] = 3
    stream.ledger.failed["DecodeError"] = 2
    stream.history.append((25.0, 0.04))
    stream.connections = 3
    output = OutputStatus("webhook", accepted=3, delivered=1)
    output.lost["full"] = 2
    stream.outputs.append(output)
    told = client.get("/api/status").json()
    assert told["model"] == "yolox-nano"
    (shown,) = told["streams"]
    assert shown["ledger"] == {
        "received": 9,
        "processed": 4,
        "dropped": {"late": 3},
        "failed": {"DecodeError": 2},
        "balanced": True,
    }
    assert shown["history"] == [[25.0, 0.04]]
    assert shown["reconnects"] == 2
    assert shown["outputs"][0]["lost"] == {"full": 2}


def test_events_go_on_where_one_has_read(client: httpx.Client, worker: SmallWorker) -> None:
    for number in range(300):
        worker.events.emit("rate", f"event {number}", "yard", count=number)
    newest = client.get("/api/events").json()["events"]
    assert [event["number"] for event in newest] == list(range(101, 301))
    assert newest[-1]["text"] == "event 299"
    assert newest[-1]["data"] == {"count": 299}
    assert client.get("/api/events", params={"after": 300}).json() == {"events": []}
    worker.events.emit("lost", "the camera is gone", "yard")
    (new,) = client.get("/api/events", params={"after": 300}).json()["events"]
    assert (new["kind"], new["stream"], new["clip"]) == ("lost", "yard", None)
    assert "number" in sentence(client.get("/api/events", params={"after": "x"}), 400)


def test_clips_are_served_by_their_events(
    client: httpx.Client, worker: SmallWorker, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "yard.mp4")
    picture = tmp_path / "yard.jpg"
    picture.write_bytes(b"\xff\xd8small")
    worker.events.emit("connected", "yard is connected", "yard", path=str(tmp_path / "secret"))
    worker.events.emit("clip", "a clip", "yard", path=str(clip), picture=str(picture))
    event = client.get("/api/events", params={"after": 1}).json()["events"][0]
    assert client.get(event["clip"]).content == clip.read_bytes()
    assert client.get(event["clip"]).headers["content-type"] == "video/mp4"
    part = client.get(event["clip"], headers={"range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == clip.read_bytes()[100:200]
    assert client.get(event["thumbnail"]).content == b"\xff\xd8small"
    assert client.get(event["thumbnail"]).headers["content-type"] == "image/jpeg"
    for path in ("/clips/1", "/clips/1.jpg", "/clips/99", "/clips/0"):
        sentence(client.get(path), 404)
    clip.unlink()
    assert "not any more" in sentence(client.get(event["clip"]), 404)


def test_live_video(client: httpx.Client, worker: SmallWorker, video: LoopedVideo) -> None:
    worker.videos["yard"] = video
    before = video.touched
    master = client.get("/live/yard/index.m3u8")
    assert master.headers["content-type"] == "application/vnd.apple.mpegurl"
    assert master.headers["cache-control"] == "no-store"
    assert master.text.endswith("live.m3u8\n")
    live = client.get("/live/yard/live.m3u8").text
    names = re.findall(r"seg-\d+\.m4s", live)
    assert len(names) == WINDOW
    for name in ("init-0.mp4", names[0]):
        part = client.get(f"/live/yard/{name}")
        assert part.content == video.parts[name]
        assert part.headers["content-type"].startswith("video/")
    assert video.touched == before + 4
    for path in ("/live/yard/seg-999.m4s", "/live/none/index.m3u8", "/live/yard/config.yaml"):
        sentence(client.get(path), 404)


def test_the_first_part_is_waited_for(
    client: httpx.Client, worker: SmallWorker, video: LoopedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder that begins because of this viewer has nothing to show yet."""
    asked = []
    ready = threading.Event()

    def part(name: str) -> bytes | None:
        asked.append(name)
        if len(asked) == 3:
            ready.set()
        return b"#EXTM3U" if ready.is_set() else None

    monkeypatch.setattr(video, "part", part)
    worker.videos["yard"] = video
    assert client.get("/live/yard/live.m3u8").content == b"#EXTM3U"
    assert len(asked) == 3


def test_probes_tell_what_is_wrong(anyone: httpx.Client, worker: SmallWorker) -> None:
    assert anyone.get("/healthz").json() == {"healthy": True}
    assert anyone.get("/readyz").json() == {"ready": True}
    worker.healthy = worker.ready = False
    for path in ("/healthz", "/readyz"):
        assert anyone.get(path).status_code == 503
        assert anyone.get(path).json()["reason"]


def test_a_failure_within_is_one_sentence(
    client: httpx.Client, worker: SmallWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> bytes:
        raise RuntimeError("a password of somebody")

    monkeypatch.setattr(worker, "snapshot", broken)
    said = sentence(client.get("/snapshot/yard.jpg"), 500)
    assert "password" not in said


def test_a_taken_port_is_one_sentence(server: HttpServer, worker: SmallWorker) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match="taken"):
        HttpServer(worker, port=port).start()


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no.such.host.invalid", 0)])
def test_a_host_that_is_not_here_is_one_sentence(worker: SmallWorker, host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=host):
        HttpServer(worker, host, port).start()


def test_all_addresses(worker: SmallWorker) -> None:
    """Whoever listens for the whole network is known by names that cannot be told beforehand."""
    server = HttpServer(worker, "0.0.0.0", 0)
    server.start()
    try:
        assert (
            httpx.get(server.url + "/healthz", headers={"host": "cams.example"}).status_code == 200
        )
        assert httpx.get(server.url + "/api/status").status_code == 401
    finally:
        server.close()


def test_close_ends_everything(
    worker: SmallWorker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also idle connections, a request that is half sent, and a download that nobody reads."""
    big = tmp_path / "big.mp4"
    with big.open("wb") as file:
        file.truncate(1 << 28)
    worker.events.emit("clip", "a clip", "yard", path=str(big))
    server = HttpServer(worker, port=0)
    server.start()
    place = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    get = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    sockets = [socket.create_connection(place, timeout=30) for _ in range(4)]
    try:
        sockets[1].sendall(b"GET /hea")
        sockets[2].sendall(f"GET /clips/1 {get}\r\n".encode())
        assert sockets[2].recv(15) == b"HTTP/1.1 200 OK"
        sockets[3].sendall(f"GET /healthz {get}\r\n".encode())
        assert sockets[3].recv(15) == b"HTTP/1.1 200 OK"
        with caplog.at_level(logging.WARNING):
            server.close()
    finally:
        for each in sockets:
            each.close()
    assert not [t for t in threading.enumerate() if t.name == "vidai-http"]
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, timeout=30)
    server.close()  # twice is once


def numbers(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_the_status_in_prometheus_words(
    anyone: httpx.Client, worker: SmallWorker
) -> None:
    for number, name in enumerate(("yard", 'odd "name"\n')):
        worker.add(name, {"url": "rtsp://camera/1"})
        stream = worker.streams[name]
        stream.state = "live"
        stream.ledger.received, stream.ledger.processed = 90 + number, 80
        stream.ledger.dropped["late"] = 7
        stream.ledger.failed["DecodeError"] = 3
        stream.analysed, stream.damaged, stream.connections, stream.waiting = 40, 2, 5, 1
        stream.fps_in, stream.fps_out, stream.fps_analysed = 25.5, 24.5, 10.5
        stream.granted_fps = 12.5
        for accepted in (5, 6):
            output = OutputStatus("webhook", "", "ok", accepted, 3, 1, 100)
            output.lost["full"] = accepted - 4
            stream.outputs.append(output)
    answer = anyone.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = numbers(answer.text)

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, frozenset(labels.items())))

    for name, stream in worker.streams.items():
        of = {"stream": name}
        assert value("vidai_frames_received_total", **of) == stream.ledger.received
        assert value("vidai_frames_processed_total", **of) == 80
        assert value("vidai_frames_dropped_total", **of, reason="late") == 7
        assert value("vidai_frames_failed_total", **of, reason="DecodeError") == 3
        assert value("vidai_frames_analysed_total", **of) == 40
        assert value("vidai_frames_damaged_total", **of) == 2
        assert value("vidai_connections_total", **of) == 5
        assert value("vidai_reconnects_total", **of) == 4
        assert value("vidai_input_fps", **of) == 25.5
        assert value("vidai_output_fps", **of) == 24.5
        assert value("vidai_analysed_fps", **of) == 10.5
        assert value("vidai_granted_fps", **of) == 12.5
        assert value("vidai_wanted_fps", **of) is None  # every frame: no number
        assert value("vidai_frames_waiting", **of) == 1
        states = {state: value("vidai_stream_state", **of, state=state) for state in STATES}
        assert states == {state: state == "live" for state in STATES}
        assert value("vidai_output_accepted_total", **of, output="webhook") == 11
        assert value("vidai_output_delivered_total", **of, output="webhook") == 6
        assert value("vidai_output_waiting", **of, output="webhook") == 2
        assert value("vidai_output_waiting_bytes", **of, output="webhook") == 200
        assert value("vidai_output_lost_total", **of, output="webhook", reason="full") == 3
        assert value("vidai_output_ok", **of, output="webhook") == 1
    assert value("vidai_capacity_fps") == 90
    assert value("vidai_batch_fill_ratio") == 0.75
    assert value("vidai_ready") == value("vidai_healthy") == 1
    assert (value("process_threads") or 0) >= threading.active_count()
    assert (value("process_open_fds") or 0) > 0
    assert (value("process_resident_memory_bytes") or 0) > 1_000_000


def test_metric_names_follow_the_practice(worker: SmallWorker) -> None:
    """A counter ends in _total, nothing else does, and every family says what it is."""
    worker.add("yard", {"url": "u"})
    worker.metrics.observe("yard", "total", 0.1)
    families = list(text_string_to_metric_families(worker.metrics.render()[0].decode()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.documentation
        assert re.fullmatch(r"(vidai|process)_[a-z_]+", family.name)
        assert "_ms" not in family.name
        for sample in family.samples:
            counts = family.type == "counter" and not sample.name.endswith("_created")
            assert sample.name.endswith("_total") == counts


def test_times_and_batches_are_distributions(worker: SmallWorker) -> None:
    for seconds in (0.0004, 0.004, 0.04, 0.4, 40.0):
        worker.metrics.observe("yard", "total", seconds)
    worker.metrics.observe("yard", "wait", 0.5)
    for size in (1, 4, 3):
        worker.metrics.observe_batch(size, 4)
    found = numbers(worker.metrics.render()[0].decode())
    of = {("stream", "yard"), ("stage", "total")}
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "vidai_latency_seconds_bucket" and of <= labels
    }
    assert buckets["0.001"] == 1
    assert buckets["0.005"] == 2
    assert buckets["0.05"] == 3
    assert buckets["0.5"] == buckets["10.0"] == 4
    assert buckets["+Inf"] == 5
    assert found["vidai_latency_seconds_sum", frozenset(of)] == pytest.approx(40.4444)
    assert found["vidai_batch_frames_sum", frozenset()] == 8
    assert found["vidai_batch_places_total", frozenset()] == 12
    worker.metrics.forget("yard")
    worker.metrics.forget("never there")
    assert b"yard" not in worker.metrics.render()[0]


def test_counters_do_not_fall_when_a_stream_reconnects(worker: SmallWorker) -> None:
    worker.add("yard", {"url": "u"})
    stream = worker.streams["yard"]
    before: dict[Any, float] = {}
    for state in ("live", "retrying", "connecting", "live"):
        stream.state = state
        stream.ledger.received += 10
        stream.connections += state == "live"
        worker.metrics.observe("yard", "total", 0.1)
        now = numbers(worker.metrics.render()[0].decode())
        counters = {
            key: value for key, value in now.items() if key[0].endswith(("_total", "_count"))
        }
        assert all(counters[key] >= value for key, value in before.items())
        before = counters
    assert before["vidai_reconnects_total", frozenset({("stream", "yard")})] == 1


def test_stages_are_all_known_to_metrics(worker: SmallWorker) -> None:
    for stage in STAGES:
        worker.metrics.observe("yard", stage, 0.01)
    text = worker.metrics.render()[0].decode()
    assert all(f'stage="{stage}"' in text for stage in STAGES)
