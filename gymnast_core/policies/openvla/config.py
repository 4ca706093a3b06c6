"""Sizes of OpenVLA: two vision towers, a projector, a Llama; read from the published config.json or from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gymnast_core.errors import ConfigError

ACTION_BINS = 256
"""Action ids are the 256 ids below the tokenizer's own vocabulary end (32000)."""

HEADS = ("discrete", "l1", "causal")
PIPELINES = ("official", "rl")


@dataclass(frozen=True)
class TowerConfig:
    """One vision transformer, under timm's tensor names.

    Attributes:
        image_size: side in pixels.
        patch_size: side of a patch in pixels.
        embed_dim: width.
        depth: blocks; the features are the output of the last but one.
        num_heads: attention heads.
        mlp_hidden: width of the feed-forward layer.
        register_tokens: learned tokens besides the class token.
        class_token: whether there is one.
        layer_scale: whether each residual branch is scaled per channel.
        attention_pool: whether the checkpoint stores a pooling head (never used here).
        layer_norm_eps: of every LayerNorm.
    """

    image_size: int = 224
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_hidden: int = 4096
    register_tokens: int = 4
    class_token: bool = True
    layer_scale: bool = True
    attention_pool: bool = False
    layer_norm_eps: float = 1e-6

    @property
    def patches(self) -> int:
        """Patches per image."""
        return (self.image_size // self.patch_size) ** 2


DINOV2 = TowerConfig()
SIGLIP = TowerConfig(
    embed_dim=1152,
    depth=27,
    mlp_hidden=4304,
    register_tokens=0,
    class_token=False,
    layer_scale=False,
    attention_pool=True,
)
KNOWN_TOWERS = {"vit_large_patch14_reg4_dinov2.lvd142m": DINOV2, "vit_so400m_patch14_siglip_224": SIGLIP}
"""timm ids as the published config.json spells them."""


@dataclass(frozen=True)
class TextConfig:
    """The language model; defaults are Llama-2-7B with OpenVLA's 64 padding rows."""

    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    vocab_size: int = 32064
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    pad_token_id: int = 32000


@dataclass(frozen=True)
class OpenVLAConfig:
    """Everything but the weights, the tokenizer and the statistics.

    Attributes:
        towers: first and second vision tower; their features are concatenated.
        text: the language model.
        head: discrete (parallel decoding, log-probabilities), l1 (parallel, regression), causal (plain OpenVLA).
        chunk_length: K; 1 for causal.
        pipeline: image preparation, official or rl (see images.py).
        means: per tower, RGB.
        stds: per tower, RGB.
        range_epsilon: added to q99 - q01 when un-normalising: 1e-8 in OFT, 0 in plain OpenVLA.
        statistics_key: whose statistics un-normalise the actions.
        temperature: sampling temperature, also of the log-probabilities.
        proprio: whether a proprioception token follows the image patches.
        prompt_multiple: prompts are padded to a multiple of this, so that few shapes are compiled.
        bos_id: first token.
        stop_id: last token of a parallel-decoding sequence.
        empty_id: the "▁" that follows "Out:" in training.
        camera: which camera it looks through; empty means the first.
    """

    towers: tuple[TowerConfig, TowerConfig] = (DINOV2, SIGLIP)
    text: TextConfig = field(default_factory=TextConfig)
    head: str = "discrete"
    chunk_length: int = 5
    pipeline: str = "official"
    means: tuple[tuple[float, ...], ...] = ((0.484375, 0.455078125, 0.40625), (0.5, 0.5, 0.5))
    stds: tuple[tuple[float, ...], ...] = ((0.228515625, 0.2236328125, 0.224609375), (0.5, 0.5, 0.5))
    range_epsilon: float = 1e-8
    statistics_key: str = "bridge_dataset"
    temperature: float = 1.0
    proprio: bool = False
    prompt_multiple: int = 1
    bos_id: int = 1
    stop_id: int = 2
    empty_id: int = 29871
    camera: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.head not in HEADS:
            raise ConfigError(f"head must be one of {HEADS}, got {self.head!r}")
        if self.pipeline not in PIPELINES:
            raise ConfigError(f"pipeline must be one of {PIPELINES}, got {self.pipeline!r}")
        if self.head == "causal" and self.chunk_length != 1:
            raise ConfigError(f"the causal head decodes one action; chunk_length must be 1, got {self.chunk_length}")
        if self.temperature <= 0 or self.chunk_length < 1 or self.prompt_multiple < 1:
            raise ConfigError(f"temperature, chunk_length and prompt_multiple must be positive, got {self}")
        if self.towers[0].patches != self.towers[1].patches:
            raise ConfigError(f"towers see {self.towers[0].patches} and {self.towers[1].patches} patches; must agree")

    @property
    def vocabulary_end(self) -> int:
        """One past the last action id: the vocabulary without its 64 padding rows (32000)."""
        return self.text.vocab_size - 64

    @property
    def first_action_id(self) -> int:
        """31744 at full size."""
        return self.vocabulary_end - ACTION_BINS

    @property
    def prefix_tokens(self) -> int:
        """Embeddings inserted after the first prompt token: image patches, and proprioception if used."""
        return self.towers[0].patches + int(self.proprio)

    def to_json(self) -> dict[str, Any]:
        """JSON values; from_json reads them back."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> OpenVLAConfig:
        """Read what to_json wrote.

        Raises:
            ConfigError: a field is missing or unknown.
        """
        try:
            first, second = (TowerConfig(**tower) for tower in fields["towers"])
            nested = {
                "towers": (first, second),
                "text": TextConfig(**fields["text"]),
                "means": tuple(tuple(row) for row in fields["means"]),
                "stds": tuple(tuple(row) for row in fields["stds"]),
            }
            return OpenVLAConfig(**{**fields, **nested})
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not an OpenVLA configuration: {error!r}") from error


def text_config_of(published: Mapping[str, Any]) -> TextConfig:
    """Read a published text_config; what it leaves out is Llama-2-7B's value."""
    known = TextConfig.__dataclass_fields__
    return TextConfig(**{name: value for name, value in published.items() if name in known})


def towers_of(published: Mapping[str, Any]) -> tuple[TowerConfig, TowerConfig]:
    """Read the vision towers of a published config.json.

    A folder with towers of other sizes (tests, distilled models) lists them under "vision_towers".

    Raises:
        ConfigError: unknown timm ids, or not two towers.
    """
    if "vision_towers" in published:
        towers = [TowerConfig(**tower) for tower in published["vision_towers"]]
    else:
        names = published.get("timm_model_ids", [])
        unknown = [name for name in names if name not in KNOWN_TOWERS]
        if unknown:
            raise ConfigError(f"vision tower {unknown[0]!r} is not one of {sorted(KNOWN_TOWERS)}")
        towers = [KNOWN_TOWERS[name] for name in names]
    if len(towers) != 2:
        raise ConfigError(f"config.json names {len(towers)} vision towers; the fused backbone has two")
    return towers[0], towers[1]
