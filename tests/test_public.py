"""What the package promises: its names, its README, its version, its pipelines."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import vidai
from tests.squares import crowd_clip
from tests.tiny_model import write_deep_model
from vidai.config import load_config, pipeline_names
from vidai.errors import ConfigError
from vidai.steps import steps_from

ROOT = Path(__file__).parents[1]


def test_public_names_are_the_exported_ones() -> None:
    public = {
        name
        for name, value in vars(vidai).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    aids = {"version", "Any", "TYPE_CHECKING"}
    assert (public - aids) | {vidai.Worker.__name__} == set(vidai.__all__)


def test_version_and_changelog_agree() -> None:
    assert f'version = "{vidai.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {vidai.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_ready_pipelines_are_valid() -> None:
    assert pipeline_names() == ["anonymize", "detect"]
    for name in pipeline_names():
        config = load_config(name)
        assert config.description
        assert steps_from(config.steps)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("model: [", "not a readable pipeline"),
        ("steps: []", "model: NAME"),
        ("model: m\nconfidence: 1", "confidence"),
        ("model: m\nconf: high", "a number"),
        ("model: m\nsteps: overlay", "a list"),
        ("- 1", "no pipeline"),
    ],
)
def test_bad_pipeline_files_say_what_is_wrong(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(word)):
        load_config(str(path))


def test_pipeline_files_name_models_beside_them(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    (tmp_path / "p.yaml").write_text("model: m.onnx")
    assert load_config(str(tmp_path / "p.yaml")).model == str(tmp_path / "m.onnx")


README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", README, ids=range(len(README)))
def test_readme_python_runs(
    code: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As printed; the model's name leads to the tiny model, put where users may put theirs."""
    shutil.copy(tiny_model, tmp_path / "yolox-nano.onnx")
    shutil.copy(ROOT / "samples" / "shapes.mp4", tmp_path / "in.mp4")
    if "quantize" in code:  # which needs layers for it, and objects
        write_deep_model(tmp_path / "yolox-nano.onnx")
        crowd_clip(tmp_path / "in.mp4", range(60))
    monkeypatch.setenv("VIDAI_MODELS", str(tmp_path))
    monkeypatch.setenv("VIDAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    code = code.replace('"person"', '"red"').replace('"car"', '"green"')
    exec(compile(code, "README.md", "exec"), {})


def test_readme_has_its_examples() -> None:
    assert len(README) == 5
    assert all(len(code.strip().splitlines()) <= 12 for code in README)


def test_frames_are_arrays_and_dlpack(tmp_path: Path) -> None:
    clip = ROOT / "samples" / "face.mp4"
    with vidai.FileSource(clip) as source:
        frame = next(f for f, _ in vidai.Pipeline(source, max_frames=1).results())
    image = frame.rgb()
    assert image.shape == (360, 640, 3)
    assert image.dtype == np.uint8
    assert (np.asarray(frame) == image).all()
    assert (np.from_dlpack(frame) == image).all()


def test_detections_convert_and_select() -> None:
    found = vidai.Detections(
        np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32),
        np.array([0.9, 0.5], np.float32),
        np.array([1, 7], np.int32),
        ("cat", "dog"),
    )
    assert found.to_dicts()[0] == {
        "box": [1.0, 2.0, 3.0, 4.0],
        "score": 0.9,
        "class_id": 1,
        "class": "dog",
    }
    assert found.to_dicts()[1]["class"] == "7"
    assert len(found[found.scores > 0.6]) == 1
    with pytest.raises(ValueError, match="one length"):
        vidai.Detections(found.boxes, found.scores[:1], found.class_ids)


def test_detections_become_supervisions() -> None:
    supervision = pytest.importorskip("supervision")
    found = vidai.Detections(
        np.array([[1, 2, 3, 4]], np.float32),
        np.array([0.9], np.float32),
        np.array([1], np.int32),
        ("cat", "dog"),
    ).to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.data["class_name"].tolist() == ["dog"]
    assert found.xyxy.tolist() == [[1, 2, 3, 4]]
