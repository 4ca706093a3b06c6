"""What a policy did on the robot is reinforced before it practises in the dream."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.practice.grpo.off_policy import log_probs_under
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.recorded import Lesson, lesson_of
from cloud_trainer.progress import CancelledError
from cloud_trainer.world_model.compact.data import clips_of
from gymnast_core.episodes import read_episode, read_summary, write_episode
from gymnast_core.errors import ContractError
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Observation
from tests.cloud.jobs import TINY, job_of
from tests.cloud.learning_fakes import episode, tiny_flow, tiny_policy
from tests.cloud.local_sampler import run_grpo
from tests.cloud.test_grpo import CONFIG, sampler

RECORDED = [dataclasses.replace(episode(seed), policy_versions=("mine",) * 15) for seed in range(12)]
CLIPS = clips_of(RECORDED, 64)


def test_tokens_are_those_that_the_policy_drew():
    policy, rng = tiny_policy(), np.random.default_rng(0)
    first = CLIPS.frames_NTHWC[:, 0]
    seen = Observation({"camera": first}, CLIPS.poses_NTP[:, 0], np.zeros(len(CLIPS), np.int64))
    chunk = policy.act(seen, CLIPS.instructions, rng=rng)
    drawn = dataclasses.replace(CLIPS, actions_NTA=np.concatenate([chunk.actions_BKA] * 3, axis=1))
    rollouts = Lesson.of([drawn], "mine", policy.chunk_length, 1).batch(policy).rollouts
    assert (rollouts.trace["tokens"][:, 0] == chunk.trace["tokens"]).all()
    assert rollouts.log_probs_BTA[:, : policy.chunk_length] == pytest.approx(chunk.log_probs_BKA, abs=1e-5)


def test_only_its_own_episodes_of_mixed_outcome_are_compared():
    others = dataclasses.replace(RECORDED[1], policy_versions=("mine",) * 14 + ("other",))
    same = [dataclasses.replace(RECORDED[seed], instruction="wave") for seed in (3, 5)]
    several = clips_of([*RECORDED[:1], others, RECORDED[2], *RECORDED[7:9]], 64)
    lesson = Lesson.of([several, clips_of(same, 64)], "mine", 5, 2)
    assert lesson.rollouts.instructions == ["lift the red cube"] * 3
    mine = [several.episode_ids.index(name) for name in ("fake-2", "fake-7", "fake-8")]
    assert (lesson.rollouts.frames_BFHWC[:, 0] == several.frames_NTHWC[mine, 0]).all()
    assert lesson.reward_B.tolist() == several.success_N[mine].tolist()
    without = Lesson.of([several], "mine", 5, 2, apart={"fake-7"})
    assert not len(without.reward_B), "the two that are left both failed"


def test_shorter_parts_stand_still_to_the_end_of_the_longest():
    short = [dataclasses.replace(episode(seed, steps=7), policy_versions=("mine",) * 7) for seed in (1, 2)]
    lesson = Lesson.of([CLIPS, clips_of(short, 64)], "mine", 5, 1)
    batch = lesson.batch(tiny_policy())
    rows = [n for n, length in enumerate(batch.rollouts.length_B) if length == 7]
    assert len(rows) == 2
    assert batch.rollouts.length_B[rows].tolist() == [7, 7]
    seen = batch.rollouts.frames_BFHWC[rows]
    assert (seen[:, -2] == seen[:, -1]).all(), "at 10 and 15 of 15 steps it stands as at the end, 7"
    assert (seen[:, -1] == clips_of(short, 64).frames_NTHWC[:, 7]).all()


def test_what_succeeded_becomes_likelier_than_what_failed():
    policy = tiny_policy(row_by_row=False)
    lesson = Lesson.of([CLIPS], "mine", 5, 4)
    batch = lesson.batch(policy)
    trainer = GrpoTrainer(policy, GrpoConfig(learning_rate=1e-3, mini_batch=4))
    trainer.begin_with(batch, lesson.epochs)
    gained = (log_probs_under(policy, batch.rollouts) - batch.rollouts.log_probs_BTA).sum((1, 2))
    assert gained[batch.reward_B == 1].mean() > gained[batch.reward_B == 0].mean()
    assert trainer.updates == 0
    trainer.updates = 1
    with pytest.raises(ContractError, match="before the first"):
        trainer.begin_with(batch, 1)


def test_nothing_is_learned_where_nothing_can_be_read(tmp_path):
    flow, tokens = tiny_flow().save(tmp_path / "flow"), tiny_policy().save(tmp_path / "tokens")
    assert lesson_of([CLIPS], flow, "mine", 2) is None
    assert lesson_of([CLIPS], tokens, "somebody else", 2) is None
    assert lesson_of([CLIPS], tokens, "mine", 0) is None
    assert len(lesson_of([CLIPS], tokens, "mine", 2).reward_B) == len(CLIPS)


def test_a_run_that_began_with_recorded_episodes_resumes_bit_for_bit(tmp_path):
    tiny_policy().save(tmp_path / "base")
    lesson, done = Lesson.of([CLIPS], "mine", 5, 2), []
    straight = run_grpo(tmp_path / "base", sampler(), CONFIG, tmp_path / "a", candidate_every=2, lesson=lesson)
    how = {"candidate_every": 2, "lesson": lesson, "state": tmp_path / "state"}
    with pytest.raises(CancelledError):
        run_grpo(
            tmp_path / "base", sampler(), CONFIG, tmp_path / "b", progress=done.append,
            cancelled=lambda: len(done) == 3, **how,
        )  # fmt: skip
    assert [event.stage for event in done] == ["recorded", "grpo", "grpo"]
    resumed = run_grpo(tmp_path / "base", sampler(), CONFIG, tmp_path / "b", **how)
    assert [c.version for c in resumed.candidates] == [c.version for c in straight.candidates]
    without = run_grpo(tmp_path / "base", sampler(), CONFIG, tmp_path / "c", candidate_every=2)
    assert without.candidates[-1].version != straight.candidates[-1].version
    assert read_manifest(resumed.candidates[-1].folder).lineage["recorded"] == len(lesson.reward_B)


@pytest.fixture
def own(material, tmp_path):
    """The shared material, as if the policy had recorded it."""
    checkpoints, files = material
    version, written = read_manifest(checkpoints["policy"]).id, []
    for entry in files:
        recorded = read_episode(entry.path)
        acted = dataclasses.replace(recorded, policy_versions=(version,) * recorded.steps)
        written.append(write_episode(tmp_path / "episodes", acted, robot="sim-0"))
    return checkpoints, [Recorded(path, read_summary(path).end.outcome.value) for path in written]


def test_improve_begins_with_what_its_policy_recorded(own, tmp_path):
    events = []
    job = dataclasses.replace(job_of(own, tmp_path / "job"), progress=events.append)
    made = improve(job)
    count = read_manifest(tmp_path / "job" / "candidates" / "iteration-02").lineage["recorded"]
    assert 0 < count < made.episodes
    assert [event.metrics["trajectories"] for event in events if event.stage == "recorded"] == [count]
    none = improve(job_of(own, tmp_path / "none", config={**TINY, "recorded_epochs": 0}))
    assert read_manifest(Path(none.candidates[-1].folder)).lineage["recorded"] == 0
