"""The compact flow policy: densities against numbers computed another way, the flow's conventions, and its training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from cloud_trainer.practice.grpo.log_probs import rollout_log_probs
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.progress import CancelledError
from cloud_trainer.sft.trainer import SftConfig, train_sft
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.jobs.improve import ImproveSpec
from gymnast_core.policies import load_policy
from gymnast_core.policies.exploration import Flow, explorer
from gymnast_core.policies.flow import ActionScale, FlowPolicy
from gymnast_core.policies.flow_network import FlowNetwork, FlowPolicyConfig
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.trainable import LearningPolicy, load_trainable
from gymnast_core.types import Observation, RolloutBatch
from tests.cloud.learning_fakes import episode, tiny_policy
from tests.cloud.test_grpo import sampler
from tests.contracts.policy_contract import PolicyContract

SIZES = FlowPolicyConfig(widths=(4, 4, 4), hidden=16, text_dim=4, time_dim=8)
EXPLORATIONS = [Exploration(rho=0.0), Exploration(rho=0.7), Exploration(way="sde"), Exploration(way="fpo", draws=4)]
NAMES = ["endpoint", "endpoint AR(1)", "sde", "fpo"]


def policy_of(exploration: Exploration = EXPLORATIONS[0], *, seed: int = 0, row_by_row: bool = True) -> FlowPolicy:
    """A random flow, its head too."""
    torch.manual_seed(seed)
    network = FlowNetwork(dataclasses.replace(SIZES, exploration=exploration))
    torch.nn.init.normal_(network.head.weight, std=0.2)
    scale = ActionScale(np.zeros(7, np.float32), np.array([0.02] * 3 + [0.1] * 3 + [0.5], np.float32))
    return FlowPolicy(network, scale, row_by_row=row_by_row)


def observation(rows: int) -> Observation:
    frames = np.random.default_rng(0).integers(0, 256, (rows, 64, 64, 3), dtype=np.uint8)
    return Observation({"over_shoulder": frames}, np.zeros((rows, 7), np.float32), np.zeros(rows, np.int64))


class _Flows(PolicyContract):
    discrete = False
    exploration = EXPLORATIONS[0]

    def make_policy(self) -> FlowPolicy:
        return policy_of(self.exploration)


class TestEndpoint(_Flows):
    pass


class TestEndpointCorrelated(_Flows):
    exploration = EXPLORATIONS[1]


class TestSde(_Flows):
    exploration = EXPLORATIONS[2]


class TestFpo(_Flows):
    exploration = EXPLORATIONS[3]


def test_every_way_is_explored_here() -> None:
    ways = get_args(Exploration.model_fields["way"].annotation)
    assert {exploration.way for exploration in EXPLORATIONS} == set(ways)
    assert isinstance(policy_of(), LearningPolicy)


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=NAMES)
def test_a_rows_noise_does_not_depend_on_how_many_follow_it(exploration: Exploration) -> None:
    policy, seen = policy_of(exploration), observation(3)
    together = policy.act(seen, ["lift"] * 3, rng=np.random.default_rng(4))
    first = Observation({"over_shoulder": seen.images["over_shoulder"][:1]}, seen.proprio_BP[:1], seen.time_ns_B[:1])
    alone = policy.act(first, ["lift"], rng=np.random.default_rng(4))
    np.testing.assert_array_equal(together.actions_BKA[0], alone.actions_BKA[0])
    assert (together.actions_BKA[0] != together.actions_BKA[1]).any()


def flow_of(policy: FlowPolicy, rows: int) -> Flow:
    return policy._flow(observation(rows).images["over_shoulder"], ["lift"] * rows)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_endpoint_density_is_that_of_the_joint_normal(rho: float) -> None:
    """The chain of conditionals against scipy's multivariate normal with covariance sigma^2 rho^|i - j|."""
    policy, sigma = policy_of(), 0.3
    flow, how = flow_of(policy, 2), explorer(Exploration(sigma=sigma, rho=rho), 1.0)
    with torch.no_grad():
        chosen = how.sample(flow, how.draw((2, 5, 7), 4, np.random.default_rng(0)))
        ours = how.log_probs(flow, chosen.trace).sum(1).numpy()
        end = flow.run(torch.from_numpy(how.draw((2, 5, 7), 4, np.random.default_rng(0))["start"])).numpy()
    lag = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    for row in range(2):
        for axis in range(7):
            theirs = stats.multivariate_normal(end[row, :, axis], sigma**2 * rho**lag).logpdf(chosen.z[row, :, axis])
            assert ours[row, axis] == pytest.approx(theirs, abs=1e-3)


def test_endpoint_noise_has_the_promised_spread_and_correlation() -> None:
    how, flow = explorer(Exploration(sigma=0.25, rho=0.6), 2.0), flow_of(policy_of(), 1)
    flow = flow.repeated(4000)
    drawn = how.draw((4000, 5, 7), 4, np.random.default_rng(1)) | {"start": np.zeros((4000, 5, 7), np.float32)}
    with torch.no_grad():
        noise = (how.sample(flow, drawn).z - flow.run(torch.zeros((4000, 5, 7)))).numpy()
    assert noise.std() == pytest.approx(0.5, rel=0.02)  # sigma times the temperature
    assert np.corrcoef(noise[:, 1].ravel(), noise[:, 2].ravel())[0, 1] == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("step", range(4))
def test_sde_step_is_the_published_one(step: int) -> None:
    """Against the algebra of Flow-GRPO (arXiv 2505.05470, eq. 9), written for velocity and state."""
    policy, level = policy_of(), 0.5
    flow, how = flow_of(policy, 1), explorer(Exploration(way="sde", noise_level=level), 1.0)
    noise = np.random.default_rng(step).standard_normal((1, 2, 5, 7), dtype=np.float32)
    drawn = {"start": noise[:, 0], "noise": noise[:, 1], "step": np.array([step])}
    with torch.no_grad():
        chosen = how.sample(flow, drawn)
        x, t, d = chosen.trace["before"], 1.0 - step / 4, 0.25
        v = flow.velocity(torch.from_numpy(x), t).numpy()
        ours = how.log_probs(flow, chosen.trace).numpy()
    sigma = level * math.sqrt(t / (d if step == 0 else 1 - t))
    mean = x * (1 - sigma**2 / (2 * t) * d) - v * d * (1 + sigma**2 * (1 - t) / (2 * t))
    np.testing.assert_allclose(chosen.trace["after"], mean + sigma * math.sqrt(d) * noise[:, 1], atol=1e-5)
    theirs = stats.norm(mean, sigma * math.sqrt(d)).logpdf(chosen.trace["after"])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_densities_integrate_to_one() -> None:
    how = explorer(Exploration(sigma=0.3, rho=0.0), 1.0)
    flow = flow_of(policy_of(), 1)
    trace = {"before": np.zeros((1, 5, 7), np.float32)}

    def density(value: float) -> float:
        with torch.no_grad():
            there = trace | {"executed": np.full((1, 5, 7), value, np.float32)}
            return math.exp(how.log_probs(flow, there)[0, 2, 3].item())

    assert integrate.quad(density, -8, 8, limit=200, points=[-1, 0, 1])[0] == pytest.approx(1.0, abs=1e-3)


def test_fpo_stands_for_the_matching_loss_at_the_drawn_times() -> None:
    policy = policy_of(Exploration(way="fpo", draws=3))
    flow, how = flow_of(policy, 2), explorer(policy.exploration, 1.0)
    drawn = how.draw((2, 5, 7), 4, np.random.default_rng(0))
    with torch.no_grad():
        chosen = how.sample(flow, drawn)
        ours = how.log_probs(flow, chosen.trace).numpy()
        total = np.zeros((2, 5, 7))
        for index in range(3):
            t, noise = drawn["time"][:, index], drawn["noise"][:, index]
            x = t[:, None, None] * noise + (1 - t[:, None, None]) * chosen.z.numpy()
            velocity = flow.velocity(torch.from_numpy(x), torch.from_numpy(t)).numpy()
            total += (velocity - (noise - chosen.z.numpy())) ** 2
    np.testing.assert_allclose(ours, -total / 3, atol=1e-5)


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=NAMES)
def test_one_update_makes_the_rewarded_rollout_likelier(exploration: Exploration) -> None:
    policy = policy_of(exploration, row_by_row=False)
    seen, texts = observation(1), ["lift"] * 2
    frames = seen.images["over_shoulder"].repeat(2, axis=0)
    both = Observation({"over_shoulder": frames}, np.zeros((2, 7), np.float32), np.zeros(2, np.int64))
    chunk = policy.act(both, texts, rng=np.random.default_rng(0))
    trace = {name: array[:, None] for name, array in chunk.trace.items()}
    rollouts = RolloutBatch(
        texts, np.array([0, 5]), np.stack([frames, frames], axis=1), chunk.actions_BKA, chunk.log_probs_BKA,
        np.array([5, 5]), chunk.policy_version, np.zeros(2, np.int64), trace,
    )  # fmt: skip
    trainer = GrpoTrainer(policy, GrpoConfig(epochs=1, learning_rate=1e-3))
    report = trainer.update(Scored(rollouts, np.array([1.0, 0.0], np.float32), np.ones(2, bool)))
    assert report.kl == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        now = policy.log_probs(frames, texts, chunk.trace).numpy()
    gain_B = (now - chunk.log_probs_BKA).sum((1, 2))
    assert gain_B[0] > 0
    assert gain_B[0] > gain_B[1]


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=NAMES)
def test_traces_of_imagined_groups_reach_the_learner(exploration: Exploration) -> None:
    policy = policy_of(exploration, row_by_row=False)
    scored = sampler()(policy, np.random.default_rng(0))
    new = rollout_log_probs(policy, scored.rollouts, np.arange(6)).detach().numpy()
    np.testing.assert_allclose(np.exp(new - scored.rollouts.log_probs_BTA.reshape(6, -1)), 1.0, atol=1e-5)


def test_greedy_starts_at_zero_and_draws_nothing() -> None:
    policy, seen = policy_of(), observation(2)
    chunk = policy.act(seen, ["lift"] * 2)
    with torch.no_grad():
        z = torch.cat([policy._flow(seen.images["over_shoulder"][b : b + 1], ["lift"]).run(torch.zeros((1, 5, 7)))
                       for b in range(2)])  # fmt: skip
    np.testing.assert_array_equal(chunk.actions_BKA, policy.scale.decode(z.numpy()))
    assert chunk.trace == {}


def test_sft_learns_the_demonstrated_actions_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    demonstrations, config = [episode(seed) for seed in range(2)], SftConfig(iterations=120, batch_size=8)
    whole = train_sft(demonstrations, config, tmp_path / "whole", policy_config=SIZES)
    asked = iter([False] * 105 + [True] * 100)
    state = tmp_path / "sft.state"
    with pytest.raises(CancelledError):
        train_sft(demonstrations, config, tmp_path / "rest", policy_config=SIZES, state=state,
                  cancelled=lambda: next(asked))  # fmt: skip
    rest = train_sft(demonstrations, config, tmp_path / "rest", policy_config=SIZES, state=state)
    assert rest.weights_sha256 == whole.weights_sha256
    policy = load_policy(tmp_path / "whole")
    frames = demonstrations[0].images["over_shoulder"][:1]
    seen = Observation({"over_shoulder": frames}, np.zeros((1, 7), np.float32), np.zeros(1, np.int64))
    gap = policy.act(seen, [demonstrations[0].instruction]).actions_BKA[0] - demonstrations[0].actions_TA[:5]
    untrained = policy_of().act(seen, [demonstrations[0].instruction]).actions_BKA[0] - demonstrations[0].actions_TA[:5]
    assert np.abs(gap).mean() < 0.7 * np.abs(untrained).mean()


def test_divergence_is_zero_from_itself_and_grows(tmp_path: Path) -> None:
    policy, other, frames = policy_of(), policy_of(seed=1), observation(2).images["over_shoulder"]
    assert policy.divergence(policy, frames, ["lift"] * 2).item() == 0.0
    assert policy.divergence(other, frames, ["lift"] * 2).item() > 0.0
    assert policy.divergence(policy, frames, ["lift"] * 2, edited=(255 - frames, ["lift"] * 2)).item() > 0.0


def test_checkpoint_keeps_exploration_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    policy = policy_of(Exploration(rho=0.5, sigma=0.1))
    manifest = policy.save(tmp_path / "flow")
    again = load_trainable(tmp_path / "flow")
    assert again.version == manifest.id
    assert again.exploration == Exploration(rho=0.5, sigma=0.1)
    adapted = load_trainable(tmp_path / "flow", lora=LoraSettings(rank=2, alpha=4.0, targets=("layer1", "layer2")))
    assert isinstance(adapted, LearningPolicy)
    practised = load_trainable(tmp_path / "flow", exploration=Exploration(way="sde"))
    assert practised.exploration.way == "sde"
    tiny_policy().save(tmp_path / "tokens")
    with pytest.raises(ConfigError, match="holds no flow policy"):
        load_trainable(tmp_path / "tokens", exploration=Exploration())
    with pytest.raises(ConfigError, match="did you mean sigma"):
        ImproveSpec(policy="p", world_model="w", judge="j", config={"grpo": {"exploration": {"sigmas": 1.0}}})
    with pytest.raises(ConfigError, match="one of endpoint, sde, fpo"):
        Exploration(way="ode")
    with pytest.raises(CheckpointError, match="positive deviations"):
        ActionScale.from_json({"mean": [0.0] * 7, "std": [0.0] * 7})
