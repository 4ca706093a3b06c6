"""Keys and values of finished frames, kept over a whole rollout.

One write pass per finished frame. Keys are kept before the rotary turn, so that the window can slide and a pinned
anchor frame can stay while recent frames pass by; beside them lie the turned keys that passes read. Attention depends
on differences of position alone, so positions are counted on and a frame is turned once: only the pinned ones, which
move along with the window, are turned again. A pass puts its own frame into the one open slot and copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cloud_trainer.world_model.dit.rope import axis_angles, rotate, turn_by
from gymnast_core.errors import ConfigError, ContractError

_RECOUNT_AFTER = 1000
"""Frames after which positions are counted anew: float32 angles stay exact to 1e-4 rad."""

LayerKV = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B, N tokens, heads, frames, head_dim)."""


@dataclass(frozen=True)
class KVContext:
    """What one network pass over one new frame reads, and the open slot that frame goes through.

    Attributes:
        layers: per layer (keys, values), each (B, N, heads, S, head_dim); keys turned by their position.
        slot: (1,) int64, the open one of the S slots.
        position: (1,) float32, of the new frame.
        slot_mask: (1, S) bool of the slots to look at, the open one included, or None when all are.
    """

    layers: Sequence[LayerKV]
    slot: Tensor
    position: Tensor
    slot_mask: Tensor | None = None

    def joined(self, layer: int, keys: Tensor, values: Tensor) -> LayerKV:
        """Put the new frame's turned keys and values into the open slot; returns all slots of that layer."""
        kept = self.layers[layer]
        for part, new in zip(kept, (keys, values), strict=True):
            part.index_copy_(-2, self.slot, new.to(part.dtype))
        return kept[0].to(keys.dtype), kept[1].to(values.dtype)


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
    """A ring of frames with one open slot; the oldest unpinned frame makes room."""

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
        self.shape, self.static = shape, static
        size = (shape.capacity + 1, shape.batch, shape.tokens, shape.heads, shape.head_dim)  # a frame is one piece

        def buffers() -> list[Tensor]:
            return [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.layers)]

        self._keys, self._turned, self._values = buffers(), buffers(), buffers()
        self._turned_to: dict[int, int] = {}
        self._order: list[int] = []
        self._counted = 0

    @property
    def frames(self) -> int:
        """Frames held."""
        return len(self._order)

    @property
    def slots(self) -> tuple[int, ...]:
        """Where they are, oldest first."""
        return tuple(self._order)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(part.numel() * part.element_size() for part in (*self._keys, *self._turned, *self._values))

    def clear(self) -> None:
        """Forget every frame."""
        self._order, self._turned_to, self._counted = [], {}, 0

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
            slot = self._open_slot()
            for index, (keys, values) in enumerate(layers):
                self._keys[index][slot] = keys[..., frame, :]
                self._values[index][slot] = values[..., frame, :]
            self._turned_to.pop(slot, None)
            self._order.append(slot)
            self._counted += 1
            if len(self._order) > self.shape.capacity:
                del self._order[self.shape.pinned]

    def context(self) -> KVContext:
        """Return the window as the next frame sees it; keys whose position is new are turned here."""
        if self._counted > _RECOUNT_AFTER:
            self._counted = self.frames
        self._turn()
        device, slot = self._keys[0].device, self._open_slot()
        slots = self.shape.capacity + 1 if self.static else self.frames + 1
        mask = None
        if self.static:
            mask = torch.zeros(1, slots, dtype=torch.bool, device=device)
            mask[:, [*self._order, slot]] = True
        layers = [
            (keys[:slots].movedim(0, -2), values[:slots].movedim(0, -2))
            for keys, values in zip(self._turned, self._values, strict=True)
        ]
        position = torch.tensor([self._counted], dtype=torch.float32, device=device)
        return KVContext(layers, torch.tensor([slot], device=device), position, mask)

    def _open_slot(self) -> int:
        return next(slot for slot in range(self.shape.capacity + 1) if slot not in self._order)

    def _turn(self) -> None:
        """Turn the keys of frames that are not turned to the position they have now."""
        first = self._counted - self.frames
        wanted = {slot: first + place for place, slot in enumerate(self._order)}
        stale = [slot for slot, position in wanted.items() if self._turned_to.get(slot) != position]
        if not stale:
            return
        device = self._keys[0].device
        positions = torch.tensor([wanted[slot] for slot in stale], dtype=torch.float32, device=device)
        turn, index = turn_by(axis_angles(positions, self.shape.head_dim // 2)), torch.tensor(stale, device=device)
        for keys, turned in zip(self._keys, self._turned, strict=True):
            turned.index_copy_(0, index, rotate(keys.index_select(0, index).movedim(0, -2), turn).movedim(-2, 0))
        self._turned_to = wanted

    def gather(self, rows: Tensor) -> KVCache:
        """Return a cache of the given rows (repeats allowed), e.g. to fan one start out to a group."""
        copy = KVCache.__new__(KVCache)
        copy.shape, copy.static = replace(self.shape, batch=int(rows.numel())), self.static
        copy._order, copy._turned_to, copy._counted = list(self._order), dict(self._turned_to), self._counted
        index = rows.to(self._keys[0].device)
        copy._keys, copy._turned, copy._values = (
            [part.index_select(1, index) for part in parts] for parts in (self._keys, self._turned, self._values)
        )
        return copy
