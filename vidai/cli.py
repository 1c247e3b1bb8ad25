"""The vidai command: parses, calls the library, prints. Nothing else in vidai prints."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from vidai.config import pipeline_names
from vidai.errors import VidaiError

EXIT_DAMAGED = 3
EXIT_MISSED = 4
EXIT_INTERRUPTED = 130

Command = TypeVar("Command", bound=Callable[..., Any])


class Failure(click.ClickException):
    """One line on stderr and exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"vidai: {self.message}", file=file, err=True)


class Cli(click.Group):
    """Turns every error into one sentence; -v shows where it came from."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("vidai: interrupted, nothing is left", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except Exception as error:
            if isinstance(error.__cause__ or error, BrokenPipeError):
                # Whoever read our output has seen enough, as `head` does.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                ctx.exit(1)
            if ctx.meta.get("verbose"):
                traceback.print_exc()
            if isinstance(error, VidaiError):
                raise Failure(str(error)) from error
            raise Failure(
                f"unexpected {type(error).__name__}: {error}; this is a bug in vidai, "
                f"-v shows where"
            ) from error


def _set_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["verbose"] = True


verbose = click.option(
    *("-v", "--verbose"),
    is_flag=True,
    expose_value=False,
    callback=_set_verbose,
    help="Show a traceback with an error.",
)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vidai", message="vidai %(version)s")
@verbose
def cli() -> None:
    """Video AI: detect objects in a video, draw or redact them, and keep all the rest.

    \b
    vidai run in.mp4 out.mp4                        find objects and draw them
    vidai run in.mp4 out.mp4 --pipeline anonymize   find faces and blur them
    vidai run in.mp4 --records out.jsonl            detections only, nothing drawn
    vidai serve cameras.yaml                        many live streams, for months
    vidai probe in.mp4                              what is in a file
    vidai eval yolox-nano --data labels.json        how good a model is
    vidai quantize yolox-s -o fp8.onnx --calibrate videos/
                                                    make it FP8, and prove it
    vidai doctor                                    whether this machine's GPU can be used

    \b
    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but the input was
    damaged; 4 done, but the target was missed; 130 interrupted.
    """


class Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """90, 1:30 or 0:01:30.5, as seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            parts = [float(part) for part in str(value).split(":")]
        except ValueError:
            parts = []
        if not 1 <= len(parts) <= 3 or not all(0 <= part < 1e9 for part in parts):
            self.fail(f"{value!r} is no time: write 90, 1:30 or 0:01:30.5", param, ctx)
        seconds = 0.0
        for part in parts:
            seconds = seconds * 60 + part
        return seconds


def _complete_models(_: Any, __: Any, incomplete: str) -> list[CompletionItem]:
    from vidai.models.catalog import CATALOG

    names = [CompletionItem(name) for name in CATALOG if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def _complete_pipelines(_: Any, __: Any, incomplete: str) -> list[CompletionItem]:
    names = [CompletionItem(name) for name in pipeline_names() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def _classes(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


class File(click.Path):
    """A path; an empty one, as of a variable that is not set, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


FILE = File(path_type=Path)
LEVEL = click.FloatRange(0, 1)


@cli.command()
@click.argument("input", type=FILE)
@click.argument("output", type=FILE, required=False)
@click.option(
    "--model",
    metavar="NAME|FILE",
    shell_complete=_complete_models,
    help="A name from `vidai models list` or an ONNX file.  [default: the pipeline's]",
)
@click.option(
    "--family", metavar="NAME", help="Which family a model is of, where its file fits several."
)
@click.option(
    "--pipeline",
    metavar="NAME|FILE",
    default="detect",
    show_default=True,
    shell_complete=_complete_pipelines,
    help=f"{', '.join(pipeline_names())}, or a YAML file.",
)
@click.option("--device", metavar="auto|cpu|cuda[:N]", default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "fp8", "int8"]),
    help="auto: the fastest that finds the same in frames of INPUT, measured once for a GPU. fp8 "
    "and int8 are for models that `vidai quantize` has made, or others with Q/DQ nodes. On the CPU "
    "this is for comparing, not for speed.  [default: on a GPU auto, on the CPU the model as it "
    "is]",
)
@click.option("--conf", type=LEVEL, help="Least score of a detection.")
@click.option("--iou", type=LEVEL, help="Overlap above which the weaker box goes.")
@click.option("--classes", metavar="NAME,…", callback=_classes, help="Keep only these classes.")
@click.option(
    "--track/--no-track",
    default=None,
    help="Give each object a number that stays with it over the frames: drawn as #7, track_id in "
    "records. Needs the extra `track`.  [default: the pipeline's]",
)
@click.option(
    "--records",
    type=click.Path(path_type=Path, allow_dash=True),
    help="One JSON line a frame; - for stdout.",
)
@click.option("--report", type=FILE, help="The account of the run as JSON.")
@click.option(
    "--codec",
    type=click.Choice(["h264", "hevc", "av1"]),
    default="h264",
    show_default=True,
    help="Video codec of OUTPUT.",
)
@click.option(
    "--quality",
    type=int,
    metavar="CRF",
    help="Lower is better and larger.  [default: h264 23, hevc 26, av1 32]",
)
@click.option("--preset", help="The encoder's speed preset; NVENC: P1 (fastest) to P7 (best).")
@click.option("--bframes", type=click.IntRange(0), metavar="N", help="B-frames; NVENC: 0.")
@click.option("--start", type=Seconds(), help="Begin here: 90, 1:30 or 0:01:30.5.")
@click.option("--end", type=Seconds(), help="Stop here.")
@click.option("--max-frames", type=click.IntRange(1), metavar="N", help="Stop after N frames.")
@click.option("--no-audio", is_flag=True, help="Leave the sound out of OUTPUT.")
@click.option("--strict", is_flag=True, help="Damaged input is an error, not a warning.")
@click.option(
    "--strict-gpu", is_flag=True, help="What the GPU cannot do itself is an error, not CPU work."
)
@click.option(
    "--max-host-bytes-per-frame",
    type=click.IntRange(0),
    metavar="N",
    help="Fail once more than N bytes a frame cross between host and GPU, on average.",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@verbose
@click.pass_context
def run(
    ctx: click.Context, /, model: str | None, no_audio: bool, quiet: bool, **options: Any
) -> None:
    """Detect objects in INPUT, draw them, and write OUTPUT.

    OUTPUT (.mp4, .mov, .mkv, .webm) keeps the sound, subtitles, timing, rotation, colours
    and metadata of INPUT. Without OUTPUT nothing is drawn or encoded: use --records.

    \b
    vidai run street.mp4 boxes.mp4 --classes person,car --conf 0.5
    vidai run party.mov safe.mp4 --pipeline anonymize
    vidai run street.mp4 --track --records tracks.jsonl
    vidai run long.mkv --records found.jsonl --start 1:00:00 --end 1:05:00
    """
    from vidai import api, terminal

    if options["output"] is None and options["records"] is None and options["report"] is None:
        raise click.UsageError("nothing to write: give OUTPUT, --records or --report")
    with (
        terminal.download(quiet) as on_download,
        terminal.engine(quiet) as on_build,
        terminal.frames(quiet) as on_report,
    ):
        report = api.run(
            model=model,
            audio=not no_audio,
            progress=on_report,
            download=on_download,
            build=on_build,
            **options,
        )
    if not quiet:
        terminal.summary(report)
    if report.interrupted:
        ctx.exit(EXIT_INTERRUPTED)
    if report.damaged:
        ctx.exit(EXIT_DAMAGED)


@cli.command("eval")
@click.argument("model", metavar="MODEL", shell_complete=_complete_models)
@click.option(
    "--data",
    type=FILE,
    multiple=True,
    required=True,
    metavar="COCO.json|FOLDER|FILE",
    help="A JSON file of labelled boxes in COCO's format; or clips, pictures and folders of them, "
    "without labels; the latter may be repeated.",
)
@click.option(
    "--against",
    metavar="NAME|FILE",
    shell_complete=_complete_models,
    help="Compare with this model: what it finds is the reference.",
)
@click.option(
    "--images",
    type=FILE,
    metavar="FOLDER",
    help="Where the pictures of COCO.json are.  [default: its own folder]",
)
@click.option(
    "--frames",
    type=click.IntRange(1),
    metavar="N",
    default=200,
    show_default=True,
    help="How many frames to compare without labels, spread over all of --data. With labels all "
    "pictures count.",
)
@click.option("--conf", type=LEVEL, help="Least score of a box.  [default: AP 0.001, F1 0.35]")
@click.option(
    "--iou",
    type=LEVEL,
    help="Overlap above which the weaker box goes.  [default: AP 0.65, F1 0.45]",
)
@click.option("--family", metavar="NAME", help="Which family MODEL is of, where it fits several.")
@click.option("--against-family", metavar="NAME", help="The same of --against.")
@click.option("--device", metavar="auto|cpu|cuda[:N]", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only, and what --json asks for.")
@verbose
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    model: str,
    data: tuple[Path, ...],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """How good MODEL is: by labels, or by what another model finds in your own videos.

    With labels: COCO's average precision, 0 to 1. As for the figures that models are published
    with, every box counts from a score of 0.001 on, a weaker one is dropped only above an overlap
    of 0.65, and of a class in a picture the 100 best are taken. Needs the extra `eval`.

    With --against: how many boxes a run of either model would show (from a score of 0.35 on,
    overlap 0.45), and how many are of both: one class, IoU 0.5 or more. F1 is 1 where all are.
    Of those: how far boxes are apart (1 - IoU, and their corners in px), and by how much MODEL's
    score is higher (mean and standard deviation).

    Each model runs in the precision of its file.

    \b
    vidai eval yolox-nano --data annotations/instances_val2017.json --images val2017
    vidai eval small.onnx --against yolox-l --data videos/ --frames 500
    vidai eval new.onnx --against old.onnx --data labels.json --json | jq .accuracy.ap
    """
    from vidai import evaluation, terminal
    from vidai.evaluation.coco import is_labels

    if options["against"] is None and not any(map(is_labels, data)):
        raise click.UsageError(
            "without labels a model can only be compared with another: give --against, or a JSON "
            "file of labels as --data"
        )
    with (
        terminal.download(quiet) as on_download,
        terminal.working(quiet) as on_progress,
    ):
        found = evaluation.evaluate(
            model, data, progress=on_progress, download=on_download, **options
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    elif not quiet:
        terminal.evaluation(found)
    if found.unread:
        ctx.exit(EXIT_DAMAGED)


@cli.command()
@click.argument("config", metavar="CAMERAS.yaml", type=FILE)
@click.option("--check", is_flag=True, help="Say whether the file can be served, and end.")
@click.option("--host", metavar="ADDRESS", help="Where pages are served.  [default: the file's]")
@click.option("--port", type=click.IntRange(0, 65535), help="0: any free one.")
@click.option(
    "--log",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="auto: text on a terminal, else JSON.",
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
)
@verbose
@click.pass_context
def serve(
    ctx: click.Context,
    /,
    config: Path,
    check: bool,
    host: str | None,
    port: int | None,
    log: str,
    log_level: str,
) -> None:
    """Read the live streams of CAMERAS.yaml until stopped; needs the extra `serve`.

    \b
    model: yolox-nano
    streams:
      front:
        url: rtsp://user:${CAMERA_PASSWORD}@10.0.0.5/stream1
        outputs: [hls, jsonl, {record: {keep_days: 7}}]

    Every stream is read again and again, whatever its camera does. The page at the address that
    is told at the start shows them live. The file is read again when it changes, and on SIGHUP;
    SIGTERM and Ctrl-C let what was read go through, and close every file.
    """
    from vidai import serving, terminal

    if check:
        click.echo(serving.checked(config))
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the worker listens to it
    try:
        with terminal.download(False) as on_download, terminal.engine(False) as on_build:
            done = serving.serve(
                config,
                host=host,
                port=port,
                text={"auto": None, "json": False, "text": True}[log],
                level=log_level.upper(),
                download=on_download,
                build=on_build,
            )
    except KeyboardInterrupt:
        click.echo("vidai: stopped before it had started", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    finally:
        signal.signal(signal.SIGHUP, before)
    if not done:
        raise Failure("some outputs hung and were not closed in time")


@cli.command()
@click.argument("model", metavar="NAME|FILE", shell_complete=_complete_models)
@click.option(
    *("-o", "--output"), type=FILE, required=True, metavar="OUT.onnx", help="The quantised model."
)
@click.option(
    "--calibrate",
    type=FILE,
    multiple=True,
    required=True,
    metavar="CLIP|FOLDER",
    help="Clips, pictures or folders of them, like those that the model is to run on; may be "
    "repeated.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp8", "int8"]),
    default="fp8",
    show_default=True,
    help="fp8 for GPUs from Ada on, the rest float16; int8 for older GPUs, the rest float32.",
)
@click.option(
    "--target",
    type=LEVEL,
    default=0.98,
    show_default=True,
    help="Least F1 with what the model as it is finds, on frames used for nothing else.",
)
@click.option(
    "--frames",
    type=click.IntRange(3),
    metavar="N",
    default=120,
    show_default=True,
    help="How many to take from the clips: a third each to calibrate, to choose layers, to prove. "
    "More take longer and tell more.",
)
@click.option(
    "--conf",
    type=LEVEL,
    default=0.35,
    show_default=True,
    help="The score from which on a detection counts: that of your runs.",
)
@click.option("--iou", type=LEVEL, default=0.45, show_default=True, help="That of your runs, too.")
@click.option("--report", type=FILE, metavar="OUT.json", help="Every layer and figure as JSON.")
@click.option(
    "--chart", type=FILE, metavar="OUT.svg|png", help="A picture of the trade and the layers."
)
@click.option("--family", metavar="NAME", help="Which family a model is of, where it fits several.")
@click.option("-y", "--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@verbose
@click.pass_context
def quantize(ctx: click.Context, /, model: str, output: Path, quiet: bool, **options: Any) -> None:
    """Write MODEL with as many layers in eight bits as still find the same.

    Each convolution and matrix product is tried alone, on frames of your own clips. Those that
    hurt the detections most for the work that they save stay as they are, until the target is
    met on frames that were not used before. The model needs no labels, no training and no GPU. A
    run that was interrupted goes on where it was. Needs the extra `quantize`.

    \b
    vidai quantize yolox-s -o yolox-s.fp8.onnx --calibrate videos/ --chart trade.svg
    vidai models info yolox-s.fp8.onnx              what became of each layer
    vidai run in.mp4 out.mp4 --model yolox-s.fp8.onnx
    vidai eval yolox-s.fp8.onnx --against yolox-s --data other_videos/
    """
    from vidai import quantization, terminal

    try:
        with (
            terminal.download(quiet) as on_download,
            terminal.working(quiet) as on_progress,
        ):
            record = quantization.quantize(
                model, output, progress=on_progress, download=on_download, **options
            )
    except KeyboardInterrupt:
        click.echo("vidai: interrupted; the same command goes on from here", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    if not quiet:
        terminal.quantization(record, output, options["report"], options["chart"])
    if not record.reached:
        if quiet:
            click.echo(
                f"vidai: F1 {record.f1:.4f} is less than the target {record.target:g}", err=True
            )
        ctx.exit(EXIT_MISSED)
    if record.unread:
        ctx.exit(EXIT_DAMAGED)


@cli.command()
@click.argument("input", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@verbose
def probe(input: Path, as_json: bool) -> None:  # noqa: A002
    """What is in INPUT, and what vidai would do with it.

    \b
    vidai probe holiday.mov
    vidai probe holiday.mov --json | jq .video
    """
    from vidai.probe import probe as probe_file

    found = probe_file(input)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    video = found["video"]
    seconds = "unknown" if found["duration"] is None else f"{found['duration']:.2f} s"
    rate = f", {video['frame_rate']:.3f} fps" if video["frame_rate"] else ""
    turned = f", turned {video['rotation']}°" if video["rotation"] else ""
    rows = [
        ("file", found["path"]),
        ("container", f"{found['container']}, {seconds}, {found['chapters']} chapters"),
        ("video", f"{video['codec']}, {video['width']}×{video['height']}{turned}{rate}"),
        ("pixels", f"{video['pixel_format']}, {video['matrix']}, {video['range']} range"),
    ]
    for stream in found["streams"]:
        language = f", {stream['language']}" if stream["language"] else ""
        rows.append((stream["type"], f"{stream['codec']}{language}"))
    rows += [("vidai run" if i == 0 else "", line) for i, line in enumerate(found["plan"])]
    for title, text in rows:
        click.echo(f"{title:11}{text}")


@cli.group()
@verbose
def models() -> None:
    """The models that vidai knows by name: list, info, pull, path.

    Any other ONNX detector of a known family runs by its path. Files are looked for in the
    folders of $VIDAI_MODELS, then in the cache, then fetched and checked.
    """


@models.command("list")
@verbose
def list_models() -> None:
    """Names, sizes, licences, and what is here already."""
    from vidai.models.catalog import CATALOG, find

    click.echo(f"{'name':15}{'family':12}{'input':>6}{'MB':>8}  {'licence':12}here")
    for entry in CATALOG.values():
        side = entry.input or "any"
        here = "yes" if find(entry.name) else "-"
        size = entry.bytes / 1e6
        click.echo(
            f"{entry.name:15}{entry.family:12}{side:>6}{size:8.1f}  {entry.licence:12}{here}"
        )


@models.command()
@click.argument("model", metavar="NAME|FILE", shell_complete=_complete_models)
@verbose
def info(model: str) -> None:
    """All about one model: licence and source, or a file's inputs, outputs and classes; of a
    quantised one also how it was made, what it still finds, and what became of each layer."""
    from vidai.models import load_model
    from vidai.models.catalog import CATALOG, find, resolve
    from vidai.models.onnx_file import read_onnx
    from vidai.precision import receipts_of
    from vidai.quantization import table
    from vidai.quantization.record import QuantizationRecord

    layers: list[str] = []
    rows: list[tuple[str, object]] = []
    path = Path(model)
    if entry := CATALOG.get(model):
        kept = find(model)
        rows += [
            *(("name", entry.name), ("family", entry.family), ("licence", entry.licence)),
            *(("homepage", entry.homepage), ("source", entry.source), ("sha256", entry.sha256)),
            *(("bytes", f"{entry.bytes:,}"), ("file", kept or "not here: vidai models pull")),
        ]
        path = kept or path
    if not entry:
        path = resolve(model)
    if path.is_file():
        file, loaded = read_onnx(path), load_model(path, family=entry.family if entry else None)
        rows += [("family", type(loaded).__module__.rpartition(".")[2])] if not entry else []
        rows += [("input", tensor) for tensor in file.inputs]
        rows += [("output", tensor) for tensor in file.outputs]
        names = ", ".join(loaded.names) or "no names"
        rows.append(("classes", f"{len(loaded.names)}: {names}" if loaded.names else names))
        rows += [
            ("precision", f"{receipt.chosen} on {receipt.case.gpu}: {receipt.why}")
            for receipt in receipts_of(loaded)
        ]
        if (record := QuantizationRecord.of_metadata(file.metadata)) is not None:
            rows += table.summary(record)
            layers = ["", *table.render(table.rows(record))]
    for title, value in rows:
        click.echo(f"{title:10}{value}")
    for line in layers:
        click.echo(line)


@models.command()
@click.argument("model", metavar="NAME", shell_complete=_complete_models)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@verbose
def pull(model: str, quiet: bool) -> None:
    """Fetch a model into the cache and check it; an unfinished download goes on."""
    from vidai import terminal
    from vidai.models.catalog import resolve

    with terminal.download(quiet) as on_download:
        path = resolve(model, on_download)
    if not quiet:
        click.echo(path)


@models.command()
@click.argument("model", metavar="NAME", required=False, shell_complete=_complete_models)
@verbose
def path(model: str | None) -> None:
    """Where a model's file is; without NAME, the cache folder. Fetches nothing."""
    from vidai.models.catalog import CATALOG, cache_folder, find

    if model is None:
        click.echo(cache_folder())
    elif (found := find(model)) is None and model not in CATALOG:
        raise click.UsageError(f"no model {model!r} in the catalog: see `vidai models list`")
    elif found is None:
        raise Failure(f"{model} is not here yet: vidai models pull {model}")
    else:
        click.echo(found)


@cli.group()
@verbose
def kernels() -> None:
    """The CUDA kernels: compiled at their first use, or ahead."""


@kernels.command("build")
@click.option(
    "--arch",
    metavar="sm_NN",
    multiple=True,
    help="For this architecture; may be repeated.  [default: all that vidai supports]",
)
@verbose
def build_kernels(arch: tuple[str, ...]) -> None:
    """Compile every CUDA kernel into the cache; needs no GPU.

    \b
    vidai kernels build --arch sm_89      # for an L40S, say in an image's Dockerfile
    """
    from vidai import terminal
    from vidai.resources import cache_folder
    from vidai.tags import reason

    try:
        from vidai.devices.cuda import programs
    except ModuleNotFoundError as error:
        raise Failure(
            f"compiling needs the package {error.name}: pip install 'vidai[cuda]'"
        ) from error
    wanted = arch or programs.ARCHITECTURES
    if unknown := [name for name in wanted if name not in programs.ARCHITECTURES]:
        raise click.UsageError(
            f"{', '.join(unknown)}: choose from {', '.join(programs.ARCHITECTURES)}"
        )
    files = sorted(set(programs.sources().values()))
    place = cache_folder("kernels")
    compiled = 0
    with terminal.steps(len(wanted) * len(files)) as step:
        for architecture in wanted:
            for source in files:
                step(f"{source.name} for {architecture}")
                built = programs.build(source, architecture)
                if built.not_kept is not None:
                    raise Failure(
                        f"kernels cannot be kept in {place}: {reason(built.not_kept)}; make room "
                        f"there or set VIDAI_CACHE to a folder that can be written"
                    )
                compiled += built.compiled
    total = len(wanted) * len(files)
    click.echo(f"{compiled} of {total} cubins compiled, all are in {place}")


@cli.command()
@click.option("--device", metavar="auto|cpu|cuda[:N]", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@verbose
@click.pass_context
def doctor(ctx: click.Context, device: str, as_json: bool) -> None:
    """Whether and how vidai can use this machine's GPU, and what to do about each problem.

    Tries every stage of a run, in processes of their own. Exit code 0 when all of them work
    on the device, 1 when not; auto is the CPU where there is no GPU.

    
    vidai doctor
    vidai doctor --device cuda:1
    vidai doctor --json | jq '.findings[] | select(.status == "problem")'
    """
    from vidai import terminal
    from vidai.doctor import examine

    with terminal.looking() as on_look:
        found = examine(device, on_look)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        terminal.diagnosis(found)
    if not found.works:
        ctx.exit(1)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@verbose
def completion(shell: str) -> None:
    """Print a script that completes vidai's commands, options and names.

    \b
    vidai completion bash >> ~/.bashrc
    vidai completion zsh >> ~/.zshrc
    vidai completion fish > ~/.config/fish/completions/vidai.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # the three are click's own
    click.echo(kind(cli, {}, "vidai", "_VIDAI_COMPLETE").source())


def _open_closed_streams() -> None:
    """Whoever starts a service may have closed its stdin, stdout or stderr: a file that is opened
    later would take that number, and get what libraries print. Python's stdout stays closed, so
    that records which were to go there are not lost without a word."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None and os.open(os.devnull, os.O_RDWR) == number and number != 1:
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def main() -> None:
    """Entry point of the command. SIGTERM ends a run as Ctrl-C does: with a playable file."""
    _open_closed_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's wish stays
            signal.signal(number, signal.default_int_handler)
    cli.main(prog_name="vidai")
