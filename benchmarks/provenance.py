"""How long `why` takes at 100,000 episodes, through the service: client call, mutual TLS and answer included.

`python -m benchmarks.provenance` fills a trainer's catalogue, whose episodes and labels are recorded as they come, and
its shelf (a policy, a world model and a judge made from all of them), and asks over the wire what `gymnast why` asks.
Then an episode is retracted, and a byte of another is changed behind the trainer's back: both must be named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save

from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_client import Trainer
from gymnast_core.records.manifest import write_checkpoint
from gymnast_ros.uplink import Identity

PAGE = 1000


def main() -> int:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=5, help="calls of each kind")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), args.episodes, args.repeat)
    Console().print(table_of(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def measure(folder: Path, episodes: int, repeat: int) -> dict[str, Any]:
    """Return seconds of every kind of question, and what the answers held."""
    with Service(ServiceConfig(folder=folder / "trainer")) as service:
        _, filled_s = timed(lambda: add_episodes(service, episodes))
        policy = fill(folder / "trainer", episodes)
        _, caught_up_s = timed(service.trails.of("default").catch_up)
        identity = Identity.load(enroll(service.authority, "ada", "operator", out=folder / "ada"))
    service = Service(ServiceConfig(folder=folder / "trainer"))  # as after a restart: nothing is in memory
    with service, Trainer(service.address, identity).checkpoints as client:
        answer, first_s = timed(lambda: client.why(policy))
        asked = {
            "why": lambda: client.why(policy),
            "why --graph": lambda: client.lineage_json(policy),
            "why --verify": lambda: client.why(policy, verify=True),
        }
        seconds = {name: [timed(ask)[1] for _ in range(repeat)] for name, ask in asked.items()}
        text = client.lineage_json(policy)
        with Trainer(service.address, identity).episodes as writer:
            touched, retract_s = timed(lambda: writer.retract(name_of(7), "bumped"))
        after, tainted_s = timed(lambda: client.why(policy))
        tamper(service, name_of(11))
        damage = client.why(policy, verify=True)["damage"]
    whole = json.loads(text)
    return {
        "episodes": episodes, "counts": answer["counts"], "filled_s": filled_s, "caught_up_s": caught_up_s,
        "first_after_restart_s": first_s, "retract_s": retract_s, "why_after_retraction_s": tainted_s,
        "seconds": seconds, "graph_bytes": len(text), "nodes": len(whole["nodes"]), "edges": len(whole["edges"]),
        "touched": len(touched), "retracted": [row["id"] for row in after["retracted"]], "damage": damage,
    }  # fmt: skip


def name_of(number: int) -> str:
    """Id of an episode."""
    return f"ep-{number:06d}"


def fill(folder: Path, episodes: int) -> str:
    """Put the checkpoints on the trainer's shelf; returns the policy's id."""
    shelf = folder / "checkpoints"
    shelf.mkdir(parents=True, exist_ok=True)
    names = [name_of(number) for number in range(episodes)]
    made: dict[str, str] = {}
    for kind in ("world_model", "judge", "policy"):
        weights = save({"w": np.full(4, len(made), np.float32)})
        staging = shelf / f".{kind}"
        manifest = write_checkpoint(
            staging, weights, kind=kind, architecture="planted", config={},
            lineage={"stage": "benchmark", "episodes": names, **made},
        )  # fmt: skip
        staging.rename(shelf / manifest.id)
        made[kind] = manifest.id
    return made["policy"]


def add_episodes(service: Service, episodes: int) -> None:
    """Labelled rows of the catalogue, as ingest leaves them."""
    for first in range(0, episodes, PAGE):
        rows = [
            EpisodeRow(
                0, "default", name_of(number), "sim-0", f"{number:064x}", 180_000, 1, "valid", "", "lift the red cube",
                "success" if number % 3 else "failure", "operator:ada", 15, "policy-before",
            )
            for number in range(first, min(first + PAGE, episodes))
        ]  # fmt: skip
        service.meta.add_episodes(rows)


def tamper(service: Service, record: str) -> None:
    """Change one character of an episode's record."""
    with service._database.transaction() as connection:
        changed = sa.text("UPDATE records SET payload = replace(payload, 'red', 'rod') WHERE id = :id")
        connection.execute(changed, {"id": record})


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the answer and the wall seconds it took."""
    started = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - started


def table_of(figures: dict[str, Any]) -> Table:
    """What a person reads."""
    title = f"{figures['episodes']:,} episodes: {figures['nodes']:,} records, {figures['edges']:,} edges"
    table = Table(title=title)
    for column in ("asked over the wire", "median s", "worst s"):
        table.add_column(column, justify="left" if column.startswith("asked") else "right")
    for name, seconds in figures["seconds"].items():
        table.add_row(name, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}")
    behind = f"three checkpoints are recorded, after the last episode (all within {figures['filled_s']:.0f} s)"
    table.add_row(behind, f"{figures['caught_up_s']:.2f}", "")
    table.add_row("first why after a restart", f"{figures['first_after_restart_s']:.2f}", "")
    table.add_row(f"retract, touches {figures['touched']}", f"{figures['retract_s']:.2f}", "")
    table.add_row(f"why, names {', '.join(figures['retracted'])}", f"{figures['why_after_retraction_s']:.2f}", "")
    table.add_row(f"changed byte: {figures['damage'][0]['id'] if figures['damage'] else 'NOT FOUND'}", "", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
