"""Who may see pictures and change streams: those who know the worker's token."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

SESSION_SECONDS = 30 * 24 * 3600  # a wall display signs in once a month
WRONG_TOKENS = 10  # from one address within WRONG_SECONDS, before it has to wait
WRONG_SECONDS = 60.0
ADDRESSES = 1000  # that are remembered for wrong tokens
ENDED = 1000  # sessions signed out that are remembered


class TooManyTries(Exception):
    """This address sent too many wrong tokens. seconds: until it may try again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many wrong tokens: try again in {seconds:.0f} s")
        self.seconds = seconds


class Door:
    """Checks tokens, and gives and checks the sessions of browsers.

    A session is a signed time at which it ends, so it outlives a restart of the worker and ends
    with a change of the token. An empty token opens nothing. Safe from any thread.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._token = _bytes(token)
        self._key = hashlib.sha256(b"vidai session " + self._token).digest()
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def opens(self, token: str, address: str) -> bool:
        """Whether this is the token. Raises TooManyTries, also for the right one, as long as the
        address has to wait."""
        now = self._clock()
        with self._lock:
            self._refuse_guesser(address, now)
            if self._token and hmac.compare_digest(_bytes(token), self._token):
                self._wrong.pop(address, None)
                return True
            self._wrong.setdefault(address, deque()).append(now)
            self._wrong.move_to_end(address)
            if len(self._wrong) > ADDRESSES:
                self._wrong.popitem(last=False)
            return False

    def _refuse_guesser(self, address: str, now: float) -> None:
        times = self._wrong.get(address)
        if times is None:
            return
        while times and times[0] <= now - WRONG_SECONDS:
            times.popleft()
        if len(times) >= WRONG_TOKENS:
            raise TooManyTries(times[0] + WRONG_SECONDS - now)

    def begin_session(self) -> str:
        """A new session, as the value of a cookie."""
        told = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_hex(8)}"
        return f"{told}.{self._sign(told)}"

    def knows(self, session: str) -> bool:
        """Whether this session was given here, and is neither over nor signed out."""
        told, _, signature = session.rpartition(".")
        if not self._token or not hmac.compare_digest(_bytes(signature), self._sign(told).encode()):
            return False
        with self._lock:
            ended = session in self._ended
        return not ended and int(told.partition(".")[0]) > self._clock()

    def end_session(self, session: str) -> None:
        if not self.knows(session):
            return
        with self._lock:
            self._ended[session] = None
            if len(self._ended) > ENDED:
                self._ended.popitem(last=False)

    def _sign(self, told: str) -> str:
        return hmac.new(self._key, _bytes(told), hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may hold halves of characters
