"""A DiT world model on disk: a checkpoint folder that names its sizes, objective and codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from cloud_trainer.world_model.capabilities import ActionKind, Capabilities, declaration
from cloud_trainer.world_model.dit.codec import CodecConfig
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.diffusion import Objective, objective
from cloud_trainer.world_model.dit.network import DiT, parameter_manifest
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.spec import WIDOWX_250S

ARCHITECTURE = "worldgym_dit"


@dataclass(frozen=True)
class WorldModel:
    """A loaded checkpoint.

    Attributes:
        model: the network, in eval mode.
        objective: what it predicts.
        codec_config: between pixels and its latents.
        manifest: where it comes from.
    """

    model: DiT
    objective: Objective
    codec_config: CodecConfig
    manifest: Manifest

    @property
    def sampling_steps(self) -> int:
        """Denoising steps per frame where nobody asks for others: those it was distilled to, else 10."""
        said = self.manifest.config.get("sampling_steps")
        return (SamplerConfig() if said is None else SamplerConfig.model_validate({"steps": said})).steps


def save_world_model(
    folder: Path,
    state: Mapping[str, torch.Tensor],
    config: DiTConfig,
    *,
    objective_name: str,
    codec_config: CodecConfig,
    image_size: int | None = None,
    capabilities: Capabilities | None = None,
    sampling_steps: int | None = None,
    parents: tuple[str, ...] = (),
    lineage: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a checkpoint folder; it must not exist yet.

    Args:
        folder: to create.
        state: the network's tensors by name.
        config: its sizes.
        objective_name: what it predicts.
        codec_config: see codec.build_codec().
        image_size: pixels a side of the frames it was trained on; None where nobody knows.
        capabilities: what it may be used for; None is the arm's actions.
        sampling_steps: that it was distilled to; None leaves them to whoever samples.
        parents: checkpoints it was made from.
        lineage: what else made it.

    Raises:
        CheckpointError: the state does not fit the configuration, or the folder exists.
    """
    check_state(state, config)
    able = capabilities or config.capabilities(image_size, {ActionKind.EE_DELTA7}, (WIDOWX_250S.name,))
    described = {
        "network": config.to_json(), "objective": objective_name, "codec": codec_config.to_json(), **declaration(able),
    }  # fmt: skip
    if sampling_steps is not None:
        described["sampling_steps"] = sampling_steps
    weights = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in state.items()})
    return write_checkpoint(
        folder,
        weights,
        kind="world_model",
        architecture=ARCHITECTURE,
        config=described,
        parents=parents,
        lineage=dict(lineage or {}),
    )


def load_world_model(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> WorldModel:
    """Read, verify and build a world model.

    Raises:
        CheckpointError: altered, of another kind, or its tensors do not fit its configuration.
    """
    manifest, weights = read_checkpoint(folder, kind="world_model", architecture=ARCHITECTURE)
    config = network_of(manifest)
    try:
        codec_config = CodecConfig.model_validate(manifest.config["codec"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{folder}: its manifest describes no world model: {error}") from error
    state = safetensors.torch.load(weights)
    check_state(state, config)
    with torch.device("meta"):
        model = DiT(config)
    model.load_state_dict({name: value.to(device, dtype) for name, value in state.items()}, assign=True)
    return WorldModel(model.eval(), objective(manifest.config["objective"]), codec_config, manifest)


def network_of(manifest: Manifest) -> DiTConfig:
    """Return the sizes of a checkpoint's network.

    Raises:
        CheckpointError: it is no DiT.
    """
    try:
        return DiTConfig.model_validate(manifest.config["network"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{manifest.id}: its manifest describes no world model: {error}") from error


def check_state(state: Mapping[str, torch.Tensor], config: DiTConfig) -> None:
    """Compare names and shapes with what the configuration needs.

    Raises:
        CheckpointError: names what is missing, unknown or of another shape.
    """
    wanted = dict(parameter_manifest(config))
    given = {name: tuple(value.shape) for name, value in state.items()}
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    both = sorted(wanted.keys() & given.keys())
    shapes = [f"{name} is {given[name]}, not {wanted[name]}" for name in both if given[name] != wanted[name]]
    if missing or unknown or shapes:
        raise CheckpointError(
            f"weights do not fit the configuration: missing {missing[:3]} ({len(missing)}), "
            f"unknown {unknown[:3]} ({len(unknown)}), other shapes {shapes[:3]} ({len(shapes)})"
        )
