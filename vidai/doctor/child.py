"""Runs a look at something native in a process of its own, so that a crash there is a finding.

The child prints each finding as a line of JSON at once: what it found before it died is kept.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from vidai.doctor.finding import Finding, one_line
from vidai.errors import VidaiError

LIMIT = 180.0  # s; only what hangs takes so long: a first engine for TensorRT takes seconds
_DEATHS = {  # what to do, beside the advice of whoever asked
    "SIGKILL": "look at `dmesg`: the system ends processes when memory is full",
    "SIGILL": "this processor lacks an instruction that the library uses: install a build for it",
}


@dataclass(frozen=True)
class Job:
    """look(*args), a module's function. If it raises, dies or hangs, that is told as a problem
    with this section, name and advice. environ: added to ours."""

    section: str
    name: str
    look: Callable[..., Iterator[Finding]]
    advice: str
    args: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)


def run(*jobs: Job, limit: float = LIMIT) -> list[list[Finding]]:
    """What each job yields, all at the same time, none for longer than `limit` s."""
    running = [_start(job) for job in jobs]
    try:
        return [_findings(*pair, limit) for pair in zip(jobs, running, strict=True)]
    finally:
        for process in running:
            process.kill()


def _start(job: Job) -> subprocess.Popen[str]:
    # The child imports what we would import, whatever folder we are in.
    code = f"import sys; sys.path[:] = {sys.path!r}; from vidai.doctor.child import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, job.look.__module__, job.look.__qualname__, *job.args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **job.environ},
    )


def _findings(job: Job, process: subprocess.Popen[str], limit: float) -> list[Finding]:
    out = err = ""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        # A process that waits in a driver's call cannot even be killed.
        with suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=5)
        end = f"hangs: no answer in {limit:.0f} s"
    else:
        end = _end(process.returncode, err)
    found = []
    for line in map(json.loads, out.splitlines()):
        if "error" in line:
            found.append(Finding(job.section, job.name, line["error"], "problem", job.advice))
        else:
            found.append(Finding(**line))
    if end:
        advice = next((v for k, v in _DEATHS.items() if k in end), job.advice)
        found.append(Finding(job.section, job.name, end, "problem", advice))
    return found


def _end(code: int, err: str) -> str:
    """How a process ended, in words, with the last that it said; nothing if it ended well."""
    if code == 0:
        return ""
    if code > 0:
        how = f"its process ended with exit code {code}"
    else:
        try:
            how = f"its process died of {signal.Signals(-code).name}"
        except ValueError:
            how = f"its process died of signal {-code}"
    last = (err.strip().splitlines() or [""])[-1].strip()[:200]
    return f"{how}: {last}" if last else how


def main() -> None:
    """The child: `MODULE FUNCTION ARGS…`. Findings to stdout; what libraries print, to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    module, function, *args = sys.argv[1:]
    try:
        for finding in getattr(importlib.import_module(module), function)(*args):
            out.write(json.dumps(asdict(finding)) + "\n")
    except Exception as error:
        kind = "" if isinstance(error, VidaiError) else f"{type(error).__name__}: "
        out.write(json.dumps({"error": kind + one_line(error)}) + "\n")
