"""Plans drawn by a Wan image-to-video model of diffusers, or a Large Video Planner; their actions by inverse dynamics.

The checkpoint is small: it names the folder of the video model, with every file's digest, and holds the compact planner
whose inverse dynamics, trained on our episodes, reads the actions off the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import safetensors.torch
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from pydantic import Field, model_validator

from cloud_trainer.world_model.capabilities import (
    COMPACT_PLANNER,
    WAN_PLANNER,
    ActionKind,
    Capabilities,
    beside,
    declaration,
    declared_by,
)
from cloud_trainer.world_model.planner.history_guidance import HistoryGuided
from cloud_trainer.world_model.planner.model import CompactPlanner
from cloud_trainer.world_model.planner.plans import VideoPlans
from cloud_trainer.world_model.planner.wan_weights import digests, read_pipeline
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.images import area_downsample
from gymnast_core.policies.placement import device_of
from gymnast_core.policies.processor import compute_dtype
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.settings import Count, NotNegative, Positive, Settings
from gymnast_core.spec import RobotSpec
from gymnast_core.types import ByteArray

ARCHITECTURE = WAN_PLANNER
SPATIAL, TEMPORAL = 16, 4
"""Pixels of a token, and frames of a latent one."""
WORDS = 512
"""Tokens of an instruction at most, and as many are passed."""
FolderName = Annotated[Path, Field(strict=False)]


class WanSettings(Settings):
    """How a Wan image-to-video model plans; the defaults are Large Video Planner's."""

    where: ClassVar[str] = "wan"

    folder: FolderName
    """Of the model, in diffusers' layout; read from disk only, safetensors only."""
    network: FolderName | None = None
    """A .safetensors file with the network's tensors under Wan's own names, as Large Video Planner has them; none reads
    the folder's."""
    forced: bool = True
    """Diffusion forcing: the picture is a clean first frame with a time of its own. Otherwise the picture comes in
    channels of its own, as Wan 2.1 was trained."""
    image_size: Count = 256
    """Pixels a side of the pictures that it plans from, and of the plans."""
    height: Annotated[int, Field(ge=SPATIAL, le=2048, multiple_of=SPATIAL)] = 480
    """Of the video, in pixels; the picture is scaled to it."""
    width: Annotated[int, Field(ge=SPATIAL, le=2048, multiple_of=SPATIAL)] = 832
    """Of the video; what is beside the square picture repeats its edges."""
    frames: Annotated[int, Field(ge=5, le=1001)] = 49
    """Of the video, which spans one plan: 4 n + 1."""
    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 40
    """Of the sampler."""
    flow_shift: Positive = 3.0
    """Of its times."""
    text_guidance: NotNegative = 2.0
    """l in v = (1 + l + h) v(all) - l v(no words) - h v(no history)."""
    history_guidance: NotNegative = 1.5
    """h in it; with diffusion forcing only."""

    @model_validator(mode="after")
    def _fits(self) -> WanSettings:
        if self.width < self.height:
            raise ConfigError(f"wan: width {self.width} must be at least height {self.height}: the square picture fits")
        if self.height < self.image_size:
            raise ConfigError(
                f"wan: height {self.height} must be at least image_size {self.image_size}: a plan is shown no larger "
                "than it was drawn"
            )
        if (self.frames - 1) % TEMPORAL:
            raise ConfigError(f"wan: frames must be 4 n + 1, got {self.frames}")
        if self.history_guidance and not self.forced:
            raise ConfigError(
                "wan: history_guidance needs forced=true: only then can the history be left out; set it to 0"
            )
        return self


class WanPlanner:
    """Keeps planner.plans.Planner; one video at a time.

    Args:
        settings: how.
        pipeline: diffusers', with the model's parts; its network is wrapped where forced.
        reader: its inverse dynamics reads the actions.
        version: id of the checkpoint.

    Raises:
        ConfigError: the video has no frame where the reader looks; or the network does not take what it would get.
    """

    def __init__(
        self, settings: WanSettings, pipeline: WanImageToVideoPipeline, reader: CompactPlanner, *, version: str
    ) -> None:
        chunks = reader.config.chunks
        if (settings.frames - 1) % chunks:
            raise ConfigError(
                f"wan: frames={settings.frames} cannot be shared among the {chunks} chunks that inverse dynamics "
                f"reads; take {TEMPORAL * chunks} n + 1"
            )
        if settings.image_size < reader.image_size:
            raise ConfigError(
                f"wan: image_size={settings.image_size} is less than the {reader.image_size} pixels that inverse "
                "dynamics looks at; take as many"
            )
        self.settings, self.reader, self.version = settings, reader, version
        self._pipeline, self._guided = pipeline, None
        latent, channels = pipeline.vae.config.z_dim, pipeline.transformer.config.in_channels
        wanted = {latent, 2 * latent + TEMPORAL} if settings.forced else {2 * latent + TEMPORAL}
        if channels not in wanted:
            raise ConfigError(
                f"wan: forced={settings.forced} takes a network of {' or '.join(map(str, sorted(wanted)))} channels, "
                f"this one has {channels}"
            )
        if settings.forced:  # Wan 2.2, which has no such channels, is trained with 0 as the time of its first frame
            self._guided = HistoryGuided(
                pipeline.transformer, words=settings.text_guidance, history=settings.history_guidance,
                clean_time=channels > latent,
            )  # fmt: skip
            pipeline.transformer = self._guided

    @property
    def image_size(self) -> int:
        """See Planner."""
        return self.settings.image_size

    @property
    def steps(self) -> int:
        """See Planner."""
        return self.reader.steps

    @property
    def robot(self) -> RobotSpec:
        """See Planner."""
        return self.reader.robot

    @torch.no_grad()
    def plan(self, frames_BHWC: ByteArray, instructions: Sequence[str], seeds: Sequence[tuple[int, ...]]) -> VideoPlans:
        """See Planner."""
        config = self.reader.config
        rows = zip(frames_BHWC, instructions, seeds, strict=True)
        every = (self.settings.frames - 1) // config.chunks
        drawn = np.stack([self.video(frame, text, seed)[::every] for frame, text, seed in rows])
        drawn[:, 0] = frames_BHWC
        return VideoPlans(
            tuple(instructions), np.arange(config.chunks + 1, dtype=np.int64) * config.chunk, drawn,
            self.reader.actions_between(area_downsample(drawn, config.image_size)), self.version,
        )  # fmt: skip

    @torch.no_grad()
    def video(self, frame_HWC: ByteArray, text: str, seed: tuple[int, ...]) -> ByteArray:
        """Return the (frames, image_size, image_size, 3) uint8 video from one picture.

        Raises:
            CheckpointError: what is drawn is no number.
        """
        settings, pipeline, rng = self.settings, self._pipeline, np.random.default_rng(seed)
        scale = pipeline.vae_scale_factor_spatial
        shape = (
            1, pipeline.vae.config.z_dim, (settings.frames - 1) // TEMPORAL + 1, settings.height // scale,
            settings.width // scale,
        )  # fmt: skip
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        words, no_words = self._embedded(text), self._embedded("")
        if self._guided is not None:
            pipeline.scheduler.set_timesteps(settings.sampling_steps)
            self._guided.begin(no_words, pipeline.scheduler.timesteps, rng)
        film = pipeline(
            image=self._padded(frame_HWC), prompt_embeds=words, negative_prompt_embeds=no_words, latents=noise,
            height=settings.height, width=settings.width, num_frames=settings.frames, output_type="np",
            num_inference_steps=settings.sampling_steps,
            guidance_scale=1.0 if self._guided is not None else 1.0 + settings.text_guidance,
        ).frames[0]  # fmt: skip
        if not np.isfinite(film).all():
            raise CheckpointError(f"planner {self.version} draws what is no number; fetch its video model again")
        left = (settings.width - settings.height) // 2
        square = (film[:, :, left : left + settings.height] * 255).round().astype(np.uint8)
        return area_downsample(np.ascontiguousarray(square), settings.image_size)

    def _padded(self, frame_HWC: ByteArray) -> Image.Image:
        """The picture as high as the video, its edges repeated to both sides."""
        height, width = self.settings.height, self.settings.width
        square = np.asarray(Image.fromarray(frame_HWC).resize((height, height), Image.Resampling.BICUBIC))
        left = (width - height) // 2
        return Image.fromarray(np.pad(square, ((0, 0), (left, width - height - left), (0, 0)), mode="edge"))

    def _embedded(self, text: str) -> torch.Tensor:
        """(1, L, D), zeros behind the last word, as these models were trained."""
        pipeline = self._pipeline
        found = pipeline.tokenizer(
            " ".join(text.split()), padding="max_length", max_length=WORDS, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        mask = found.attention_mask.to(pipeline.text_encoder.device)
        states = pipeline.text_encoder(found.input_ids.to(mask.device), mask).last_hidden_state
        embedded: torch.Tensor = states * mask[..., None].to(states.dtype)
        return embedded

    @classmethod
    def load(cls, folder: Path) -> WanPlanner:
        """Read a checkpoint, and the video model that it names.

        Raises:
            CheckpointError: altered, or its files are other than they were, or their tensors do not fit.
            ConfigError: the video model's folder lacks a part.
        """
        manifest, weights = read_checkpoint(folder, kind="world_model", architecture=ARCHITECTURE)
        sizes = beside(manifest.config)
        settings = WanSettings.model_validate(sizes["wan"])
        _unaltered(settings, sizes["files"])
        tensors, robot = safetensors.torch.load(weights), declared_by(manifest).arm
        reader = CompactPlanner.of(sizes["reader"], tensors, folder, version=manifest.id, robot=robot)
        return cls(settings, _opened(settings), reader, version=manifest.id)


def adopt(settings: WanSettings, reader: Path, out: Path) -> Manifest:
    """Write the checkpoint of a planner that draws with a Wan model, once it has been opened as it will be.

    Args:
        settings: how it plans, and with what.
        reader: checkpoint of the compact planner whose inverse dynamics reads the frames.
        out: checkpoint folder to create.

    Raises:
        ConfigError, CheckpointError: see WanPlanner.load().
    """
    settings = settings.changed(
        folder=settings.folder.resolve(), network=None if settings.network is None else settings.network.resolve()
    )
    manifest, weights = read_checkpoint(reader, kind="world_model", architecture=COMPACT_PLANNER)
    planner = WanPlanner(settings, _opened(settings), CompactPlanner.load(reader), version="unsaved")
    able = Capabilities(
        actions={ActionKind.TEXT: WORDS}, image_size=settings.image_size, context_frames=1,
        horizon=planner.steps, domains=declared_by(manifest).domains,
    )  # fmt: skip
    config = {
        "wan": settings.model_dump(mode="json"), "files": digests(settings.folder, settings.network),
        "reader": beside(manifest.config),
    }  # fmt: skip
    return write_checkpoint(
        out, weights, kind="world_model", architecture=ARCHITECTURE, config=config | declaration(able),
        lineage={"stage": "adopted", "reader": manifest.id},
    )  # fmt: skip


def _opened(settings: WanSettings) -> WanImageToVideoPipeline:
    device = device_of("auto")
    return read_pipeline(
        settings.folder, settings.network, forced=settings.forced, flow_shift=settings.flow_shift, device=device,
        dtype=torch.bfloat16 if device.type == "cuda" else compute_dtype(),
    )  # fmt: skip


def _unaltered(settings: WanSettings, known: Mapping[str, str]) -> None:
    now = digests(settings.folder, settings.network)
    if other := sorted(name for name in now.keys() | known.keys() if now.get(name) != known.get(name)):
        raise CheckpointError(
            f"{settings.folder} has other files than when this planner was made: {', '.join(other[:5])}; bring them "
            "back, or make it again (gymnast wm adopt-planner)"
        )
