"""The examples of the documentation, each run against `gymnast serve` as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_trainer.service import enroll
from gymnast_cli.demo.trainer_process import trainer_process
from gymnast_client import Trainer
from gymnast_core.episodes import write_episode
from gymnast_core.errors import ConfigError, NotPossibleError, NotTrustedError
from gymnast_core.jobs import ImproveSpec
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.wire.errors import NotFoundError, NotPermittedError
from tests.bridge.conftest import make_episode
from tests.world_model.tiny import tiny_episode

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RUN = ("upload_and_label.py", "train_and_follow.py", "what_happened.py", "grpo_in_a_dream.py")


class Lab:
    """A trainer in a process of its own, and people."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address

    def identity(self, name: str, role: str) -> Path:
        out = self.folder / "ids" / f"{name}-{role}"
        return out if out.exists() else enroll(self.folder / "trainer" / "ca", name, role, out=out)

    def run(self, example: str, *words: str, role: str) -> subprocess.CompletedProcess[str]:
        """Run an example as a user with an identity of this role does."""
        environment = {
            **os.environ, "GYMNAST_TRAINER": self.address, "GYMNAST_IDENTITY": str(self.identity("ana", role)),
        }  # fmt: skip
        command = [sys.executable, str(EXAMPLES / example), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    options = ("--host", "127.0.0.1", "--port", "0", "--console-port", "0")
    with trainer_process(folder / "trainer", (), options=options, timeout_s=180.0) as address:
        yield Lab(folder, address)


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUN)


def test_an_episode_is_sent_checked_and_labelled(lab, tmp_path):
    path = make_episode(tmp_path, "made-by-a-script")
    done = lab.run("upload_and_label.py", str(path), "success", role="admin")
    assert done.returncode == 0, done.stderr
    assert "made-by-a-script is at the trainer" in done.stdout
    assert "operator:ana says success" in done.stdout
    assert "made-by-a-script ana lift the red cube" in done.stdout
    again = lab.run("upload_and_label.py", str(path), "failure", role="admin")
    assert "it was there already" in again.stdout
    refused = lab.run("upload_and_label.py", str(path), "success", role="operator")
    assert "NotPermittedError" in refused.stderr


def test_a_job_is_followed_to_the_class_of_error_it_ended_with(lab):
    """One episode is too little to learn from: the job ends with that, and the client raises its end."""
    done = lab.run("train_and_follow.py", role="operator")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "submitted job-" in done.stdout
    assert "state running" in done.stdout
    assert "failed: ConfigError: no episodes for the judge part" in done.stderr
    seen = lab.run("what_happened.py", role="operator")
    assert seen.returncode == 0, seen.stderr
    assert "ana (operator): submit" in seen.stdout


def test_what_the_trainer_refuses_is_raised_as_what_it_is(lab):
    with Trainer(lab.address, lab.identity("ana", "operator")) as trainer:
        policy = next(row.checkpoint_id for row in trainer.checkpoints.list() if row.kind == "policy")
        with pytest.raises(NotFoundError, match="there is no job"):
            trainer.jobs.get("job-0")
        with pytest.raises(NotFoundError, match="no such world model"):
            trainer.jobs.submit(ImproveSpec(policy=policy, world_model="world_model-0"))
        with pytest.raises(NotPossibleError, match="has not reported here"):
            trainer.adaptations.begin("nobody", "lift")
        with pytest.raises(NotPossibleError, match="has not reported here"):
            trainer.trials.begin(policy, "nobody", ["lift"])
        with pytest.raises(NotPermittedError, match="may not promote"):
            trainer.checkpoints.promote(policy)
        with pytest.raises(ConfigError, match="does not fit"):
            trainer.adaptations.begin("nobody", "lift", seed=2**70)
    with Trainer(lab.address, lab.identity("root", "admin")) as trainer:
        with pytest.raises(NotTrustedError, match="has not won a trial"):
            trainer.checkpoints.promote(policy)
        with pytest.raises(ConfigError, match="the reason why robots go back"):
            trainer.checkpoints.roll_back(policy, reason=" ")
        assert trainer.log_in().address.startswith("http://127.0.0.1:")
        before = trainer.log.head()
        assert all(entry.by and entry.at_ns for entry in trainer.log.entries())
        assert before == trainer.log.head(), "looking is no action"


def test_a_policy_is_practised_in_a_dream_by_gymnasium_alone(lab, tmp_path):
    for seed in range(2):
        write_episode(tmp_path / "episodes", tiny_episode(seed, steps=15, size=64), robot="wx250s")
    shipped = shipped_checkpoints()
    words = (tmp_path / "episodes", shipped / "world_model", shipped / "judge", 1, 13)
    done = lab.run("grpo_in_a_dream.py", *map(str, words), role="operator")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^iteration 0: [01]\.\d\d of the dreams succeed$", done.stdout, re.MULTILINE)
