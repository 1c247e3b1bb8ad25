"""How much of what a model finds each FP8 recipe keeps, on pictures that no recipe has seen.

    python benchmarks/fp8.py [--pictures FOLDER] [--yolox FILE] [--modelopt-python PYTHON]
                             [--json FILE]
    python benchmarks/fp8.py --wide

Of the pictures, sorted, every other one calibrates; the rest, and their mirror images, are what
the models are compared on: F1 with the FP32 model at the threshold, and its mean at five
thresholds around it, since at a single one a box more or less decides. All run in ONNX Runtime
on the CPU, which computes each layer in float32 between values rounded to FP8, as a GPU does.

ModelOpt needs an environment of its own, see benchmarks/modelopt_fp8.py. --wide: instead, how long
`vidai quantize` takes for a network of YOLOX-s's work, see benchmarks/widened.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from widened import macs, resize, widened

from vidai.device import Device, open_device
from vidai.errors import VidaiError
from vidai.models import Model, load_model
from vidai.ops import letterbox
from vidai.precision import f1
from vidai.sources.file import FileSource
from vidai.types import Detections, Frame, Placement

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
# What vidai needs beside the pictures, which show too few faces to prove anything by a third.
FACES = HERE.parent / "samples" / "face.mp4"
Array = npt.NDArray[Any]

PICTURES = (".jpg", ".jpeg", ".png")
AROUND = (0.8, 0.9, 1.0, 1.1, 1.2)  # of the threshold
IOU = 0.45
CONFS = {"YOLOX-nano": 0.4, "CenterFace": 0.5}
FEW = 16  # channels: with as many or fewer, tensor cores have no fast path
SIDE = 640  # px, of the wide network
LARGEST = 448.0  # of FLOAT8E4M3FN
OPSET = 19  # the first with FP8
FIXED = (640, 480)  # input of a model of any size where a recipe takes one only


@dataclass(frozen=True)
class Picture:
    """A picture in a model's input. data: (1, 3, height, width). size: (width, height) in px."""

    data: Array
    placement: Placement
    size: tuple[int, int]


@dataclass(frozen=True)
class Subject:
    """A model that recipes quantise.

    proto: of opset 19, its nodes named. macs: multiply-accumulates of its convolutions by name.
    quantisable: those that FP8 may make faster. alike: calibrating pictures of one size, (1, 3,
    height, width) each: where the model takes any size, the upright ones are left out. folder: for
    what recipes make.
    """

    model: Model
    conf: float
    files: list[Path]
    calibrating: list[Picture]
    alike: list[Array]
    proto: onnx.ModelProto
    macs: dict[str, int]
    quantisable: list[str]
    folder: Path

    def share(self, convolutions: Iterable[str]) -> float:
        """Of the quantisable multiply-accumulates."""
        found = set(convolutions)
        total = sum(self.macs[name] for name in self.quantisable)
        return sum(self.macs[name] for name in self.quantisable if name in found) / total


@dataclass(frozen=True)
class Made:
    """What a recipe made. share: of the quantisable multiply-accumulates that are in FP8."""

    path: Path
    share: float


@dataclass(frozen=True)
class Row:
    """A recipe's result. seconds: that it took. failed: why there is none."""

    recipe: str
    share: float = 0.0
    f1: float = 0.0
    mean_f1: float = 0.0
    boxes: int = 0
    seconds: float = 0.0
    failed: str = ""


Recipe = Callable[[Subject], Made]


# ---- pictures


def frame_of(path: Path, device: Device) -> Frame:
    with FileSource(path) as source:
        decoder = device.decoder(source.video, source.info)
        packets = [packet for packet in source.packets() if packet.stream is source.video]
        return next(frame for packet in (*packets, None) for frame in decoder.decode(packet))


def mirrored(files: Iterable[Path], folder: Path) -> list[Path]:
    """The pictures seen in a mirror, as files in the folder."""
    made = []
    for path in files:
        made.append(folder / f"{path.stem}.png")
        with Image.open(path) as image:
            # Without the profile: PyAV frees its name twice.
            ImageOps.mirror(image.convert("RGB")).save(made[-1], icc_profile=None)
    return made


def pictures(
    files: Iterable[Path], model: Model, device: Device, size: tuple[int, int] | None = None
) -> Iterator[Picture]:
    """size: (width, height) of the input, None for the model's own."""
    for path in files:
        frame = frame_of(path, device)
        width, height = size or model.spec.size_for(frame.width, frame.height)
        data = np.empty((1, 3, height, width), model.spec.dtype)
        yield Picture(data, letterbox(frame, data, 0, model.spec), (frame.width, frame.height))


# ---- models


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # The optimisations beyond these take Relu out where FP8 follows, as if that could not be < 0.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def detections(
    path: Path, family: str, files: Sequence[Path], conf: float, device: Device
) -> list[list[Detections]]:
    """What a model finds in each picture, for each of the thresholds."""
    model = load_model(path, family=family)
    running = session(model.onnx)
    key = running.get_inputs()[0].name
    found: list[list[Detections]] = [[] for _ in AROUND]
    for picture in pictures(files, model, device):
        outputs = [np.ascontiguousarray(out) for out in running.run(None, {key: picture.data})]
        height, width = picture.data.shape[2:]
        for part, list_ in zip(AROUND, found, strict=True):
            list_ += model.detections(
                device,
                outputs,
                size=(width, height),
                placements=[picture.placement],
                pictures=[picture.size],
                conf=part * conf,
                iou=IOU,
            )
    return found


def prepared(model: Model) -> onnx.ModelProto:
    """The model in a form that all recipes take."""
    proto = version_converter.convert_version(onnx.load_from_string(model.onnx), OPSET)
    proto.ir_version = max(proto.ir_version, 9)
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
    return proto


def convolutions(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == "Conv"]


def is_dense(node: onnx.NodeProto) -> bool:
    return all(a.i == 1 for a in node.attribute if a.name == "group")


def outputs_of(proto: onnx.ModelProto, names: Iterable[str]) -> onnxruntime.InferenceSession:
    """A session that gives those tensors instead of the model's outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return session(shown.SerializeToString())


def subject_of(
    model: Model, conf: float, files: list[Path], folder: Path, device: Device
) -> Subject:
    proto = prepared(model)
    calibrating = list(pictures(files, model, device))
    alike = [picture.data for picture in calibrating]
    if not model.spec.width:
        fixed = pictures(files, model, device, FIXED)
        alike = [picture.data for picture in fixed if picture.size[0] > picture.size[1]]
    shapes = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    nodes = convolutions(proto)
    shown = outputs_of(proto, [node.output[0] for node in nodes])
    made = shown.run(None, {proto.graph.input[0].name: calibrating[0].data})
    work = {
        node.name: int(np.prod(shapes[node.input[1]])) * output[0, 0].size
        for node, output in zip(nodes, made, strict=True)
    }
    quantisable = [
        node.name for node in nodes if is_dense(node) and min(shapes[node.input[1]][:2]) > FEW
    ]
    return Subject(model, conf, files, calibrating, alike, proto, work, quantisable, folder)


def in_fp8(proto: onnx.ModelProto) -> list[str]:
    """Names of the convolutions whose input and weights come out of FP8."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    types |= {
        node.output[0]: attribute.t.data_type
        for node in proto.graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }

    def is_fp8(name: str) -> bool:
        node = makers.get(name)
        while node is not None and node.op_type == "Cast":
            node = makers.get(node.input[0])
        return (
            node is not None
            and node.op_type == "DequantizeLinear"
            and types.get(node.input[2]) == TensorProto.FLOAT8E4M3FN
        )

    return [node.name for node in convolutions(proto) if all(map(is_fp8, node.input[:2]))]


def read_back(subject: Subject, path: Path) -> Made:
    return Made(path, subject.share(in_fp8(onnx.load(path))))


# ---- recipes


class Reader:
    """The calibration pictures, one at a time."""

    def __init__(self, subject: Subject) -> None:
        key = subject.proto.graph.input[0].name
        self.waiting = iter([{key: data} for data in subject.alike])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.waiting, None)


def with_onnxruntime(subject: Subject, *, small_too: bool) -> Made:
    """quantize_static with the one calibration that it has for FP8.

    Its option QDQKeepRemovableActivations changes nothing where only convolutions are quantised.
    """
    given, path = (
        subject.folder / f"onnxruntime-{end}.onnx" for end in ("given", f"small-{small_too}")
    )
    onnx.save(subject.proto, given)  # the model itself would be changed
    with redirect_stdout(sys.stderr):
        quantize_static(
            given,
            path,
            Reader(subject),
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=None if small_too else subject.quantisable,
            activation_type=QuantType.QFLOAT8E4M3FN,
            weight_type=QuantType.QFLOAT8E4M3FN,
            calibrate_method=CalibrationMethod.Distribution,
        )
    return read_back(subject, path)


def with_largest(subject: Subject, *, small_too: bool) -> Made:
    """Scales from the largest magnitudes: of an input's values, of each output's weights."""
    path = subject.folder / f"largest-{'all' if small_too else 'quantisable'}.onnx"
    proto = onnx.ModelProto()
    proto.CopyFrom(subject.proto)
    graph = proto.graph
    chosen = {
        node.name: node
        for node in convolutions(proto)
        if node.name in subject.quantisable or (small_too and is_dense(node))
    }
    inputs = list(dict.fromkeys(node.input[0] for node in chosen.values()))
    largest = largest_values(subject, inputs)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    added: dict[str, str] = {}

    def rounded(name: str, scale: Array) -> str:
        """The tensor's name after FP8. scale: () or (outputs,)."""
        if name not in added:
            step, zero, code, added[name] = (f"{name}_{e}" for e in ("scale", "zero", "q", "dq"))
            graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), step))
            graph.initializer.append(
                helper.make_tensor(
                    zero, TensorProto.FLOAT8E4M3FN, scale.shape, bytes(scale.size), raw=True
                )
            )
            graph.node.extend(
                [
                    helper.make_node("QuantizeLinear", [name, step, zero], [code], axis=0),
                    helper.make_node("DequantizeLinear", [code, step, zero], [added[name]], axis=0),
                ]
            )
        return added[name]

    for node in nodes:
        if node.name in chosen:
            rows = np.abs(weights[node.input[1]]).max((1, 2, 3)).clip(1e-12)
            node.input[1] = rounded(node.input[1], rows / LARGEST)
            node.input[0] = rounded(node.input[0], np.array(largest[node.input[0]] / LARGEST))
        graph.node.append(node)
    onnx.save(proto, path)
    return read_back(subject, path)


def largest_values(subject: Subject, names: list[str]) -> dict[str, float]:
    """The largest magnitudes of tensors on the calibration pictures, by name."""
    key = subject.proto.graph.input[0].name
    running = outputs_of(subject.proto, [name for name in names if name != key])
    shown = [output.name for output in running.get_outputs()]
    found = dict.fromkeys(names, 0.0)
    for picture in subject.calibrating:
        made = dict(zip(shown, running.run(None, {key: picture.data}), strict=True))
        for name, array in ({key: picture.data} | made).items():
            found[name] = max(found.get(name, 0.0), float(np.abs(array).max()))
    return found


def with_modelopt(subject: Subject, *, python: str, method: str) -> Made:
    """NVIDIA ModelOpt, in its own environment."""
    given, shown, path = (
        subject.folder / f"modelopt-{name}"
        for name in ("given.onnx", "shown.npy", f"{method}.onnx")
    )
    np.save(shown, np.concatenate(subject.alike))
    fixed = onnx.ModelProto()
    fixed.CopyFrom(subject.proto)
    first = subject.alike[0]
    answer = session(fixed.SerializeToString()).run(None, {fixed.graph.input[0].name: first})
    for value, array in zip(ends(fixed), (first, *answer), strict=True):
        for dim, length in zip(value.type.tensor_type.shape.dim, array.shape, strict=True):
            dim.dim_value = length
    onnx.save(fixed, given)
    command = [python, str(HERE / "modelopt_fp8.py"), str(given), str(shown), str(path), method]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or ["ModelOpt gave no reason"])[-1])
    made = onnx.load(path)
    for value, own in zip(ends(made), ends(subject.proto), strict=True):
        value.type.tensor_type.shape.CopyFrom(own.type.tensor_type.shape)
    del made.graph.value_info[:]  # for one size, and not needed
    onnx.save(made, path)
    return read_back(subject, path)


def ends(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*proto.graph.input, *proto.graph.output]


def with_vidai(subject: Subject, *, target: float) -> Made:
    """`vidai quantize`; with target 0 every layer that it would quantise."""
    from vidai.quantization import quantize

    path = subject.folder / f"vidai-{target}.onnx"
    forget(subject.folder / f"notes-{target}")
    clips = [FACES] if subject.model.names == ("face",) else []
    record = quantize(
        subject.model,
        path,
        calibrate=[*subject.files, *clips],
        target=target,
        conf=subject.conf,
        iou=IOU,
    )
    return Made(path, record.share)


def forget(folder: Path) -> None:
    """Let `vidai quantize` find no notes of another run: it goes on where that one was."""
    os.environ["VIDAI_CACHE"] = str(folder)


class Failed(Exception):
    """Why a recipe gave nothing."""


def recipes(modelopt: str | None) -> dict[str, Recipe]:
    """modelopt: the Python of its environment."""
    found: dict[str, Recipe] = {
        "onnxruntime": partial(with_onnxruntime, small_too=False),
        "  every convolution": partial(with_onnxruntime, small_too=True),
        "largest magnitudes": partial(with_largest, small_too=False),
        "  every dense convolution": partial(with_largest, small_too=True),
    }
    if modelopt:
        found |= {
            f"ModelOpt, {method}": partial(with_modelopt, python=modelopt, method=method)
            for method in ("max", "entropy")
        }
    return found | {
        "vidai, all layers": partial(with_vidai, target=0.0),
        "vidai, target 0.98": partial(with_vidai, target=0.98),
    }


# ---- results


def results(
    subject: Subject, wanted: dict[str, Recipe], unseen: list[Path], device: Device
) -> Iterator[Row]:
    """The model as it is, then each recipe."""
    given = subject.folder / "given.onnx"
    given.write_bytes(subject.model.onnx)
    family = type(subject.model).__module__.rpartition(".")[2]
    references = detections(given, family, unseen, subject.conf, device)
    middle = AROUND.index(1.0)
    yield Row("FP32", 0.0, 1.0, 1.0, sum(map(len, references[middle])))
    for name, recipe in wanted.items():
        start = time.perf_counter()
        try:
            made = recipe(subject)
        except (Failed, VidaiError) as error:
            yield Row(name, failed=str(error))
            continue
        seconds = time.perf_counter() - start
        found = detections(made.path, family, unseen, subject.conf, device)
        agreements = list(map(f1, references, found))
        boxes = sum(map(len, found[middle]))
        yield Row(name, made.share, agreements[middle], mean(agreements), boxes, seconds)


def compare(
    models: dict[str, str],
    files: list[Path],
    modelopt: str | None,
    folder: Path,
    console: Console,
) -> dict[str, list[Row]]:
    """The rows of each model, by its title, which are printed as a table."""
    device = open_device("cpu")
    loaded = {title: load_model(name) for title, name in models.items()}
    unseen = [*files[1::2], *mirrored(files[1::2], folder)]
    rows: dict[str, list[Row]] = {}
    for title, model in loaded.items():
        place = folder / title
        place.mkdir()
        subject = subject_of(model, CONFS[title], files[::2], place, device)
        rows[title] = []
        for row in results(subject, recipes(modelopt), unseen, device):
            rows[title].append(row)
            print(f"{title}: {row.recipe.strip()}", file=sys.stderr)
    console.print(table(rows, len(unseen)))
    for title, list_ in rows.items():
        for row in list_:
            if row.failed:
                console.print(f"{title}: {row.recipe.strip()} failed: {row.failed}", markup=False)
    if not modelopt:
        console.print("without NVIDIA ModelOpt: --modelopt-python, see benchmarks/modelopt_fp8.py")
    return rows


def table(rows: dict[str, list[Row]], unseen: int) -> Table:
    shown = Table(title=f"FP8 beside FP32, {unseen} pictures that no recipe has seen")
    shown.add_column("recipe", no_wrap=True)
    for column in ("in FP8", "F1", "mean F1", "boxes", "s to make"):
        shown.add_column(column, justify="right")
    for title, list_ in rows.items():
        shown.add_section()
        shown.add_row(f"[bold]{title}, score {CONFS[title]}")
        for row in list_:
            numbers = (
                f"{row.share:.1%}",
                f"{row.f1:.4f}",
                f"{row.mean_f1:.4f}",
                str(row.boxes),
                f"{row.seconds:.0f}",
            )
            shown.add_row(row.recipe, *(("failed",) if row.failed else numbers))
    return shown


# ---- how long it takes


def wide(yolox: str, files: list[Path], folder: Path) -> dict[str, Any]:
    """What quantising a network of YOLOX-s's work takes."""
    from vidai.quantization import quantize

    given = onnx.load_from_string(load_model(yolox).onnx)
    network = widened(given, SIDE)
    resize(given.graph, SIDE)
    shown = np.random.default_rng(0).uniform(0, 255, (1, 3, SIDE, SIDE)).astype(np.float32)
    (narrow,), (output,) = (
        session(proto.SerializeToString()).run(None, {proto.graph.input[0].name: shown})
        for proto in (given, network)
    )
    off = float(np.abs(output - narrow).max() / np.abs(narrow).max())
    if off > 1e-4:
        raise AssertionError(f"the wide network computes something else: {off:.1e} apart")
    path = folder / "wide.onnx"
    onnx.save(network, path)
    forget(folder / "notes")
    start, cpu = time.perf_counter(), time.process_time()
    record = quantize(path, folder / "wide-fp8.onnx", calibrate=files, conf=0.4, iou=IOU)
    return {
        "gmacs": macs(network) / 1e9,
        "gmacs_before": macs(given) / 1e9,
        "apart": off,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "layers": len(record.layers),
        "tried": len(record.curve),
        "frames": sum(record.frames.values()),
        "share": record.share,
        "f1": record.f1,
    }


WIDE = """\
{gmacs:.1f} G multiply-accumulates at 640 px (YOLOX-s: 13.4 G, before: {gmacs_before:.1f} G),
the same outputs but for {apart:.0e} of the largest;
quantised in {seconds:.0f} s, {cpu_seconds:.0f} s of CPU, {peak_mb:,.0f} MB at most:
{tried} choices of {layers} layers tried on {frames} frames, {share:.1%} of the work, F1 {f1:.4f}"""


# ---- all of it


def machine(modelopt: str | None) -> dict[str, Any]:
    packages = {name: version(name) for name in ("vidai", "onnxruntime", "onnx", "numpy")}
    if modelopt:
        ask = "from importlib.metadata import version; print(version('nvidia-modelopt'))"
        try:
            said = subprocess.run([modelopt, "-c", ask], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"no ModelOpt with {modelopt}, see benchmarks/modelopt_fp8.py: {error}")
        packages["nvidia-modelopt"] = said.stdout.strip()
    return {
        "processor": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": packages,
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=SHARED / "images", metavar="FOLDER")
    parser.add_argument("--yolox", default="yolox-nano", metavar="FILE", help="YOLOX-nano")
    parser.add_argument("--modelopt-python", metavar="PYTHON", help="of ModelOpt's environment")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the results for programs")
    parser.add_argument("--wide", action="store_true", help="time a network of YOLOX-s's work")
    options = parser.parse_args()
    files = sorted(p for p in options.pictures.glob("*") if p.suffix.lower() in PICTURES)
    if len(files) < 2:
        sys.exit(f"no pictures in {options.pictures}: name a folder with --pictures")
    logging.disable(logging.WARNING)  # of quantize_static
    console = Console()
    here = machine(options.modelopt_python)
    told = ", ".join(f"{name} {number}" for name, number in here["packages"].items())
    console.print(f"{here['processor']}, {here['cores']} cores; {told}", highlight=False)
    found: dict[str, Any] = {"machine": here}
    with tempfile.TemporaryDirectory() as name:
        if options.wide:
            found["wide"] = wide(options.yolox, files, Path(name))
            console.print(WIDE.format(**found["wide"]), highlight=False)
        else:
            models = {"YOLOX-nano": options.yolox, "CenterFace": "centerface"}
            rows = compare(models, files, options.modelopt_python, Path(name), console)
            found |= {title: [asdict(row) for row in list_] for title, list_ in rows.items()}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
