"""Reads the parts of a Wan image-to-video model, in diffusers' layout, from safetensors alone.

A network's tensors must be those that its configuration asks for, each of them: a library that fills what is missing
with random numbers, and warns, would plan nonsense. Which class reads a part stands here, not in the folder, so that no
code comes with a checkpoint.

Large Video Planner publishes its network under Wan's own names behind "model.", and its frozen parts beside it.

Source:
    Names: buoyancy99/large-video-planner 828120b, algorithms/wan/wan_t2v.py (_load_tuned_state_dict) and
    algorithms/wan/modules/model.py.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel, PreTrainedModel, UMT5EncoderModel

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policies.published_files import model_files
from gymnast_core.records.manifest import file_sha256

NETWORK = "model."
"""What Large Video Planner's names of its network begin with."""
FROZEN = ("vae.", "clip.", "text_encoder.", "vae_mean", "vae_inv_std")
"""What else lies in its files: the parts that nothing tuned, which the folder has, too."""
WEIGHTS, INDEX = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"
_NAMED = 5


def read_pipeline(
    folder: Path, network: Path | None, *, forced: bool, flow_shift: float, device: torch.device, dtype: torch.dtype
) -> WanImageToVideoPipeline:
    """Return diffusers' pipeline with the parts in a folder.

    Args:
        folder: with transformer/, vae/, text_encoder/, tokenizer/, scheduler/ and, where the network looks at the
            picture's tokens, image_encoder/ and image_processor/.
        network: a .safetensors file with the network's tensors under Wan's own names; None reads the folder's.
        forced: diffusion forcing: the picture is a clean first frame, with a time of its own.
        flow_shift: of the sampler's times.
        device: where it computes.
        dtype: of the network and the text encoder; the autoencoder stays in float32.

    Raises:
        ConfigError: a part is missing, or is no safetensors file.
        CheckpointError: tensors are missing, unknown or of another shape; each is named.
    """
    transformer = WanTransformer3DModel.from_config(_json(folder / "transformer" / "config.json"))
    tensors = network_tensors(network) if network is not None else _tensors_in(folder / "transformer")
    load_strictly(transformer, tensors, str(network or folder / "transformer"))
    vae = AutoencoderKLWan.from_config(_json(folder / "vae" / "config.json"))
    load_strictly(vae, _tensors_in(folder / "vae"), str(folder / "vae"))
    looks = transformer.config.image_dim is not None
    clip = _pretrained(CLIPVisionModel, folder / "image_encoder") if looks else None
    scheduler = UniPCMultistepScheduler.from_config(
        _json(folder / "scheduler" / "scheduler_config.json"), prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=flow_shift,
    )  # fmt: skip
    pipeline = WanImageToVideoPipeline(
        tokenizer=AutoTokenizer.from_pretrained(
            _there(folder / "tokenizer"), local_files_only=True, trust_remote_code=False
        ),
        text_encoder=_pretrained(UMT5EncoderModel, folder / "text_encoder").to(device, dtype),
        vae=vae.eval().to(device), scheduler=scheduler, transformer=_placed(transformer, device, dtype),
        image_encoder=None if clip is None else clip.to(device),
        image_processor=None if clip is None else CLIPImageProcessorPil(**_sizes(folder / "image_processor")),
        expand_timesteps=forced,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def network_tensors(path: Path) -> dict[str, Tensor]:
    """Return the network's tensors in a file of Large Video Planner's, or of Wan's own, under diffusers' names.

    Raises:
        ConfigError: not a .safetensors file.
        CheckpointError: unreadable, or it has tensors that are neither the network's nor of a frozen part.
    """
    tensors = _read(path)
    prefixed = any(name.startswith(NETWORK) for name in tensors)
    mine = {name.removeprefix(NETWORK): value for name, value in tensors.items() if name.startswith(NETWORK)}
    others = [name for name in tensors if not name.startswith((NETWORK, *FROZEN))]
    if prefixed and others:
        raise CheckpointError(f"{path} has tensors that are of no part of the model: {_some(others)}")
    found: dict[str, Tensor] = convert_wan_transformer_to_diffusers(mine if prefixed else dict(tensors))
    return found


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give a module exactly the tensors that it has.

    Raises:
        CheckpointError: some are missing, unknown or of another shape; the message names them.
    """
    own = module.state_dict()
    both = sorted(own.keys() & tensors.keys())
    _refuse(
        where, missing=own.keys() - tensors.keys(), unknown=tensors.keys() - own.keys(),
        reshaped=[name for name in both if own[name].shape != tensors[name].shape],
    )  # fmt: skip
    module.load_state_dict(dict(tensors))


def digests(folder: Path, network: Path | None) -> dict[str, str]:
    """Return the SHA-256 of every file that is read, by its path; the network's file under its full one."""
    files = {str(path.relative_to(folder)): path for path in model_files(folder)}
    if network is not None:
        files = {name: path for name, path in files.items() if not name.startswith("transformer/diffusion_")}
        files[str(network)] = network
    return {name: file_sha256(path) for name, path in files.items()}


def _tensors_in(folder: Path) -> dict[str, Tensor]:
    """A network's tensors in diffusers' layout, in one file or in the pieces that an index lists."""
    if not (folder / INDEX).exists():
        return _read(folder / WEIGHTS)
    pieces = sorted(set(_json(folder / INDEX)["weight_map"].values()))
    return {name: value for piece in pieces for name, value in _read(folder / Path(piece).name).items()}


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"{path} is no .safetensors file, and no other is read: a pickle runs whatever it holds. Write its tensors "
            "to one, on a machine that may be lost"
        )
    try:
        found: dict[str, Tensor] = load_file(_there(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch it again") from error
    return found


def _pretrained(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """A part of transformers', with every tensor from the folder."""
    model: PreTrainedModel
    model, found = kind.from_pretrained(
        _there(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    _refuse(
        str(folder), missing=found["missing_keys"], unknown=found["unexpected_keys"],
        reshaped=[name for name, *_ in found["mismatched_keys"]],
    )  # fmt: skip
    model.eval().requires_grad_(False)
    return model


def _refuse(where: str, **wrong: Collection[str]) -> None:
    if said := "; ".join(f"{what} {_some(sorted(names))}" for what, names in wrong.items() if names):
        raise CheckpointError(f"the tensors of {where} do not fit its config.json: {said}; take both from one release")


def _placed(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network where it computes; what diffusers keeps in float32 stays so."""
    kept = set(getattr(network, "_keep_in_fp32_modules", ()))
    for name, value in network.named_parameters():
        value.data = value.data.to(device, torch.float32 if kept & set(name.split(".")) else dtype)
    return network.eval().requires_grad_(False).to(device)


def _sizes(folder: Path) -> dict[str, Any]:
    found = _json(folder / "preprocessor_config.json")
    return {name: value for name, value in found.items() if not name.endswith(("_type", "_class"))}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_there(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}; fetch it again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no object; fetch it again")
    return found


def _there(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(f"no {path}; a Wan folder has diffusers' layout (Wan2.1-I2V-14B-480P-Diffusers)")
    return path


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
