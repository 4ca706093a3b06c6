"""Meta-World's tasks as the product meets them: `gymnast env serve` in their environment, `RemoteEnv` in ours."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.metaworld.tasks import GYMNASIUM, MetaWorldTask
from gymnast_core.errors import GymnastError
from gymnast_core.wire.env_client import RemoteEnv

READY_S = 300.0
ROOT = Path(__file__).parents[2]


class Served:
    """Starts what is asked for once, and ends it with close().

    Args:
        python: of Meta-World's environment.
        out: folder of the run; mappings and logs lie there.
    """

    def __init__(self, python: Path, out: Path) -> None:
        self._python, self._out = python.absolute(), out.absolute()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._sockets = Path(tempfile.mkdtemp(prefix="mw-"))

    def stage(self, *words: object) -> None:
        """Run a stage of Meta-World's environment to its end.

        Raises:
            CalledProcessError: it failed.
        """
        command = [self._python, "-m", "benchmarks.metaworld", *map(str, words)]
        subprocess.run(command, check=True, env=_environment(), cwd=ROOT)

    @contextmanager
    def env(self, task: MetaWorldTask, *, seldom: bool = True) -> Iterator[RemoteEnv]:
        """Give a task to drive; seldom draws only where a policy looks, for what is not recorded."""
        name = f"{task.name}-seldom" if seldom else task.name
        address = f"unix:{self._sockets / name / 'socket'}"
        if name not in self._running:
            serve = ["env", "serve", "--gymnasium", GYMNASIUM, "--mapping", self._out / f"{name}.json"]
            with (self._out / f"{name}.log").open("ab") as log:
                self._running[name] = subprocess.Popen(
                    [self._python.parent / "gymnast", *serve, "--listen", address], stdout=log, stderr=log,
                    env=_environment(), cwd=ROOT,
                )  # fmt: skip
        env = _opened(address, self._running[name])
        try:
            yield env
        finally:
            env.close()

    def close(self) -> None:
        """End what was started."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(30)
        self._running = {}


def _opened(address: str, process: subprocess.Popen[bytes]) -> RemoteEnv:
    until = time.monotonic() + READY_S
    while True:
        try:
            return RemoteEnv(address)
        except GymnastError:
            if process.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.5)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "MUJOCO_GL": "egl"}


def trials(served: Served, policy: Path, tasks: Sequence[MetaWorldTask], starts: Sequence[int]) -> list[list[object]]:
    """Run a policy greedily from the same starts of every task; returns [task, start, succeeded] rows."""
    from gymnast_core.policies import load_policy
    from gymnast_core.rollout import run_episode

    loaded, rows = load_policy(policy), list[list[object]]()
    for task in tasks:
        with served.env(task) as env:
            for start in starts:
                run_episode(env, loaded, task.instruction, seed=start)
                rows.append([task.name, start, env.succeeded()[0]])
    return rows
