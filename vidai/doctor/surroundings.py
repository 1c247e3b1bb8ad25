"""NVIDIA's driver as the files, devices and variables around this process show it.

Nothing here loads a library: functions take the root of the file system and the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from vidai.doctor.finding import Finding

SECTION = "driver"
OLDEST = 580  # of the driver: the first that brings CUDA 13
NEEDED = ("compute", "utility", "video")
ROOT = Path("/")
REPAIR = "look at `dmesg`, restart the machine, and install the driver again if that does not help"

Place = Literal["container", "WSL", "machine"]

_CONTAINER_WORDS = re.compile(r"docker|kubepods|containerd|podman|lxc|libpod")
_FLAGS = f"--gpus all -e NVIDIA_DRIVER_CAPABILITIES={','.join(NEEDED)}"


def place(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Place:
    """Where this process runs, as far as the driver cares."""
    signs = (root / ".dockerenv", root / "run/.containerenv")
    if any(sign.exists() for sign in signs) or {"container", "KUBERNETES_SERVICE_HOST"} & {
        *environ
    }:
        return "container"
    if _CONTAINER_WORDS.search(_read(root / "proc/1/cgroup")):
        return "container"
    return "WSL" if "microsoft" in _read(root / "proc/version").lower() else "machine"


def install(where: Place) -> str:
    """What to do where there is no driver, or one that is too old."""
    if where == "container":
        return (
            f"start the container with `docker run {_FLAGS}`, on a host with NVIDIA driver "
            f"{OLDEST} or newer and nvidia-container-toolkit"
        )
    if where == "WSL":
        return (
            f"install NVIDIA driver {OLDEST} or newer in Windows, none in WSL, and run "
            f"`wsl --shutdown`"
        )
    return (
        f"install NVIDIA driver {OLDEST} or newer (Ubuntu: sudo apt install "
        f"nvidia-driver-{OLDEST}) and restart the machine"
    )


def install_video(where: Place) -> str:
    """What to do where the driver's libraries for NVDEC and NVENC are missing."""
    if where != "machine":
        return install(where)
    return (
        f"install the driver's video libraries (Ubuntu: sudo apt install libnvidia-decode-{OLDEST} "
        f"libnvidia-encode-{OLDEST}; Debian: libnvcuvid1 libnvidia-encode1)"
    )


def gpu_in_sight(root: Path = ROOT) -> bool:
    """Whether anything tells of an NVIDIA GPU, usable or not."""
    return bool(_pci_gpus(root) or nodes(root) or (root / "proc/driver/nvidia").exists())


def look(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """All of it. What is in the way of a GPU is a problem; the caller knows if one is wanted."""
    where = place(root, environ)
    yield Finding(SECTION, "runs in", {"machine": "no container"}.get(where, where))
    yield from _hardware(root, where)
    yield from _capabilities(where, environ)
    yield from _visible(environ)
    yield from _mps(root, environ)


def version_on_disk(root: Path = ROOT) -> str | None:
    """The version of the kernel module, "580.95.05", where it is loaded."""
    found = re.search(r"\b(\d{3}\.[\d.]+)\b", _read(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def judged(version: str, where: Place) -> Finding:
    """The version of the driver, and whether it is new enough."""
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) >= OLDEST:
        return Finding(SECTION, "driver", version)
    value = f"{version}, too old: CUDA 13 needs {OLDEST}"
    return Finding(SECTION, "driver", value, "problem", install(where))


def _hardware(root: Path, where: Place) -> Iterator[Finding]:
    for address, driver in _pci_gpus(root).items():
        name = f"GPU at {address}"
        if driver == "nvidia" or where == "container":
            yield Finding(SECTION, name, "NVIDIA")
        elif driver is None:
            value = "NVIDIA, no driver holds it"
            yield Finding(SECTION, name, value, "problem", install(where))
        else:
            value = f"NVIDIA, held by {driver}"
            yield Finding(
                SECTION, name, value, "problem", f"{install(where)}, in place of {driver}"
            )
    files = nodes(root)
    if files:
        yield Finding(SECTION, "device files", ", ".join(files))
        locked = [node for node in files if not os.access(root / "dev" / node, os.R_OK | os.W_OK)]
        if locked:
            advice = f"let this user read and write /dev/{locked[0]}: join its group, see `ls -l`"
            yield Finding(SECTION, "permission", f"none for {locked[0]}", "problem", advice)
    elif gpu_in_sight(root):
        yield Finding(SECTION, "device files", "none: no /dev/nvidia*", "problem", install(where))
    else:
        yield Finding(SECTION, "GPU", "none in sight: no PCI device, no /dev/nvidia*", "note")


def _capabilities(where: Place, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Which parts of the driver the container runtime was told to bring."""
    name = "NVIDIA_DRIVER_CAPABILITIES"
    given = environ.get(name)
    advice = f"start the container with -e {name}={','.join(NEEDED)}"
    if given is None:
        return
    parts = {part.strip() for part in given.split(",")}
    missing = [] if "all" in parts else [need for need in NEEDED if need not in parts]
    if not missing:
        yield Finding(SECTION, name, given)
    else:
        value = f"{given or 'empty'}: {', '.join(missing)} missing"
        status: Literal["problem", "note"] = "problem" if where == "container" else "note"
        yield Finding(SECTION, name, value, status, advice)


def _visible(environ: Mapping[str, str]) -> Iterator[Finding]:
    name = "NVIDIA_VISIBLE_DEVICES"
    if (given := environ.get(name)) is not None:
        if given in ("", "void", "none"):
            advice = f"start the container with {_FLAGS}"
            yield Finding(SECTION, name, f"{given or 'empty'}: no GPU", "problem", advice)
        else:
            yield Finding(SECTION, name, given)
    name = "CUDA_VISIBLE_DEVICES"
    if (given := environ.get(name)) is not None:
        # CUDA stops at the first entry that it cannot use.
        if re.match(r"\s*(\d|GPU-|MIG-)", given):
            yield Finding(SECTION, name, f"{given}: cuda:0 is the first of these", "note")
        else:
            value = f"{given or 'empty'}: hides every GPU"
            yield Finding(SECTION, name, value, "problem", f"unset {name}, or name a GPU: 0")


def _mps(root: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    folder = environ.get("CUDA_MPS_PIPE_DIRECTORY")
    control = root / (folder or "/tmp/nvidia-mps").lstrip("/") / "control"
    if control.exists():
        value = f"a control daemon's pipe is in {control.parent}: the GPU is shared through it"
        yield Finding(SECTION, "MPS", value)
    elif folder:
        advice = "start nvidia-cuda-mps-control with the same variable, or unset it"
        value = f"CUDA_MPS_PIPE_DIRECTORY is {folder}, where no daemon has its pipe"
        yield Finding(SECTION, "MPS", value, "note", advice)


def _pci_gpus(root: Path) -> dict[str, str | None]:
    """NVIDIA's display controllers by bus address, with the kernel driver that holds each."""
    found: dict[str, str | None] = {}
    with suppress(OSError):
        for device in sorted((root / "sys/bus/pci/devices").iterdir()):
            if (
                _read(device / "vendor").strip() == "0x10de"
                and _read(device / "class")[:4] == "0x03"
            ):
                link = device / "driver"
                found[device.name] = (
                    os.path.basename(os.readlink(link)) if link.is_symlink() else None
                )
    return found


def nodes(root: Path = ROOT) -> list[str]:
    """Device files through which a driver reaches a GPU. dxg: the Windows driver's, in WSL."""
    with suppress(OSError):
        names = (path.name for path in (root / "dev").iterdir())
        return sorted(name for name in names if re.fullmatch(r"nvidia\d+|nvidiactl|dxg", name))
    return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
