"""The WorldGym diffusion transformer: spatial full and temporal causal attention in turn, adaLN-Zero.

Parameter names and arithmetic follow the released checkpoint (tests/data/manifests/worldgym_dit.json), so it
loads by name. Every frame has its own timestep and action.
Axes: B batch, T frames, H W latent rows and columns, C latent channels, N tokens per frame, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cloud_trainer.world_model.dit.blocks import LAYER_NORM_EPS, DiTBlock, Pass, modulate
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.kv_cache import CacheShape, KVContext, LayerKV
from cloud_trainer.world_model.dit.rope import axis_angles, grid_angles, turn_by
from gymnast_core.errors import ShapeError

_TIMESTEP_CHANNELS = 256
_TIMESTEP_PERIOD = 10_000.0


class FinalLayer(nn.Module):
    """Modulated norm (shift, scale) and the linear map to patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS, elementwise_affine=False)
        self.linear = nn.Linear(config.dim, config.patch_size**2 * config.in_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 2 * config.dim))

    def forward(self, x_BTND: Tensor, cond_BTD: Tensor) -> Tensor:
        """Return (B, T, N, patch * patch * C)."""
        shift, scale = self.adaLN_modulation(cond_BTD)[:, :, None].chunk(2, dim=-1)
        out: Tensor = self.linear(modulate(self.norm_final(x_BTND), shift, scale))
        return out


class DiT(nn.Module):
    """Predicts v (or velocity) for latent frames, each with its own timestep and action."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.x_proj = nn.Conv2d(config.in_channels, config.dim, config.patch_size, stride=config.patch_size)
        self.timestep_mlp = nn.Sequential(
            nn.Linear(_TIMESTEP_CHANNELS, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.action_embedder = nn.Linear(config.condition_dim, config.dim)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.num_layers))
        self.final_layer = FinalLayer(config)

    def initialise(self, generator: torch.Generator) -> DiT:
        """Draw fresh weights: Xavier for linear maps, zeros where adaLN-Zero wants the identity; returns self."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                nn.init.zeros_(parameter)
        return self

    def forward(
        self,
        x_BTHWC: Tensor,
        t_BT: Tensor,
        actions_BTA: Tensor,
        *,
        context: KVContext | None = None,
        written: list[LayerKV] | None = None,
    ) -> Tensor:
        """Predict for T new frames.

        Args:
            x_BTHWC: noisy latents.
            t_BT: timestep of each frame, integers 0..999.
            actions_BTA: condition of each frame: as config.layout has it, or the arm's numbers alone.
            context: keys and values of earlier frames; one new frame follows them in time and takes the open slot.
            written: when given, receives per layer the new frames' unrotated keys and values (a write pass).

        Returns:
            (B, T, H, W, C) prediction.

        Raises:
            ShapeError: the shapes do not fit each other or the configuration.
        """
        actions_BTA = self._whole(actions_BTA)
        self._check(x_BTHWC, t_BT, actions_BTA)
        if context is not None and x_BTHWC.shape[1] != 1:
            raise ShapeError(f"with a context one frame is predicted at a time, got {x_BTHWC.shape[1]}")
        tokens_BTND, grid = self.embed_patches(x_BTHWC)
        cond_BTD = self.condition(t_BT, actions_BTA)
        pass_ = self._begin(tokens_BTND, grid, context, written)
        for layer, block in enumerate(self.blocks):
            if self.config.checkpoint_gradients and torch.is_grad_enabled():
                tokens_BTND = checkpoint(block, tokens_BTND, cond_BTD, pass_, layer, use_reentrant=False)
            else:
                tokens_BTND = block(tokens_BTND, cond_BTD, pass_, layer)
        return self._unpatch(self.final_layer(tokens_BTND, cond_BTD), grid)

    def embed_patches(self, x_BTHWC: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return (B, T, N, D) tokens and the token grid."""
        embedded = self.x_proj(x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2))
        height, width = embedded.shape[-2:]
        return embedded.flatten(2).transpose(1, 2).reshape(*x_BTHWC.shape[:2], height * width, self.config.dim), (
            height,
            width,
        )

    def condition(self, t_BT: Tensor, actions_BTA: Tensor) -> Tensor:
        """Return the (B, T, D) condition: embedded timestep plus embedded action."""
        embedding = timestep_embedding(t_BT).to(self.action_embedder.weight.dtype)
        out: Tensor = self.timestep_mlp(embedding) + self.action_embedder(actions_BTA)
        return out

    def cache_shape(self, batch: int, grid: tuple[int, int], *, capacity: int, pinned: int = 0) -> CacheShape:
        """Return the sizes of a cache for latents of grid = (H, W)."""
        tokens = (grid[0] // self.config.patch_size) * (grid[1] // self.config.patch_size)
        config = self.config
        return CacheShape(config.num_layers, batch, tokens, config.num_heads, config.head_dim, capacity, pinned)

    def _begin(
        self, tokens_BTND: Tensor, grid: tuple[int, int], context: KVContext | None, written: list[LayerKV] | None
    ) -> Pass:
        device, head_dim = tokens_BTND.device, self.config.head_dim
        positions = torch.arange(tokens_BTND.shape[1], device=device) if context is None else context.position
        time = turn_by(axis_angles(positions, head_dim // 2))
        return Pass(turn_by(grid_angles(*grid, head_dim, self.config.spatial_rope, device)), time, context, written)

    def _unpatch(self, x_BTNP: Tensor, grid: tuple[int, int]) -> Tensor:
        patch, channels = self.config.patch_size, self.config.in_channels
        x = x_BTNP.reshape(*x_BTNP.shape[:2], *grid, patch, patch, channels)
        return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def _whole(self, actions_BTA: Tensor) -> Tensor:
        """An arm's actions as this network takes them: no camera moves and nothing is said."""
        missing = self.config.condition_dim - actions_BTA.shape[-1]
        alone = missing > 0 and actions_BTA.shape[-1] == self.config.action_dim
        return F.pad(actions_BTA, (0, missing)) if alone else actions_BTA

    def _check(self, x_BTHWC: Tensor, t_BT: Tensor, actions_BTA: Tensor) -> None:
        config = self.config
        if x_BTHWC.ndim != 5 or x_BTHWC.shape[-1] != config.in_channels:
            raise ShapeError(f"latents must be (B, T, H, W, {config.in_channels}), got {tuple(x_BTHWC.shape)}")
        if x_BTHWC.shape[2] % config.patch_size or x_BTHWC.shape[3] % config.patch_size:
            raise ShapeError(f"latent size {tuple(x_BTHWC.shape[2:4])} is no multiple of patch {config.patch_size}")
        lead = tuple(x_BTHWC.shape[:2])
        if tuple(t_BT.shape) != lead or tuple(actions_BTA.shape) != (*lead, config.condition_dim):
            raise ShapeError(
                f"latents are (B, T) = {lead}; timesteps {tuple(t_BT.shape)} and actions {tuple(actions_BTA.shape)} "
                f"must be {lead} and {(*lead, config.condition_dim)}"
            )


def timestep_embedding(t: Tensor, channels: int = _TIMESTEP_CHANNELS) -> Tensor:
    """Return (..., channels) float32 sinusoids of the timestep, cosines first, then sines."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[..., None] * torch.exp(-math.log(_TIMESTEP_PERIOD) * steps / half)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def parameter_manifest(config: DiTConfig) -> Sequence[tuple[str, tuple[int, ...]]]:
    """Return (key, shape) of every tensor of a checkpoint, without allocating it."""
    with torch.device("meta"):
        model = DiT(config)
    return [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
