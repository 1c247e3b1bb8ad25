"""What an ONNX file says of itself: inputs, outputs, metadata, opset.

Reads and edits the file with a protobuf schema of just these fields, by their numbers in
onnx.proto; protobuf carries every other field through unread. So the package `onnx` is not
needed at run time.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from vidai.errors import ModelError

Dim = int | str

# message: field -> (number, type), a list where repeated; see onnx.proto.
_SCHEMA: dict[str, dict[str, tuple[int, Any]]] = {
    "Opset": {"domain": (1, "string"), "version": (2, "int64")},
    "Entry": {"key": (1, "string"), "value": (2, "string")},
    "Dimension": {"dim_value": (1, "int64"), "dim_param": (2, "string")},
    "Shape": {"dim": (1, ["Dimension"])},
    "TensorType": {"elem_type": (1, "int32"), "shape": (2, "Shape")},
    "Type": {"tensor_type": (1, "TensorType")},
    "ValueInfo": {"name": (1, "string"), "type": (2, "Type")},
    "Initializer": {"name": (8, "string")},
    "Graph": {
        "initializer": (5, ["Initializer"]),
        "input": (11, ["ValueInfo"]),
        "output": (12, ["ValueInfo"]),
    },
    "Model": {
        "ir_version": (1, "int64"),
        "graph": (7, "Graph"),
        "opset_import": (8, ["Opset"]),
        "metadata_props": (14, ["Entry"]),
    },
}
# onnx.TensorProto.DataType, as far as detectors use it.
_TYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 10: "float16", 11: "float64"}


@dataclass(frozen=True)
class Tensor:
    """An input or output. dims: numbers, or names where the size is free ("" = unnamed)."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({'×'.join(str(dim) or '?' for dim in self.dims)})"


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model in memory. name: the file's, without its ending."""

    name: str
    data: bytes = field(repr=False)
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    opset: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture input (N, 3, height, width) in px, 0 where free."""
        height, width = (d if isinstance(d, int) else 0 for d in self.inputs[0].dims[2:])
        return width, height

    @property
    def dtype(self) -> Literal["float32", "float16"]:
        """Of the picture input. Raises ModelError for another than these."""
        match self.inputs[0].dtype:
            case "float32":
                return "float32"
            case "float16":
                return "float16"
            case other:
                raise ModelError(
                    f"model {self.name} takes {other} pictures: export it for float32 or float16"
                )

    @property
    def max_batch(self) -> int | None:
        """1 where the file fixes it, None where the batch is free. Raises ModelError."""
        batch = self.inputs[0].dims[0]
        if not isinstance(batch, int):
            return None
        if batch > 1:
            raise ModelError(
                f"model {self.name} always takes {batch} pictures at once: export it with a "
                f"batch of 1 or a dynamic one"
            )
        return 1

    def literal(self, key: str, default: Any) -> Any:
        """A metadata value that is written as a Python literal. Raises ModelError."""
        if key not in self.metadata:
            return default
        try:
            return ast.literal_eval(self.metadata[key])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise ModelError(
                f"model {self.name} has unreadable metadata {key!r}: {self.metadata[key][:80]}"
            ) from error

    @property
    def names(self) -> dict[int, str]:
        """Class names by number, from the metadata "names", a list or dict as Ultralytics
        writes it; {} without. Raises ModelError."""
        given = self.literal("names", {})
        if isinstance(given, (list, tuple)):
            given = dict(enumerate(given))
        if not isinstance(given, dict):
            raise ModelError(f"model {self.name} has unreadable metadata 'names': {given!r}")
        return {number: str(name) for number, name in given.items()}

    def with_symbolic_dims(self, dims: Mapping[str, Sequence[Dim]]) -> bytes:
        """The model with other declared dims for the named inputs and outputs."""
        model = _message("Model").FromString(self.data)
        for value in (*model.graph.input, *model.graph.output):
            if value.name in dims:
                shape = value.type.tensor_type.shape
                del shape.dim[:]
                for dim in dims[value.name]:
                    shape.dim.add(**{"dim_value" if isinstance(dim, int) else "dim_param": dim})
        serialized: bytes = model.SerializeToString()
        return serialized


def read_onnx(path: Path) -> OnnxFile:
    """Read a model file. Raises ModelError where there is none or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from error
    return parse_onnx(data, path)


def parse_onnx(data: bytes, path: Path) -> OnnxFile:
    """The model file whose bytes these are. path: for its name and for messages.

    Raises ModelError where it is damaged.
    """
    try:
        model = _message("Model").FromString(data)
    except DecodeError as error:
        raise ModelError(f"{path} is no ONNX file, or a damaged one: {error}") from error
    if not model.ir_version or not model.graph.output:
        raise ModelError(f"{path} is no ONNX file: it has no graph with outputs")
    weights = {tensor.name for tensor in model.graph.initializer}
    return OnnxFile(
        name=path.stem,
        data=data,
        inputs=tuple(_tensor(v) for v in model.graph.input if v.name not in weights),
        outputs=tuple(_tensor(v) for v in model.graph.output),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        opset=max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        ),
    )


def _tensor(value: Any) -> Tensor:
    tensor = value.type.tensor_type
    dims = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim
    )
    return Tensor(value.name, _TYPES.get(tensor.elem_type, f"type {tensor.elem_type}"), dims)


@cache
def _message(name: str) -> Any:
    """The protobuf class of a message of _SCHEMA, in a descriptor pool of our own."""
    file = descriptor_pb2.FileDescriptorProto(name="vidai.proto", package="vidai")
    scalars = {
        "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
        "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    }
    for message, fields in _SCHEMA.items():
        described = file.message_type.add(name=message)
        for field_name, (number, kind) in fields.items():
            entry = described.field.add(name=field_name, number=number)
            entry.label = entry.LABEL_REPEATED if isinstance(kind, list) else entry.LABEL_OPTIONAL
            (kind,) = kind if isinstance(kind, list) else (kind,)
            if kind in scalars:
                entry.type = scalars[kind]
            else:
                entry.type, entry.type_name = entry.TYPE_MESSAGE, f".vidai.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"vidai.{name}"))
