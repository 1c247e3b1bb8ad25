"""A spool gives back what it took, in order, whatever happens to its process and its disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.brokers import small_disk
from vidai.errors import ConfigError, SinkError
from vidai.live import spool as spools
from vidai.live.spool import Spool

MB = 1_000_000


class Told(list[str]):
    """The kinds of the events that were emitted."""

    def __call__(self, kind: str, text: str, **_: object) -> None:
        self.append(kind)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def spool(tmp_path: Path, told: Told) -> Iterator[Spool]:
    spool = Spool(tmp_path / "s.sqlite", MB, told)
    yield spool
    spool.close()
    assert balanced(spool)


def balanced(spool: Spool) -> bool:
    now = spool.counts
    return now.accepted == now.delivered + now.waiting + sum(now.lost.values())


def body(number: int, size: int = 100) -> bytes:
    return str(number).encode().rjust(size, b".")


def drain(spool: Spool, most: int = 100) -> list[int]:
    """The numbers of all that waits, which is done then."""
    numbers = []
    while taken := spool.take(most):
        numbers += [int(item.body.strip(b".")) for item in taken]
        spool.done()
    return numbers


def test_what_is_put_is_taken_in_order(spool: Spool) -> None:
    for number in range(250):
        spool.put(body(number), "detections")
    assert spool.counts.waiting == 250
    assert spool.counts.waiting_bytes == 25_000
    assert {item.topic for item in spool.take(10)} == {"detections"}
    spool.release()
    assert drain(spool, 7) == list(range(250))
    assert spool.counts == spools.Counts(250, 250)


def test_what_was_taken_but_not_done_comes_again(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "s.sqlite"
    first = Spool(path, MB, told)
    for number in range(5):
        first.put(body(number))
    first.take(2)
    first.done()
    first.take(2)
    first.close()
    assert first.take(2) == []
    second = Spool(path, MB, told)
    assert second.counts == spools.Counts(3, 0, 3, 300)
    assert drain(second) == [2, 3, 4]
    second.put(body(9))
    assert drain(second) == [9]
    second.close()


def test_a_full_spool_loses_the_oldest_and_counts_them(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "s.sqlite"
    spool = Spool(path, 100_000, told)
    for number in range(1000):
        spool.put(body(number, 1000))
        assert balanced(spool)
        assert spool.counts.waiting_bytes <= 100_000
    assert spool.counts.lost == Counter({"spool full": 900})
    assert path.stat().st_size <= 200_000
    assert drain(spool) == list(range(900, 1000))
    spool.put(body(1, 100_001))
    assert spool.counts.lost["spool full"] == 901
    spool.close()
    assert balanced(spool)


def test_what_is_on_its_way_is_not_counted_as_lost(tmp_path: Path, told: Told) -> None:
    spool = Spool(tmp_path / "s.sqlite", 10_000, told)
    for number in range(10):
        spool.put(body(number, 1000))
    taken = spool.take(4)
    for number in range(10, 15):
        spool.put(body(number, 1000))
    assert [item.id for item in taken] == [1, 2, 3, 4]
    spool.done()
    assert spool.counts.delivered == 4
    assert spool.counts.lost == Counter({"spool full": 5})
    assert drain(spool) == [9, 10, 11, 12, 13, 14]
    spool.close()
    assert balanced(spool)


def test_the_disk_gets_its_room_back(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "s.sqlite"
    spool = Spool(path, 100 * MB, told)
    for number in range(5000):
        spool.put(body(number, 2000))
    largest = path.stat().st_size
    assert largest > 8 * MB
    assert drain(spool) == list(range(5000))
    for number in range(2000):  # as it goes on afterwards
        spool.put(body(number, 2000))
        drain(spool)
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert sum(sizes) < largest / 2
    spool.close()
    assert [file.name for file in tmp_path.iterdir()] == ["s.sqlite"]
    assert path.stat().st_size < 2 * spools.SPARE * spools.PAGE


PUTS_UNTIL_KILLED = """
import sys
from pathlib import Path
from vidai.live.spool import Spool
spool = Spool(Path(sys.argv[1]), 10**9, print)
for number in range(10**9):
    spool.put(str(number).encode())
    print(number, flush=True)
    if number % 3 == 2:
        spool.take(2)
        spool.done()
        print("done", flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_put(tmp_path: Path, told: Told) -> None:
    path = tmp_path / "s.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", PUTS_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(2000)]
        with pytest.raises(ConfigError, match="in use by another process"):
            Spool(path, MB, told)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines()
    last = max(int(line) for line in lines if line.isdigit())
    done = 2 * lines.count("done")
    spool = Spool(path, 10**9, told)
    numbers = drain(spool)
    spool.close()
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    # The last step may have been done and not told.
    assert done <= numbers[0] <= done + 2
    assert last <= numbers[-1] <= last + 1
    assert told == []


def test_a_second_user_is_refused(
    spool: Spool, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "LOCK_PATIENCE", 0.1)
    with pytest.raises(ConfigError, match="in use"):
        Spool(tmp_path / "s.sqlite", MB, told)
    spool.put(body(1))
    assert drain(spool) == [1]


@pytest.mark.parametrize("damage", ["no database", "broken page"])
def test_a_damaged_file_is_set_aside(damage: str, tmp_path: Path, told: Told) -> None:
    path = tmp_path / "s.sqlite"
    if damage == "no database":
        path.write_bytes(b"not a database " * 1000)
    else:
        spool = Spool(path, MB, told)
        for number in range(500):
            spool.put(body(number))
        spool.close()
        with path.open("r+b") as file:
            file.seek(8 * spools.PAGE)
            file.write(os.urandom(20 * spools.PAGE))
    before = path.read_bytes()
    spool = Spool(path, MB, told)
    assert told == ["spool-damaged"]
    spool.put(body(7))
    assert drain(spool) == [7]
    spool.close()
    assert balanced(spool)
    (aside,) = tmp_path.glob("s.sqlite.damaged-*")
    assert aside.read_bytes()[spools.PAGE :] == before[spools.PAGE :]  # all but its counters


def test_damage_while_it_runs_is_counted(tmp_path: Path, told: Told) -> None:
    spool = Spool(tmp_path / "s.sqlite", 100 * MB, told)
    for number in range(4000):  # more than is in memory
        spool.put(body(number, 1000))
    with (tmp_path / "s.sqlite").open("r+b") as file:
        file.seek(2 * spools.PAGE)
        file.write(os.urandom(1000 * spools.PAGE))
    drain(spool)
    for number in range(100):
        spool.put(body(number))
        assert balanced(spool)
    assert drain(spool) == list(range(100))
    spool.close()
    assert told == ["spool-damaged"]
    assert spool.counts.waiting == 0
    assert spool.counts.lost["spool damaged"] > 0


def test_a_full_disk_loses_what_is_new_and_goes_on(tmp_path: Path, told: Told) -> None:
    with small_disk(tmp_path / "disk", MB) as disk:
        spool = Spool(disk / "s.sqlite", 100 * MB, told)
        kept = []
        for number in range(1000):
            try:
                spool.put(body(number, 2000))
                kept.append(number)
            except SinkError:
                assert spool.trouble is not None
                assert "full" in spool.trouble
            assert balanced(spool)
        assert 100 < len(kept) < 500
        assert spool.trouble is not None
        assert spool.counts.lost == Counter({"disk full": 1000 - len(kept)})
        # Nobody makes room: what is sent makes it, once all is.
        assert drain(spool) == kept
        for number in range(100):
            spool.put(body(number, 2000))
        assert spool.trouble is None
        assert drain(spool) == list(range(100))
        spool.close()
        assert balanced(spool)


def test_a_disk_that_is_full_at_the_start(tmp_path: Path, told: Told) -> None:
    with small_disk(tmp_path / "disk", MB) as disk:
        hog = disk / "hog"
        with pytest.raises(OSError, match="No space"):
            hog.write_bytes(bytes(2 * MB))
        spool = Spool(disk / "s.sqlite", MB, told)
        with pytest.raises(SinkError):
            spool.put(body(1))
        hog.unlink()
        spool.put(body(2))
        assert drain(spool) == [2]
        assert spool.counts.lost == Counter({"disk full": 1})
        spool.close()


def test_counts_are_balanced_whenever_they_are_read(spool: Spool) -> None:
    stop = threading.Event()
    wrong: list[spools.Counts] = []

    def watch() -> None:
        while not stop.is_set():
            now = spool.counts
            if now.accepted != now.delivered + now.waiting + sum(now.lost.values()):
                wrong.append(now)

    def send() -> None:
        while not stop.is_set() or spool.counts.waiting:
            if spool.take(20):
                spool.done()

    threads = [threading.Thread(target=watch), threading.Thread(target=send)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        spool.put(body(number, 1000))
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert spool.counts.accepted == 3000
    assert spool.counts.waiting == 0


def test_the_file_is_plain_sqlite(spool: Spool, tmp_path: Path) -> None:
    spool.put(b"{}", "detections")
    spool.close()
    reader = sqlite3.connect(tmp_path / "s.sqlite")
    assert reader.execute("SELECT topic, body FROM waiting").fetchall() == [("detections", b"{}")]
    reader.close()
