"""Where the arm's rollout finds us, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("gymnast")
@dataclass(kw_only=True)
class GymnastRobotConfig(RobotConfig):
    """An arm that asks us for its actions: `gymnast up --policy openpi://127.0.0.1:PORT --openpi .../openpi.yaml`.

    The port is this machine's alone; an arm on another one comes through an SSH tunnel.

    Attributes:
        port: where the arm's rollout connects.
        frames: camera -> height and width of its picture.
        wait_s: longest wait for the arm to ask, e.g. until somebody begins an episode there.
    """

    port: int = 8002
    frames: dict[str, list[int]] = field(default_factory=lambda: {"over_shoulder": [256, 256]})
    wait_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense before anything moves."""
        super().__post_init__()
        if not 0 <= self.port <= 65535 or self.wait_s <= 0:
            raise ValueError(f"port must be 0 to 65535 and wait_s more than 0, got {self.port} and {self.wait_s}")
        odd = {name: size for name, size in self.frames.items() if len(size) != 2 or min(size) < 1}
        if odd or not self.frames:
            raise ValueError(f"frames must give each camera height and width, got {odd or 'no camera'}")
