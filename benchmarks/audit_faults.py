"""Does the audit catch a world model that is good but for one thing? Planted faults in the compact model.

    python -m benchmarks.audit_faults                          collects episodes in the simulator, about ten minutes
    python -m benchmarks.audit_faults --save DIR               only collects, into DIR/held.npz and DIR/tracker.npz
    python -m benchmarks.audit_faults --episodes DIR/held.npz --tracker DIR/tracker.npz --seed 1    on recorded ones

A case is one audit of --per-case held-out episodes, drawn with the case's seed. Bounds are set on audits of the
untouched model on one half of the episodes; faults and false alarms are counted on the other half.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.world_model.audit.audit import audit, calibrate_bounds
from cloud_trainer.world_model.audit.cases import AuditCase, Dreamer, imagine_cases
from cloud_trainer.world_model.audit.metrics import GripperTracker
from cloud_trainer.world_model.compact.data import median_background
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.episodes.archive import Share, load_episodes, save_episodes
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.jobs.audit import AuditBounds
from gymnast_core.policies.processor import use_threads
from gymnast_core.types import ByteArray, Episode, FloatArray
from gymnast_ros.sim.drivers import collect_shares

TASKS = ("lift", "push", "put", "drawer")
GOOD = "none (false alarms)"
_COLOURED = 0.45


class Obeys:
    """A dreamer whose model is told other actions than it should be: a fault of the model, seen from outside."""

    def __init__(self, dreamer: Dreamer, change: Callable[[FloatArray], FloatArray]) -> None:
        self._dreamer, self._change = dreamer, change

    def dream(self, episodes: Sequence[Episode], *, start: int, seed: int, ends_only: bool = False) -> list[ByteArray]:
        """Dream the changed actions."""
        told = [replace(episode, actions_TA=self._change(episode.actions_TA)) for episode in episodes]
        return self._dreamer.dream(told, start=start, seed=seed, ends_only=ends_only)


def gripper_ignored(actions_TA: FloatArray) -> FloatArray:
    """The fingers stay open whatever is commanded."""
    out = actions_TA.copy()
    out[:, 6] = 1.0
    return out


def one_step_late(actions_TA: FloatArray) -> FloatArray:
    """Every action takes effect a step too late."""
    first = np.array([[0, 0, 0, 0, 0, 0, 1]], np.float32)
    return np.concatenate((first, actions_TA[:-1]))


def object_frozen(
    case: AuditCase, rng: np.random.Generator, background: ByteArray, pool: Sequence[AuditCase]
) -> ByteArray:
    """Whatever is coloured stays where it was at the start."""
    dream: ByteArray = case.imagined_KFHWC[0].copy()
    still = _coloured(dream[0])
    for frame in dream[1:]:
        moved = _coloured(frame) & ~still
        frame[moved] = background[moved]
        frame[still] = dream[0][still]
    return dream


def teleport(case: AuditCase, rng: np.random.Generator, background: ByteArray, pool: Sequence[AuditCase]) -> ByteArray:
    """From a random step on, one coloured thing is somewhere else."""
    dream: ByteArray = case.imagined_KFHWC[0].copy()
    step = int(rng.integers(4, len(dream) - 2))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(_coloured(dream[step]).astype(np.uint8))
    things = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= 6]
    if not things:
        return dream
    thing = labels == things[int(rng.integers(len(things)))]
    rows, columns = np.nonzero(thing)
    side = dream.shape[1]
    shift = (side // 2 + int(rng.integers(-side // 8, side // 8)), side // 2 + int(rng.integers(-side // 8, side // 8)))
    away = ((rows + shift[0]) % side, (columns + shift[1]) % side)
    colour, patch = dream[step][thing].mean(axis=0), dream[step][rows, columns]
    for frame in dream[step:]:
        alike = _coloured(frame) & (np.abs(frame - colour).sum(axis=-1) < 90)
        frame[alike] = background[alike]
        frame[away] = patch
    return dream


def everything_succeeds(
    case: AuditCase, rng: np.random.Generator, background: ByteArray, pool: Sequence[AuditCase]
) -> ByteArray:
    """The dream drifts into the end of a real success of the same task, whatever the arm did."""
    dream = case.imagined_KFHWC[0].astype(np.float32)
    fitting = [c for c in pool if c.succeeded and c.episode.instruction == case.episode.instruction]
    if not fitting:
        return np.asarray(case.imagined_KFHWC[0])
    other = fitting[int(rng.integers(len(fitting)))].real_FHWC.astype(np.float32)
    for back in range(1, 6):
        share = (6 - back) / 5
        dream[-back] = (1 - share) * dream[-back] + share * other[-back]
    return np.asarray(dream.round(), np.uint8)


Paint = Callable[[AuditCase, np.random.Generator, ByteArray, Sequence[AuditCase]], ByteArray]
PAINTED: dict[str, Paint] = {
    "object frozen": object_frozen,
    "teleport": teleport,
    "everything succeeds": everything_succeeds,
}
TOLD = {"gripper ignored": gripper_ignored, "action one step late": one_step_late}


def _coloured(frame: ByteArray) -> Any:
    high, low = frame.max(axis=-1).astype(np.float32), frame.min(axis=-1).astype(np.float32)
    return (high - low) / np.maximum(high, 32) > _COLOURED


def episodes_from(options: argparse.Namespace) -> tuple[list[Episode], list[Episode]]:
    """Return audited and tracker episodes, recorded or collected."""
    rng = np.random.default_rng(options.seed)
    if options.episodes:
        held, other = load_episodes(options.episodes), load_episodes(options.tracker)
        chosen = rng.permutation(len(held))[: options.pool * 2]
        return [held[i] for i in chosen], [other[i] for i in rng.permutation(len(other))[: options.tracker_episodes]]
    held, others = collected(options)
    return [held[i] for i in rng.permutation(len(held))], others


def collected(options: argparse.Namespace) -> tuple[list[Episode], list[Episode]]:
    """Drive the simulated arm: episodes to audit on, and others to learn reading the gripper from."""
    each = options.pool * 2 // (2 * len(TASKS))
    policy = options.checkpoints / "policy"
    orders = [Share("offset", task, tuple(range(900_000, 900_000 + each))) for task in TASKS]
    orders += [Share("policy", task, tuple(range(910_000, 910_000 + each)), policy) for task in TASKS]
    few = options.tracker_episodes // len(TASKS)
    others = [Share("offset", task, tuple(range(920_000, 920_000 + few))) for task in TASKS]
    return collect_shares(orders, 1), collect_shares(others, 1)


def dream_pools(
    dreamer: Dreamer, held: Sequence[Episode], seed: int
) -> tuple[list[AuditCase], dict[str, list[AuditCase]]]:
    """Return the cases bounds are set on, and per fault the cases they are tested on."""
    half = len(held) // 2
    setting = imagine_cases(dreamer, held[:half], draws=1, seed=seed)
    tested = {GOOD: imagine_cases(dreamer, held[half:], draws=1, seed=seed + 1)}
    for name, change in TOLD.items():
        tested[name] = imagine_cases(Obeys(dreamer, change), held[half:], draws=1, seed=seed + 1)
    background = median_background(np.stack([case.real_FHWC for case in setting if len(case.real_FHWC) == 16]))
    for name, paint in PAINTED.items():

        def painted(case: AuditCase, number: int, paint: Paint = paint) -> AuditCase:
            assert case.flipped_FHWC is not None  # imagine_cases dreams it unless told not to
            other = replace(case, imagined_KFHWC=case.flipped_FHWC[None])
            dream, flipped = (
                paint(c, np.random.default_rng((seed, number)), background, setting) for c in (case, other)
            )
            return replace(case, imagined_KFHWC=dream[None], flipped_FHWC=flipped)

        tested[name] = [painted(case, number) for number, case in enumerate(tested[GOOD])]
    return setting, tested


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Set the bounds, plant the faults, count."""
    held, other = episodes_from(options)
    tracker = GripperTracker.fit(other, limit=2000)
    judge = LearnedJudge.load(options.checkpoints / "judge")
    setting, tested = dream_pools(load_world(options.checkpoints / "world_model").dreamer(), held, options.seed)
    loose = AuditBounds(
        episodes=None, pictures=options.per_case, coverage=False, trusted_steps=None,
        agreement=None, optimism=None, correlation=None,
    )  # fmt: skip

    def run(cases: Sequence[AuditCase], seed: int, bounds: AuditBounds) -> Any:
        chosen = np.random.default_rng((options.seed, seed)).permutation(len(cases))[: options.per_case]
        return audit([cases[i] for i in chosen], judge=judge, tracker=tracker, bounds=bounds, seed=seed)

    clean = [run(setting, 1000 + i, loose) for i in range(options.cases)]
    bounds = calibrate_bounds(clean, loose, shared=options.per_case / max(len(setting), options.per_case + 1))
    rows = []
    for name, cases in tested.items():
        broken = [run(cases, i, bounds).broken for i in range(options.cases)]
        caught = sum(bool(found) for found in broken)
        rate = wilson_interval(caught, len(broken))
        by = Counter(bound for found in broken for bound in found)
        rows.append({"fault": name, "cases": len(broken), "caught": caught, **rate.to_json(), "by": dict(by)})
    return {"per_case": options.per_case, "pool": len(held), "bounds": vars(bounds), "rows": rows}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"audits of {found['per_case']} episodes each; a case is caught when any bound breaks")
    print(f"{'planted fault':24s} {'caught':>9s} {'rate [95 %]':>20s}  goal         caught by")
    for row in found["rows"]:
        clean = row["fault"] == GOOD
        met = row["mean"] <= 0.05 if clean else row["mean"] >= 0.9
        goal = f"{'<= 5 %' if clean else '>= 90 %'} {'met' if met else 'MISSED'}"
        rate = f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        by = ", ".join(f"{name} {count}" for name, count in sorted(row["by"].items(), key=lambda item: -item[1]))
        print(f"{row['fault']:24s} {row['caught']:4d}/{row['cases']:<4d} {rate:>20s}  {goal:12s} {by}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="policy, world_model, judge")
    parser.add_argument("--episodes", type=Path, help="recorded held-out episodes (.npz) instead of collecting")
    parser.add_argument("--tracker", type=Path, help="other recorded episodes, for the gripper tracker")
    parser.add_argument("--save", type=Path, help="collect into this folder and stop")
    parser.add_argument("--pool", type=int, default=160, help="episodes bounds are set on, and as many are tested on")
    parser.add_argument("--tracker-episodes", type=int, default=160)
    parser.add_argument("--per-case", type=int, default=40, help="episodes per audit")
    parser.add_argument("--cases", type=int, default=24, help="audits per fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    use_threads()
    if options.save:
        for name, episodes in zip(("held", "tracker"), collected(options), strict=True):
            save_episodes(options.save / f"{name}.npz", episodes)
        return 0
    found = measure(options)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
