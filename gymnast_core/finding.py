"""What a look over a folder found: the trainer's, or a robot's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gymnast_core.text import one_line

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what, in a word: database, blobs, certificates, spool, ...
        state: ok, warning (works, for now), fault (something is damaged or lost).
        what: what was found, with names and numbers.
        remedy: what to do; empty where nothing is.
    """

    check: str
    state: State
    what: str
    remedy: str = ""

    def __post_init__(self) -> None:
        """Names of files are others' words: each finding is one line."""
        object.__setattr__(self, "what", one_line(self.what))
        object.__setattr__(self, "remedy", one_line(self.remedy))
