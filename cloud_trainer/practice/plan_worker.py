"""The process that runs a plan policy for robots, as cloud_trainer.policy_worker runs a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

from cloud_trainer.policy_worker import serve
from cloud_trainer.practice.plan_policy import plan_policy_in

if __name__ == "__main__":
    sys.exit(serve(lambda: plan_policy_in(Path(sys.argv[1]))))
