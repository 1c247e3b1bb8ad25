"""Which settings are secrets, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vidai.sources.address import secrets_of, shown

HIDDEN = "***"
# Names of settings whose text is a secret, also those that Kafka's clients know.
NAME = re.compile(
    r"pass(word|wd|phrase)?$|token|secret|credential|jaas|api[_.-]?key|key\.pem$", re.IGNORECASE
)


def hidden(value: Any) -> Any:
    """Plain settings (dicts, lists, text) without their secrets."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if NAME.search(str(key)) and isinstance(item, str) else hidden(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [hidden(item) for item in value]
    return shown(value) if isinstance(value, str) else value


def secrets_in(value: Any) -> Iterator[str]:
    """What `hidden` hides."""
    if isinstance(value, dict):
        for key, item in value.items():
            if NAME.search(str(key)) and isinstance(item, str):
                yield item
            else:
                yield from secrets_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from secrets_in(item)
    elif isinstance(value, str):
        yield from secrets_of(value)
