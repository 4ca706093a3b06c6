"""Tiny random pi0 and pi0.5 folders in the published layouts, written from nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from gymnast_core.policies.pi0.config import GemmaSizes, Pi0Config, SiglipSizes
from gymnast_core.policies.pi0.names import LEROBOT, TIED, UNUSED, openpi_name
from gymnast_core.policies.pi0.network import Pi0Network
from gymnast_core.policies.pi0.policy import Pi0Policy
from gymnast_core.policies.pi0.prompt import PiPrompts
from gymnast_core.policies.pi0.published import Choices, read_pi0

VISION = SiglipSizes(image_size=28, width=24, depth=2, mlp=48, heads=2)
LANGUAGE = GemmaSizes(width=32, depth=2, mlp=48, heads=4, head_dim=8)
EXPERT = GemmaSizes(width=24, depth=2, mlp=32, heads=4, head_dim=8)
VOCABULARY = 400
WORDS = ("put", "cube", "on", "plate", "open", "drawer", "close", "a", "the", "red", "lift", "Task", "State", "Action")
NORM_STATS = {
    "state": {"mean": [0.2] * 7, "std": [0.1] * 7, "q01": [0.0] * 7, "q99": [0.4] * 7},
    "actions": {
        "mean": [0.0] * 6 + [0.5], "std": [0.02] * 3 + [0.1] * 3 + [0.4],
        "q01": [-0.04] * 3 + [-0.2] * 3 + [0.0], "q99": [0.04] * 3 + [0.2] * 3 + [1.0],
    },
}  # fmt: skip


def tiny_config(variant: str = "pi0", **changes: Any) -> Pi0Config:
    quantile = {} if variant == "pi0" else {"normalisation": "quantile", "prompt_tokens": 200}
    sizes = {
        "vision": VISION, "language": LANGUAGE, "expert": EXPERT, "vocabulary": VOCABULARY, "chunk_length": 5,
        "action_width": 9, "state_width": 9,
    }  # fmt: skip
    return Pi0Config(**{"variant": variant, **sizes, **quantile, **changes})


def random_network(config: Pi0Config, seed: int = 0) -> Pi0Network:
    torch.manual_seed(seed)
    network = Pi0Network(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            wide = parameter.ndim > 1 and "embed" not in name
            parameter.normal_(std=parameter[0].numel() ** -0.5 if wide else 0.3)
    return network


def tokenizer_json() -> str:
    """A tokeniser with PaliGemma's special ids: 2 begins, 108 is the newline."""
    known = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "\n": 108, ":": 109, ",": 110, ";": 111}
    known |= {word: 10 + index for index, word in enumerate(WORDS)}
    known |= {str(number): 120 + number for number in range(-1, 256)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(" ", "removed"),
            *(pre_tokenizers.Split(mark, "isolated") for mark in ":,;"),
        ]
    )
    tokenizer.pre_tokenizer = split
    return str(tokenizer.to_str())


def published_tensors(network: Pi0Network) -> dict[str, torch.Tensor]:
    """The tensors as openpi's save_model leaves them: the embedding once, as the tied head, and the unused head."""
    tensors = {openpi_name(name): tensor.contiguous() for name, tensor in network.state_dict().items()}
    tensors[TIED] = tensors.pop("paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight")
    tensors[UNUSED] = torch.zeros(network.config.vocabulary, network.config.expert.width)
    return tensors


def write_openpi(folder: Path, variant: str = "pi0", *, seed: int = 0, dtype: torch.dtype | None = None) -> Pi0Network:
    """Write openpi's PyTorch layout and return the network whose tensors it holds."""
    network = random_network(tiny_config(variant), seed)
    tensors = published_tensors(network)
    folder.mkdir(parents=True)
    save_file({n: t if dtype is None else t.to(dtype) for n, t in tensors.items()}, folder / "model.safetensors")
    sizes = {"vision": asdict(VISION), "language": asdict(LANGUAGE), "expert": asdict(EXPERT), "vocabulary": VOCABULARY}
    settings = {
        "action_dim": 9, "action_horizon": 5, "paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m",
        "precision": "float32", "sizes": sizes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    write_assets(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return network


def write_assets(folder: Path, key: str = "lab/widowx") -> None:
    path = folder / "assets" / key / "norm_stats.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"norm_stats": NORM_STATS}))


def write_lerobot(folder: Path, variant: str = "pi0", *, seed: int = 0) -> Pi0Network:
    """Write LeRobot's layout and return the network whose tensors it holds."""
    network = write_openpi(folder, variant, seed=seed)
    save_file({LEROBOT + name: t for name, t in published_tensors(network).items()}, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    mode = "MEAN_STD" if variant == "pi0" else "QUANTILES"
    (folder / "config.json").write_text(json.dumps({
        "type": variant, "chunk_size": 5, "n_action_steps": 5, "max_action_dim": 9, "max_state_dim": 9,
        "num_inference_steps": 4, "tokenizer_max_length": 200, "sizes": settings["sizes"],
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode},
    }))  # fmt: skip
    state_file = "policy_preprocessor_step_5_normalizer_processor.safetensors"
    steps = [{"registry_name": "rename_observations_processor"},
             {"registry_name": "normalizer_processor", "state_file": state_file}]  # fmt: skip
    (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "policy_preprocessor", "steps": steps}))
    numbers = {
        f"{theirs}.{name}": torch.tensor(values)
        for ours, theirs in (("state", "observation.state"), ("actions", "action"))
        for name, values in NORM_STATS[ours].items()
    }
    save_file(numbers, folder / state_file)
    (folder / "assets" / "lab/widowx" / "norm_stats.json").unlink()
    return network


def checkpoint(folder: Path, variant: str = "pi0", **choices: Any) -> Path:
    """A checkpoint folder of a tiny pi0, named by its id as on a shelf."""
    write_openpi(folder / "published", variant)
    policy = read_pi0(folder / "published", Choices(**choices))
    manifest = policy.save(folder / "new")
    return (folder / "new").rename(folder / manifest.id)


def policy_in_memory(variant: str = "pi0") -> Pi0Policy:
    """A random policy that came from no folder."""
    config = tiny_config(variant, steps=2)
    return Pi0Policy(random_network(config), PiPrompts(tokenizer_json(), config), NORM_STATS)


def tiny_policy(folder: Path, variant: str = "pi0", *, row_by_row: bool = True) -> Pi0Policy:
    return Pi0Policy.load(checkpoint(folder, variant), row_by_row=row_by_row)
