"""Any policy with tokens is trained by the same jobs: GRPO and fine-tuning of a tiny OpenVLA, whole or by adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.progress import CancelledError
from cloud_trainer.sft.trainer import train_sft
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.policies import load_policy
from gymnast_core.policies.adapter import ADAPTER_OF
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.openvla.published import read_published
from gymnast_core.policies.processor import use_threads
from gymnast_core.policies.trainable import TokenPolicy, load_trainable
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode, Observation, Outcome, RolloutBatch
from tests.cloud.local_sampler import run_grpo
from tests.policies.openvla_folder import write_folder

LORA = LoraSettings(rank=4, alpha=8.0)
GRPO = GrpoConfig(
    group_size=2, groups=1, iterations=3, mini_batch=2, epochs=1, learning_rate=1e-2, temperature=1.6, keep_low=0.0,
    keep_high=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    """A checkpoint folder of a tiny OpenVLA, named by its id as on a shelf."""
    use_threads()
    folder = tmp_path_factory.mktemp("openvla")
    write_folder(folder / "published")
    policy = read_published(folder / "published", pipeline="rl")
    manifest = policy.save(folder / "new")
    return (folder / "new").rename(folder / manifest.id)


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8).repeat(2, axis=0)


def sampler(policy: TokenPolicy, rng: np.random.Generator) -> Scored:
    """One chunk of two rollouts from one picture; the first is the rewarded one."""
    seen = Observation({"front": frames()}, np.zeros((2, 7), np.float32), np.zeros(2, np.int64))
    chunk = policy.act(seen, ["open drawer"] * 2, rng=rng)
    assert chunk.log_probs_BKA is not None
    rollouts = RolloutBatch(
        ["open drawer"] * 2, np.array([0, 5]), np.stack([frames(), frames()], axis=1), chunk.actions_BKA,
        chunk.log_probs_BKA, np.array([5, 5]), chunk.policy_version, np.zeros(2, np.int64),
        {"tokens": chunk.trace["tokens"][:, None]},
    )  # fmt: skip
    return Scored(rollouts, np.array([1.0, 0.0], np.float32), np.ones(2, bool))


def demonstrations() -> list[Episode]:
    rng = np.random.default_rng(1)
    proprio, actions = np.zeros((6, 7), np.float32), np.full((5, 7), 0.02, np.float32)
    images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    return [Episode(f"ep-{n}", "open drawer", {"front": images}, proprio, actions, np.arange(6), Outcome.SUCCESS)
            for n in range(3)]  # fmt: skip


def digests(folders: list[Path]) -> list[str]:
    return [read_manifest(folder).weights_sha256 for folder in folders]


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])
def test_grpo_on_openvla_resumes_to_the_same_checkpoints(parent, lora, tmp_path):
    whole = run_grpo(parent, sampler, GRPO, tmp_path / "whole", candidate_every=1, lora=lora)
    asked = iter([False, True])
    stop = {"out": tmp_path / "again", "candidate_every": 1, "lora": lora, "state": tmp_path / "state"}
    with pytest.raises(CancelledError, match="after 1 of 3"):
        run_grpo(parent, sampler, GRPO, **stop, cancelled=lambda: next(asked))
    again = run_grpo(parent, sampler, GRPO, **stop)
    assert digests([c.folder for c in again.candidates]) == digests([c.folder for c in whole.candidates])
    assert len(set(digests([c.folder for c in whole.candidates]))) == 3, "every update moves the weights"
    last = read_manifest(whole.candidates[-1].folder)
    assert last.parents == (parent.name,)
    assert last.architecture == ("openvla" if lora is None else "lora")
    assert load_policy(whole.candidates[-1].folder).version == last.id


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])
def test_fine_tuning_openvla_lowers_the_loss_and_resumes_to_the_same_checkpoint(parent, lora, tmp_path):
    config = SftConfig(iterations=40, batch_size=4, warmup=2, learning_rate=1e-2)
    losses = []
    options = {"parent": parent, "lora": lora, "progress": lambda event: losses.append(event.metrics["loss"])}
    train_sft(demonstrations(), config.changed(iterations=1), tmp_path / "one", **options)
    whole = train_sft(demonstrations(), config, tmp_path / "whole", **options)
    assert losses[-1] < losses[0] - 0.1
    resumed = {**options, "state": tmp_path / "s"}
    steps = iter([False] * 7 + [True])
    with pytest.raises(CancelledError, match="step 7 of 40"):
        train_sft(demonstrations(), config, tmp_path / "b", **resumed, cancelled=lambda: next(steps))
    again = train_sft(demonstrations(), config, tmp_path / "b", **resumed)
    assert again.weights_sha256 == whole.weights_sha256
    assert whole.parents == (parent.name,)


def test_token_positions_are_the_inverse_of_what_tokens_mean(parent):
    policy = load_trainable(parent)
    tokens = np.arange(1, 256, 2, dtype=np.int64)[:, None].repeat(7, axis=1)[None]
    centres = policy.action_statistics.unnormalise(policy._centres(tokens), epsilon=1e-8)  # type: ignore[attr-defined]
    positions = policy.token_positions(centres.astype(np.float32))
    np.testing.assert_allclose(positions[..., :6], tokens[..., :6], atol=0.01)


def test_a_policy_without_tokens_is_refused_by_name(parent, tmp_path):
    config = SftConfig(iterations=1, batch_size=2)
    with pytest.raises(ConfigError, match="adapters need a parent"):
        train_sft(demonstrations(), config, tmp_path / "x", lora=LORA)


def test_an_adapter_is_trained_on_as_an_adapter_of_the_same_base(parent, tmp_path):
    base, one = read_manifest(parent).id, GRPO.changed(iterations=1)
    first = run_grpo(parent, sampler, one, tmp_path / "first", lora=LORA).candidates[-1]
    second = run_grpo(first.folder, sampler, one, tmp_path / "second").candidates[-1]
    manifest = read_manifest(second.folder)
    assert (manifest.architecture, manifest.parents) == ("lora", (first.version,))
    assert manifest.config[ADAPTER_OF] == base
    assert load_policy(second.folder).version == second.version  # its base lies beside it again
