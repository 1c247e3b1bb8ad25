"""How a run looks on a terminal, and as plain lines elsewhere. All of it goes to stderr,
so that stdout carries data only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

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

from vidai.report import Report

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
    for path in report.outputs:
        table.add_row("written", escape(path))
    console.print(table)
    for line in report.warnings:
        console.print(f"[yellow]warning[/] {escape(line)}", soft_wrap=True)
    if report.interrupted:
        kept = "what was done is whole and playable" if report.outputs else "nothing is left"
        console.print(f"[yellow]interrupted[/] {kept}")
