"""Plans from words and a picture: trained and made by the command line, chosen by a judge, played in an environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cloud_trainer.app.policy_process import PolicyProcess
from cloud_trainer.practice.plan_policy import PlanPolicy, PlanSettings, plan_policy_in
from cloud_trainer.progress import CancelledError
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.data.video import read_video
from cloud_trainer.world_model.planner.choice import load_planner
from cloud_trainer.world_model.planner.model import CompactPlanner
from cloud_trainer.world_model.planner.network import PlannerConfig
from cloud_trainer.world_model.planner.train import InverseTrainer, PlannerTraining, PlanWindows, train_planner
from cloud_trainer.world_model.worlds import load_world
from gymnast_cli.main import main
from gymnast_core.episodes import write_episode
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.judge import Verdict
from gymnast_core.records.manifest import read_checkpoint, write_checkpoint
from gymnast_core.rollout import run_episode
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.types import Observation, Outcome, RolloutBatch
from gymnast_core.wire.gymnast.v1 import policy_pb2
from tests.cloud.learning_fakes import episode, tiny_world, tiny_world_model
from tests.contracts.policy_contract import PolicyContract

SIZES = PlannerConfig(widths=(8, 8, 16), embedding=16, keypoint_widths=(8, 8, 8), hidden=32, sampling_steps=2)
EPISODES = [episode(seed) for seed in range(8)]
CLIPS = clips_of(EPISODES, 64)
QUICK = PlannerTraining(iterations=3, inverse_iterations=2, batch_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planner that learned next to nothing."""
    out = tmp_path_factory.mktemp("planner") / "planner"
    train_planner(CLIPS, QUICK, out, sizes=SIZES)
    return out


class RightmostJudge:
    """Likes the plan whose last frame is the brightest; cannot look where it is told so."""

    version = "rightmost"

    def __init__(self, *, blind: bool = False) -> None:
        self.blind = blind
        self.seen: list[RolloutBatch] = []

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        self.seen.append(rollouts)
        bright = rollouts.frames_BFHWC[:, -1].mean(axis=(1, 2, 3)) / 255
        return [Verdict(Outcome.ABSTAIN, float("nan") if self.blind else float(score)) for score in bright]


def png(frame_HWC: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", frame_HWC[..., ::-1])[1].tobytes())


def looking(rows: int = 1) -> Observation:
    frames = np.repeat(CLIPS.frames_NTHWC[:1, 0], rows, axis=0)
    return Observation({"camera": frames}, CLIPS.poses_NTP[:rows, 0], np.zeros(rows, np.int64))


class TestPlanPolicy(PolicyContract):
    learning = discrete = False

    @pytest.fixture(autouse=True)
    def _folder(self, folder: Path) -> None:
        self.folder = folder

    def make_policy(self) -> PlanPolicy:
        return PlanPolicy(load_planner(self.folder), judge=RightmostJudge(), best_of=2, play=5)


def test_a_planner_is_trained_and_plans_by_the_command_line(tmp_path: Path, capsys: Any) -> None:
    files = [str(write_episode(tmp_path / "episodes", one, robot="sim-0")) for one in EPISODES[:4]]
    planner = str(tmp_path / "planner")
    words = ["--json", "wm", "train-planner", *files, "--out", planner]
    assert main([*words, "--iterations", "1", "--inverse-iterations", "1"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["successes"], made["episodes"]) == (2, 4)
    assert made["bytes"] <= 2_000_000
    assert main([*words]) == 2
    assert "immutable" in json.loads(capsys.readouterr().out)["message"]
    assert main(["--json", "wm", "show", planner]) == 0
    assert json.loads(capsys.readouterr().out)["actions"] == {"text": 128}
    (tmp_path / "scene.png").write_bytes(png(EPISODES[0].images["over_shoulder"][0]))
    plan = ["--json", "wm", "plan", "--planner", planner, "--out", str(tmp_path / "plan")]
    assert main([*plan, "--image", str(tmp_path / "scene.png"), "--instruction", "lift the red cube"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert read_video(Path(found["video"])).shape == (4, 64, 64, 3)
    assert np.array(json.loads(Path(found["actions"]).read_text())).shape == (15, 7)
    assert (found["path"], found["no_path"]) == (None, "no world model was named that knows this camera")
    camera = ["--camera", str(shipped_checkpoints() / "world_model")]
    assert main([*plan, "--image", files[0], *camera]) == 0
    drawn = Path(json.loads(capsys.readouterr().out)["path"])
    assert cv2.imread(str(drawn)).shape == (512, 512, 3)
    assert main([*plan, "--image", str(tmp_path / "scene.png"), "--instruction", "lift the red cube", *camera]) == 0
    assert "does not say where the arm is" in json.loads(capsys.readouterr().out)["no_path"]
    assert not drawn.exists(), "of the plan before"
    judged = ["--best-of", "3", "--judge", str(shipped_checkpoints() / "judge")]
    dreamt = ["--world-model", str(shipped_checkpoints() / "world_model")]
    assert main([*plan, "--image", files[0], *judged, *dreamt]) == 0, "words and pose are the episode's"
    found = json.loads(capsys.readouterr().out)
    assert len(found["scores"]) == 3
    assert found["path"], "the world model that the judge looks into knows the camera"
    assert found["scores"][found["best"]] == max(found["scores"])
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())["instruction"] == EPISODES[0].instruction


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--image", "SCENE"], "says nothing about what to do; give --instruction"),
        (["--image", "gone.png", "--instruction", "x"], "no picture gone.png"),
        (["--image", "WIDE", "--instruction", "x"], "has 80 x 64 pixels; crop it to the square"),
        (["--image", "SCENE", "--instruction", "x", "--best-of", "2"], "best_of=2 needs a judge"),
        (
            ["--image", "SCENE", "--instruction", "x", "--judge", "J", "--world-model", "W"],
            "begins where the arm is, which SCENE does not say",
        ),
        (["--image", "SCENE", "--instruction", "x", "--planner", "W"], "no planner. Train one on recorded successes"),
    ],
)
def test_what_cannot_be_planned_is_named(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("SCENE").write_bytes(png(np.zeros((64, 64, 3), np.uint8)))
    Path("WIDE").write_bytes(png(np.zeros((64, 80, 3), np.uint8)))
    shipped = shipped_checkpoints()
    given = [{"W": str(shipped / "world_model"), "J": str(shipped / "judge")}.get(word, word) for word in more]
    assert main(["--json", "wm", "plan", "--planner", str(folder), *given]) == 2
    assert said in json.loads(capsys.readouterr().out)["message"]


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"sampling_steps": 10**9}, "sampling_steps must be a whole number from 1 to 1000, got 1000000000"),
        ({"sampling_steps": 4.5}, "got 4.5"),
        ({"pixel_scale": 0.0}, "pixel_scale must be from 1 to 255"),
        ({"pixel_scale": "64"}, "got '64'"),
    ],
)
def test_what_no_tensor_gives_away_is_checked_too(
    folder: Path, tmp_path: Path, lie: dict[str, object], said: str
) -> None:
    for there in (folder, shipped_checkpoints() / "world_model"):
        manifest, weights = read_checkpoint(there)
        lying = tmp_path / manifest.architecture
        write_checkpoint(lying, weights, kind="world_model", architecture=manifest.architecture,
                         config={**manifest.config, **lie})  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            (load_planner if there == folder else load_world)(lying)


def test_a_planner_without_finite_numbers_plans_nothing(folder: Path, tmp_path: Path, capsys: Any) -> None:
    planner = load_planner(folder)
    assert isinstance(planner, CompactPlanner)
    for weights in planner.inverse.parameters():
        weights.data.fill_(float("nan"))
    planner.save(tmp_path / "broken")
    (tmp_path / "scene.png").write_bytes(png(np.zeros((64, 64, 3), np.uint8)))
    words = ["--planner", str(tmp_path / "broken"), "--image", str(tmp_path / "scene.png"), "--instruction", "x"]
    assert main(["--json", "wm", "plan", *words, "--out", str(tmp_path / "plan")]) == 1
    assert "what is no number; train it anew" in json.loads(capsys.readouterr().out)["message"]
    assert not (tmp_path / "plan").exists()


def test_a_seed_repeats_a_plan_and_another_makes_another(folder: Path) -> None:
    planner, frames = load_planner(folder), CLIPS.frames_NTHWC[:1, 0]
    texts = ["lift the red cube"]
    first, again, other = (planner.plan(frames, texts, [(seed,)]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames_BFHWC, again.frames_BFHWC)
    np.testing.assert_array_equal(first.actions_BTA, again.actions_BTA)
    assert (first.frames_BFHWC != other.frames_BFHWC).any()
    np.testing.assert_array_equal(first.frames_BFHWC[:, 0], frames)
    np.testing.assert_array_equal(first.frame_steps_F, [0, 5, 10, 15])
    said = planner.plan(frames, ["close the drawer"], [(1,)])
    assert (said.frames_BFHWC[:, 1:] != first.frames_BFHWC[:, 1:]).any(), "it listens"


def test_the_judges_best_of_each_row_is_kept(folder: Path) -> None:
    judge = RightmostJudge()
    policy = PlanPolicy(load_planner(folder), judge=judge, best_of=3)
    chosen = policy.choose(looking(2), ["lift the red cube", "close the drawer"], seed=4)
    (seen,) = judge.seen
    scores = (seen.frames_BFHWC[:, -1].mean(axis=(1, 2, 3)) / 255).reshape(2, 3)
    np.testing.assert_allclose(chosen.scores_BN, scores, rtol=1e-6)
    best = scores.argmax(axis=1)
    np.testing.assert_array_equal(chosen.best_B, best)
    np.testing.assert_array_equal(chosen.plans.actions_BTA, seen.actions_BTA[np.arange(2) * 3 + best])
    blind = PlanPolicy(load_planner(folder), judge=RightmostJudge(blind=True), best_of=3)
    assert blind.choose(looking(), ["lift the red cube"], seed=4).best_B.tolist() == [0], "no verdict is no reward"


def test_with_a_world_model_the_judge_sees_the_actions_done(folder: Path) -> None:
    judge, world = RightmostJudge(), tiny_world()
    policy = PlanPolicy(load_planner(folder), judge=judge, world=world, best_of=2)
    chosen = policy.choose(looking(), ["lift the red cube"], seed=0)
    (seen,) = judge.seen
    drawn = load_planner(folder).plan(np.repeat(CLIPS.frames_NTHWC[:1, 0], 2, axis=0), ["lift the red cube"] * 2,
                                      [(0, 0), (0, 1)])  # fmt: skip
    np.testing.assert_allclose(seen.actions_BTA, drawn.actions_BTA, atol=1e-5)
    assert (seen.frames_BFHWC[:, -1] != drawn.frames_BFHWC[:, -1]).any(), "dreamt, not drawn"
    assert chosen.scores_BN.shape == (1, 2)


def test_run_episode_plays_a_plan_to_its_end_or_plans_again(folder: Path) -> None:
    (start,) = starts_of(CLIPS.take([0]))
    for play, asked in ((None, 1), (5, 3)):
        judge = RightmostJudge()
        policy = PlanPolicy(load_planner(folder), judge=judge, play=play)
        last = run_episode(tiny_world().env([start]), policy, start.instruction, seed=0)
        assert last.truncated_B.all()
        assert len(judge.seen) == asked
    with pytest.raises(ConfigError, match="play=16 steps of a plan of 15"):
        PlanPolicy(load_planner(folder), play=16)


def test_nothing_is_commanded_in_a_planner(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes text \(128\) and no ee_delta7.*gymnast wm plan"):
        load_world(folder)
    tiny_world_model().save(tmp_path / "wm")
    with pytest.raises(ConfigError, match="no planner"):
        load_planner(tmp_path / "wm")
    broken = tmp_path / "broken"
    planner = CompactPlanner.fresh(SIZES, np.zeros((64, 64, 3), np.uint8), seed=0)
    planner.config = PlannerConfig()  # what its tensors are not
    planner.save(broken)
    with pytest.raises(CheckpointError, match="tensors do not fit the configuration"):
        load_planner(broken)


def test_a_trainer_serves_plans_as_it_serves_a_policy(folder: Path, tmp_path: Path) -> None:
    named = tmp_path / "plan.json"
    named.write_text(json.dumps({"planner": str(folder), "play": 5}))
    assert plan_policy_in(named).chunk_length == 5
    process = PolicyProcess(named, "cpu")
    try:
        reply = process.answer(policy_pb2.InferRequest(request_id=3))
        assert (reply.request_id, reply.policy_version) == (3, load_planner(folder).version)
    finally:
        process.close()
    named.write_text(json.dumps({"planner": str(folder), "best_of": 4}))
    with pytest.raises(ConfigError, match="best_of=4 needs a judge"):
        plan_policy_in(named)
    with pytest.raises(ConfigError, match="did you mean planner"):
        PlanSettings.model_validate({"planer": "x"})


def test_a_stopped_run_goes_on_to_the_same_checkpoint(folder: Path, tmp_path: Path) -> None:
    calls = iter([False, False, True])
    with pytest.raises(CancelledError):
        train_planner(CLIPS, QUICK, tmp_path / "p", sizes=SIZES, state=tmp_path / "s", cancelled=lambda: next(calls))
    manifest = train_planner(CLIPS, QUICK, tmp_path / "p", sizes=SIZES, state=tmp_path / "s")
    assert manifest.id == load_planner(folder).version
    assert [path.name for path in tmp_path.iterdir()] == ["p"], "nothing is left of the stops"
    failures = CLIPS.take(np.flatnonzero(~CLIPS.success_N))
    with pytest.raises(ConfigError, match="none of 4 episodes is labelled a success"):
        train_planner(failures, QUICK, tmp_path / "none", sizes=SIZES)


def test_windows_repeat_the_end_and_know_which_actions_were_recorded() -> None:
    short = clips_of([episode(1, steps=7), episode(3, steps=15)], 64)
    windows = PlanWindows(short, SIZES)
    drawn = [windows.draw(1, np.random.default_rng(seed)) for seed in range(30)]
    begins = {(int(episode_B[0]), *map(int, step_BF[0])) for episode_B, step_BF in drawn}
    assert (0, 0, 5, 7, 7) in begins
    assert (1, 10, 15, 15, 15) in begins
    actions, there = windows.actions(np.array([0]), np.array([[5, 7, 7, 7]]))
    assert there[0].tolist() == [1, 1] + [0] * 13
    np.testing.assert_array_equal(actions[0, :2], short.actions_NTA[0, 5:7])


def test_inverse_dynamics_learns_which_action_moved_what() -> None:
    background = np.full((64, 64, 3), 120, np.uint8)
    planner = CompactPlanner.fresh(SIZES, background, seed=0)
    config = PlannerTraining(iterations=1, inverse_iterations=60, batch_size=8, learning_rate=3e-3, drawn_share=0.1)
    trainer = InverseTrainer(planner, CLIPS, config)
    trainer.run()
    assert np.mean(trainer.losses[-10:]) < 0.6 * np.mean(trainer.losses[:5])
