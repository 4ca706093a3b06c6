"""WorldArena's API over real HTTP on the shipped model: what its document asks for, row by row."""

from __future__ import annotations

import base64
import copy
import io
import threading
import uuid
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from cloud_trainer.jobs.desk.serving import served_world
from cloud_trainer.progress import never
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.serving.messages import PredictRequest
from cloud_trainer.world_model.serving.predictor import PROFILE, PredictLimits, Predictor
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.spec import WIDOWX_250S
from tests.cloud.test_worlds import save_dit

ROOT = Path(__file__).parents[2]
WORLD = ROOT / "checkpoints" / "world_model"
TOKEN = "a-token-that-nobody-can-guess"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
POSE = [0.25, 0.0, 0.15, 0.0, 0.0, 0.0, 1.0]


def png(pixels: np.ndarray, mode: str = "RGB") -> str:
    out = io.BytesIO()
    Image.fromarray(pixels, mode).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def picture(data: str, side: int = 64) -> dict:
    return {
        "encoding": "png_base64", "color_space": "RGB", "height": side, "width": side, "channels": 3, "data": data,
    }  # fmt: skip


@pytest.fixture(scope="module")
def frame() -> dict:
    return picture(png(CompactWorldModel.load(WORLD).background))


def sample(frame: dict, *, name: str = "sample-0", seed: int = 7, known: int = 1, actions: int = 2) -> dict:
    step = [0.02, -0.01, -0.02, 0.0, 0.0, 0.0, 1.0]
    context = {"frames": [frame] * known, "actions": [step] * (known - 1), "states": [POSE] * known}
    return {"sample_id": name, "seed": seed, "context": context, "actions": [step] * actions}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    limits = PredictLimits(horizon=6, batch=3, request_bytes=400_000, timeout_s=60)
    server, _ = served_world(WORLD, limits, DreamConfig(), host="127.0.0.1", port=0, token=token, identity=None)
    with httpx.Client(base_url=server.start(), headers=HEADERS, timeout=120) as client:
        yield client
    server.stop()


@pytest.fixture
def ask(client):
    version = client.get("/v1/capabilities").json()["model_version"]

    def post(*samples: dict, **changes):
        request = {
            "api_version": "1.0", "request_id": str(uuid.uuid4()), "model_version": version,
            "profile_id": PROFILE, "samples": list(samples),
        }  # fmt: skip
        return client.post("/v1/predict", json=request | changes)

    return post


def pixels(answer: httpx.Response, index: int = 0) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    frames = answer.json()["predictions"][index]["frames"]
    opened = [Image.open(io.BytesIO(base64.b64decode(told["data"]))) for told in frames]
    assert all((image.mode, image.size, image.info) == ("RGB", (64, 64), {}) for image in opened)
    return [np.asarray(image) for image in opened]


def refused(answer: httpx.Response, status: int, code: str, words: str) -> None:
    told = answer.json()["error"]
    assert (answer.status_code, told["code"]) == (status, code), answer.text
    assert words in told["message"], told
    assert set(told) == {"code", "message", "request_id", "retryable"}


def test_health_needs_no_token_and_says_nothing_of_the_machine(client):
    answer = httpx.get(f"{client.base_url}/v1/health")
    assert set(answer.json()) == {"status", "api_version", "model_version"}
    assert (answer.status_code, answer.json()["status"], answer.json()["api_version"]) == (200, "ready", "1.0")


def test_nobody_else_gets_in(client):
    for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": TOKEN}):
        for method, place in (("GET", "/v1/capabilities"), ("POST", "/v1/predict")):
            refused(
                httpx.request(method, f"{client.base_url}{place}", headers=headers), 401, "UNAUTHENTICATED", "Bearer"
            )
    refused(client.get("/v1/admin"), 404, "NOT_FOUND", "/v1/predict")
    refused(client.get("/v1/predict"), 404, "NOT_FOUND", "POST")


def test_one_frame_an_action_echoed_and_seeded(ask, frame):
    one, again = ask(sample(frame, actions=6)), ask(sample(frame, actions=6))
    other = ask(sample(frame, actions=6, seed=8))
    assert one.json()["predictions"][0]["sample_id"] == "sample-0"
    assert len(pixels(one)) == 6
    assert all(np.array_equal(a, b) for a, b in zip(pixels(one), pixels(again), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(pixels(one), pixels(other), strict=True))


def test_actions_move_the_picture_and_frames_align_with_them(ask, frame):
    """The first three actions alike, the rest not: so are the frames."""
    left, right = sample(frame, actions=6), sample(frame, actions=6)
    right["actions"] = left["actions"][:3] + [[-0.04, 0.04, 0.03, 0.0, 0.0, 0.0, 0.0]] * 3
    ours, theirs = pixels(ask(left)), pixels(ask(right))
    differ = [not np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert differ[:3] == [False] * 3
    assert all(differ[3:])


def test_other_samples_and_their_order_change_no_pixel(ask, frame):
    samples = [sample(frame, name=str(seed), seed=seed, known=1 + seed % 3, actions=1 + seed) for seed in (1, 2, 3)]
    alone = [pixels(ask(one)) for one in samples]
    there, back = ask(*samples), ask(*samples[::-1])
    assert [told["sample_id"] for told in back.json()["predictions"]] == ["3", "2", "1"]
    for index, ours in enumerate(alone):
        for answer, place in ((there, index), (back, 2 - index)):
            assert all(np.array_equal(a, b) for a, b in zip(ours, pixels(answer, place), strict=True))


def test_a_request_comes_again_alike_or_is_a_conflict(ask, frame):
    name = str(uuid.uuid4())
    first, again = (ask(sample(frame), request_id=name) for _ in range(2))
    assert first.json() == again.json()
    refused(ask(sample(frame, seed=9), request_id=name), 409, "REQUEST_ID_CONFLICT", "request_id")


def without(tree: dict, *path):
    changed = copy.deepcopy(tree)
    inner = changed
    for part in path[:-1]:
        inner = inner[part]
    del inner[path[-1]]
    return changed


def put(tree: dict, value, *path):
    changed = copy.deepcopy(tree)
    inner = changed
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return changed


def test_what_cannot_be_dreamt_is_named_by_its_field(ask, frame):
    good = sample(frame, known=2)
    grey = picture(png(np.zeros((64, 64), np.uint8), "L"))
    wrong = [
        (put(good, [[0.0] * 14], "actions"), "samples[0].actions[0] has dimension 14; expected 7"),
        (
            put(good, [[0.2, 0, 0, 0, 0, 0, 0]], "actions"),
            "samples[0].actions[0][0] is 0.2; from -0.05 to 0.05 is taken",
        ),
        (put(good, good["actions"] * 4, "actions"), "samples[0].actions has 8 entries; 1 to 6 are taken"),
        (put(good, [], "context", "actions"), "samples[0].context.actions has 0 entries; expected 1"),
        (put(good, [POSE], "context", "states"), "samples[0].context.states has 1 entries; expected 2"),
        (without(good, "context", "states"), "samples[0].context.states is missing"),
        (put(good, grey, "context", "frames", 1), "samples[0].context.frames[1] holds other than one frame of 8-bit"),
        (put(good, picture(frame["data"], 128), "context", "frames", 0), "is 128 x 128; expected 64 x 64"),
        (put(good, picture("AAAA"), "context", "frames", 0), "samples[0].context.frames[0].data is no PNG"),
        (put(good, picture(frame["data"][:400]), "context", "frames", 0), "frames[0].data is no PNG"),
        (put(good, -1, "seed"), "samples[0].seed"),
        (put(good, 2**63, "seed"), "samples[0].seed"),
        (without(good, "sample_id"), "samples[0].sample_id"),
    ]
    for bad, words in wrong:
        refused(ask(bad), 400, "INVALID_ARGUMENT", words)
    refused(ask(good, bad), 400, "INVALID_ARGUMENT", "samples[1].sample_id")  # one bad sample, nothing dreamt
    refused(ask(good, good), 400, "INVALID_ARGUMENT", "twice")
    refused(ask(*[sample(frame, name=str(n)) for n in range(4)]), 400, "INVALID_ARGUMENT", "4 samples; at most 3")


def test_numbers_that_are_none_and_bytes_that_are_no_request(client, ask, frame):
    body = ask(sample(frame)).request.content
    for old, new in ((b"0.02", b"NaN"), (b"0.02", b"1e999"), (b'"seed":7', b'"seed":7.5'), (b"{", b"[" * 10_000)):
        answer = client.post("/v1/predict", content=body.replace(old, new))
        refused(answer, 400, "INVALID_ARGUMENT", "")
        assert "Traceback" not in answer.text
        assert str(ROOT) not in answer.text
    refused(client.post("/v1/predict", content=b" " * 500_000), 413, "PAYLOAD_TOO_LARGE", "400000 bytes")


@pytest.mark.parametrize("field", ["api_version", "model_version", "profile_id"])
def test_other_versions_are_refused_and_new_fields_passed_over(ask, frame, field):
    refused(ask(sample(frame), **{field: "2.0"}), 422, "UNSUPPORTED_VERSION", field)
    assert ask(sample(frame) | {"later": [1]}, trace="on").status_code == 200


def test_what_is_too_much_is_answered_at_once_and_what_takes_too_long_is_given_up(client, ask, frame, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    dream = Predictor.dream

    def held(self, *given):
        begun.set()
        assert go_on.wait(60)
        return dream(self, *given)

    monkeypatch.setattr(Predictor, "dream", held)
    answers = []
    first = threading.Thread(target=lambda: answers.append(ask(sample(frame))))
    first.start()
    assert begun.wait(60)
    over = ask(sample(frame))
    refused(over, 429, "OVERLOADED", "ask again")
    assert (over.headers["Retry-After"], over.json()["error"]["retryable"]) == ("1", True)
    assert client.get("/v1/health").status_code == 200  # the loop is free meanwhile
    go_on.set()
    first.join()
    assert answers[0].status_code == 200


def test_a_dit_looks_back_on_every_frame_of_the_context(tmp_path, frame):
    predictor = Predictor(load_world(save_dit(tmp_path / "dit"), DreamConfig(steps=1)), PredictLimits(), WIDOWX_250S)
    black = picture(png(np.zeros((64, 64, 3), np.uint8)))
    given, other = sample(frame, known=5), put(sample(frame, known=5), black, "context", "frames", 2)
    version = {"api_version": "1.0", "request_id": uuid.uuid4(), "model_version": predictor.version}
    request = PredictRequest(**version, profile_id=PROFILE, samples=[given, other | {"sample_id": "other"}])
    dreams = [
        predictor.dream(asked, start, never)
        for asked, start in zip(request.samples, predictor.check(request), strict=True)
    ]
    assert [len(dream) for dream in dreams] == [2, 2]
    assert dreams[0] != dreams[1]


def test_the_network_is_served_with_tls_and_a_token_only(tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    for given, words in ((None, "without TLS and a token"), (token, "without TLS;")):
        with pytest.raises(ConfigError, match=words):
            served_world(WORLD, PredictLimits(), DreamConfig(), host="0.0.0.0", port=0, token=given, identity=None)
    with pytest.raises(ConfigError, match="without a token"):
        served_world(WORLD, PredictLimits(), DreamConfig(), host="0.0.0.0", port=0, token=None, identity=tmp_path)
    with pytest.raises(ConfigError, match="limits must be above zero"):
        PredictLimits(horizon=0)
