"""Where the policy is served, and what of the robot it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lerobot.configs.policies import PreTrainedConfig
from lerobot.optim.optimizers import OptimizerConfig
from lerobot.optim.schedulers import LRSchedulerConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

WIDTH = 7
FILES = ("cert.pem", "key.pem", "ca.pem")
_LOCAL = ("127.0.0.1", "localhost", "[::1]")


@PreTrainedConfig.register_subclass("gymnast")
@dataclass
class GymnastConfig(PreTrainedConfig):
    """A policy that `gymnast serve --policy` runs.

    Attributes:
        address: host:port of the trainer.
        identity: folder made by `gymnast enroll`, role robot.
        insecure: no TLS; to this machine alone.
        deadline_s: longest wait for a chunk. Later, the control loop gets an error and no old action.
        cameras: LeRobot's image key -> camera of the policy; empty takes observation.images.NAME for the camera NAME.
        n_action_steps: actions of a chunk that are executed; 0 is all.
    """

    device: str | None = "cpu"
    address: str = "127.0.0.1:50051"
    identity: str = ""
    insecure: bool = False
    deadline_s: float = 2.0
    cameras: dict[str, str] = field(default_factory=dict)
    n_action_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense before anything moves."""
        super().__post_init__()
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"address is HOST:PORT, got {self.address!r}")
        if self.insecure and host not in _LOCAL:
            raise ValueError(f"{self.address} is not on this machine: name an identity instead of insecure")
        if not self.insecure:
            missing = [name for name in FILES if not self.identity or not (Path(self.identity) / name).is_file()]
            if missing:
                raise ValueError(f"identity {self.identity!r} lacks {', '.join(missing)}; make one: gymnast enroll")
        if not 0.05 <= self.deadline_s <= 60.0 or self.n_action_steps < 0:
            raise ValueError(
                f"deadline_s must be 0.05 to 60 and n_action_steps not negative, got {self.deadline_s} and "
                f"{self.n_action_steps}"
            )

    def validate_features(self) -> None:
        """Refuse a robot that this policy cannot drive.

        Raises:
            ValueError: the state or the action has not 7 numbers, or a camera is not there.
        """
        for what, feature in ((OBS_STATE, self.robot_state_feature), (ACTION, self.action_feature)):
            if feature is None or tuple(feature.shape) != (WIDTH,):
                got = None if feature is None else tuple(feature.shape)
                raise ValueError(
                    f"{what} must have {WIDTH} numbers, got {got}: the pose of the end effector [m, rad] or deltas of "
                    "it, and the gripper (1 open); convert with a processor of LeRobot's"
                )
        if absent := sorted(set(self.seen_cameras) - set(self.image_features)):
            raise ValueError(f"the robot has no {', '.join(absent)}; it has {sorted(self.image_features)}")

    @property
    def seen_cameras(self) -> dict[str, str]:
        """LeRobot's image key -> camera of the policy."""
        prefix = f"{OBS_IMAGES}."
        return self.cameras or {key: key.removeprefix(prefix) for key in self.image_features}

    @property
    def observation_delta_indices(self) -> None:
        """One observation is enough."""
        return

    @property
    def action_delta_indices(self) -> None:
        """It is not trained here."""
        return

    @property
    def reward_delta_indices(self) -> None:
        """It is not trained here."""
        return

    def get_optimizer_preset(self) -> OptimizerConfig:
        """It is not trained here.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a served policy is trained by its trainer: gymnast jobs submit")

    def get_scheduler_preset(self) -> LRSchedulerConfig | None:
        """It is not trained here."""
        return None
