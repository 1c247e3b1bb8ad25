"""How long to wait before connecting again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from av import error as native

from vidai.errors import DecodeError

# What a server says that is there: no, or something that is no video. Asking again soon is of
# little use, costs it a login, and may lock the account.
ANSWERS = (
    native.HTTPClientError,
    native.HTTPServerError,
    native.InvalidDataError,
    DecodeError,
)


class Backoff:
    """Waits that double from `first`, each drawn between 0 and that ("full jitter", so that cameras
    behind one switch do not all come back at once), up to a bound that the error decides.

    Nothing there (refused, unreachable, silent, hung up): up to `quick`. Such an attempt costs
    next to nothing or has taken its own time, and a stream is to be back within 2 s of its
    server: 1.5 s of waiting at most, and the time to connect. The server answered with no (401,
    404, 5xx) or with something that is no video: up to `cap`.

    first, quick, cap: s. lasting: s for which a connection must have lasted so that the next
    failure counts as the first; a shorter one counts on.
    """

    def __init__(
        self,
        *,
        first: float = 0.25,
        quick: float = 1.5,
        cap: float = 15.0,
        lasting: float = 10.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first, self._quick, self._cap, self._lasting = first, quick, cap, lasting
        self._random = rng or random.Random()
        self._clock = clock
        self._failures = 0
        self._since: float | None = None  # when the connection was made

    def connected(self) -> None:
        """A connection has been made."""
        self._since = self._clock()

    def reset(self) -> None:
        """Begin anew: the next failure is the first."""
        self._failures, self._since = 0, None

    def after(self, error: BaseException) -> float:
        """s to wait after this failure to connect, or this end of the connection."""
        if self._since is not None and self._clock() - self._since >= self._lasting:
            self.reset()
        self._since = None
        bound = self._cap if isinstance(error.__cause__, ANSWERS) else self._quick
        wait = min(bound, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._random.uniform(0, wait)
