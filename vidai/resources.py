"""Finds the data folders of the project, which stand beside the code in a checkout and
inside the package when installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder "kernels" or "pipelines"."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
