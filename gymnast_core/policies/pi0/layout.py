"""What every way of publishing pi0 has in common: sizes, statistics, tensors under openpi's PyTorch names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gymnast_core.errors import CheckpointError
from gymnast_core.policies.pi0.config import GEMMAS, GemmaSizes, Pi0Config, SiglipSizes
from gymnast_core.policies.published_files import read_json

JAX_PARAMS = "params"
"""The folder in which openpi's JAX checkpoints keep their arrays."""
PROMPT_TOKENS = {"pi0": 48, "pi05": 200}
NORMALISATION = {"pi0": "zscore", "pi05": "quantile"}


@dataclass(frozen=True)
class Published:
    """A folder, read.

    Attributes:
        config: sizes, before choices.
        statistics: asset id -> {"state", "actions"}; LeRobot's has no id.
        tensors: under the names of openpi's PyTorch files, or LeRobot's.
    """

    config: Pi0Config
    statistics: Mapping[str, Mapping[str, object]]
    tensors: Mapping[str, Tensor]


def sizes_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json's sizes, by field of Pi0Config.

    Raises:
        CheckpointError: a variant nobody knows, or sizes that are none.
    """
    if "sizes" in settings:
        own = settings["sizes"]
        try:
            gemmas = {name: GemmaSizes(**own[name]) for name in ("language", "expert")}
            return {**gemmas, "vision": SiglipSizes(**own["vision"]), "vocabulary": int(own["vocabulary"])}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"sizes in config.json are not a pi0's: {error!r}") from error
    found = {}
    for name, key, usual in (
        ("language", "paligemma_variant", "gemma_2b"),
        ("expert", "action_expert_variant", "gemma_300m"),
    ):
        variant = str(settings.get(key, usual)).removesuffix("_lora")
        if variant not in GEMMAS:
            raise CheckpointError(f"{key} {variant!r} in config.json is not one of {sorted(GEMMAS)}")
        found[name] = GEMMAS[variant]
    return found


def read_assets(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return what openpi's assets/<asset id>/norm_stats.json hold, by asset id, which may contain a slash."""
    root, found = folder / "assets", {}
    for path in sorted(root.rglob("norm_stats.json")):
        fields = read_json(path)
        found[path.parent.relative_to(root).as_posix()] = fields.get("norm_stats", fields)
    return found
