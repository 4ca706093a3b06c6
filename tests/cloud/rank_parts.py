"""What the ranks of the sharded learner's tests run, in processes of their own: nothing here needs Ray."""

import functools

import numpy as np
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from cloud_trainer.jobs.adapt import anchored
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.grpo_job import GrpoJob
from cloud_trainer.practice.ray.fsdp import from_rank_zero, learn, read_message, write_message
from cloud_trainer.progress import CancelledError, never, silent
from cloud_trainer.world_model.compact.data import clips_of
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.processor import use_threads
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.types import Observation, RolloutBatch
from tests.cloud.learning_fakes import episode, tiny_flow, tiny_policy
from tests.cloud.ray_parts import ParityJudge
from tests.policies.pi0_folder import policy_in_memory

CONFIG = GrpoConfig(group_size=2, groups=3, iterations=3, keep_low=0.0, keep_high=1.0, mini_batch=5, epochs=1)
"""Six rows a batch, in mini-batches of 5 and 1: a rank of two has three rows, two, one or none."""

CHOICES = {
    "kl": {"kl_weight": 20.0, "epochs": 2, "clip_low": 0.02, "clip_high": 0.03},
    "surplus": {
        "target_groups": 2,
        "max_rounds": 2,
        "length_normalisation": "token",
        "temperature": 1.6,
        "final_rate": 1.0,
    },
    "flow": {"exploration": Exploration(way="sde", noise_level=0.7), "epochs": 2},
    "pi0": {"exploration": Exploration(sigma=0.3), "learning_rate": 1e-3},
    "anchor": {"length_normalisation": "constant", "weight_decay": 0.1, "grad_clip": 0.01, "mini_batch": 3},
}
CLIPS = clips_of([episode(seed) for seed in range(4)], 64)


def base_of(name):
    """What a job of that choice starts from."""
    return {"flow": tiny_flow, "pi0": policy_in_memory}.get(name, tiny_policy)()


class Planted:
    """A sampler of made-up rollouts: frames and rewards by the generator, actions by the first policy."""

    def __init__(self, job):
        self._behaviour = load_trainable(job.parent, exploration=job.config.exploration)

    def __call__(self, policy, rng):
        rng = np.random.default_rng(int(rng.integers(2**31)))
        frames = rng.integers(0, 256, (6, 3, 64, 64, 3), dtype=np.uint8)
        texts, poses, times = ["lift the red cube"] * 6, np.zeros((6, 7), np.float32), np.zeros(6, np.int64)
        seen = [Observation({"over_shoulder": frames[:, c]}, poses, times) for c in (0, 1)]
        chunks = [self._behaviour.act(observation, texts, rng=rng) for observation in seen]
        trace = {part: np.stack([chunk.trace[part] for chunk in chunks], 1) for part in chunks[0].trace}
        rollouts = RolloutBatch(
            texts, np.array([0, 5, 10]), frames, np.zeros((6, 10, 7), np.float32),
            np.concatenate([chunk.log_probs_BKA for chunk in chunks], 1),
            np.array([10, 10, 5, 10, 10, 5]), "policy-test", np.repeat(np.arange(3), 2), trace,
        )  # fmt: skip
        weight = rng.uniform(0.5, 1.5, (6, 10, 7)).astype(np.float32)
        return Scored(rollouts, np.array([1, 0, 0, 1, 1, 0], np.float32), np.ones(6, bool), weight_BTA=weight)


def job_of(folder, name, config=CONFIG) -> GrpoJob:
    base = folder / "base"
    return GrpoJob(
        base, [], ParityJudge, config.changed(**CHOICES[name]), folder / "out", folder / "state",
        lineage={"note": name}, candidate_every=2,
        anchor=functools.partial(anchored, base, CLIPS, 1.0) if name == "anchor" else None,
    )  # fmt: skip


def on_ranks(job, mesh, *, progress=silent, cancelled=never):
    """As on Ray: rank 0 has a sampler, the others get what it sampled."""
    planted = Planted(job)

    def shared(policy, rng):
        scored = planted(policy, rng)
        state = rng.bit_generator.state if mesh.get_rank() == 0 else None
        header, _ = read_message(from_rank_zero(write_message({"rng": state}, {}), "cpu"))
        rng.bit_generator.state = header["rng"]
        return scored

    return learn(job, mesh, lambda device: shared, progress=progress, cancelled=cancelled)


def rank_main(rank, world, folder):
    """Every choice: stopped after the first iteration by rank 0 alone, resumed, and told."""
    use_threads()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    for name in CHOICES:
        stopped_and_resumed(job_of(folder / name, name))
    dist.destroy_process_group()


def stopped_and_resumed(job):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    events = []
    try:
        on_ranks(job, mesh, progress=events.append, cancelled=lambda: len(events) == 1)
        raise AssertionError("nobody stopped")
    except CancelledError as error:
        assert "after 1 of 3" in str(error)  # noqa: PT017 (no pytest in the ranks)
    assert len(events) == (mesh.get_rank() == 0)
    training = on_ranks(job, mesh, progress=events.append)
    assert [one.iteration for one in training.candidates] == [2, 3]
    assert [event.step for event in events] == ([1, 2, 3] if mesh.get_rank() == 0 else [])
