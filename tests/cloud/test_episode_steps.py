"""Jobs follow the length of a lab's episodes, and see through the codecs of a lab's world model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.jobs.adapt import adapt
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.job import practice_steps
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.practice.grpo.log_probs import rollout_log_probs
from cloud_trainer.practice.imagine import RecordedActions, imagine_from, replay_clips
from cloud_trainer.practice.kept_rollouts import read_rollouts
from cloud_trainer.sft.windows import windows_from_rollouts
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.dit.checkpoint import save_world_model
from cloud_trainer.world_model.dit.codec import CodecConfig
from gymnast_core.episodes import read_episode, write_episode
from gymnast_core.records.manifest import read_manifest
from tests.cloud.jobs import TINY, TINY_SCENE, job_of, scene_job
from tests.cloud.learning_fakes import episode, tiny_policy, tiny_world
from tests.cloud.test_worlds import DREAM, QUICK, save_dit
from tests.world_model.tiny import autoencoder, tiny_model

STEPS, CHUNK = 20, 5
SHORT = ("lift-0-0", "lift-3-0", "drawer-0-0", "drawer-3-0")
"""Episodes that ended early."""
COMPACT = {
    **TINY,
    "grpo_iterations": 1,
    "forgetting_starts": 1,
    "audit": {"parts": ["outcomes"]},
    "grpo": QUICK["grpo"],
}


SCENE = {**TINY_SCENE, "grpo_iterations": 1, "forgetting_starts": 1, "audit": {"pictures": 1}, "grpo": QUICK["grpo"]}


@pytest.fixture(scope="module")
def longer(material, tmp_path_factory):
    """The shared recordings, going on for five more steps; four of them were cut short."""
    checkpoints, files = material
    folder = tmp_path_factory.mktemp("longer")
    made = []
    for number, entry in enumerate(files):
        known = read_episode(entry.path)
        steps = 9 if known.episode_id in SHORT else STEPS
        again = np.arange(steps + 1).clip(max=known.steps)
        own = replace(
            known, episode_id=f"long-{known.episode_id}", proprio_TP=known.proprio_TP[again],
            images={name: frames[again] for name, frames in known.images.items()},
            actions_TA=np.resize(known.actions_TA, (steps, 7)),
            time_ns_T=np.arange(steps + 1, dtype=np.int64) * 200_000_000,
            policy_versions=["policy-x"] * steps, metadata={**known.metadata, "scene": f"bench{number % 2}"},
        )  # fmt: skip
        made.append(Recorded(write_episode(folder, own, robot="sim-0"), entry.outcome))
    return checkpoints, made


def test_a_dream_lasts_as_long_as_most_episodes_or_as_asked():
    def steps(*lengths: int, asked: int | None = None) -> int:
        return practice_steps([episode(0, steps=length) for length in lengths], asked)

    assert steps(15, 9, 15, 40) == 15
    assert steps(40, 15, 40, 15) == 40
    assert steps(15, 9, 15, asked=20) == 20


@pytest.mark.parametrize("kind", ["compact", "dit"])
def test_a_job_learns_from_episodes_of_any_length_and_practises_as_long_as_most_are(kind, longer, tmp_path):
    checkpoints, files = longer
    config = {**COMPACT, **({"dream": DREAM, "refine_iterations": 0} if kind == "dit" else {})}
    if kind == "dit":
        checkpoints = {**checkpoints, "world_model": save_dit(tmp_path / "dit")}
    job = job_of((checkpoints, files), tmp_path / "job", config=config)
    result = improve(job).to_json()
    assert result["candidates"]
    assert result["episodes"] == len(files), "the four that were cut short are learned from too"
    learned = read_manifest(Path(result["candidates"][-1]["folder"])).lineage["episodes"]
    assert {f"long-{name}" for name in SHORT} <= set(learned)
    assert {len(film) for film in read_rollouts(job.folder)[1]} == {1 + STEPS // CHUNK}


def test_adaptation_learns_from_any_length_too(longer, tmp_path):
    asked = {"scene": "bench0", "instruction": read_episode(longer[1][0].path).instruction}
    result = adapt(scene_job(longer, tmp_path, config=SCENE, **asked)).to_json()
    assert result["candidates"]
    assert result["episodes"] == 12, "one of them was cut short"
    assert {len(film) for film in read_rollouts(tmp_path)[1]} == {1 + STEPS // CHUNK}


def test_a_dream_may_be_longer_than_any_episode(longer, tmp_path):
    config = {**COMPACT, "dream": {"episode_steps": 25}}
    assert improve(job_of(longer, tmp_path, config=config)).to_json()["candidates"]
    assert {len(film) for film in read_rollouts(tmp_path)[1]} == {1 + 25 // CHUNK}


def test_a_shorter_episode_dreamt_again_ends_where_it_did():
    world = tiny_world()
    clips = clips_of([episode(0, steps=8), episode(1, steps=15)], 64)
    together = replay_clips(world, clips, seed=3)
    alone = replay_clips(world, clips_of([episode(0, steps=8)], 64), seed=3)
    assert together.length_B.tolist() == [8, 15]
    np.testing.assert_array_equal(together.frames_BFHWC[0, -1], alone.frames_BFHWC[0, -1])
    moved = replace(episode(0, steps=8), actions_TA=np.full((8, 7), 0.04, np.float32))
    other = replay_clips(world, clips_of([moved, episode(1, steps=15)], 64), seed=3)
    assert (other.frames_BFHWC[0, -1] != together.frames_BFHWC[0, -1]).any()


def test_a_last_chunk_that_the_end_cuts_is_learned_from_as_far_as_it_went():
    clips = clips_of([episode(seed, steps=13) for seed in range(4)], 64)
    policy = tiny_policy()
    rollouts = imagine_from(tiny_world(), starts_of(clips), policy, seed=0, rng=np.random.default_rng(0))
    assert rollouts.frame_steps_F.tolist() == [0, 5, 10, 13]
    again = rollout_log_probs(policy, rollouts, np.array([2, 0])).detach().numpy().reshape(2, 13, 7)
    np.testing.assert_allclose(again, rollouts.log_probs_BTA[[2, 0]], atol=1e-5)
    windows = windows_from_rollouts(rollouts, [1], 5, policy.training_frames)
    assert windows.valid_NK.sum(axis=1).tolist() == [5, 5, 3]
    np.testing.assert_array_equal(windows.actions_NKA[2, :3], rollouts.actions_BTA[1, 10:])


def test_a_dream_ends_with_the_episode_it_began_in():
    clips = clips_of([episode(seed, steps=25) for seed in range(2)], 64)
    begun = [*starts_of(clips), *starts_of(clips, steps=(10,))]
    actions = np.zeros((4, 25, 7), np.float32)
    rollouts = imagine_from(tiny_world(), begun, RecordedActions(actions), seed=0)
    assert rollouts.length_B.tolist() == [25, 25, 15, 15]


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_a_job_practises_in_a_latent_world_and_its_judge_sees_frames(kind, material, tmp_path):
    pytest.importorskip("diffusers")
    autoencoder(kind).save_pretrained(tmp_path / "codec", safe_serialization=True)
    model = tiny_model(in_channels=16, patch_size=2)
    save_world_model(
        tmp_path / "dit", model.state_dict(), model.config, objective_name="v_prediction",
        codec_config=CodecConfig(kind=kind, folder=str(tmp_path / "codec")), image_size=64,
    )  # fmt: skip
    checkpoints, files = material
    lab = {**checkpoints, "world_model": tmp_path / "dit"}, files
    result = improve(job_of(lab, tmp_path / "job", config={**QUICK, "grpo_iterations": 1})).to_json()
    assert result["candidates"]
    films = read_rollouts(tmp_path / "job")[1]
    assert films[0].shape == (4, 64, 64, 3)
    assert (films[0][1] != films[0][0]).any()
