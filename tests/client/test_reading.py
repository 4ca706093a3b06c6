"""What a trainer sends as JSON is read by its declared types: more is kept, anything else is refused with its name."""

from __future__ import annotations

import json
import math

import pytest

from cloud_trainer.flows.loop import KEPT_OF_JOB
from gymnast_client.adaptations import _adaptation
from gymnast_client.episodes import _episode
from gymnast_client.jobs import _job
from gymnast_client.log import _entry
from gymnast_client.loops import _progress
from gymnast_client.reading import read
from gymnast_client.trials import _trial
from gymnast_core.errors import CorruptError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.jobs import ImproveResult
from gymnast_core.wire.gymnast.v1 import adaptations_pb2, jobs_pb2, log_pb2, loops_pb2, trajectories_pb2, trials_pb2

ROUND = {
    "round": 1,
    "policy": "policy-a",
    "refused": "",
    "before": {"successes": 1, "n": 2, "unlabelled": 0, "tasks": {}},
}


def loop(**history: object) -> loops_pb2.Loop:
    return loops_pb2.Loop(name="night", robots=["arm-1"], state="running", history_json=json.dumps(history))


def test_what_a_newer_trainer_sends_beside_it_is_kept_and_what_it_leaves_out_is_not_missed():
    newer = {"rounds": [{**ROUND, "weather": {"sun": True}}], "moon": 3}
    history = _progress(loop(**newer)).history
    assert history == newer
    assert _progress(loops_pb2.Loop(name="night", robots=["arm-1"])).history == {}
    card = read(ResultCard, json.dumps({"n": 3, "rule": {"max_pairs": 5}, "colour": "red"}), "a card")
    assert card["colour"] == "red"
    metrics = _adaptation(
        adaptations_pb2.Adaptation(
            iterations=[adaptations_pb2.AdaptationIteration(iteration=1, metrics_json='{"kl": NaN}')]
        )
    ).iterations
    assert math.isnan(metrics[0]["kl"])


def test_a_round_whose_job_could_not_measure_everything_is_read():
    """A job's result as a loop keeps it: no sight where none of its held-out episodes succeeded."""
    trained = ImproveResult(world_model="world_model-a", judge="judge-a", judge_trust=None, sight=None).to_json()
    row = {**ROUND, **{name: value for name, value in trained.items() if name in KEPT_OF_JOB}}
    assert (row["sight"], row["judge_trust"]) == (None, None)
    assert _progress(loop(rounds=[row])).history["rounds"] == [row]


def test_a_trainer_of_0_1_names_one_robot():
    assert _progress(loops_pb2.Loop(name="night", robot="arm-1")).robots == ("arm-1",)


BAD = [
    (lambda: _progress(loop(rounds=[{**ROUND, "round": "one"}])), "history of loop night with rounds.0.round='one'"),
    (lambda: _progress(loop(rounds=[{**ROUND, "before": {"n": 2}}])), "rounds.0.before.successes=.*required"),
    (lambda: _progress(loop(rounds=7)), "rounds='7'"),
    (lambda: _progress(loops_pb2.Loop(name="night", history_json="[]")), "of loop night as list, not as a JSON"),
    (lambda: _progress(loops_pb2.Loop(name="night", history_json="{")), "history of loop night as what is no JSON"),
    (lambda: _progress(loops_pb2.Loop(name="night", history_json="[" * 100_000)), "of loop night as what is no"),
    (lambda: _job(jobs_pb2.Job(job_id="job-1", state="asleep")), "state of job job-1 as 'asleep': Input should"),
    (lambda: _job(jobs_pb2.Job(job_id="job-1", state="done", result_json="3")), "the result of job job-1 as int"),
    (lambda: _trial(trials_pb2.Trial(trial_id="t-1", card_json='{"n": "5"}')), "the card of t-1 with n='5'"),
    (lambda: _trial(trials_pb2.Trial(trial_id="t-1", card_json='{"pairs": [{"pair": 1}]}')), r"pairs\.0\.instruction="),
    (lambda: _entry(log_pb2.LogEntry(sequence=4, data_json="null")), "entry 4 of its log as NoneType"),
    (lambda: _episode(trajectories_pb2.Episode(episode_id="ep-1", metadata_json='"x"')), "the metadata of ep-1 as str"),
    (
        lambda: _adaptation(adaptations_pb2.Adaptation(adaptation_id="a-1", options_json='{"other_tasks": "push"}')),
        "the options of a-1 with other_tasks='push'",
    ),
    (
        lambda: _adaptation(adaptations_pb2.Adaptation(adaptation_id="a-1", canary_json=['{"pair": 1.5}'])),
        r"a canary pair of a-1 with pair='1\.5'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "said"), BAD, ids=range(len(BAD)))
def test_anything_else_is_refused_with_the_fields_name(ask, said):
    with pytest.raises(CorruptError, match=said):
        ask()
