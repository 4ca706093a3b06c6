"""openpi's JAX checkpoints: both layouts that orbax writes, and every array in its place."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policies.pi0.published import published_as, read_pi0
from tests.policies.pi0_folder import published_tensors, write_openpi

tensorstore = pytest.importorskip("tensorstore", reason="the extra gymnast_ros[jax]")
VLM = "paligemma_with_expert.paligemma.model."
VISION, LANGUAGE = VLM + "vision_tower.vision_model.", VLM + "language_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."


def jax_arrays(tensors: dict[str, torch.Tensor], heads: int, vision_heads: int) -> dict[str, np.ndarray]:
    """openpi's PyTorch tensors as its JAX code keeps them: layers stacked, attention by heads, (in, out) kernels."""
    t = {name: tensor.numpy() for name, tensor in tensors.items()}

    def stacked(prefix: str, name: str) -> np.ndarray:
        layers = sorted(
            int(n.removeprefix(prefix).split(".")[0]) for n in t if n.startswith(prefix) and n.endswith(name)
        )
        return np.stack([t[f"{prefix}{layer}.{name}"] for layer in layers])

    out: dict[str, np.ndarray] = {}
    image, block = "PaliGemma.img.", "PaliGemma.img.Transformer.encoderblock."
    out[image + "embedding.kernel"] = t[VISION + "embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0)
    out[image + "embedding.bias"] = t[VISION + "embeddings.patch_embedding.bias"]
    out[image + "pos_embedding"] = t[VISION + "embeddings.position_embedding.weight"][None]
    out[image + "Transformer.encoder_norm.scale"] = t[VISION + "post_layernorm.weight"]
    out[image + "Transformer.encoder_norm.bias"] = t[VISION + "post_layernorm.bias"]
    out[image + "head.kernel"] = t[VLM + "multi_modal_projector.linear.weight"].T
    out[image + "head.bias"] = t[VLM + "multi_modal_projector.linear.bias"]
    layers = VISION + "encoder.layers."
    for theirs, ours in (("LayerNorm_0", "layer_norm1"), ("LayerNorm_1", "layer_norm2")):
        out[f"{block}{theirs}.scale"] = stacked(layers, f"{ours}.weight")
        out[f"{block}{theirs}.bias"] = stacked(layers, f"{ours}.bias")
    for theirs, ours in (("Dense_0", "mlp.fc1"), ("Dense_1", "mlp.fc2")):
        out[f"{block}MlpBlock_0.{theirs}.kernel"] = stacked(layers, f"{ours}.weight").transpose(0, 2, 1)
        out[f"{block}MlpBlock_0.{theirs}.bias"] = stacked(layers, f"{ours}.bias")
    attention = block + "MultiHeadDotProductAttention_0."
    for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        weight = stacked(layers, f"self_attn.{ours}.weight")  # (layers, heads * head, width)
        split = weight.reshape(len(weight), vision_heads, -1, weight.shape[2])
        out[f"{attention}{theirs}.kernel"] = split.transpose(0, 3, 1, 2)
        out[f"{attention}{theirs}.bias"] = stacked(layers, f"self_attn.{ours}.bias").reshape(
            len(weight), vision_heads, -1
        )
    weight = stacked(layers, "self_attn.out_proj.weight")  # (layers, width, heads * head)
    out[f"{attention}out.kernel"] = weight.reshape(*weight.shape[:2], vision_heads, -1).transpose(0, 2, 3, 1)
    out[f"{attention}out.bias"] = stacked(layers, "self_attn.out_proj.bias")
    out["PaliGemma.llm.embedder.input_embedding"] = t["paligemma_with_expert.paligemma.lm_head.weight"]
    for prefix, suffix in ((LANGUAGE, ""), (EXPERT, "_1")):
        _gemma(t, out, stacked, prefix, suffix, heads)
    for name in [n.removesuffix(".weight") for n in t if "." in n and "paligemma" not in n and n.endswith(".weight")]:
        out[f"{name}.kernel"], out[f"{name}.bias"] = t[f"{name}.weight"].T, t[f"{name}.bias"]
    return out


def _gemma(t, out, stacked, prefix: str, suffix: str, heads: int) -> None:
    layers, llm = prefix + "layers.", "PaliGemma.llm."
    weight = stacked(layers, "self_attn.q_proj.weight")
    out[f"{llm}layers.attn.q_einsum{suffix}.w"] = weight.reshape(len(weight), heads, -1, weight.shape[2]).swapaxes(2, 3)
    pair = [stacked(layers, f"self_attn.{name}_proj.weight").swapaxes(1, 2) for name in ("k", "v")]
    out[f"{llm}layers.attn.kv_einsum{suffix}.w"] = np.stack(pair, axis=1)[:, :, None]
    weight = stacked(layers, "self_attn.o_proj.weight")
    out[f"{llm}layers.attn.attn_vec_einsum{suffix}.w"] = weight.swapaxes(1, 2).reshape(
        len(weight), heads, -1, weight.shape[1]
    )
    gates = [stacked(layers, f"mlp.{name}_proj.weight").swapaxes(1, 2) for name in ("gate", "up")]
    out[f"{llm}layers.mlp{suffix}.gating_einsum"] = np.stack(gates, axis=1)
    out[f"{llm}layers.mlp{suffix}.linear"] = stacked(layers, "mlp.down_proj.weight").swapaxes(1, 2)
    for theirs, ours in (("pre_attention_norm", "input_layernorm"), ("pre_ffw_norm", "post_attention_layernorm")):
        name = f"{llm}layers.{theirs}{suffix}"
        if f"{layers}0.{ours}.weight" in t:
            out[f"{name}.scale"] = stacked(layers, f"{ours}.weight")
        else:
            out[f"{name}.Dense_0.kernel"] = stacked(layers, f"{ours}.dense.weight").swapaxes(1, 2)
            out[f"{name}.Dense_0.bias"] = stacked(layers, f"{ours}.dense.bias")
    if f"{prefix}norm.weight" in t:
        out[f"{llm}final_norm{suffix}.scale"] = t[f"{prefix}norm.weight"]
    else:
        out[f"{llm}final_norm{suffix}.Dense_0.kernel"] = t[f"{prefix}norm.dense.weight"].T
        out[f"{llm}final_norm{suffix}.Dense_0.bias"] = t[f"{prefix}norm.dense.bias"]


def write_jax(
    folder: Path, variant: str, *, ocdbt: bool, value: bool, dtype: str = "float32"
) -> dict[str, torch.Tensor]:
    """Turn a PyTorch folder into a JAX one, as orbax lays it out; returns the tensors it was made of."""
    network = write_openpi(folder, variant)
    (folder / "model.safetensors").unlink()
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"action_horizon": 5, "sizes": fields["sizes"]}))
    tensors = {n: t for n, t in published_tensors(network).items() if "gemma_expert.lm_head" not in n}
    base = {"driver": "file", "path": f"{folder / 'params'}/"}
    everything = tensorstore.Transaction()
    for name, array in jax_arrays(tensors, 4, 2).items():
        key = f"params.{name}{'.value' if value else ''}/"
        kvstore = {"driver": "ocdbt", "base": base, "path": key} if ocdbt else {**base, "path": base["path"] + key}
        store = tensorstore.open(
            {"driver": "zarr", "kvstore": kvstore}, create=True, dtype=dtype, shape=array.shape, transaction=everything
        ).result()  # fmt: skip
        store.write(array.astype(store.dtype.numpy_dtype)).result()
    everything.commit_sync()
    return tensors


@pytest.mark.parametrize(
    ("variant", "ocdbt", "value", "dtype"),
    [("pi0", True, False, "bfloat16"), ("pi05", True, True, "float32"), ("pi0", False, True, "float32")],
)
def test_every_array_finds_its_place(variant: str, ocdbt: bool, value: bool, dtype: str, tmp_path: Path) -> None:
    write_jax(tmp_path / "jax", variant, ocdbt=ocdbt, value=value, dtype=dtype)
    assert published_as(tmp_path / "jax") == "openpi_jax"
    ours = read_pi0(tmp_path / "jax").network.state_dict()
    write_openpi(tmp_path / "torch", variant)
    theirs = read_pi0(tmp_path / "torch").network.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor.to(getattr(torch, dtype)).float()), name


def test_arrays_missing_or_left_over_are_named(tmp_path: Path) -> None:
    write_jax(tmp_path / "jax", "pi0", ocdbt=False, value=False)
    gone = tmp_path / "jax" / "params" / "params.state_proj.bias"
    shutil.copytree(gone, gone.with_name("params.value_proj.bias"))
    with pytest.raises(CheckpointError, match=r"1 unexpected arrays \['value_proj\.bias'\]"):
        read_pi0(tmp_path / "jax")
    shutil.rmtree(gone)
    with pytest.raises(CheckpointError, match=r"array state_proj\.bias is missing"):
        read_pi0(tmp_path / "jax")
    (gone.with_name("params.action_in_proj.bias") / ".zarray").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as an orbax checkpoint"):
        read_pi0(tmp_path / "jax")


def test_a_folder_without_arrays_and_a_missing_reader_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params").mkdir()
    with pytest.raises(CheckpointError, match="holds no arrays"):
        read_pi0(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'gymnast_ros\[jax\]'"):
        read_pi0(tmp_path)
