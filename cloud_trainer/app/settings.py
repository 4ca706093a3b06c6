"""What a trainer consists of beside its service: checkpoints, the page, what it does with robots' arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cloud_trainer.records.precision import FLOOR
from cloud_trainer.service.config import Limits, ServiceConfig
from cloud_trainer.service.openpi import OpenpiConfig
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.sequential import HarmRule, SequentialRule
from gymnast_core.shipped import KINDS
from gymnast_core.wire.address import plain_host

__all__ = ("AppConfig", "Arms", "Limits", "ServiceConfig", "at_hand")


@dataclass(frozen=True)
class Arms:
    """What adaptations, trials and loops of this trainer are like.

    Attributes:
        scene: where robots stand whose adaptation names no scene.
        config: of adaptation jobs.
        canary_pairs: of a canary, at most; 0 leaves it to the rule.
        guard_pairs: of each other task, to look for harm after a canary is won; 0 looks at none.
        price_per_hour: of training on this machine; the page then takes budgets in money. 0: nobody counts.
    """

    scene: str = "standard"
    config: Mapping[str, Any] = field(default_factory=dict)
    canary_pairs: int = 0
    guard_pairs: int = HarmRule.pairs
    price_per_hour: float = 0.0

    @property
    def rule(self) -> SequentialRule:
        """Of a canary."""
        rule = SequentialRule()
        if not self.canary_pairs:
            return rule
        return replace(rule, max_pairs=self.canary_pairs, min_pairs=min(self.canary_pairs, rule.min_pairs))


@dataclass(frozen=True)
class AppConfig:
    """One trainer.

    Attributes:
        service: see ServiceConfig.
        imports: checkpoint folders it knows from the start.
        policy: checkpoint folder of a policy, or settings file of a plan policy, that runs here for robots without a
            GPU; None runs none.
        policy_device: of that policy; auto takes a GPU if there is one.
        judge: checkpoint folder or settings file of a judge of real episodes that runs here; None judges none.
        judge_floor: what proves it on a task in a scene: the lower bound of its precision there.
        openpi: where that policy is served to openpi's clients, too; None serves none.
        console: whether there is an operator's page.
        console_host: its address; any other than this machine's own is over HTTPS, where certificates are logins.
        console_port: 0 takes a free one.
        jobs_may: ways out of the trainer that a job's configuration may use, see gymnast_core.job.REACHES.
        arms: see Arms.
        threads: of torch, in a training job.
        job_memory_gib: that one job may use; None is half of what this machine, or its container, has.
        tensorboard: folder that gets the curves of every job as TensorBoard's event files; None writes none.
    """

    service: ServiceConfig
    imports: tuple[Path, ...] = ()
    policy: Path | None = None
    policy_device: str = "auto"
    judge: Path | None = None
    judge_floor: float = FLOOR
    openpi: OpenpiConfig | None = None
    console: bool = True
    console_host: str = "127.0.0.1"
    console_port: int = 8600
    jobs_may: tuple[str, ...] = ()
    arms: Arms = field(default_factory=Arms)
    threads: int = 1
    job_memory_gib: float | None = None
    tensorboard: Path | None = None

    def __post_init__(self) -> None:
        """Refuse hosts that are none, jobs without memory, and a port for a policy that does not run."""
        if self.openpi is not None and self.policy is None:
            raise ConfigError("openpi's port serves the policy that runs here, and none does; name it with --policy")
        if self.job_memory_gib is not None and not self.job_memory_gib > 0:
            raise ConfigError(f"job_memory_gib must be above 0, got {self.job_memory_gib}")
        object.__setattr__(self, "console_host", plain_host(self.console_host))


def at_hand(folder: Path) -> tuple[Path, ...]:
    """Return the checkpoints of a folder that has one of each kind, or of some.

    Raises:
        ConfigError: it has none.
    """
    found = tuple(folder / kind for kind in KINDS if (folder / kind).is_dir())
    if not found:
        raise ConfigError(f"--checkpoints {folder} has none of {', '.join(KINDS)}; name the folder that holds them")
    return found
