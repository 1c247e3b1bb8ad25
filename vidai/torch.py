"""PyTorch modules as models. Needs the extra `torch`; nothing else here imports it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from vidai.errors import ConfigError, ModelError
from vidai.models.onnx_file import OnnxFile, parse_onnx

try:
    import onnx
    import onnxscript  # noqa: F401 (torch.onnx.export needs it)
    import torch
except ImportError as missing:
    raise ModelError(
        f"a torch module needs the package {missing.name}: pip install 'vidai[torch]'"
    ) from missing

Names = Sequence[str] | Mapping[int, str]

_MANY = 1 << 16  # pictures: no bound at all


def export_module(module: Any, example: Any, names: Names | None = None) -> OnnxFile:
    """What torch.onnx.export makes of a module in eval mode; the module stays as it was.

    example: a float tensor (1, 3, height, width), which fixes the size of the input; the
    batch is free where the module allows that, else 1. names: of the classes, in order or
    by number, else those in the module's attribute `names`.

    Outputs are the tensors at the first level of the module's result, called by their keys
    where it is a dict, or a list of one dict as torchvision gives it for one picture. Raises
    ConfigError for the example and names, ModelError for the module.
    """
    kind = type(module).__name__
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"a torch.nn.Module is needed, not a {kind}")
    if getattr(getattr(module, "head", None), "decode_in_inference", False):
        raise ModelError(  # else its boxes would be decoded twice
            "set module.head.decode_in_inference = False first, as YOLOX's own export does"
        )
    _check_example(example)
    metadata = _metadata(module, names)
    weight = next(chain(module.parameters(), module.buffers()), example)
    example = example.detach().to(weight.device)
    with _in_eval_mode(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters', about themselves
        with _translated(f"module {kind} cannot run on the example"):
            result = module(example)
        outputs = list(_tensors(result))
        if not outputs:
            raise ModelError(f"module {kind} gives no tensor, nor a list or dict of tensors")
        export = _trace if _is_a_dict_a_picture(result) else _export
        with _translated(f"module {kind} cannot be exported to ONNX"):
            model = export(_Flat(module), example, outputs)
            onnx.helper.set_model_props(model, metadata)
            data = model.SerializeToString()
    return parse_onnx(data, Path(kind))


class _Flat(torch.nn.Module):  # type: ignore[misc]
    """A module whose result is a tuple of tensors."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Any) -> Any:
        return tuple(_tensors(self.module(images)).values())


def _is_a_dict_a_picture(result: Any) -> bool:
    """Whether a module answers as torchvision's detectors do."""
    return isinstance(result, (list, tuple)) and len(result) == 1 and isinstance(result[0], Mapping)


def _tensors(result: Any) -> dict[str, Any]:
    """The tensors at the first level of a module's result, by name."""
    if _is_a_dict_a_picture(result):
        (result,) = result
    if isinstance(result, torch.Tensor):
        result = {"output": result}
    elif isinstance(result, (list, tuple)):
        result = {f"output{place}": value for place, value in enumerate(result)}
    elif not isinstance(result, Mapping):
        return {}
    return {name: value for name, value in result.items() if isinstance(value, torch.Tensor)}


def _export(module: Any, example: Any, outputs: list[str]) -> Any:
    """The onnx.ModelProto by torch.export, with a free batch where that is sound."""

    def export(dynamic_shapes: Any) -> Any:
        return torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
        )

    try:
        program = export(({0: torch.export.Dim.AUTO},))
    except torch.onnx.OnnxExporterError:  # perhaps only because of the batch
        program = None
    if program is None or not _is_batch_free(program):
        program = export(None)
    return program.model_proto


def _is_batch_free(program: Any) -> bool:
    """Whether the program is good for any number of pictures.

    The exporter calls the batch free also where the module has settled for few pictures:
    then its range is bounded, or some output does not have it for first dimension.
    """
    graph = program.model.graph
    batch = str(graph.inputs[0].shape[0])
    ranges = {str(s): limits for s, limits in program.exported_program.range_constraints.items()}
    return (
        batch in ranges
        and ranges[batch].lower <= 1
        and ranges[batch].upper >= _MANY
        and all(value.shape and str(value.shape[0]) == batch for value in graph.outputs)
    )


def _trace(module: Any, example: Any, outputs: list[str]) -> Any:
    """The onnx.ModelProto by tracing, for one picture.

    torchvision's detectors are written for that, and refused by torch.export.
    """
    file = io.BytesIO()
    torch.onnx.export(
        module, (example,), file, dynamo=False, input_names=["images"], output_names=outputs
    )
    return onnx.load_from_string(file.getvalue())


def _metadata(module: Any, names: Names | None) -> dict[str, str]:
    """What Ultralytics' own export writes, as far as there is such: names and stride."""
    metadata = {}
    known = getattr(module, "names", None) if names is None else names
    if isinstance(known, (Sequence, Mapping)) and not isinstance(known, str):
        pairs = known.items() if isinstance(known, Mapping) else enumerate(known)
        metadata["names"] = repr({number: str(name) for number, name in pairs})
    elif names is not None:
        raise ConfigError(f"names is a list of class names, or a dict by number, not {names!r}")
    stride = getattr(module, "stride", None)
    if isinstance(stride, torch.Tensor):
        metadata["stride"] = str(int(stride.max()))
    return metadata


def _check_example(example: Any) -> None:
    given = type(example).__name__
    if isinstance(example, torch.Tensor):
        given = f"{str(example.dtype).removeprefix('torch.')} {tuple(example.shape)}"
        shape = example.shape
        if example.is_floating_point() and len(shape) == 4 and shape[:2] == (1, 3) and all(shape):
            return
    raise ConfigError(f"the example is a float tensor (1, 3, height, width), not {given}")


@contextmanager
def _in_eval_mode(module: Any) -> Iterator[None]:
    """No gradients, every part in eval mode; afterwards each part's mode is its own again."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Modules may raise anything; the exporter's own error wraps the reason."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        lines = str(cause).strip().splitlines()
        reason = lines[0] if lines else type(cause).__name__
        raise ModelError(f"{what}: {reason[:300]}") from error
