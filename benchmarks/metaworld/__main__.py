"""Meta-World, a benchmark that nobody here made: the whole loop in six of its tasks, `python -m benchmarks.metaworld`.

    python3 -m venv mw && mw/bin/pip install -e . metaworld==3.1.1 packaging
    MUJOCO_GL=egl .venv/bin/python -m benchmarks.metaworld --theirs mw/bin/python --seeds 0,1,2

It runs in ours and starts what needs Meta-World with --theirs; what is done stays done, and every stage goes on where
it was. One stage alone: `python -m benchmarks.metaworld STAGE OUT`; mappings, experts and collect in Meta-World's
environment, the others in ours. Starts that slips are chosen by, that is trained on, that candidates are chosen by and
that are only reported are disjoint (gymnast_core.seeds).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.metaworld.tasks import TASKS, task_named

THEIRS = ("mappings", "experts", "collect")
OURS = ("all", "table")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", default="all", choices=(*OURS, *THEIRS))
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/metaworld"), help="folder of this run")
    parser.add_argument("--theirs", type=Path, help="Python of Meta-World's environment, for all")
    parser.add_argument("--tasks", default=",".join(task.name for task in TASKS), help="comma separated")
    parser.add_argument("--seeds", default="0", help="comma separated, of 0..9")
    parser.add_argument("--amounts", default="full", choices=("full", "short", "tiny"), help="see loop.AMOUNTS")
    parser.add_argument("--true-reward", action="store_true", help="also RL in Meta-World with its own reward")
    parser.add_argument("--what", default="demos", choices=("demos", "more", "varied"), help="of collect")
    parser.add_argument("--count", type=int, default=40, help="episodes a task, of collect (default 40)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--table", type=Path, help="also write the table here")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tasks = [task_named(name) for name in args.tasks.split(",")]
    seeds = [int(word) for word in args.seeds.split(",")]
    if args.stage in OURS:
        from benchmarks.metaworld import loop

        loop.run(args, tasks, seeds)
        return
    from benchmarks.metaworld import theirs

    if args.stage == "collect":
        for seed in seeds:
            theirs.collect(args.out, tasks, args.what, seed, args.count)
    else:
        {"mappings": theirs.mappings, "experts": theirs.experts}[args.stage](args.out, tasks)


if __name__ == "__main__":
    main()
