"""Pipelines written as YAML: read, checked, and found by name."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from vidai.errors import ConfigError
from vidai.resources import folder


@dataclass(frozen=True)
class PipelineConfig:
    """What a pipeline file may say.

    model: catalog name or path; a relative path is seen from the file's folder. track: whether
    detections get ids that stay with an object, see vidai.tracking. steps:
    a list of step names, or of {name: {option: value}}, see vidai.steps.
    """

    model: str
    description: str = ""
    family: str | None = None
    conf: float = 0.35
    iou: float = 0.45
    classes: list[str] | None = None
    track: bool = False
    steps: list[Any] = field(default_factory=list)


def pipeline_names() -> list[str]:
    """The ready pipelines, by name."""
    return sorted(path.stem for path in folder("pipelines").glob("*.yaml"))


def load_config(name_or_path: str) -> PipelineConfig:
    """The ready pipeline of that name, or the YAML file at that path. Raises ConfigError."""
    path = folder("pipelines") / f"{name_or_path}.yaml"
    if name_or_path not in pipeline_names():
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                f"no pipeline {name_or_path!r}: give the path of a YAML file, or one of "
                f"{', '.join(pipeline_names())}"
            )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a readable pipeline file: {reason}") from error
    known = [f.name for f in fields(PipelineConfig)]
    if not isinstance(data, dict) or "model" not in data:
        raise ConfigError(f"{path} is no pipeline: it needs at least a line `model: NAME`")
    if unknown := sorted(str(key) for key in data if key not in known):
        raise ConfigError(
            f"{path} has unknown keys {', '.join(unknown)}: known are {', '.join(known)}"
        )
    _check_types(path, data)
    model = path.parent / str(data["model"])
    if model.is_file():
        data["model"] = str(model)
    return PipelineConfig(**data)


def _check_types(path: Path, data: dict[str, Any]) -> None:
    number = (int, float)
    wanted: dict[str, Any] = dict.fromkeys(("model", "description", "family"), str)
    wanted |= dict.fromkeys(("conf", "iou"), number) | dict.fromkeys(("classes", "steps"), list)
    wanted["track"] = bool
    for key, value in data.items():
        if not isinstance(value, wanted[key]) or (isinstance(value, bool) and key != "track"):
            kinds = {number: "a number", str: "text", list: "a list", bool: "true or false"}
            kind = kinds[wanted[key]]
            raise ConfigError(f"{path}: {key} must be {kind}, not {value!r}")
