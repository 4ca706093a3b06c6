"""A judge of real episodes on a running trainer: where it is proven it labels, elsewhere it abstains and says why."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.app.judge_process import JudgeProcess
from cloud_trainer.flows import judge_watch
from cloud_trainer.flows.judge_watch import EpisodeWatch
from cloud_trainer.service import Service, ServiceConfig
from gymnast_client import Trainer
from gymnast_core.episodes import read_episode
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome
from gymnast_core.wire.gymnast.v1 import judge_pb2
from gymnast_core.wire.judging import request_of
from gymnast_ros.uplink import RemoteJudge

from .conftest import make_episode

SHIPPED = Path(__file__).parents[2] / "checkpoints"
TASK = "lift the red cube"
CALLS, FLOOR = 8, 0.6
"""8 of 8 are proven above 0.67."""


class BrightJudge:
    """Calls an episode a success whose last frame is bright, a failure whose last frame is dark; between: abstains."""

    version, taught_by = "judge-bright", frozenset({"taught"})

    def __init__(self):
        self.away = False

    def judge(self, request: judge_pb2.JudgeRequest) -> Judgement:
        from gymnast_core.wire.judging import frames_from

        if self.away:
            return Judgement.abstain("away", judge=self.version)
        light, frame = float(frames_from(request).popitem()[1][-1].mean()) / 255, request.frame_steps[-1]
        if 0.3 < light < 0.7:
            return Judgement.abstain("neither bright nor dark", judge=self.version, score=light, frame=frame)
        return Judgement(Outcome.SUCCESS if light > 0.5 else Outcome.FAILURE, light, frame, self.version, "light")


BRIGHT, GREY, DARK = 240, 128, 10
S, F, U = Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNLABELLED


@pytest.fixture
def judge():
    return BrightJudge()


@pytest.fixture
def service(tmp_path, judge):
    with Service(ServiceConfig(folder=tmp_path / "trainer"), judge=judge, judge_floor=FLOOR) as running:
        yield running


@contextmanager
def trainer_of(service, identity):
    with Trainer(service.address, identity) as trainer:
        yield trainer


def episode(folder, name, light, label, *, by="operator", scene="bench", purpose="collect", cut=""):
    """A recording whose frames are all of one grey level."""
    path = make_episode(folder, name, outcome=label, labelled_by="" if label is U else by,
                        truncated_reason=cut, metadata={"scene": scene, "purpose": purpose})  # fmt: skip
    dimmed = read_episode(path)
    images = {"cam": np.full_like(dimmed.images["cam"], light)}
    from gymnast_core.episodes import write_episode

    path.unlink()
    return write_episode(
        folder, replace(dimmed, images=images, metadata={"scene": scene, "purpose": purpose}), robot="r"
    )


@pytest.fixture
def sent(service, identities, tmp_path):
    """send(name, light, label, ...) uploads an episode as robot arm-1 and waits until it was looked into."""
    robot = identities("arm-1", "robot")

    def send(*episodes):
        with trainer_of(service, robot) as trainer:
            for fields in episodes:
                fields = dict(
                    zip(("name", "light", "label"), fields[:3], strict=True), **(fields[3] if fields[3:] else {})
                )
                trainer.episodes.upload(
                    episode(tmp_path, fields.pop("name"), fields.pop("light"), fields.pop("label"), **fields)
                )
        assert service.validator.settle(60)

    return send


@pytest.fixture
def watch(service, judge):
    return EpisodeWatch(service.episodes, service.judgements, service.trails, judge, FLOOR)


@pytest.fixture
def proven(sent, watch):
    """Enough operators' labels in the scene bench for both words; the judge was right each time."""
    sent(*[(f"s{n}", BRIGHT, S) for n in range(CALLS)], *[(f"f{n}", DARK, F) for n in range(CALLS)])
    watch.look()


def row_of(service, name, tenant="default"):
    return service.meta.episode(tenant, name)


def frames(light):
    return {"cam": np.full((5, 32, 32, 3), light, np.uint8)}


def test_it_labels_what_arrives_in_the_scene_where_it_is_proven_and_abstains_in_another(service, proven, sent, watch):
    sent(("new", BRIGHT, U), ("dark", DARK, U), ("grey", GREY, U), ("there", BRIGHT, U, {"scene": "kitchen"}))
    watch.look()
    labels = {name: (row_of(service, name).outcome, row_of(service, name).labelled_by)
              for name in ("new", "dark", "grey", "there")}  # fmt: skip
    assert labels == {
        "new": ("success", "judge:judge-bright"), "dark": ("failure", "judge:judge-bright"),
        "grey": ("unlabelled", ""), "there": ("unlabelled", ""),
    }  # fmt: skip


def test_an_operators_label_wins_and_both_are_kept(service, proven, sent, watch, identities):
    sent(("new", BRIGHT, U))
    watch.look()
    with trainer_of(service, identities("ana", "operator")) as trainer:
        trainer.episodes.label("new", F)
    watch.look()
    row = row_of(service, "new")
    assert (row.outcome, row.labelled_by) == ("failure", "operator:ana")
    labels, _ = service.handlers.episodes.story(_ana(), "new")
    assert [(label["outcome"], label["by"]) for label in labels] == [
        ("success", "judge:judge-bright"), ("failure", "operator:ana"),
    ]  # fmt: skip
    assert not service.trails.of("default").label_judged("new", Judgement(S, 0.9, 3, "judge-bright", ""))
    assert row_of(service, "new").outcome == "failure"


def test_a_judge_never_proves_itself(service, proven, sent, watch):
    sent(*[(f"own{n}", BRIGHT, S, {"by": "judge:judge-bright", "scene": "kitchen"}) for n in range(CALLS)])
    sent(("there", BRIGHT, U, {"scene": "kitchen"}))
    watch.look()
    assert row_of(service, "there").outcome == "unlabelled"


def test_what_it_was_taught_by_proves_nothing(service, sent, watch):
    sent(("taught", BRIGHT, S), ("fresh", BRIGHT, S))
    watch.look()
    [row] = service.handlers.judging.precision(_ana())
    assert [one.episode_id for one in service.handlers.judging.evidence(_ana(), row)] == ["fresh"]


@pytest.mark.parametrize("how", [{"purpose": "trial"}, {"purpose": "canary"}, {"cut": "estop"}])
def test_blinded_runs_and_cut_episodes_are_left_to_people(service, proven, sent, watch, how):
    sent(("new", BRIGHT, U, how))
    watch.look()
    assert row_of(service, "new").outcome == "unlabelled"


def test_what_waited_is_labelled_once_the_judge_is_proven_there(service, sent, watch, judge, identities, monkeypatch):
    monkeypatch.setattr(judge_watch, "REVISIT_S", 0.0)
    sent(("bright", BRIGHT, U), ("dark", DARK, U), ("grey", GREY, U), ("there", BRIGHT, U, {"scene": "kitchen"}),
         ("blind", BRIGHT, U, {"purpose": "trial"}), ("cut", BRIGHT, U, {"cut": "estop"}), ("person", BRIGHT, U),
         *[(f"s{n}", BRIGHT, U) for n in range(CALLS)])  # fmt: skip
    watch.look()
    with trainer_of(service, identities("ana", "operator")) as trainer:
        for n in range(CALLS - 3):  # no judge is proven by so few
            trainer.episodes.label(f"s{n}", S)
        watch.look()
        assert row_of(service, "bright").outcome == "unlabelled"
        trainer.episodes.label("person", F)  # it was wrong there
        for n in range(CALLS - 3, CALLS):
            trainer.episodes.label(f"s{n}", S)
        watch.look()
        assert row_of(service, "bright").outcome == "unlabelled", "8 of 9"
        trainer.episodes.label("person", S)
    watch.look()
    waits = {name: row_of(service, name).outcome for name in ("dark", "grey", "there", "blind", "cut")}
    assert set(waits.values()) == {"unlabelled"}, waits
    assert (row_of(service, "bright").outcome, row_of(service, "bright").labelled_by) == (
        "success", "judge:judge-bright"
    )  # fmt: skip
    assert row_of(service, "person").labelled_by == "operator:ana"
    [label] = service.handlers.episodes.story(_ana(), "bright")[0]
    assert label["by"] == "judge:judge-bright"


def test_a_robot_asks_and_gets_a_word_only_where_it_is_proven(service, proven, identities):
    judge = RemoteJudge(service.address, identities("arm-2", "robot"))
    here, there = (judge.judge(frames(BRIGHT), TASK, scene=scene) for scene in ("bench", "kitchen"))
    judge.close()
    assert (here.outcome, here.labelled_by, here.frame) == (S, "judge:judge-bright", 4)
    assert there.outcome is Outcome.ABSTAIN
    assert "never called a success on 'lift the red cube' in scene 'kitchen'" in there.reason


def test_another_tenants_labels_prove_nothing(service, proven, identities):
    judge = RemoteJudge(service.address, identities("arm-9", "robot", "other"))
    assert judge.judge(frames(BRIGHT), TASK, scene="bench").outcome is Outcome.ABSTAIN
    judge.close()


def test_a_withdrawn_episode_proves_nothing_any_more(service, proven, identities):
    with trainer_of(service, identities("ana", "operator")) as trainer:
        for n in range(4):
            trainer.episodes.retract(f"s{n}", "wrong cube")
        [row] = trainer.judging.precision().rows
    assert (row.called_success, row.labels_success, row.labels_failure) == (4, False, True)


def test_a_corrected_label_counts_at_once(service, proven, identities):
    with trainer_of(service, identities("ana", "operator")) as trainer:
        for n in range(2):
            trainer.episodes.label(f"s{n}", F)
        [row] = trainer.judging.precision(evidence=True).rows
    assert (row.called_success, row.true_success, row.labels_success) == (8, 6, False)
    assert len(row.evidence) == 16
    assert row.evidence[0].labelled_by == "operator:ana"


def test_what_waits_for_a_person(service, proven, sent, watch, identities):
    sent(("grey", GREY, U), ("wrong", BRIGHT, F), ("unseen", BRIGHT, U, {"scene": "kitchen"}))
    watch.look()
    with trainer_of(service, identities("ana", "operator")) as trainer:
        found = [(row.episode_id, row.kind) for row in trainer.judging.doubts()]
        assert found == [("unseen", "abstention"), ("wrong", "disagreement"), ("grey", "abstention")]
        trainer.episodes.label("wrong", F)  # the same as the robot's operator: it is settled all the same
        trainer.episodes.label("grey", S)
        assert [row.episode_id for row in trainer.judging.doubts()] == ["unseen"]


def test_an_outage_is_no_judgement_and_the_judge_is_asked_again(service, sent, watch, judge, monkeypatch):
    monkeypatch.setattr(judge_watch, "AGAIN_S", (0.0, 3600.0))
    judge.away = True
    sent(("new", BRIGHT, S))
    assert watch.look() == 0
    assert service.judgements.of("default", "new") == []
    judge.away = False
    assert watch.look() == 1
    [found] = service.judgements.of("default", "new")
    assert found.outcome is S


def test_without_a_judge_a_robot_gets_an_abstention_with_the_remedy(tmp_path, identities):
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service:
        judge = RemoteJudge(service.address, identities("arm-1", "robot"))
        found = judge.judge(frames(BRIGHT), TASK)
        judge.close()
    assert found.outcome is Outcome.ABSTAIN
    assert "gymnast serve --judge" in found.reason


def test_a_trainer_that_is_away_is_an_abstention(service, identities):
    robot = identities("arm-1", "robot")
    address = service.address
    service.stop()
    judge = RemoteJudge(address, robot, deadline_s=2.0)
    found = judge.judge(frames(BRIGHT), TASK)
    judge.close()
    assert (found.outcome, found.judge) == (Outcome.ABSTAIN, "")
    assert address in found.reason


def test_the_shipped_judge_answers_from_a_process_of_its_own_and_is_started_again():
    judge = JudgeProcess(SHIPPED / "judge")
    try:
        request = request_of({"cam": np.zeros((3, 64, 64, 3), np.uint8)}, TASK, "standard")
        found = judge.judge(request)
        assert found.judge == judge.version
        assert 0 <= found.score <= 1
        assert found.frame == 2
        assert "expert-lift-10000" in judge.taught_by
        small = judge.judge(request_of({"cam": np.zeros((3, 8, 8, 3), np.uint8)}, TASK, ""))
        assert (small.outcome, small.frame) == (Outcome.ABSTAIN, -1)
        assert "ShapeError" in small.reason
        os.kill(judge._process.pid, signal.SIGKILL)
        until = time.monotonic() + 60
        while (again := judge.judge(request)).judge and again.frame < 0 and time.monotonic() < until:
            pass
        assert again == found
    finally:
        judge.close()


def _ana():
    from gymnast_core.wire.identity import Peer

    return Peer(name="ana", role="operator", tenant="default")
