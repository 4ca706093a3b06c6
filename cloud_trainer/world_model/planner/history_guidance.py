"""Diffusion forcing and history guidance around a Wan network, as a Large Video Planner is sampled.

diffusers' image-to-video pipeline drives it as it drives the network itself: with every token's time, the picture's
latents as the clean first frame. One call here is up to three of the network's.

Source:
    Method and defaults: 2512.15840; buoyancy99/large-video-planner 828120b, algorithms/wan/wan_t2v.py (sample_seq).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel
    from diffusers.configuration_utils import FrozenDict


class HistoryGuided(nn.Module):
    """v = (1 + l + h) v(words, history) - l v(no words, history) - h v(words, noise for history).

    Args:
        network: diffusers' WanTransformer3DModel, of as many channels as the latents, or more, which are zeros.
        words: l, 0 leaves that pass out.
        history: h, likewise.
        clean_time: whether the history has the sampler's last time, as these models are trained, or 0.
    """

    def __init__(
        self, network: WanTransformer3DModel, *, words: float, history: float, clean_time: bool = True
    ) -> None:
        super().__init__()
        self.network, self._words, self._history, self._clean_time = network, words, history, clean_time
        self._no_words: Tensor | None = None
        self._first = self._last = 0.0
        self._rng = np.random.default_rng(0)

    def begin(self, no_words: Tensor, times: Tensor, rng: np.random.Generator) -> None:
        """Take what one video needs: the embedding of no words, the sampler's times, and noise for its history."""
        self._no_words, self._first, self._last, self._rng = no_words, float(times[0]), float(times[-1]), rng

    @property
    def config(self) -> FrozenDict:
        """Of the network, as the pipeline asks for it."""
        return self.network.config

    @property
    def dtype(self) -> torch.dtype:
        """Likewise."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Likewise."""
        device: torch.device = self.network.device
        return device

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        """Likewise; nothing is cached."""
        context: AbstractContextManager[None] = self.network.cache_context(name)
        return context

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None, attention_kwargs: Mapping[str, object] | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:  # fmt: skip
        """Return the guided velocity, (B, z, T, h, w).

        Args:
            hidden_states: (B, z, T, h, w), the first frame being the clean history.
            timestep: (B, tokens), 0 at the history's.
            encoder_hidden_states: (B, L, D), the words.
            encoder_hidden_states_image: (B, N, E) tokens of the picture, or None.
            attention_kwargs: for the network.
            return_dict: must be False, as the pipeline asks.
        """
        frame = timestep.shape[1] // hidden_states.shape[2]

        def velocity(latents: Tensor, history_time: float, words: Tensor) -> Tensor:
            times = timestep.clone()
            times[:, :frame] = history_time
            more = self.config.in_channels - latents.shape[1]
            found: Tensor = self.network(
                hidden_states=F.pad(latents, (0, 0, 0, 0, 0, 0, 0, more)), timestep=times, encoder_hidden_states=words,
                encoder_hidden_states_image=encoder_hidden_states_image, attention_kwargs=attention_kwargs,
                return_dict=return_dict,
            )[0]  # fmt: skip
            return found

        clean = self._last if self._clean_time else 0.0
        guided = (1 + self._words + self._history) * velocity(hidden_states, clean, encoder_hidden_states)
        if self._words:
            assert self._no_words is not None, "begin() comes first"
            guided = guided - self._words * velocity(hidden_states, clean, self._no_words)
        if self._history:
            forgotten = hidden_states.clone()
            shape = tuple(forgotten[:, :, :1].shape)
            noise = torch.from_numpy(self._rng.standard_normal(shape, dtype=np.float32))
            forgotten[:, :, :1] = noise.to(forgotten)
            guided = guided - self._history * velocity(forgotten, self._first, encoder_hidden_states)
        return (guided,)
