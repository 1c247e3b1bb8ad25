"""What a long computation has found so far, on disk, so that a later run goes on from there."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidai.cache import keep


class Notebook:
    """A folder of results by name, each written in one step.

    Results are those of one computation only: the folder's name says which. An unreadable one is
    computed again; where the folder cannot be written nothing is kept, and `not_kept` says why.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.not_kept: OSError | None = None

    def number(self, name: str, compute: Callable[[], float]) -> float:
        """The number of that name, computed if it is not there."""
        path = self.folder / f"{name}.json"
        try:
            return float(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, OverflowError):
            number = compute()
            self._keep(path, json.dumps(number).encode())
            return number

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """The arrays of that name; None where they are not there."""
        try:
            written = (self.folder / f"{name}.npz").read_bytes()
            with np.load(io.BytesIO(written)) as kept:
                return dict(kept)
        except Exception:  # of zipfile and what it reads with, which have no common base
            return None

    def keep_arrays(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write them down."""
        written = io.BytesIO()
        np.savez(written, **arrays)
        self._keep(self.folder / f"{name}.npz", written.getvalue())

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            keep(path, data)
        except OSError as error:
            self.not_kept = error
