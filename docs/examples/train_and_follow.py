"""Train the newest policy in the world model and follow the job: train_and_follow.py."""

import os
import sys

from gymnast_client import Trainer
from gymnast_core.errors import NotTrustedError
from gymnast_core.jobs import ImproveSpec


def main() -> None:
    """Do it."""
    with Trainer(os.environ["GYMNAST_TRAINER"], os.environ["GYMNAST_IDENTITY"]) as trainer:
        policy = next(row for row in trainer.checkpoints.list() if row.kind == "policy")
        job = trainer.jobs.submit(ImproveSpec(policy=policy.checkpoint_id, seed=1))
        print("submitted", job.job_id, "with", policy.checkpoint_id)
        for event in trainer.jobs.watch(job):
            print(event.kind, event.data.get("stage", event.data.get("state", "")))
        try:
            result = trainer.jobs.result(job)
        except NotTrustedError as error:
            sys.exit(f"the world model may not be believed, so nothing was trained: {error}")
        print("candidates:", [row["id"] for row in result["candidates"]])


if __name__ == "__main__":
    main()
