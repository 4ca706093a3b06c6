"""A small random Wan image-to-video model, in diffusers' layout, and its network under Wan's own names."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

HEADS, HEAD, TEXT, LOOK = 2, 12, 16, 8
WORDS = ("lift", "the", "red", "cube", "close", "drawer")


def write_wan(folder: Path, *, channels: int = 36, looks: bool = True) -> Path:
    """Write all parts; a network of 16 channels is one that takes the picture as its first frame alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = HEADS * HEAD
        network = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=HEADS, attention_head_dim=HEAD, in_channels=channels,
            out_channels=16, text_dim=TEXT, freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
            image_dim=LOOK if looks else None, added_kv_proj_dim=inner if looks else None,
        )  # fmt: skip
        vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
        text = UMT5EncoderModel(
            UMT5Config(
                vocab_size=16, d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2, is_encoder_decoder=False
            )
        )
        clip = CLIPVisionModel(
            CLIPVisionConfig(hidden_size=LOOK, intermediate_size=16, projection_dim=LOOK, num_hidden_layers=2,
                             num_attention_heads=2, image_size=16, patch_size=8)
        )  # fmt: skip
    network.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    text.save_pretrained(folder / "text_encoder")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True).save_pretrained(
        folder / "scheduler"
    )
    vocabulary = {"<pad>": 0, "<unk>": 1} | {word: 2 + n for n, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(folder / "tokenizer")
    if looks:
        clip.save_pretrained(folder / "image_encoder")
        sizes = {"height": 16, "width": 16}
        CLIPImageProcessorPil(size=sizes, crop_size=sizes).save_pretrained(folder / "image_processor")
    return folder


def own_names(folder: Path, path: Path, *, prefix: str = "model.", more: dict[str, Tensor] | None = None) -> Path:
    """Write a folder's network as Large Video Planner publishes it."""
    network = WanTransformer3DModel.from_pretrained(folder / "transformer")
    tensors = {prefix + _own(name): value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors | (more or {}), path)
    return path


def _own(name: str) -> str:
    """diffusers' name -> Wan's: written from the modules of Wan's own code, not from anybody's table."""
    block, _, rest = name.removeprefix("blocks.").partition(".")
    if not name.startswith("blocks."):
        block, rest = "", name
    for theirs, ours in (
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
        ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
        ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
        ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
        ("proj_out", "head.head"), ("attn1", "self_attn"), ("attn2", "cross_attn"), ("to_out.0", "o"),
        ("norm_added_k", "norm_k_img"), ("add_k_proj", "k_img"), ("add_v_proj", "v_img"),
        ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"),
        ("norm2", "norm3"), ("scale_shift_table", "modulation" if block else "head.modulation"),
    ):  # fmt: skip
        rest = rest.replace(theirs, ours)
    return f"blocks.{block}.{rest}" if block else rest
