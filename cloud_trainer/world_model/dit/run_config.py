"""What run.json says of one training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data.described import DatasetConfig
from cloud_trainer.world_model.data.mixture import MixtureConfig
from cloud_trainer.world_model.dit.codec import CodecConfig
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.train_config import TrainConfig
from gymnast_core.errors import ConfigError
from gymnast_core.settings import MOST, Settings

FolderName = Annotated[Path, Field(strict=False)]
"""JSON has no paths; a text is taken for one."""


class RunConfig(Settings):
    """One run; a run that finds states in its folder resumes."""

    where: ClassVar[str] = "run"

    folder: FolderName
    """Of the run: states, progress, samples and the checkpoint."""
    steps: Annotated[int, Field(ge=1, le=100 * MOST)]
    """Optimiser steps in all."""
    codec: CodecConfig
    """Between pixels and latents."""
    data: Annotated[tuple[DatasetConfig, ...], Field(strict=False, min_length=1)]
    """Datasets to learn from."""
    parent: FolderName | None = None
    """Checkpoint folder to go on from; none begins with fresh weights."""
    network: DiTConfig = Field(default_factory=DiTConfig)
    """Sizes of fresh weights; a parent has its own, and another size beside one is refused."""
    mixture: MixtureConfig = Field(default_factory=MixtureConfig)
    """Clips and their shares."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """How it is done."""

    @model_validator(mode="after")
    def _clips_fit(self) -> RunConfig:
        if self.parent is None:
            self.require_window(self.network.max_frames)
            self.require_kinds(self.network)
        return self

    def require_window(self, longest: int) -> None:
        """Look whether clips fit into what the network is trained on.

        Raises:
            ConfigError: they are longer.
        """
        if self.mixture.frames > longest:
            raise ConfigError(
                f"mixture.frames {self.mixture.frames} exceeds the network's max_frames {longest}; lower it"
            )

    def require_kinds(self, network: DiTConfig) -> None:
        """Look whether the network takes what the datasets declare.

        Raises:
            ConfigError: it does not; names dataset, kind and remedy.
        """
        takes = {ActionKind.CAMERA: network.camera_motion, ActionKind.TEXT: network.text_buckets > 0}
        settings = {ActionKind.CAMERA: '"camera_motion": true', ActionKind.TEXT: '"text_buckets": 64'}
        for dataset in self.data:
            if not takes.get(dataset.actions, True):
                begin = "begin with fresh weights and" if self.parent is not None else "set"
                raise ConfigError(
                    f"dataset {dataset.title} has actions of kind {dataset.actions.value}, which this network does not "
                    f'take: {begin} "network": {{{settings[dataset.actions]}}}, or declare its "actions": "none" to '
                    "learn from its video alone"
                )

    def training(self, longest: int) -> TrainConfig:
        """How it is done with a network of that window: sample videos see all of it where nothing else is said."""
        sampler = self.train.sampler
        if "window" in sampler.model_fields_set:
            return self.train
        return self.train.changed(sampler=sampler.changed(window=longest))


def read_run(path: Path) -> RunConfig:
    """Return the description of a run.

    Raises:
        ConfigError: no JSON, or a setting is missing, unknown or out of range.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no readable JSON file: {error}") from error
    return RunConfig.model_validate(values)
