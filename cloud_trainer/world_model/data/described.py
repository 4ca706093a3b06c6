"""From the description of a dataset (in run.json, or of a command's flags) to its reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data.bridge_raw import BridgeRawSource
from cloud_trainer.world_model.data.files import below
from cloud_trainer.world_model.data.lerobot import LeRobotSource
from cloud_trainer.world_model.data.mcap import McapSource, arm_in
from cloud_trainer.world_model.data.rlds import RldsSource
from cloud_trainer.world_model.data.source import EpisodeSource, Origin, SourceInfo
from cloud_trainer.world_model.data.worldgym import MEASURED_LAG, WorldGymSource
from gymnast_core.errors import ConfigError
from gymnast_core.extensions import DATASETS, extension, installed
from gymnast_core.settings import Count, Positive, Settings
from gymnast_core.spec import WIDOWX_250S

KINDS = ("mcap", "worldgym", "bridge_raw", "lerobot", "rlds")

COLUMNED = ("lerobot", "rlds")
"""Kinds that have columns to choose."""


class DatasetConfig(Settings):
    """A dataset, as run.json or a command's flags describe it."""

    where: ClassVar[str] = "dataset"

    kind: str
    """mcap, worldgym, bridge_raw, lerobot, rlds, or one that an installed package adds."""
    folder: str
    """Where it is."""
    name: str = ""
    """In errors and in a checkpoint's lineage; empty is the folder's."""
    size: Count | None = None
    """Side that frames are resized to."""
    actions: Annotated[ActionKind, Field(strict=False)] = ActionKind.EE_DELTA7
    """How it writes actions."""
    origin: Annotated[Origin, Field(strict=False)] = Origin.EXPERT
    """Who acted."""
    lag: int | None = None
    """Steps the stored actions are late; none is 0, worldgym 1, bridge_raw by its dates."""
    robot: str = WIDOWX_250S.name
    """Arm behind the actions; episode files say it themselves."""
    camera: str | int | None = None
    """Which to read; none is the first."""
    state: str | None = None
    """lerobot, rlds: columns that are the proprioception."""
    action: str | None = None
    """lerobot, rlds: columns that are the action."""
    fps: Positive | None = None
    """rlds: steps a second, which the data does not say; none is the arm's control rate."""
    skip_broken: bool = False
    """Leave out what cannot be read."""
    lag_tolerance: int = 0
    """Systematic lags up to this are accepted."""

    @model_validator(mode="after")
    def _each_kind_has_its_own(self) -> DatasetConfig:
        others = installed(DATASETS)
        if self.kind not in (*KINDS, *others):
            raise ConfigError(f"data kind {self.kind!r} is not one of {(*KINDS, *others)}")
        if not self.folder or not Path(self.folder).is_dir():
            raise ConfigError(f'dataset {self.folder!r}: its "folder" must name an existing folder')
        foreign = [key for key in ("state", "action") if getattr(self, key) is not None and self.kind not in COLUMNED]
        foreign += ["fps"] if self.fps is not None and self.kind != "rlds" else []
        foreign += ["camera"] if self.camera is not None and self.kind in ("worldgym", *others) else []
        if foreign:
            raise ConfigError(f"dataset {self.title}: {foreign} mean nothing for data of kind {self.kind}")
        if self.kind == "bridge_raw" and not self._camera_digits.isdecimal():
            raise ConfigError(
                f"dataset {self.title}: camera {self.camera!r} is not a number N of BridgeData's folders images<N>"
            )
        return self

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or Path(self.folder).name

    @property
    def camera_number(self) -> int:
        """Of bridge_raw: 1 of 1, "1" or "images1"."""
        return int(self._camera_digits)

    @property
    def _camera_digits(self) -> str:
        return str(0 if self.camera is None else self.camera).removeprefix("images")


def build_source(config: DatasetConfig) -> EpisodeSource:
    """Return the reader of a dataset.

    Raises:
        SchemaError: its actions cannot be turned into ours.
    """
    folder, size, camera = Path(config.folder), config.size, config.camera
    usual = MEASURED_LAG if config.kind == "worldgym" else 0
    lag = usual if config.lag is None else config.lag
    info = SourceInfo(config.title, config.actions, config.origin, lag, config.robot)
    if config.kind in installed(DATASETS):
        source: EpisodeSource = extension(DATASETS, config.kind)(folder, info, size)
        return source
    if config.kind == "mcap":
        paths = below(folder, ".mcap")
        if "robot" not in config.model_fields_set:
            info = replace(info, robot=arm_in(paths))
        return McapSource(info, paths, None if camera is None else [str(camera)], size)
    if config.kind == "worldgym":
        return WorldGymSource(folder, info, size=size)
    if config.kind == "bridge_raw":
        return BridgeRawSource(folder, info, config.camera_number, size, lag_by_date=config.lag is None)
    name = None if camera is None else str(camera)
    if config.kind == "rlds":
        fps = config.fps or info.arm.control_hz
        return RldsSource(folder, info, name, size, config.state, config.action, fps)
    return LeRobotSource(folder, info, name, size, config.state, config.action)
