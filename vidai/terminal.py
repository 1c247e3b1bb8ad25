"""How a run looks on a terminal, and as plain lines elsewhere. All of it goes to stderr,
so that stdout carries data only; a diagnosis and an evaluation are data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from vidai.quantization.table import summary as summary_of
from vidai.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from vidai.doctor import Diagnosis
    from vidai.evaluation import Evaluation
    from vidai.evaluation.agreement import Agreement
    from vidai.quantization.record import QuantizationRecord

LINE_EVERY = 5.0  # seconds between plain lines where there is no terminal
CLASSES_SHOWN = 4


def _console() -> Console:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 160  # a log file has no edge at which to break
    return console


def _most_found(report: Report, count: int) -> str:
    # A copy first: the writer thread may add a class meanwhile.
    return "  ".join(f"{name} {n}" for name, n in report.detections.copy().most_common(count))


@contextmanager
def frames(quiet: bool) -> Iterator[Callable[[Report], None] | None]:
    """A progress function for Pipeline.run: a bar, plain lines, or None when quiet."""
    console = _console()
    if quiet:
        yield None
    elif not console.is_terminal:
        yield _plain_lines(console)
    else:
        columns = (
            *(BarColumn(30), TaskProgressColumn(), MofNCompleteColumn()),
            *(TextColumn("{task.fields[fps]}"), TimeRemainingColumn(elapsed_when_finished=True)),
            TextColumn("{task.fields[found]}", style="dim", markup=False),
        )
        with ExitStack() as shown:
            bar = Progress(*columns, console=console, transient=True)
            task = bar.add_task("", total=None, fps="", found="")

            def show(report: Report) -> None:
                if report.frames:
                    if not bar.live.is_started:  # a download's bar may come before
                        shown.enter_context(bar)
                    found = _most_found(report, CLASSES_SHOWN)
                    fps = f"{report.fps:.1f} fps"
                    total = report.expected_frames
                    bar.update(task, completed=report.frames, total=total, fps=fps, found=found)

            yield show


def _plain_lines(console: Console) -> Callable[[Report], None]:
    last = time.monotonic()

    def show(report: Report) -> None:
        nonlocal last
        if time.monotonic() - last < LINE_EVERY or not report.frames:
            return
        last = time.monotonic()
        total = report.expected_frames
        of = f"/{total} frames, {100 * report.frames // total} %" if total else " frames"
        left = f", {max(0, total - report.frames) / report.fps:.0f} s left" if total else ""
        found = _most_found(report, CLASSES_SHOWN)
        line = f"{report.frames}{of}, {report.fps:.1f} fps{left}  {found}"
        console.print(line, markup=False, soft_wrap=True)

    return show


@contextmanager
def download(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress function (bytes done, bytes in all) for fetching a model."""
    console = _console()
    if quiet:
        yield None
        return
    columns = (
        *(TextColumn("downloading the model"), BarColumn(30), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    with ExitStack() as shown:
        bar = Progress(*columns, console=console, transient=True)
        task = bar.add_task("", total=None)

        def show(done: int, total: int) -> None:
            if not bar.live.is_started:  # nothing appears unless something is fetched
                shown.enter_context(bar)
            bar.update(task, completed=done, total=total)
            if done >= total:
                bar.stop()

        yield show


@contextmanager
def engine(quiet: bool) -> Iterator[Callable[[str, float], None] | None]:
    """A progress function (what is done, how much of it: 0–1) for what a model's first run on a
    GPU needs: its engines, and the choice of one."""
    console = _console()
    if quiet:
        yield None
        return
    columns = (
        *(TextColumn("preparing the model, once"), BarColumn(20)),
        *(TaskProgressColumn(), TextColumn("{task.description}", style="dim")),
    )
    with ExitStack() as shown:
        bar = Progress(*columns, console=console, transient=True)
        task = bar.add_task("", total=1.0)

        def show(what: str, part: float) -> None:
            if not bar.live.is_started:
                shown.enter_context(bar)
            bar.update(task, completed=part, description=what)
            if part >= 1:
                bar.stop()

        yield show


@contextmanager
def steps(total: int) -> Iterator[Callable[[str], None]]:
    """A progress function for a number of steps, called with the name of each as it begins."""
    columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=_console(), transient=True) as bar:
        task = bar.add_task("", total=total)
        begun = 0

        def begin(name: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=name)
            begun += 1

        yield begin


def summary(report: Report) -> None:
    """The closing table."""
    console = _console()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("frames", f"{report.frames} in {report.seconds:.1f} s, {report.fps:.1f} fps")
    if report.frames:
        per_frame = 1000 / report.frames
        spent = ", ".join(f"{k} {v * per_frame:.1f} ms" for k, v in report.stages.items() if v)
        table.add_row("a frame", f"{spent}; {report.cpu_seconds * per_frame:.1f} ms of CPU in all")
    if report.model:
        found = report.detections.most_common()
        more = f", and {len(found) - 12} more classes" if len(found) > 12 else ""
        counts = ", ".join(f"{name} {n}" for name, n in found[:12]) or "nothing"
        table.add_row("found", escape(counts + more))
    if report.tracks is not None:
        counts = ", ".join(f"{name} {n}" for name, n in report.tracks.most_common(12)) or "nothing"
        table.add_row("tracks", escape(counts))
    if report.precision:
        table.add_row("precision", escape(f"{report.precision.name}: {report.precision.why}"))
    if report.device != "cpu":
        crossed = report.transfers.to_dict()["per_frame"]
        table.add_row(
            "crossed",
            f"{crossed['host_to_device_bytes']:,.0f} bytes a frame to the GPU, "
            f"{crossed['device_to_host_bytes']:,.0f} back",
        )
    for path in report.outputs:
        table.add_row("written", escape(path))
    console.print(table)
    for line in report.warnings:
        console.print(f"[yellow]warning[/] {escape(line)}", soft_wrap=True)
    if report.interrupted:
        kept = "what was done is whole and playable" if report.outputs else "nothing is left"
        console.print(f"[yellow]interrupted[/] {kept}")


@contextmanager
def looking() -> Iterator[Callable[[str], None]]:
    """A progress function that says what the doctor looks at, on a terminal only."""
    with _console().status("looking") as status:
        yield lambda what: status.update(f"looking at {escape(what)}")


STATUS_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def diagnosis(found: Diagnosis) -> None:
    """What the doctor found, on stdout: by section on a terminal, elsewhere a line each."""
    console = Console(highlight=False)
    if not console.is_terminal:
        for f in found.findings:
            advice = f"; do: {f.advice}" if f.advice else ""
            line = f"{f.status:9}{f.section}: {f.name}: {f.value}{advice}"
            console.print(line, markup=False, soft_wrap=True)
        console.print(found.verdict, markup=False, soft_wrap=True)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for style in ("", "dim"):
        table.add_column(style=style, no_wrap=True)
    table.add_column(overflow="fold")
    section = ""
    for f in found.findings:
        if f.section != section:
            section = f.section
            table.add_row(f"[bold]{escape(section)}[/]")
        style = STATUS_STYLES[f.status]
        table.add_row(f"  [{style}]{f.status}[/]", escape(f.name), escape(f.value))
        if f.advice:
            table.add_row("", "", f"[{style}]→[/] {escape(f.advice)}")
    console.print(table)
    console.print(f"[{'bold green' if found.works else 'bold red'}]{escape(found.verdict)}[/]")


BAR_AFTER = 1.0  # seconds of work that nobody needs to be told of


@contextmanager
def working(quiet: bool) -> Iterator[Callable[[str, float], None] | None]:
    """A progress function (what is done, how much of it: 0–1) for work of several stages."""
    console = _console()
    if quiet:
        yield None
        return
    columns = (BarColumn(30), TaskProgressColumn(), TimeRemainingColumn())
    begun = last = time.monotonic()
    with ExitStack() as shown:
        bar = Progress(*columns, TextColumn("{task.description}"), console=console, transient=True)
        task = bar.add_task("", total=1.0)
        doing = ""

        def show(what: str, part: float) -> None:
            nonlocal doing, last
            now = time.monotonic()
            if not console.is_terminal:
                if now - last >= LINE_EVERY:
                    console.print(f"{what}, {part:.0%}", markup=False, soft_wrap=True)
                    last = now
                return
            if now - begun > BAR_AFTER and not bar.live.is_started:
                shown.enter_context(bar)
            if what != doing:
                doing = what
                bar.reset(task, total=1.0)
            bar.update(task, completed=part, description=escape(what))

        yield show


def evaluation(found: Evaluation) -> None:
    """What an evaluation has found, on stdout; its notes are for people, on stderr."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    what = "pictures" if found.accuracy else "frames"
    rows = [("model", found.model), ("data", f"{found.frames} {what} of {', '.join(found.data)}")]
    if found.against:
        rows.insert(1, ("against", found.against))
    for title, text in rows:
        console.print(f"{title:9}{text}", markup=False, soft_wrap=True)
    for table in (*_accuracy(found), *_agreement(found.agreement)):
        console.print()
        console.print(table)
    for line in (*found.notes, *found.unread):
        _console().print(f"[yellow]note[/] {escape(line)}", soft_wrap=True)


def quantization(record: QuantizationRecord, output: Path, *others: Path | None) -> None:
    """What became of a model: what was traded, what was chosen. others: what was written too."""
    console = _console()
    chosen = sum(layer.precision == record.precision for layer in record.layers)
    curve = _table(f"in {record.precision}", "layers", "F1 in the search", "fitted", "")
    for point in record.curve:
        mark = "chosen" if point.layers == chosen else ""
        values = f"{point.agreement:.4f}", f"{point.fitted:.4f}"
        curve.add_row(f"{point.share:.1%}", str(point.layers), *values, mark)
    console.print(curve)
    console.print()
    written = ", ".join(str(path) for path in (output, *others) if path is not None)
    for title, text in (*summary_of(record), ("written", written)):
        console.print(f"{title:11}{text}", markup=False, soft_wrap=True)
    console.print(f"every layer: vidai models info {output}", style="dim", markup=False)
    for line in (*record.notes, *record.unread):
        console.print(f"[yellow]note[/] {escape(line)}", soft_wrap=True)
    if not record.reached:
        console.print(
            f"[yellow]target not reached[/] F1 {record.f1:.4f} is the best that was found, less "
            f"than {record.target:g}: give more frames like those to run on, or a lower --target",
            soft_wrap=True,
        )


MEASURES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar100": "AR100",
}


def _accuracy(found: Evaluation) -> list[Table]:
    """COCO's measures, and those of each class; a column, or two, a model."""
    if found.accuracy is None:
        return []
    sides = [found.accuracy, *([found.against_accuracy] if found.against_accuracy else [])]
    whose = ["model", "against"][: len(sides)]
    measures = _table("measure", *whose)
    for measure, title in MEASURES.items():
        measures.add_row(title, *(_rounded(getattr(side, measure)) for side in sides))
    classes = _table(
        "class", "objects", *(f"{kind} {who}" for who in whose for kind in ("AP", "AP50"))
    )
    for name, of_model in found.accuracy.classes.items():
        of_class = [side.classes[name] for side in sides]
        values = [_rounded(value) for one in of_class for value in (one.ap, one.ap50)]
        classes.add_row(escape(name), str(of_model.objects), *values)
    return [measures, classes]


def _agreement(found: Agreement | None) -> list[Table]:
    """Boxes and how far they are apart: a row a class, and one for all. It fits 80 columns."""
    if found is None:
        return []
    table = _table("class", "model", "against", "both", "F1", "1 - IoU", "px off", "score shift")
    for name, pairs in (("all", found.overall), *found.classes.items()):
        shift = "–"
        if pairs.score_shift is not None:
            shift = f"{pairs.score_shift:+.3f} ± {pairs.score_shift_std:.3f}"
        table.add_row(
            escape(name),
            *map(str, (pairs.other, pairs.reference, pairs.matched)),
            *map(_rounded, (pairs.f1, pairs.box_error)),
            _rounded(pairs.corner_error, 2),
            shift,
        )
    return [table]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _rounded(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
