"""Turn a published WorldGym .pt into a checkpoint folder; a separate step, so that training never sees a pickle.

python -m cloud_trainer.world_model.dit.convert bridge.pt runs/worldgym --rope pixel --vae /models/sd3-vae
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cloud_trainer.world_model.dit.checkpoint import save_world_model
from cloud_trainer.world_model.dit.codec import CodecConfig
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.diffusion import VPrediction
from cloud_trainer.world_model.dit.restricted_unpickler import load_pt
from cloud_trainer.world_model.dit.rope import VARIANTS
from gymnast_core.errors import CheckpointError
from gymnast_core.records.manifest import Manifest, file_sha256

_LOG = logging.getLogger(__name__)

WORLDGYM_PIXELS = 256
"""A side of the frames that the published models were trained on."""


def convert_pt(
    source: Path, folder: Path, *, rope: str, codec_config: CodecConfig, heads: int = 16, max_frames: int = 20
) -> Manifest:
    """Write the checkpoint folder of a published state dict; the 'ema' entry is taken when there is one.

    Args:
        source: torch zip file: {model, ema, optimizer, step}, or a bare state dict.
        folder: must not exist yet.
        rope: "standard", or "pixel" for the Bridge-only checkpoint; the file does not say.
        codec_config: of its latents.
        heads: not in the file either.
        max_frames: nor this.

    Raises:
        CorruptError: the file names anything but tensors and containers.
        CheckpointError: its tensors are not a WorldGym DiT.
    """
    content = load_pt(source)
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} holds a {type(content).__name__}, not a state dict")
    which = next((name for name in ("ema", "model") if isinstance(content.get(name), dict)), "whole file")
    state = content if which == "whole file" else content[which]
    config = infer_config(state, rope=rope, heads=heads, max_frames=max_frames)
    lineage = {
        "stage": "converted",
        "source_sha256": file_sha256(source),
        "entry": which,
        "step": int(content.get("step", 0)),
    }
    return save_world_model(
        folder,
        state,
        config,
        objective_name=VPrediction.name,
        codec_config=codec_config,
        image_size=WORLDGYM_PIXELS,
        lineage=lineage,
    )


def infer_config(state: Mapping[str, Any], *, rope: str, heads: int, max_frames: int) -> DiTConfig:
    """Read the sizes off the tensors.

    Raises:
        CheckpointError: a tensor that gives a size is missing.
    """
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    needed = ("x_proj.weight", "action_embedder.weight", "blocks.0.s_block.ffwd.0.weight")
    missing = [name for name in needed if name not in state]
    if missing or wrong:
        raise CheckpointError(f"not a WorldGym DiT: without {missing}, not tensors {wrong[:3]}")
    dim, channels, patch, _ = state["x_proj.weight"].shape
    return DiTConfig(
        in_channels=int(channels),
        patch_size=int(patch),
        dim=int(dim),
        num_layers=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        num_heads=heads,
        action_dim=int(state["action_embedder.weight"].shape[1]),
        max_frames=max_frames,
        spatial_rope=rope,
        mlp_ratio=int(state["blocks.0.s_block.ffwd.0.weight"].shape[0]) // int(dim),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the conversion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rope", choices=VARIANTS, required=True)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--max-frames", type=int, default=20)
    parser.add_argument("--vae", required=True, help="folder of the SD3 AutoencoderKL (diffusers layout)")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO)
    codec = CodecConfig(kind="kl", folder=given.vae)
    manifest = convert_pt(
        given.source, given.folder, rope=given.rope, codec_config=codec, heads=given.heads, max_frames=given.max_frames
    )
    _LOG.info("converted id=%s folder=%s bytes=%d", manifest.id, given.folder, manifest.weights_bytes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
