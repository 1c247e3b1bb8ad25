"""Drawing, against the definitions in gold_overlay and against Pillow's own text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import gold_overlay as gold
from tests.builds import gpu_form
from tests.surfaces import LAYOUTS, Plane, make_frame, planes_of, random_frame
from vidai.errors import ConfigError
from vidai.ops.overlay import color_for, draw
from vidai.types import FLIP_X, FLIP_Y, TRANSPOSE, Color, Frame

RED = np.array([[255, 0, 0]], np.uint8)
RED_709 = (63, 102, 240)  # limited range, 8 bit
WHITE_709 = (235, 128, 128)
SIZES = [(1, 1), (2, 2), (1, 9), (7, 1), (13, 42), (40, 31)]


def drawn(frame: Frame, *args: Any, **kwargs: Any) -> gold.Planes:
    return planes_of(draw(frame, *args, **kwargs))


def boxes_of(*boxes: tuple[float, ...]) -> Any:
    return np.array(boxes, np.float32).reshape(-1, 4)


def same(got: gold.Planes, expected: gold.Planes) -> None:
    for name, a, b in zip("yuv", got, expected, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def wide(planes: gold.Planes) -> gold.Planes:
    y, u, v = (plane.astype(int) for plane in planes)
    return y, u, v


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("thickness", "alpha"), [(1, 1.0), (2, 0.5), (3, 0.3), (9, 0.01)])
def test_outlines_equal_gold(
    layout: str, size: tuple[int, int], thickness: int, alpha: float
) -> None:
    frame = random_frame(*size, layout, seed=1, padding=6, writable=True)
    expected = wide(planes_of(frame))
    boxes = [(3, 2, 11, 13), (-5, -4, 6, 7), (0, 0, *size), (5, 5, 6, 6), (4, 1, 90, 90)]
    unit = 1 << (LAYOUTS[layout].bit_depth - 8)
    color = (63 * unit, 102 * unit, 240 * unit)
    if unit > 1:
        color = (250, 409, 960)  # 219 * 0.2126 + 16 and so on, times 4, then rounded
    for box in reversed(boxes):
        gold.outline(expected, box, thickness, color, alpha)
    got = drawn(frame, boxes_of(*boxes), RED.repeat(5, 0), thickness=thickness, alpha=alpha)
    same(got, expected)


def test_edges_of_an_outline_are_where_the_box_is() -> None:
    y = np.zeros((12, 12), int)
    frame = make_frame(y, y[::2, ::2], y[::2, ::2], writable=True)
    luma, *_ = drawn(frame, boxes_of((2.4, 3.5, 7.6, 9.4)), RED, thickness=1)
    rows, columns = np.nonzero(luma)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 8, 2, 7)
    assert not luma[5:8, 3:7].any()


def test_a_box_smaller_than_a_pixel_is_one() -> None:
    y = np.zeros((12, 12), int)
    frame = make_frame(y, y[::2, ::2], y[::2, ::2], writable=True)
    luma, *_ = drawn(frame, boxes_of((3.6, 4.7, 4.4, 5.2)), RED, thickness=1)
    assert np.argwhere(luma).tolist() == [[5, 4]]


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("layout", ["I420", "P010"])
def test_a_turned_picture_is_drawn_as_the_upright_one(orientation: int, layout: str) -> None:
    upright = random_frame(60, 44, layout, seed=2, writable=True)
    stored = turned(planes_of(upright), orientation)
    other = make_frame(*stored, layout, orientation=orientation, writable=True)
    boxes, colors = boxes_of((20, 24, 50, 40), (-3, 5, 30, 60)), RED.repeat(2, 0)
    labels = ["Rg 0.9", "f#7"]
    expected = drawn(upright, boxes, colors, labels, alpha=0.8)
    got = drawn(other, boxes, colors, labels, alpha=0.8)
    same(got, turned(expected, orientation))


def turned(planes: gold.Planes, orientation: int) -> gold.Planes:
    """The stored planes whose upright picture these are."""
    y, u, v = (_turned(plane, orientation) for plane in planes)
    return y, u, v


def _turned(plane: Plane, orientation: int) -> Plane:
    if orientation & TRANSPOSE:
        plane = plane.T
    if orientation & FLIP_X:
        plane = plane[:, ::-1]
    if orientation & FLIP_Y:
        plane = plane[::-1]
    return plane


@pytest.mark.parametrize(
    ("layout", "size", "alpha"),
    [("I420", 10, 1.0), ("NV12", 17, 0.6), ("I010", 24, 0.6), ("P010", 33, 1.0), ("I420", 24, 1.0)],
)
def test_labels_equal_text_rendered_by_pillow(layout: str, size: int, alpha: float) -> None:
    """The ground is found as what the label changed; the text in it must be Pillow's."""
    text = "person 0.87 #12"
    frame = random_frame(431, 151, layout, seed=3, writable=True)
    before = wide(planes_of(frame))
    expected = wide(before)
    where = boxes_of((61, 100, 261, 140))
    got = drawn(frame, where, RED, [text], font_size=size, thickness=1, alpha=alpha)

    unit = 1 << (LAYOUTS[layout].bit_depth - 8)
    ground = RED_709 if unit == 1 else (250, 409, 960)
    gold.outline(expected, (61, 100, 261, 140), 1, ground, alpha)
    rows, columns = np.nonzero((got[0] != expected[0])[:100])
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    if alpha == 1:
        assert (x0, y1) == (61, 100), "a label stands on the top left corner of its box"
    gold.fill(expected, (61, y0, x1, 100), ground, alpha)

    mask, baseline = gold.text_mask(text, size)
    inked = np.argwhere((got[0] != expected[0])[:100])
    top, left = inked.min(0)
    ink_rows, ink_columns = np.nonzero(mask)
    ink = tuple(value * unit for value in WHITE_709)
    gold.paint(expected, mask, left - ink_columns.min(), top - ink_rows.min(), ink, alpha)  # type: ignore[arg-type]
    np.testing.assert_array_equal(got[0], expected[0])
    for chroma, whole in zip(got[1:], expected[1:], strict=True):
        # Where two glyphs share a cell, each is blended and rounded by itself.
        np.testing.assert_allclose(chroma, whole, atol=4 * unit)
    space_above = (top - ink_rows.min() + baseline) - y0
    assert 0 < 100 - y0 - space_above < space_above, "the baseline is low in the label"


def test_text_is_black_on_light_and_white_on_dark() -> None:
    for rgb, extreme in (((255, 255, 0), np.min), ((0, 0, 160), np.max)):
        frame = random_frame(200, 80, seed=4, writable=True)
        colors = np.array([rgb], np.uint8)
        luma, *_ = drawn(frame, boxes_of((20, 50, 180, 70)), colors, ["MMMM"], font_size=20)
        ground = luma[69, 20]  # of the outline
        label = luma[30:48, 24:80]
        assert abs(int(extreme(label)) - int(ground)) > 100


@pytest.mark.parametrize("box", [(30, 5, 90, 60), (30, -40, 90, 60), (140, 40, 300, 60)])
def test_a_label_stays_inside_the_picture(box: tuple[float, ...]) -> None:
    frame = random_frame(160, 80, seed=5, writable=True)
    bare = random_frame(160, 80, seed=5, writable=True)
    text = "label"
    labelled = drawn(frame, boxes_of(box), RED, [text], font_size=12, thickness=1)[0]
    plain = drawn(bare, boxes_of(box), RED, thickness=1)[0]
    rows, columns = np.nonzero(labelled != plain)
    assert np.ptp(columns) >= 30
    assert np.ptp(rows) >= 12


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_form_that_gpus_run_draws_the_same(layout: str) -> None:
    rng = np.random.default_rng(7)
    corners = rng.uniform(-20, 160, (12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 90, (12, 2))], 1)
    colors = rng.integers(0, 256, (12, 3)).astype(np.uint8)
    frame = random_frame(163, 121, layout, seed=8, orientation=5, writable=True)
    twin = random_frame(163, 121, layout, seed=8, orientation=5, writable=True)
    labels = [f"item {k}" for k in range(12)]
    how: dict[str, Any] = {"alpha": 0.7, "thickness": 3}
    expected = drawn(frame, boxes, colors, labels, **how)
    same(drawn(replace(twin, device=gpu_form()), boxes, colors, labels, **how), expected)


def test_a_first_box_lies_on_top_and_labels_on_top_of_boxes() -> None:
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    frame = random_frame(100, 100, seed=6, writable=True)
    luma, *_ = drawn(frame, boxes_of((10, 30, 60, 80), (30, 10, 80, 60)), colors, thickness=4)
    assert (luma[30:32, 30:32] == 63).all()  # where both outlines cross
    frame = random_frame(100, 100, seed=6, writable=True)
    boxes = boxes_of((50, 0, 54, 99), (40, 50, 90, 90))
    luma, *_ = drawn(frame, boxes, colors, ["", "WWWW"], font_size=14, thickness=2)
    assert (luma[40, 42:80] != 63).all()


def test_nothing_to_draw_returns_the_frame_itself() -> None:
    frame = random_frame(20, 20)
    nan, inf = float("nan"), float("inf")
    hopeless = boxes_of(
        (nan, 1, 5, 5), (1, 1, inf, 5), (9, 9, 3, 3), (4, 4, 4, 8), (30, 30, 40, 40)
    )
    assert draw(frame, boxes_of(), np.zeros((0, 3), np.uint8)) is frame
    assert draw(frame, hopeless, RED.repeat(5, 0), [""] * 5) is frame


def test_hopeless_boxes_do_not_disturb_the_others() -> None:
    nan = float("nan")
    box = (4.0, 4.0, 12.0, 12.0)
    mixed = boxes_of((nan, 0, 1, 1), box, (9, 9, 3, 3))
    got = drawn(random_frame(40, 30, writable=True), mixed, RED.repeat(3, 0), ["a", "b", "c"])
    same(got, drawn(random_frame(40, 30, writable=True), boxes_of(box), RED, ["b"]))


HARD = [float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e7, -1e7, 1e-40, 2.5, 7.5, -0.5]


def hard_boxes(rng: np.random.Generator, count: int, width: int, height: int) -> Any:
    """Boxes inside, across and far outside of a picture, some of them inverted or hopeless."""
    size = np.array([width, height] * 2)
    boxes = (rng.uniform(-1, 2, (count, 4)) * size).astype(np.float32)
    boxes[:, 2:] += np.abs(boxes[:, :2] - boxes[:, 2:]) * rng.choice([0, 1, 30], (count, 1))
    hard = rng.random((count, 4)) < 0.15
    boxes[hard] = rng.choice(HARD, hard.sum())
    return boxes


@pytest.mark.parametrize("seed", range(16))
def test_boxes_wherever_they_lie_equal_gold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(1, 50, 2))
    thickness, alpha = int(rng.integers(1, 12)), float(rng.choice([0.4, 1]))
    boxes = hard_boxes(rng, 12, width, height)
    colors = rng.choice([[[255, 0, 0]], [[255, 255, 255]]], 12)[:, 0].astype(np.uint8)
    frame = random_frame(width, height, seed=seed, padding=3, writable=True)
    expected = wide(planes_of(frame))
    # What is cut lies outside by more than the outline.
    far = np.array([width, height] * 2) + 20
    for box, (_, green, _) in reversed(list(zip(boxes, colors, strict=True))):
        if np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1]:
            x0, y0, x1, y1 = (int(v) for v in np.floor(np.clip(box, -20, far) + 0.5))
            rounded = (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))
            gold.outline(expected, rounded, thickness, WHITE_709 if green else RED_709, alpha)
    same(drawn(frame, boxes, colors, thickness=thickness, alpha=alpha), expected)


@pytest.mark.parametrize("orientation", range(1, 8))
def test_hard_boxes_and_labels_lie_in_a_turned_picture_as_in_the_upright_one(
    orientation: int,
) -> None:
    rng = np.random.default_rng(orientation)
    colors = rng.integers(0, 256, (12, 3)).astype(np.uint8)
    labels = [str(rng.choice(["", "a", "Wg 0.9 #7", "longer than the picture"])) for _ in colors]
    for _ in range(6):
        width, height = (int(side) for side in rng.integers(1, 90, 2))
        boxes = hard_boxes(rng, 12, width, height)
        upright = random_frame(width, height, seed=orientation, writable=True)
        stored = turned(planes_of(upright), orientation)
        other = make_frame(*stored, orientation=orientation, writable=True)
        how: dict[str, Any] = {"alpha": 0.8, "thickness": int(rng.integers(1, 6))}
        expected = turned(drawn(upright, boxes, colors, labels, **how), orientation)
        got = drawn(other, boxes, colors, labels, **how)
        # In a picture of odd size other samples share a cell once it is turned.
        planes = 3 if width % 2 == height % 2 == 0 else 1
        for a, b in zip(got[:planes], expected[:planes], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((30, 40, 90, 60), "above"),
        ((30, 5, 90, 60), "inside"),
        ((-30, -40, 90, 60), "corner"),
        ((140, 60, 300, 70), "right"),
        ((20, 200, 60, 240), "bottom"),
    ],
)
def test_a_label_goes_on_its_box_or_into_it_or_as_near_as_it_fits(box: Any, place: str) -> None:
    thickness, frame = 3, random_frame(160, 80, seed=5, writable=True)
    bare = random_frame(160, 80, seed=5, writable=True)
    labelled = drawn(frame, boxes_of(box), RED, ["label"], thickness=thickness)[0]
    rows, columns = np.nonzero(labelled != drawn(bare, boxes_of(box), RED, thickness=thickness)[0])
    x0, y0 = box[0] - thickness // 2, box[1] - thickness // 2  # the outline's outer edge
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    got = {
        "above": (left, bottom) == (x0, y0),
        "inside": (left, top) == (x0 + thickness, y0 + thickness),
        "corner": (left, top) == (thickness, thickness),
        "right": (right, bottom) == (160, y0),
        "bottom": (left, bottom) == (x0, 80),
    }
    assert got[place], (left, right, top, bottom)


def test_a_label_leaves_the_top_edge_only_where_it_does_not_fit_above() -> None:
    def top(y: int) -> int:
        frame = random_frame(160, 80, seed=5, writable=True)
        bare = random_frame(160, 80, seed=5, writable=True)
        box = boxes_of((30, y, 90, 70))
        labelled, plain = drawn(frame, box, RED, ["label"])[0], drawn(bare, box, RED)[0]
        return int(np.nonzero(labelled != plain)[0].min())

    height = 40 - top(40)
    assert (top(height), top(height - 1)) == (0, height)


def test_of_a_label_longer_than_the_picture_the_beginning_shows() -> None:
    narrow = random_frame(60, 60, seed=10, writable=True)
    y, u, v = (np.pad(plane, ((0, 0), (0, 9 * plane.shape[1]))) for plane in planes_of(narrow))
    broad = make_frame(y, u, v, writable=True)
    box, text = boxes_of((4, 30, 20, 50)), ["a label that goes on for long"]
    # In the narrow picture it begins at the edge, as over a box that does.
    got = drawn(narrow, box, RED, text)
    expected = drawn(broad, boxes_of((0, 30, 20, 50)), RED, text)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a[: len(a) // 3], b[: len(a) // 3, : a.shape[1]])
    assert (got[0][10:25, -1] != y[10:25, 59]).any()


def test_a_million_letters_are_drawn_as_far_as_they_show() -> None:
    got = drawn(random_frame(60, 60, writable=True), boxes_of((4, 30, 20, 50)), RED, ["M" * 10**6])
    few = drawn(random_frame(60, 60, writable=True), boxes_of((4, 30, 20, 50)), RED, ["M" * 100])
    same(got, few)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    orientation=st.integers(0, 7),
    box=st.tuples(*[st.floats(width=32)] * 4),
    text=st.text(max_size=6),
    thickness=st.integers(1, 50),
)
def test_any_box_and_label_is_safe(
    width: int,
    height: int,
    orientation: int,
    box: tuple[float, ...],
    text: str,
    thickness: int,
) -> None:
    frame = random_frame(width, height, padding=4, orientation=orientation, writable=True)
    draw(frame, boxes_of(box), RED, [text], thickness=thickness)
    padding = np.lib.stride_tricks.as_strided(
        frame.surface.owner[0][:, -1:], (height - 1, 5), (width + 4, 1)
    )
    assert (padding[:, 1:] == 0x55).all()


@pytest.mark.parametrize(
    ("matrix", "range_", "bit_depth", "rgb", "yuv"),
    [
        (1, 1, 8, (255, 0, 0), (63, 102, 240)),
        (1, 1, 8, (0, 255, 0), (173, 42, 26)),
        (1, 1, 8, (0, 0, 255), (32, 240, 118)),
        (6, 1, 8, (255, 0, 0), (81, 90, 240)),
        (6, 1, 8, (0, 255, 0), (145, 54, 34)),
        (6, 1, 8, (0, 0, 255), (41, 240, 110)),
        (6, 2, 8, (255, 0, 0), (76, 85, 255)),
        (6, 2, 8, (0, 255, 0), (150, 44, 21)),
        (1, 1, 10, (255, 255, 255), (940, 512, 512)),
        (1, 2, 10, (255, 255, 255), (1023, 512, 512)),
        (9, 1, 10, (0, 0, 0), (64, 512, 512)),
    ],
)
def test_colors_have_the_published_samples(
    matrix: int, range_: int, bit_depth: int, rgb: Any, yuv: Any
) -> None:
    layout, color = "I420" if bit_depth == 8 else "P010", Color(matrix=matrix, range=range_)
    frame = random_frame(8, 8, layout, color=color, writable=True)
    y, u, v = drawn(frame, boxes_of((0, 0, 8, 8)), np.array([rgb], np.uint8), thickness=4)
    assert (y[0, 0], u[0, 0], v[0, 0]) == yuv


@pytest.mark.parametrize(
    ("height", "yuv"), [(2, (81, 90, 240)), (720, RED_709)], ids=["BT.601", "BT.709"]
)
def test_a_stream_that_names_no_colors_has_those_of_its_size(height: int, yuv: Any) -> None:
    frame = random_frame(2, height, color=Color(), writable=True)
    y, u, v = drawn(frame, boxes_of((0, 0, 2, 2)), RED, thickness=4)
    assert (y[0, 0], u[0, 0], v[0, 0]) == yuv


def test_class_colors_are_steady_and_far_apart() -> None:
    colors = np.array([color_for(k) for k in range(20)], int)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1000 * np.eye(20)
    assert apart.min() >= 40
    assert color_for(7) == color_for(7)
    assert all(0 <= c <= 255 for k in (-1, 10**12) for c in color_for(k))


def test_a_frame_that_may_not_be_drawn_on_is_copied_first() -> None:
    for size, layout in (((40, 30), "I420"), ((33, 21), "P010")):
        frame = random_frame(*size, layout, seed=9)
        before = planes_of(frame)
        copy = draw(frame, boxes_of((4, 4, 20, 18)), RED, ["x"])
        assert copy.writable
        same(planes_of(frame), before)
        expected = random_frame(*size, layout, seed=9, writable=True)
        draw(expected, boxes_of((4, 4, 20, 18)), RED, ["x"])
        np.testing.assert_array_equal(np.asarray(copy), np.asarray(expected))


@pytest.mark.parametrize(
    ("option", "value"),
    [("alpha", 1.5), ("alpha", float("nan")), ("thickness", 0), ("font_size", 0)],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=option):
        draw(random_frame(8, 8), boxes_of((1, 1, 5, 5)), RED, **{option: value})


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"colors \(K, 3\)"):
        draw(random_frame(8, 8), boxes_of((1, 1, 5, 5)), RED.repeat(2, 0))
    with pytest.raises(ValueError, match="got 2 for 1"):
        draw(random_frame(8, 8), boxes_of((1, 1, 5, 5)), RED, ["a", "b"])
