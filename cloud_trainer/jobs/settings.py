"""How much a training job does: one configuration for improve, imitate and adapt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from cloud_trainer.jobs.gates import (
    Gates,
    practice_audit,
    practice_bounds,
)
from cloud_trainer.judge.choice import build
from cloud_trainer.practice.grpo.config import GrpoConfig
from cloud_trainer.practice.ray.cluster import ClusterConfig
from cloud_trainer.practice.start_states import NovelConfig
from cloud_trainer.ranges import COUNT, COUNT_OR_ZERO, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_ranges
from cloud_trainer.sft.trainer import SftConfig
from cloud_trainer.world_model.audit.bounds import AuditBounds, AuditConfig
from cloud_trainer.world_model.worlds import DreamConfig
from gymnast_core.errors import ConfigError
from gymnast_core.policies.lora_settings import MOST_RANK
from gymnast_core.policies.placement import check_device_name

TOLD_STARTS = 10
"""Starts a task from which a candidate is dreamt beside its parent where that is told and decides nothing."""

RANGES = {
    **dict.fromkeys(("refine_iterations", "judge_iterations", "imagined_rounds"), COUNT_OR_ZERO),
    **dict.fromkeys(("candidate_every", "most_episodes", "scene_episodes"), COUNT),
    **dict.fromkeys(("refine_rate", "judge_rate", "lora_rate"), POSITIVE),
    **dict.fromkeys(("rehearsal", "forgetting"), SHARE),
    **dict.fromkeys(("judge_floor", "judge_task_floor"), Range(0, 1, optional=True)),
    "anchor": NOT_NEGATIVE,
    "forgetting_starts": replace(COUNT_OR_ZERO, optional=True),
    "grpo_iterations": COUNT,
    "lora_rank": Range(1, MOST_RANK, whole=True),
}

NESTED: Mapping[str, type[Any]] = {"novel": NovelConfig, "sft": SftConfig, "dream": DreamConfig}


@dataclass(frozen=True)
class PipelineConfig:
    """How much a job does. Fixed before the run.

    Attributes:
        device: where world model, codec, large policies with their optimiser, and a vlm judge compute: auto (a GPU if
            there is one), cpu, cuda, cuda:N. Compact parts stay on the CPU. dream.device and judge.device override it.
        dream: how a DiT world model dreams: see cloud_trainer.world_model.worlds.DreamConfig.
        refine_iterations: of the world model; 0 keeps the parent.
        refine_rate: peak learning rate of the refinement. Short and gentle: old episodes do not travel with a
            checkpoint, and what is not rehearsed is forgotten.
        judge_iterations: of the judge; 0 keeps the parent.
        judge_rate: peak learning rate of the judge.
        grpo_iterations: policy updates. Few on purpose: imagined reward keeps rising long after real success falls.
        groups: start states per update.
        group_size: rollouts per start state.
        learning_rate: of the policy.
        candidate_every: updates between checkpoints offered for the real evaluation.
        keyframe_share: share of groups that start at a later chunk of a recorded episode.
        mask_after_success: learn nothing from what follows the first success. Better than without in 10 of 10 seeds
            (benchmarks/demo_seeds_cpu2_202611.md).
        grpo: every other choice of GRPO by its name in cloud_trainer.practice.grpo.config.GrpoConfig: temperature,
            epochs, clip_low, clip_high, kl_weight, length_normalisation, target_groups, max_rounds, keep_low, ...
        judge: who rewards instead of the learned judge: an endpoint or a local vision-language model, see
            cloud_trainer.judge.choice; it passes the same floor, on the same held-out dreams.
        novel: new scenes and instructions, see cloud_trainer.practice.start_states.NovelConfig. New words
            need `judge`: the learned one knows only the instructions it was taught.
        ray: rollouts and learner on a Ray cluster, see cloud_trainer.practice.ray.cluster.ClusterConfig; imitate
            spreads its imagined rollouts alone. World model and judge are refined in the job's own process; a large
            world model is refined on several GPUs by `gymnast wm train`, and the job then takes it with
            refine_iterations 0.
        imagined_rounds: imitate only: rounds of groups x group_size rollouts whose judged successes are mixed 1:1
            with the recorded ones (Iter-SFT); 0 imitates recorded successes alone.
        most_episodes: only the newest so many are learned from.
        rehearsal: adapt only: share of starts taken from other scenes and tasks, against forgetting.
        scene_episodes: adapt only: least number of judged episodes of the scene for its trust check.
        anchor: adapt only: weight of the loss that keeps the policy where it was on real frames from elsewhere.
        lora_rank, lora_rate: size of the adapters and their learning rate, where the job's mode is lora.
        forgetting_starts: held-out starts a task, at most, from which candidates are dreamt beside their parent. None
            is 10 where that is told and decides nothing (improve, Iter-SFT), and all of them where it decides (adapt).
        forgetting: adapt only: a loss of success on the other tasks beyond this must be excluded (95 % one-sided); 1
            measures and refuses nothing, where the robot itself tries the other tasks afterwards.
        check: refuse to practise where the audit is out of bounds, and to offer what may forget.
        audit: which parts of the audit are measured before practice.
        bounds: of the audit, by name, where they shall be others than those the world model was calibrated to (or the
            defaults where it never was), see cloud_trainer.jobs.calibrated.
        overrides: bounds that an operator decided to ignore, {name: reason}; the reason stays in the result, the
            lineage and the log. Of the judge: judge_floor, judge_task_floor, judge_drift.
        judge_floor, judge_task_floor: see cloud_trainer.jobs.gates.Gates.
    """

    device: str = "auto"
    dream: DreamConfig = field(default_factory=DreamConfig)
    refine_iterations: int = 100
    refine_rate: float = 1e-4
    judge_iterations: int = 200
    judge_rate: float = 3e-4
    grpo_iterations: int = 8
    groups: int = 24
    group_size: int = 8
    learning_rate: float = 2e-4
    candidate_every: int = 4
    keyframe_share: float = 0.0
    mask_after_success: bool = True
    grpo: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)
    novel: NovelConfig = field(default_factory=NovelConfig)
    ray: ClusterConfig | None = None
    sft: SftConfig = field(default_factory=SftConfig)
    imagined_rounds: int = 0
    most_episodes: int = 1000
    rehearsal: float = 0.5
    anchor: float = 0.0
    lora_rank: int = 8
    lora_rate: float = 5e-4
    scene_episodes: int = 20
    forgetting_starts: int | None = None
    forgetting: float = 0.10
    check: bool = True
    audit: AuditConfig = field(default_factory=practice_audit)
    bounds: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    judge_floor: float | None = 0.4
    judge_task_floor: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot run, before anything is spent on it."""
        check_ranges(self, RANGES, "config")
        check_device_name(self.device, "config.device")
        check_device_name(self.dream.device, "dream.device")
        self.reinforcement(seed=0, learning_rate=self.learning_rate)
        if not isinstance(self.overrides, Mapping):
            raise ConfigError(f"overrides are {{name: reason}}, got {self.overrides!r}; say why of each")
        self.gates({})
        if self.novel.instructions and not self.judge:
            raise ConfigError("novel.instructions need config.judge: the learned judge knows only what it was taught")

    def reinforcement(self, *, seed: int, learning_rate: float) -> GrpoConfig:
        """How to reinforce; the job's own settings, the shared ones, and the rest of GrpoConfig from `grpo`.

        Raises:
            ConfigError: a choice does not exist or cannot be; the message names it.
        """
        taken = sorted({"iterations", "seed", *(entry.name for entry in fields(PipelineConfig))} & set(self.grpo))
        if taken:
            raise ConfigError(f"grpo: {taken} are settings of the job itself (grpo_iterations, seed of the spec)")
        return build(
            GrpoConfig,
            {
                "group_size": self.group_size,
                "groups": self.groups,
                "iterations": self.grpo_iterations,
                "learning_rate": learning_rate,
                "keyframe_share": self.keyframe_share,
                "mask_after_success": self.mask_after_success,
                "seed": seed,
                **self.grpo,
            },
            "grpo",
        )

    @staticmethod
    def of(values: Mapping[str, Any]) -> PipelineConfig:
        """Build one from a job's spec.

        Raises:
            ConfigError: a setting does not exist; the message lists those that do.
        """
        known = {entry.name for entry in fields(PipelineConfig)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown settings {unknown}; there are {sorted(known)}")
        device = {"device": values["device"]} if "device" in values else {}
        nested = {**values, "dream": device | dict(values.get("dream", {}))}
        made_of = {name: build(kind, nested.get(name, {}), name) for name, kind in NESTED.items()}
        ray = ClusterConfig.of(values["ray"]) if values.get("ray") else None
        try:
            audit = replace(practice_audit(), **tuples(values.get("audit", {})))
        except TypeError as error:
            raise ConfigError(f"audit: {error}; see AuditConfig for the names") from error
        return PipelineConfig(**tuples({**values, **made_of, "ray": ray, "audit": audit}))

    def bounds_over(self, calibrated: Mapping[str, Any]) -> AuditBounds:
        """The bounds of an audit: named here, else those the world model was calibrated to, else the defaults.

        Raises:
            ConfigError: a bound does not exist.
        """
        try:
            return replace(practice_bounds(), **{**calibrated, **self.bounds})
        except TypeError as error:
            raise ConfigError(f"bounds: {error}; see AuditBounds for the names") from error

    def gates(self, calibrated: Mapping[str, Any]) -> Gates:
        """What stands before practice, in a world model calibrated to these bounds."""
        bounds = self.bounds_over(calibrated)
        return Gates(self.audit, bounds, self.overrides, self.judge_floor, self.judge_task_floor, self.check)


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
