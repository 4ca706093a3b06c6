"""The demo's robot: the node graph, a client of it, and an operator's line to the trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from cloud_trainer.app.people import enroll
from gymnast_cli.commands.ttt import progress
from gymnast_cli.demo.choice import best_of
from gymnast_cli.demo.config import TASKS, DemoConfig
from gymnast_cli.demo.seeds import choosing_seeds, collecting_seeds, evaluation_seeds
from gymnast_cli.jobs import follow
from gymnast_cli.stages import Advance, ended, shown, won_of
from gymnast_client import Adaptation, PracticeBudget, Terms, Trainer
from gymnast_core.errors import CheckpointError
from gymnast_core.evaluation.results import Trials, trials_of
from gymnast_core.jobs import JobSpec
from gymnast_core.wire.identity import Identity
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes.client import GraphClient

NAME = "sim-0"
REPLAYED = 15
"""Start states per task of an evaluation that are recorded, so that the trainer dreams them again: its ledger of real
against imagined success."""


def free_domain() -> int:
    """Return a DDS domain that another run on this machine is unlikely to use: 1..100, by process id."""
    return 1 + os.getpid() % 100


class Robot:
    """A started robot."""

    def __init__(self, graph: Graph, client: GraphClient, trainer: Trainer, store: Path, seed: int) -> None:
        self._graph, self._client, self._trainer = graph, client, trainer
        self._store, self._seed = store, seed

    @staticmethod
    def start(folder: Path, trainer: str, policy: Path, *, seed: int, domain_id: int) -> Robot:
        """Issue identities, start the nodes and wait until every one of them answers.

        Args:
            folder: of the run; the robot lives in folder/robot.
            trainer: its address.
            policy: checkpoint folder the robot starts with.
            seed: of the run.
            domain_id: DDS domain of the graph.
        """
        ca = folder / "trainer" / "ca"
        identity = enroll(ca, NAME, "robot", out=folder / "identities" / "robot")
        operator = Identity.load(enroll(ca, "demo", "operator", out=folder / "identities" / "operator"))
        config = GraphConfig(
            robot="sim", folder=folder / "robot", robot_name=NAME, domain_id=domain_id, trainer=trainer,
            identity=identity, policy=str(policy), orders=True,
        )  # fmt: skip
        graph = Graph(config)
        graph.__enter__()
        client = GraphClient(domain_id=domain_id, folder=folder / "robot")
        client.__enter__()
        client.wait_ready(timeout_s=60.0)
        return Robot(graph, client, Trainer(trainer, operator), folder / "robot" / "store", seed)

    def __enter__(self) -> Robot:
        """Started already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up, stop the client, then the nodes."""
        self._trainer.close()
        self._client.__exit__(kind, error, trace)
        self._graph.__exit__(kind, error, trace)

    def evaluate(
        self,
        versions: Sequence[str],
        purpose: str,
        count: int,
        advance: Advance,
        *,
        tasks: Sequence[str] = TASKS,
        scene: str = "standard",
        round_number: int = 0,
        replayed: int = REPLAYED,
    ) -> dict[str, Trials]:
        """Run every version greedily from the same start states; returns version -> trials.

        Args:
            versions: checkpoint ids in the robot's store.
            purpose: "evaluation" or "choosing": which range of start states.
            count: start states per task.
            advance: called with every episode.
            tasks: names.
            scene: name of the scene.
            round_number: separates the choosing ranges of several rounds.
            replayed: see REPLAYED.
        """
        seeds = (
            evaluation_seeds(self._seed, count)
            if purpose == "evaluation"
            else choosing_seeds(self._seed, round_number, count)
        )
        rows: list[Mapping[str, Any]] = []
        total = count * len(tasks) * len(versions)

        def run(first: int, size: int, record: bool) -> None:
            done = len(rows)
            result = self._client.evaluate(
                tasks=list(tasks),
                seed_start=seeds.start + first,
                seed_count=size,
                checkpoints=[str(self.checkpoint(version)) for version in versions],
                scene=scene,
                record=record,
                timeout_s=1800.0,
                progress=lambda status: advance(*_part(status, done, total)),
            )
            rows.extend(result["episodes"])

        recorded = min(replayed, count) if purpose == "evaluation" else 0
        if recorded:
            run(0, recorded, True)
        if count > recorded:
            run(recorded, count - recorded, False)
        advance(total, total, won_of(sum(row["success"] is True for row in rows), total))
        return trials_of({"episodes": rows}, versions)

    def collect(
        self, count: int, advance: Advance, *, round_number: int, tasks: Sequence[str] = TASKS, scene: str = "standard"
    ) -> None:
        """Run and record `count` sampled on-policy episodes per task, and wait until the trainer has them all."""
        result = self._client.evaluate(
            tasks=list(tasks),
            seed_start=collecting_seeds(self._seed, round_number, count).start,
            seed_count=count,
            checkpoints=[],
            scene=scene,
            temperature_seed=self._seed * 100 + round_number,
            record=True,
            purpose="collect",
            episode_ids=f"demo-{self._seed}-{round_number}",
            timeout_s=1800.0,
            progress=lambda status: advance(*shown(status)),
        )
        rows = result["episodes"]
        ended(rows, advance)
        self._client.flush(timeout_s=120.0)

    def job(self, spec: JobSpec, advance: Advance) -> dict[str, Any]:
        """Submit a job as the operator, follow it to its end and return its result."""
        return follow(self._trainer.jobs, spec, key=f"{spec.kind}-{self._seed}-{spec.seed}", advance=advance)

    def choose(
        self, current: str, candidates: Sequence[str], config: DemoConfig, round_number: int, advance: Advance
    ) -> str:
        """Try the version in force and every candidate on the choosing states, and name the one the rule picks."""
        self._client.wait_staged(candidates, timeout_s=120.0)
        versions = [current, *candidates]
        trials = self.evaluate(versions, "choosing", config.choosing_seeds, advance, round_number=round_number)
        return best_of(trials)

    def adapt(self, asked: Mapping[str, Any], config: DemoConfig, advance: Advance) -> Adaptation:
        """Look at the scene, collect what its trust check asks for, practise: up to the preview, or why not.

        Args:
            asked: as AdaptationsClient.begin() takes it, but for the robot.
            config: of the demo.
            advance: called with what the adaptation does.
        """
        adaptations = self._trainer.adaptations
        begun = adaptations.begin(NAME, **asked).adaptation_id
        adaptation = Adaptation(adaptations, begun, on_view=lambda view: advance(*progress(view)))
        budget = PracticeBudget(config.ttt_cut_off_s / 60, config.ttt_rollouts, mode="full")
        adaptation.drive(Terms(config.ttt_collect, budget), approve=lambda view: None)
        return adaptation

    def ledger(self) -> dict[str, object]:
        """Return the trainer's comparison of real with imagined success as JSON values, see LedgerView."""
        return asdict(self._trainer.log.ledger())

    def swap(self, version: str) -> None:
        """Make a staged version the one in force, at an episode boundary."""
        if self._client.policy_version != version:
            self._client.swap(checkpoint_id=version)

    def checkpoint(self, version: str) -> Path:
        """Folder of a checkpoint in the robot's store.

        Raises:
            CheckpointError: the robot does not hold it.
        """
        path = self._store / "checkpoints" / version
        if not path.is_dir():
            raise CheckpointError(f"the robot does not hold {version}; is its bridge node connected?")
        return path


def _part(status: Mapping[str, object], before: int, total: int) -> tuple[int, int, str]:
    """Progress of one of several evaluations that belong together."""
    done, _, note = shown(status)
    return before + done, total, note
