"""The queue as the command line meets it: who waits for whom, and what is refused while one still looks."""

from __future__ import annotations

import functools
import json
import threading

import pytest

from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.jobs.submission import check_submission
from cloud_trainer.service import Service, ServiceConfig
from gymnast_cli.main import main
from gymnast_client import Trainer
from gymnast_ros.uplink import Identity
from tests.bridge.conftest import make_checkpoint

PATIENCE_S = 60.0


def test_an_adaptation_does_not_wait_behind_a_training_of_a_day(tmp_path, identities):
    over, begun = threading.Event(), threading.Event()

    def runner(context):
        if context.job.kind == "improve":
            begun.set()
            assert over.wait(PATIENCE_S)
        return {"did": context.job.kind}

    with Service(ServiceConfig(folder=tmp_path / "trainer"), runner) as service:
        ada = Identity.load(identities("ada", "operator"))
        try:
            with Trainer(service.address, ada).jobs as jobs:
                day, waiting = (jobs.submit("improve", {"policy": "p"}, key) for key in ("day", "next"))
                assert begun.wait(PATIENCE_S)
                quick = jobs.submit("adapt", {"policy": "p"}, "quick")
                *_, last = jobs.watch(quick.job_id)
                assert last.data["state"] == "done"
                assert (jobs.get(day.job_id).state, jobs.get(waiting.job_id).state) == ("running", "waiting")
        finally:
            over.set()


@pytest.fixture
def submit(tmp_path, identities, capsys):
    """`gymnast jobs submit` at a trainer with one policy and one judge; returns code and answer."""
    shelves = Shelves(tmp_path / "trainer")
    known = {
        kind: shelves.of("default").add(tmp_path / kind).id
        for kind in ("policy", "judge")
        if make_checkpoint(tmp_path / kind, kind=kind)
    }
    with Service(ServiceConfig(folder=tmp_path / "trainer"), lambda context: {}) as service:
        service.check_job = functools.partial(check_submission, shelves, service.episodes_of)
        ada = identities("ada", "operator")

        def run(kind: str, **spec: object):
            words = ("--json", "jobs", "submit", kind, "--spec", json.dumps(spec))
            code = main([*words, "--trainer", service.address, "--identity", str(ada)])
            return code, json.loads(capsys.readouterr().out)

        run.known = known  # type: ignore[attr-defined]
        run.jobs = service.jobs  # type: ignore[attr-defined]
        yield run


def test_what_a_job_names_and_the_trainer_lacks_is_refused_at_once(submit):
    policy, judge = submit.known["policy"], submit.known["judge"]
    for kind, spec, named in (
        ("improve", {}, "spec lacks policy: checkpoint to start from (`gymnast weights list`)"),
        (
            "improve",
            {"policy": "policy-nowhere"},
            f"'policy-nowhere': this trainer has no such policy; it has {policy}",
        ),
        ("adapt", {"policy": judge, "scene": "s", "instruction": "i"}, f"{judge!r}: this trainer has no such policy"),
        ("imitate", {"policy": policy, "world_model": "wm"}, "'wm': this trainer has no such world model; it has no"),
        ("replay", {"policy": policy, "episodes": ["ep-nowhere"]}, "episodes ep-nowhere are not at this trainer"),
    ):
        code, said = submit(kind, **spec)
        assert code != 0, spec
        assert named in said["message"]
    assert submit.jobs.list(None) == []
    assert submit("improve", policy=policy, judge=judge)[0] == 0
