from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.world_model.audit.audit import audit, calibrate_bounds, require_no_worse, require_trust
from cloud_trainer.world_model.audit.cases import AuditCase, EnvDreamer, as_rollouts, dit_dreamer, imagine_cases
from cloud_trainer.world_model.audit.metrics import GripperTracker, average_ranks, psnr, rms_error, ssim
from cloud_trainer.world_model.audit.outcomes import Judged, agreement, outcome_rates, outcome_report
from cloud_trainer.world_model.audit.page import side_by_side, write_audit
from cloud_trainer.world_model.audit.report import AuditReport, scalars
from cloud_trainer.world_model.audit.run import run_audit
from cloud_trainer.world_model.audit.statistics import change_recall, jumps
from cloud_trainer.world_model.audit.trust import measure_trust
from cloud_trainer.world_model.dit.checkpoint import load_world_model, save_world_model
from cloud_trainer.world_model.dit.codec import CodecConfig, IdentityCodec
from cloud_trainer.world_model.dit.env import WorldModelEnvConfig
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from gymnast_core.errors import ConfigError, CorruptError, NotTrustedError, ShapeError
from gymnast_core.jobs.audit import AuditBounds, AuditConfig
from gymnast_core.judge import Judge
from tests.world_model.tiny import tiny_episode, tiny_model
from tests.world_model.toy import FAULTS, ToyJudge, cases, episode, good

BOUNDS = AuditBounds(episodes=8, pictures=8, trusted_error=0.2)


def judged(found: list[AuditCase], imagined: np.ndarray, decided: np.ndarray) -> Judged:
    real = np.array([case.succeeded for case in found])
    tasks = tuple(case.episode.instruction for case in found)
    policies = tuple(str(case.episode.metadata["policy"]) for case in found)
    return Judged("j", imagined, decided, imagined.astype(np.float32), real, tasks, policies)


@cache
def tracker() -> GripperTracker:
    return GripperTracker.fit([episode(seed) for seed in range(1000, 1040)])


def toy_audit(found: list[AuditCase], bounds: AuditBounds = BOUNDS, judge: Judge | None = None) -> AuditReport:
    return audit(found, judge=judge or ToyJudge(), tracker=tracker(), bounds=bounds, model="m")


@cache
def good_report() -> AuditReport:
    return toy_audit(cases(range(24)))


def test_picture_metrics_match_hand_and_library() -> None:
    real, imagined = np.zeros((2, 16, 16, 3), np.uint8), np.full((2, 16, 16, 3), 51, np.uint8)
    np.testing.assert_allclose(psnr(real, imagined), 20 * math.log10(5), rtol=1e-5)  # an error of 255 / 5
    np.testing.assert_allclose(rms_error(real, imagined), 0.2, rtol=1e-6)
    assert (psnr(real, real) == 60).all()
    assert average_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_ssim_matches_its_definition() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (1, 13, 12, 3), dtype=np.uint8)
    b = np.clip(a + rng.integers(-60, 60, a.shape), 0, 255).astype(np.uint8)
    line = np.exp(-(np.arange(-5, 6.0) ** 2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    values = []
    for row, column, channel in np.ndindex(3, 2, 3):
        x, y = (p[0, row : row + 11, column : column + 11, channel].astype(float) for p in (a, b))
        mx, my = (weight * x).sum(), (weight * y).sum()
        vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
        cov, c1, c2 = (weight * (x - mx) * (y - my)).sum(), 2.55**2, 7.65**2
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert ssim(a, b)[0] == pytest.approx(np.mean(values), abs=1e-6)
    assert ssim(a, a)[0] == pytest.approx(1)


def test_tracker_reads_the_gripper_off_unseen_frames() -> None:
    unseen = [episode(seed) for seed in range(2000, 2010)]
    tracked = np.concatenate([tracker().track(e.images["main"]) for e in unseen])
    truth = np.concatenate([e.proprio_TP[:, [0, 1, 2, 6]] for e in unseen])
    assert np.linalg.norm(tracked[:, :3] - truth[:, :3], axis=1).mean() < 0.02
    assert np.abs(tracked[:, 3] - truth[:, 3]).mean() < 0.2


def test_good_model_passes_and_its_trust_band_is_calibrated() -> None:
    report = good_report()
    assert report.passed, report.broken
    assert report.trust is not None
    assert report.trust["ranks"]
    assert 0.85 <= report.trust["coverage"] <= 0.95
    assert report.trusted_steps == 10
    require_trust(report)


@pytest.mark.parametrize(
    ("fault", "bound"),
    [
        ("object frozen", "change_recall"),
        ("teleport", "jump"),
        ("gripper ignored", "gripper_response"),
        ("action late", "lag"),
        ("everything succeeds", "false_success"),
    ],
)
def test_each_planted_fault_breaks_its_bound(fault: str, bound: str) -> None:
    report = toy_audit(cases(range(24), FAULTS[fault]))
    assert bound in report.broken, scalars(report)
    with pytest.raises(NotTrustedError, match=bound):
        require_trust(report)


def test_late_dream_is_reported_with_its_lag() -> None:
    fidelity = toy_audit(cases(range(16), FAULTS["action late"])).fidelity
    assert fidelity is not None
    assert fidelity["lag"] == -1


def test_overrides_go_by_name() -> None:
    report = replace(good_report(), broken={"jump": "jump 1 > 0.12", "lag": "lag 1 > 0"})
    with pytest.raises(NotTrustedError, match=r"override by name: lag$"):
        require_trust(report, overrides=["jump"])
    require_trust(report, overrides=["jump", "lag"])
    with pytest.raises(ConfigError, match=r"\['everything'\]"):
        require_trust(report, overrides=["everything"])


def test_what_was_not_measured_is_broken_not_fine() -> None:
    single = [replace(case, imagined_KFHWC=case.imagined_KFHWC[:1]) for case in cases(range(16))]
    report = audit(single, judge=None, tracker=None, bounds=BOUNDS)
    assert {"false_success", "lag", "coverage", "trusted_steps"} <= report.broken.keys()


def test_refined_model_that_is_worse_is_not_promoted() -> None:
    parent = good_report()
    require_no_worse(parent, parent)
    noisy = [
        replace(c, imagined_KFHWC=np.clip(c.imagined_KFHWC.astype(int) + 9, 0, 255).astype(np.uint8))
        for c in cases(range(24))
    ]
    with pytest.raises(NotTrustedError, match="PSNR -"):
        require_no_worse(toy_audit(noisy), parent)
    with pytest.raises(NotTrustedError, match="lag"):
        require_no_worse(replace(parent, broken={"lag": "lag 1 > 0"}), parent)
    with pytest.raises(ConfigError, match="share no episode"):
        require_no_worse(replace(parent, psnr_by_episode={"x": 1.0}), parent)


def test_rates_count_what_they_name() -> None:
    found = cases(range(8))  # odd seeds really succeed
    imagined = np.array([True, True, False, True, False, False, False, True])
    rates = outcome_rates(judged(found, imagined, np.array([True] * 6 + [False, True])))
    assert rates["abstained"] == 1
    assert (rates["false_success"]["rate"], rates["false_success"]["n"]) == (pytest.approx(1 / 3), 3)
    assert (rates["missed_success"]["rate"], rates["missed_success"]["n"]) == (pytest.approx(1 / 4), 4)


def test_agreement_is_one_when_dreams_end_as_reality_did() -> None:
    found = cases(range(40))
    real = np.array([case.succeeded for case in found])
    decided = np.ones(40, bool)
    perfect = agreement(judged(found, real, decided), np.random.default_rng(0))
    assert perfect["pearson_r"]["value"] == pytest.approx(1)
    assert perfect["rank_r"]["value"] == pytest.approx(1)
    assert perfect["pearson_r"]["low"] > 0.9
    assert sum(cell["n"] for cell in perfect["cells"]) == 40
    inverted = agreement(judged(found, ~real, decided), np.random.default_rng(0))
    assert inverted["pearson_r"]["value"] == pytest.approx(-1)
    assert inverted["policy_order_kept"]["value"] == 0


def test_still_objects_and_smooth_dreams_score_as_such() -> None:
    same = [replace(case, imagined_KFHWC=case.real_FHWC[None]) for case in cases(range(6))]
    assert change_recall(same)["mean"] == 1
    assert jumps(same)["worst"] <= 0
    stuck = [replace(c, imagined_KFHWC=np.repeat(c.real_FHWC[:1], 11, axis=0)[None]) for c in same]
    assert change_recall(stuck)["mean"] == 0


def test_trust_says_uncalibrated_when_disagreement_tells_nothing_and_drifts() -> None:
    rng, found = np.random.default_rng(0), []
    for number, case in enumerate(cases(range(12))):
        off = rng.integers(0, 120) if number % 4 == 0 else 1  # a quarter is far off, and both draws agree on it
        dream = np.clip(case.real_FHWC.astype(int) + off, 0, 255).astype(np.uint8)
        found.append(replace(case, imagined_KFHWC=np.stack([dream, np.clip(dream.astype(int) + 1, 0, 255)])))
    found = [replace(c, imagined_KFHWC=c.imagined_KFHWC.astype(np.uint8)) for c in found]
    report = measure_trust(found, allowed_error=0.1, rng=rng)
    assert not report.ranks
    assert report.raw_coverage < 0.9
    with pytest.raises(ConfigError, match="8 episodes with 2 dreams"):
        measure_trust(found[:4], allowed_error=0.1, rng=rng)


def test_trust_does_not_carry_a_steep_fit_to_a_dream_that_disagrees_more_than_any_other() -> None:
    found = []
    for number, case in enumerate(cases(range(12))):
        apart = 4 + number % 4  # grey levels between two dreams; what they miss by grows with its cube
        dream = np.clip(case.real_FHWC.astype(int) + apart**3 // 40, 0, 255)
        second = np.clip(dream + apart, 0, 255)
        if number == 11:  # one ends far from its twin and no further from what happened
            second[-1] = np.clip(dream[-1] + 40, 0, 255)
        found.append(replace(case, imagined_KFHWC=np.stack([dream, second]).astype(np.uint8)))
    report = measure_trust(found, allowed_error=0.12, rng=np.random.default_rng(0))
    assert report.band.slope == pytest.approx(1)
    assert report.trusted_steps == len(report.by_step)


def test_bounds_are_set_from_a_good_model() -> None:
    loose = BOUNDS.changed(coverage=False)
    reports = [toy_audit(cases(range(first, first + 8), good, seed=first)) for first in range(0, 40, 8)]
    bounds = calibrate_bounds(reports, loose)
    values = np.array([scalars(report)["jump"] for report in reports])
    assert bounds.jump == pytest.approx(values.mean() + 4 * values.std(ddof=1))
    halves = calibrate_bounds(reports, loose, shared=0.5)
    assert halves.jump == pytest.approx(values.mean() + 4 * np.sqrt(3) * values.std(ddof=1))
    assert bounds.lag == 0
    assert bounds.cell_correlation is None
    assert not toy_audit(cases(range(200, 210)), bounds).broken
    with pytest.raises(ConfigError, match="at least 5"):
        calibrate_bounds(reports[:2], BOUNDS)
    with pytest.raises(ConfigError, match=r"\[0, 1\)"):
        calibrate_bounds(reports, BOUNDS, shared=1.0)


def test_report_and_page_are_written_whole(tmp_path: Path) -> None:
    report = good_report()
    page = write_audit(tmp_path, report, cases(range(24)), videos=2)
    text = page.read_text()
    assert text.count("data:video/mp4;base64,") == 2
    assert "http" not in text
    assert "Passed on 24 held-out episodes" in text
    back = AuditReport.from_json(json.loads((tmp_path / "audit.json").read_text()))
    assert scalars(back) == pytest.approx(scalars(report), nan_ok=True)
    with pytest.raises(CorruptError, match="not an audit report"):
        AuditReport.from_json({"model": "m"})
    failed = replace(report, broken={"lag": "lag 1 > <0>"}, outcomes=None, trust=None)
    text = write_audit(tmp_path, failed, cases(range(24)), videos=1).read_text()
    assert "Not trusted" in text
    assert "lag 1 &gt; &lt;0&gt;" in text


def test_panels_show_real_imagined_and_their_difference() -> None:
    real, imagined = np.full((1, 96, 96, 3), 10, np.uint8), np.full((1, 96, 96, 3), 30, np.uint8)
    panels = side_by_side(real, imagined)
    assert panels.shape == (1, 192, 3 * 192 + 16, 3)
    assert panels[0, 5, [0, 200, 400], 0].tolist() == [10, 30, 20]


def test_dit_dreams_recorded_actions_from_any_step(tmp_path: Path) -> None:
    model = tiny_model()
    save_world_model(
        tmp_path / "m",
        model.state_dict(),
        model.config,
        objective_name="v_prediction",
        codec_config=CodecConfig(kind="identity"),
    )
    config = WorldModelEnvConfig(batch_size=2, context_frames=3, sampler=SamplerConfig(steps=2, window=5, pinned=1))
    dreamer = dit_dreamer(load_world_model(tmp_path / "m"), IdentityCodec(), config)
    episodes = [tiny_episode(seed, steps=steps) for seed, steps in ((0, 4), (1, 6), (2, 5))]
    found = imagine_cases(dreamer, episodes, draws=2, start=2, seed=1)
    for case, real in zip(found, episodes, strict=True):
        assert case.imagined_KFHWC.shape == (2, real.steps + 1, 8, 8, 3)
        np.testing.assert_array_equal(case.imagined_KFHWC[:, :3], np.stack([real.images["main"][:3]] * 2))
        assert not np.array_equal(case.imagined_KFHWC[0, 3:], case.imagined_KFHWC[1, 3:])
    again = imagine_cases(dreamer, episodes, draws=2, start=2, seed=1)
    assert all(np.array_equal(a.imagined_KFHWC, b.imagined_KFHWC) for a, b in zip(found, again, strict=True))
    rollouts = as_rollouts(found, imagined=True)
    assert rollouts.frames_BFHWC.shape == (3, 7, 8, 8, 3)
    assert rollouts.length_B.tolist() == [4, 6, 5]
    assert isinstance(dreamer, EnvDreamer)
    with pytest.raises(ConfigError, match="longer than 6 steps"):
        imagine_cases(dreamer, episodes, start=6)


def test_dreams_of_another_length_are_refused() -> None:
    case = cases([1])[0]
    with pytest.raises(ShapeError, match="toy-1"):
        replace(case, imagined_KFHWC=case.imagined_KFHWC[:, :-1])


def outcomes_by_hand(imagined: list[int], real: list[int], decided: list[int], tasks: str) -> Judged:
    said, won = np.array(imagined, bool), np.array(real, bool)
    policies = ("p",) * len(tasks)
    return Judged("j", said, np.array(decided, bool), said.astype(np.float32), won, tuple(tasks), policies)


def test_outcomes_count_what_hand_counting_gives() -> None:
    told = outcomes_by_hand([1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0], "aabbbb")
    report = outcome_report(told, np.random.default_rng(0))
    assert (report.episodes, report.abstained) == (5, 1)
    assert report.agreement == pytest.approx(3 / 5)
    assert report.false_success == pytest.approx(1 / 2)
    assert report.missed_success == pytest.approx(1 / 3)
    assert report.optimism == pytest.approx(0.0)
    assert report.by_task["b"] == {
        "episodes": 3,
        "agreement": pytest.approx(2 / 3),
        "imagined_success": pytest.approx(1 / 3),
        "real_success": pytest.approx(2 / 3),
    }


def test_optimistic_model_is_refused_with_every_broken_value_named() -> None:
    bounds = AuditBounds().only(["outcomes"])
    real = [1] * 10 + [0] * 40
    rosy = outcome_report(outcomes_by_hand([1] * 50, real, [1] * 50, "a" * 50), np.random.default_rng(0))
    with pytest.raises(
        NotTrustedError, match=r"agreement 0\.2 < 0\.7.*false_success 1 >.*optimism 0\.8 >.*correlation"
    ):
        require_trust(audit([], outcomes=rosy, bounds=bounds))
    right = outcome_report(outcomes_by_hand(real, real, [1] * 50, "a" * 50), np.random.default_rng(0))
    require_trust(audit([], outcomes=right, bounds=bounds))
    with pytest.raises(NotTrustedError, match="episodes 50 < 60"):
        require_trust(audit([], outcomes=right, bounds=bounds.changed(episodes=60)))


class ToyDreamer:
    """Draws the toy world again, or what a fault makes of it."""

    def __init__(self, fault: str = "") -> None:
        self.fault = FAULTS[fault] if fault else good

    def dream(self, episodes: list, *, start: int, seed: int, ends_only: bool = False) -> list:
        numbers = [int(e.episode_id.removeprefix("toy-")) for e in episodes]
        frames = [case.imagined_KFHWC[0] for case in cases(numbers, self.fault, seed)]
        return [f[[start, -1]] for f in frames] if ends_only else frames


def test_one_call_audits_any_dreamer_with_the_parts_it_is_asked_for() -> None:
    held, others = [episode(seed) for seed in range(24)], [episode(seed) for seed in range(1000, 1040)]
    config = AuditConfig(parts=("outcomes", "pictures", "objects", "motion", "trust"), pictures=16)
    options = {"judge": ToyJudge(), "tracker_episodes": others, "config": config, "bounds": BOUNDS}
    report = run_audit(ToyDreamer(), held, **options)
    assert report.outcomes is not None
    assert (report.outcomes.episodes, report.pictures) == (24, 16)
    assert report.bounds["gripper_response"] is None, "not asked for, not demanded, and the report shows it"
    assert not report.broken.keys() - {"coverage"}
    with pytest.raises(NotTrustedError, match="lag"):
        require_trust(run_audit(ToyDreamer("action late"), held, **options), overrides=["coverage"])
    with pytest.raises(ConfigError, match="held out and train the tracker"):
        run_audit(ToyDreamer(), held, **{**options, "tracker_episodes": held[:2]})
