"""A trainer with its console in a process of its own, on a simulated scene: python -m tests.console.serving FOLDER."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from cloud_trainer.console import Console, User
from cloud_trainer.film import film
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.tenants import PerTenant
from gymnast_core.episodes import read_summary, write_episode
from gymnast_core.episodes.spool import file_digest
from gymnast_core.jobs.replay import LedgerRow
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.expert import ScriptedExpert
from tests.console.planted_loop import PlantedEngine, planted_config
from tests.console.simulated import BASE_OFFSET_M, SimulatedScene, arm, make_policy

SCENE = "dark_table"
ROBOT = User("bridge-1", "robot")


def fill(service: Service, folder: Path, base: str) -> None:
    """Six recorded episodes, a training job under way, two rows in the ledger."""
    staging = folder / "made"
    staging.mkdir(exist_ok=True)
    with arm("standard") as env:
        policy = ScriptedExpert(env, aim_offset_m=(0.012, 0.0))
        for number, name in enumerate(("lift", "push", "put")):
            for episode in collect(env, policy, name, range(2 * number, 2 * number + 2), frame_size=128):
                episode = replace(episode, policy_versions=[base] * episode.steps)
                path = write_episode(staging, episode, robot="bridge-1", created_ns=time.time_ns())
                summary, digest, size = read_summary(path), file_digest(path), path.stat().st_size
                service.blobs.put_file(path, digest)
                service.meta.add_episodes(
                    [
                        EpisodeRow(
                            0, "default", episode.episode_id, "bridge-1", digest, size, time.time_ns(), "valid", "",
                            episode.instruction, episode.outcome.value, "operator:sim", summary.steps, base,
                        )
                    ]
                )  # fmt: skip
    job = service.jobs.submit("default", "improve", {"rounds": 1}, "first", "ana")
    service.jobs.claim(None, "somewhere-else", lease_s=3600)
    for step in range(1, 8):
        metrics = {"imagined_reward": 0.25 + 0.06 * step}
        service.jobs.append(
            "default", job.job_id, "progress", {"stage": "grpo", "step": step, "total": 10, "metrics": metrics}
        )


def main() -> None:
    """Serve until SIGTERM; FOLDER/address.json says where."""
    folder = Path(sys.argv[1])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    fresh = not (folder / "store.db").exists()
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    base = make_policy(folder / "checkpoints", BASE_OFFSET_M, stage="sft", code_version="0.1.0")
    better, same = (make_policy(folder / "checkpoints", offset, base.id, stage="grpo") for offset in (0.004, 0.005))
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with Service(ServiceConfig(folder=folder, insecure=True)) as service:
        engines = PerTenant(lambda tenant: SimulatedScene(folder, SCENE, base.id))
        planted = PlantedEngine([base.id, better.id, same.id])
        service.handlers.flows.take_up(engines.of, lambda *_: planted)
        console = Console(service, port=port)
        people = {"operator": User("ana", "operator"), "bea": User("bea", "operator"), "admin": User("root", "admin")}
        if fresh:
            fill(service, folder, base.id)
            service.handlers.flows.loops.start("default", planted_config(), robots=["bridge-1"], by="ana")
            for task, real_only, dreamt_only in (
                ("lift the red cube", 2, 5),
                ("push the blue block to the left", 3, 3),
            ):
                service.handlers.log.ledger(people["operator"]).add(
                    LedgerRow(task, base.id, "world_model-a", "judge-a", 12, real_only, dreamt_only, 20)
                )
        tokens = {key: console.gate.issue(user) for key, user in people.items()}
        address = console.start()
        with arm(SCENE) as env:
            frame = next(iter(env.reset("close the drawer", seed=7).images.values()))
        picture = film(np.asarray(frame))
        (folder / "address.partial").write_text(
            json.dumps({"address": address, "base": base.id, "better": better.id, **tokens})
        )
        (folder / "address.partial").rename(folder / "address.json")
        while not stop.is_set():
            status = {
                "state": "ready",
                "policy_version": base.id,
                "estop": False,
                "takes_orders": True,
                "spool": {"entries": 2, "bytes": 81_000},
            }
            service.robots.post(ROBOT, status, picture)
            stop.wait(1.0)
        console.stop()


if __name__ == "__main__":
    main()
