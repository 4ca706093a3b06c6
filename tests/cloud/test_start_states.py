"""New scenes and new words: visible, reproducible, and on record."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cloud_trainer.jobs.reinforce import evened
from cloud_trainer.judge.client import EndpointClient
from cloud_trainer.practice.instructions import paraphrases, proposed_instructions
from cloud_trainer.practice.scene_edits import (
    ChangeBackground,
    ChangeColour,
    ChangeLight,
    PasteObjects,
    cut_out,
    load_edit,
)
from cloud_trainer.practice.start_states import novel_instruction, novel_scene, novel_starts
from cloud_trainer.world_model.starts import StartState
from gymnast_core.errors import ConfigError, RejectedBridgeError, ShapeError
from gymnast_core.jobs.judges import Endpoint
from gymnast_core.jobs.practice import NovelConfig
from tests.cloud.openai_server import OpenAiServer, frames_in, question_in

TABLE = np.full((64, 64, 3), (140, 120, 100), np.uint8)


def scene(step=0):
    """A red square of 10 pixels on a brown table."""
    image = TABLE.copy()
    image[20:30, 20:30] = (200, 20, 20)
    return StartState(image, image, np.zeros(7, np.float32), "lift the red cube", step, "episode-7", 15)


@pytest.fixture
def crop():
    return cut_out(scene().frame_HWC, TABLE, (12, 12, 40, 40), name="red cube", source="episode-7@0")


def test_a_rare_skill_begins_as_often_and_like_numbers_stay_as_they_are():
    opened, taken = (replace(scene(), instruction=text) for text in ("open the drawer", "take it off"))
    begun = Counter(start.instruction for start in evened([opened] * 30 + [taken] * 7))
    assert begun == {"open the drawer": 30, "take it off": 28}
    alike = [opened] * 130 + [taken] * 110
    assert evened(alike) == alike
    assert evened([]) == []


def test_cut_out_finds_the_object_and_only_it(crop):
    assert crop.image_HWC.shape == (28, 28, 3)
    assert crop.alpha_HW[13, 13] == 1.0  # middle of the square
    assert crop.alpha_HW[2, 2] == 0.0
    assert 90 <= crop.alpha_HW.sum() <= 110  # 100 pixels, feathered
    with pytest.raises(ConfigError, match="move the box"):
        cut_out(TABLE, TABLE, (0, 0, 8, 8), name="x", source="episode-7")


def test_a_pasted_object_is_where_the_record_says(crop):
    made = novel_scene(scene(), [PasteObjects((crop,), (44, 44, 54, 54), scale=(1.0, 1.0))], seed=3)
    (edit,) = made.lineage["edits"]
    row, column = edit["placed"][0]["at"]
    image = made.start.frame_HWC
    assert image[row, column, 0] > 180
    assert image[row, column, 1] < 60
    np.testing.assert_array_equal(image[22:28, 22:28], scene().frame_HWC[22:28, 22:28])  # the first one is still there
    assert edit["placed"][0]["from"] == "episode-7@0"
    np.testing.assert_array_equal(made.start.first_HWC, image)


def test_pasting_over_the_border_keeps_the_rest(crop):
    image, record = PasteObjects((crop,), (0, 0, 1, 1))(TABLE, np.random.default_rng(0))
    assert image.shape == TABLE.shape
    assert record["placed"][0]["at"] == [0, 0]
    np.testing.assert_array_equal(image[50:, 50:], TABLE[50:, 50:])


def test_light_colour_and_background_change_what_they_should():
    rng = np.random.default_rng(0)
    darker, record = ChangeLight(gain=(0.5, 0.5), gamma=(1.0, 1.0), slope=0.0)(TABLE, rng)
    np.testing.assert_allclose(darker[0, 0], [70, 60, 50], atol=1)
    assert record["gain"] == 0.5
    turned, _ = ChangeColour(TABLE, hue=120.0, saturation=(1.0, 1.0))(scene().frame_HWC, np.random.default_rng(4))
    np.testing.assert_array_equal(turned[:15], TABLE[:15])
    assert np.abs(turned[25, 25].astype(int) - [200, 20, 20]).max() > 30
    blue = np.full_like(TABLE, (0, 0, 200))
    moved, record = ChangeBackground(TABLE, {"blue cloth": blue})(scene().frame_HWC, rng)
    np.testing.assert_array_equal(moved[5, 5], [0, 0, 200])
    np.testing.assert_array_equal(moved[25, 25], [200, 20, 20])
    assert record == {"edit": "change_background", "to": "blue cloth"}


def test_the_same_seed_makes_the_same_scene_and_lineage_is_json(crop):
    edits = [PasteObjects((crop,), (30, 30, 60, 60)), ChangeLight(), ChangeColour(), ChangeBackground(TABLE)]
    first, second, other = (novel_scene(scene(), edits, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.start.frame_HWC, second.start.frame_HWC)
    assert json.dumps(first.lineage) == json.dumps(second.lineage) != json.dumps(other.lineage)
    assert [edit["edit"] for edit in first.lineage["edits"]] == [
        "paste_objects",
        "change_light",
        "change_colour",
        "change_background",
    ]
    assert (first.lineage["episode"], first.lineage["seed"]) == ("episode-7", 1)


class Shrink:
    def __call__(self, image_HWC, rng):
        return image_HWC[::2], {"edit": "shrink"}


def test_plug_ins_are_loaded_by_name_and_held_to_the_contract():
    edit = load_edit("cloud_trainer.practice.scene_edits:ChangeLight", slope=0.0)
    assert edit == ChangeLight(slope=0.0)
    with pytest.raises(ConfigError, match=r"package\.module:Factory"):
        load_edit("cloud_trainer.nowhere:Paint")
    with pytest.raises(ShapeError, match="shrink"):
        novel_scene(scene(), [Shrink()], seed=0)
    with pytest.raises(ConfigError, match="step 0"):
        novel_scene(scene(step=5), [ChangeLight()], seed=0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("lift the red cube", "pick up the red cube"),
        ("put the green cube on the plate", "set the green cube down on the plate"),
        ("put the eggplant in the basket", "drop the eggplant into the basket"),
        ("push the blue cube to the left", "slide the blue cube to the left"),
        ("open the drawer", "pull the drawer open"),
        ("close the drawer", "shut the drawer"),
    ],
)
def test_templates_rephrase_the_same_task(said, expected):
    assert expected in paraphrases(said)
    assert said not in paraphrases(said)


def test_unknown_instructions_have_no_paraphrase():
    assert paraphrases("juggle") == []


def test_new_words_keep_the_scene_edits_on_record():
    made = novel_scene(scene(), [ChangeLight()], seed=5)
    worded = novel_instruction(made, "raise the red cube", how="template")
    assert worded.start.instruction == "raise the red cube"
    assert worded.lineage["edits"] == made.lineage["edits"]
    assert worded.lineage["instruction"] == {"from": "lift the red cube", "to": "raise the red cube", "how": "template"}
    assert novel_instruction(scene(), "x y", how="t").lineage["episode"] == "episode-7"


def propose(answer, count=3):
    with OpenAiServer(lambda request: answer) as server:
        client = EndpointClient(Endpoint(base_url=server.url, model="m"))
        try:
            return proposed_instructions(client, scene().frame_HWC, "lift the red cube", count, seed=0), server
        finally:
            client.close()


def test_a_language_model_proposes_and_only_plain_new_phrases_are_kept():
    offered = ["Push the red cube left.", "lift the red cube", "push the red cube left", "ok\nrm -rf", 7, "a" * 200]
    kept, server = propose("```json\n" + json.dumps(offered) + "\n```")
    assert kept == ["push the red cube left"]
    assert len(frames_in(server.requests[0])) == 1
    assert "lift the red cube" in question_in(server.requests[0])


@pytest.mark.parametrize("answer", ["sure, here you go", "{}", "[]", '["lift the red cube"]'])
def test_an_unusable_proposal_is_refused(answer):
    with pytest.raises(RejectedBridgeError):
        propose(answer)


def test_a_configuration_makes_scenes_with_pasted_objects_and_words_from_a_language_model():
    crops = [{"episode": "episode-7", "box": [12, 12, 40, 40], "name": "red cube"}]
    with OpenAiServer(lambda request: '["push the cup", "lift the lid"]') as server:
        config = NovelConfig(
            scenes=2, edits=("paste_objects",), crops=tuple(crops), instructions=1,
            endpoint={"base_url": server.url, "model": "tiny-llm"},
        )  # fmt: skip
        made = novel_starts([scene()], config, TABLE, seed=3)
        again = novel_starts([scene()], config, TABLE, seed=3)
    assert [row.lineage["edits"][0]["edit"] for row in made[:2]] == ["paste_objects"] * 2
    assert made[2].lineage["instruction"]["how"] == "tiny-llm"
    assert made[2].start.instruction in ("push the cup", "lift the lid")
    assert [row.lineage for row in again] == [row.lineage for row in made]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scenes": 1, "edits": ("repaint",)}, "edit 'repaint' is not one of"),
        ({"scenes": 1, "edits": ("paste_objects",), "crops": ({"episode": "e-9", "box": [0, 0, 9, 9], "name": "x"},)},
         r"crops name episodes \['e-9'\]"),
        ({"instructions": 1, "endpoint": {"url": "http://x"}}, r"novel.endpoint: unknown settings \['url'\]"),
        ({"instructions": 2}, "other words for 1 of 2 starts"),
    ],
)  # fmt: skip
def test_what_a_configuration_cannot_make_is_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        novel_starts([scene()], NovelConfig(**settings), TABLE, seed=0)
