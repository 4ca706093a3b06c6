"""What a job's configuration can choose: the judge, the starts, imitation or reinforcement, whole or adapter, Ray."""

import json
from pathlib import Path

import pytest
import torch

from cloud_trainer.jobs.adapt import adapt
from cloud_trainer.jobs.imitate import imitate
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.practice import trusted_dream
from cloud_trainer.jobs.reinforce import ground_of, reported_starts
from cloud_trainer.progress import CancelledError
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import AdaptSettings, ImitateSettings, ImproveSettings
from gymnast_core.policies import load_policy, trainable
from gymnast_core.records.manifest import read_manifest
from tests.cloud.jobs import TINY, TINY_SCENE, fitting, imitation_job, in_another_scene, job_of, scene_job
from tests.cloud.openai_server import OpenAiServer, frames_in, grade

SCENE = {**TINY_SCENE, "audit": {"pictures": 1}}
QUICK = {**TINY, "refine_iterations": 0, "judge_iterations": 0, "audit": {"parts": ["outcomes"]}}


IMAGINED = fitting("imitate", QUICK)
SFT = {"iterations": 3, "batch_size": 8}


def parity(request):
    """Grants half of what it sees, by the last frame's sum: arbitrary, and the same whenever it is asked."""
    return grade(bool(int(frames_in(request)[-1].astype(int).sum()) % 2))


def endpoint(server, **more):
    voting = {"votes": 1, "control": False, "concurrency": 1}
    return {"kind": "endpoint", "base_url": server.url, "model": "tiny-vlm", "voting": voting, **more}


def test_a_job_is_rewarded_by_the_endpoint_it_names_and_asks_nothing_twice(material, tmp_path):
    with OpenAiServer(parity) as server:
        config = {**QUICK, "judge": endpoint(server), "forgetting_starts": 0}
        whole = improve(job_of(material, tmp_path / "whole", config=config)).to_json()
        asked, state = len(server.requests), tmp_path / "cut" / "grpo.state"
        with pytest.raises(CancelledError):
            improve(job_of(material, tmp_path / "cut", config=config, cancelled=state.exists))
        resumed = improve(job_of(material, tmp_path / "cut", config=config)).to_json()
        assert len(server.requests) == 2 * asked  # both runs together: every rollout was shown once
    last = read_manifest(Path(resumed["candidates"][-1]["folder"]))
    assert last.lineage["judge"].startswith("tiny-vlm+")
    assert last.lineage["judge_settings"]["model"] == "tiny-vlm"
    assert [c["id"] for c in resumed["candidates"]] == [c["id"] for c in whole["candidates"]]
    assert json.loads((tmp_path / "cut" / "judge_trust.json").read_text())["judge"].startswith("tiny-vlm+")


def test_every_choice_of_grpo_reaches_the_manifest(material, tmp_path):
    choices = {"temperature": 1.6, "epochs": 3, "clip_high": 0.4, "kl_weight": 0.1, "length_normalisation": "token",
               "target_groups": 2, "max_rounds": 2, "keep_low": 0.0, "keep_high": 1.0}  # fmt: skip
    result = improve(job_of(material, tmp_path, config={**QUICK, "grpo": choices})).to_json()
    used = read_manifest(Path(result["candidates"][-1]["folder"])).lineage["grpo"]
    assert {name: used[name] for name in choices} == choices
    told = result["candidates"][-1]["other_tasks"]
    assert set(told["by_task"]) <= {"lift the red cube", "close the drawer"}
    assert {"before", "after", "n", "most"} <= set(told)


WRONG = [
    ({"grpo": {"target_groups": 0}}, "target_groups must be a whole number of at least 1 .* 65,536, or none, got 0"),
    ({"grpo": {"max_rounds": 1.5}}, r"max_rounds must be a whole number of at least 1 .*, got 1\.5; the default is 1"),
    ({"grpo": {"max_age": -1}}, "max_age .* got -1"),
    ({"grpo": {"keep_low": 0.8, "keep_high": 0.2}}, r"keep_low 0\.8 is above keep_high 0\.2"),
    ({"grpo": {"keep_high": 1.1}}, r"keep_high must be a number of at least 0 and at most 1, got 1\.1"),
    ({"grpo": {"temperature": 0}}, "temperature must be a number above 0, got 0"),
    ({"grpo": {"temperature": float("nan")}}, "temperature .* got nan"),
    ({"grpo": {"clip_low": 2}}, "clip_low must be a number above 0 and at most 1, got 2"),
    ({"grpo": {"clip_high": "wide"}}, "clip_high .* got 'wide'"),
    ({"grpo": {"epochs": True}}, "epochs .* got True"),
    ({"grpo": {"mini_batch": 0}}, "mini_batch .* got 0"),
    ({"grpo": {"weight_decay": -0.1}}, r"weight_decay .* got -0\.1"),
    ({"grpo": {"grad_clip": 0}}, "grad_clip .* got 0"),
    ({"grpo": {"kl_weight": -1}}, "kl_weight .* got -1"),
    ({"grpo": {"length_normalisation": "tokens"}}, "length_normalisation must be one of .*, got 'tokens'"),
    ({"grpo": {"temprature": 1.6}}, r"grpo: unknown settings \['temprature'\]"),
    ({"grpo": {"group_size": 4}}, r"\['group_size'\] are settings of the job itself"),
    ({"device": "gpu"}, "config: device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
    ({"dream": {"device": 0}}, "dream: device must be auto, cpu, cuda or cuda:N, got 0"),
    ({"group_size": 1}, "group_size must be a whole number of at least 2 and at most 65,536, got 1"),
    ({"groups": 0}, "groups .* got 0"),
    ({"grpo_iterations": 0}, "grpo_iterations .* got 0"),
    ({"learning_rate": 0}, "learning_rate must be a number above 0, got 0"),
    ({"keyframe_share": 2}, "keyframe_share .* got 2"),
    ({"mask_after_success": "yes"}, "mask_after_success must be true or false, got 'yes'"),
    ({"candidate_every": 0}, "candidate_every .* got 0"),
    ({"rehearsal": 1.5}, r"rehearsal .* got 1\.5"),
    ({"anchor": -1}, "anchor .* got -1"),
    ({"forgetting_starts": -1}, "forgetting_starts .* got -1"),
    ({"check": 1}, "check must be true or false, got 1"),
    ({"novel": {"scene": 4}}, r"novel: unknown settings \['scene'\]"),
    ({"novel": {"scenes": -4}}, "novel: scenes .* got -4"),
    ({"novel": {"instructions": 1}}, "learned judge knows only"),
    ({"ray": {"actors_": 4}}, r"ray: unknown settings \['actors_'\]"),
    ({"ray": {"rollout_actors": 0}}, "ray: rollout_actors .* got 0"),
    ({"ray": {"learner_ranks": -2}}, "ray: learner_ranks .* got -2"),
    ({"ray": {"ahead": {"max_age": -1}}}, "ahead: max_age .* got -1"),
    ({"ray": {"learner_ranks": 2, "ahead": {"max_age": 1}}}, "for one learner"),
    ({"groups": 10**9, "group_size": 10**9}, "groups .* got 1000000000"),
    ({"groups": 10**5, "group_size": 10**3}, "100000 groups of group_size 1000 are 100000000 rollouts at once"),
    ({"grpo": {"max_rounds": 10**400}}, "max_rounds .* at most 1,000,000, got 1000"),
    ({"grpo": {"mini_batch": 10**9}}, "mini_batch .* got 1000000000"),
    ({"lora_rank": 10**9}, "lora_rank .* at most 4,096, got 1000000000"),
    ({"grpo_iterations": 10**18}, "grpo_iterations .* got 1000000000000000000"),
    ({"imagined_rounds": 10**18}, "imagined_rounds .* got 1000000000000000000"),
    ({"refine_iterations": 10**18}, "refine_iterations .* got"),
    ({"forgetting_starts": 10**18}, "forgetting_starts .* got"),
    ({"novel": {"scenes": 10**9}}, "scenes .* got 1000000000"),
    ({"novel": {"scenes": 1, "edits": ["change_light"] * 10**4}}, "10000 edits; at most 256"),
    ({"dream": {"image_size": 10**6}}, "dream: image_size .* at most 1,024, or none, got 1000000"),
    ({"dream": {"batch_size": 10**9}}, "dream: batch_size .* got 1000000000"),
    ({"dream": {"episode_steps": 10**9}}, "dream: episode_steps .* got 1000000000"),
    ({"dream": {"steps": 10**9}}, "dream: steps .* got 1000000000"),
    ({"audit": {"draws": 10**9}}, "audit: draws .* got 1000000000"),
    ({"sft": {"batch_size": 10**9}}, "sft: batch_size .* got 1000000000"),
    ({"sft": {"warmup": -1}}, "sft: warmup .* got -1"),
    ({"ray": {"rollout_actors": 10**9}}, "ray: rollout_actors .* got 1000000000"),
    ({"ray": {"torch_threads": 10**9}}, "ray: torch_threads .* got 1000000000"),
]


@pytest.mark.parametrize(("config", "message"), WRONG)
def test_settings_that_cannot_be_are_refused_by_name_before_anything_is_spent(config, message):
    kinds = (ImproveSettings, AdaptSettings, ImitateSettings)
    kind = next(kind for kind in kinds if config.keys() <= kind.model_fields.keys())
    with pytest.raises(ConfigError, match=message):
        kind(**config)


def test_a_judge_that_cannot_be_opened_ends_the_job_before_anything_is_trained(material, tmp_path):
    with pytest.raises(ConfigError, match="judge kind 'oracle' is not one of checkpoint, endpoint, vlm"):
        job_of(material, tmp_path, config={**TINY, "judge": {"kind": "oracle"}})
    assert not (tmp_path / "world_model").exists()


def test_practice_in_new_scenes_and_words_is_in_the_lineage(material, tmp_path):
    with OpenAiServer(parity) as server:
        novel = {"scenes": 3, "edits": ["change_light", "change_background"], "instructions": 2}
        result = improve(
            job_of(material, tmp_path, config={**QUICK, "novel": novel, "judge": endpoint(server)})
        ).to_json()
    made = made_from(result)["novel_starts"]
    assert [[edit["edit"] for edit in row["edits"]] for row in made[:3]] == [["change_light", "change_background"]] * 3
    assert [row["instruction"]["how"] for row in made[3:]] == ["template"] * 2
    assert all(row["episode"] for row in made)


def test_nothing_begins_where_candidates_are_told_on(material, tmp_path):
    job = job_of(material, tmp_path, config={**QUICK, "forgetting_starts": 2})
    dream = trusted_dream(job)
    held_out = reported_starts(job.spec.config, dream)
    ground, _ = ground_of(job, dream, held_out)
    began, audited = {start.episode_id for start in ground.starts}, set(dream.parts["audit"].episode_ids)
    assert 0 < len(held_out) <= 4
    assert set(held_out.episode_ids) <= audited
    assert began == {start.episode_id for start in dream.starts} - set(held_out.episode_ids)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_imitation_is_a_job_whole_or_by_adapter(material, tmp_path, mode):
    result = imitate(imitation_job(material, tmp_path, config={"sft": SFT}, mode=mode)).to_json()
    (candidate,) = result["candidates"]
    manifest = read_manifest(Path(candidate["folder"]))
    assert manifest.parents == (read_manifest(material[0]["policy"]).id,)
    assert (manifest.lineage["stage"], manifest.architecture == "lora") == ("sft", mode == "lora")
    assert len(manifest.lineage["episodes"]) == result["episodes"] > 0
    restarted = imitate(imitation_job(material, tmp_path, config={"sft": SFT}, mode=mode))
    assert restarted.to_json() == result


@pytest.mark.parametrize("kind", ["tokens", "flow", "history"])
def test_imitation_begins_a_policy_of_the_kind_asked_for(material, tmp_path, kind):
    config = {"sft": {**SFT, "iterations": 2}, "fresh": kind}
    (candidate,) = imitate(imitation_job(material, tmp_path, config=config)).to_json()["candidates"]
    manifest = read_manifest(Path(candidate["folder"]))
    assert manifest.parents == ()
    architecture = {"tokens": "compact_policy", "flow": "compact_flow", "history": "compact_history"}[kind]
    assert manifest.architecture == architecture
    assert load_policy(Path(candidate["folder"])).version == manifest.id


def test_iter_sft_mixes_in_what_the_judge_let_pass(material, tmp_path):
    with OpenAiServer(parity) as server:
        config = {**IMAGINED, "sft": SFT, "imagined_rounds": 2, "judge": endpoint(server)}
        result = imitate(imitation_job(material, tmp_path, config=config)).to_json()
    lineage = read_manifest(Path(result["candidates"][0]["folder"])).lineage
    assert lineage["stage"] == "iter_sft"
    assert 0 < lineage["imagined_successes"] == result["imagined_successes"] < 2 * 16
    assert lineage["world_model"] == result["world_model"]
    assert set(lineage["episodes"]) < set(lineage["starts"])


def made_from(result):
    return read_manifest(Path(result["candidates"][-1]["folder"])).lineage


ADAPT = {"scene": "standard", "instruction": "lift the red cube", "budget_s": 600.0}


def test_adaptation_begins_in_new_scenes_and_keyframes_too(material, tmp_path):
    config = {**SCENE, "grpo_iterations": 1, "novel": {"scenes": 2, "edits": ["change_light"]}, "keyframe_share": 0.5}
    made = made_from(adapt(scene_job(material, tmp_path, config=config, **ADAPT)).to_json())
    assert [[edit["edit"] for edit in row["edits"]] for row in made["novel_starts"]] == [["change_light"]] * 2
    assert {row["episode"] for row in made["novel_starts"]} <= set(made["episodes"])
    assert made["grpo"]["keyframe_share"] == 0.5
    with pytest.raises(ConfigError, match=r"forgetting_starts must be a whole number of at least 1 .* got 0"):
        scene_job(material, tmp_path / "none", config={**SCENE, "forgetting_starts": 0}, **ADAPT)


def test_iter_sft_takes_new_scenes_and_tells_other_tasks_on_starts_it_did_not_imitate(material, tmp_path):
    with OpenAiServer(parity) as server:
        config = {**IMAGINED, "sft": SFT, "imagined_rounds": 1, "judge": endpoint(server)}
        config |= {"novel": {"scenes": 2, "edits": ["change_light"]}, "forgetting_starts": 1}
        result = imitate(imitation_job(material, tmp_path, config=config)).to_json()
    lineage, told = made_from(result), result["candidates"][0]["other_tasks"]
    assert len(lineage["novel_starts"]) == 2
    assert sum(row["n"] for row in told["by_task"].values()) <= 2
    assert len(lineage["episodes"]) < 24  # 24 of the material succeed; what is told is held out


def test_imitation_refuses_by_name_what_it_could_not_use(material, tmp_path):
    asked = {"novel": {"scenes": 1}, "forgetting_starts": 3, "ray": {"rollout_actors": 1}, "groups": 4}
    with pytest.raises(ConfigError, match=r"groups, novel, ray, forgetting_starts: .* set imagined_rounds above 0"):
        imitation_job(material, tmp_path, config=asked)
    ranks = {"imagined_rounds": 1, "ray": {"learner_ranks": 2}}
    with pytest.raises(ConfigError, match=r"ray: unknown settings \['learner_ranks'\]"):
        imitation_job(material, tmp_path, config=ranks)


CLUSTER = {"address": "local", "rollout_actors": 1, "judge_actors": 1, "cpus_per_actor": 0.25}


@pytest.mark.slow
def test_adaptation_and_iter_sft_on_ray_are_those_of_one_process_to_the_bit(material, tmp_path):
    """With the learned judge, an anchor and new scenes: whatever must be made again in another process."""
    config = {
        **QUICK,
        "audit": {"pictures": 1},
        "anchor": 1.0,
        "novel": {"scenes": 2},
        "grpo": {"keep_low": 0.0, "keep_high": 1.0},
    }
    config |= {"sft": SFT, "imagined_rounds": 1}
    material = (material[0], [*material[1], *in_another_scene(material, tmp_path / "bench")])
    for kind, asked in ((adapt, {**ADAPT, "scene": "bench"}), (imitate, {})):
        here, there = (
            kind(
                job_of(
                    material,
                    tmp_path / kind.__name__ / name,
                    kind=kind.__name__,
                    config=fitting(kind.__name__, {**config, **ray}),
                    **asked,
                )
            )
            for name, ray in (("here", {}), ("there", {"ray": CLUSTER}))
        )
        assert [one.id for one in there.candidates] == [one.id for one in here.candidates] != []


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Train imports Ray Data, which warns about itself
def test_a_job_runs_on_ray_and_by_adapter(material, tmp_path, ranks):
    ray = {**CLUSTER, "learner_ranks": ranks}
    config = {**QUICK, "ray": ray, "grpo": {"keep_low": 0.0, "keep_high": 1.0}}
    result = improve(job_of(material, tmp_path, config=config, mode="lora")).to_json()
    last = read_manifest(Path(result["candidates"][-1]["folder"]))
    assert (last.architecture, last.lineage["iteration"]) == ("lora", 2)
    assert last.parents == (read_manifest(material[0]["policy"]).id,)
    greedy = {**config, "ray": {**ray, "cpus_per_actor": 100.0}}
    with pytest.raises(ConfigError, match=r"the job reserves \{'CPU': [34]00\.0"):
        improve(job_of(material, tmp_path / "greedy", config=greedy))


@pytest.mark.parametrize("kind", [improve, adapt, imitate])
def test_a_job_puts_everything_it_opens_on_the_device_it_was_given(kind, material, tmp_path, monkeypatch):
    asked = []

    def noted(name):
        asked.append(name)
        return torch.device("cpu")  # stands in for a GPU that is not here

    monkeypatch.setattr(trainable, "device_of", noted)
    config = {
        **QUICK,
        "audit": {"pictures": 1},
        "device": "cuda:1",
        "grpo_iterations": 1,
        "grpo": {"keep_low": 0.0, "keep_high": 1.0},
    }
    config |= {"sft": SFT, "imagined_rounds": 1, "forgetting_starts": 1, "anchor": 1.0}
    material = (material[0], [*material[1], *in_another_scene(material, tmp_path / "bench")])
    spec = {**ADAPT, "scene": "bench"} if kind is adapt else {}
    name = kind.__name__
    assert kind(job_of(material, tmp_path / "job", kind=name, config=fitting(name, config), **spec)).candidates
    assert set(asked) == {"cuda:1"}
    assert len(asked) >= 3  # one to learn or sample from, and both sides of the comparison
    assert ImproveSettings(device="cuda:1").dream.device == "cuda:1"
    assert ImproveSettings(device="cuda:1", dream={"device": "cpu"}).dream.device == "cpu"
