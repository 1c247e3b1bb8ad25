"""MPEG-TS over SRT, for PyAV to read: its FFmpeg is built without. By libsrt, as systems have it.

Source: the API of libsrt, https://github.com/Haivision/srt/blob/master/docs/API/API-functions.md
"""

from __future__ import annotations

import ctypes
import re
import socket
import struct
import time
from collections.abc import Iterator
from ctypes.util import find_library
from functools import cache
from itertools import cycle
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from vidai.errors import ConfigError, SourceLost
from vidai.sources.interrupt import is_over

if TYPE_CHECKING:
    from vidai.sources.address import Address

PACKET = 1456  # bytes, the longest of live streams
LOOK = 0.1  # s between two looks whether the wait is over
TRY = 1.0  # s for one of several addresses of a host to answer

# What an address may say: how it is written, and in words.
QUERY = {
    "mode": ("caller|listener", "caller or listener"),
    "latency": ("[0-9]{1,5}", "a whole number of ms"),
    "passphrase": (".{10,79}", "10 to 79 characters"),
    "pbkeylen": ("16|24|32", "16, 24 or 32 bytes"),
    "streamid": (".{0,512}", "up to 512 characters"),
}

# SRT_SOCKOPT and SRT_SOCKSTATUS of srt.h
RCVSYN, RCVTIMEO, LATENCY, PASSPHRASE, PBKEYLEN, CONNTIMEO, STREAMID = 2, 14, 23, 26, 27, 36, 46
CONNECTED, BROKEN = 5, 6
BAD_SECRET, UNSECURE = 10, 11  # SRT_REJECT_REASON
TIMED_OUT = 6003  # SRT_ETIMEOUT
FOREVER = 0x7FFFFFFF  # ms
CRITICAL = 2  # of syslog


def options_of(address: str) -> dict[str, str]:
    """What the query of an srt:// address says. Raises ValueError, without secrets."""
    options: dict[str, str] = {}
    # Not as urlsplit has it: a streamid may have a # in it.
    for part in filter(None, address.partition("?")[2].split("&")):
        key, _, value = part.partition("=")
        if key not in QUERY:
            raise ValueError(f"SRT takes {', '.join(QUERY)} here: write an & within a value as %26")
        options[key] = unquote(value)
        pattern, told = QUERY[key]
        if not re.fullmatch(pattern, options[key], re.DOTALL):
            raise ValueError(f"the {key} of SRT is {told}")
    return options


class SrtReader:
    """One connection, made when it is constructed; `read` gives it to av.open as a file.

    srt://host:port?latency=ms&passphrase=…&pbkeylen=16&streamid=…, where we call; with
    mode=listener we wait for one sender on that address and port. Waits end when the thread's
    Waiting is over; a peer that is gone without a word is noticed after 5 s. Raises ConfigError
    for what can never work, and SourceLost.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._srt = _library()
        self._options = options_of(address.raw)
        self._socket: int | None = None
        try:
            if self._options.get("mode") == "listener":
                self._listen()
            else:
                self._call()
            self._set(RCVSYN, 1)
            self._set(RCVTIMEO, round(LOOK * 1000))
        except BaseException:
            self.close()
            raise
        self._buffer = ctypes.create_string_buffer(PACKET)

    def read(self, size: int) -> bytes:
        """The next message; b"" at the end, and when the wait is over."""
        while not is_over():
            count = self._srt.srt_recvmsg(self._socket, self._buffer, min(size, PACKET))
            if count > 0:
                return self._buffer.raw[:count]
            if count == 0 or self._srt.srt_getlasterror(None) != TIMED_OUT:
                break
        return b""

    def close(self) -> None:
        if self._socket is not None:
            self._srt.srt_close(self._socket)
            self._socket = None

    def _open(self) -> None:
        """A new socket, in the place of one that there may be."""
        self.close()
        self._socket = int(self._srt.srt_create_socket())
        self._set(RCVSYN, 0)  # connecting does not block, so that it can be given up
        self._set(CONNTIMEO, FOREVER)
        for key, option in (("latency", LATENCY), ("pbkeylen", PBKEYLEN)):
            if key in self._options:
                self._set(option, int(self._options[key]))
        for key, option in (("passphrase", PASSPHRASE), ("streamid", STREAMID)):
            if key in self._options:
                self._set(option, self._options[key].encode())

    def _set(self, option: int, value: int | bytes) -> None:
        data = value if isinstance(value, bytes) else struct.pack("=i", value)
        self._checked(self._srt.srt_setsockflag(self._socket, option, data, len(data)))

    def _call(self) -> None:
        names = list(_socket_addresses(self._address))
        patience = TRY if len(names) > 1 else float("inf")
        for name in cycle(names):
            self._open()
            begun = self._srt.srt_connect(self._socket, name, len(name))
            if len(names) == 1:
                self._checked(begun)
            until = time.monotonic() + patience
            while time.monotonic() < until:
                # One that cannot be reached at all, as without IPv6, is passed over like one that
                # does not answer.
                state = int(self._srt.srt_getsockstate(self._socket)) if begun == 0 else 0
                if state == CONNECTED:
                    return
                if state >= BROKEN:
                    raise SourceLost(f"{self._address} {self._why_rejected()}")
                self._wait("does not answer")

    def _listen(self) -> None:
        name = next(_socket_addresses(self._address))
        self._open()
        if self._srt.srt_bind(self._socket, name, len(name)) < 0:
            raise SourceLost(
                f"{self._address} cannot be listened on: the port is another program's, or this "
                "machine has no such address"
            )
        self._checked(self._srt.srt_listen(self._socket, 1))
        while (caller := int(self._srt.srt_accept(self._socket, None, None))) < 0:
            self._wait("was not called by anybody")
        self.close()
        self._socket = caller

    def _wait(self, otherwise: str) -> None:
        if is_over():
            raise SourceLost(f"{self._address} {otherwise}")
        time.sleep(LOOK / 10)

    def _checked(self, result: int) -> None:
        if result < 0:
            told = self._srt.srt_getlasterror_str().decode(errors="replace")
            raise SourceLost(f"{self._address} cannot be reached: {told}")

    def _why_rejected(self) -> str:
        reason = int(self._srt.srt_getrejectreason(self._socket))
        if reason in (BAD_SECRET, UNSECURE):
            return "does not let us in: check the passphrase"
        told = self._srt.srt_rejectreason_str(reason).decode(errors="replace")
        return f"refuses the connection: {told}"


def _socket_addresses(address: Address) -> Iterator[bytes]:
    """Each a struct sockaddr. Raises SourceLost where the host has none."""
    parts = urlsplit(address.raw)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise SourceLost(
            f"{address} cannot be reached: there is no host {address.host} ({error})"
        ) from None
    for family, *_, name in found:
        host = socket.inet_pton(family, str(name[0]).partition("%")[0])
        head = struct.pack("=H", family) + struct.pack("!H", name[1])
        if family == socket.AF_INET:
            yield head + host + bytes(8)
        else:
            yield head + bytes(4) + host + struct.pack("=I", name[3] if len(name) > 3 else 0)


@cache
def _library() -> ctypes.CDLL:
    """Raises ConfigError where the system has none."""
    for library in _libraries():
        for text in ("srt_getlasterror_str", "srt_rejectreason_str"):
            getattr(library, text).restype = ctypes.c_char_p
        library.srt_startup()
        library.srt_setloglevel(CRITICAL)  # it would write to stderr, among our lines
        return library
    raise ConfigError(
        "srt:// addresses need the library libsrt of the system: apt install libsrt1.5-gnutls "
        "(libsrt1.4-gnutls where that is older), or dnf install srt-libs"
    )


def _libraries() -> Iterator[ctypes.CDLL]:
    """Those that can be loaded, of the versions whose numbers are as here."""
    for version in ("1.5", "1.4"):
        for kind in ("-gnutls", "-openssl", ""):
            try:
                yield ctypes.CDLL(f"libsrt{kind}.so.{version}")
            except OSError:
                continue
    if name := find_library("srt"):  # asks the compiler and the linker, and takes its time
        yield ctypes.CDLL(name)
