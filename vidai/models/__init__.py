"""Detection models: found by name or path, understood by their family.

A family is a module of this package with NAME, `matches(file)` and `load(file)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from vidai.errors import ModelError
from vidai.models import catalog
from vidai.models.model import Model
from vidai.models.onnx_file import OnnxFile, read_onnx
from vidai.types import InputSpec

__all__ = ["InputSpec", "Model", "families", "load_model", "model_of"]


def families() -> dict[str, ModuleType]:
    """The modules of the model families, by name."""
    modules = (
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    )
    return {module.NAME: module for module in modules if hasattr(module, "NAME")}


def load_model(
    name_or_path: str | Path,
    *,
    family: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """A catalog model by name, fetched if need be, or any ONNX file of a known family.

    family: its name, where the file alone does not tell. progress: called with bytes
    done and in all while a file is fetched. Raises ModelError.
    """
    entry = catalog.CATALOG.get(str(name_or_path))
    family = family or (entry.family if entry else None)
    _check(family)  # before anything is fetched
    model = model_of(read_onnx(catalog.resolve(name_or_path, progress)), family=family)
    return replace(model, name=entry.name) if entry else model


def model_of(file: OnnxFile, *, family: str | None = None) -> Model:
    """The model in an ONNX file of a known family. Raises ModelError."""
    _check(family)
    known = families()
    takes_pictures = len(file.inputs) == 1 and len(file.inputs[0].dims) == 4
    fitting = [name for name in known if takes_pictures and known[name].matches(file)]
    if family is None and len(fitting) == 1:
        family = fitting[0]
    if family not in fitting:
        raise ModelError(
            f"model {file.name} fits {' and '.join(fitting) or 'no known family'}"
            f"{f', not {family}' if family else ''}: inputs {', '.join(map(str, file.inputs))}; "
            f"outputs {', '.join(map(str, file.outputs))}; families, of which family= names "
            f"one: {', '.join(sorted(known))}"
        )
    model: Model = known[family].load(file)
    return model


def _check(family: str | None) -> None:
    known = families()
    if family is not None and family not in known:
        raise ModelError(f"no model family {family!r}: there are {', '.join(sorted(known))}")
