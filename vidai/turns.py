"""Threads that would only get in each other's way take turns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 0.05  # s; a turn takes a tenth of that


class Turns:
    """One thread at a time, in the order in which they came, as far as that is kind.

    Python runs one thread at a time anyway, but hands over at every call into native code. Where
    a frame's way has dozens of such calls of a microsecond each, several threads spend most of
    their time on handing over. With turns each does some frames in one go.

    A turn is a courtesy, not a lock: when one lasts for PATIENCE, it passes to the next who waits.
    So a thread that sleeps during its turn slows the others down once, and never stops them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None  # a thread's ident
        self._queue: deque[tuple[int, threading.Lock]] = deque()
        self._count = 0  # of turns

    def take(self) -> None:
        """Wait for the turn."""
        me = threading.get_ident()
        with self._lock:
            if self._holder is None:
                self._holder = me
                self._count += 1
                return
            gate = threading.Lock()
            gate.acquire()
            waiting = (me, gate)
            self._queue.append(waiting)
        seen = self._count
        while not gate.acquire(timeout=PATIENCE):
            with self._lock:
                if self._count == seen and self._queue and self._queue[0] is waiting:
                    self._queue.popleft()
                    self._holder = me
                    self._count += 1
                    return
                seen = self._count

    def give(self) -> None:
        """Let the next one have the turn, if this thread has it."""
        with self._lock:
            if self._holder != threading.get_ident():
                return
            self._holder = None
            if self._queue:
                self._holder, gate = self._queue.popleft()
                self._count += 1
                gate.release()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._queue)

    @contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """`with lock`, without having the turn while waiting for it.

        Whoever has the lock may wait for a turn, which therefore must not wait for the lock.
        """
        if not lock.acquire(blocking=False):
            with self.apart():
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """For a while that this thread waits for something else: the turn is others' then."""
        mine = self._holder == threading.get_ident()
        if mine:
            self.give()
        try:
            yield
        finally:
            if mine:
                self.take()
