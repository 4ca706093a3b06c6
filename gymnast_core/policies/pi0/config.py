"""Sizes of pi0 and pi0.5: a vision tower, a language model, an action expert; read from our JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.types import ACTION_DIM

VARIANTS = ("pi0", "pi05")
NORMALISATIONS = ("zscore", "quantile")
SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""The three cameras pi0 was trained with, in their order in the sequence."""


@dataclass(frozen=True)
class GemmaSizes:
    """One Gemma: the language model or the action expert. Defaults are the language model's (gemma_2b)."""

    width: int = 2048
    depth: int = 18
    mlp: int = 16384
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256


GEMMAS = {
    "gemma_2b": GemmaSizes(),
    "gemma_300m": GemmaSizes(width=1024, mlp=4096),
    "dummy": GemmaSizes(width=64, depth=4, mlp=128, head_dim=16),
}
"""Sizes by the names that published config.json files use."""


@dataclass(frozen=True)
class SiglipSizes:
    """The vision tower; defaults are SigLIP So400m/14 at 224 pixels."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1152
    depth: int = 27
    mlp: int = 4304
    heads: int = 16

    @property
    def patches(self) -> int:
        """Tokens per image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class Pi0Config:
    """Everything but the weights, the tokenizer and the statistics.

    Attributes:
        variant: pi0 (the state is a token, the time goes in with the actions) or pi05 (the state is in the prompt, the
            time modulates the expert's norms).
        vision: the tower.
        language: the language model.
        expert: the action expert; depth, heads and head_dim must be the language model's.
        vocabulary: rows of the embedding.
        chunk_length: K, actions per call; no weight depends on it.
        action_width: numbers of an action as the network sees it; ours are the first 7, zeros follow.
        state_width: numbers of the state, likewise; pi0.5 has no use for it.
        steps: Euler steps from noise to actions.
        prompt_tokens: the longest prompt; a longer one is refused.
        normalisation: zscore or quantile.
        norm_epsilon: added to the deviation or the range.
        statistics_key: whose statistics normalise, for people.
        cameras: our camera of each slot of SLOTS; the first slot's empty is the first camera, another's is none.
        bos_id: first token of a prompt.
        temperature: scales the exploration's noise.
        exploration: where noise enters when it is sampled.
    """

    variant: str = "pi0"
    vision: SiglipSizes = field(default_factory=SiglipSizes)
    language: GemmaSizes = GEMMAS["gemma_2b"]
    expert: GemmaSizes = GEMMAS["gemma_300m"]
    vocabulary: int = 257152
    chunk_length: int = 50
    action_width: int = 32
    state_width: int = 32
    steps: int = 10
    prompt_tokens: int = 48
    normalisation: str = "zscore"
    norm_epsilon: float = 1e-6
    statistics_key: str = ""
    cameras: tuple[str, str, str] = ("", "", "")
    bos_id: int = 2
    temperature: float = 1.0
    exploration: Exploration = field(default_factory=Exploration)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.variant not in VARIANTS or self.normalisation not in NORMALISATIONS:
            raise ConfigError(
                f"variant must be one of {VARIANTS} and normalisation one of {NORMALISATIONS}, got {self.variant!r} "
                f"and {self.normalisation!r}"
            )
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}; greedy is rng=None")
        if min(self.chunk_length, self.steps, self.prompt_tokens) < 1 or (
            min(self.action_width, self.state_width) < ACTION_DIM
        ):
            raise ConfigError(
                f"chunk_length, steps and prompt_tokens must be positive, action_width and state_width at least "
                f"{ACTION_DIM}, got {self}"
            )
        shared = ("depth", "heads", "kv_heads", "head_dim")
        if any(getattr(self.language, name) != getattr(self.expert, name) for name in shared):
            raise ConfigError(
                f"language model and expert attend together, so {', '.join(shared)} must be equal, got {self.language} "
                f"and {self.expert}"
            )

    @property
    def camera(self) -> str:
        """The camera that training looks through; empty for the first."""
        return self.cameras[0]

    def to_json(self) -> dict[str, Any]:
        """JSON values; from_json reads them back."""
        return asdict(self) | {
            "cameras": list(self.cameras),
            "exploration": self.exploration.model_dump(mode="json"),
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Pi0Config:
        """Read what to_json wrote.

        Raises:
            ConfigError: a field is missing or unknown.
        """
        try:
            first, left, right = fields["cameras"]
            nested = {
                "vision": SiglipSizes(**fields["vision"]),
                "language": GemmaSizes(**fields["language"]),
                "expert": GemmaSizes(**fields["expert"]),
                "cameras": (first, left, right),
                "exploration": Exploration(**fields["exploration"]),
            }
            return Pi0Config(**{**fields, **nested})
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not a pi0 configuration: {error!r}") from error
