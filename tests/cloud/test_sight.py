"""Sight on the policy that practises: how it is measured, where its floor comes from, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from cloud_trainer.jobs.gates import pass_gates
from cloud_trainer.jobs.sight import SightGate, sight_gate
from cloud_trainer.progress import silent
from cloud_trainer.world_model.audit.outcomes import Judged, sight_of
from gymnast_core.errors import NotTrustedError
from gymnast_core.jobs import ImproveSettings
from gymnast_core.records.manifest import Manifest
from tests.cloud.learning_fakes import tiny_world
from tests.cloud.test_gates import EPISODES, Oracle, gates

OWN = [replace(episode, policy_versions=("policy-1",) * episode.steps) for episode in EPISODES]


def judged(said, real, policies):
    said, real = (np.array([letter == "s" for letter in text], bool) for text in (said, real))
    decided = np.ones(len(said), bool)
    return Judged("j", said, decided, said.astype(float), real, ("t",) * len(said), tuple(policies))


def practised(sight):
    """A policy that came out of practice whose dream had this sight on its parent."""
    audit = {"sight": {"policy-0": {"sight": sight, "low": 0.5, "high": 0.9, "succeeded": 20, "failed": 40}}}
    return Manifest("policy", "compact_policy", {}, "0", 0, parents=("policy-0",), lineage={"audit": audit})


def test_sight_matches_numbers_worked_by_hand():
    found = sight_of(judged("sssfsfffss", "ssssffffss", ["a"] * 8 + ["b"] * 2))
    # 3 of 4 successes and 1 of 4 failures; Wilson .301 to .954 and .046 to .699, put together as Newcombe does
    assert found["a"] == pytest.approx(
        {"sight": 0.5, "low": -0.136, "high": 0.789, "succeeded": 4, "failed": 4}, abs=1e-3
    )
    assert "b" not in found, "nothing of it failed"


def test_floor_is_the_sight_that_the_policy_was_made_with_unless_one_is_set():
    assert sight_gate(ImproveSettings(), practised(0.7)).floor == 0.7
    assert sight_gate(ImproveSettings(sight_floor=0.3), practised(0.7)).floor == 0.3
    assert sight_gate(ImproveSettings(), Manifest("policy", "compact_policy", {}, "0", 0)).floor is None


def test_dreams_that_confuse_the_policys_successes_and_failures_refuse_practice(tmp_path):
    def passed(wrong, floor, episodes=OWN, **options):
        demanded = gates(bounds=gates().bounds.changed(agreement=None, false_success=None, correlation=None),
                         sight=SightGate("policy-1", floor), **options)  # fmt: skip
        return pass_gates(tiny_world(), Oracle(wrong), episodes, demanded, tmp_path, progress=silent, seed=0)

    found = passed(0, 0.9).figures()["sight"]
    assert (found.sight, found.succeeded, found.failed, found.floor) == (1.0, 5, 5, 0.9)
    with pytest.raises(
        NotTrustedError, match=r"sight on policy policy-1 is 0\.20 .* under the floor 0\.90.*sight_floor"
    ):
        passed(4, 0.9)
    assert passed(4, None).figures()["sight"].sight == pytest.approx(0.2)
    why = {"sight_floor": "the arm is watched"}
    assert passed(4, 0.9, overrides=why).overridden == why
    with pytest.raises(NotTrustedError, match=r"sight on policy policy-1 was not measured"):
        passed(0, 0.9, episodes=EPISODES)
    page = (tmp_path / "audit.html").read_text()
    assert "Sight by policy" in page
