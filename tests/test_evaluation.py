"""Evaluation against truths made by hand: squares that the tiny model is known to find."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper
from PIL import Image
from rich.console import Console

import vidai
from tests.squares import squares_clip
from tests.test_precision import boxes
from tests.tiny_model import NAMES, SIDE, SQUARE, picture, write_constant_model
from vidai import Detector, terminal
from vidai.cli import cli
from vidai.device import Device
from vidai.errors import ConfigError, StreamError
from vidai.evaluation.agreement import agreement
from vidai.evaluation.classes import common_classes
from vidai.evaluation.coco import Labels, named
from vidai.evaluation.looking import Threshold, in_order, seen
from vidai.models import load_model
from vidai.models.coco import CATEGORIES, COCO
from vidai.sources.media import picture as open_picture

Square = tuple[int, int, int]  # x, y, class

SCENES: list[list[Square]] = [
    [(8, 8, 0), (64, 40, 1)],
    [(32, 80, 2), (96, 16, 0)],
    [],
]
CATEGORY_IDS = (7, 3, 5)  # of red, green and blue: in no order, as files may have them


def categories(names: Sequence[str] = NAMES) -> list[dict[str, Any]]:
    return [{"id": number, "name": n} for number, n in zip(CATEGORY_IDS, names, strict=True)]


def annotation(picture: object, square: Square, **more: object) -> dict[str, Any]:
    x, y, class_id = square
    box = [x, y, SQUARE, SQUARE]
    return {"image_id": picture, "category_id": CATEGORY_IDS[class_id], "bbox": box, **more}


def write_pictures(folder: Path, scenes: Sequence[Sequence[Square]] = SCENES) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(len(scenes))]
    for path, squares in zip(paths, scenes, strict=True):
        Image.fromarray(picture(squares)).save(path)
    return paths


def write_labels(path: Path, annotations: Sequence[Mapping[str, Any]], **changes: Any) -> Path:
    """A file for pictures of SCENES, which are called 0.png and so on; its ids begin with 0."""
    numbered = [{"id": number, **one} for number, one in enumerate(annotations)]
    images = [
        {"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE}
        for number in range(len(SCENES))
    ]
    content = {"images": images, "annotations": numbered, "categories": categories()}
    path.write_text(json.dumps({**content, **changes}))
    return path


RIGHT = [annotation(n, square) for n, squares in enumerate(SCENES) for square in squares]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Pictures, and a file that is right about them."""
    write_pictures(tmp_path)
    return write_labels(tmp_path / "labels.json", RIGHT)


@pytest.fixture
def variant(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a tiny model with another bias, other weights or other names of the classes."""

    def make(
        bias: Mapping[int, float] | None = None,
        order: Sequence[int] = (0, 1, 2),
        names: Sequence[str] | None = None,
    ) -> Path:
        model = onnx.load(tiny_model)
        weights = {w.name: w for w in model.graph.initializer}
        numbers = numpy_helper.to_array(weights["bias"]).copy()
        for channel, value in (bias or {}).items():
            numbers[channel] = value
        weights["bias"].CopyFrom(numpy_helper.from_array(numbers, "bias"))
        rows = numpy_helper.to_array(weights["weights"]).copy()
        rows[5:8] = rows[[5 + class_id for class_id in order]]
        weights["weights"].CopyFrom(numpy_helper.from_array(rows, "weights"))
        if names is not None:
            onnx.helper.set_model_props(model, {"names": repr(dict(enumerate(names)))})
        path = tmp_path / "variant.onnx"
        onnx.save(model, path)
        return path

    return make


# --- average precision


def test_right_labels_give_one(labelled: Path, tiny_model: Path) -> None:
    found = vidai.evaluate(tiny_model, labelled, device="cpu")
    assert found.frames == len(SCENES)
    measured = found.accuracy
    assert measured is not None
    assert [measured.ap, measured.ap50, measured.ap75, measured.ar100] == pytest.approx([1] * 4)
    assert measured.ap_small == pytest.approx(1)
    assert (measured.ap_medium, measured.ap_large) == (None, None)  # 256 px² is small
    assert {name: one.objects for name, one in measured.classes.items()} == {
        "red": 2,
        "green": 1,
        "blue": 1,
    }
    assert all(one.ap == pytest.approx(1) for one in measured.classes.values())
    assert (found.agreement, found.against_accuracy, found.notes) == (None, None, ())


def test_half_of_a_class_missed_is_half_of_the_recall(tmp_path: Path, tiny_model: Path) -> None:
    """COCO takes the precision at recall 0, 0.01 … 1: it is 1 at the 51 up to 0.5, then 0."""
    write_pictures(tmp_path)
    there_is_nothing = annotation(2, (40, 40, 2))
    labels = write_labels(tmp_path / "l.json", [*RIGHT, there_is_nothing])
    measured = vidai.evaluate(tiny_model, labels, device="cpu").accuracy
    assert measured is not None
    assert measured.classes["blue"].ap == pytest.approx(51 / 101)
    assert measured.classes["blue"].ap50 == pytest.approx(51 / 101)
    assert measured.ap == pytest.approx((1 + 1 + 51 / 101) / 3)
    assert measured.ar100 == pytest.approx((1 + 1 + 0.5) / 3)


def test_shifted_labels_count_at_the_ious_that_they_reach(tmp_path: Path, tiny_model: Path) -> None:
    """3 of 16 px: IoU 13 / 19 = 0.684, which is enough at 0.5, 0.55, 0.6 and 0.65 of ten."""
    write_pictures(tmp_path)
    shifted = [
        annotation(n, (x + 3, y, c)) for n, squares in enumerate(SCENES) for x, y, c in squares
    ]
    labels = write_labels(tmp_path / "l.json", shifted)
    measured = vidai.evaluate(tiny_model, labels, device="cpu").accuracy
    assert measured is not None
    assert [measured.ap, measured.ap50, measured.ap75] == pytest.approx([0.4, 1, 0])


def test_a_model_that_finds_nothing_has_zero(tmp_path: Path, tiny_model: Path) -> None:
    write_pictures(tmp_path, [[], [], []])
    labels = write_labels(tmp_path / "l.json", RIGHT)
    measured = vidai.evaluate(tiny_model, labels, device="cpu").accuracy
    assert measured is not None
    assert (measured.ap, measured.ar100) == (0, 0)


@pytest.mark.parametrize(("crowd", "expected"), [(1, 1.0), (0, 51 / 101)])
def test_a_crowd_is_neither_found_nor_missed(
    crowd: int, expected: float, tmp_path: Path, tiny_model: Path
) -> None:
    """All of the second picture is labelled as one: as a crowd, of which the square that is
    found there is a part, or as an object, which is missed. The first picture's is found, and
    comes first, as the scores are equal."""
    write_pictures(tmp_path, [[(8, 8, 0)], [(40, 40, 0)], []])
    region = {**annotation(1, (40, 40, 0)), "bbox": [0, 0, 128, 128], "iscrowd": crowd}
    labels = write_labels(tmp_path / "l.json", [annotation(0, (8, 8, 0)), region])
    measured = vidai.evaluate(tiny_model, labels, device="cpu").accuracy
    assert measured is not None
    assert measured.classes["red"].ap == pytest.approx(expected)
    assert measured.classes["red"].objects == 2 - crowd


def test_area_is_that_of_the_outline_where_the_file_has_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    write_pictures(tmp_path)
    labels = write_labels(tmp_path / "l.json", [{**one, "area": 50 * 50} for one in RIGHT])
    measured = vidai.evaluate(tiny_model, labels, device="cpu").accuracy
    assert measured is not None
    assert [measured.ap_small, measured.ap_medium] == [None, pytest.approx(1)]


def test_conf_hides_what_scores_less(labelled: Path, tiny_model: Path) -> None:
    measured = vidai.evaluate(tiny_model, labelled, device="cpu", conf=1).accuracy
    assert measured is not None
    assert measured.ap == 0


# --- classes


def test_classes_are_known_by_name_whatever_their_case(tmp_path: Path, tiny_model: Path) -> None:
    write_pictures(tmp_path)
    labels = write_labels(
        tmp_path / "l.json", RIGHT, categories=categories(["Red", "purple", "BLUE "])
    )
    found = vidai.evaluate(tiny_model, labels, device="cpu")
    assert found.accuracy is not None
    assert [*found.accuracy.classes] == ["Red", "BLUE "]
    assert found.accuracy.ap == pytest.approx(1)
    assert "purple" in " ".join(found.notes)


def test_two_categories_of_one_name_are_one_class(tmp_path: Path, tiny_model: Path) -> None:
    """As some labelling tools write them: the first is the name of the whole set."""
    write_pictures(tmp_path)
    twice = [{"id": 0, "name": "red"}, *categories()]
    labels = write_labels(tmp_path / "l.json", RIGHT, categories=twice)
    measured = vidai.evaluate(tiny_model, labels, device="cpu").accuracy
    assert measured is not None
    assert measured.ap == pytest.approx(1)
    assert [*measured.classes] == [*NAMES]


def labels_of(categories: Mapping[int, str]) -> Labels:
    return Labels(Path("labels.json"), (), categories, (), 0)


def test_cocos_ids_mean_cocos_classes() -> None:
    ids = [number for number, place in enumerate(CATEGORIES) if place >= 0]
    other_names = labels_of({number: f"class {number}" for number in ids})
    assert [*named(other_names, [COCO]).values()] == list(COCO)
    assert named(labels_of({1: "", 90: ""}), [COCO]) == {1: "person", 90: "toothbrush"}


def test_cocos_ids_with_names_of_their_own_mean_what_they_say() -> None:
    assert named(labels_of({1: "forklift", 2: "pallet"}), [COCO]) == {1: "forklift", 2: "pallet"}
    ids = {n: f"class {n}" for n, place in enumerate(CATEGORIES) if place >= 0}
    assert named(labels_of(ids), [COCO, ("car",)]) == ids


def test_no_common_class_is_an_error(tmp_path: Path, tiny_model: Path) -> None:
    write_pictures(tmp_path)
    labels = write_labels(tmp_path / "l.json", RIGHT, categories=categories(["a", "b", "c"]))
    with pytest.raises(ConfigError, match=r"no class is common.*a, b, c.*red, green, blue"):
        vidai.evaluate(tiny_model, labels, device="cpu")


def test_a_model_without_names_is_an_error(labelled: Path, tmp_path: Path) -> None:
    output = np.zeros((1, 336, 8), np.float32)
    write_constant_model(
        tmp_path / "nameless.onnx", {"output": output}, input_dims=[1, 3, SIDE, SIDE]
    )
    with pytest.raises(ConfigError, match=r"nameless has no names of its classes"):
        vidai.evaluate(tmp_path / "nameless.onnx", labelled, device="cpu")


def test_common_classes_keep_the_order_and_spelling_of_the_first_side() -> None:
    classes = common_classes([{5: "Cat", 9: "dog", 2: "cow"}, {0: "COW", 1: "cat"}])
    assert classes.names == ("Cat", "cow")
    assert classes.tables == ({5: 0, 2: 1}, {0: 1, 1: 0})
    found = boxes((0, 0.9, [0, 0, 1, 1]), (7, 0.8, [0, 0, 2, 2]), (1, 0.7, [0, 0, 3, 3]))
    common = classes.common(found, 1)
    assert [(one["class"], one["box"][2]) for one in common.to_dicts()] == [("cow", 1), ("Cat", 3)]


# --- files of labels

BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a list": (lambda d: [d], "no list of images"),
    "no annotations": (lambda d: {**d, "annotations": None}, "no list of annotations"),
    "texts for categories": (lambda d: {**d, "categories": ["red"]}, "no list of categories"),
    "nothing labelled": (lambda d: {**d, "annotations": []}, "labels no object in any of its 3"),
    "no file name": (lambda d: {**d, "images": [{"id": 4}]}, "image 4 has no file_name"),
    "an id twice": (lambda d: {**d, "images": d["images"] * 2}, "two images with the id 0"),
    "a category not listed": (lambda d: {**d, "categories": categories()[:1]}, "of category 3"),
    "a box of three": (lambda d: _annotated(d, bbox=[1, 2, 3]), "bbox [1, 2, 3]"),
    "no number": (lambda d: _annotated(d, bbox=[1, 2, float("nan"), 4]), "x, y, width"),
    "a box inside out": (lambda d: _annotated(d, bbox=[1, 2, -3, 4]), "bbox [1, 2, -3, 4]"),
    "no box": (lambda d: _annotated(d, bbox=None), "annotation 0 has bbox None"),
    "no picture": (lambda d: _annotated(d, image_id=None), "annotation 0 has image_id None"),
}


def _annotated(data: dict[str, Any], **changes: object) -> dict[str, Any]:
    first, *others = data["annotations"]
    return {**data, "annotations": [{**first, **changes}, *others]}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_labels_are_told_in_a_sentence(name: str, labelled: Path, tiny_model: Path) -> None:
    damage, words = BROKEN[name]
    labelled.write_text(json.dumps(damage(json.loads(labelled.read_text()))))
    with pytest.raises(ConfigError) as error:
        vidai.evaluate(tiny_model, labelled, device="cpu")
    assert words in str(error.value)
    assert str(labelled) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b'{"images": [', b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_json_is_told(content: bytes, tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "labels.JSON"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no JSON file that can be read"):
        vidai.evaluate(tiny_model, path, device="cpu")


def test_missing_pictures_are_told_before_anything_runs(labelled: Path, tiny_model: Path) -> None:
    for number in (1, 2):
        (labelled.parent / f"{number}.png").unlink()
    with pytest.raises(ConfigError, match=r"2 of the 3 pictures.*1\.png.*--images"):
        vidai.evaluate(tiny_model, labelled, device="cpu")


def test_pictures_may_be_elsewhere(tmp_path: Path, tiny_model: Path) -> None:
    write_pictures(tmp_path / "pictures")
    (tmp_path / "notes").mkdir()
    labels = write_labels(tmp_path / "notes" / "l.json", RIGHT)
    found = vidai.evaluate(tiny_model, labels, images=tmp_path / "pictures", device="cpu")
    assert found.accuracy is not None
    assert found.accuracy.ap == pytest.approx(1)


def test_image_ids_may_be_text_and_strays_are_told(tmp_path: Path, tiny_model: Path) -> None:
    write_pictures(tmp_path)
    images = [{"id": f"no {n}", "file_name": f"{n}.png"} for n in range(2)]
    right = [{**one, "image_id": f"no {one['image_id']}"} for one in RIGHT]
    labels = write_labels(
        tmp_path / "l.json", [*right, annotation("no 2", (0, 0, 0))], images=images
    )
    found = vidai.evaluate(tiny_model, labels, device="cpu")
    assert found.accuracy is not None
    assert [found.frames, found.accuracy.ap] == pytest.approx([2, 1])
    assert "1 labels of l.json are of pictures that it does not list" in found.notes


def test_a_picture_that_cannot_be_read_is_an_error(labelled: Path, tiny_model: Path) -> None:
    """Left out, it would make the precision another one."""
    (labelled.parent / "1.png").write_bytes(b"no picture")
    with pytest.raises(StreamError, match=r"1\.png"):
        vidai.evaluate(tiny_model, labelled, device="cpu")


def test_a_picture_of_another_size_is_an_error(labelled: Path, tiny_model: Path) -> None:
    Image.new("RGB", (64, 128)).save(labelled.parent / "1.png")
    with pytest.raises(ConfigError, match=r"1\.png is 64 × 128 px.* as 128 × 128"):
        vidai.evaluate(tiny_model, labelled, device="cpu")


@pytest.mark.parametrize("upright", [True, False])
def test_turned_photos_may_be_labelled_upright_or_as_stored(
    upright: bool, tmp_path: Path, tiny_model: Path
) -> None:
    """Orientation 6: shown after a quarter turn clockwise. The stored picture is 128 × 96, its
    square at (8, 24); so upright it is 96 × 128, and the square's left is 96 - 24 - 16."""
    exif = Image.Exif()
    exif[0x112] = 6
    stored = Image.fromarray(picture([(8, 24, 0)], 128, 96))
    stored.save(tmp_path / "0.jpg", quality=98, subsampling=0, exif=exif)
    width, height, square = (96, 128, (56, 8, 0)) if upright else (128, 96, (8, 24, 0))
    images = [{"id": 1, "file_name": "0.jpg", "width": width, "height": height}]
    labels = write_labels(tmp_path / "l.json", [annotation(1, square)], images=images)
    measured = vidai.evaluate(tiny_model, labels, device="cpu").accuracy
    assert measured is not None
    assert measured.ap == pytest.approx(1)


def test_without_the_evaluator_the_extra_is_named(
    labelled: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'vidai\[eval\]'"):
        vidai.evaluate(tiny_model, labelled, device="cpu")


# --- agreement


def test_a_model_agrees_with_itself(tmp_path: Path, tiny_model: Path) -> None:
    clip = squares_clip(tmp_path / "in.mp4", frames=10)
    found = vidai.evaluate(tiny_model, clip, against=tiny_model, device="cpu")
    assert (found.frames, found.accuracy, found.unread) == (10, None, ())
    alike = found.agreement
    assert alike is not None
    assert (alike.frames, alike.f1) == (10, 1)
    assert {*alike.classes} == {*NAMES}
    for pairs in alike.classes.values():
        assert (pairs.reference, pairs.other, pairs.matched) == (10, 10, 10)
        assert pairs.box_error == pytest.approx(0, abs=1e-6)
        assert (pairs.corner_error, pairs.score_shift, pairs.score_shift_std) == (0, 0, 0)


def test_a_shifted_model_differs_by_its_shift(
    tmp_path: Path, tiny_model: Path, variant: Callable[..., Path], device: Device
) -> None:
    """Its boxes lie a quarter of a cell, 2 px, to the left (IoU 14 / 18), its scores are 0.9 of
    what they were, and it is blind for blue."""
    write_pictures(tmp_path / "pictures")
    other = variant(bias={0: 0.75, 4: 0.9, 7: -9})
    found = vidai.evaluate(other, tmp_path / "pictures", against=tiny_model, device=device)
    alike = found.agreement
    assert alike is not None
    assert found.model == "variant"
    assert [alike.frames, alike.f1] == pytest.approx([3, 2 * 3 / (4 + 3)])
    blue, red = alike.classes["blue"], alike.classes["red"]
    assert (blue.reference, blue.other, blue.matched, blue.f1) == (1, 0, 0, 0)
    assert (blue.box_error, blue.corner_error, blue.score_shift) == (None, None, None)
    assert (red.reference, red.other, red.matched) == (2, 2, 2)
    assert red.box_error == pytest.approx(1 - 14 / 18, abs=1e-5)
    assert red.corner_error == pytest.approx(2, abs=1e-4)
    seen_by_itself = [
        score
        for path in sorted((tmp_path / "pictures").iterdir())
        for score, class_id in _scores(Detector(tiny_model, device=device), path, device)
        if class_id == 0
    ]
    assert len(seen_by_itself) == 2
    assert red.score_shift == pytest.approx(-0.1 * np.mean(seen_by_itself), abs=1e-5)
    assert red.score_shift_std == pytest.approx(0.1 * np.std(seen_by_itself), abs=1e-5)


def _scores(detector: Detector, path: Path, device: Device) -> list[tuple[float, int]]:
    (found,) = detector([open_picture(path, device)])
    return [*zip(found.scores.tolist(), found.class_ids.tolist(), strict=True)]


def test_agreement_by_hand() -> None:
    """20 × 20 px moved by (3, 4) have 17 · 16 = 272 in common: IoU 272 / 528 = 0.515. The other
    model finds all that the reference does, and one box more."""
    reference = [
        boxes((0, 0.9, [0, 0, 10, 10]), (0, 0.5, [50, 50, 70, 70])),
        boxes((1, 0.8, [0, 0, 10, 10])),
    ]
    other = [
        boxes((0, 0.7, [0, 0, 10, 8]), (0, 0.6, [53, 54, 73, 74])),
        boxes((1, 0.4, [0, 0, 10, 10]), (1, 0.3, [60, 0, 70, 10])),
    ]
    alike = agreement(reference, other)
    zero, one = alike.classes["0"], alike.classes["1"]
    assert (zero.reference, zero.other, zero.matched, zero.f1) == (2, 2, 2, 1)
    assert zero.box_error == pytest.approx((0.2 + 1 - 272 / 528) / 2)
    assert zero.corner_error == pytest.approx(((0 + 2) / 2 + 5) / 2)
    assert zero.score_shift == pytest.approx((-0.2 + 0.1) / 2, abs=1e-6)
    assert zero.score_shift_std == pytest.approx(0.15, abs=1e-6)
    assert [one.reference, one.other, one.matched, one.f1] == pytest.approx([1, 2, 1, 2 / 3])
    assert [one.score_shift, one.score_shift_std] == pytest.approx([-0.4, 0])
    assert [alike.frames, alike.f1] == pytest.approx([2, 6 / 7])
    assert alike.overall.box_error == pytest.approx((0.2 + 1 - 272 / 528 + 0) / 3)


def test_two_models_that_find_nothing_agree() -> None:
    alike = agreement([boxes()], [boxes()])
    assert (alike.f1, alike.classes, alike.overall.box_error) == (1, {}, None)
    assert agreement([], []).frames == 0


def test_models_with_other_numbers_for_the_same_classes_agree(
    tmp_path: Path, tiny_model: Path, variant: Callable[..., Path]
) -> None:
    write_pictures(tmp_path / "p")
    other = variant(order=(2, 0, 1), names=("Blue", "red", "green"))
    found = vidai.evaluate(other, tmp_path / "p", against=tiny_model, device="cpu")
    assert found.agreement is not None
    assert (found.agreement.f1, found.agreement.overall.reference) == (1, 4)
    assert found.notes == ()


def test_classes_of_one_model_only_are_left_out_and_told(
    tmp_path: Path, tiny_model: Path, variant: Callable[..., Path]
) -> None:
    write_pictures(tmp_path / "p")
    other = variant(names=("red", "lime", "blue"))
    found = vidai.evaluate(other, tmp_path / "p", against=tiny_model, device="cpu")
    assert found.agreement is not None
    assert {*found.agreement.classes} == {"red", "blue"}
    assert "classes that only variant knows are left out: lime" in found.notes
    assert "classes that only tiny knows are left out: green" in found.notes
    stranger = variant(names=("a", "b", "c"))
    with pytest.raises(ConfigError, match="no class is common"):
        vidai.evaluate(stranger, tmp_path / "p", against=tiny_model, device="cpu")


def test_models_without_names_are_compared_by_numbers(
    tmp_path: Path, tiny_model: Path, variant: Callable[..., Path]
) -> None:
    write_pictures(tmp_path / "p")
    model = onnx.load(variant())
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "nameless.onnx")
    found = vidai.evaluate(
        tmp_path / "nameless.onnx", tmp_path / "p", against=tiny_model, device="cpu"
    )
    assert found.agreement is not None
    assert (found.agreement.f1, {*found.agreement.classes}) == (1, {*NAMES})
    assert "by their numbers" in found.notes[0]


def test_detectors_and_loaded_models_will_do(
    tmp_path: Path, tiny_model: Path, device: Device
) -> None:
    write_pictures(tmp_path / "p")
    found = vidai.evaluate(
        Detector(tiny_model, device=device, conf=0.999),  # its thresholds do not count
        [tmp_path / "p" / "0.png", tmp_path / "p" / "1.png"],
        against=load_model(tiny_model),
    )
    assert found.agreement is not None
    assert (found.frames, found.agreement.overall.other, found.agreement.f1) == (2, 4, 1)


def test_labels_and_another_model(
    labelled: Path, tiny_model: Path, variant: Callable[..., Path]
) -> None:
    """The other is blind for green; agreement is of what runs show, from a score of 0.35 on."""
    found = vidai.evaluate(variant(bias={6: -9}), labelled, against=tiny_model, device="cpu")
    mine, theirs, alike = found.accuracy, found.against_accuracy, found.agreement
    assert mine is not None
    assert theirs is not None
    assert alike is not None
    assert [mine.ap, theirs.ap] == pytest.approx([2 / 3, 1])
    assert [one.classes["green"].ap for one in (mine, theirs)] == pytest.approx([0, 1])
    assert [alike.frames, alike.f1] == pytest.approx([3, 6 / 7])
    assert found.accuracy_threshold == (0.001, 0.65)
    assert found.agreement_threshold == (0.35, 0.45)


def test_one_run_serves_several_thresholds(
    tmp_path: Path, tiny_model: Path, device: Device
) -> None:
    """A bar of red 24 px long is found twice, 8 px apart: IoU 1/3."""
    rgb = picture([(8, 8, 0), (16, 8, 0), (80, 80, 1)])
    Image.fromarray(rgb).save(tmp_path / "bar.png")
    frame = open_picture(tmp_path / "bar.png", device)
    thresholds = [Threshold(0.001, 0.65), Threshold(0.35, 0.2), Threshold(0.999, 0.65)]
    first = Detector(tiny_model, device=device, conf=0.001, iou=0.65)
    found = seen(first, frame, thresholds[1:])
    assert [len(one) for one in found] == [3, 2, 0]
    for one, (conf, iou) in zip(found, thresholds, strict=True):
        (alone,) = Detector(tiny_model, device=device, conf=conf, iou=iou)([frame])
        assert one.to_dicts() == alone.to_dicts()


# --- the whole


def test_what_cannot_be_evaluated_is_told(labelled: Path, tiny_model: Path) -> None:
    folder = labelled.parent
    for data, more, words in (
        (folder, {}, "without labels"),
        ([], {}, "there is no data"),
        ([labelled, folder], {}, "leave out the other data"),
        (folder, {"images": folder, "against": tiny_model}, "name that file too"),
        (folder / "nothing", {"against": tiny_model}, "nothing"),
        (folder / "nothing.json", {}, "nothing.json"),
        (labelled, {"conf": 1.5}, "conf is a number from 0 to 1"),
        (folder, {"against": tiny_model, "frames": 0}, "0"),
    ):
        with pytest.raises(ConfigError, match=words):
            vidai.evaluate(tiny_model, data, device="cpu", **more)


def test_progress_goes_from_nothing_to_all(labelled: Path, tiny_model: Path) -> None:
    told: list[tuple[str, float]] = []
    vidai.evaluate(
        tiny_model, labelled, device="cpu", progress=lambda what, part: told.append((what, part))
    )
    looked = [part for what, part in told if what == "looking at pictures"]
    assert looked == [0, pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert told[-1][1] == 1


def test_results_come_in_order_and_few_are_held() -> None:
    taken = given = 0
    first_may_end = threading.Event()

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(50):
            taken += 1
            assert taken - given <= 2 * 3
            yield number

    def work(number: int) -> int:
        if number == 0:
            assert first_may_end.wait(60)
        if number == 2:
            first_may_end.set()
        return number * number

    for number, result in enumerate(in_order(work, items(), 3)):
        assert result == number * number
        given += 1
    assert given == 50


def test_an_error_in_a_thread_is_raised_and_ends_the_others() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ConfigError("number 3")
        return number

    with pytest.raises(ConfigError, match="number 3"):
        list(in_order(work, range(1000), 2))
    assert not [t for t in threading.enumerate() if t.name.startswith("vidai-evaluation")]


# --- the command


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, args)])


def test_command_prints_tables_on_stdout(labelled: Path, tiny_model: Path) -> None:
    result = run(tiny_model, "--data", labelled, "--against", tiny_model, "--device", "cpu")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["AP", "1.000", "1.000"] in lines
    assert ["AP", "medium", "–", "–"] in lines
    assert ["red", "2", *["1.000"] * 4] in lines
    assert ["all", "4", "4", "4", "1.000", "0.000", "0.00", "+0.000", "±", "0.000"] in lines
    assert result.stderr == ""


def test_command_gives_json_and_nothing_else(labelled: Path, tiny_model: Path) -> None:
    result = run(tiny_model, "--data", labelled, "--json", "--device", "cpu")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["model"] == "tiny"
    assert found["accuracy"]["ap"] == pytest.approx(1)
    assert found["accuracy"]["ap_large"] is None
    assert found["accuracy"]["classes"]["green"]["objects"] == 1
    assert found["accuracy_threshold"] == {"conf": 0.001, "iou": 0.65}
    assert found["agreement"] is None


def test_command_is_quiet(labelled: Path, tiny_model: Path) -> None:
    args = (tiny_model, "--data", labelled, "--device", "cpu", "-q")
    assert (run(*args).exit_code, run(*args).output) == (0, "")
    assert json.loads(run(*args, "--json").stdout)["frames"] == 3


def test_command_tells_what_could_not_be_read(tmp_path: Path, tiny_model: Path) -> None:
    write_pictures(tmp_path / "p")
    (tmp_path / "p" / "bad.png").write_bytes(b"no picture")
    clip = squares_clip(tmp_path / "clip.mp4", frames=4)
    result = run(
        *(tiny_model, "--against", tiny_model, "--data", tmp_path / "p", "--data", clip),
        *("--frames", 6, "--device", "cpu"),
    )
    assert result.exit_code == 3, result.output
    assert "bad.png" in result.stderr
    assert "6 frames of" in result.stdout


def test_command_teaches_with_examples() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert result.output.count("\n  vidai eval ") >= 2
    assert "0.001" in result.output


def test_tables_fit_a_terminal(labelled: Path, tiny_model: Path) -> None:
    result = run(tiny_model, "--data", labelled, "--against", tiny_model, "--device", "cpu")
    rows = [line.rstrip() for line in result.stdout.splitlines() if not line.startswith("data")]
    assert max(len(row) for row in rows if str(tiny_model) not in row) <= 80


def test_progress_is_shown_from_a_second_on(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80)
    monkeypatch.setattr(terminal, "_console", lambda: console)
    now = 100.0
    monkeypatch.setattr("vidai.terminal.time.monotonic", lambda: now)
    with terminal.working(False) as show:
        assert show is not None
        now += 0.5
        show("looking [/at] pictures", 0.1)
        assert written.getvalue() == ""
        now += 1
        show("looking [/at] pictures", 0.2)
    assert "looking [/at] pictures" in written.getvalue()


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(terminal, "_console", lambda: Console(file=written, width=80))
    now = 100.0
    monkeypatch.setattr("vidai.terminal.time.monotonic", lambda: now)
    with terminal.working(False) as show:
        assert show is not None
        for part in (0.1, 0.5):
            now += 4
            show("looking", part)
    assert written.getvalue() == "looking, 50%\n"
    with terminal.working(True) as show:
        assert show is None


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--data", "labels.json"), 1, "labels.json"),
        (("--data", "."), 2, "--against"),
        ((), 2, "--data"),
        (("--data", ".", "--against", "yolox-nanno"), 1, "yolox-nano"),
        (("--data", ".", "--against", "yolox-nano", "--frames", "0"), 2, "--frames"),
    ],
)
def test_command_refuses_in_a_sentence(
    args: tuple[str, ...],
    code: int,
    words: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(tiny_model, "--device", "cpu", *args)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
