"""What kernels/stdout.cpp does with C's stdout, seen from the outside of a process."""

from __future__ import annotations

import subprocess
import sys

BEGIN = """
import ctypes, os, threading
from vidai.native import load_kernels
library = load_kernels()
c = ctypes.CDLL(None)
say = lambda text: c.printf(b"%s", text)
hold, count = library.hold_stdout, library.printed_lines
"""


def printed(code: str, stdout: int = subprocess.PIPE) -> tuple[str, list[str]]:
    """What such a process wrote to stdout, and the lines of its stderr."""
    code = f"import sys\ntell = lambda *a: print(*a, file=sys.stderr)\n{BEGIN}{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, check=True
    )
    return done.stdout, done.stderr.splitlines()


def test_errors_are_counted_and_the_rest_is_shown() -> None:
    out, err = printed(
        "say(b'before: Error\\n')\n"
        "hold()\n"
        "say(b'Decode Error occurred for picture 7\\n')\n"
        "say(b'a note\\nan error\\nanother note\\n')\n"
        "tell(count())\n"
        "say(b'after: Error\\n')\n"
    )
    assert out == "before: Error\na note\nanother note\nafter: Error\n"
    assert err == ["2"]


def test_lines_may_come_in_parts() -> None:
    out, err = printed(
        "hold()\n"
        "for part in (b'Decode Er', b'ror in', b' 7\\nno', b'te\\n', b'x' * 9000, b'\\n'):\n"
        "    say(part)\n"
        "say(b'the end')\n"
        "tell(count())\n"
        "hold(); say(b'half an er'); say(b'ror'); tell(count())\n"
        "hold(); tell(count())\n"
    )
    assert out == "note\n" + "x" * 9000 + "\nthe end"
    assert err == ["1", "1", "0"]


def test_other_threads_print_as_ever() -> None:
    out, err = printed(
        "hold()\n"
        "say(b'half')\n"
        "thread = threading.Thread(target=say, args=(b'an Error elsewhere\\n',))\n"
        "thread.start(); thread.join()\n"
        "say(b' an Error\\n')\n"
        "tell(count())\n"
    )
    assert (out, err) == ("an Error elsewhere\n", ["1"])


def test_a_stdout_that_cannot_be_written_is_an_error_of_printf() -> None:
    with open("/dev/full", "wb") as full:
        _, err = printed("hold(); count()\ntell(say(b'lost\\n') < 0)\n", stdout=full.fileno())
    assert err == ["True"]
