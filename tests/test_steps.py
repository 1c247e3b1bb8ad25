"""The steps of a pipeline, from their YAML form to what they do to a frame."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from tests.surfaces import planes_of, random_frame
from tests.test_overlay import same
from vidai.errors import ConfigError
from vidai.ops.overlay import color_for, draw
from vidai.ops.redact import redact
from vidai.steps import Overlay, Redact, steps_from
from vidai.types import Detections

FOUND = Detections(
    np.array([[10, 30, 60, 70], [70, 20, 110, 60]], np.float32),
    np.array([0.874, 0.5], np.float32),
    np.array([1, 0], np.int32),
    ("face", "person"),
)
TRACKED = replace(FOUND, track_ids=np.array([7, 12]))


def test_steps_come_from_yaml_in_order() -> None:
    text = """
    - redact: {style: pixelate, classes: [face]}
    - overlay
    - overlay: {alpha: 0.5, color_by: track}
    - redact:
    """
    assert steps_from(yaml.safe_load(text)) == [
        Redact(style="pixelate", classes=["face"]),
        Overlay(),
        Overlay(alpha=0.5, color_by="track"),
        Redact(),
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("blink", "blink.*overlay or redact"),
        ({"overlay": {"colour": 1}}, "colour.*alpha, color_by"),
        ({"redact": {"colour": 1}}, "colour.*cells, classes"),
        ({"redact": ["blur"]}, "blur.*style"),
        ({"overlay": {}, "redact": {}}, "one name"),
        (7, "7"),
        ({"redact": {"style": "smear"}}, "smear.*blur"),
        ({"redact": {"classes": "face"}}, "list.*face"),
        ({"overlay": {"color_by": "mood"}}, "class or track.*mood"),
        ({"overlay": {"alpha": "much"}}, "overlay.*much"),
        ({"overlay": {"thickness": 0}}, "thickness"),
    ],
)
def test_a_wrong_step_is_refused_with_the_known_ones(config: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        steps_from([config])


@pytest.mark.parametrize(
    ("step", "detections", "texts"),
    [
        (Overlay(), FOUND, ["person 0.87", "face 0.50"]),
        (Overlay(), TRACKED, ["person 0.87 #7", "face 0.50 #12"]),
        (Overlay(scores=False), TRACKED, ["person #7", "face #12"]),
        (Overlay(labels=False), FOUND, ["0.87", "0.50"]),
        (Overlay(labels=False, scores=False), TRACKED, ["", ""]),
        (Overlay(), replace(FOUND, names=()), ["1 0.87", "0 0.50"]),
    ],
)
def test_labels_say_class_score_and_track(
    step: Overlay, detections: Detections, texts: list[str]
) -> None:
    assert step.texts(detections) == texts


@pytest.mark.parametrize(("color_by", "ids"), [("class", [1, 0]), ("track", [7, 12])])
def test_overlay_draws_in_the_colors_of_classes_or_tracks(color_by: str, ids: list[int]) -> None:
    colors = np.array([color_for(i) for i in ids], np.uint8)
    expected = random_frame(120, 80, writable=True)
    draw(expected, FOUND.boxes, colors, ["person 0.87 #7", "face 0.50 #12"], alpha=0.7)
    got = Overlay(alpha=0.7, color_by=color_by)(random_frame(120, 80, writable=True), TRACKED)
    same(planes_of(got), planes_of(expected))


def test_redact_hides_only_the_classes_asked_for() -> None:
    expected = random_frame(120, 80, writable=True)
    redact(expected, FOUND.boxes[1:], grow=1.3)
    got = Redact(classes=["face"])(random_frame(120, 80, writable=True), FOUND)
    same(planes_of(got), planes_of(expected))


def test_redact_refuses_a_class_that_would_go_unredacted() -> None:
    with pytest.raises(ConfigError, match=r"faces.*knows face, person"):
        Redact(classes=["faces"])(random_frame(120, 80), FOUND)


@pytest.mark.parametrize("step", [Overlay(), Redact(), Redact(classes=["face"])])
def test_without_detections_a_frame_passes_untouched(step: Any) -> None:
    frame = random_frame(40, 30)
    assert step(frame, Detections.empty(("face",))) is frame
