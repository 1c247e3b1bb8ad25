"""Addresses of live streams, which are shown without their secrets."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from vidai.errors import ConfigError
from vidai.sources import srt, usb

Kind = Literal["rtsp", "rtmp", "hls", "http", "udp", "srt", "usb", "file"]

KINDS: dict[str, Kind] = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "rtmp": "rtmp",
    "rtmps": "rtmp",
    "http": "http",
    "https": "http",
    "udp": "udp",
    "srt": "srt",
}
# Values that tell which picture is asked for and nothing of who asks: all others are hidden.
# fmt: off
HARMLESS = frozenset((
    "audio", "buffer_size", "camera", "channel", "codec", "fifo_size", "fps", "height", "latency",
    "localaddr", "localport", "mode", "overrun_nonfatal", "pbkeylen", "pkt_size", "profile",
    "proto", "quality", "real_stream", "resolution", "reuse", "rotation", "size", "sources",
    "stream", "streamprofile", "subtype", "timeout", "transport", "ttl", "unicast", "video",
    "videocodec", "width",
))
# fmt: on
HIDDEN = "***"
SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
# Some cameras want user and password within the path: /user=admin_password=x_channel=1.sdp
IN_PATH = re.compile(
    r"((?:pass(?:word|wd)?|pwd|token|key|secret|auth|sig(?:nature)?)=)(.*?)(?=[&/;,]|_\w+=|$)", re.I
)
AFTER_APP = re.compile(r"([^/]*/[^/]*/).+", re.DOTALL)  # host/app/key
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")
SHORT = 3  # letters up to which a secret may be part of any word


class Address:
    """Where a live stream comes from, as a user writes it.

    rtsp(s)://, rtmp(s)://, http(s):// (HLS where the path ends with .m3u8, otherwise what the
    server says that it is, as MJPEG), udp:// and srt:// (MPEG-TS), the path of a file, or a camera
    at this machine (vidai.sources.usb). kind: which of these. raw: as it was written, with its
    secrets: for FFmpeg and libsrt only. `str` shows the user and hides the password and all in
    the query that may be secret.

    Raises ConfigError for what can never be opened.
    """

    def __init__(self, text: str) -> None:
        self.raw = text.strip()
        if not self.raw:
            raise ConfigError("the address of a stream is empty: give its url")
        if any(ord(letter) < 32 for letter in self.raw):
            raise ConfigError(f"{self} has a line break or another control character in it")
        if usb.is_camera(self.raw):
            usb.Camera.of(self.raw)
            self.kind: Kind = "usb"
            return
        found = SCHEME.fullmatch(self.raw)
        if found is None:
            self.kind = "file"
            return
        scheme = found[1].lower()
        if scheme == "file":
            self.kind, self.raw = "file", unquote(found[2])
            return
        if scheme not in KINDS:
            raise ConfigError(
                f"{self}: no stream is read from {scheme}:// addresses: "
                "give rtsp, rtmp, http, udp, srt or the path of a file"
            )
        self._check()
        self.kind = KINDS[scheme]
        if self.kind == "srt":
            try:
                srt.options_of(self.raw)
            except ValueError as error:
                raise ConfigError(f"{self}: {error}") from None
        if self.kind == "http" and urlsplit(self.raw).path.lower().endswith(".m3u8"):
            self.kind = "hls"

    def _check(self) -> None:
        try:
            parts = urlsplit(self.raw)
            host, port = parts.hostname, parts.port
        except ValueError:  # its words repeat the address
            raise ConfigError(
                f"{self} has no proper host and port: write a password's special characters "
                "as %40 (@), %2F (/), %3A (:), %23 (#), %3F (?)"
            ) from None
        if not host and not (parts.scheme.lower() == "udp" and port):
            raise ConfigError(f"{self} names no host: write it as rtsp://host:port/path")
        if parts.scheme.lower() in ("udp", "srt") and not port:
            raise ConfigError(f"{self} names no port: write it as udp://0.0.0.0:5000")

    @property
    def path(self) -> Path:
        """Of a file."""
        return Path(self.raw)

    @property
    def host(self) -> str:
        """Empty for a file, and for any host."""
        return "" if self.kind == "file" else urlsplit(self.raw).hostname or ""

    def __str__(self) -> str:
        return shown(self.raw)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)


def shown(text: str) -> str:
    """An address without its secrets, also one that is no proper address."""
    return _parts(text)[0]


def secrets_of(text: str) -> set[str]:
    """What `shown` hides."""
    return _parts(text)[1]


def without_secrets(text: str, address: Address | str) -> str:
    """A message without the secrets of the address it is about, and of any other within it."""
    raw = address.raw if isinstance(address, Address) else address
    text = text.replace(raw, shown(raw))
    text = URL.sub(lambda found: shown(found[0]), text)
    for secret in sorted(_spellings(raw), key=len, reverse=True):
        pattern = re.escape(secret)
        if len(secret) <= SHORT:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        text = re.sub(pattern, lambda _: HIDDEN, text)
    return text


def _spellings(raw: str) -> set[str]:
    """The secrets of an address in every form in which a message may repeat them."""
    found = secrets_of(raw)
    found |= {unquote(secret) for secret in found}
    match = SCHEME.fullmatch(raw)
    if match and "@" in match[2]:
        login = match[2].rpartition("@")[0]
        found |= {base64.b64encode(s.encode()).decode() for s in (login, unquote(login))}
    return {secret for secret in found if secret and secret != HIDDEN}


def _parts(text: str) -> tuple[str, set[str]]:
    """An address as it may be shown, and what is hidden then.

    From the first colon to the last @ all is taken for a password, since one with a / or ? in it,
    which no parser finds, must not be shown either.
    """
    match = SCHEME.fullmatch(text)
    if match is None:
        return text, set()
    hidden: set[str] = set()
    scheme, rest = match.groups()
    login, at, rest = rest.rpartition("@")
    if ":" not in login and any(mark in login for mark in "/?#"):  # an @ of the path or query
        login, at, rest = "", "", login + at + rest
    user, colon, password = login.partition(":")
    if password and password != HIDDEN:
        hidden.add(password)
        password = HIDDEN
    rest, mark, query = rest.partition("?")
    query, sharp, fragment = query.partition("#")
    if not mark:
        rest, sharp, fragment = rest.partition("#")
    if fragment and fragment != HIDDEN:
        hidden.add(fragment)
        fragment = HIDDEN

    def of_path(found: re.Match[str]) -> str:
        if found[2] and found[2] != HIDDEN:
            hidden.add(found[2])
        return found[1] + HIDDEN

    def of_query(part: str) -> str:
        key, equals, value = part.partition("=")
        if key.lower() in HARMLESS:
            return part
        secret = value if equals else key
        if not secret or secret == HIDDEN:
            return part
        hidden.add(secret)
        return f"{key}={HIDDEN}" if equals else HIDDEN

    rest = IN_PATH.sub(of_path, rest)
    if scheme.lower() in ("rtmp", "rtmps"):
        # Who has the key may send there. It is not among the secrets that are looked for in any
        # text: often it is an everyday word.
        rest = AFTER_APP.sub(rf"\1{HIDDEN}", rest)
    query = "&".join(map(of_query, query.split("&")))
    login = user + colon + password + at
    return f"{scheme}://{login}{rest}{mark}{query}{sharp}{fragment}", hidden
