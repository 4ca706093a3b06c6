"""A policy on the other machine: the same answers as beside the arm, and silence means hold."""

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.service.policy import PolicyServicer
from gymnast_core.errors import ConfigError, ContractError, PolicyFailedError
from gymnast_core.past import Remembering
from gymnast_core.sampling import at_temperature
from gymnast_core.types import ActionChunk, Observation
from gymnast_core.wire.errors import LinkLostError, NotPermittedError
from gymnast_core.wire.gymnast.v1 import policy_pb2
from gymnast_core.wire.inference import answers
from gymnast_ros.run.policy_source import PolicySource
from gymnast_ros.uplink import RemotePolicy


class BrightnessPolicy:
    """Moves by the mean brightness; samples noise when given a generator."""

    version, chunk_length = "policy-brightness", 5

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.mode = "good"

    def act(self, observation, instruction, *, rng=None):
        self.gate.wait(10)
        if self.mode == "raise":
            raise RuntimeError("out of memory")
        if self.mode == "type":
            raise TypeError("a tensor where a number was")
        mean = observation.images["cam"].reshape(observation.batch_size, -1).mean(1) / 25500
        actions = np.zeros((observation.batch_size, 5, 7), np.float32) + mean[:, None, None].astype(np.float32)
        actions += observation.proprio_BP[:, None] / 100
        if rng is not None:
            actions += rng.normal(0, 0.001, actions.shape).astype(np.float32)
        if self.mode == "nan":
            actions[:] = np.nan
        return ActionChunk(
            actions, self.version, {"tokens": np.full(actions.shape, 3)}, np.full(actions.shape, -0.5, np.float32)
        )


def observe(rows=2):
    images = np.stack([np.full((32, 32, 3), 60 + 50 * row, np.uint8) for row in range(rows)])
    return Observation({"cam": images}, np.arange(rows * 7, dtype=np.float32).reshape(rows, 7), np.arange(rows))


@pytest.fixture
def policy():
    return BrightnessPolicy()


@pytest.fixture
def service(tmp_path, policy):
    with Service(ServiceConfig(folder=tmp_path / "trainer"), policy=PolicyServicer(lambda: answers(policy))) as running:
        yield running
        policy.gate.set()


@pytest.fixture
def remote(service, identities):
    remote = RemotePolicy(service.address, identities("wx-1", "robot"), deadline_s=2.0, with_log_probs=True)
    yield remote
    remote.close()


def test_a_temperature_is_that_questions_alone_and_refused_where_the_policy_has_none(tmp_path, policy, identities):
    asked, act = [], policy.act
    policy.act = lambda *given, **how: (asked.append(policy.temperature), act(*given, **how))[1]
    for own in (None, 0.8):
        policy.temperature = own
        served = PolicyServicer(partial(answers, policy))
        with Service(ServiceConfig(folder=tmp_path / str(own)), policy=served) as running:
            identity = enroll(running.authority, "wx-1", "robot", out=tmp_path / f"wx-{own}")
            remote, rng = RemotePolicy(running.address, identity, deadline_s=2.0), np.random.default_rng(0)
            assert remote.temperature == own
            if own is None:
                with pytest.raises(ConfigError, match="policy-brightness cannot be sampled at another temperature"):
                    at_temperature(remote, 0.25)
            else:
                tempered = at_temperature(remote, 0.25)
                assert (tempered.version, tempered.chunk_length, tempered.temperature) == (policy.version, 5, 0.25)
                tempered.act(observe(), ["lift"] * 2, rng=rng)
            remote.act(observe(), ["lift"] * 2, rng=rng)
            remote.close()
    assert asked == [None, 0.25, 0.8]


@pytest.mark.parametrize("value", [-1.0, 11.0, float("nan"), float("inf")])
def test_a_question_at_no_temperature_is_refused(policy, value):
    answer = answers(policy)
    reply = answer(policy_pb2.InferRequest(instructions=["lift"], temperature=value))
    assert reply.error == "InvalidMessageError"
    assert "temperature" in reply.message


def test_remote_policy_acts_like_the_local_one(remote, policy):
    assert (remote.version, remote.chunk_length) == ("policy-brightness", 5)
    for rows in (1, 2):
        got, local = remote.act(observe(rows), ["lift"] * rows), policy.act(observe(rows), ["lift"] * rows)
        np.testing.assert_allclose(got.actions_BKA, local.actions_BKA, atol=1e-4)
        np.testing.assert_array_equal(got.trace["tokens"], local.trace["tokens"])
        np.testing.assert_array_equal(got.log_probs_BKA, local.log_probs_BKA)


def test_a_remote_policy_is_given_the_past_that_the_robot_remembers(remote, policy):
    asked = []
    act, policy.act = policy.act, lambda seen, texts, *, rng=None: asked.append(seen.past) or act(seen, texts, rng=rng)
    remembering, rng = Remembering(2), np.random.default_rng(0)
    for _ in range(3):
        remembering.add(*rng.normal(size=(2, 2, 7)).astype(np.float32))
    remote.act(replace(observe(), past=remembering.past()), ["lift"] * 2)
    remote.act(observe(), ["lift"] * 2)
    (there, none), here = asked, remembering.past()
    assert none is None
    for name, array in vars(here).items():
        np.testing.assert_array_equal(getattr(there, name), array)


def test_a_robot_knows_the_version_before_the_policy_acts(service, identities, tmp_path):
    def dial(address):
        return RemotePolicy(address.removeprefix("remote:"), identities("wx-1", "robot"), deadline_s=0.2)

    source = PolicySource(tmp_path, f"remote:{service.address}", dial=dial)
    assert source.version == ""
    source.warm_up()
    assert source.version == "policy-brightness"
    greeted = source.open("")
    assert greeted is source.open("")
    greeted.close()
    service.stop(grace_s=0.1)
    silent = PolicySource(tmp_path, f"remote:{service.address}", dial=dial)
    silent.warm_up()
    assert silent.version == ""


def test_sampling_follows_the_generator(remote):
    first, same, other = (
        remote.act(observe(), ["a", "b"], rng=np.random.default_rng(seed)).actions_BKA for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-4


def test_silence_is_an_error_within_the_deadline_and_never_an_old_answer(service, identities, policy):
    remote = RemotePolicy(service.address, identities("wx-1", "robot"), deadline_s=0.2)
    remote.act(observe(), ["a", "b"])
    policy.gate.clear()
    with pytest.raises(LinkLostError, match="holds"):
        remote.act(observe(), ["a", "b"])
    policy.gate.set()
    bright = Observation(
        {"cam": np.full((1, 32, 32, 3), 250, np.uint8)}, np.zeros((1, 7), np.float32), np.zeros(1, int)
    )
    remote._deadline_s = 5.0
    assert remote.act(bright, ["a"]).actions_BKA[0, 0, 0] == pytest.approx(250 / 25500, rel=0.02)
    remote.close()


def test_a_trainer_that_goes_away_stops_the_robot_and_one_that_comes_back_serves_it(tmp_path, policy):
    robot = enroll(tmp_path / "trainer" / "ca", "wx-1", "robot", out=tmp_path / "id")
    with Service(ServiceConfig(folder=tmp_path / "trainer"), policy=PolicyServicer(lambda: answers(policy))) as service:
        port = int(service.address.rpartition(":")[2])
        remote = RemotePolicy(service.address, robot, deadline_s=1.0)
        remote.act(observe(), ["a", "b"])
        service.stop(grace_s=0.1)
    with pytest.raises(LinkLostError):
        remote.act(observe(), ["a", "b"])
    with Service(ServiceConfig(folder=tmp_path / "trainer", port=port), policy=PolicyServicer(lambda: answers(policy))):
        remote._deadline_s = 10.0
        assert remote.act(observe(), ["a", "b"]).actions_BKA.shape == (2, 5, 7)
        remote.close()


@pytest.mark.parametrize(
    ("mode", "error"), [("raise", PolicyFailedError), ("type", PolicyFailedError), ("nan", PolicyFailedError)]
)
def test_a_policy_that_fails_is_told_by_name_and_the_next_call_works(remote, policy, mode, error):
    policy.mode = mode
    with pytest.raises(error):
        remote.act(observe(), ["a", "b"])
    policy.mode = "good"
    assert remote.act(observe(), ["a", "b"]).actions_BKA.shape == (2, 5, 7)
    with pytest.raises(ContractError):
        remote.act(observe(), ["a"])


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"instructions": ["a"]}, "InvalidMessageError"),
        ({"instructions": ["a"], "proprio": [float("nan")] * 7, "time_ns": [1]}, "InvalidMessageError"),
        ({"instructions": ["a"] * 65, "proprio": [0.0] * 455, "time_ns": [1] * 65}, "TooLargeError"),
        ({"instructions": ["a"], "proprio": [0.0] * 7, "time_ns": [1],
          "cameras": [policy_pb2.Camera(name="cam", jpeg=[b"\x89PNG"])]}, "CorruptError"),
        ({"instructions": ["a"], "proprio": [0.0] * 7, "time_ns": [1],
          "cameras": [policy_pb2.Camera(name="cam", jpeg=[])]}, "InvalidMessageError"),
    ],
)  # fmt: skip
def test_requests_that_make_no_sense_are_refused_by_name(policy, fields, error):
    [reply] = PolicyServicer(lambda: answers(policy)).Infer(iter([policy_pb2.InferRequest(**fields)]), _peer(), None)
    assert reply.error == error


def _peer():
    from gymnast_core.wire.identity import Peer

    return Peer("wx-1", "robot", "default")


def test_an_operator_may_not_drive(service, identities):
    with pytest.raises((NotPermittedError, LinkLostError), match="operator"):
        RemotePolicy(service.address, identities("ada", "operator"))
