from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from cloud_trainer.world_model.dit.codec import (
    CodecConfig,
    FastDecodeCodec,
    IdentityCodec,
    KLCodec,
    TinyCodec,
    build_codec,
)
from gymnast_core.errors import ConfigError, ShapeError
from tests.world_model.tiny import autoencoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("diffusers")


def frames(*lead: int, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (*lead, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small_kl() -> Any:
    return autoencoder("kl")


@pytest.fixture(scope="module")
def small_tiny() -> Any:
    return autoencoder("tiny")


def test_identity_returns_every_byte() -> None:
    every = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 1, 1, 3)
    codec = IdentityCodec()
    assert torch.equal(codec.decode(codec.encode(every)), every)
    assert codec.encode(every).amin() == -1.0
    assert codec.encode(every).amax() == 1.0


def test_kl_scales_the_posterior_mean_and_ignores_the_shift(small_kl: Any) -> None:
    codec, images = KLCodec(small_kl), frames(2, 3)
    latents = codec.encode(images)
    assert latents.shape == (2, 3, 2, 2, 16)
    assert (codec.latent_channels, codec.downscale) == (16, 8)
    unit = (images[1, 2].permute(2, 0, 1)[None].float() / 127.5) - 1
    with torch.no_grad():
        mean = small_kl.encode(unit).latent_dist.mean
    torch.testing.assert_close(latents[1, 2], mean[0].permute(1, 2, 0) * 1.5305, atol=1e-5, rtol=1e-5)


def test_kl_sampling_follows_its_generator(small_kl: Any) -> None:
    codec, images = KLCodec(small_kl), frames(1)
    draws = [codec.encode(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], codec.encode(images))


def test_kl_decodes_what_the_autoencoder_would(small_kl: Any) -> None:
    latents = torch.randn(3, 2, 2, 16, generator=torch.Generator().manual_seed(0))
    decoded = KLCodec(small_kl, frames_per_call=2).decode(latents)
    assert decoded.shape == (3, 16, 16, 3)
    assert decoded.dtype == torch.uint8
    with torch.no_grad():
        raw = small_kl.decode(latents[2].permute(2, 0, 1)[None] / 1.5305).sample[0].permute(1, 2, 0)
    expected = ((raw + 1) * 127.5).round().clamp(0, 255)
    assert (decoded[2].float() - expected).abs().max() <= 1


def test_tiny_takes_the_missing_shift_off_before_decoding(small_tiny: Any) -> None:
    latents = torch.randn(1, 2, 2, 16, generator=torch.Generator().manual_seed(0))
    plain, shifted = TinyCodec(small_tiny), TinyCodec(small_tiny, latent_offset=0.0932)
    assert torch.equal(plain.decode(latents), shifted.decode(latents + 0.0932))
    assert plain.downscale == 8
    assert plain.encode(frames(1)).shape == (1, 2, 2, 16)


def test_fast_decode_joins_only_codecs_of_the_same_latents(small_kl: Any, small_tiny: Any) -> None:
    joined = FastDecodeCodec(KLCodec(small_kl), TinyCodec(small_tiny))
    latents = joined.encode(frames(1))
    assert torch.equal(latents, KLCodec(small_kl).encode(frames(1)))
    assert torch.equal(joined.decode(latents), TinyCodec(small_tiny).decode(latents))
    with pytest.raises(ConfigError, match="latent_channels: 16 and 3"):
        FastDecodeCodec(KLCodec(small_kl), IdentityCodec())


def test_codecs_are_built_from_local_folders_only(small_kl: Any, small_tiny: Any, tmp_path: Path) -> None:
    small_kl.save_pretrained(tmp_path / "kl", safe_serialization=True)
    small_tiny.save_pretrained(tmp_path / "tiny", safe_serialization=True)
    config = {"kind": "kl", "folder": str(tmp_path / "kl"), "decoder_folder": str(tmp_path / "tiny")}
    loaded = build_codec(CodecConfig(**config))
    assert torch.equal(loaded.encode(frames(1)), KLCodec(small_kl).encode(frames(1)))
    assert isinstance(build_codec(CodecConfig(kind="identity")), IdentityCodec)
    with pytest.raises(ConfigError, match="is not a folder"):
        build_codec(CodecConfig(kind="kl", folder="stabilityai/stable-diffusion-3-medium"))
    with pytest.raises(ConfigError, match="codec: kind must be one of identity, kl, tiny, got 'vq'"):
        CodecConfig(kind="vq")
    with pytest.raises(ConfigError, match=r"\['decoder_folder'\] mean nothing for kind tiny"):
        CodecConfig(kind="tiny", folder="x", decoder_folder="y")


def test_frames_of_the_wrong_kind_are_refused(small_kl: Any) -> None:
    with pytest.raises(ShapeError, match="uint8"):
        IdentityCodec().encode(torch.zeros(1, 4, 4, 3))
    with pytest.raises(ShapeError, match="divide by 8"):
        KLCodec(small_kl).encode(frames(1, size=12))
