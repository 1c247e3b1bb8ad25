"""Turns are taken in order, and nobody is ever stopped by one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from vidai import turns as module
from vidai.turns import Turns


def started(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def joined(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread is stuck"


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        pass


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60)


def test_turns_come_in_the_order_in_which_they_were_wanted(patient: None) -> None:
    turns, order = Turns(), []
    turns.take()
    threads = []
    for number in range(5):

        def run(number: int = number) -> None:
            turns.take()
            order.append(number)
            turns.give()

        threads.append(started(run))
        while len(turns._queue) <= number:
            pass
    assert turns.wanted
    assert not order
    turns.give()
    joined(*threads)
    assert order == [0, 1, 2, 3, 4]
    assert not turns.wanted


def test_a_turn_that_never_ends_stops_nobody() -> None:
    turns = Turns()
    turns.take()
    joined(*[started(turns.take) for _ in range(3)])
    assert not turns.wanted
    turns.give()  # the holder's
    turns.take()  # at once: nobody has it


def test_only_the_holder_can_give(patient: None) -> None:
    turns = Turns()
    turns.take()
    joined(started(turns.give))
    waiting = started(turns.take)
    until(lambda: turns.wanted)
    turns.give()
    joined(waiting)


def test_others_have_the_turn_while_its_holder_is_apart(patient: None) -> None:
    turns, other = Turns(), []

    def run() -> None:
        turns.take()
        other.append(True)
        turns.give()

    turns.take()
    with turns.apart():
        joined(started(run))
    assert other
    assert turns._holder == threading.get_ident()


def test_a_turn_and_a_lock_cannot_wait_for_each_other(patient: None) -> None:
    """One has the lock and wants the turn, the other has the turn and wants the lock."""
    turns, lock = Turns(), threading.Lock()
    has_lock, has_turn = threading.Event(), threading.Event()

    def first() -> None:
        with turns.holding(lock):
            has_lock.set()
            has_turn.wait()
            turns.take()
            turns.give()

    thread = started(first)
    has_lock.wait()
    turns.take()
    has_turn.set()
    with turns.holding(lock):
        pass
    turns.give()
    joined(thread)
