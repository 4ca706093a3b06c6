"""Distil a DiT into one of fewer denoising steps, without guidance, on its own rollouts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cloud_trainer.world_model.capabilities import declared_by
from cloud_trainer.world_model.data.mixture import ClipStream
from cloud_trainer.world_model.dit.checkpoint import WorldModel, save_world_model
from cloud_trainer.world_model.dit.codec import Codec
from cloud_trainer.world_model.dit.diffusion import CONTEXT_TIMESTEP, noise_steps
from cloud_trainer.world_model.dit.distributed import Place
from cloud_trainer.world_model.dit.loss import Batch, draw_batch, imagine_frames
from cloud_trainer.world_model.dit.sampler import Network, SamplerConfig, combine_guidance, with_null_branch
from cloud_trainer.world_model.dit.train_config import TrainConfig
from cloud_trainer.world_model.dit.trainer import DiTTrainer, Progress
from cloud_trainer.world_model.own_path import check_steps, own_path_loss
from gymnast_core.records.manifest import Manifest


@dataclass(frozen=True)
class DiTDistillation:
    """How many steps are to do for how many.

    Attributes:
        steps: of the student.
        teacher_steps: of the teacher, a multiple.
        guidance: of the teacher on actions; 1 is none.
    """

    steps: int = 1
    teacher_steps: int = 4
    guidance: float = 1.0


class DiTDistiller(DiTTrainer):
    """One distillation run; the first frame of a clip is recorded, all others are the student's own.

    Args:
        loaded: the teacher; the student begins as its copy.
        codec: of its latents.
        how: see DiTDistillation.
        stream: see DiTTrainer, as the others.
        config: see there.
        place: see there.
        folder: see there.
        on_progress: see there.

    Raises:
        ConfigError: the student's steps do not divide the teacher's.
    """

    stage, title = "distil", "distillation"

    def __init__(
        self, loaded: WorldModel, codec: Codec, how: DiTDistillation, stream: ClipStream, config: TrainConfig, *,
        place: Place, folder: Path, on_progress: Progress,
    ) -> None:  # fmt: skip
        check_steps(how.steps, how.teacher_steps)
        super().__init__(
            copy.deepcopy(loaded.model), codec, stream, config, place=place, folder=folder, on_progress=on_progress
        )
        self._teacher = loaded.model.to(self.place.device).eval().requires_grad_(False)
        self._how, self._loaded = how, loaded
        self._guided = SamplerConfig(guidance=how.guidance)

    def loss(self) -> Tensor:
        """Where teacher and student come out, on the last frame of clips that the student dreamt up to there."""
        clips = self.stream.next_clips(self.config.batch_size)
        loss_config = self.config.loss.changed(action_dropout=0.0)
        batch = draw_batch(clips, self.codec, loss_config, seed=self.config.seed, device=self.place.device)
        self.model.eval()
        with torch.autocast(self.place.device.type, dtype=torch.bfloat16, enabled=self.config.bf16):
            past = self._own_past(batch)
            self.model.train()
            loss, _ = own_path_loss(
                batch.noise[:, -1:], self._how.steps, lambda x, step: self._walk(past, batch.actions, x, step),
                lambda x, step: self._step(past, batch.actions, x, step),
                lambda came, wanted: (came - wanted).square().mean(),
            )  # fmt: skip
        return loss

    def export_student(self, folder: Path, lineage: Mapping[str, object]) -> Manifest:
        """Write the averaged weights as a checkpoint that names its teacher and the steps it was distilled to."""
        manifest, own = self._loaded.manifest, {"stage": "distil", "iterations": self.step, "seed": self.config.seed}
        return save_world_model(
            folder, self.ema, self.model.config, objective_name=self._loaded.objective.name,
            codec_config=self._loaded.codec_config, capabilities=declared_by(manifest),
            sampling_steps=self._how.steps, parents=(manifest.id,), lineage={**own, **lineage},
        )  # fmt: skip

    def _own_past(self, batch: Batch) -> Tensor:
        """All frames but the last: one of the clip, the others imagined."""
        count = batch.latents.shape[1] - 2
        if count < 1:
            return batch.latents[:, :1]
        own = imagine_frames(self._compiled, self.model, self._objective, batch, 1, count, steps=self._how.steps)
        return torch.cat((batch.latents[:, :1], own), dim=1)

    def _walk(self, past: Tensor, actions: Tensor, x: Tensor, step: int) -> Tensor:
        """The teacher's finer walk over one step of the student's."""
        levels, each = noise_steps(self._how.teacher_steps), self._how.teacher_steps // self._how.steps
        begin = self._how.teacher_steps - step * each
        for index in range(begin, begin - each, -1):
            x = self._moved(self._teacher, past, actions, x, (levels[index], levels[index - 1]), self._guided)
        return x

    def _step(self, past: Tensor, actions: Tensor, x: Tensor, step: int) -> Tensor:
        levels, index = noise_steps(self._how.steps), self._how.steps - step
        return self._moved(self._compiled, past, actions, x, (levels[index], levels[index - 1]), SamplerConfig())

    def _moved(
        self, network: Network, past: Tensor, actions: Tensor, x: Tensor, levels: tuple[Tensor, Tensor],
        sampler: SamplerConfig,
    ) -> Tensor:  # fmt: skip
        """The last frame, from one noise level to a lower one."""
        window = torch.cat((self._objective.context(past), x), dim=1)
        t = torch.full(window.shape[:2], CONTEXT_TIMESTEP, device=x.device)
        t[:, -1] = levels[0]
        both = network(*with_null_branch(window, t, actions, sampler))[:, -1:].float()
        now, later = (level.to(x.device).expand(len(x), 1) for level in levels)
        return self._objective.step(x, combine_guidance(both, sampler), now, later)
