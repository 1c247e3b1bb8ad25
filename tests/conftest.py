"""What tests share: the CPU device, the folder of larger clips, the tiny model."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.simdriver.build import Missing, build
from vidai.device import Device, open_device

ROOT = Path(__file__).parents[1]
# Those need a driver, see tests/cuda/conftest.py.
collect_ignore = [] if "VIDAI_TEST_GPU" in os.environ else ["cuda"]


@pytest.fixture(scope="session")
def device() -> Device:
    return open_device("cpu")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of clips and models that stands beside some checkouts."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("no folder `shared` beside the checkout")
    return folder


@pytest.fixture(scope="session")
def simulated_driver() -> None:
    """The simulated NVIDIA driver, built; where CI runs everything that it needs must be there."""
    required = os.environ.get("CI") == "true"
    for package in ("cuda", "PyNvVideoCodec"):
        if find_spec(package) is None and not required:
            pytest.skip(f"{package} is not installed: pip install 'vidai[test]'")
    try:
        build()
    except Missing as missing:
        if required:
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of bright squares with hand-set weights, see tests/tiny_model.py."""
    from tests.tiny_model import write_tiny_model

    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    write_tiny_model(path)
    return path
