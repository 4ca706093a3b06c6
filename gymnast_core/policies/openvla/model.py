"""OpenVLA's network under the published tensor names: vision, projector, Llama, optional L1 and proprioception heads.

Axes: B batch, L prompt tokens, P image patches (and the proprioception token), S whole sequence, N = K * 7 action
positions, D width. The sequence is [first prompt token, P, other prompt tokens, N zeroed placeholders, stop token].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from gymnast_core.errors import CheckpointError, ContractError
from gymnast_core.policies.openvla.config import OpenVLAConfig, TextConfig
from gymnast_core.policies.openvla.vit import FusedVision
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM


class Projector(nn.Module):
    """Patch features to the language model's width."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features_BPV: Tensor) -> Tensor:
        """(B, P, V) -> (B, P, D)."""
        out: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features_BPV)))))
        return out


class ProprioProjector(nn.Module):
    """Proprioception to one token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(PROPRIO_DIM, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, proprio_BP: Tensor) -> Tensor:
        """(B, 7) in [-1, 1] -> (B, 1, D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(proprio_BP)))
        return out[:, None]


class _ResidualBlock(nn.Module):
    """x + ReLU(linear(LayerNorm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.ffn(x)
        return out


class _ResidualNet(nn.Module):
    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, width)
        self.mlp_resnet_blocks = nn.ModuleList(_ResidualBlock(width) for _ in range(2))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        out: Tensor = self.fc2(self.layer_norm2(x))
        return out


class L1Head(nn.Module):
    """Continuous actions from the hidden states of one time step; no probabilities, so not for RL."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = _ResidualNet(ACTION_DIM * width, width, ACTION_DIM)

    def forward(self, hidden_BND: Tensor) -> Tensor:
        """(B, K * 7, D) -> (B, K, 7), about [-1, 1]."""
        batch, positions, width = hidden_BND.shape
        steps = hidden_BND.reshape(batch, positions // ACTION_DIM, ACTION_DIM * width)
        out: Tensor = self.model(steps)
        return out


def llama_config(text: TextConfig) -> LlamaConfig:
    """The language model's configuration in transformers' terms."""
    return LlamaConfig(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        vocab_size=text.vocab_size,
        rms_norm_eps=text.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_theta},
        max_position_embeddings=text.max_position_embeddings,
        pad_token_id=text.pad_token_id,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )


class OpenVLANetwork(nn.Module):
    """The whole network; a checkpoint's tensors load by name, its code is never run."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        width = config.text.hidden_size
        self.config = config
        self.vision_backbone = FusedVision(*config.towers)
        self.projector = Projector(sum(tower.embed_dim for tower in config.towers), width)
        self.language_model = LlamaForCausalLM(llama_config(config.text))
        if config.proprio:
            self.proprio_projector = ProprioProjector(width)
        if config.head == "l1":
            self.action_head = L1Head(width)

    @classmethod
    def without_memory(cls, config: OpenVLAConfig) -> OpenVLANetwork:
        """Build on the meta device: shapes only, to be filled by load_state_dict(assign=True)."""
        with torch.device("meta"):
            network = cls(config)
        network.language_model.model.rotary_emb = LlamaRotaryEmbedding(llama_config(config.text))
        return network

    def prefix(self, pixels_BCHW: Tensor, proprio_BP: Tensor | None = None) -> Tensor:
        """(B, 6, H, W) -> (B, P, D): projected patches, then proprioception if the model has it."""
        patches: Tensor = self.projector(self.vision_backbone(pixels_BCHW))
        if not self.config.proprio:
            return patches
        if proprio_BP is None:
            raise ContractError("this checkpoint has a proprioception projector; pass proprio_BP")
        return torch.cat([patches, self.proprio_projector(proprio_BP.to(patches.dtype))], dim=1)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Ids (...) -> embeddings (..., D)."""
        out: Tensor = self.language_model.model.embed_tokens(ids)
        return out

    def parallel_hidden(
        self, pixels_BCHW: Tensor, ids_BL: Tensor, length_B: Tensor, proprio_BP: Tensor | None = None
    ) -> Tensor:
        """One forward pass with every token seeing every token; returns the output at the action positions.

        Args:
            pixels_BCHW: (B, 6, H, W).
            ids_BL: (B, L) prompts, padded on the right.
            length_B: (B,) prompt lengths.
            proprio_BP: (B, 7) normalised, where the model has the projector.

        Returns:
            (B, N, D) after the final norm: the value at the position before each placeholder.
        """
        positions = self.config.chunk_length * ACTION_DIM
        embeds_BSD = self._parallel_embeds(self.prefix(pixels_BCHW, proprio_BP), ids_BL, length_B)
        total_B = self.config.prefix_tokens + length_B + positions + 1
        seen_BS = torch.arange(embeds_BSD.shape[1], device=ids_BL.device)[None] < total_B[:, None]
        hidden_BSD = self._decode(embeds_BSD, seen_BS)
        first_B = self.config.prefix_tokens + length_B - 1
        index_BN = first_B[:, None] + torch.arange(positions, device=ids_BL.device)[None]
        return torch.gather(hidden_BSD, 1, index_BN[..., None].expand(-1, -1, hidden_BSD.shape[-1]))

    def _decode(self, embeds_BSD: Tensor, seen_BS: Tensor) -> Tensor:
        """Bidirectional pass. An explicit 4-D mask: a 2-D one would be read as causal by transformers 5."""
        length = embeds_BSD.shape[1]
        mask_B1SS = seen_BS[:, None, None, :].expand(-1, 1, length, -1)
        out: Tensor = self.language_model.model(
            inputs_embeds=embeds_BSD, attention_mask=mask_B1SS, use_cache=False, is_causal=False
        ).last_hidden_state
        return out

    def _parallel_embeds(self, prefix_BPD: Tensor, ids_BL: Tensor, length_B: Tensor) -> Tensor:
        """Prompt, zeroed placeholders, stop token; what a short prompt leaves over goes to the very end."""
        batch, longest = ids_BL.shape
        positions = self.config.chunk_length * ACTION_DIM
        slot_L = torch.arange(longest + positions + 1, device=ids_BL.device)[None]
        tail = torch.full((batch, positions + 1), self.config.stop_id, dtype=ids_BL.dtype, device=ids_BL.device)
        padded = torch.cat([ids_BL, tail], dim=1)
        padded = torch.where(slot_L >= length_B[:, None], torch.full_like(padded, self.config.stop_id), padded)
        embeds = self.embed_tokens(padded)
        is_stop = slot_L == (length_B + positions)[:, None]
        is_prompt = slot_L < length_B[:, None]
        embeds = embeds * (is_prompt | is_stop)[..., None].to(embeds.dtype)
        return torch.cat([embeds[:, :1], prefix_BPD, embeds[:, 1:]], dim=1)

    def action_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., 256) float32 logits of the action ids; the other 31,808 rows are not computed."""
        first, last = self.config.first_action_id, self.config.vocabulary_end
        head = self.language_model.lm_head
        if type(head) is not nn.Linear:  # adapted: its weight alone would leave the adapter out
            return self.full_logits(hidden)[..., first:last]
        return F.linear(hidden, head.weight[first:last]).float()

    def full_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., vocabulary) float32: what the official code takes the maximum of."""
        logits: Tensor = self.language_model.lm_head(hidden)
        return logits.float()

    def causal_hidden(
        self,
        pixels_BCHW: Tensor,
        ids_BL: Tensor,
        proprio_BP: Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Plain OpenVLA on prompts of one length: (B, P + L, D) after the final norm; fills the cache if given."""
        embeds = self.embed_tokens(ids_BL)
        sequence = torch.cat([embeds[:, :1], self.prefix(pixels_BCHW, proprio_BP), embeds[:, 1:]], dim=1)
        return self._causal(sequence, cache)

    def continue_causal(self, ids_BL: Tensor, cache: DynamicCache) -> Tensor:
        """Feed further ids after what the cache holds: (B, L) -> (B, L, D)."""
        return self._causal(self.embed_tokens(ids_BL), cache)

    def _causal(self, embeds_BSD: Tensor, cache: DynamicCache | None) -> Tensor:
        out: Tensor = self.language_model.model(
            inputs_embeds=embeds_BSD, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        return out


def assign(network: OpenVLANetwork, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Fill a network built without memory.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape; the message names the first of each.
    """
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & tensors.keys() if tensors[name].shape != expected[name])
    if missing or unknown or wrong:
        shapes = [f"{name} {tuple(tensors[name].shape)}, not {tuple(expected[name])}" for name in wrong[:1]]
        raise CheckpointError(
            f"{where}: tensors do not fit the configuration: {len(missing)} missing {missing[:1]}, "
            f"{len(unknown)} unknown {unknown[:1]}, {len(wrong)} of another shape {shapes}; fetch the folder again, or "
            "name another head"
        )
    network.load_state_dict(tensors, assign=True)
