"""pi0's network: transformers' PI0ForConditionalGeneration, taken apart so that what was seen is computed once.

What the library's class cannot do, pi0.5, has its expert in adaptive.py. Time runs as in openpi: t = 1 is noise.
Axes: B batch, L prompt tokens, C cameras, P prefix (C * patches + L), S suffix (K actions, pi0's state before them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PI0Config, PI0ForConditionalGeneration
from transformers.models.gemma.modeling_gemma import GemmaRotaryEmbedding

from gymnast_core.errors import CheckpointError
from gymnast_core.policies.pi0.adaptive import ActionEmbedding, AdaptiveExpert
from gymnast_core.policies.pi0.config import GemmaSizes, Pi0Config


@dataclass(frozen=True)
class Prefix:
    """What the language model made of images and prompts: all that the expert sees of them.

    Attributes:
        layers: per layer keys and values, (B, kv heads, P, head_dim) each, positions in the keys.
        seen_BP: (B, P) bool, False for padding and absent cameras.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    seen_BP: Tensor

    def rows(self, index_N: Tensor) -> Prefix:
        """Return chosen rows, repeated as often as they are named."""
        index_N = index_N.to(self.seen_BP.device)
        if torch.equal(index_N, torch.arange(len(self.seen_BP), device=index_N.device)):
            return self
        return Prefix(tuple((keys[index_N], values[index_N]) for keys, values in self.layers), self.seen_BP[index_N])


class PrefixCache:
    """The library's cache protocol over a prefix that stays as it is: every call joins it with the suffix anew."""

    def __init__(self, prefix: Prefix, dtype: torch.dtype) -> None:
        self._prefix, self._dtype = prefix, dtype

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of prefix and suffix, of a layer."""
        before = (tensor.to(self._dtype) for tensor in self._prefix.layers[layer])
        first, second = (torch.cat(pair, dim=2) for pair in zip(before, (keys, values), strict=True))
        return first, second


class _Recorder:
    """The library's cache protocol that only keeps what each layer computed."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        self.layers.append((keys, values))
        return keys, values


class Pi0Network(nn.Module):
    """The whole network; a checkpoint's tensors load by name, its code is never run.

    Attributes:
        vlm: vision tower, projector and language model; frozen: only the expert learns here.
        expert: the action expert.
        embed_action_time: state, noisy actions and time to the expert's tokens.
        action_out_proj: the expert's answers to velocities.
        learns: parts that can be trained.
    """

    learns = ("expert", "embed_action_time", "action_out_proj")

    def __init__(self, config: Pi0Config) -> None:
        super().__init__()
        library = PI0ForConditionalGeneration(library_config(config))
        self.config = config
        self.vlm = library.model.vlm
        if config.variant == "pi0":
            self.expert = library.model.dit
            self.expert.embed_tokens = None  # a quarter of a billion numbers that nothing ever looks up
            self.embed_action_time = library.embed_action_time
        else:
            self.expert = AdaptiveExpert(library.config.dit_config)
            self.embed_action_time = ActionEmbedding(library.config)
        self.action_out_proj = library.action_out_proj

    @classmethod
    def without_memory(cls, config: Pi0Config) -> Pi0Network:
        """Build on the meta device: shapes only, to be filled by assign()."""
        with torch.device("meta"):
            network = cls(config)
        for module in network.modules():
            if isinstance(module, GemmaRotaryEmbedding):
                module.__init__(module.config)  # its buffers are in no checkpoint
        network.vlm.language_model.embed_tokens.embed_scale = torch.tensor(float(config.language.width) ** 0.5)
        network.embed_action_time.sinusoid_embeds.sinusoid_freq = (
            network.embed_action_time.sinusoid_embeds.compute_freqs(library_config(config))
        )
        vision = network.vlm.vision_tower
        embeddings = getattr(vision, "vision_model", vision).embeddings
        embeddings.position_ids = torch.arange(config.vision.patches).expand((1, -1))
        return network

    @torch.no_grad()
    def look(self, pixels_BCHWX: Tensor, ids_BL: Tensor, text_BL: Tensor, cameras_BC: Tensor | None = None) -> Prefix:
        """Compute what the expert sees of images and prompts; without gradients.

        Args:
            pixels_BCHWX: (B, C, 3, H, W) in [-1, 1].
            ids_BL: (B, L) prompts.
            text_BL: (B, L) bool, False for padding.
            cameras_BC: (B, C) bool, False for a camera that is absent; None for all present.
        """
        batch, cameras = pixels_BCHWX.shape[:2]
        weight = self.vlm.multi_modal_projector.linear.weight
        images = self.vlm.get_image_features(pixels_BCHWX.flatten(0, 1).to(weight.dtype)).pooler_output
        images = images.reshape(batch, -1, images.shape[-1])
        words = self.vlm.language_model.embed_tokens(ids_BL)
        if cameras_BC is None:
            cameras_BC = torch.ones(batch, cameras, dtype=torch.bool, device=ids_BL.device)
        shown = cameras_BC.repeat_interleave(images.shape[1] // cameras, dim=1)
        seen_BP = torch.cat([shown, text_BL], dim=1)
        recorder = _Recorder()
        self.vlm.language_model(
            inputs_embeds=torch.cat([images.to(words.dtype), words], dim=1),
            attention_mask=seen_BP[:, None, None].expand(-1, 1, seen_BP.shape[1], -1),
            position_ids=(seen_BP.cumsum(1) - 1).clamp(min=0),
            past_key_values=recorder,
            use_cache=True,
        )
        return Prefix(tuple(recorder.layers), seen_BP)

    def velocity(self, prefix: Prefix, state_BW: Tensor, x_BKW: Tensor, time_B: Tensor) -> Tensor:
        """Return the velocity (B, K, W) float32 of chunks x at times t, with gradients.

        Args:
            prefix: of the same B rows.
            state_BW: (B, W) normalised and zero-padded; pi0.5 has it in its prompt.
            x_BKW: (B, K, W) noisy actions.
            time_B: (B,) float32, 1 for noise.
        """
        dtype = self.action_out_proj.weight.dtype
        tokens, condition = self._suffix(state_BW.to(dtype), x_BKW.to(dtype), time_B)
        hidden = self.expert(
            inputs_embeds=tokens,
            attention_mask=self._mask(prefix.seen_BP, tokens.shape[1]),
            position_ids=prefix.seen_BP.sum(1, keepdim=True) + torch.arange(tokens.shape[1], device=tokens.device),
            past_key_values=PrefixCache(prefix, dtype),
            **condition,
        ).last_hidden_state
        velocity: Tensor = self.action_out_proj(hidden[:, -x_BKW.shape[1] :])
        return velocity.float()

    def _suffix(self, state: Tensor, x: Tensor, time_B: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        if self.config.variant == "pi0":
            return self.embed_action_time(state, x, time_B), {}
        tokens, condition = self.embed_action_time(x, time_B)
        return tokens, {"condition": condition}

    def _mask(self, seen_BP: Tensor, suffix: int) -> Tensor:
        """(B, 1, S, P + S) bool: all see the prefix, actions see each other and the state, which sees no action."""
        own = torch.ones(suffix, suffix, dtype=torch.bool, device=seen_BP.device)
        if self.config.variant == "pi0":
            own[0, 1:] = False
        before = seen_BP[:, None, None].expand(-1, 1, suffix, -1)
        return torch.cat([before, own.expand(len(seen_BP), 1, -1, -1)], dim=3)


def library_config(config: Pi0Config) -> PI0Config:
    """The sizes in transformers' terms."""
    vision = config.vision
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": _gemma(config.language, config.vocabulary),
            "vision_config": {
                "model_type": "siglip_vision_model", "hidden_size": vision.width, "intermediate_size": vision.mlp,
                "num_hidden_layers": vision.depth, "num_attention_heads": vision.heads,
                "patch_size": vision.patch_size, "image_size": vision.image_size, "vision_use_head": False,
                "projection_dim": config.language.width,
            },
            "projection_dim": config.language.width,
            "image_token_id": config.vocabulary,
        },
        dit_config=_gemma(config.expert, config.vocabulary),
        chunk_size=config.chunk_length, max_state_dim=config.state_width, max_action_dim=config.action_width,
        num_inference_steps=config.steps, attn_implementation="sdpa",
    )  # fmt: skip


def _gemma(sizes: GemmaSizes, vocabulary: int) -> dict[str, str | int]:
    return {
        "model_type": "gemma", "hidden_size": sizes.width, "num_hidden_layers": sizes.depth,
        "intermediate_size": sizes.mlp, "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim, "vocab_size": vocabulary,
    }  # fmt: skip


def assign(network: Pi0Network, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Fill a network built without memory.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape; the message names every one.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    wrong = sorted(n for n in expected.keys() & tensors.keys() if tuple(tensors[n].shape) != expected[n])
    if missing or unknown or wrong:
        shapes = [f"{name} {tuple(tensors[name].shape)}, not {expected[name]}" for name in wrong]
        raise CheckpointError(
            f"{where}: tensors do not fit a {network.config.variant} of these sizes: {len(missing)} missing "
            f"{missing}, {len(unknown)} unexpected {unknown}, {len(wrong)} of another shape {shapes}; fetch the folder "
            "again, or convert the checkpoint it was made from"
        )
    network.load_state_dict(dict(tensors), assign=True)
