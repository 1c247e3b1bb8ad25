"""One thing that the doctor tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found, in words. status: "note" is worth knowing, "problem" is in the way.

    section: what it belongs to, "driver". advice: what to do, one sentence; every problem
    has one.
    """

    section: str
    name: str
    value: str
    status: Status = "ok"
    advice: str = ""

    def __post_init__(self) -> None:
        if self.status == "problem" and not self.advice:
            raise ValueError(f"the problem {self.name!r} ({self.value}) comes without advice")


def one_line(error: BaseException) -> str:
    """The first paragraph of what an error says, in one line; its kind where it says nothing."""
    paragraph = re.split(r"\n\s*\n", str(error).strip())[0]
    return " ".join(paragraph.split())[:300] or type(error).__name__
