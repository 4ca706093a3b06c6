"""openpi's JAX checkpoints: arrays by name out of params/, without JAX, orbax or a pickle.

orbax keeps them as zarr arrays, either all in one OCDBT store or a folder each; tensorstore (gymnast_ros[jax]) reads
both and executes nothing. Layers are stacked along the first axis; attention is stored head by head.

Source:
    Names and axes: Physical-Intelligence/openpi @15a9616, src/openpi/models/{gemma,siglip,pi0}.py and
    examples/convert_jax_model_to_pytorch.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policies.pi0.config import Pi0Config
from gymnast_core.policies.pi0.layout import JAX_PARAMS, NORMALISATION, PROMPT_TOKENS, Published, read_assets, sizes_of
from gymnast_core.policies.pi0.names import EMBEDDING
from gymnast_core.policies.published_files import read_json

Array = npt.NDArray[Any]
_ROOT = "params."
_VLM = "paligemma_with_expert.paligemma.model."
_EXPERT = "paligemma_with_expert.gemma_expert.model."
_VISION = _VLM + "vision_tower.vision_model."


def read_jax(folder: Path) -> Published:
    """Read params/ and assets/ of a checkpoint.

    Raises:
        CheckpointError: arrays are missing, unexpected, or no arrays.
        ConfigError: tensorstore is not installed.
    """
    arrays = read_arrays(folder / JAX_PARAMS)
    variant = "pi05" if "time_mlp_in.kernel" in arrays else "pi0"
    settings = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    width = int(_taken(arrays, "action_in_proj.kernel", folder, keep=True).shape[0])
    config = Pi0Config(
        variant=variant, chunk_length=int(settings.get("action_horizon", 50)), action_width=width, state_width=width,
        prompt_tokens=PROMPT_TOKENS[variant], normalisation=NORMALISATION[variant],
        **sizes_of(settings),
    )  # fmt: skip
    return Published(config, read_assets(folder), openpi_tensors(arrays, folder))


def read_arrays(params: Path) -> dict[str, Array]:
    """Return every array of an orbax folder in float32, names joined by dots, without "params" and a last "value"."""
    try:
        import tensorstore
    except ImportError as error:
        raise ConfigError("openpi's JAX checkpoints are read by tensorstore; pip install 'gymnast_ros[jax]'") from error
    where = {"driver": "file", "path": f"{params.resolve()}/"}
    store = {"driver": "ocdbt", "base": where} if (params / "manifest.ocdbt").is_file() else where
    try:
        listed = tensorstore.KvStore.open(store).result().list().result()
        keys = [key.decode() for key in listed]
        names = [key.removesuffix("/.zarray") for key in keys if key.startswith(_ROOT) and key.endswith("/.zarray")]
        found = {
            name: tensorstore.open({"driver": "zarr", "kvstore": {**store, "path": _inside(store, name)}}, read=True)
            for name in names
        }
        arrays = {name: np.asarray(future.result().read().result(), np.float32) for name, future in found.items()}
    except (ValueError, OSError, UnicodeDecodeError, KeyError) as error:
        raise CheckpointError(f"{params} cannot be read as an orbax checkpoint: {error}; fetch it again") from error
    if not arrays:
        raise CheckpointError(f"{params} holds no arrays under {_ROOT}*; is it openpi's params/ folder?")
    return {name.removeprefix(_ROOT).removesuffix(".value"): array for name, array in arrays.items()}


def _inside(store: Mapping[str, object], name: str) -> str:
    return f"{name}/" if store["driver"] == "ocdbt" else f"{store['path']}{name}/"


def openpi_tensors(arrays: Mapping[str, Array], where: Path) -> dict[str, Tensor]:
    """Return JAX arrays under the names and axes of openpi's PyTorch files.

    Raises:
        CheckpointError: arrays are missing or left over; the message names every one.
    """
    left = dict(arrays)
    tensors: dict[str, Array] = {}
    _dense(left, tensors, where)
    _vision(left, tensors, where)
    for suffix, prefix in (("", _VLM + "language_model."), ("_1", _EXPERT)):
        _gemma(left, tensors, where, suffix, prefix)
    tensors[EMBEDDING] = _taken(left, "PaliGemma.llm.embedder.input_embedding", where)
    if left:
        raise CheckpointError(f"{where}: {len(left)} unexpected arrays {sorted(left)}; is it a pi0 or pi0.5?")
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}


def _taken(left: dict[str, Array], name: str, where: Path, *, keep: bool = False) -> Array:
    if name not in left:
        raise CheckpointError(f"{where}: array {name} is missing; there are {sorted(left)}")
    return left[name] if keep else left.pop(name)


def _dense(left: dict[str, Array], tensors: dict[str, Array], where: Path) -> None:
    """The projections: kernel (in, out) and bias."""
    pi05 = "time_mlp_in.kernel" in left
    own = ("time_mlp_in", "time_mlp_out") if pi05 else ("state_proj", "action_time_mlp_in", "action_time_mlp_out")
    for name in ("action_in_proj", "action_out_proj", *own):
        tensors[f"{name}.weight"] = _taken(left, f"{name}.kernel", where).T
        tensors[f"{name}.bias"] = _taken(left, f"{name}.bias", where)


def _vision(left: dict[str, Array], tensors: dict[str, Array], where: Path) -> None:
    """The tower: (layers, ...) blocks with attention by heads, (layers, width, heads, head) in and out."""
    take: Callable[[str], Array] = lambda name: _taken(left, f"PaliGemma.img.{name}", where)  # noqa: E731
    tensors[_VISION + "embeddings.patch_embedding.weight"] = take("embedding.kernel").transpose(3, 2, 0, 1)
    tensors[_VISION + "embeddings.patch_embedding.bias"] = take("embedding.bias")
    positions = take("pos_embedding")
    tensors[_VISION + "embeddings.position_embedding.weight"] = positions.reshape(-1, positions.shape[-1])
    block = "Transformer.encoderblock."
    parts: dict[str, Array] = {}
    for ours, theirs in (("layer_norm1", "LayerNorm_0"), ("layer_norm2", "LayerNorm_1")):
        parts[f"{ours}.weight"], parts[f"{ours}.bias"] = take(f"{block}{theirs}.scale"), take(f"{block}{theirs}.bias")
    for ours, theirs in (("mlp.fc1", "Dense_0"), ("mlp.fc2", "Dense_1")):
        parts[f"{ours}.weight"] = take(f"{block}MlpBlock_0.{theirs}.kernel").swapaxes(1, 2)
        parts[f"{ours}.bias"] = take(f"{block}MlpBlock_0.{theirs}.bias")
    attention = block + "MultiHeadDotProductAttention_0."
    for ours, theirs in (("k_proj", "key"), ("v_proj", "value"), ("q_proj", "query")):
        kernel = take(f"{attention}{theirs}.kernel")
        parts[f"self_attn.{ours}.weight"] = kernel.reshape(*kernel.shape[:2], -1).swapaxes(1, 2)
        parts[f"self_attn.{ours}.bias"] = take(f"{attention}{theirs}.bias").reshape(len(kernel), -1)
    kernel = take(f"{attention}out.kernel")
    parts["self_attn.out_proj.weight"] = kernel.reshape(len(kernel), -1, kernel.shape[-1]).swapaxes(1, 2)
    parts["self_attn.out_proj.bias"] = take(f"{attention}out.bias")
    _unstacked(parts, tensors, _VISION + "encoder.layers.")
    tensors[_VISION + "post_layernorm.weight"] = take("Transformer.encoder_norm.scale")
    tensors[_VISION + "post_layernorm.bias"] = take("Transformer.encoder_norm.bias")
    tensors[_VLM + "multi_modal_projector.linear.weight"] = take("head.kernel").T
    tensors[_VLM + "multi_modal_projector.linear.bias"] = take("head.bias")


def _gemma(left: dict[str, Array], tensors: dict[str, Array], where: Path, suffix: str, prefix: str) -> None:
    """One Gemma: q (layers, heads, width, head), k and v in one array, out (layers, heads, head, width)."""
    take: Callable[[str], Array] = lambda name: _taken(left, f"PaliGemma.llm.{name}", where)  # noqa: E731
    query, pair = take(f"layers.attn.q_einsum{suffix}.w"), take(f"layers.attn.kv_einsum{suffix}.w")
    out = take(f"layers.attn.attn_vec_einsum{suffix}.w")
    gates, down = take(f"layers.mlp{suffix}.gating_einsum"), take(f"layers.mlp{suffix}.linear")
    layers, _, width, _ = query.shape
    parts = {
        "self_attn.q_proj.weight": query.swapaxes(2, 3).reshape(layers, -1, width),
        "self_attn.k_proj.weight": pair[:, 0].swapaxes(2, 3).reshape(layers, -1, width),
        "self_attn.v_proj.weight": pair[:, 1].swapaxes(2, 3).reshape(layers, -1, width),
        "self_attn.o_proj.weight": out.reshape(layers, -1, width).swapaxes(1, 2),
        "mlp.gate_proj.weight": gates[:, 0].swapaxes(1, 2),
        "mlp.up_proj.weight": gates[:, 1].swapaxes(1, 2),
        "mlp.down_proj.weight": down.swapaxes(1, 2),
    }
    for ours, theirs in (("input_layernorm", "pre_attention_norm"), ("post_attention_layernorm", "pre_ffw_norm")):
        for name, array in _norm(left, f"PaliGemma.llm.layers.{theirs}{suffix}", where).items():
            parts[f"{ours}.{name}"] = array
    _unstacked(parts, tensors, prefix + "layers.")
    for name, array in _norm(left, f"PaliGemma.llm.final_norm{suffix}", where).items():
        tensors[f"{prefix}norm.{name}"] = array


def _norm(left: dict[str, Array], name: str, where: Path) -> dict[str, Array]:
    """A norm: its scale, or the dense layer that modulates it."""
    if f"{name}.Dense_0.kernel" not in left:
        return {"weight": _taken(left, f"{name}.scale", where)}
    kernel, bias = (_taken(left, f"{name}.Dense_0.{part}", where) for part in ("kernel", "bias"))
    return {"dense.weight": kernel.swapaxes(-1, -2), "dense.bias": bias}


def _unstacked(parts: Mapping[str, Array], tensors: dict[str, Array], prefix: str) -> None:
    for name, stacked in parts.items():
        for index, array in enumerate(stacked):
            tensors[f"{prefix}{index}.{name}"] = array
