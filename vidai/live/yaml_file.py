"""YAML as people write it by hand, read strictly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vidai.errors import ConfigError
from vidai.sources.address import shown
from vidai.tags import reason

MOST_BYTES = 1 << 20  # some thousand cameras
MOST_VALUES = 100_000  # with those that aliases repeat
# What YAML's messages quote of the text, but not '<a kind of thing>' and '\\t'.
QUOTED = re.compile(r"(['\"])(?![<\\]).{2,}\1", re.DOTALL)
MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """What the file says.

    A name that stands twice in one place is an error: YAML would keep the last one without a
    word. Raises ConfigError, with the line, and without the file's text: it may hold secrets.
    """
    text = _text_of(path)
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = QUOTED.sub("…", error.problem or "something is wrong")
        raise ConfigError(
            f"{path}{place}: {' '.join(problem.split())}; text with special characters needs "
            "quotes around it"
        ) from None
    except yaml.YAMLError:
        raise ConfigError(f"{path} is no text: it has control characters in it") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{path} has a number or date that does not exist: text that looks like one needs "
            "quotes around it"
        ) from None


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}: check the name") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} has more than {MOST_BYTES >> 20} MiB: is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no text in UTF-8 (byte {error.start}): is it the right file?"
        ) from None


class _Loader(yaml.SafeLoader):
    """Looks at the whole document before anything is made of it."""

    def construct_document(self, node: yaml.Node) -> Any:
        _check(node, {})
        return super().construct_document(node)


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node stands for, with those that its aliases repeat. sizes: of the nodes
    that were seen, by id; 0 while one is looked at. Raises MarkedYAMLError."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise _wrong("something here contains itself", node)
        return sizes[id(node)]
    sizes[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_names(node)
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    size = 1 + sum(_check(part, sizes) for part in parts)
    if size > MOST_VALUES:
        raise _wrong(f"there are more than {MOST_VALUES} values", node)
    sizes[id(node)] = size
    return size


def _check_names(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
            if key.value in seen:
                raise _wrong(f"{shown(key.value)} stands here twice: give each its own name", key)
            seen.add(key.value)


def _wrong(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
