from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vidai.errors import ConfigError, SinkError
from vidai.quantization.chart import KEPT, OTHER, QUANTISED, check_chart, draw
from vidai.quantization.record import CurvePoint, LayerRecord, QuantizationRecord

Bools = npt.NDArray[np.bool_]


def layers(count: int) -> tuple[LayerRecord, ...]:
    """Damages that fall from 0.1 to 0.0001; the first two are kept, every fourth has no path."""
    made = []
    for n in range(count):
        name = f"/backbone/stage.{n // 8}/block.{n % 8}/conv/Conv"
        damage = None if n % 4 == 3 else 10.0 ** (-1 - 3 * n / count)
        precision = "fp16" if damage is None or n < 2 else "fp8"
        made.append(LayerRecord(name, "Conv", 1000, precision, "", damage))
    return tuple(made)


RECORD = QuantizationRecord(
    model="yolox-nano",
    sha256="0" * 64,
    precision="fp8",
    rest="fp16",
    target=0.98,
    f1=0.987,
    conf=0.35,
    frames={"calibrate": 24, "search": 48, "prove": 48},
    boxes=312,
    calibration="1" * 64,
    share=0.91,
    layers=layers(30),
    curve=(
        CurvePoint(22, 1.0, 0.9, 0.9),
        CurvePoint(21, 0.97, 0.96, 0.96),
        CurvePoint(20, 0.91, 0.985, 0.985),
        CurvePoint(10, 0.4, 0.995, 0.995),
    ),
)


def panel(path: Path) -> npt.NDArray[np.uint8]:
    """(height, width, 3): the pixels of the layers' panel, without the legend below it."""
    with Image.open(path) as picture:
        assert picture.width >= 1200
        pixels = np.asarray(picture.convert("RGB"))
    return pixels[: int(0.8 * len(pixels)), int(0.45 * pixels.shape[1]) :]


def of_color(pixels: npt.NDArray[np.uint8], color: str) -> Bools:
    """(height, width): which pixels have that colour."""
    return np.asarray((pixels == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(2))


def bars(found: Bools) -> list[int]:
    """Rows of the tops of the bars, from left to right: columns without a gap are one bar."""
    columns = np.flatnonzero(found.any(0))
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    return [int(found[:, run].any(1).argmax()) for run in runs if len(run)]


def python(program: str, *arguments: Path, **environment: str) -> None:
    program = f"import sys\nfrom tests.test_quantization_chart import *\n{program}"
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | environment,
        check=True,
    )


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_same_record_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    """Also in another process, with other hashes and other settings, and without a display."""
    here, elsewhere, other = (tmp_path / f"{name}{suffix}" for name in ("here", "else", "other"))
    draw(RECORD, here)
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 20\n")
    python(
        "draw(RECORD, Path(sys.argv[1]))\nassert 'matplotlib.pyplot' not in sys.modules",
        elsewhere,
        PYTHONHASHSEED="7",
        MATPLOTLIBRC=str(tmp_path),
        MPLBACKEND="tkagg",
        DISPLAY="",
    )
    assert here.read_bytes() == elsewhere.read_bytes()
    draw(replace(RECORD, f1=0.986), other)
    assert here.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("count", [30, 150])
def test_layers_stand_in_the_networks_order_as_high_as_their_damage(
    count: int, tmp_path: Path
) -> None:
    draw(replace(RECORD, layers=layers(count)), tmp_path / "a.png")
    pixels = panel(tmp_path / "a.png")
    ribbon = np.flatnonzero(of_color(pixels, OTHER).any(1))  # these layers have no bar
    assert len(ribbon) < 0.1 * len(pixels)
    assert len(bars(of_color(pixels, OTHER))) == count // 4
    above = pixels[: ribbon[0] - 8]
    kept, quantised = of_color(above, KEPT), of_color(above, QUANTISED)
    tops = bars(kept) + bars(quantised)
    assert len(bars(kept)) == 2
    assert len(tops) == count - count // 4
    assert np.flatnonzero(kept.any(0))[-1] < np.flatnonzero(quantised.any(0))[0]
    # The exponents fall evenly, but for each fourth: so do the tops of a logarithmic axis.
    numbers = [n for n in range(count) if n % 4 != 3]
    slope = (tops[-1] - tops[0]) / (numbers[-1] - numbers[0])
    assert slope > 0
    np.testing.assert_allclose(tops, [tops[0] + slope * n for n in numbers], atol=3)


def test_damages_of_one_size_are_drawn_on_a_linear_axis(tmp_path: Path) -> None:
    few = tuple(LayerRecord("l", "Conv", 1, "fp8", "", d) for d in (0.4, 0.3, 0.2, 0.1))
    draw(replace(RECORD, layers=few), tmp_path / "a.png")
    blue = of_color(panel(tmp_path / "a.png"), QUANTISED)
    floor = np.flatnonzero(blue.sum(1) > 0.8 * blue.shape[1])[0]  # of the bars: the ribbon
    heights = floor - np.array(bars(blue[: floor - 8]))
    np.testing.assert_allclose(heights / heights[0], [1, 0.75, 0.5, 0.25], atol=0.02)


HARMLESS = tuple(replace(layer, damage=0.0, precision="fp8") for layer in RECORD.layers)
UNKNOWN = tuple(replace(layer, damage=None) for layer in RECORD.layers)
NONE = tuple(replace(layer, precision="fp16") for layer in RECORD.layers)
CASES = {
    "one point": replace(RECORD, curve=RECORD.curve[:1]),
    "no point": replace(RECORD, curve=()),
    "none quantised": replace(RECORD, layers=NONE, share=0.0, f1=1.0),
    "all quantised": replace(RECORD, layers=HARMLESS, share=1.0, f1=1.0),
    "no damage known": replace(RECORD, layers=UNKNOWN),
    "one layer": replace(RECORD, layers=RECORD.layers[:1]),
    "no layer": replace(RECORD, layers=(), share=0.0),
    "nothing found": replace(RECORD, f1=0.0, target=1.0, boxes=0, frames={}),
    "decades": replace(RECORD, layers=(*HARMLESS, replace(HARMLESS[0], damage=1e-300), *NONE)),
    "formula": replace(RECORD, model="$x^2$ \\frac{1} & <b>"),
    "strange name": replace(RECORD, model="模型 \n\x01 " + "n" * 300),
    "integers": replace(RECORD, precision="int8", rest="fp32"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("suffix", [".svg", ".PNG"])
def test_every_record_can_be_drawn(case: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    draw(CASES[case], path)
    if suffix == ".svg":
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 20
    else:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.width >= 1200


@pytest.mark.parametrize("name", ["a", "a.jpg", "a.svg.gz", ".svg"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        draw(RECORD, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_stays_unless_it_may_go(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        draw(RECORD, path)
    assert path.read_text() == "mine"
    draw(RECORD, path, overwrite=True)
    assert path.read_bytes().startswith(b"<?xml")
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        draw(RECORD, tmp_path / "nowhere" / "a.png")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_full_disk_is_told_and_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(SinkError, match=f"cannot write .*a{suffix}: File too large"):
            draw(RECORD, tmp_path / f"a{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_chart(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"matplotlib: pip install 'vidai\[quantize\]'"):
        check_chart(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="matplotlib"):
        draw(RECORD, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
