"""Between pixels and latents, behind one interface.

Frames are (..., H, W, 3) uint8 RGB tensors, latents (..., h, w, C) float32 in the scale the network works in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from pydantic import model_validator
from torch import Tensor

from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.settings import Settings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny


class Codec(Protocol):
    """Encodes frames and decodes latents."""

    @property
    def latent_channels(self) -> int:
        """C."""
        ...

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel and side."""
        ...

    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return latents; with a generator a probabilistic codec samples its posterior, else it gives the mean."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 frames."""
        ...


class IdentityCodec:
    """Pixels are the latents, from -1 to 1; exact both ways."""

    latent_channels = 3
    downscale = 1

    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map 0..255 to -1..1."""
        return _to_unit(frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Map -1..1 to 0..255, rounding and clipping."""
        return _to_bytes(latents)


class KLCodec:
    """diffusers' AutoencoderKL with WorldGym's scaling: latents times scaling_factor, shift_factor ignored."""

    def __init__(self, autoencoder: AutoencoderKL, *, frames_per_call: int = 16) -> None:
        """Wrap an autoencoder; encoding and decoding run frames_per_call frames at a time."""
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self._frames_per_call = frames_per_call

    @property
    def latent_channels(self) -> int:
        """C; 16 for SD3."""
        return int(self.autoencoder.config.latent_channels)

    @property
    def downscale(self) -> int:
        """8 for SD3."""
        return int(2 ** (len(self.autoencoder.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return scaled posterior samples (generator given) or means."""

        def one(images: Tensor) -> Tensor:
            posterior = self.autoencoder.encode(images).latent_dist
            latents: Tensor = posterior.mode() if generator is None else posterior.sample(generator)
            return latents * float(self.autoencoder.config.scaling_factor)

        _check_size(frames, self.downscale)
        return _per_image(_to_unit(frames), one, self.autoencoder, self._frames_per_call)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoded frames."""

        def one(images: Tensor) -> Tensor:
            decoded: Tensor = self.autoencoder.decode(images / self.autoencoder.config.scaling_factor).sample
            return decoded

        return _to_bytes(_per_image(latents, one, self.autoencoder, self._frames_per_call))


class TinyCodec:
    """diffusers' AutoencoderTiny (TAESD): a decoder of a twentieth of the cost.

    TAESD is trained on (raw - shift_factor) * scaling_factor; WorldGym's latents leave the shift out, so it is taken
    off here: latent_offset = shift_factor * scaling_factor (SD3: 0.0609 * 1.5305).
    """

    def __init__(self, autoencoder: AutoencoderTiny, *, latent_offset: float = 0.0, frames_per_call: int = 64) -> None:
        """Wrap an autoencoder."""
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.latent_offset = latent_offset
        self._frames_per_call = frames_per_call

    @property
    def latent_channels(self) -> int:
        """C."""
        return int(self.autoencoder.config.latent_channels)

    @property
    def downscale(self) -> int:
        """8 for TAESD."""
        return int(self.autoencoder.spatial_scale_factor)

    @torch.no_grad()
    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return latents; there is no posterior to sample."""
        _check_size(frames, self.downscale)
        latents = _per_image(
            _to_unit(frames), lambda x: self.autoencoder.encode(x).latents, self.autoencoder, self._frames_per_call
        )
        return latents + self.latent_offset

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoded frames."""
        raw = latents - self.latent_offset
        frames = _per_image(raw, lambda x: self.autoencoder.decode(x).sample, self.autoencoder, self._frames_per_call)
        return _to_bytes(frames)


class FastDecodeCodec:
    """Encodes with one codec and decodes with another, e.g. the SD3 encoder and a tiny decoder."""

    def __init__(self, encoder: Codec, decoder: Codec) -> None:
        """Join two codecs of the same latents.

        Raises:
            ConfigError: their latents differ in channels or scale.
        """
        for name in ("latent_channels", "downscale"):
            ours, theirs = getattr(encoder, name), getattr(decoder, name)
            if ours != theirs:
                raise ConfigError(f"encoder and decoder differ in {name}: {ours} and {theirs}")
        self._encoder, self._decoder = encoder, decoder

    @property
    def latent_channels(self) -> int:
        """C."""
        return self._encoder.latent_channels

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel and side."""
        return self._encoder.downscale

    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the encoder's latents."""
        return self._encoder.encode(frames, generator)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoder's frames."""
        return self._decoder.decode(latents)


class CodecConfig(Settings):
    """Between pixels and latents, as run.json and manifests name it."""

    where: ClassVar[str] = "codec"

    kind: Literal["identity", "kl", "tiny"]
    """identity: pixels are the latents. kl: diffusers' AutoencoderKL. tiny: its AutoencoderTiny."""
    folder: str | None = None
    """Of the autoencoder, in diffusers' layout (config.json and safetensors); read from disk only."""
    decoder_folder: str | None = None
    """Of a tiny autoencoder that decodes for kl."""
    latent_offset: float = 0.0
    """Of the tiny autoencoder."""

    @model_validator(mode="after")
    def _each_kind_has_its_own(self) -> CodecConfig:
        foreign = {"identity": {"folder", "decoder_folder", "latent_offset"}, "kl": set(), "tiny": {"decoder_folder"}}
        if ignored := sorted(self.model_fields_set & foreign[self.kind]):
            raise ConfigError(f"codec: {ignored} mean nothing for kind {self.kind}; leave them out")
        return self


def build_codec(config: CodecConfig, *, device: torch.device | str = "cpu") -> Codec:
    """Return the codec a configuration names.

    Args:
        config: which.
        device: where autoencoders run.

    Raises:
        ConfigError: a folder is missing.
    """
    if config.kind == "identity":
        return IdentityCodec()
    if config.kind == "tiny":
        return TinyCodec(_load("AutoencoderTiny", config.folder, device), latent_offset=config.latent_offset)
    full = KLCodec(_load("AutoencoderKL", config.folder, device))
    if config.decoder_folder is None:
        return full
    tiny = TinyCodec(_load("AutoencoderTiny", config.decoder_folder, device), latent_offset=config.latent_offset)
    return FastDecodeCodec(full, tiny)


def _load(name: str, folder: str | None, device: torch.device | str) -> Any:
    if not folder or not Path(folder).is_dir():
        raise ConfigError(f"codec folder {folder!r} is not a folder; put {name}'s config.json and safetensors there")
    import diffusers  # heavy, and only these two codecs need it

    loaded = getattr(diffusers, name).from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    return loaded.to(device)


def _per_image(images: Tensor, run: Callable[[Tensor], Tensor], module: torch.nn.Module, chunk: int) -> Tensor:
    """Apply run to (n, C, H, W) chunks of a (..., H, W, C) tensor and put the leading axes back."""
    parameter = next(module.parameters())
    flat = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2).to(parameter.device, parameter.dtype)
    out = torch.cat([run(part) for part in torch.split(flat, chunk)]).permute(0, 2, 3, 1).float()
    return out.reshape(*images.shape[:-3], *out.shape[1:]).contiguous()


def _to_unit(frames: Tensor) -> Tensor:
    if frames.dtype != torch.uint8 or frames.shape[-1] != 3:
        raise ShapeError(f"frames must be (..., H, W, 3) uint8, got {tuple(frames.shape)} {frames.dtype}")
    return frames.float() / 127.5 - 1


def _to_bytes(images: Tensor) -> Tensor:
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _check_size(frames: Tensor, downscale: int) -> None:
    height, width = frames.shape[-3:-1]
    if height % downscale or width % downscale:
        raise ShapeError(f"frames of {height}x{width} do not divide by {downscale}; resize or pad them first")
