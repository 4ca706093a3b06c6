"""How long a world model is refined: as set, else by whether several policies acted in the episodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloud_trainer.jobs.refine import OF_ONE, OF_SEVERAL, refinement_of
from gymnast_core.jobs import ImproveSettings
from tests.cloud.learning_fakes import episode


def acted(policy: str):
    return replace(episode(0), metadata={"policy": policy})


@pytest.mark.parametrize(("policies", "usual"), [(("a", "a"), OF_ONE), (("a", "b"), OF_SEVERAL)])
def test_episodes_of_several_policies_are_learned_from_longer_unless_an_amount_is_set(policies, usual):
    episodes = [acted(policy) for policy in policies]
    assert refinement_of(ImproveSettings(), episodes) == usual
    assert refinement_of(ImproveSettings(refine_iterations=0, refine_rate=2e-4), episodes) == (0, 2e-4)
