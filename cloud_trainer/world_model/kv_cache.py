"""Keys and values of finished frames, kept over a whole rollout.

One write pass per finished frame; keys are stored before the rotary turn, so that the window can slide (positions
are counted within the window) and a pinned anchor frame can stay while recent frames pass by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cloud_trainer.world_model.rope import axis_angles, rotate
from gymnast_core.errors import ConfigError, ContractError

LayerKV = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B, N tokens, heads, frames, head_dim)."""


@dataclass(frozen=True)
class KVContext:
    """What one network pass reads: already-rotated keys and values of the context, per layer.

    Attributes:
        layers: per layer (keys, values), each (B, N, heads, S, head_dim); keys rotated to their window position.
        frames: how many of the S slots hold a frame; new frames get positions frames, frames + 1, ...
        slot_mask: (S,) bool of filled slots, or None when all are.
    """

    layers: Sequence[LayerKV]
    frames: int
    slot_mask: Tensor | None = None


@dataclass(frozen=True)
class CacheShape:
    """Sizes of a cache.

    Attributes:
        layers: temporal attention layers.
        batch: rows, guidance branches included.
        tokens: tokens per frame.
        heads: attention heads.
        head_dim: a multiple of 2.
        capacity: frames kept; the network's window less the frame being made.
        pinned: leading frames that are never dropped (1 = the anchor frame).
    """

    layers: int
    batch: int
    tokens: int
    heads: int
    head_dim: int
    capacity: int
    pinned: int = 0

    def __post_init__(self) -> None:
        """Refuse a cache that cannot slide."""
        if not 0 <= self.pinned < self.capacity:
            raise ConfigError(f"pinned must lie in [0, capacity = {self.capacity}), got {self.pinned}")


class KVCache:
    """A ring of frames; the oldest unpinned one makes room."""

    def __init__(
        self,
        shape: CacheShape,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        static: bool = False,
    ) -> None:
        """Allocate the buffers.

        Args:
            shape: sizes.
            device: where the buffers live.
            dtype: of keys and values.
            static: always hand out all slots with a mask, so that compiled code sees one shape.
        """
        self.shape = shape
        self.static = static
        size = (shape.layers, shape.batch, shape.tokens, shape.heads, shape.capacity, shape.head_dim)
        self._keys = torch.zeros(size, device=device, dtype=dtype)
        self._values = torch.zeros(size, device=device, dtype=dtype)
        self._order: list[int] = []

    @property
    def frames(self) -> int:
        """Frames held."""
        return len(self._order)

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return 2 * self._keys.numel() * self._keys.element_size()

    def clear(self) -> None:
        """Forget every frame."""
        self._order = []

    def append(self, layers: Sequence[LayerKV]) -> None:
        """Store one or more finished frames, oldest first, dropping the oldest unpinned ones as needed.

        Args:
            layers: per layer unrotated keys and values, (B, N, heads, frames, head_dim).

        Raises:
            ContractError: the number of layers is not the cache's.
        """
        if len(layers) != self.shape.layers:
            raise ContractError(f"cache has {self.shape.layers} layers, got keys and values of {len(layers)}")
        for frame in range(layers[0][0].shape[3]):
            slot = self._next_slot()
            for index, (keys, values) in enumerate(layers):
                self._keys[index, :, :, :, slot] = keys[:, :, :, frame].to(self._keys.dtype)
                self._values[index, :, :, :, slot] = values[:, :, :, frame].to(self._values.dtype)

    def _next_slot(self) -> int:
        full = len(self._order) == self.shape.capacity
        slot = self._order.pop(self.shape.pinned) if full else len(self._order)
        self._order.append(slot)
        return slot

    def context(self) -> KVContext:
        """Return the window as the next frame sees it; keys are rotated here, once per generated frame."""
        slots = self.shape.capacity if self.static else self.frames
        positions = torch.zeros(slots, device=self._keys.device)
        positions[self._order] = torch.arange(self.frames, dtype=torch.float32, device=positions.device)
        angles = axis_angles(positions, self.shape.head_dim // 2)
        layers = [
            (rotate(keys[..., :slots, :], angles), values[..., :slots, :])
            for keys, values in zip(self._keys, self._values, strict=True)
        ]
        mask = torch.arange(slots, device=positions.device) < self.frames if self.static else None
        return KVContext(layers, self.frames, mask)

    def gather(self, rows: Tensor) -> KVCache:
        """Return a cache of the given rows (repeats allowed), e.g. to fan one start out to a group."""
        shape = replace(self.shape, batch=int(rows.numel()))
        copy = KVCache.__new__(KVCache)
        copy.shape, copy.static, copy._order = shape, self.static, list(self._order)
        copy._keys, copy._values = (part.index_select(1, rows.to(part.device)) for part in (self._keys, self._values))
        return copy
