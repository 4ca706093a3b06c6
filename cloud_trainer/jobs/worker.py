"""The worker process of one job: reads spec.json, prints JSON lines, leaves its results in the job folder.

Each step of a job writes its checkpoint or state there, so a job that was killed goes on where it stopped and ends
with the same result.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cloud_trainer.jobs.adapt import adapt
from cloud_trainer.jobs.distil import distil
from cloud_trainer.jobs.imitate import imitate
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.memory import yield_first
from cloud_trainer.jobs.plan import plan
from cloud_trainer.jobs.release_gate import release_gate
from cloud_trainer.jobs.replay import replay
from cloud_trainer.jobs.runner import CANCEL_NAME, Recorded
from cloud_trainer.jobs.scene import preview, trust
from cloud_trainer.progress import CancelledError, ProgressEvent
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.jobs import JobResult, kind_of, spec_of
from gymnast_core.lifeline import end_with_parent
from gymnast_core.policies.processor import use_threads

JOBS: Mapping[str, Callable[[Job[Any]], JobResult]] = {
    "improve": improve,
    "imitate": imitate,
    "adapt": adapt,
    "replay": replay,
    "trust": trust,
    "preview": preview,
    "gate": release_gate,
    "distil": distil,
    "plan": plan,
}
"""Kind of the registry -> what does it."""


def main(folder: Path) -> int:
    """Run the job in `folder`; returns the exit code."""
    use_threads()
    document = json.loads((folder / "spec.json").read_text())
    kind = document["kind"]
    if kind_of(kind).spec.urgency == "background":
        os.nice(15)  # nobody waits for it
    job = Job(
        spec=spec_of(kind, document["spec"]),
        checkpoints={name: Path(path) for name, path in document["checkpoints"].items()},
        episodes=[Recorded(**{**entry, "path": Path(entry["path"])}) for entry in document["episodes"]],
        folder=folder,
        progress=_progress,
        cancelled=(folder / CANCEL_NAME).exists,
    )
    try:
        _say("result", JOBS[kind](job).to_json())
    except NotTrustedError as error:
        _say("refused", {"reason": str(error)})
    except CancelledError as error:
        _say("cancelled", {"reason": str(error)})
    except ConfigError as error:
        _say("misconfigured", {"reason": str(error)})
    return 0


def _progress(event: ProgressEvent) -> None:
    metrics = {name: value for name, value in event.metrics.items() if math.isfinite(value)}
    _say("progress", {"stage": event.stage, "step": event.step, "total": event.total, "metrics": metrics})


def _say(event: str, data: dict[str, object]) -> None:
    sys.stdout.write(json.dumps({"event": event, **data}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    yield_first()
    sys.exit(main(Path(sys.argv[1])))
