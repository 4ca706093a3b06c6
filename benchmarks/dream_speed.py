"""How fast the compact models dream, stage by stage, and how near that is to what the processor can do.

    python -m benchmarks.dream_speed
    python -m benchmarks.dream_speed --world-model checkpoints/world_model STUDENT --json speed.json
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.dream_speed      as on an AVX2 processor

Rollouts go the way that practice goes: groups from the same starts, a policy that samples, a judge at the end. Times
are seconds of one core that this process really had, so that others on the machine count less. FLOP are those of
products and convolutions, counted by torch; the peak is the best rate of one large product or convolution in the number
format the stage computes in.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.practice.pieces import Work, roll_out
from cloud_trainer.practice.train import judged
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import CompactWorld
from gymnast_core.policies.processor import compute_dtype, dtype_name, laid_out, use_threads
from gymnast_core.policies.trainable import load_trainable
from gymnast_ros.sim.collect import evaluate
from gymnast_ros.sim.env import MAX_STEPS, SimEnv
from gymnast_ros.sim.tasks import task_for

STAGES = ("world model", "policy", "judge", "rest")
TASKS = ("lift", "push", "put", "drawer")
FIRST_SEED = 2_000_000


class Clock:
    """Core seconds and calls by stage, of calls that are wrapped."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrapped(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same call, timed."""

        def timed(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            try:
                return call(*args, **options)
            finally:
                self.seconds[stage] += time.process_time() - began

        return timed


@contextmanager
def watched(parts: Sequence[tuple[str, Any, str]], clock: Clock) -> Iterator[None]:
    """Time a method of each (stage, object, method) while the context lasts."""
    for stage, part, name in parts:
        setattr(part, name, clock.wrapped(stage, getattr(part, name)))
    try:
        yield
    finally:
        for _, part, name in parts:
            delattr(part, name)


def simulated_starts(count: int) -> list[StartState]:
    """Start states of the simulator, every task in turn."""
    world, starts = SimEnv(image_size=64), []
    for number in range(count):
        task = task_for(TASKS[number % len(TASKS)])
        seen = world.reset(task.instruction, seed=FIRST_SEED + number)
        frame = next(iter(seen.images.values()))[0]
        none = np.zeros((0, *frame.shape), np.uint8)
        starts.append(
            StartState(frame, frame, seen.proprio_BP[0], task.instruction, 0, f"start-{number}", MAX_STEPS, none,
                       np.zeros((0, 7), np.float32))
        )  # fmt: skip
    world.close()
    return starts


def peaks(dtype: torch.dtype) -> dict[str, float]:
    """Best measured FLOP/s of one core, of a product and of a 3x3 convolution."""
    a = torch.randn(1024, 1024).to(dtype)
    x = laid_out(torch.randn(32, 256, 16, 16).to(dtype))
    weight = laid_out(torch.randn(256, 256, 3, 3).to(dtype))
    flop = {"product": 2.0 * 1024**3, "convolution": 2.0 * 32 * 256 * 256 * 16 * 16 * 9}
    calls: dict[str, Callable[[], Any]] = {
        "product": lambda: a @ a,
        "convolution": lambda: F.conv2d(x, weight, padding=1),
    }
    with torch.no_grad():
        return {name: flop[name] / min(_spent(call) for _ in range(6)) for name, call in calls.items()}


def _spent(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


class Bench:
    """One policy and judge, and rollouts of them in any world model."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.policy: Any = load_trainable(options.policy, temperature=1.0)
        self.judge = LearnedJudge.load(options.judge)
        self.groups, self.group_size, self.repeats = options.groups, options.group_size, options.repeats
        self.starts = simulated_starts(options.groups)

    def measure(self, folder: Path) -> dict[str, Any]:
        """Time and count rollouts in one world model."""
        world, rows, steps = CompactWorld.load(folder), self.groups * self.group_size, MAX_STEPS
        parts = [
            ("world model", world.model, "predict"),
            ("policy", self.policy, "act"),
            ("judge", self.judge, "judge"),
        ]
        self._once(world)  # first calls choose kernels
        best: dict[str, float] = {}
        for _ in range(self.repeats):
            clock = Clock()
            with watched(parts, clock):
                total = _spent(lambda: self._once(world))
            spent = {**clock.seconds, "rest": total - sum(clock.seconds.values()), "all": total}
            best = spent if not best or total < best["all"] else best
        frames = rows * -(-steps // world.model.config.horizon)
        return {
            "world_model": world.version, "folder": str(folder), "sampling_steps": world.model.config.sampling_steps,
            "widths": list(world.model.config.widths), "rollouts": rows, "frames": frames,
            "rollouts_per_s": rows / best["all"], "frames_per_s": frames / best["world model"],
            "seconds_per_rollout": {name: best[name] / rows for name in (*STAGES, "all")},
            "flop": self._flop(world, parts, frames),
        }  # fmt: skip

    def _once(self, world: CompactWorld) -> None:
        work = Work(0, tuple(self.starts), 0, self.group_size, seed=1)
        imagined = roll_out(world, self.policy, work, "benchmark")
        judged(imagined.rollouts, self.judge, imagined.first_BHWC, mask=False)

    def _flop(self, world: CompactWorld, parts: Sequence[tuple[str, Any, str]], frames: int) -> dict[str, float]:
        """FLOP of each stage: a frame's, and a rollout's of the policy and the judge."""
        found: dict[str, float] = defaultdict(float)

        def counted(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def inner(*args: Any, **options: Any) -> Any:
                counter = FlopCounterMode(display=False)
                with counter:
                    answer = call(*args, **options)
                found[stage] += float(counter.get_total_flops())
                return answer

            return inner

        clock = Clock()
        clock.wrapped = counted  # type: ignore[method-assign]
        with watched(parts, clock):
            self._once(world)
        rows = self.groups * self.group_size
        return {
            "frame": found["world model"] / frames,
            "policy": found["policy"] / rows,
            "judge": found["judge"] / rows,
        }


def simulator_speed(policy: Path, episodes: int) -> float:
    """Episodes a core second of the simulator under the same policy, frames rendered as the policy sees them."""
    from gymnast_core.policies import load_policy

    world, acting = SimEnv(), load_policy(policy)
    evaluate(world, acting, range(FIRST_SEED, FIRST_SEED + 1), tasks=TASKS[:1])
    each = max(1, episodes // len(TASKS))
    seeds = range(FIRST_SEED + 1, FIRST_SEED + 1 + each)
    spent = _spent(lambda: evaluate(world, acting, seeds, tasks=TASKS))
    world.close()
    return each * len(TASKS) / spent


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Do everything the options ask for."""
    bench, dtype = Bench(options), compute_dtype()
    peak = {"world model": peaks(dtype), "policy": peaks(torch.float32)}
    peak["judge"] = peak["policy"]
    rows = [bench.measure(folder) for folder in options.world_model]
    for row in rows:
        per, flop = row["seconds_per_rollout"], row["flop"]
        work = {"world model": flop["frame"] * row["frames"] / row["rollouts"], "policy": flop["policy"],
                "judge": flop["judge"]}  # fmt: skip
        row["share_of_peak"] = {name: work[name] / per[name] / max(peak[name].values()) for name in work}
    return {
        "machine": platform.processor() or platform.machine(), "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__, "dtype": dtype_name(dtype), "threads": torch.get_num_threads(),
        "peak_gflops": {name: {kind: rate / 1e9 for kind, rate in peak[name].items()} for name in peak}, "worlds": rows,
        "simulator_rollouts_per_s": simulator_speed(options.policy, options.simulated) if options.simulated else None,
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """Print the tables, in Markdown."""
    peak = found["peak_gflops"]["world model"]
    print(f"One core, {found['capability']}, world model in {found['dtype']}; peak {peak['product']:.0f} GFLOP/s "
          f"(product), {peak['convolution']:.0f} (convolution)\n")  # fmt: skip
    print("| world model | steps | channels | rollouts/s | x first | frames/s | GFLOP a frame | share of peak | "
          "world model | policy | judge | rest |")  # fmt: skip
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    first = found["worlds"][0]["rollouts_per_s"]
    for row in found["worlds"]:
        per = row["seconds_per_rollout"]
        stages = " | ".join(f"{1000 * per[name]:.1f} ms, {per[name] / per['all']:.0%}" for name in STAGES)
        print(f"| {row['world_model']} | {row['sampling_steps']} | {row['widths']} | {row['rollouts_per_s']:.1f} | "
              f"{row['rollouts_per_s'] / first:.2f} | {row['frames_per_s']:.0f} | {row['flop']['frame'] / 1e9:.3f} | "
              f"{row['share_of_peak']['world model']:.0%} | {stages} |")  # fmt: skip
    if found["simulator_rollouts_per_s"]:
        print(f"\nThe simulator, same policy: {found['simulator_rollouts_per_s']:.1f} rollouts/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = Path("checkpoints")
    parser.add_argument("--world-model", type=Path, nargs="+", default=[shipped / "world_model"], metavar="FOLDER")
    parser.add_argument("--policy", type=Path, default=shipped / "policy", metavar="FOLDER")
    parser.add_argument("--judge", type=Path, default=shipped / "judge", metavar="FOLDER")
    parser.add_argument("--groups", type=int, default=8, help="start states (default %(default)s)")
    parser.add_argument("--group-size", type=int, default=8, help="rollouts of each (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="the quickest counts (default %(default)s)")
    parser.add_argument("--simulated", type=int, default=16, help="episodes of the simulator; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    use_threads()
    found = measure(options)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
