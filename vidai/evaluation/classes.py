"""Which classes of several models, and of a file of labels, are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vidai.types import Detections


@dataclass(frozen=True)
class Classes:
    """Classes that all sides know. names: () where no side has names.

    tables: one a side, from its own number of a class to the place in `names`; None: its own
    numbers are the common ones.
    """

    names: tuple[str, ...]
    tables: tuple[Mapping[int, int] | None, ...]

    def common(self, found: Detections, side: int) -> Detections:
        """What the model of that side has found, in common numbers; other classes are dropped."""
        table = self.tables[side]
        if table is None:
            return Detections(found.boxes, found.scores, found.class_ids, self.names)
        ids = np.array([table.get(int(own), -1) for own in found.class_ids], np.int32)
        keep = ids >= 0
        return Detections(found.boxes[keep], found.scores[keep], ids[keep], self.names)


def common_classes(sides: Sequence[Mapping[int, str]]) -> Classes:
    """Classes that have the same name on all sides, but for case: as the first side spells them.

    sides: names by number, at least one a side. A name that a side has twice is one class.
    """
    known = [{key(name) for name in side.values()} for side in sides]
    names: dict[str, str] = {}
    for name in sides[0].values():
        names.setdefault(key(name), name)
    shared = [name for name in names if all(name in side for side in known)]
    places = {name: place for place, name in enumerate(shared)}
    return Classes(
        tuple(names[name] for name in shared),
        tuple(
            {own: places[key(name)] for own, name in side.items() if key(name) in places}
            for side in sides
        ),
    )


def key(name: str) -> str:
    """What is compared of a class's name."""
    return name.strip().casefold()


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few names, for a sentence."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
