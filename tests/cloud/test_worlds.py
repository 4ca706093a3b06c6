"""The training jobs in a DiT world model: the same code as in the compact one, on real episodes of the simulator."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.jobs.adapt import adapt
from cloud_trainer.jobs.imitate import imitate
from cloud_trainer.jobs.improve import improve
from cloud_trainer.practice.imagine import RecordedActions, imagine, imagine_from, join_rollouts
from cloud_trainer.practice.kept_rollouts import read_rollouts
from cloud_trainer.progress import CancelledError
from cloud_trainer.world_model.capabilities import CAPABILITIES
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.dit.checkpoint import load_world_model, save_world_model
from cloud_trainer.world_model.dit.codec import CodecConfig, IdentityCodec
from cloud_trainer.world_model.refinement import Refinement, refine_world
from cloud_trainer.world_model.worlds import DiTWorld, load_world
from gymnast_core.errors import CheckpointError, ConfigError, NotTrustedError
from gymnast_core.jobs import ImproveSettings
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.policies.openvla.published import read_published
from gymnast_core.records.manifest import read_checkpoint, read_manifest, write_checkpoint
from tests.cloud.jobs import TINY, TINY_SCENE, job_of, scene_job
from tests.cloud.learning_fakes import episode, tiny_world
from tests.cloud.openai_server import OpenAiServer
from tests.cloud.test_job_choices import endpoint, parity
from tests.policies.openvla_folder import write_folder
from tests.world_model.tiny import tiny_model

DREAM = {"steps": 1, "batch_size": 8, "device": "cpu"}
QUICK = {
    **TINY,
    "refine_iterations": 0,
    "judge_iterations": 0,
    "forgetting_starts": 1,
    "audit": {"parts": ["outcomes"]},
}
QUICK |= {"dream": DREAM, "grpo": {"keep_low": 0.0, "keep_high": 1.0}}
SCENE = {**TINY_SCENE, "grpo_iterations": 1, "dream": DREAM, "forgetting_starts": 1, "audit": {"pictures": 1}}
SCENE |= {"grpo": QUICK["grpo"]}
CLIPS = clips_of([episode(seed) for seed in range(6)], 64)


def save_dit(folder: Path, image_size: int | None = 64) -> Path:
    model = tiny_model(patch_size=16)
    save_world_model(
        folder, model.state_dict(), model.config, objective_name="v_prediction",
        codec_config=CodecConfig(kind="identity"), image_size=image_size,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def lab(material, tmp_path_factory):
    """The shared material, with a DiT in place of the compact world model."""
    checkpoints, files = material
    return {**checkpoints, "world_model": save_dit(tmp_path_factory.mktemp("lab") / "dit")}, files


class CountingCodec(IdentityCodec):
    """Counts what is decoded."""

    def __init__(self) -> None:
        self.decoded: list[np.ndarray] = []

    def decode(self, latents):
        frames = super().decode(latents)
        self.decoded.append(frames.numpy().copy())
        return frames


def dit_world(tmp_path, codec=None, **changes) -> DiTWorld:
    world = load_world_model(save_dit(tmp_path / "dit"))
    return DiTWorld(world, codec or IdentityCodec(), DreamConfig(**{**DREAM, **changes}))


def test_frames_are_decoded_only_where_policy_or_judge_looks(tmp_path):
    codec = CountingCodec()
    world = dit_world(tmp_path, codec)
    policy = RecordedActions(CLIPS.actions_NTA)
    rollouts = imagine_from(world, starts_of(CLIPS), policy, seed=0)
    assert rollouts.frame_steps_F.tolist() == [0, 5, 10, 15]
    assert len(codec.decoded) == 4
    np.testing.assert_array_equal(np.stack(codec.decoded, axis=1), rollouts.frames_BFHWC)
    np.testing.assert_array_equal(rollouts.frames_BFHWC[:, 0], CLIPS.frames_NTHWC[:, 0])
    assert (rollouts.frames_BFHWC[:, -1] != rollouts.frames_BFHWC[:, 0]).any()


def test_a_keyframe_start_knows_its_past_and_ends_with_its_episode(tmp_path):
    start = starts_of(CLIPS.take([1]), steps=(10,))[0]
    np.testing.assert_array_equal(start.past_FHWC, CLIPS.frames_NTHWC[1, 7:10])
    np.testing.assert_array_equal(start.led_FA, CLIPS.actions_NTA[1, 6:10])
    early = starts_of(CLIPS.take([1]), steps=(2,))[0]
    np.testing.assert_array_equal(early.past_FHWC, CLIPS.frames_NTHWC[1, 1:2])
    assert len(early.led_FA) == 2
    world = dit_world(tmp_path)

    def dreamt(start):
        actions = CLIPS.actions_NTA[1:2, 10:]
        return imagine_from(world, [start], RecordedActions(actions), seed=0)

    whole = dreamt(start)
    assert whole.length_B.tolist() == [5]
    other = dreamt(replace(start, past_FHWC=255 - start.past_FHWC))
    assert (whole.frames_BFHWC[:, -1] != other.frames_BFHWC[:, -1]).any()
    with pytest.raises(ConfigError, match="lacks the frames before it"):
        dreamt(replace(start, past_FHWC=None))


def test_rows_with_different_starts_end_each_at_its_own_time(tmp_path):
    starts = [*starts_of(CLIPS.take([0])), *starts_of(CLIPS.take([1]), steps=(10,))]
    actions = np.zeros((2, 15, 7), np.float32)
    for world in (dit_world(tmp_path), tiny_world()):
        rollouts = imagine(world.env(starts), RecordedActions(actions), ["lift the red cube"] * 2, seed=0)
        assert rollouts.length_B.tolist() == [15, 5]
        np.testing.assert_array_equal(rollouts.frames_BFHWC[1, 1], rollouts.frames_BFHWC[1, 3])


def test_more_rows_than_fit_are_dreamt_in_batches_and_joined(tmp_path):
    world = dit_world(tmp_path, batch_size=2)
    starts = [*starts_of(CLIPS.take([0, 1, 2])), *starts_of(CLIPS.take([3, 4]), steps=(5,))]
    still = RecordedActions(np.zeros((1, 1, 7), np.float32))
    still.act = lambda observation, instruction, *, rng=None: RecordedActions(  # type: ignore[method-assign]
        np.zeros((len(instruction), 5, 7), np.float32)
    ).act(observation, instruction)
    rollouts = imagine_from(world, starts, still, seed=0)
    assert rollouts.length_B.tolist() == [15, 15, 15, 10, 10]
    assert rollouts.group_B.tolist() == [0, 1, 2, 3, 4]
    alone = imagine(world.env(starts[4:]), still, ["x"], seed=4)
    np.testing.assert_array_equal(rollouts.frames_BFHWC[4, :3], alone.frames_BFHWC[0])
    np.testing.assert_array_equal(rollouts.frames_BFHWC[4, 3], alone.frames_BFHWC[0, -1])
    assert join_rollouts([alone]).frames_BFHWC.shape == alone.frames_BFHWC.shape


def test_improve_runs_in_a_dit_and_an_interrupted_run_ends_with_the_same_checkpoints(lab, tmp_path):
    with OpenAiServer(parity) as server:
        config = {**QUICK, "groups": 2, "judge": endpoint(server), "keyframe_share": 0.5}
        whole = improve(job_of(lab, tmp_path / "whole", config=config)).to_json()
        state = tmp_path / "cut" / "grpo.state"
        with pytest.raises(CancelledError):
            improve(job_of(lab, tmp_path / "cut", config=config, cancelled=state.exists))
        resumed = improve(job_of(lab, tmp_path / "cut", config=config)).to_json()
    last = read_manifest(Path(resumed["candidates"][-1]["folder"]))
    assert last.lineage["world_model"] == whole["world_model"] == read_manifest(lab[0]["world_model"]).id
    assert [c["id"] for c in resumed["candidates"]] == [c["id"] for c in whole["candidates"]]
    assert [c["iteration"] for c in whole["candidates"]] == [1, 2]
    assert 0 < whole["imagined_reward"][0]["reward"] < 1
    assert whole["candidates"][-1]["other_tasks"]["n"] > 0


def test_improve_refines_a_dit_with_its_own_trainer_and_names_the_parent(lab, tmp_path):
    result = improve(job_of(lab, tmp_path, config={**TINY, "dream": DREAM, "audit": {"parts": ["outcomes"]}})).to_json()
    refined, parent = (load_world_model(folder) for folder in (tmp_path / "world_model", lab[0]["world_model"]))
    assert refined.manifest.id == result["world_model"]
    assert refined.manifest.parents == (parent.manifest.id,)
    assert refined.manifest.config == parent.manifest.config
    assert 0 < len(refined.manifest.lineage["episodes"]) < 48
    assert any((a != b).any() for a, b in zip(refined.model.parameters(), parent.model.parameters(), strict=True))
    judge = read_manifest(tmp_path / "judge") if (tmp_path / "judge").exists() else None
    assert judge is None or judge.lineage["world_model"] == result["world_model"]


def test_an_interrupted_refinement_of_a_dit_ends_with_the_same_weights(tmp_path):
    parent, episodes = save_dit(tmp_path / "parent"), [episode(seed) for seed in range(3)]
    asked = iter([False, False, True])

    def refine(out, state, **more):
        refine_world(parent, episodes, Refinement(3, 1e-3, seed=1, state=state, **more), out)
        return read_manifest(out)

    whole = refine(tmp_path / "whole", tmp_path / "a")
    with pytest.raises(CancelledError, match="after 2 of 3"):
        refine(tmp_path / "cut", tmp_path / "b", cancelled=lambda: next(asked))
    assert refine(tmp_path / "cut", tmp_path / "b").weights_sha256 == whole.weights_sha256


def test_a_refined_dit_declares_what_its_parent_did(tmp_path):
    described, weights = read_checkpoint(save_dit(tmp_path / "plain"))
    able = {**described.config[CAPABILITIES], "seeded": False, "rate_hz": 10.0}
    parent = write_checkpoint(
        tmp_path / "parent", weights, kind="world_model", architecture=described.architecture,
        config={**described.config, CAPABILITIES: able},
    )  # fmt: skip
    how = Refinement(1, 1e-3, seed=1, state=tmp_path / "state")
    refine_world(tmp_path / "parent", [episode(seed) for seed in range(3)], how, tmp_path / "child")
    child = read_manifest(tmp_path / "child")
    assert child.parents == (parent.id,)
    assert {**child.config[CAPABILITIES], "domains": []} == {**able, "domains": []}


def test_a_dit_passes_the_same_gate(lab, tmp_path):
    config = {**QUICK, "check": True, "bounds": {"episodes": 1000}}
    with pytest.raises(NotTrustedError, match=r"episodes [0-9]+ < 1000"):
        improve(job_of(lab, tmp_path, config=config))
    assert not (tmp_path / "candidates").exists()
    assert json.loads((tmp_path / "audit.json").read_text())["broken"]["episodes"]
    assert json.loads((tmp_path / "dreams.json").read_text())


def test_adapt_runs_in_a_dit(lab, tmp_path):
    asked = {"scene": "standard", "instruction": "lift the red cube", "budget_s": 600.0}
    result = adapt(scene_job(lab, tmp_path, config=SCENE, **asked)).to_json()
    assert [c["iteration"] for c in result["candidates"]] == [1]
    assert result["world_model"] == read_manifest(lab[0]["world_model"]).id


def test_openvla_practises_in_a_dit(lab, tmp_path):
    write_folder(tmp_path / "published")
    read_published(tmp_path / "published", pipeline="rl").save(tmp_path / "policy")
    checkpoints = {**lab[0], "policy": tmp_path / "policy"}
    with OpenAiServer(parity) as server:
        small = {"groups": 2, "group_size": 2, "grpo_iterations": 2, "forgetting_starts": 0}
        config = {**QUICK, **small, "judge": endpoint(server)}
        result = improve(job_of((checkpoints, lab[1]), tmp_path / "job", config=config)).to_json()
    last = read_manifest(Path(result["candidates"][-1]["folder"]))
    assert last.parents == (read_manifest(tmp_path / "policy").id,)
    assert last.lineage["world_model"] == result["world_model"]


def test_what_a_dit_lacks_is_named_with_its_remedy(tmp_path, material):
    silent = load_world(save_dit(tmp_path / "silent", image_size=None))
    with pytest.raises(ConfigError, match=r"does not say which image size.*\"image_size\": 256"):
        _ = silent.image_size
    assert load_world(tmp_path / "silent", DreamConfig(image_size=64)).image_size == 64
    with pytest.raises(CheckpointError, match="not a world model"):
        load_world(material[0]["judge"])
    with pytest.raises(ConfigError, match=r"dream: unknown settings \['step'\]"):
        ImproveSettings(dream={"step": 4})


def test_a_policy_and_a_judge_of_64_pixels_practise_in_a_world_of_96(lab, tmp_path):
    save_dit(tmp_path / "dit", image_size=96)
    large = {**lab[0], "world_model": tmp_path / "dit"}, lab[1]
    result = improve(job_of(large, tmp_path / "job", config={**QUICK, "grpo_iterations": 1})).to_json()
    lineage = read_manifest(Path(result["candidates"][0]["folder"])).lineage
    assert lineage["frame_sizes"] == {"world_model": 96, "policy": 64, "judge": 64}
    assert read_rollouts(tmp_path / "job")[1][0].shape[1:] == (96, 96, 3)


@pytest.mark.parametrize("kind", [improve, imitate])
def test_a_world_that_draws_less_than_the_policy_sees_is_refused_before_anything_is_read(kind, lab, tmp_path):
    save_dit(tmp_path / "dit", image_size=48)
    small = {**lab[0], "world_model": tmp_path / "dit"}, []
    with pytest.raises(ConfigError, match=r"draws 48 pixels a side, but policy policy-\S+ sees 64: practise in"):
        kind(job_of(small, tmp_path / "job", kind=kind.__name__, config={"dream": DREAM}))
