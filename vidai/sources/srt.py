"""MPEG-TS over SRT, for PyAV to read: its FFmpeg is built without. By libsrt, as systems have it.

Source: the API of libsrt, https://github.com/Haivision/srt/blob/master/docs/API/API-functions.md
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from ctypes.util import find_library
from functools import cache
from urllib.parse import unquote, urlsplit

from vidai.errors import ConfigError, SourceLost
from vidai.sources.address import Address
from vidai.sources.interrupt import is_over

NAMES = ("libsrt-gnutls.so.1.5", "libsrt-openssl.so.1.5", "libsrt.so.1.5", "libsrt.so.1")
PACKET = 1456  # bytes, the longest of live streams
LOOK = 0.1  # s between two looks whether the wait is over
MODES = ("caller", "listener")

# SRT_SOCKOPT and SRT_SOCKSTATUS of srt.h
RCVSYN, RCVTIMEO, LATENCY, PASSPHRASE, PBKEYLEN, CONNTIMEO, STREAMID = 2, 14, 23, 26, 27, 36, 46
CONNECTED, BROKEN = 5, 6
BAD_SECRET, UNSECURE = 10, 11  # SRT_REJECT_REASON
TIMED_OUT = 6003  # SRT_ETIMEOUT
NUMBERS = {"latency": LATENCY, "pbkeylen": PBKEYLEN}  # ms, bytes
WORDS = {"passphrase": PASSPHRASE, "streamid": STREAMID}
CRITICAL = 2  # of syslog
FOREVER = 0x7FFFFFFF  # ms


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
        options = _options(address)
        self._socket: int | None = int(self._srt.srt_create_socket())
        try:
            self._set_up(options)
            if options.get("mode") == "listener":
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

    def _set_up(self, options: dict[str, str]) -> None:
        self._set(RCVSYN, 0)  # connecting does not block, so that it can be given up
        self._set(CONNTIMEO, FOREVER)
        for key, number in NUMBERS.items():
            if key in options and not self._set(number, int(options[key])):
                raise ConfigError(f"{self._address}: SRT takes no {key} of {options[key]}")
        for key, number in WORDS.items():
            if key in options and not self._set(number, options[key].encode()):
                raise ConfigError(
                    f"{self._address}: SRT does not take this {key}: a passphrase has 10 to 79 "
                    "characters, a streamid up to 512"
                )

    def _set(self, option: int, value: int | bytes) -> bool:
        data = value if isinstance(value, bytes) else struct.pack("=i", value)
        return int(self._srt.srt_setsockflag(self._socket, option, data, len(data))) == 0

    def _call(self) -> None:
        name = _socket_address(self._address)
        self._checked(self._srt.srt_connect(self._socket, name, len(name)))
        while (state := int(self._srt.srt_getsockstate(self._socket))) != CONNECTED:
            if state >= BROKEN:
                raise SourceLost(f"{self._address} {self._why_rejected()}")
            self._wait()

    def _listen(self) -> None:
        name = _socket_address(self._address)
        self._checked(self._srt.srt_bind(self._socket, name, len(name)))
        self._checked(self._srt.srt_listen(self._socket, 1))
        while (caller := int(self._srt.srt_accept(self._socket, None, None))) < 0:
            self._wait()
        self.close()
        self._socket = caller

    def _wait(self) -> None:
        if is_over():
            raise SourceLost(f"{self._address} does not answer")
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


def _options(address: Address) -> dict[str, str]:
    """By key, as in the address. Raises ConfigError."""
    # Not as urlsplit has it: a streamid may have a # in it.
    pairs = [part.partition("=") for part in address.raw.partition("?")[2].split("&") if part]
    options = {key: unquote(value) for key, _, value in pairs}
    known = ("mode", *NUMBERS, *WORDS)
    for key in options:
        if key not in known:
            raise ConfigError(f"{address}: SRT has no {key} here: give {', '.join(known)}")
    if options.get("mode", "caller") not in MODES:
        raise ConfigError(f"{address}: mode is one of {', '.join(MODES)}")
    for key in NUMBERS:
        if key in options and not options[key].isdigit():
            raise ConfigError(f"{address}: {key} is a whole number")
    return options


def _socket_address(address: Address) -> bytes:
    """A struct sockaddr. Raises SourceLost where the host has no address."""
    parts = urlsplit(address.raw)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise SourceLost(
            f"{address} cannot be reached: there is no host {address.host} ({error})"
        ) from None
    family, *_, name = found[0]
    host = socket.inet_pton(family, str(name[0]).partition("%")[0])
    head = struct.pack("=H", family) + struct.pack("!H", name[1])
    if family == socket.AF_INET:
        return head + host + bytes(8)
    return head + bytes(4) + host + struct.pack("=I", name[3] if len(name) > 3 else 0)


@cache
def _library() -> ctypes.CDLL:
    """Raises ConfigError where the system has none."""
    for name in (*NAMES, find_library("srt") or ""):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            break
    else:
        raise ConfigError(
            "srt:// addresses need the library libsrt of the system: apt install "
            "libsrt1.5-gnutls, or dnf install srt-libs"
        )
    for text in ("srt_getlasterror_str", "srt_rejectreason_str"):
        getattr(library, text).restype = ctypes.c_char_p
    library.srt_startup()
    library.srt_setloglevel(CRITICAL)  # it would write to stderr, among our lines
    return library
