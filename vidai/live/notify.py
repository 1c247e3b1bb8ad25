"""Tells systemd how the service is, over the socket that it names in NOTIFY_SOCKET.

Elsewhere every call does nothing. The protocol is that of sd_notify(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """The service manager, if there is one. No call waits or raises."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract name; vsock is for virtual machines.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("@", "/")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self.interval = _interval(environ)

    # s between two calls of `alive`, None where nobody waits for them.
    interval: float | None

    def ready(self) -> None:
        """The service has started, or has done with reloading."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The service reads its settings again; `ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`, without passwords."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """To be said every `interval` seconds, else the service is started anew."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        with suppress(OSError):  # the manager is gone or slow: nothing that a service could mend
            self._socket.sendto(message.encode(), self._address)


def _interval(environ: Mapping[str, str]) -> float | None:
    """Half of what systemd waits, as its manual advises."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        limit = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return limit / 2e6 if limit > 0 else None
