"""Finds folders: the project's own data, which stands beside the code in a checkout and inside
the package when installed, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder "kernels" or "pipelines"."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def cache_folder(kind: str) -> Path:
    """Where fetched "models", compiled "kernels" or built "engines" are kept."""
    if given := os.environ.get("VIDAI_CACHE"):
        base = Path(given).expanduser()
        return base if kind == "models" else base / kind
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "vidai" / kind
