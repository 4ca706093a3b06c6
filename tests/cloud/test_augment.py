"""Other looks and words: they change what is seen, not what is meant, and a policy learns to act in them as before."""

import numpy as np
import pytest

from cloud_trainer.jobs.improve import improve
from cloud_trainer.practice.augment import AugmentTrainer
from cloud_trainer.practice.instructions import paraphrases, reworded
from cloud_trainer.practice.looks import another_look
from gymnast_core.jobs.augment import AugmentChoices
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.records.manifest import read_manifest
from gymnast_ros.sim.tasks import RESETS, TASKS
from tests.cloud.jobs import TINY, job_of

KNOWN = [task.instruction for task in (*TASKS.values(), *RESETS.values())]


def pictures(count=16):
    """A red square and a blue one on a brown table."""
    frames = np.full((count, 64, 64, 3), (140, 120, 100), np.uint8)
    frames[:, 20:34, 12:26] = (200, 20, 20)
    frames[:, 20:34, 38:52] = (20, 40, 200)
    return frames


def test_a_look_changes_the_table_and_leaves_colours_their_names():
    looks = another_look(pictures(64), np.random.default_rng(0)).astype(int)
    tables = looks[:, 50:].mean((1, 2))
    assert np.ptp(tables, axis=0).min() > 150  # from dark to bright
    red, blue = looks[:, 23:31, 15:23].mean((1, 2)), looks[:, 23:31, 41:49].mean((1, 2))
    assert np.mean(red[:, 0] > 1.3 * red[:, 2]) > 0.9
    assert np.mean(blue[:, 2] > 1.3 * blue[:, 0]) > 0.9


def test_looks_come_again_from_the_same_state_of_the_generator():
    first, again, other = (another_look(pictures(4), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("instruction", KNOWN)
def test_other_words_never_lose_what_tells_an_instruction_from_the_others(instruction):
    rng, telling = np.random.default_rng(1), set(" ".join([instruction, *paraphrases(instruction)]).split())
    said = [reworded(instruction, KNOWN, rng) for _ in range(100)]
    assert len(set(said)) > 40
    assert any(set(text.split()) - telling for text in said), "no unknown word among them"
    left = [" ".join(word for word in text.split() if word in telling) for text in said]
    for text in left:
        shared = {known: len(set(text.split()) & set(known.split())) / len(set(text.split()) | set(known.split()))
                  for known in KNOWN}  # fmt: skip
        whole = text in (instruction, *paraphrases(instruction))
        assert whole or shared[instruction] == max(shared.values())


def test_a_policy_comes_to_act_in_other_looks_as_it_did_before(material):
    checkpoints, _ = material
    policy, teacher = (load_trainable(checkpoints["policy"]) for _ in range(2))
    frames, texts = pictures(), ["lift the red cube", "push the blue block to the left"] * 8
    looks = another_look(frames, np.random.default_rng(7))
    assert policy.divergence(teacher, frames, texts, edited=(frames, texts)).item() == 0.0
    before = policy.divergence(teacher, frames, texts, edited=(looks, texts)).item()
    config = AugmentChoices(steps=25, batch_size=16, learning_rate=2e-3)
    AugmentTrainer(policy, teacher, frames, texts, config, seed=0).run()
    assert policy.divergence(teacher, frames, texts, edited=(looks, texts)).item() < 0.6 * before


def test_what_improve_offers_learned_other_looks_and_says_so(material, tmp_path):
    result = improve(job_of(material, tmp_path, config={**TINY, "augment": {"steps": 2, "imagined": 4}}))
    for candidate in result.candidates:
        made = tmp_path / "candidates" / f"iteration-{candidate.iteration:02d}"
        practised = read_manifest(made)
        offered = read_manifest(tmp_path / "candidates" / f"augmented-{candidate.iteration:02d}")
        assert offered.id == candidate.id != practised.id
        assert offered.parents == practised.parents
        assert offered.lineage["augment"]["steps"] == 2
        assert offered.lineage["world_model"] == practised.lineage["world_model"]
