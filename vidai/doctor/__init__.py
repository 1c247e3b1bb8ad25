"""Whether and how vidai can use this machine, and what to do about each problem."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from vidai.doctor import child, gpu, host, smoke, surroundings, wheels
from vidai.doctor.child import Job
from vidai.doctor.finding import Finding, Status
from vidai.errors import DeviceUnavailable

__all__ = ["Diagnosis", "Finding", "Status", "examine"]

_BROKEN = "install it again: pip install --force-reinstall vidai"
_BROKEN_CUDA = (
    "mend what is told of the driver, then install it again: "
    "pip install --force-reinstall 'vidai[cuda]'"
)


@dataclass(frozen=True)
class Diagnosis:
    """device: what was asked for. uses: the device that it means here, "" where there is none.

    works: whether every stage of a run works on it.
    """

    device: str
    uses: str
    works: bool
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.works:
            return f"vidai works on {self.uses}"
        return f"vidai does not work on {self.uses or self.device}: see the problems"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "verdict": self.verdict}


def examine(device: str = "auto", progress: Callable[[str], None] = lambda _: None) -> Diagnosis:
    """Look at this machine and try every stage of a run on the device ("auto", "cpu", "cuda:N").

    auto: on the first GPU, if one can be used, and on the CPU. progress: is given the name of
    what is looked at. Never crashes with a native library: those are asked in processes of
    their own. Raises DeviceUnavailable for a name that is no device's.
    """
    kind, index = _parsed(device)
    name = f"cuda:{index}"
    jobs = [Job(host.SECTION, "packages", host.look, _BROKEN)]
    if kind != "cpu":
        jobs += [
            Job(surroundings.SECTION, "NVML", gpu.nvml, surroundings.REPAIR),
            Job(gpu.SECTION, name, gpu.cuda, surroundings.REPAIR, (str(index),)),
        ]
    progress("this machine")
    found, *seen = child.run(*jobs)
    tried: dict[str, list[Finding]] = {}
    if kind != "cpu":
        nvidia = [*surroundings.look(), *(finding for answer in seen for finding in answer)]
        usable = any(finding.name == name and finding.status == "ok" for finding in nvidia)
        progress("the GPU and its packages" if usable else "packages")
        nvidia += _look_at_packages(index if usable else None)
        wanted = usable or kind == "cuda" or surroundings.gpu_in_sight()
        found += nvidia if wanted else _as_notes(nvidia)
        if usable:
            tried[name] = smoke.try_out(name, progress)
    if kind != "cuda":
        tried["cpu"] = smoke.try_out("cpu", progress)
    uses = next((name for name, stages in tried.items() if _opened(stages)), "")
    works = bool(uses) and all(finding.status != "problem" for finding in tried[uses])
    findings = (*found, *(finding for stages in tried.values() for finding in stages))
    return Diagnosis(device, uses, works, findings)


def _parsed(device: str) -> tuple[str, int]:
    kind, colon, index = device.partition(":")
    numbered = kind == "cuda" and index.isdecimal()
    if kind not in ("auto", "cpu", "cuda") or (colon and not numbered):
        raise DeviceUnavailable(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N")
    return kind, int(index or 0)


def _opened(stages: list[Finding]) -> bool:
    return bool(stages) and stages[0].status != "problem"


def _as_notes(findings: list[Finding]) -> list[Finding]:
    """Nobody misses a GPU where there is none, or a package that nothing needs."""
    return [replace(f, status="note") if f.status == "problem" else f for f in findings]


def _look_at_packages(index: int | None) -> list[Finding]:
    """Of the extra `cuda`, and with them NVDEC and NVENC of GPU number `index`.

    None: no GPU can be used. Then those that need a driver are not imported: all fail alike.
    """
    here = wheels.installed()
    tried = [name for name in here if index is not None or name not in wheels.NEED_DRIVER]
    jobs = [Job(wheels.SECTION, n, wheels.imports, _BROKEN_CUDA, (n,)) for n in tried]
    if index is not None:
        alone = {"CUDA_VISIBLE_DEVICES": _visible(index)}
        jobs.append(Job(gpu.SECTION, "NVDEC, NVENC", gpu.codecs, surroundings.REPAIR, (), alone))
    found = [*wheels.missing(), *wheels.conflicts()]
    found += [Finding(wheels.SECTION, name, here[name]) for name in here if name not in tried]
    for job, answer in zip(jobs, child.run(*jobs), strict=True):
        found += _as_notes(answer) if job.name in wheels.OPTIONAL else answer
    return sorted(found, key=lambda finding: finding.section)  # NVDEC and NVENC with the GPU


def _visible(index: int) -> str:
    """What CUDA_VISIBLE_DEVICES must be for GPU number `index` to be the only one."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[index].strip() if seen else str(index)
