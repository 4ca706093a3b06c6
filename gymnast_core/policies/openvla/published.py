"""Reading a published OpenVLA folder: safetensors by tensor name, JSON settings, none of its code.

Layout: config.json, model*.safetensors with an index, tokenizer.json, preprocessor_config.json,
dataset_statistics.json, and optionally action_head--*.safetensors, proprio_projector--*.safetensors, lora_adapter/.
Heads are published as .pt, which only a pickle reader can open; convert them once, away from robot and trainer:
    python -c "import torch, safetensors.torch as s, sys; s.save_file({k: v.contiguous() for k, v in
    torch.load(sys.argv[1], weights_only=True, map_location='cpu').items()}, sys.argv[2])" IN.pt OUT.safetensors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gymnast_core.errors import CheckpointError
from gymnast_core.policies import lora
from gymnast_core.policies.openvla.config import OpenVLAConfig, text_config_of, towers_of
from gymnast_core.policies.openvla.model import OpenVLANetwork, assign
from gymnast_core.policies.openvla.policy import OpenVLAPolicy
from gymnast_core.policies.openvla.prompt import PromptTokenizer
from gymnast_core.policies.openvla.tokens import Statistics, action_statistics
from gymnast_core.policies.published_files import (
    as_dtype,
    digest_of,
    model_files,
    read_json,
    read_shards,
    read_tensors,
    shards,
)

BRIDGE_KEYS = ("bridge_dataset", "bridge_orig")
"""Statistics keys of the SFT base and of openvla-7b."""

ADAPTER_FOLDER = "lora_adapter"


def read_published(
    folder: Path,
    *,
    base: Path | None = None,
    head: str = "discrete",
    statistics_key: str = "",
    pipeline: str = "official",
    temperature: float = 1.0,
    dtype: torch.dtype | None = None,
) -> OpenVLAPolicy:
    """Load a published checkpoint folder.

    Args:
        folder: of a fine-tuned or the original model. If it holds model tensors, its lora_adapter/ is already
            merged into them and is left alone; if it holds only an adapter, `base` is needed.
        base: folder with the tensors the adapter was trained on.
        head: discrete, l1 or causal.
        statistics_key: whose statistics to un-normalise with; empty picks the only one, or the Bridge one of the
            folder's own dataset_statistics.json.
        pipeline: official or rl image preparation.
        temperature: of sampling.
        dtype: convert the weights; None keeps what is stored.

    Raises:
        CheckpointError: a file is missing or does not fit; the message names it.
    """
    model_folder = folder if shards(folder) else base
    if model_folder is None or not shards(model_folder):
        raise CheckpointError(
            f"{folder} has no model*.safetensors; pass base (--base), the folder its adapter was trained on"
        )
    settings = read_json(model_folder / "config.json")
    extras = _read_extras(folder, head)
    statistics, statistics_path = _statistics((folder, model_folder), settings)
    key = _choose_key(statistics, statistics_key, statistics_path, own=statistics_path.parent == folder)
    config = _config(settings, folder, head, pipeline, key, temperature, proprio="proprio_projector" in extras)
    network = OpenVLANetwork.without_memory(config)
    tensors = read_shards(model_folder)
    for prefix, part in extras.items():
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in part.items()}
    assign(network, {name: as_dtype(tensor, dtype) for name, tensor in tensors.items()}, where=str(folder))
    files = [*model_files(model_folder), *(model_files(folder) if folder != model_folder else ())]
    if folder != model_folder:
        lora.merge_published(network, folder / ADAPTER_FOLDER)
    proprio = statistics[key].get("proprio") if config.proprio else None
    return OpenVLAPolicy(
        network,
        PromptTokenizer.read(folder if (folder / "tokenizer.json").is_file() else model_folder, config),
        action_statistics(statistics, key),
        proprio_statistics=None if proprio is None else Statistics.from_json(proprio),
        version=f"published-{digest_of(files)}",
    )


def _config(
    settings: Mapping[str, Any],
    folder: Path,
    head: str,
    pipeline: str,
    key: str,
    temperature: float,
    *,
    proprio: bool,
) -> OpenVLAConfig:
    causal = head == "causal"
    config = OpenVLAConfig(
        towers=towers_of(settings),
        text=text_config_of(settings.get("text_config", {})),
        head=head,
        chunk_length=1 if causal else 5,
        pipeline=pipeline,
        range_epsilon=0.0 if causal else 1e-8,
        statistics_key=key,
        temperature=temperature,
        proprio=proprio,
    )
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return config
    processor = read_json(path)
    means, stds = (tuple(tuple(row) for row in processor.get(name, ())) for name in ("means", "stds"))
    if {len(means), len(stds)} - {0, 2} or {len(row) for row in (*means, *stds)} - {3}:
        raise CheckpointError(
            f"{path}: means and stds must be 3 numbers for each of two towers, got {means} and {stds}"
        )
    return replace(config, means=means or config.means, stds=stds or config.stds)


def _read_extras(folder: Path, head: str) -> dict[str, dict[str, Tensor]]:
    """Head and projector next to the model, without the prefix that data-parallel training left on the names."""
    film = sorted(folder.glob("vision_backbone--*"))
    if film:
        raise CheckpointError(f"{film[0].name}: FiLM-conditioned vision is not supported; use a checkpoint without it")
    extras = {}
    for prefix in ("action_head", "proprio_projector"):
        if prefix == "action_head" and head != "l1":
            continue
        found = sorted(folder.glob(f"{prefix}--*.safetensors"))
        pickled = sorted(folder.glob(f"{prefix}--*.pt"))
        if pickled and not found:
            raise CheckpointError(
                f"{pickled[0]} is a pickle, which is never opened here; convert it to safetensors "
                "(the command is in the docstring of gymnast_core/policies/openvla/published.py)"
            )
        if found:
            extras[prefix] = {name.removeprefix("module."): tensor for name, tensor in read_tensors(found[-1]).items()}
        elif prefix == "action_head":
            raise CheckpointError(f"{folder} has no action_head--*.safetensors; use head='discrete'")
    return extras


def _statistics(folders: Sequence[Path], settings: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """The fine-tuned folder's own, else its base's, else what config.json lists; and the file they are from."""
    paths = [folder / "dataset_statistics.json" for folder in folders]
    found = [path for path in paths if path.is_file()]
    statistics = read_json(found[0]) if found else dict(settings.get("norm_stats") or {})
    if not statistics:
        raise CheckpointError(f"{paths[0]} is missing and config.json has no norm_stats; actions cannot be scaled")
    return statistics, found[0] if found else folders[-1] / "config.json"


def _choose_key(statistics: Mapping[str, object], wanted: str, path: Path, *, own: bool) -> str:
    """The dataset whose statistics are meant; what was learned before this folder's own training is never guessed."""
    if wanted:
        if wanted not in statistics:
            raise CheckpointError(f"statistics_key {wanted!r} does not pick one of {sorted(statistics)} in {path}")
        return wanted
    if len(statistics) == 1:
        return next(iter(statistics))
    bridge = [key for key in BRIDGE_KEYS if key in statistics]
    if own and path.name != "config.json" and bridge:
        return bridge[0]
    raise CheckpointError(
        f"{path} lists the statistics of {sorted(statistics)}, and whose scale the actions is not said; copy the "
        "dataset_statistics.json of the fine-tuning into the folder, or name one of these with --statistics-key "
        "(the original openvla-7b on a WidowX: bridge_orig)"
    )
