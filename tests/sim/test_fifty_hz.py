"""Chunks of 50 on the simulated arm at 50 Hz, in lockstep: no tick without an action, no seam beyond its bound."""

import pytest

from benchmarks import fifty_hz
from benchmarks.policy import Disagreeing
from gymnast_core.policies.stretched import StretchedPolicy


@pytest.mark.parametrize("latency_s", fifty_hz.LATENCIES_S)
def test_worst_seams_stay_within_the_bound_and_no_tick_starves(latency_s, monkeypatch) -> None:
    monkeypatch.setattr(fifty_hz, "INSTRUCTIONS", fifty_hz.INSTRUCTIONS[:1])
    found = fifty_hz.lockstep(StretchedPolicy(Disagreeing(0.0), fifty_hz.PARTS), latency_s, [2_000_000])
    bound_m_s = fifty_hz.CHUNKING.max_jump_m * fifty_hz.RATE_HZ
    assert (found.ticks, found.starved) == (150, 0)
    assert len(found.at_seams) >= 5
    assert max(found.wanted) > 2 * bound_m_s  # it would have jumped
    assert max(found.at_seams) <= bound_m_s + 1e-4
