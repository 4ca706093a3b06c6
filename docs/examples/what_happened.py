"""Robots, the newest actions, trials and how well the dream predicts the arm: what_happened.py."""

import datetime
import os

from gymnast_client import Trainer


def main() -> None:
    """Print it."""
    with Trainer(os.environ["GYMNAST_TRAINER"], os.environ["GYMNAST_IDENTITY"]) as trainer:
        for robot in trainer.robots.list():
            said = "silent" if robot.silent else robot.state
            print(f"robot {robot.robot}: {said}, runs {robot.policy_version or 'nothing'}")
        for entry in list(trainer.log.entries())[-10:]:
            at = datetime.datetime.fromtimestamp(entry.at_ns / 1e9).isoformat(" ", "seconds")
            print(f"{at} {entry.by} ({entry.role}): {entry.action}")
        for trial in trainer.trials.list():
            print(f"trial {trial.trial_id}: {trial.state}, {trial.pairs_done} of at most {trial.max_pairs} pairs")
        overall = trainer.log.ledger().overall
        if overall is not None:
            print(f"imagined minus real success: {overall.bias.mean:+.0%} over {overall.n} episodes")


if __name__ == "__main__":
    main()
