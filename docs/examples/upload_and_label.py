"""Send an episode file, wait until it is checked, label it: upload_and_label.py FILE.mcap success|failure.

Needs the identity of a robot for sending, and of an operator for the label; an administrator's does both.
"""

import os
import sys
import time
from pathlib import Path

from gymnast_client import Trainer
from gymnast_core.episodes import read_summary
from gymnast_core.types import Outcome


def main() -> None:
    """Do it."""
    path, outcome = Path(sys.argv[1]), Outcome(sys.argv[2])
    episode_id = read_summary(path).header.episode_id
    with Trainer(os.environ["GYMNAST_TRAINER"], os.environ["GYMNAST_IDENTITY"]) as trainer:
        print("it was there already" if trainer.episodes.upload(path) else f"{episode_id} is at the trainer")
        while (episode := trainer.episodes.get(episode_id)).state == "committed":
            time.sleep(0.2)
        if episode.state == "quarantined":
            sys.exit(f"{episode_id} cannot be learned from: {episode.reason}")
        print(trainer.episodes.label(episode_id, outcome).labelled_by, "says", outcome.value)
        for row in trainer.episodes.newest(5, outcome=outcome.value):
            print(row.episode_id, row.robot, row.instruction)


if __name__ == "__main__":
    main()
