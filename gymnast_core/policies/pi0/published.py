"""Reading pi0 and pi0.5 as openpi (PyTorch) and LeRobot publish them: by tensor name, none of their code.

openpi: config.json {action_dim, action_horizon, paligemma_variant, action_expert_variant}, model.safetensors,
assets/<asset id>/norm_stats.json. LeRobot: config.json {type: pi0 | pi05, ...}, model.safetensors, and the statistics
in the state file of policy_preprocessor.json's normaliser. Neither carries the tokeniser; put tokenizer.json of
google/paligemma-3b-pt-224 into the folder. A folder of other sizes (tests, distilled models) lists them under "sizes".
openpi's JAX checkpoints are read by jax_params.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gymnast_core.errors import CheckpointError
from gymnast_core.policies.pi0.config import Pi0Config
from gymnast_core.policies.pi0.layout import JAX_PARAMS, NORMALISATION, PROMPT_TOKENS, Published, read_assets, sizes_of
from gymnast_core.policies.pi0.names import is_pi05, renamed
from gymnast_core.policies.pi0.network import Pi0Network
from gymnast_core.policies.pi0.policy import Pi0Policy
from gymnast_core.policies.pi0.prompt import PiPrompts
from gymnast_core.policies.published_files import as_dtype, digest_of, model_files, read_json, read_shards, read_tensors

_LEROBOT_MODES = {"MEAN_STD": "zscore", "QUANTILES": "quantile"}
_LEROBOT_REFUSED = ("use_relative_actions", "use_visual_memory", "use_proprioceptive_memory", "rtc_training_max_delay")
"""What changes the meaning of its numbers, or the network."""


@dataclass(frozen=True)
class Choices:
    """What a published folder leaves open.

    Attributes:
        statistics_key: asset id; empty picks the only one.
        statistics: {"state", "actions"} to use instead of the folder's.
        tokenizer: a tokenizer.json elsewhere.
        chunk_length: K, instead of the horizon it was trained with.
        steps: Euler steps.
        cameras: see Pi0Config.
        temperature: scales the exploration's noise.
        dtype: convert the weights; None keeps what most of them are stored in.
    """

    statistics_key: str = ""
    statistics: Mapping[str, object] | None = None
    tokenizer: Path | None = None
    chunk_length: int | None = None
    steps: int | None = None
    cameras: tuple[str, str, str] = ("", "", "")
    temperature: float = 1.0
    dtype: torch.dtype | None = None


def published_as(folder: Path) -> str:
    """Return how a folder was published: openpi, openpi_jax, lerobot, or empty for no pi0.

    Raises:
        CheckpointError: its config.json cannot be read.
    """
    if (folder / JAX_PARAMS).is_dir():
        return "openpi_jax"
    if not (folder / "config.json").is_file():
        return ""
    settings = read_json(folder / "config.json")
    if str(settings.get("type", "")).startswith("pi0"):
        return "lerobot"
    return "openpi" if {"action_horizon", "action_expert_variant"} <= settings.keys() else ""


def read_pi0(folder: Path, choices: Choices | None = None) -> Pi0Policy:
    """Load a published folder.

    Args:
        folder: see published_as().
        choices: what the folder leaves open.

    Raises:
        CheckpointError: a file is missing or does not fit; the message says which, and names every tensor.
        ConfigError: a choice that cannot be.
    """
    choices, kind = choices or Choices(), published_as(folder)
    if not kind:
        raise CheckpointError(
            f"{folder} is no pi0: neither params/ (openpi, JAX), nor a config.json with action_horizon (openpi, "
            "PyTorch) or with type pi0 or pi05 (LeRobot)"
        )
    if kind == "openpi_jax":
        from gymnast_core.policies.pi0.jax_params import read_jax  # needs the extra gymnast_ros[jax]

        published = read_jax(folder)
    else:
        published = _read_openpi(folder) if kind == "openpi" else _read_lerobot(folder)
    key, statistics = _chosen_statistics(published, choices, folder)
    config = replace(
        published.config, statistics_key=key, cameras=choices.cameras, temperature=choices.temperature,
        chunk_length=choices.chunk_length or published.config.chunk_length,
        steps=choices.steps or published.config.steps,
    )  # fmt: skip
    network = Pi0Network.without_memory(config)
    names = renamed(network, published.tensors, where=str(folder))
    network.load_state_dict(_in_one_precision(names, choices.dtype), assign=True)
    prompts = PiPrompts(_tokenizer(folder, choices.tokenizer), config)
    return Pi0Policy(network, prompts, statistics, version=f"published-{digest_of(model_files(folder))}")


def _read_openpi(folder: Path) -> Published:
    settings, tensors = read_json(folder / "config.json"), read_shards(folder)
    variant = "pi05" if is_pi05(tensors) else "pi0"
    try:
        width, horizon = int(settings.get("action_dim", 32)), int(settings["action_horizon"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}/config.json: action_dim and action_horizon must be numbers: {error}"
        ) from error
    config = Pi0Config(
        variant=variant, chunk_length=horizon, action_width=width, state_width=width,
        prompt_tokens=PROMPT_TOKENS[variant], normalisation=NORMALISATION[variant],
        **sizes_of(settings),
    )  # fmt: skip
    return Published(config, read_assets(folder), tensors)


def _read_lerobot(folder: Path) -> Published:
    settings = read_json(folder / "config.json")
    variant = str(settings["type"])
    if variant not in PROMPT_TOKENS:
        raise CheckpointError(f"{folder} is LeRobot's {variant!r}; of its flow policies pi0 and pi05 are read")
    refused = [name for name in _LEROBOT_REFUSED if settings.get(name)]
    if refused:
        raise CheckpointError(f"{folder} was trained with {refused[0]}, which is not supported here")
    modes = settings.get("normalization_mapping", {})
    usual = "MEAN_STD" if variant == "pi0" else "QUANTILES"
    mode = {str(modes.get(name, usual)) for name in ("STATE", "ACTION")}
    if len(mode) != 1 or not mode <= _LEROBOT_MODES.keys():
        raise CheckpointError(f"{folder} normalises state and actions by {sorted(mode)}; read are {[*_LEROBOT_MODES]}")
    config = Pi0Config(
        variant=variant, chunk_length=int(settings.get("chunk_size", 50)),
        action_width=int(settings.get("max_action_dim", 32)), state_width=int(settings.get("max_state_dim", 32)),
        steps=int(settings.get("num_inference_steps", 10)),
        prompt_tokens=int(settings.get("tokenizer_max_length", PROMPT_TOKENS[variant])),
        normalisation=_LEROBOT_MODES[mode.pop()], norm_epsilon=1e-8, **sizes_of(settings),
    )  # fmt: skip
    return Published(config, _lerobot_statistics(folder), read_shards(folder))


def _lerobot_statistics(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The normaliser's state file as one entry; nothing where there is no preprocessor."""
    path = folder / "policy_preprocessor.json"
    if not path.is_file():
        return {}
    steps = read_json(path).get("steps", [])
    files = [step.get("state_file") for step in steps if step.get("registry_name") == "normalizer_processor"]
    if len(files) != 1 or not files[0] or Path(files[0]).name != files[0]:
        raise CheckpointError(f"{path} must name the state file of one normalizer_processor, got {files}")
    numbers = read_tensors(folder / files[0])
    entries: dict[str, dict[str, Any]] = {"state": {}, "actions": {}}
    for name, ours in (("observation.state.", "state"), ("action.", "actions")):
        for key, tensor in numbers.items():
            if key.startswith(name):
                entries[ours][key.removeprefix(name)] = tensor.double().flatten().tolist()
    return {"": entries}


def _chosen_statistics(published: Published, choices: Choices, folder: Path) -> tuple[str, Mapping[str, object]]:
    if choices.statistics is not None:
        return choices.statistics_key, choices.statistics
    known = sorted(published.statistics)
    key = choices.statistics_key or (known[0] if len(known) == 1 else "")
    if key not in published.statistics:
        raise CheckpointError(
            f"{folder} has the statistics of {known}, and whose are meant is not said; name one with --statistics-key, "
            "or compute your own from recorded episodes with --episodes"
        )
    return key, published.statistics[key]


def _in_one_precision(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """All in the precision of the language model, as parts meet in one product; Gemma's norms stay as stored."""
    wanted = dtype or as_dtype(tensors["vlm.language_model.layers.0.self_attn.q_proj.weight"], None).dtype
    return {
        name: as_dtype(tensor, tensor.dtype if _is_gemma_norm(name) and dtype is None else wanted)
        for name, tensor in tensors.items()
    }


def _is_gemma_norm(name: str) -> bool:
    return name.endswith(("layernorm.weight", ".norm.weight")) and "vision_tower" not in name


def _tokenizer(folder: Path, elsewhere: Path | None) -> str:
    path = elsewhere or folder / "tokenizer.json"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"no tokenizer at {path} ({error}); copy tokenizer.json of google/paligemma-3b-pt-224 there, or name it "
            "with --tokenizer"
        ) from error
