"""What one gradient of a flow policy costs: the last step replayed, against all denoising steps with gradient.

`python -m benchmarks.flow_update` samples one mini-batch of the shipped flow policy (48 trajectories of 3 chunks) and
times, in turns, forward and backward of the surrogate loss -(A * log-prob):

- last step: what the default does (endpoint noise; the state before the last Euler step is in the trace);
- all steps: the same density, the flow run again from its start with gradient through every step;
- all transitions: the joint density of a flow that is stochastic at every step, from the states kept of each (what
  Flow-SDE costs without drawing one step).

Each for the whole policy, and for the velocity network alone with the features of the image held (a large policy's
expert on a cached prefix, where only the expert is trained). The image is encoded once in every case. One thread, CPU
seconds, median over turns; a ratio is of the same turn, its interval the middle 95 % of turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gymnast_core.jobs.exploration import Exploration
from gymnast_core.policies.exploration import Flow, explorer, normal_log_prob
from gymnast_core.policies.flow import FlowPolicy
from gymnast_core.policies.processor import use_threads
from gymnast_core.shipped import BASE_POLICIES, shipped_checkpoints

ROWS = 48 * 3
SIGMA = Exploration().sigma


def main() -> int:
    """Time the routes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, default=shipped_checkpoints() / BASE_POLICIES["flow"])
    parser.add_argument("--steps", default="4,10", help="denoising steps; 4 is the shipped policy's, 10 pi0's")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    use_threads()
    policy = FlowPolicy.load(args.policy, row_by_row=False)
    found = []
    print("| steps | gradient of | last step, ms | all steps | all transitions | ratio | ratio, transitions |")
    print("|---|---|---|---|---|---|---|")
    for steps in (int(word) for word in args.steps.split(",")):
        for whole in (True, False):
            found.append(measure(policy, steps, args.turns, whole=whole))
            print(found[-1].line(), flush=True)
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=1))
    return 0


@dataclasses.dataclass(frozen=True)
class Cost:
    """Median CPU seconds of each route, and ratios to the last step with the middle 95 % of turns.

    Attributes:
        steps: denoising steps.
        whole: of the whole policy; False is the velocity network alone.
        seconds: by route.
        ratios: (median, low, high) by route.
    """

    steps: int
    whole: bool
    seconds: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]

    def line(self) -> str:
        """A row of the table."""
        times = " | ".join(f"{1e3 * value:.1f}" for value in self.seconds.values())
        ratios = " | ".join(f"{m:.2f} [{low:.2f}, {high:.2f}]" for m, low, high in self.ratios.values())
        return f"| {self.steps} | {'the whole policy' if self.whole else 'the velocity network'} | {times} | {ratios} |"


def measure(policy: FlowPolicy, steps: int, turns: int, *, whole: bool) -> Cost:
    """Time every route in turns on the same mini-batch."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (ROWS, *[policy.config.image_size] * 2, 3), dtype=np.uint8)
    texts, shape = ["lift the red cube"] * ROWS, (ROWS, policy.chunk_length, 7)
    how, advantage = explorer(Exploration(rho=0.0), 1.0), torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    with torch.no_grad():
        held = dataclasses.replace(policy._flow(frames, texts), steps=steps)
        drawn = how.draw(shape, steps, rng)
        trace, states = how.sample(held, drawn).trace, held.path(torch.from_numpy(drawn["start"]))
    executed = torch.from_numpy(trace["executed"])
    later = [x for x, _ in states[1:]] + [executed]

    def all_steps(flow: Flow) -> Tensor:
        return normal_log_prob(executed, flow.run(torch.from_numpy(drawn["start"])), SIGMA)

    def all_transitions(flow: Flow) -> Tensor:
        parts = [
            normal_log_prob(after, flow.after(x, time), SIGMA) for (x, time), after in zip(states, later, strict=True)
        ]
        return torch.stack(parts).sum(0)

    routes: dict[str, Callable[[Flow], Tensor]] = {
        "last step": lambda flow: how.log_probs(flow, trace), "all steps": all_steps,
        "all transitions": all_transitions,
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(turns):
        for name, log_probs in routes.items():
            policy.network.zero_grad()
            begin = time.process_time()
            flow = dataclasses.replace(policy._flow(frames, texts), steps=steps) if whole else held
            (-(advantage * log_probs(flow)).mean()).backward()
            seconds[name].append(time.process_time() - begin)
    return Cost(steps, whole, {name: float(np.median(all_)) for name, all_ in seconds.items()}, _ratios(seconds))


def _ratios(seconds: dict[str, list[float]]) -> dict[str, tuple[float, float, float]]:
    least = np.array(seconds["last step"])
    found = {}
    for name in list(seconds)[1:]:
        low, middle, high = np.quantile(np.array(seconds[name]) / least, [0.025, 0.5, 0.975])
        found[name] = (float(middle), float(low), float(high))
    return found


if __name__ == "__main__":
    sys.exit(main())
