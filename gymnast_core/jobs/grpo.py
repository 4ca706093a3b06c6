"""How to reinforce: every choice of GRPO, with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.settings import Count, CountOrZero, NotNegative, Positive, Seed, Settings, Share

MOST_ROLLOUTS = 65_536
"""Of one round, groups x group_size; all of a round are kept until its update. More are more iterations, or rounds."""
GroupSize = Annotated[int, Field(ge=2, le=MOST_ROLLOUTS)]


class GrpoChoices(Settings):
    """Every choice of GRPO that is no amount, with its source; the compact models were measured with the defaults."""

    where: ClassVar[str] = "grpo"

    target_groups: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    """Informative groups wanted per update; what is left over waits for the next update. None uses what one round
    gives. Sampling on until the batch is full: DAPO (Yu et al., arXiv 2503.14476), section 3.2."""
    max_rounds: Count = 1
    """Rounds of sampling per update in search of them."""
    max_age: CountOrZero = 2
    """A surplus group older than this many updates is dropped."""
    keep_low: Share = 0.1
    """Groups with a lower mean reward teach nothing; .1 in SimpleVLA-RL and World-Gymnast."""
    keep_high: Share = 0.9
    """Groups with a higher one neither; .9 there."""
    temperature: Positive = 1.0
    """Of sampling, and of the log-probabilities in the ratio; 1.6 in SimpleVLA-RL and World-Gymnast, whose policy is
    sure of its demonstrations; the compact policy's soft labels leave it wide enough at 1."""
    exploration: Exploration | None = None
    """How a flow policy explores, instead of its checkpoint's own setting; other policies have none."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Ratio clip below 1; .2 in PPO (Schulman et al. 2017)."""
    clip_high: Positive = 0.28
    """Ratio clip above 1; .28 in DAPO, section 3.1 (clip-higher)."""
    epochs: Count = 2
    """Passes over each batch. In the first the ratio is 1 and the clip inert, as in World-Gymnast, which makes one
    optimiser step per batch; PPO and GRPO (Shao et al., arXiv 2402.03300, algorithm 1) make more."""
    mini_batch: Count = 48
    """Trajectories per optimiser step."""
    final_rate: Share | None = None
    """Share of the learning rate that a cosine over the updates ends at (Loshchilov & Hutter 2017, eq. 5), by their
    number, never by the clock; 1 keeps it constant. None is .1 for a policy of tokens and 1 for a flow: tokens won 2 to
    7 points with the true reward, a flow lost in its dream (benchmarks/ceiling_cpu2_202611.md)."""
    weight_decay: NotNegative = 0.0
    """Of AdamW; .01 in World-Gymnast."""
    grad_clip: Positive = 1.0
    """Largest gradient norm; 1 there."""
    kl_weight: NotNegative = 0.0
    """Weight of the KL estimate towards the starting policy (GRPO, eq. 4); 0, as in DAPO, leaves it out."""
    length_normalisation: Literal["trajectory", "token", "constant"] = "trajectory"
    """How long trajectories weigh. trajectory: token mean per trajectory, then the mean over trajectories (GRPO, eq. 3;
    World-Gymnast; WoVR's division by T_valid). token: mean over all tokens of the mini-batch (DAPO, section 3.3).
    constant: sums divided by the full length (Dr. GRPO, Liu et al., arXiv 2503.20783, section 3.2). They differ only
    where success masking or an early end shortens trajectories."""

    @model_validator(mode="before")
    @classmethod
    def _amounts_are_the_jobs(cls, values: Any) -> Any:
        taken = set(values if isinstance(values, Mapping) else ()) & (GrpoConfig.model_fields.keys() - cls.model_fields)
        if taken:
            raise ConfigError(
                f"grpo: {sorted(taken)} are settings of the job itself (grpo_iterations, seed of the spec)"
            )
        return values

    @model_validator(mode="after")
    def _keeps_some_group(self) -> GrpoChoices:
        if self.keep_low > self.keep_high:
            raise ConfigError(
                f"grpo: keep_low {self.keep_low} is above keep_high {self.keep_high}, which keeps no group; lower it"
            )
        return self


class GrpoConfig(GrpoChoices):
    """How to reinforce, amounts included."""

    group_size: GroupSize = 8
    """N rollouts per start state; 8 in World-Gymnast."""
    groups: Count = 24
    """G start states sampled per round."""
    iterations: Count = 10
    """Updates of the policy, each on fresh rollouts. Few on purpose: imagined reward keeps rising long after real
    success falls."""
    learning_rate: Positive = 2e-4
    """Of AdamW; 5e-6 for a 7B model in World-Gymnast."""
    keyframe_share: Share = 0.0
    """Share of the groups that begin at a later chunk start of a recorded episode; WoVR (arXiv 2602.13977) begins all
    there."""
    mask_after_success: bool = False
    """Judge at every chunk end and learn nothing from what follows the first success (WoVR)."""
    seed: Seed = 0
    """Of starts, sampling and shuffling."""

    @model_validator(mode="after")
    def _fits_in_memory(self) -> GrpoConfig:
        check_rollouts(self.groups, self.group_size)
        return self


def check_rollouts(groups: int, group_size: int) -> None:
    """Refuse more rollouts of one round than can be kept.

    Raises:
        ConfigError: names both counts.
    """
    if (rollouts := groups * group_size) > MOST_ROLLOUTS:
        raise ConfigError(
            f"grpo: {groups} groups of group_size {group_size} are {rollouts} rollouts at once; at most "
            f"{MOST_ROLLOUTS} can be: lower one, and raise iterations"
        )
