"""At which temperature a policy is sampled: what may be asked for, what older words mean, and who cannot be asked."""

from __future__ import annotations

import pytest

from gymnast_core.errors import ConfigError
from gymnast_core.practice import PracticeAsked, PracticeState, practice_asked
from gymnast_core.queue import StartsSpec
from gymnast_core.sampling import AtTemperature, at_temperature, own_temperature, set_temperature
from gymnast_ros.run.codec import BadRequestError, checked
from gymnast_ros.run.policy_source import ReplayPolicy
from gymnast_ros.run.requests import Evaluate, Practise, RunEpisode

PAIR = {"task": "put", "reset": "take", "hours": 1.0}
STARTS = {"tasks": ["lift"], "seed_start": 1, "seed_count": 1}


@pytest.mark.parametrize("value", [0, -0.5, 10.5, float("nan"), float("inf"), "warm", True])
def test_what_is_no_temperature_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        practice_asked({**PAIR, "temperature": value})
    with pytest.raises(ConfigError, match="temperature"):
        StartsSpec.model_validate({**STARTS, "temperature_seed": 0, "temperature": value})
    with pytest.raises(BadRequestError, match="temperature"):
        checked(Evaluate, {**STARTS, "temperature_seed": 0, "temperature": value})


def test_a_temperature_where_nothing_is_sampled_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a temperature of 0\.25 samples, and a seed of -1 is greedy"):
        practice_asked({**PAIR, "sample": -1, "temperature": 0.25})
    with pytest.raises(ConfigError, match="is greedy"):
        StartsSpec.model_validate({**STARTS, "temperature": 0.25})
    with pytest.raises(BadRequestError, match="is greedy"):
        checked(RunEpisode, {"instruction": "lift", "seed": 1, "temperature": 0.25})


def test_orders_and_runs_from_before_temperatures_are_read() -> None:
    assert practice_asked(PAIR).temperature is None
    assert StartsSpec.model_validate(STARTS).temperature is None
    assert checked(Evaluate, STARTS).temperature is None
    assert checked(Practise, {**PAIR, "explore": 0.25}).sample == 0
    assert practice_asked({**PAIR, "explore": 0.0}).sample == -1, "none of its episodes was sampled"
    kept = PracticeState(run="practice-1", asked=PracticeAsked(**PAIR), began_ns=1).model_dump(mode="json")
    kept["asked"]["explore"] = 0.5
    assert PracticeState.model_validate(kept).asked == PracticeAsked(**PAIR)


def test_a_policy_without_a_temperature_is_named() -> None:
    recorded = ReplayPolicy([[0.0] * 7], "replay-wave")
    assert at_temperature(recorded, None) is recorded
    for ask in (at_temperature, set_temperature):
        with pytest.raises(ConfigError, match="policy replay-wave cannot be sampled at another temperature"):
            ask(recorded, 0.25)
    assert own_temperature(recorded) is None
    assert not isinstance(recorded, AtTemperature)
