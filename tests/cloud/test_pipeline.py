"""The training jobs on real episodes of the simulator, with tiny models, in real worker processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_trainer.jobs.adapt import adapt
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.memory import JobMemoryError
from cloud_trainer.jobs.runner import CANCEL_NAME, JobFailedError, JobInputs, Recorded, run_in_process
from cloud_trainer.jobs.splits import SHARES, split_of
from cloud_trainer.progress import CancelledError, never
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.jobs import spec_of
from gymnast_core.records.manifest import read_manifest
from tests.cloud.jobs import TINY, TINY_SCENE, in_another_scene, job_of, scene_job


def inputs_of(material, kind="improve", **spec) -> JobInputs:
    checkpoints, files = material
    names = {name: name for name in checkpoints}
    asked = spec_of(kind, {"seed": 5, "config": TINY, **names, **spec})
    return JobInputs("job-1", asked, tuple(files), lambda name: checkpoints[name])


def test_every_episode_has_one_part_for_ever():
    parts = [split_of(f"ep-{n}") for n in range(4000)]
    for name, share in SHARES.items():
        assert parts.count(name) / 4000 == pytest.approx(share, abs=0.03)
    assert parts == [split_of(f"ep-{n}") for n in range(4000)]


def test_improve_leaves_candidates_with_their_lineage(material, tmp_path):
    result = improve(job_of(material, tmp_path)).to_json()
    last = read_manifest(Path(result["candidates"][-1]["folder"]))
    assert [c["iteration"] for c in result["candidates"]] == [1, 2]
    assert last.parents == (read_manifest(material[0]["policy"]).id,)
    assert last.lineage["world_model"] == result["world_model"] != read_manifest(material[0]["world_model"]).id
    assert len(last.lineage["episodes"]) == result["episodes"] == 48
    assert len(json.loads((tmp_path / "dreams.json").read_text())) >= 2


def test_improve_refuses_an_untrustworthy_dream(material, tmp_path):
    config = {**TINY, "check": True, "bounds": {"episodes": 1000}}
    with pytest.raises(NotTrustedError, match=r"episodes [0-9]+ < 1000"):
        improve(job_of(material, tmp_path, config=config))
    assert not (tmp_path / "candidates").exists()
    assert json.loads((tmp_path / "audit.json").read_text())["broken"]["episodes"]
    assert "Not trusted" in (tmp_path / "audit.html").read_text()


def test_improve_refuses_a_judge_whose_precision_is_not_proven(material, tmp_path):
    loose = {"episodes": 1, "agreement": 0.0, "false_success": 1.0, "missed_success": 1.0, "optimism": 1.0,
             "correlation": -1.0}  # fmt: skip
    config = {**TINY, "check": True, "audit": {"parts": ["outcomes"]}, "bounds": loose, "judge_floor": 0.99}
    with pytest.raises(NotTrustedError, match=r"floor 0\.99|no proven success"):
        improve(job_of(material, tmp_path, config=config))
    assert json.loads((tmp_path / "judge_trust.json").read_text())["tasks"][0]["labelled"] >= 1
    assert not (tmp_path / "candidates").exists()


def test_killed_worker_resumes_to_the_same_checkpoints(material, tmp_path):
    whole = run_in_process(inputs_of(material), tmp_path / "whole", emit=lambda kind, data: None, cancelled=never)
    work = tmp_path / "killed" / "job-1"
    work.mkdir(parents=True)
    (work / "spec.json").write_text((tmp_path / "whole" / "job-1" / "spec.json").read_text())
    process = subprocess.Popen(
        [sys.executable, "-m", "cloud_trainer.jobs.worker", str(work)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as the runner starts it
    )
    deadline = time.monotonic() + 300
    while not (work / "grpo.state").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (work / "grpo.state").exists(), "killed too early to show anything"
    again = run_in_process(inputs_of(material), tmp_path / "killed", emit=lambda kind, data: None, cancelled=never)
    assert [c.id for c in again.candidates] == [c.id for c in whole.candidates]
    assert again.imagined_reward == whole.imagined_reward


def test_cancelling_stops_the_worker_and_keeps_its_state(material, tmp_path):
    seen = []

    def emit(kind, data):
        seen.append(data.get("stage"))

    config = {**TINY, "grpo_iterations": 500, "candidate_every": 500}
    with pytest.raises(CancelledError, match=r"cancelled (while|after)"):
        run_in_process(inputs_of(material, config=config), tmp_path, emit=emit, cancelled=lambda: "grpo" in seen)
    assert (tmp_path / "job-1" / "grpo.state").exists()
    assert (tmp_path / "job-1" / CANCEL_NAME).exists()


def test_dead_worker_is_an_error_with_its_last_words(material, tmp_path):
    inputs = replace(inputs_of(material), episodes=(Recorded(tmp_path / "gone.mcap", "success"),))
    with pytest.raises(JobFailedError, match=r"gone\.mcap"):
        run_in_process(inputs, tmp_path, emit=lambda kind, data: None, cancelled=never)


def test_a_job_that_uses_more_memory_than_it_may_ends_by_name(material, tmp_path):
    with pytest.raises(JobMemoryError, match=r"used more than 0\.0625 GiB.*--job-memory-gib"):
        run_in_process(inputs_of(material), tmp_path, emit=lambda *_: None, cancelled=never, memory_bytes=64 << 20)


def test_a_job_without_episodes_says_so_and_not_how_its_worker_ended(material, tmp_path):
    with pytest.raises(ConfigError, match=r"^none of 0 episodes is labelled; collect"):
        run_in_process(replace(inputs_of(material), episodes=()), tmp_path, emit=lambda *_: None, cancelled=never)


QUICK = {**TINY_SCENE, "audit": {"pictures": 1}}
"""For what is not about the audit."""


def test_adapt_honours_its_deadline_within_one_iteration_and_keeps_what_it_has(material, tmp_path):
    def clock():  # an iteration takes 10 s: 25 s are over during the third
        return 10.0 * len(list((tmp_path / "candidates").glob("iteration-*")))

    config = {**QUICK, "grpo_iterations": 10_000}
    asked = {"scene": "standard", "instruction": "lift the red cube", "budget_s": 25.0}
    result = adapt(scene_job(material, tmp_path, config=config, **asked), clock=clock).to_json()
    assert [c["iteration"] for c in result["candidates"]] == [1, 2, 3]
    assert result["ended_by"] == "the time budget"
    assert read_manifest(Path(result["candidates"][-1]["folder"])).lineage["scene"] == "standard"


def test_adapt_that_is_cancelled_leaves_whole_iterations_to_go_on_from(material, tmp_path):
    def cancelled():
        return len(list((tmp_path / "candidates").glob("iteration-*"))) >= 2

    config = {**QUICK, "grpo_iterations": 4}
    asked = {"scene": "standard", "instruction": "lift the red cube", "budget_s": 600.0}
    with pytest.raises(CancelledError):
        adapt(scene_job(material, tmp_path, config=config, cancelled=cancelled, **asked))
    assert [path.name for path in sorted((tmp_path / "candidates").iterdir())] == ["iteration-01", "iteration-02"]
    result = adapt(scene_job(material, tmp_path, config=config, **asked)).to_json()
    assert [c["iteration"] for c in result["candidates"]] == [1, 2, 3, 4]
    assert result["ended_by"] == ""


def test_adapt_says_what_is_missing(material, tmp_path):
    with pytest.raises(ConfigError, match="collect a few there first"):
        adapt(scene_job(material, tmp_path, scene="kitchen", instruction="lift the red cube", budget_s=4.0))


def test_adapt_keeps_its_rollout_budget_trains_adapters_and_tells_what_it_checked(material, tmp_path):
    checkpoints, files = material
    recorded = [*files, *in_another_scene(material, tmp_path / "bench")]
    request = {"scene": "bench", "instruction": "lift the red cube", "budget_s": 600.0, "rollouts": 17, "mode": "lora"}
    job = scene_job((checkpoints, recorded), tmp_path / "job", config={**QUICK, "grpo_iterations": 50}, **request)
    result = adapt(job).to_json()
    assert [c["iteration"] for c in result["candidates"]] == [1, 2]  # 16 rollouts each: 17 are used up in the second
    assert result["ended_by"] == "the rollout budget"
    manifest = read_manifest(Path(result["candidates"][-1]["folder"]))
    assert (manifest.architecture, manifest.lineage["scene"]) == ("lora", "bench")
    told = result["forgetting"]
    assert told["bound"] == 0.10
    assert set(told["by_task"]) <= {"lift the red cube", "close the drawer"}
    anything = {"agreement": 0.0, "false_success": 1.0, "missed_success": 1.0, "optimism": 1.0}
    strict = {**QUICK, "check": True, "scene_episodes": 1}
    unasked = dict.fromkeys(("jump", "change_recall", "frame_lag", "gripper_change"))
    strict["bounds"] = {**anything, **unasked, "correlation": -1.0}
    again = scene_job((checkpoints, recorded), tmp_path / "strict", config=strict, **{**request, "mode": "full"})
    # an untrained judge sees nothing, so a loss cannot be excluded, whatever is trained
    with pytest.raises(NotTrustedError, match="the dream confuses success and failure elsewhere"):
        adapt(again)
    assert not (tmp_path / "strict" / "candidates").exists(), "nothing was practised"
