"""Does each gate catch a world model that is good but for one thing? Faults of benchmarks.audit_faults, gate by gate.

    python -m benchmarks.gate_faults                   collects and dreams, about half an hour on two cores
    python -m benchmarks.gate_faults --json FILE       and writes the figures there
    python -m benchmarks.gate_faults --calibrate       by bounds set anew, on one half of the episodes at home

Bounds are those the world model has beside it (`gymnast wm bounds`), set on other episodes than are asked about here:
improve and promotion are asked on one half of the episodes at home, adapt in new scenes with the world model put into
them. A case is one asking, on episodes drawn with the case's seed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.audit_faults import GOOD, PAINTED, TOLD, Obeys, collected, dream_pools
from cloud_trainer.jobs.calibrate import PARTS_OF, PICTURES, SIZES, calibrate_gate
from cloud_trainer.jobs.calibrated import GATES, calibrated_bounds
from cloud_trainer.jobs.gates import practice_bounds
from cloud_trainer.jobs.scene import LEAST_SUCCESSES, scene_gates
from cloud_trainer.jobs.scene_amounts import TRACKER_EPISODES
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.world_model.audit.audit import audit, judged_cases, require_no_worse
from cloud_trainer.world_model.audit.cases import AuditCase, imagine_cases
from cloud_trainer.world_model.audit.metrics import GripperTracker
from cloud_trainer.world_model.audit.report import AuditReport
from cloud_trainer.world_model.compact.data import clips_of, median_background
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.errors import NotTrustedError
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.jobs import AdaptSettings
from gymnast_core.jobs.audit import AuditBounds
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_core.types import Episode
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.scene import scene_named

SCENES = ("pink_cube", "dark_table")
TASKS = ("lift", "push")
EACH = 30
FIRST_SEED = 930_000
Pool = dict[str, list[AuditCase]]


@dataclass(frozen=True)
class Pools:
    """Dreams to ask the gates about.

    Attributes:
        setting: of the untouched model at home, to calibrate on.
        home: fault -> dreams of other episodes at home.
        honest: of the same episodes by the untouched model, with other noise: a child that is no worse.
        scenes: "scene task" -> fault -> dreams there.
    """

    setting: list[AuditCase]
    home: Pool
    honest: list[AuditCase]
    scenes: Mapping[str, Pool]


def scene_episodes(policy: Path) -> dict[str, list[Episode]]:
    """Sampled episodes of the policy in every scene, by "scene task"."""
    driver, found = load_policy(policy), {}
    for number, scene in enumerate(SCENES, start=1):
        env = SimEnv(scene=scene_named(scene))
        for task in TASKS:
            first = FIRST_SEED + 1000 * number
            made = [
                collect(env, driver, task, [seed], rng=np.random.default_rng((7, seed)))[0]
                for seed in range(first, first + EACH)
            ]
            found[f"{scene} {task}"] = [replace(e, episode_id=f"{scene}-{e.episode_id}") for e in made]
        env.close()
    return found


def scene_pool(home: World, mine: Sequence[Episode], seed: int) -> Pool:
    """Dreams of episodes in their scene, untouched and with every fault that can be planted there."""
    dreamer = home.in_scene(clips_of(mine, home.image_size), seed=seed).dreamer()
    pool = {GOOD: imagine_cases(dreamer, mine, draws=1, seed=seed + 1)}
    for name, change in TOLD.items():
        pool[name] = imagine_cases(Obeys(dreamer, change), mine, draws=1, seed=seed + 1)
    background = median_background(np.stack([case.real_FHWC for case in pool[GOOD]]))
    for name, paint in PAINTED.items():
        painted = []
        for number, case in enumerate(pool[GOOD]):
            rng = np.random.default_rng((seed, number))
            painted.append(replace(case, imagined_KFHWC=paint(case, rng, background, pool[GOOD])[None]))
        if any((a.imagined_KFHWC != b.imagined_KFHWC).any() for a, b in zip(painted, pool[GOOD], strict=True)):
            pool[name] = painted  # no success to be faked where none was ever recorded
    return pool


def dreamt(options: argparse.Namespace) -> tuple[Pools, list[Episode]]:
    """Collect and dream everything; returns it with the tracker's episodes."""
    held, others = collected(options)
    held = [held[i] for i in np.random.default_rng(options.seed).permutation(len(held))]
    home = load_world(options.checkpoints / "world_model")
    setting, tested = dream_pools(home.dreamer(), held, options.seed)
    other = held[len(held) // 2 :] if "promotion" in options.gates else []
    honest = imagine_cases(home.dreamer(), other, draws=1, seed=options.seed + 7) if other else []
    recorded = scene_episodes(options.checkpoints / "policy") if "adapt" in options.gates else {}
    scenes = {name: scene_pool(home, mine, options.seed) for name, mine in recorded.items()}
    return Pools(setting, tested, honest, scenes), others


def bounds_of(options: argparse.Namespace, pools: Pools, judge: LearnedJudge) -> dict[str, Mapping[str, Any]]:
    """Bounds by gate: those beside the world model, or set anew."""
    if options.calibrate:
        return {gate: calibrate_gate(gate, pools.setting, judge, seed=options.seed) for gate in options.gates}
    return {gate: calibrated_bounds(options.checkpoints / "world_model", gate) for gate in options.gates}


def trackers_of(others: Sequence[Episode], cases: int) -> list[GripperTracker]:
    """A tracker for each case, as each job fits its own: of as many episodes, drawn anew."""
    drawn = [np.random.default_rng((3, case)).permutation(len(others))[:TRACKER_EPISODES] for case in range(cases)]
    return [GripperTracker.fit([others[row] for row in rows], seed=case) for case, rows in enumerate(drawn)]


def measure(
    pools: Pools, calibrated: Mapping[str, Mapping[str, Any]], judge: LearnedJudge, others: Sequence[Episode],
    cases: int,
) -> dict[str, Any]:  # fmt: skip
    """Ask every gate that has bounds about every fault."""
    trackers = trackers_of(others, cases if "improve" in calibrated else 0)
    bounds = {
        gate: scene_gates(AdaptSettings(), found).bounds if gate == "adapt" else practice_bounds(found)
        for gate, found in calibrated.items()
    }

    def asked(gate: str, chosen: Sequence[AuditCase], number: int, demanded: AuditBounds) -> AuditReport:
        parts = PARTS_OF[gate]
        reads = trackers[number] if "motion" in parts else None
        outcomes, looked_at = judged_cases(chosen, judge, np.random.default_rng(number)), chosen[: PICTURES.get(gate)]
        return audit(looked_at, outcomes=outcomes, tracker=reads, bounds=demanded.only(parts), seed=number)

    def improve(name: str, number: int) -> list[str] | None:
        demanded = bounds["improve"].changed(episodes=None, pictures=None, trusted_steps=None)
        return list(asked("improve", _drawn(pools.home[name], "improve", number), number, demanded).broken)

    def promotion(name: str, number: int) -> list[str] | None:
        demanded = bounds["promotion"].changed(pictures=None)
        children = pools.honest if name == GOOD else pools.home[name]
        both = [_drawn(pool, "promotion", number) for pool in (children, pools.home[GOOD])]
        child, parent = (asked("promotion", chosen, number, demanded) for chosen in both)
        try:
            require_no_worse(child, parent, seed=number)
        except NotTrustedError:
            return [*(bound for bound in child.broken if bound not in parent.broken)] or ["psnr of the pair"]
        return []

    def adapt(name: str, number: int) -> list[str] | None:
        places = [place for place, pool in pools.scenes.items() if name in pool]
        chosen = _drawn(pools.scenes[places[number % len(places)]][name], "adapt", number)
        demanded = bounds["adapt"].changed(episodes=None)
        if sum(case.succeeded for case in chosen) < LEAST_SUCCESSES:
            demanded = demanded.changed(missed_success=None, correlation=None)
        return list(asked("adapt", chosen, number, demanded).broken)

    ask: dict[str, Callable[[str, int], list[str] | None]] = {
        "improve": improve, "adapt": adapt, "promotion": promotion,
    }  # fmt: skip
    rows = []
    for gate in bounds:
        for name in pools.home:
            rows.append(_row(gate, name, [ask[gate](name, i) for i in range(cases)]))
            print(line(rows[-1]), flush=True)
    return {"bounds": calibrated, "rows": rows}


def _drawn(pool: Sequence[AuditCase], gate: str, number: int) -> list[AuditCase]:
    chosen = np.random.default_rng((number, len(pool))).permutation(len(pool))[: SIZES[gate]]
    return [pool[row] for row in chosen]


def _row(gate: str, fault: str, broken: Sequence[Any]) -> dict[str, Any]:
    caught = sum(bool(found) for found in broken)
    by = Counter(bound for found in broken for bound in found)
    rate = wilson_interval(caught, len(broken)).to_json()
    return {"gate": gate, "fault": fault, "cases": len(broken), "caught": caught, **rate, "by": dict(by)}


def line(row: Mapping[str, Any]) -> str:
    """One row of the table."""
    clean = row["fault"] == GOOD
    goal = "<= 5 %" if clean else ">= 90 %"
    met = "met" if (row["mean"] <= 0.05 if clean else row["mean"] >= 0.9) else "MISSED"
    by = ", ".join(f"{name} {count}" for name, count in sorted(row["by"].items(), key=lambda item: -item[1])[:4])
    return f"{row['gate']:10s} {row['fault']:22s} {row['caught']:3d}/{row['cases']:<3d} {goal:8s}{met:7s} {by}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="policy, world_model, judge")
    parser.add_argument(
        "--pool", type=int, default=128, help="episodes asked about at home, and as many to set bounds on"
    )
    parser.add_argument("--tracker-episodes", type=int, default=160)
    parser.add_argument("--cases", type=int, default=40, help="askings per gate and fault")
    parser.add_argument("--gates", nargs="+", choices=GATES, default=GATES, help="only these")
    parser.add_argument("--calibrate", action="store_true", help="set bounds anew (default: the world model's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    use_threads()
    pools, others = dreamt(options)
    judge = LearnedJudge.load(options.checkpoints / "judge")
    found = measure(pools, bounds_of(options, pools, judge), judge, others, options.cases)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
