"""Trains a DiT from scratch or refines a checkpoint.

What a run leaves on disk:

<folder>/states/step-*.safetensors   resumable states (training_state.py)
<folder>/progress.jsonl              one line per report: step, loss, gradient norm, rate, samples per second
<folder>/samples/step-*.mp4          real | imagined | difference of one fixed clip
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cloud_trainer.training import Descent, ModelTrainer
from cloud_trainer.training_state import load_state, save_state
from cloud_trainer.world_model.capabilities import declared_by
from cloud_trainer.world_model.data.mixture import ClipStream
from cloud_trainer.world_model.data.video import write_video
from cloud_trainer.world_model.dit.checkpoint import save_world_model
from cloud_trainer.world_model.dit.codec import Codec, CodecConfig
from cloud_trainer.world_model.dit.diffusion import objective
from cloud_trainer.world_model.dit.distributed import Place, gathered, wrap
from cloud_trainer.world_model.dit.loss import (
    diffusion_forcing_loss,
    draw_batch,
    rollout_consistency_loss,
    sample_generator,
)
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import RolloutSampler
from cloud_trainer.world_model.dit.train_config import TrainConfig
from gymnast_core.errors import ConfigError
from gymnast_core.policies.compiling import keep_compiled_private
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import ByteArray

Progress = Callable[[Mapping[str, float]], None]


class DiTTrainer(ModelTrainer):
    """One run. The same seed, data and configuration give the same weights, stopped and resumed or not.

    Attributes:
        ema: name -> averaged copy of a parameter, sharded as it is; what is exported.
    """

    stage, title = "world_model", "world model training"

    def __init__(
        self,
        model: DiT,
        codec: Codec,
        stream: ClipStream,
        config: TrainConfig,
        *,
        place: Place | None = None,
        folder: Path | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        """Put the model in place and build the optimizer.

        Args:
            model: fresh or loaded; trained in place.
            codec: of its latents.
            stream: this rank's clips.
            config: settings.
            place: rank and device.
            folder: where states, progress and samples go; None keeps nothing.
            on_progress: sees every report on rank 0.

        Raises:
            ConfigError: sample videos are wanted of a longer window than the network knows.
        """
        if config.sample_every and config.sampler.window > model.config.max_frames:
            raise ConfigError(
                f"sampler.window {config.sampler.window} exceeds the network's max_frames {model.config.max_frames}"
            )
        self.config, self.place, self.codec, self.stream = config, place or Place(), codec, stream
        self.model = model.to(self.place.device)
        self._module = wrap(self.model, config.strategy, self.place)
        if config.compile:
            keep_compiled_private()
        self._compiled = torch.compile(self._module) if config.compile else self._module
        self._objective = objective(config.objective)
        self._folder, self._on_progress = folder, on_progress
        self._parameters = dict(self.model.named_parameters())
        self.ema = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        descent = Descent(
            iterations=1, learning_rate=config.learning_rate, weight_decay=config.weight_decay,
            warmup=max(1, config.warmup_steps), floor=1.0, betas=config.betas, grad_clip=config.clip_norm, fused=False,
        )  # fmt: skip
        super().__init__(self.model, descent, {"network": self.model}, {}, {"ema": self.ema})
        self._drawn_at = time.monotonic()

    def train(self, until: int, *, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Run up to step `until`; a cancelled run saves its state and returns."""
        while self.step < until and not cancelled():
            report = self.train_step()
            if self.step % self.config.report_every == 0 or self.step == until:
                self._report(report)
            if self.config.sample_every and self.step % self.config.sample_every == 0:
                self._write_sample()
            if self.step % self.config.save_every == 0 and self.step < until:
                self.keep()
        self.keep()

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns loss, gradient norm and rate."""
        rate, loss = self._descent.rate(self.step), self.run_step()
        self.losses.clear()  # a run of a million steps reports them, and keeps none
        return {"loss": loss, "grad_norm": float(gathered(self.grad_norm)), "learning_rate": rate}

    def loss(self) -> Tensor:
        """Draw this rank's clips, noise and timesteps; see ModelTrainer.loss."""
        config = self.config
        clips = self.stream.next_clips(config.batch_size)
        batch = draw_batch(clips, self.codec, config.loss, seed=config.seed, device=self.place.device)
        self.model.train()
        with torch.autocast(self.place.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            if self._is_rollout_step():
                return rollout_consistency_loss(self._compiled, self.model, self._objective, batch, config.loss)
            return diffusion_forcing_loss(self._compiled, self._objective, batch)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the averages."""
        decay = min(self.config.ema_decay, (2 + self.step) / (11 + self.step))
        for name, parameter in self._parameters.items():
            self.ema[name].lerp_(parameter.detach(), 1 - decay)

    def save(self, path: Path) -> None:
        """Write the state file; every rank must call it, rank 0 writes."""
        values = {
            "step": self.step, "data": self.stream.state(), "config": self.config.model_dump(mode="json"),
            "network": self.model.config.to_json(),
        }  # fmt: skip
        save_state(path, self._trained, values, write=self.place.leads)

    def load(self, path: Path) -> None:
        """Continue from a state file; every rank must call it.

        Raises:
            ConfigError: settings that shape the result differ from those of the state.
            CorruptError: the state is damaged, or of another network.
        """
        values, _ = load_state(path, self._trained)
        free = ("strategy", "compile", "save_every", "keep_states", "report_every", "sample_every", "batch_size")
        ours, theirs = self.config.model_dump(mode="json"), values["config"]
        changed = [name for name in ours if name not in free and ours[name] != theirs.get(name)]
        if changed:
            raise ConfigError(f"{path} was trained with other {changed}; start a new run to change them")
        self.stream.restore(values["data"])
        self.step = int(values["step"])

    def keep(self) -> None:
        """Write a state into the run's folder, where it has one, and drop all but the newest of them."""
        if self._folder is None:
            return
        states = self._folder / "states"
        self.save(states / f"step-{self.step:08d}.safetensors")
        if self.place.leads:
            for old in sorted(states.glob("step-*.safetensors"))[: -self.config.keep_states]:
                old.unlink()

    def resume(self) -> bool:
        """Go on from the newest state; False when there is none. Raises what load raises."""
        if self._folder is None:
            return False
        path = max((self._folder / "states").glob("step-*"), default=None)
        if path is not None:
            self.load(path)
        return path is not None

    def export(
        self,
        folder: Path,
        *,
        codec_config: CodecConfig,
        parent: Manifest | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Manifest | None:
        """Write the averaged weights as a checkpoint; every rank must call it, rank 0 writes.

        Args:
            folder: to create.
            codec_config: of its latents.
            parent: of the checkpoint that was trained on: what that was capable of this one is, too, and one that was
                distilled to few steps goes on to be sampled in them.
            lineage: what else made it.
        """
        state = {name: gathered(value) for name, value in self.ema.items()}
        if not self.place.leads:
            return None
        height, width = self.stream.sample(0).frames_FHWC.shape[1:3]
        side = int(height) if height == width else None
        kinds, domains = self.stream.learned
        before = None if parent is None else declared_by(parent)
        if before is not None:
            kinds, domains = kinds | set(before.actions), tuple(sorted({*domains, *before.domains}))
        able = self.model.config.capabilities(side, kinds, domains)
        if before is not None:
            able = able.changed(
                rate_hz=before.rate_hz, frames_per_action=before.frames_per_action, seeded=before.seeded
            )
        described = {"stage": "world_model", "steps": self.step, "seed": self.config.seed, **(lineage or {})}
        return save_world_model(
            folder,
            state,
            self.model.config,
            objective_name=self.config.objective,
            codec_config=codec_config,
            image_size=side,
            capabilities=able,
            sampling_steps=None if parent is None else parent.config.get("sampling_steps"),
            parents=() if parent is None else (parent.id,),
            lineage=described,
        )

    @contextmanager
    def averaged(self) -> Iterator[DiT]:
        """Lend the model with its averaged weights, in eval mode."""
        held = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._set(self.ema)
        self.model.eval()
        try:
            yield self.model
        finally:
            self._set(held)
            self.model.train()

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def _is_rollout_step(self) -> bool:
        """The same on every rank: drawn from the step, not from samples."""
        return float(np.random.default_rng((self.config.seed, self.step, 7)).random()) < self.config.loss.rollout_share

    def _report(self, report: Mapping[str, float]) -> None:
        now = time.monotonic()
        drawn = self.config.report_every * self.config.batch_size * self.place.world_size
        line = {"step": self.step, **report, "samples_per_s": round(drawn / (now - self._drawn_at), 3)}
        self._drawn_at = now
        if not self.place.leads:
            return
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "progress.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        if self._on_progress is not None:
            self._on_progress(line)

    def _write_sample(self) -> None:
        frames = self.sample_frames()
        if self._folder is None or not self.place.leads:
            return
        (self._folder / "samples").mkdir(parents=True, exist_ok=True)
        write_video(self._folder / "samples" / f"step-{self.step:08d}.mp4", frames)

    def sample_frames(self) -> ByteArray:
        """Roll the stream's first clip out with the averaged weights: (F, H, 3 W, 3) real, imagined, difference."""
        clip = self.stream.sample(0)
        real = torch.from_numpy(clip.frames_FHWC)
        latents = self.codec.encode(real).to(self.place.device)[None]
        actions = torch.from_numpy(clip.conditions_FC).to(self.place.device)[None]
        known = self.config.sample_context
        generator = sample_generator(self.config.seed, -1 % 2**31)
        with self.averaged() as model:
            sampler = RolloutSampler(model, self._objective, self.config.sampler, network=self._compiled)
            sampler.start(latents[:, :known], actions[:, :known])
            made = [latents[:, i] for i in range(known)]
            for index in range(known, latents.shape[1]):
                noise = torch.randn(latents[:, 0].shape, generator=generator).to(self.place.device)
                made.append(sampler.next_frame(actions[:, index], noise))
        imagined = self.codec.decode(torch.cat(made)).cpu()
        difference = (real.int() - imagined.int()).abs().to(torch.uint8)
        return np.asarray(torch.cat((real, imagined, difference), dim=2).numpy())
