"""The demo's report: honest verdict, self-contained page, sections only for what there is."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from gymnast_cli.report import comparison, duration, flatten, headline, megabytes, points, write_report
from gymnast_cli.report_media import DreamPair, ReportMedia, Strip, TaskStrips, film_strip, webp_strip
from gymnast_core.errors import ConfigError, ShapeError


def counts(lift, push):
    return {
        "successes": lift + push,
        "n": 100,
        "tasks": {"lift": {"successes": lift, "n": 50}, "push <left>": {"successes": push, "n": 50}},
    }


def frames(count=4, size=16):
    return np.random.default_rng(0).integers(0, 255, (count, size, size, 3), dtype=np.uint8)


RESULT = {
    "before": counts(10, 20),
    "after": counts(30, 35),
    "difference": {"mean": 0.35, "low": 0.22, "high": 0.47},
    "ttt": {
        "scene": {"before": {"successes": 2, "n": 50}, "after": {"successes": 40, "n": 50}},
        "other_tasks": {"before": {"successes": 60, "n": 100}, "after": {"successes": 20, "n": 100}},
    },
    "imagined_reward": [0.3, 0.5, 0.6],
    "audit": {"agreement": 0.85, "trusted": True},
    "stages": [{"name": "collect", "seconds": 75.0, "peak_memory_bytes": 2.5e9}],
    "seed": 3,
    "versions": {"torch": "2.13.0"},
}
MEDIA = ReportMedia(
    strips=[TaskStrips("lift", Strip(frames(), "failure"), Strip(frames(), "success"), "lift the <red> cube")],
    pairs=[DreamPair("lift", Strip(frames(), "success"), Strip(frames(), "failure"), (0, 5, 10, 15))],
)


def page_of(tmp_path, result, media=MEDIA):
    return write_report(result, media, tmp_path / "report.html").read_text()


def test_a_gain_whose_interval_excludes_zero_is_called_one():
    title, evidence = headline(comparison("all", RESULT["before"], RESULT["after"], RESULT["difference"]))
    assert title == "By practising in its dream the arm went from 30.0 % to 65.0 %."
    assert "+35.0 points, 95 % interval +22.0 to +47.0" in evidence


@pytest.mark.parametrize(
    ("low", "high", "start"),
    [(-0.01, 0.12, "No improvement shown"), (-0.2, -0.05, "Training in the dream made the arm worse")],
)
def test_a_difference_that_is_not_positive_is_not_called_a_gain(tmp_path, low, high, start):
    result = {**RESULT, "difference": {"mean": (low + high) / 2, "low": low, "high": high}}
    page = page_of(tmp_path, result)
    assert f"<h1>{start}" in page
    assert "By practising" not in page


def test_page_loads_nothing_from_elsewhere(tmp_path):
    page = page_of(tmp_path, RESULT)
    assert not re.findall(r"https?://", page)
    assert all(source.startswith("data:image/webp;base64,") for source in re.findall(r'\bsrc="([^"]+)"', page))
    assert "<link" not in page


def test_names_and_instructions_are_escaped(tmp_path):
    page = page_of(tmp_path, RESULT)
    assert "push <left>" not in page
    assert "push &lt;left&gt;" in page
    assert "lift the &lt;red&gt; cube" in page


def test_sections_without_data_are_left_out(tmp_path):
    small = {key: RESULT[key] for key in ("before", "after", "difference")}
    page = page_of(tmp_path, small, ReportMedia())
    for heading in (
        "Real and imagined",
        "Reward in the dream",
        "Test-time training",
        "Audit",
        "Where the time",
        "What ran",
    ):
        assert heading not in page
    assert "Success by task" in page


def test_test_time_training_that_forgets_elsewhere_is_said_to(tmp_path):
    page = page_of(tmp_path, RESULT)
    assert "It helped in the new scene." in page
    assert "The other tasks got worse" in page


def test_what_the_canary_decided_or_why_there_was_none_is_said(tmp_path):
    card = {"decision": "roll_back", "n": 12, "difference": {"mean": -0.25, "low": -0.5, "high": -0.02}}
    ttt = {**RESULT["ttt"], "canary": card, "kept": False, "trust": {"real_episodes_here": 31}}
    page = page_of(tmp_path, {**RESULT, "ttt": ttt})
    assert "31 real episodes recorded there" in page
    assert "showed it worse after 12 pairs (−25.0 points, 95 % interval −50.0 to −2.0)" in page
    assert "the candidate was not kept" in page
    guarded = {**ttt, "canary": {**card, "guard": {"n": 3}}, "reason": "it won here, but harm was shown on put"}
    assert "not kept. It won here, but harm was shown on put." in page_of(tmp_path, {**RESULT, "ttt": guarded})
    page = page_of(tmp_path, {**RESULT, "ttt": {"reason": "agreement 0.40 is below 0.70", "canary": {}}})
    assert "Nothing was tried on the arm: agreement 0.40 is below 0.70." in page


def test_a_run_that_checked_nothing_says_that_its_numbers_mean_nothing(tmp_path):
    page = page_of(tmp_path, {**RESULT, "config": {"improve": {"check": False}}})
    assert "Its numbers mean nothing." in page
    assert "not in this run, which checks nothing" in page
    assert "mean nothing" not in page_of(tmp_path, {**RESULT, "config": {"improve": {}}})


def test_real_successes_appear_beside_the_imagined_curve(tmp_path):
    curve = [{"iteration": 0, "reward": 0.3}, {"iteration": 5, "reward": 0.6, "real": {"successes": 30, "n": 60}}]
    page = page_of(tmp_path, {**RESULT, "imagined_reward": {"round 1": curve, "round 2": [0.4, 0.5]}})
    assert "real success of that checkpoint" in page
    assert page.count("<polyline") == 2
    assert "real success of that checkpoint" not in page_of(tmp_path, RESULT)


def test_result_of_a_demo_stopped_early_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="after, difference"):
        write_report({"before": RESULT["before"]}, MEDIA, tmp_path / "report.html")


def test_pairs_of_different_length_and_wrong_arrays_are_refused():
    with pytest.raises(ShapeError, match="real 4, imagined 3"):
        DreamPair("lift", Strip(frames(4)), Strip(frames(3)))
    with pytest.raises(ShapeError, match="uint8"):
        Strip(frames().astype(np.float32))


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_strips_hold_every_frame_in_order():
    solid = np.stack([np.full((20, 40, 3), value, np.uint8) for value in (0, 120, 240)])
    tight, gapped = decoded(webp_strip(solid)), decoded(film_strip(solid))
    assert tight.shape == (20, 120, 3)
    assert [int(tight[10, 20 + 40 * index, 0]) for index in range(3)] == pytest.approx([0, 120, 240], abs=3)
    assert gapped.shape == (20, 122, 4)
    assert gapped[10, 40, 3] == 0


def test_numbers_read_well():
    assert (duration(4.21), duration(185)) == ("4.2 s", "3 min 05 s")
    assert (megabytes(8.12e8), megabytes(2.41e9)) == ("812 MB", "2.41 GB")
    assert (points(-0.081), points(0.35)) == ("−8.1", "+35.0")
    assert flatten({"a": {"b_c": 0.5, "ok": False}, "list": [1, 2]}) == [
        ("a · b c", "0.5"),
        ("a · ok", "no"),
        ("list", "1, 2"),
    ]
