"""How much of everything one demo does. Fixed before the run: nothing here is chosen by what a run shows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from gymnast_core.errors import ConfigError
from gymnast_core.jobs import AdaptSettings, ImproveSettings
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.jobs.practice import ReinforcingSettings
from gymnast_core.shipped import BASE_POLICIES, shipped_checkpoints

TASKS = ("lift", "push", "put", "drawer")
EPISODES = {"tokens": 150, "flow": 250}
"""On-policy episodes per task and round. Of a flow, 150 prove a judge's precision of .41, where .4 is asked: the
shipped world model and judge know the token base's episodes."""

FLOW_PRACTICE = Exploration(way="endpoint", rho=0.7)
"""Better on average and steadier than white noise in the same dreams; a base collects with white noise all the same,
because of episodes with correlated noise no judge was proven (benchmarks/flow_seeds_cpu2_202611.md)."""

JobT = TypeVar("JobT", bound=ReinforcingSettings)


@dataclass(frozen=True)
class DemoConfig:
    """One run of the loop.

    Attributes:
        seed: of everything: episodes, refinement, judge, RL.
        rounds: how often the loop goes round.
        policy: what the base policy is made of, see gymnast_core.shipped.BASE_POLICIES.
        from_scratch: make the base checkpoints first instead of taking the shipped ones.
        checkpoints: folder with the base policy, world_model/ and judge/.
        runs: where the run's folder goes.
        evaluation_seeds: start states per task for before and after; never trained on, never chosen with.
        choosing_seeds: start states per task by which one candidate is offered.
        collect_seeds: on-policy episodes per task and round; none is what its kind of policy needs, see EPISODES.
        ttt_scene: the unseen scene of test-time training.
        ttt_task: what is asked for there.
        ttt_collect: real episodes collected in the scene at most, where its trust check asks for them.
        ttt_seeds: start states for before and after in the scene, and per other task in the standard scene.
        ttt_rollouts: imagined rollouts of its practice; they decide, not the clock.
        ttt_cut_off_s: its practice is cut off after so long; the report then names that.
        ttt_pairs: of its canary on the arm, at most.
        ttt_guard_pairs: of each other task, where harm is looked for if it won; 24 show a task that is gone.
        improve: settings of the training job.
        adapt: settings of test-time training; what it forgets is measured and refuses nothing, as the arm itself tries
            the other tasks.
    """

    seed: int = 0
    rounds: int = 1
    policy: str = "tokens"
    from_scratch: bool = False
    checkpoints: Path = field(default_factory=shipped_checkpoints)
    runs: Path = Path("runs")
    evaluation_seeds: int = 100
    choosing_seeds: int = 25
    collect_seeds: int | None = None
    ttt_scene: str = "pink_cube"
    ttt_task: str = "push"
    ttt_collect: int = 40
    ttt_seeds: int = 40
    ttt_rollouts: int = 8 * 24 * 8
    ttt_cut_off_s: float = 3600.0
    ttt_pairs: int = 40
    ttt_guard_pairs: int = 24
    improve: ImproveSettings = field(default_factory=ImproveSettings)
    adapt: AdaptSettings = field(default_factory=lambda: AdaptSettings(forgetting=1.0))

    def __post_init__(self) -> None:
        """Refuse counts that cannot work."""
        if not 0 <= self.seed < 100:
            raise ConfigError(f"--seed must be 0..99 (each owns a range of start states), got {self.seed}")
        if self.policy not in BASE_POLICIES:
            raise ConfigError(f"--policy must be one of {', '.join(BASE_POLICIES)}, got {self.policy!r}")
        if self.rounds < 1:
            raise ConfigError(f"--rounds must be at least 1, got {self.rounds}")

    @property
    def episodes(self) -> int:
        """On-policy episodes per task and round."""
        return EPISODES[self.policy] if self.collect_seeds is None else self.collect_seeds

    @property
    def kinds(self) -> dict[str, Path]:
        """The checkpoints to start from, by kind."""
        base = BASE_POLICIES[self.policy]
        return {"policy": self.checkpoints / base, **{k: self.checkpoints / k for k in ("world_model", "judge")}}

    def practising(self, job: JobT) -> JobT:
        """Return a job's settings, exploring as the kind of policy practises best where they name no way."""
        if self.policy != "flow" or job.grpo.exploration is not None:
            return job
        return job.changed(grpo=job.grpo.changed(exploration=FLOW_PRACTICE))

    def check_checkpoints(self) -> None:
        """Refuse a folder that lacks what the run starts from.

        Raises:
            ConfigError: names what is missing and what makes it.
        """
        if missing := [path.name for path in self.kinds.values() if not path.is_dir()]:
            raise ConfigError(
                f"--checkpoints {self.checkpoints} has no {' and no '.join(missing)}; "
                f"gymnast pretrain --policy {self.policy} --out {self.checkpoints} makes what is missing"
            )

    def smoke(self) -> DemoConfig:
        """Return the same path, minutes smaller: it shows that everything runs, not that it helps."""
        less = {"grpo_iterations": 2, "groups": 4, "check": False}
        return replace(
            self,
            evaluation_seeds=2,
            choosing_seeds=1,
            collect_seeds=6,
            ttt_collect=4,
            ttt_seeds=1,
            ttt_pairs=2,
            ttt_guard_pairs=1,
            improve=self.improve.changed(**less, refine_iterations=4, judge_iterations=8, candidate_every=1),
            adapt=self.adapt.changed(**less, scene_episodes=4),
        )
