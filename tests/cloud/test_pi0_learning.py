"""pi0's action expert is trained by the same jobs as any policy: GRPO and fine-tuning, whole or by adapters."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cloud_trainer.practice.grpo.log_probs import rollout_log_probs
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.progress import CancelledError
from cloud_trainer.sft.trainer import train_sft
from cloud_trainer.sft.windows import mix, windows_from_episodes, windows_from_rollouts
from gymnast_core.errors import ContractError
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.policies import load_policy
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.pi0.policy import PROPRIO_KEY
from gymnast_core.policies.trainable import LearningPolicy, load_trainable
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode, Observation, Outcome, RolloutBatch
from tests.cloud.local_sampler import run_grpo
from tests.policies.pi0_folder import checkpoint

LORA = LoraSettings(rank=4, alpha=8.0)
GRPO = GrpoConfig(
    group_size=2, groups=1, iterations=3, mini_batch=2, epochs=1, learning_rate=1e-2, keep_low=0.0, keep_high=1.0,
)  # fmt: skip
KINDS = pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each variant, named by its id as on a shelf: pi0 in bfloat16, as the large ones are stored."""
    kinds = {"pi0": torch.bfloat16, "pi05": torch.float32}
    return {v: checkpoint(tmp_path_factory.mktemp(v), v, dtype=kind) for v, kind in kinds.items()}


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 28, 28, 3), dtype=np.uint8).repeat(2, axis=0)


def rollouts_of(policy: LearningPolicy, rng: np.random.Generator) -> RolloutBatch:
    """One chunk of two sampled rollouts of a group."""
    seen = Observation({"front": frames()}, np.full((2, 7), 0.2, np.float32), np.zeros(2, np.int64))
    chunk = policy.act(seen, ["open drawer"] * 2, rng=rng)
    assert chunk.log_probs_BKA is not None
    return RolloutBatch(
        ["open drawer"] * 2, np.array([0, 5]), np.stack([frames(), frames()], axis=1), chunk.actions_BKA,
        chunk.log_probs_BKA, np.array([5, 5]), chunk.policy_version, np.zeros(2, np.int64),
        {name: array[:, None] for name, array in chunk.trace.items()},
    )  # fmt: skip


def sampler(policy: LearningPolicy, rng: np.random.Generator) -> Scored:
    """The first of the two is the rewarded one."""
    return Scored(rollouts_of(policy, rng), np.array([1.0, 0.0], np.float32), np.ones(2, bool))


def demonstrations() -> list[Episode]:
    rng = np.random.default_rng(1)
    proprio, actions = np.full((6, 7), 0.2, np.float32), np.full((5, 7), 0.02, np.float32)
    images = rng.integers(0, 256, (6, 28, 28, 3), dtype=np.uint8)
    return [Episode(f"ep-{n}", "open drawer", {"front": images}, proprio, actions, np.arange(6), Outcome.SUCCESS)
            for n in range(3)]  # fmt: skip


def loss_of(folder: Path) -> float:
    """Of the demonstrations, at the same times and noises for every policy."""
    policy = load_policy(folder)
    inner = getattr(policy, "base", policy)
    windows = windows_from_episodes(demonstrations(), 5, inner.training_frames)
    with torch.no_grad():
        loss = inner.matching_loss(
            windows.images_NHWC, windows.instructions, windows.actions_NKA, windows.valid_NK,
            np.random.default_rng(7), proprio_NP=windows.proprio_NP, draws=1,
        )  # fmt: skip
    return float(loss)


@KINDS
@pytest.mark.parametrize("way", ["endpoint", "sde", "fpo"])
def test_one_update_makes_the_rewarded_rollout_likelier_and_leaves_the_language_model(
    way: str, lora: LoraSettings | None, parents: dict[str, Path]
) -> None:
    policy = load_trainable(parents["pi0"], exploration=Exploration(way=way), lora=lora)
    before = {name: tensor.clone() for name, tensor in policy.network.vlm.state_dict().items()}
    trainer = GrpoTrainer(policy, GRPO.changed(learning_rate=1e-3))
    rollouts = rollouts_of(policy, np.random.default_rng(0))
    report = trainer.update(Scored(rollouts, np.array([1.0, 0.0], np.float32), np.ones(2, bool)))
    assert report.kl == pytest.approx(0.0, abs=1e-5)  # the trainer's log-probabilities are those of sampling
    with torch.no_grad():
        now = rollout_log_probs(policy, rollouts, np.arange(2)).reshape(2, 5, 7).numpy()
    gain_B = (now - rollouts.log_probs_BTA).sum((1, 2))
    assert gain_B[0] > gain_B[1]
    after = policy.network.vlm.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@KINDS
def test_grpo_on_pi0_resumes_to_the_same_checkpoints(
    parents: dict[str, Path], lora: LoraSettings | None, tmp_path: Path
) -> None:
    parent = parents["pi0"]
    whole = run_grpo(parent, sampler, GRPO, tmp_path / "whole", candidate_every=1, lora=lora)
    asked = iter([False, True])
    stop = {"out": tmp_path / "again", "candidate_every": 1, "lora": lora, "state": tmp_path / "state"}
    with pytest.raises(CancelledError, match="after 1 of 3"):
        run_grpo(parent, sampler, GRPO, **stop, cancelled=lambda: next(asked))
    again = run_grpo(parent, sampler, GRPO, **stop)
    first, second = ([read_manifest(c.folder).weights_sha256 for c in t.candidates] for t in (again, whole))
    assert first == second
    assert len(set(second)) == 3, "every update moves the weights"
    last = read_manifest(whole.candidates[-1].folder)
    assert last.architecture == ("pi0" if lora is None else "lora")
    assert load_policy(whole.candidates[-1].folder).version == last.id


@KINDS
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_fine_tuning_lowers_the_loss_and_resumes_to_the_same_checkpoint(
    variant: str, lora: LoraSettings | None, parents: dict[str, Path], tmp_path: Path
) -> None:
    config = SftConfig(iterations=12, batch_size=4, warmup=2, learning_rate=2e-2)
    shutil.copytree(parents[variant], tmp_path / parents[variant].name)  # where an adapter looks for its base
    options = {"parent": parents[variant], "lora": lora}
    whole = train_sft(demonstrations(), config, tmp_path / "whole", **options)
    assert loss_of(tmp_path / "whole") < 0.8 * loss_of(parents[variant])
    resumed = {**options, "state": tmp_path / "s"}
    steps = iter([False] * 5 + [True])
    with pytest.raises(CancelledError, match="step 5 of 12"):
        train_sft(demonstrations(), config, tmp_path / "b", **resumed, cancelled=lambda: next(steps))
    again = train_sft(demonstrations(), config, tmp_path / "b", **resumed)
    assert again.weights_sha256 == whole.weights_sha256
    if lora is None:  # what is frozen is as it was stored, what has learned is float32
        tensors = load_file(tmp_path / "whole" / "weights.safetensors")
        old = load_file(parents[variant] / "weights.safetensors")
        assert all(torch.equal(tensor, old[name]) for name, tensor in tensors.items() if name.startswith("vlm."))
        assert {tensor.dtype for name, tensor in tensors.items() if name.startswith("expert.")} == {torch.float32}
    else:
        names = load_file(tmp_path / "whole" / "weights.safetensors")
        assert {name.split(".")[0] for name in names} == {"expert", "embed_action_time", "action_out_proj"}


def test_imagined_successes_bring_the_state_they_were_in(parents: dict[str, Path]) -> None:
    policy = load_trainable(parents["pi05"])
    rollouts = rollouts_of(policy, np.random.default_rng(0))
    imagined = windows_from_rollouts(rollouts, [0], 5, policy.training_frames)
    recorded = windows_from_episodes(demonstrations(), 5, policy.training_frames)
    both = mix(recorded, imagined)
    assert both.proprio_NP is not None
    np.testing.assert_array_equal(both.proprio_NP[-1:], rollouts.trace[PROPRIO_KEY][0])
    blind = [Episode(**{**vars(demonstrations()[0]), "metadata": {"proprioception": False}})]
    assert windows_from_episodes(blind, 5, policy.training_frames).proprio_NP is None


def test_episodes_without_the_arms_state_cannot_be_imitated(parents: dict[str, Path], tmp_path: Path) -> None:
    blind = [Episode(**{**vars(demonstrations()[0]), "metadata": {"proprioception": False}})]
    with pytest.raises(ContractError, match="looks at the arm's state"):
        train_sft(blind, SftConfig(iterations=1, batch_size=2), tmp_path / "x", parent=parents["pi0"])


def test_a_policy_stays_where_it_was_elsewhere_by_its_own_divergence(parents: dict[str, Path]) -> None:
    base, policy = (load_trainable(parents["pi0"]) for _ in range(2))
    texts = ["open drawer"] * 2
    assert policy.divergence(base, frames(), texts).item() == 0.0
    assert policy.divergence(base, frames(), texts, edited=(frames(), ["close drawer"] * 2)).item() > 0.0
    with torch.no_grad():
        policy.network.action_out_proj.bias += 0.1
    apart = policy.divergence(base, frames(), texts)
    assert apart.item() == pytest.approx(0.01, rel=1e-3)
    apart.backward()
    assert policy.network.action_out_proj.bias.grad is not None
