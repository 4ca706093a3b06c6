"""The choice rule, fixed before any run: what a small real evaluation says, never the imagined reward."""

from __future__ import annotations

from collections.abc import Mapping

from gymnast_core.evaluation.results import Trials


def best_of(options: Mapping[str, Trials]) -> str:
    """Return the option with the most labelled successes; on a tie the later one.

    Args:
        options: the version in force first, then the candidates by iteration, all tried on the same choosing states.
    """
    return max(reversed(list(options)), key=lambda name: sum(won is True for won in options[name].values()))
