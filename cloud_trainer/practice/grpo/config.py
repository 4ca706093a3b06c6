"""How to reinforce: every choice of GRPO, with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from cloud_trainer.ranges import COUNT, COUNT_OR_ZERO, NOT_NEGATIVE, POSITIVE, SEED, SHARE, Range, check_ranges
from gymnast_core.errors import ConfigError

MOST_ROLLOUTS = 65_536
"""Of one round, groups x group_size; all of a round are kept until its update. More are more iterations, or rounds."""
LENGTH_NORMALISATIONS = ("trajectory", "token", "constant")
RANGES = {
    **dict.fromkeys(("groups", "iterations", "max_rounds", "epochs", "mini_batch"), COUNT),
    "max_age": COUNT_OR_ZERO,
    "seed": SEED,
    **dict.fromkeys(("keep_low", "keep_high", "keyframe_share"), SHARE),
    **dict.fromkeys(("temperature", "clip_high", "learning_rate", "grad_clip"), POSITIVE),
    **dict.fromkeys(("weight_decay", "kl_weight"), NOT_NEGATIVE),
    "group_size": Range(2, MOST_ROLLOUTS, whole=True),
    "target_groups": Range(1, MOST_ROLLOUTS, whole=True, optional=True),
    "clip_low": Range(0, 1, above=True),
}


@dataclass(frozen=True)
class GrpoConfig:
    """How to reinforce. Each choice with its source; the defaults are what the compact models were measured with.

    Attributes:
        group_size: N rollouts per start state; 8 in World-Gymnast.
        groups: G start states sampled per round.
        iterations: updates of the policy, each on fresh rollouts. Few on purpose: imagined reward keeps rising
            long after real success falls.
        target_groups: informative groups wanted per update; what is left over waits for the next update. None uses
            what one round gives. Sampling on until the batch is full: DAPO (Yu et al., arXiv 2503.14476), section 3.2.
        max_rounds: rounds of sampling per update in search of them.
        max_age: a surplus group older than this many updates is dropped.
        keep_low: groups with a lower mean reward teach nothing; .1 in SimpleVLA-RL and World-Gymnast.
        keep_high: groups with a higher one neither; .9 there.
        temperature: of sampling, and of the log-probabilities in the ratio; 1.6 in SimpleVLA-RL and World-Gymnast,
            whose policy is sure of its demonstrations; the compact policy's soft labels leave it wide enough at 1.
        clip_low: ratio clip below 1; .2 in PPO (Schulman et al. 2017).
        clip_high: ratio clip above 1; .28 in DAPO, section 3.1 (clip-higher).
        epochs: passes over each batch. In the first the ratio is 1 and the clip inert, as in World-Gymnast, which
            makes one optimiser step per batch; PPO and GRPO (Shao et al., arXiv 2402.03300, algorithm 1) make more.
        mini_batch: trajectories per optimiser step.
        learning_rate: of AdamW; 5e-6 for a 7B model in World-Gymnast.
        weight_decay: of AdamW; .01 there.
        grad_clip: largest gradient norm; 1 there.
        kl_weight: weight of the KL estimate towards the starting policy (GRPO, eq. 4); 0, as in DAPO, leaves it out.
        length_normalisation: how long trajectories weigh. "trajectory": token mean per trajectory, then the mean over
            trajectories (GRPO, eq. 3; World-Gymnast; WoVR's division by T_valid). "token": mean over all tokens of the
            mini-batch (DAPO, section 3.3). "constant": sums divided by the full length (Dr. GRPO, Liu et al., arXiv
            2503.20783, section 3.2). They differ only where success masking or an early end shortens trajectories.
        keyframe_share: share of the groups that begin at a later chunk start of a recorded episode; WoVR (arXiv
            2602.13977) begins all there.
        mask_after_success: judge at every chunk end and learn nothing from what follows the first success (WoVR).
        seed: of starts, sampling and shuffling.
    """

    group_size: int = 8
    groups: int = 24
    iterations: int = 10
    target_groups: int | None = None
    max_rounds: int = 1
    max_age: int = 2
    keep_low: float = 0.1
    keep_high: float = 0.9
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    epochs: int = 2
    mini_batch: int = 48
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    kl_weight: float = 0.0
    length_normalisation: str = "trajectory"
    keyframe_share: float = 0.0
    mask_after_success: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        check_ranges(self, RANGES, "grpo")
        if (rollouts := self.groups * self.group_size) > MOST_ROLLOUTS:
            raise ConfigError(
                f"grpo: {self.groups} groups of group_size {self.group_size} are {rollouts} rollouts at once; at most "
                f"{MOST_ROLLOUTS} can be: lower one, and raise iterations"
            )
        if self.keep_low > self.keep_high:
            raise ConfigError(
                f"grpo: keep_low {self.keep_low} is above keep_high {self.keep_high}, which keeps no group; lower it"
            )
        if self.length_normalisation not in LENGTH_NORMALISATIONS:
            raise ConfigError(
                f"length_normalisation must be one of {LENGTH_NORMALISATIONS}, got {self.length_normalisation!r}"
            )
