"""Runs tests/cuda on the simulated driver, in both of its modes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.usefixtures("simulated_driver")
@pytest.mark.parametrize("mode", ["strict", "deferred"])
def test_the_cuda_device_on_the_simulated_driver(mode: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/cuda", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "VIDAI_TEST_GPU": mode},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-5_000:]
