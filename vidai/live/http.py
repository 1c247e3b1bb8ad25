"""The worker's pages and interface over HTTP.

Everything but the page itself, /healthz, /readyz and /metrics needs the worker's token: as
`Authorization: Bearer TOKEN`, or as the cookie that POST /api/login gives for it. Errors are JSON:
{"error": "a sentence"}.

    GET    /                           the dashboard
    GET    /healthz  /readyz           200, or 503 with a reason
    GET    /metrics                    for Prometheus
    POST   /api/login  /api/logout     {"token": …}; GET /api/login tells whether one is signed in
    GET    /api/status                 WorkerStatus
    GET    /api/events?after=N         the newest events after number N, oldest first
    GET    /api/streams                all streams' settings
    POST   /api/streams                {"name": …, "url": …, …}: add one
    GET    /api/streams/NAME           its settings; PATCH changes some, DELETE removes it
    GET    /live/NAME/index.m3u8       live video, by HLS
    GET    /snapshot/NAME.jpg          the newest frame, drawn
    GET    /clips/NUMBER  NUMBER.jpg   the clip of an event, and its picture
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidai.errors import ConfigError
from vidai.live.auth import SESSION_SECONDS, Door, TooManyTries
from vidai.live.events import Event, Events
from vidai.live.metrics import Metrics
from vidai.live.status import WorkerStatus
from vidai.tags import reason

BODY_BYTES = 65_536  # the largest request that is read
EVENTS_AT_ONCE = 200
LIVE_SECONDS = 8.0  # to wait for the first part of a video whose encoder has only begun
CLOSE_SECONDS = 1  # for answers under way when the server closes
CONNECTIONS = 500  # at once; beyond that the answer is 503
PAGE = Path(__file__).parent / "dashboard"
OPEN = {"/", "/healthz", "/readyz", "/metrics", "/api/login", "/api/logout", "/favicon.ico"}
READING = {"GET", "HEAD"}
HLS_TYPES = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".mp4": "video/mp4",
    ".m4s": "video/iso.segment",
}
SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class LiveVideo(Protocol):
    """One stream's live video."""

    def playlist(self) -> str:
        """The master playlist."""

    def part(self, name: str) -> bytes | None:
        """The media playlist, or a piece of video that it names; None when there is none."""

    def touch(self) -> None:
        """Somebody is watching."""


class Served(Protocol):
    """What is asked of a worker, from any thread. Changes raise ConfigError."""

    @property
    def events(self) -> Events: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def token(self) -> str: ...
    def status(self) -> WorkerStatus: ...
    def stream_config(self, name: str) -> dict[str, Any] | None: ...
    def add(self, name: str, settings: dict[str, Any]) -> None: ...
    def change(self, name: str, settings: dict[str, Any]) -> None: ...
    def remove(self, name: str) -> None: ...
    def hls(self, name: str) -> LiveVideo | None: ...
    def snapshot(self, name: str) -> bytes | None: ...
    def clip(self, path: str) -> Path | None: ...


class HttpServer:
    """Serves a worker, in a thread of its own.

    port 0 takes a free one. On a loopback host, only requests that name this machine as localhost
    are answered, so that no web page can reach the worker under a name of its own.
    """

    def __init__(self, worker: Served, host: str = "127.0.0.1", port: int = 8080) -> None:
        self._worker = worker
        self._host, self._port = host, port
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._quiet = _Quiet()

    @property
    def url(self) -> str:
        """Where it is to be found from this machine, without a slash at its end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def start(self) -> None:
        """Returns when requests are answered. Raises ConfigError where it cannot listen."""
        self._socket = _listen(self._host, self._port)
        self._port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            _app(self._worker, f"vidai-{self._port}", _is_loopback(self._socket)),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=CLOSE_SECONDS,
            limit_concurrency=CONNECTIONS,
        )
        logging.getLogger("uvicorn.error").addFilter(self._quiet)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="vidai-http", daemon=True)
        self._thread.start()
        while self._thread.is_alive() and not self._server.started:
            time.sleep(0.005)
        if not self._server.started:
            raise ConfigError(f"cannot serve HTTP at {self.url}: the log says why")

    def _run(self) -> None:
        assert self._server is not None
        assert self._socket is not None
        try:
            asyncio.run(self._serve(self._server, self._socket))
        finally:
            self._socket.close()

    async def _serve(self, server: uvicorn.Server, listening: socket.socket) -> None:
        await server.serve(sockets=[listening])
        for connection in list(server.server_state.connections):  # whose client does not read
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # in which they are closed
        if server.server_state.tasks:  # that were cancelled, and close their files
            await asyncio.wait(server.server_state.tasks, timeout=CLOSE_SECONDS)

    def close(self) -> None:
        """Stop listening; answers under way get a second to end."""
        if self._server is None or self._thread is None:
            return
        self._quiet.closing = True
        self._server.should_exit = True
        self._thread.join(CLOSE_SECONDS + 4)
        logging.getLogger("uvicorn.error").removeFilter(self._quiet)
        self._server = self._thread = None


class _Quiet(logging.Filter):
    """Answers that are cut off by a close are no errors; uvicorn tells of each with a traceback."""

    closing = False

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.closing


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f"cannot serve HTTP on {host}, port {port}: {reason(error)}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(f"cannot serve HTTP on {host}, port {port}: {_refusal(error)}") from error
    return listening


def _refusal(error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return "the port is taken, so choose another one"
    if code == errno.EACCES:
        return "this port is not for every user, so choose one from 1024 up"
    if code == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return reason(error)


def _is_loopback(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def _app(worker: Served, cookie: str, local: bool) -> ASGIApp:
    routes = _Routes(worker, Door(worker.token), cookie)
    app = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/favicon.ico", routes.icon),
            Mount("/static", _Page(directory=PAGE)),
            Route("/healthz", routes.healthz),
            Route("/readyz", routes.readyz),
            Route("/metrics", routes.metrics),
            Route("/api/login", routes.signed_in, methods=["GET"]),
            Route("/api/login", routes.login, methods=["POST"]),
            Route("/api/logout", routes.logout, methods=["POST"]),
            Route("/api/status", routes.status),
            Route("/api/events", routes.events),
            Route("/api/streams", routes.streams, methods=["GET"]),
            Route("/api/streams", routes.add, methods=["POST"]),
            Route("/api/streams/{name:path}", routes.stream, methods=["GET"]),
            Route("/api/streams/{name:path}", routes.change, methods=["PATCH"]),
            Route("/api/streams/{name:path}", routes.remove, methods=["DELETE"]),
            Route("/live/{name:path}/{part}", routes.live),
            Route("/snapshot/{name:path}.jpg", routes.snapshot),
            Route("/clips/{number:int}", routes.clip),
            Route("/clips/{number:int}.jpg", routes.thumbnail),
        ],
        exception_handlers={HTTPException: _told, Exception: _broken},
    )
    app.router.redirect_slashes = False
    return _Guard(app, routes.door, cookie, local)


class _Page(StaticFiles):
    """The dashboard's files, which a browser asks for anew after an update."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


class _Guard:
    """Lets through what may be let through, and adds to every answer what keeps a browser safe."""

    def __init__(self, app: ASGIApp, door: Door, cookie: str, local: bool) -> None:
        self._app = app
        self._door = door
        self._cookie = cookie
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            self._check(Request(scope))
        except HTTPException as error:
            await _error(error.status_code, error.detail, error.headers)(
                scope, receive, send_safely
            )
            return
        await self._app(scope, receive, send_safely)

    def _check(self, request: Request) -> None:
        """Raises HTTPException for what is not let through."""
        if self._local and not _names_localhost(request.headers):
            raise HTTPException(
                421, "this worker answers on localhost only: open it as http://localhost"
            )
        path = request.scope["path"]  # not of the URL, which the Host header has a part in
        if path in OPEN or path.startswith("/static/"):
            return
        session = request.cookies.get(self._cookie)
        if session is not None and self._door.knows(session):
            if request.method not in READING and not _is_of_this_site(request.headers):
                raise HTTPException(403, "changes are taken from the worker's own page only")
            return
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            raise HTTPException(
                401, "this needs the worker's token: sign in", {"www-authenticate": "Bearer"}
            )
        check_token(self._door, token.strip(), request)


def check_token(door: Door, token: str, request: Request) -> None:
    """Raises HTTPException for a wrong token."""
    try:
        opened = door.opens(token, request.client.host if request.client else "")
    except TooManyTries as error:
        wait = {"retry-after": str(int(error.seconds) + 1)}
        raise HTTPException(429, str(error), wait) from error
    if not opened:
        raise HTTPException(401, "this is not the worker's token", {"www-authenticate": "Bearer"})


def _names_localhost(headers: Headers) -> bool:
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_of_this_site(headers: Headers) -> bool:
    """Browsers name the page that sends a change; another port of this machine is another page."""
    origin, host = headers.get("origin"), headers.get("host")
    return bool(host) and origin in (f"http://{host}", f"https://{host}")


class _Routes:
    """Answers. Plain functions may wait: they run in threads."""

    def __init__(self, worker: Served, door: Door, cookie: str) -> None:
        self._worker = worker
        self.door = door
        self._cookie = cookie

    def page(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    def icon(self, request: Request) -> Response:
        return FileResponse(PAGE / "icon.svg", headers={"cache-control": "no-cache"})

    def healthz(self, request: Request) -> Response:
        if self._worker.status().healthy:
            return JSONResponse({"healthy": True})
        return JSONResponse({"healthy": False, "reason": "the worker's own loop stands still"}, 503)

    def readyz(self, request: Request) -> Response:
        if self._worker.status().ready:
            return JSONResponse({"ready": True})
        return JSONResponse({"ready": False, "reason": "the model is still being loaded"}, 503)

    def metrics(self, request: Request) -> Response:
        body, kind = self._worker.metrics.render()
        return Response(body, headers={"content-type": kind})

    def signed_in(self, request: Request) -> Response:
        session = request.cookies.get(self._cookie, "")
        return JSONResponse({"signed_in": self.door.knows(session)})

    async def login(self, request: Request) -> Response:
        token = (await _object(request)).get("token")
        if not isinstance(token, str):
            raise HTTPException(400, 'send {"token": "…"}')
        check_token(self.door, token, request)
        response = JSONResponse({"signed_in": True})
        response.set_cookie(
            self._cookie,
            self.door.begin_session(),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    def logout(self, request: Request) -> Response:
        self.door.end_session(request.cookies.get(self._cookie, ""))
        response = JSONResponse({"signed_in": False})
        response.delete_cookie(self._cookie, httponly=True, samesite="strict")
        return response

    def status(self, request: Request) -> Response:
        return JSONResponse(self._worker.status().to_dict())

    def events(self, request: Request) -> Response:
        try:
            after = int(request.query_params.get("after", "0"))
        except ValueError:
            raise HTTPException(400, "after must be the number of an event") from None
        events = self._worker.events.since(after)[-EVENTS_AT_ONCE:]
        return JSONResponse({"events": [self._described(event) for event in events]})

    def _described(self, event: Event) -> dict[str, Any]:
        """The event; of a clip, its addresses here."""
        data = event.data if event.kind == "clip" else {}
        return {
            **vars(event),
            "clip": f"/clips/{event.number}" if data.get("path") else None,
            "thumbnail": f"/clips/{event.number}.jpg" if data.get("picture") else None,
        }

    def streams(self, request: Request) -> Response:
        names = [stream.name for stream in self._worker.status().streams]
        told = {name: self._worker.stream_config(name) for name in names}
        return JSONResponse({"streams": told})

    def stream(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._check_known(name)
        return JSONResponse({"name": name, "settings": self._worker.stream_config(name)})

    def _check_known(self, name: str) -> None:
        if not self._knows(name):
            raise HTTPException(404, f"there is no stream {name}")

    def _knows(self, name: str) -> bool:
        """Also a stream that was refused, which has no settings."""
        return any(stream.name == name for stream in self._worker.status().streams)

    async def add(self, request: Request) -> Response:
        settings = await _object(request)
        name = settings.pop("name", None)
        if not isinstance(name, str) or not name:
            raise HTTPException(400, "a stream needs a name")
        await run_in_threadpool(self._add, name, settings)
        place = {"location": f"/api/streams/{quote(name, safe='')}"}
        return JSONResponse({"name": name}, 201, headers=place)

    def _add(self, name: str, settings: dict[str, Any]) -> None:
        if self._knows(name):
            raise HTTPException(409, f"there is a stream {name} already: choose another name")
        try:
            self._worker.add(name, settings)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error

    async def change(self, request: Request) -> Response:
        name, settings = request.path_params["name"], await _object(request)
        told = await run_in_threadpool(self._change, name, settings)
        return JSONResponse({"name": name, "settings": told})

    def _change(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        try:
            self._worker.change(name, settings)
        except ConfigError as error:
            raise self._refusal(name, error) from error
        return self._worker.stream_config(name)

    def remove(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            self._worker.remove(name)
        except ConfigError as error:
            raise self._refusal(name, error) from error
        return Response(status_code=204)

    def _refusal(self, name: str, error: ConfigError) -> HTTPException:
        # Asked only now: a stream that begins anew is not there for a moment, and the worker
        # lets the next change wait for it.
        return HTTPException(422 if self._knows(name) else 404, str(error))

    async def live(self, request: Request) -> Response:
        name, part = request.path_params["name"], request.path_params["part"]
        kind = HLS_TYPES.get(Path(part).suffix)
        video = await run_in_threadpool(self._worker.hls, name) if kind else None
        if video is None:
            raise HTTPException(404, f"there is no live video {part} of a stream {name}")
        video.touch()
        content = await self._part(video, part, request)
        if content is None:
            raise HTTPException(404, f"the live video of {name} has no {part} now")
        return Response(content, headers={"content-type": str(kind)})

    async def _part(self, video: LiveVideo, part: str, request: Request) -> bytes | str | None:
        if part == "index.m3u8":
            return await run_in_threadpool(video.playlist)
        until = time.monotonic() + (LIVE_SECONDS if part.endswith(".m3u8") else 0)
        while (content := await run_in_threadpool(video.part, part)) is None:
            if time.monotonic() >= until or await request.is_disconnected():
                return None
            await asyncio.sleep(0.1)
        return content

    def snapshot(self, request: Request) -> Response:
        name = request.path_params["name"]
        picture = self._worker.snapshot(name)
        if picture is None:
            raise HTTPException(404, f"there is no picture of a stream {name} now")
        return Response(picture, media_type="image/jpeg")

    def clip(self, request: Request) -> Response:
        path = self._clip_data(request).get("path")
        return _file(self._worker.clip(path) if path else None)

    def thumbnail(self, request: Request) -> Response:
        path = self._clip_data(request).get("picture")
        return _file(Path(path) if path else None)

    def _clip_data(self, request: Request) -> dict[str, Any]:
        """Of the event of that number: {} where it is not one of a clip."""
        number = request.path_params["number"]
        for event in self._worker.events.since(number - 1)[:1]:
            if event.number == number and event.kind == "clip":
                return event.data
        return {}


def _file(path: Path | None) -> Response:
    if path is None or not path.is_file():
        raise HTTPException(404, "this clip is not kept, or not any more")
    return FileResponse(path, headers={"cache-control": "private, max-age=3600"})


async def _object(request: Request) -> dict[str, Any]:
    """The JSON object that was sent. Raises HTTPException for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "send JSON, as content-type: application/json")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES:
                raise HTTPException(413, f"this is more than {BODY_BYTES} bytes")
    except ClientDisconnect as error:
        raise HTTPException(400, "the request broke off") from error
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"this is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise HTTPException(400, 'send a JSON object: {"…": …}')
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers=headers)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: "there is no such page", 405: f"{request.method} is not possible here"}
    usual = error.detail in ("Not Found", "Method Not Allowed")
    return _error(
        error.status_code, text[error.status_code] if usual else error.detail, error.headers
    )


async def _broken(request: Request, error: Exception) -> Response:
    return _error(500, "the worker failed to answer this: its log says why")
