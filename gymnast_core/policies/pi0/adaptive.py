"""pi0.5's action expert: a Gemma whose norms are scaled, shifted and gated by the flow's time.

Source:
    Physical-Intelligence/openpi @15a9616, src/openpi/models/gemma.py (RMSNorm with a condition, gated residuals) and
    pi0.py (embed_suffix): checked against numbers that its PyTorch code gave (tests/parity).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GemmaConfig, PI0Config
from transformers.models.gemma.modeling_gemma import GemmaAttention, GemmaMLP, GemmaRotaryEmbedding
from transformers.models.pi0.modeling_pi0 import PI0TimestepEmbeddings


class AdaptiveNorm(nn.Module):
    """RMS norm whose scale, shift and gate are linear in a condition."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.dense = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x_BSD: Tensor, condition_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed (B, S, D), and the gate (B, 1, D) of the branch that follows."""
        wide = x_BSD.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        scale, shift, gate = self.dense(condition_BD)[:, None].chunk(3, dim=-1)
        return (normed * (1.0 + scale.float()) + shift.float()).to(x_BSD.dtype), gate


class AdaptiveLayer(nn.Module):
    """Attention and feed-forward of the library's Gemma between adaptive norms."""

    def __init__(self, config: GemmaConfig, index: int) -> None:
        super().__init__()
        self.self_attn = GemmaAttention(config, index)
        self.mlp = GemmaMLP(config)
        self.input_layernorm = AdaptiveNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = AdaptiveNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BSD: Tensor, condition_BD: Tensor, **attention: object) -> Tensor:
        """Return the residual stream (B, S, D) after this layer."""
        normed, gate = self.input_layernorm(x_BSD, condition_BD)
        x_BSD = x_BSD + gate * self.self_attn(normed, **attention)[0]
        normed, gate = self.post_attention_layernorm(x_BSD, condition_BD)
        out: Tensor = x_BSD + gate * self.mlp(normed)
        return out


@dataclass(frozen=True)
class ExpertOutput:
    """What the expert answers, as the library's models name it."""

    last_hidden_state: Tensor


class AdaptiveExpert(nn.Module):
    """The action expert of pi0.5, called as the library's GemmaModel is."""

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AdaptiveLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = AdaptiveNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = GemmaRotaryEmbedding(config)

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, past_key_values: object,
        condition: Tensor,
    ) -> ExpertOutput:  # fmt: skip
        """Return (B, S, D) after the final norm, whose gate is not used.

        Args:
            inputs_embeds: (B, S, D).
            attention_mask: (B, 1, S, P + S) bool.
            position_ids: (B, S).
            past_key_values: the prefix, see network.PrefixCache.
            condition: (B, D), of the flow's time.
        """
        attention = {
            "position_embeddings": self.rotary_emb(inputs_embeds, position_ids=position_ids),
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
        }
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds, condition, **attention)
        return ExpertOutput(self.norm(inputs_embeds, condition)[0])


class ActionEmbedding(nn.Module):
    """Noisy actions to the expert's tokens, and the time to the condition of its norms."""

    def __init__(self, config: PI0Config) -> None:
        super().__init__()
        width = config.dit_config.hidden_size
        self.sinusoid_embeds = PI0TimestepEmbeddings(config)
        self.action_in_proj = nn.Linear(config.max_action_dim, width)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)

    def forward(self, x_BKW: Tensor, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, K, D) and condition (B, D)."""
        time = self.sinusoid_embeds(time_B).to(x_BKW.dtype)
        condition: Tensor = F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(time))))
        return self.action_in_proj(x_BKW), condition
