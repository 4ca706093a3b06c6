"""The size of a low-rank adapter, apart from lora.py, which takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.practice import MOST_RANK


@dataclass(frozen=True)
class LoraSettings:
    """Where adapters sit and how large they are.

    Attributes:
        rank: r.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input, while training.
        targets: names of linear layers, matched at the end of their path; empty means all but the token head.
    """

    rank: int = 32
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        if not 1 <= self.rank <= MOST_RANK or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(f"rank must be 1..{MOST_RANK}, alpha positive and dropout in [0, 1), got {self}")
