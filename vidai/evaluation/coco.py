"""Labels in COCO's format, and how well a model finds what they say: average precision.

The measures are those of COCO (Lin et al., 2014), computed by faster-coco-eval, which gives the
numbers of the authors' own evaluation. Reading the file is done here, because evaluators take
what they get: they mistake an annotation with the id 0, and pass over a class that is not there.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidai.errors import ConfigError
from vidai.evaluation.classes import Classes, key, some
from vidai.models.coco import CATEGORIES, COCO
from vidai.tags import reason
from vidai.types import Detections, Frame


@dataclass(frozen=True)
class Picture:
    """A labelled picture. width, height: px as labelled, None where the file does not say."""

    path: Path
    width: int | None
    height: int | None


@dataclass(frozen=True)
class Label:
    """An object. picture: its number. box: x, y, width, height in px. area: px², of the object's
    outline where the file has it. crowd: a group whose members are not labelled one by one."""

    picture: int
    category: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool


@dataclass(frozen=True)
class Labels:
    """A file in COCO's format. categories: names by id. strays: labels of pictures that it does
    not list, which are left out."""

    path: Path
    pictures: tuple[Picture, ...]
    categories: Mapping[int, str]
    objects: tuple[Label, ...]
    strays: int


@dataclass(frozen=True)
class ClassAccuracy:
    """objects: how many are labelled, without crowds. ap, ap50: as of Accuracy."""

    objects: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class Accuracy:
    """COCO's measures, 0–1; None where there is nothing to measure them on.

    ap: average precision, the mean over IoU 0.50, 0.55 … 0.95 and all classes. ap50, ap75: at
    that IoU alone. ap_small, ap_medium, ap_large: of objects with an area below 32², up to 96²
    and above 96² px. ar100: average recall with up to 100 boxes a picture. classes: by name.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar100: float | None
    classes: dict[str, ClassAccuracy]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def is_labels(path: Path) -> bool:
    """Whether the file is meant as labels, by its name."""
    return path.suffix.lower() == ".json"


def read_labels(path: Path, images: Path | None = None) -> Labels:
    """What the file says, checked; images: the folder of its pictures, else the file's own.

    Raises ConfigError for a file that is not as COCO's are, or whose pictures are not there.
    """
    data = _load(path)
    folder = path.parent if images is None else images
    pictures: list[Picture] = []
    numbers: dict[int | str, int] = {}  # of the pictures by their ids, which may be text
    for image in data["images"]:
        image_id = _field(path, "image", image, "id", (int, str))
        if image_id in numbers:
            raise ConfigError(f"{path} lists two images with the id {image_id!r}")
        numbers[image_id] = len(pictures)
        name = _field(path, "image", image, "file_name", str)
        pictures.append(Picture(folder / name, _side(image, "width"), _side(image, "height")))
    categories = {
        _field(path, "category", c, "id", int): str(c.get("name") or "") for c in data["categories"]
    }
    objects, strays = [], 0
    for annotation in data["annotations"]:
        number = numbers.get(_field(path, "annotation", annotation, "image_id", (int, str)))
        if number is None:
            strays += 1
        else:
            objects.append(_label(path, annotation, number, categories))
    if not objects:
        raise ConfigError(f"{path} labels no object in any of its {len(pictures)} pictures")
    if missing := [picture.path for picture in pictures if not picture.path.is_file()]:
        hint = "" if images else ": name the folder of its pictures with images (--images)"
        raise ConfigError(
            f"{len(missing)} of the {len(pictures)} pictures of {path} are not there, the first is "
            f"{missing[0]}{hint}"
        )
    return Labels(path, tuple(pictures), categories, tuple(objects), strays)


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON file that can be read: {reason(error)}") from error
    for name in ("images", "annotations", "categories"):
        listed = data.get(name) if isinstance(data, dict) else None
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise ConfigError(
                f"{path} is no file of labels in COCO's format: it has no list of {name}"
            )
    loaded: dict[str, list[dict[str, Any]]] = data
    return loaded


def _field(
    path: Path, what: str, entry: dict[str, Any], name: str, kinds: type | tuple[type, ...]
) -> Any:
    value = entry.get(name)
    if not isinstance(value, kinds) or isinstance(value, bool):
        told = f"{name} {value!r}" if name in entry else f"no {name}"
        which = f" {entry['id']!r}" if name != "id" and "id" in entry else ""
        raise ConfigError(f"{path}: {what}{which} has {told}, so it cannot be used")
    return value


def _side(image: dict[str, Any], name: str) -> int | None:
    value = image.get(name)
    return value if isinstance(value, int) and value > 0 else None


def _label(
    path: Path, annotation: dict[str, Any], picture: int, categories: Mapping[int, str]
) -> Label:
    category = _field(path, "annotation", annotation, "category_id", int)
    if category not in categories:
        raise ConfigError(
            f"{path}: annotation {annotation.get('id')!r} is of category {category}, which the "
            f"file does not list"
        )
    box = _field(path, "annotation", annotation, "bbox", list)
    if not (len(box) == 4 and all(map(_is_number, box)) and min(box[2:]) >= 0):
        raise ConfigError(
            f"{path}: annotation {annotation.get('id')!r} has the bbox {box!r}: it must be x, y, "
            f"width and height in px"
        )
    area = annotation.get("area")
    return Label(
        picture,
        category,
        (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        float(box[2] * box[3] if area is None or not _is_number(area) else area),
        bool(annotation.get("iscrowd", 0)),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def named(labels: Labels, models: Sequence[Sequence[str]]) -> Mapping[int, str]:
    """The file's categories, by the names that the models use where its ids tell them.

    A file with just the ids of COCO's 80 categories, or with COCO's ids and no names, means
    those whatever it calls them, and so does a model with COCO's names.
    """
    ids = {number: COCO[place] for number, place in enumerate(CATEGORIES) if place >= 0}
    known = {key(name) for name in COCO}
    categories = labels.categories
    as_coco = set(categories) == set(ids) or not any(categories.values())
    if as_coco and set(categories) <= set(ids) and all(tuple(names) == COCO for names in models):
        return {
            number: name if key(name) in known else ids[number]
            for number, name in categories.items()
        }
    return {number: name for number, name in categories.items() if name}


def as_labelled(frame: Frame, picture: Picture, labels: Path) -> Frame:
    """The frame with its axes as they were labelled: upright, or as the file stores them.

    Raises ConfigError where neither has the size that the labels are for.
    """
    wanted = picture.width or frame.width, picture.height or frame.height
    if (frame.width, frame.height) == wanted:
        return frame
    if (frame.info.width, frame.info.height) == wanted:
        return replace(frame, info=replace(frame.info, display_matrix=None))
    raise ConfigError(
        f"{picture.path} is {frame.width} × {frame.height} px, and {labels} labels it as "
        f"{wanted[0]} × {wanted[1]}: it is not the picture that was labelled"
    )


def check_evaluator() -> None:
    """Raises ConfigError where the evaluator is not installed: better before hours of work."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "average precision needs the package faster-coco-eval: pip install 'vidai[eval]'"
        ) from error


def accuracy(labels: Labels, classes: Classes, found: Sequence[Detections]) -> Accuracy:
    """Of what was found in each picture of the labels, in common numbers of the classes.

    classes: the file is its first side. Of each picture the 100 best of a class count: COCO's own
    limit, which the evaluator keeps.
    """
    from faster_coco_eval import COCO as Annotations  # noqa: N811
    from faster_coco_eval import COCOeval_faster

    places = classes.tables[0] or {}
    listed = {
        "images": [{"id": number} for number in range(len(labels.pictures))],
        "categories": [{"id": place, "name": name} for place, name in enumerate(classes.names)],
    }
    objects = [label for label in labels.objects if label.category in places]
    truth = [
        {
            "id": number,  # 0 would mean "not matched"
            "image_id": label.picture,
            "category_id": places[label.category],
            "bbox": [*label.box],
            "area": label.area,
            "iscrowd": int(label.crowd),
        }
        for number, label in enumerate(objects, 1)
    ]
    boxes = [
        {
            "image_id": picture,
            "category_id": int(class_id),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": float(score),
        }
        for picture, best in enumerate(found)
        for (x1, y1, x2, y2), score, class_id in zip(
            best.boxes.astype(float).tolist(), best.scores, best.class_ids, strict=True
        )
    ]
    for number, box in enumerate(boxes, 1):
        box["id"] = number
    evaluation = COCOeval_faster(
        Annotations({**listed, "annotations": truth}),
        Annotations({**listed, "annotations": boxes}),
        "bbox",
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap, ap50, ap75, small, medium, large, _, _, ar100, *_ = map(_measured, evaluation.stats)
    count = Counter(places[label.category] for label in objects if not label.crowd)
    precision = evaluation.eval["precision"]  # by IoU, recall, class, area, boxes a picture
    return Accuracy(
        *(ap, ap50, ap75, small, medium, large, ar100),
        classes={
            name: ClassAccuracy(
                count[place],
                _mean(precision[:, :, place, 0, -1]),
                _mean(precision[0, :, place, 0, -1]),
            )
            for place, name in enumerate(classes.names)
        },
    )


def _mean(precision: Any) -> float | None:
    there = precision[precision >= 0]  # -1: nothing is labelled
    return float(np.mean(there)) if there.size else None


def _measured(value: float) -> float | None:
    return None if value < 0 else float(value)


def left_out(labels: Labels, classes: Classes) -> list[str]:
    """Notes on the classes and labels that do not count."""
    known = classes.tables[0] or {}
    names = [
        name or f"category {number}"
        for number, name in labels.categories.items()
        if number not in known
    ]
    notes = []
    if names:
        notes.append(
            f"{len(names)} of the {len(labels.categories)} classes of {labels.path.name} are left "
            f"out, which not every model knows: {some(names)}"
        )
    if labels.strays:
        notes.append(
            f"{labels.strays} labels of {labels.path.name} are of pictures that it does not list"
        )
    return notes
