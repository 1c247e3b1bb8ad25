"""A picture of a quantisation: what it trades, and which layers do the harm."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from vidai.errors import ConfigError, SinkError
from vidai.quantization.record import LayerRecord, QuantizationRecord
from vidai.sinks.target import Target
from vidai.tags import reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".svg", ".png")

# Blue and orange of Okabe and Ito's palette, which the colour-blind tell apart, and a grey.
QUANTISED, KEPT, OTHER = "#0072B2", "#E69F00", "#B4BAC1"
INK, PALE = "#22272E", "#68717C"
SIZE = (12, 6.2)  # inches
DPI = 200  # of a PNG: 2400 px wide
DECADES = 1.5  # of damage, from which on its axis is logarithmic
MOST_DECADES = 6  # that a logarithmic axis shows
RIBBON = 0.05  # height below the bars, of the axes'
WORST = 3  # layers that are named
LONGEST = 40  # characters of a name
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
STYLE = {
    "svg.hashsalt": "vidai",  # else the names inside the file are random
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "text.parse_math": False,  # a $ in a model's name is a $
    "font.size": 11,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#E3E6EA",
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "text.color": INK,
    "xtick.color": PALE,
    "ytick.color": PALE,
}


def check_chart(path: str | Path) -> None:
    """Raises ConfigError where nothing can be drawn under that name, whatever the record."""
    if Path(path).suffix.lower() not in KINDS:
        raise ConfigError(f"cannot draw {path}: give it a name that ends in {' or '.join(KINDS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"cannot draw {path} without the package matplotlib: pip install 'vidai[quantize]'"
        ) from error


def draw(record: QuantizationRecord, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw the record as an .svg or .png, see `picture`.

    Raises ConfigError for another suffix, where matplotlib is not installed, for a file that exists
    (unless overwrite), and for a folder that is not there or cannot be written in; SinkError where
    writing fails, which leaves nothing.
    """
    check_chart(path)
    target = Target(path, overwrite=overwrite)
    try:
        target.temporary.write_bytes(picture(record, Path(path).suffix))
        target.commit()
    except OSError as error:
        raise SinkError(f"cannot write {path}: {reason(error)}") from error
    finally:
        target.discard()


def picture(record: QuantizationRecord, suffix: str) -> bytes:
    """The record as a file that ends in .svg or .png; the same record gives the same bytes.

    Left: agreement over the share of the work that is quantised, for every choice of layers that
    was tried, and the proof of the chosen one. Right: the damage of every layer, in the order of
    the network, and what became of it.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    metadata: dict[str, str | None] = {"Title": _headline(record)}
    vector = suffix.lower() == ".svg"
    if vector:
        metadata |= {"Date": None, "Creator": None}
    data = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # of a name: it shows as a box
        figure = Figure(figsize=SIZE, dpi=DPI)
        (FigureCanvasSVG if vector else FigureCanvasAgg)(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.75))
        figure.subplots_adjust(left=0.075, right=0.98, top=0.75, bottom=0.235, wspace=0.2)
        _title(figure, record)
        _trade(left, record)
        _layers(right, record)
        figure.savefig(data, format="svg" if vector else "png", dpi=DPI, metadata=metadata)
    return data.getvalue()


def _headline(record: QuantizationRecord) -> str:
    return f"{_short(record.model)} in {record.precision.upper()}"


def _title(figure: Figure, record: QuantizationRecord) -> None:
    figure.text(0.02, 0.93, _headline(record), size=19, weight="bold")
    figure.text(
        *(0.02, 0.877),
        f"F1 {record.f1:.3f} with the model as it was, target {record.target:g} "
        f"{'reached' if record.reached else 'not reached'}; {_percent(record.share)} of the "
        f"quantisable multiply-accumulates in {record.precision.upper()}",
        size=13,
    )
    figure.text(
        *(0.02, 0.834),
        f"proof: {record.boxes:,} objects at score {record.conf:g} in "
        f"{record.frames.get('prove', 0):,} frames used for nothing else",
        size=11,
        color=PALE,
    )


def _trade(axes: Axes, record: QuantizationRecord) -> None:
    """Agreement over share."""
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator

    tried = sorted(record.curve, key=lambda point: point.share)
    shares, agreements = [p.share for p in tried], [p.agreement for p in tried]
    axes.set_title("What it trades")
    axes.axhline(
        record.target, color=INK, linewidth=1.2, dashes=(4, 3), label=f"target {record.target:g}"
    )
    axes.plot(
        *(shares, [point.fitted for point in tried]),
        color=QUANTISED,
        linewidth=1.8,
        label="the rising curve that fits them best",
    )
    axes.plot(
        *(shares, agreements, "o"),
        color=QUANTISED,
        markersize=5.5,
        label="tried: F1 on the frames of the search",
    )
    axes.plot(
        *([record.share], [record.f1], "D"),
        color=INK,
        markersize=9,
        markeredgecolor="white",
        markeredgewidth=1.2,
        label="chosen: F1 on the frames of the proof",
    )
    axes.set_xlim(_span([record.share, *shares], least=0.1))
    axes.set_ylim(_span([record.target, record.f1, *agreements], least=0.02))
    axes.annotate(
        *(f"{record.f1:.3f}", (record.share, record.f1)),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        weight="bold",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda share, _: _percent(share))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(True)
    axes.set_xlabel(f"multiply-accumulates in {record.precision.upper()}")
    axes.set_ylabel("F1 with the model as it was")
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.14))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _span(values: list[float], *, least: float) -> tuple[float, float]:
    """An axis that shows the values and 1, with room for a number above it."""
    low = min(*values, 1 - least)
    return low - 0.08 * (1 - low), 1 + 0.13 * (1 - low)


def _layers(axes: Axes, record: QuantizationRecord) -> None:
    """Damage by layer: bars, and below them a ribbon, since not every layer has a bar."""
    from matplotlib.patches import Patch

    damages = [layer.damage or 0.0 for layer in record.layers]
    colors = [_color(layer, record.precision) for layer in record.layers]
    numbers = range(1, len(damages) + 1)
    axes.set_title("Where the harm is done")
    axes.set_ylabel("damage of quantising it alone")
    _damage_axis(axes, damages)
    axes.bar(numbers, damages, width=0.82, color=colors)
    axes.bar(
        numbers,
        RIBBON,
        bottom=-RIBBON,
        width=1.0,
        color=colors,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )
    axes.set_xlim(0.5, max(len(damages), 1) + 0.5)
    axes.grid(True, axis="y")
    axes.tick_params(axis="x", pad=14, length=0)
    axes.set_xlabel("layers, in the order of the network")
    names = {
        QUANTISED: f"in {record.precision.upper()}",
        KEPT: f"kept in {record.rest.upper()}: too much harm",
        OTHER: f"{record.rest.upper()}: no {record.precision.upper()} path",
    }
    axes.legend(
        handles=[
            Patch(color=color, label=f"{name} ({colors.count(color)})")
            for color, name in names.items()
            if color in colors
        ],
        loc="upper left",
        bbox_to_anchor=(-0.012, -0.19),
        ncols=3,
        columnspacing=1.6,
        handlelength=1.2,
    )
    axes.text(
        *(0.99, 0.97, _worst(record)),
        transform=axes.transAxes,
        ha="right",
        va="top",
        size=10.5,
        linespacing=1.35,
    )


def _color(layer: LayerRecord, precision: str) -> str:
    if layer.precision == precision:
        return QUANTISED
    return OTHER if layer.damage is None else KEPT


def _damage_axis(axes: Axes, damages: list[float]) -> None:
    """Scale the axis to the damages, with room above them for a text."""
    positive = [damage for damage in damages if damage > 0]
    high = max(positive, default=1.0)
    decades = math.log10(high / min(positive, default=high))
    if decades < DECADES:
        axes.set_ylim(0, high * 1.4)
        if not positive:
            axes.set_yticks([])
        return
    decades = min(decades + 0.3, MOST_DECADES)
    axes.set_yscale("log")
    axes.set_ylim(high / 10**decades, high * 10 ** (0.4 * decades))
    axes.yaxis.set_major_formatter(lambda damage, _: _power(damage))
    axes.yaxis.set_minor_formatter("")


def _power(number: float) -> str:
    """10⁻³: a power of ten, without the formulas that are turned off."""
    return "10" + str(round(math.log10(number))).translate(RAISED)


def _worst(record: QuantizationRecord) -> str:
    """The layers that do the most harm, one a line."""
    hurting = [(layer.damage or 0.0, n, layer) for n, layer in enumerate(record.layers, 1)]
    worst = sorted((row for row in hurting if row[0]), key=lambda row: -row[0])[:WORST]
    if not worst:
        measured = any(layer.damage is not None for layer in record.layers)
        return "no damage" if measured else "damage not measured"
    lines = [f"{_short(layer.name)}  layer {n}" for _, n, layer in worst]
    return "\n".join(["most harm:", *lines])


def _short(name: str) -> str:
    """The end of a long name, which is what tells it from others, from a slash on if it can."""
    if len(name) <= LONGEST:
        return name
    end = name[1 - LONGEST :]
    return "…" + (end[end.index("/") :] if "/" in end[:-1] else end)
