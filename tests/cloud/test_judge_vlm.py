"""Local vision-language judges on tiny random models of the real classes, built from their configurations."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from cloud_trainer.judge.rubric import CONTROL_INSTRUCTION
from cloud_trainer.judge.vlm import VlmJudge, load_vlm_judge, yes_no_ids
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.jobs.judges import VlmSettings
from gymnast_core.types import Outcome
from tests.cloud.rollouts import noise, rollouts_of

ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


def tokenizer_with(specials, words=("yes", "no", "cube")):
    vocabulary = {token: index for index, token in enumerate(["<unk>", *specials, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token=specials[0], additional_special_tokens=list(specials)
    )


def write_qwen(folder):
    specials = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ]
    tokenizer = tokenizer_with(specials)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in specials}
    text = SIZES | {
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "rope_parameters": ROPE,
        "bos_token_id": 1,
        "eos_token_id": 3,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    save(
        folder,
        Qwen2_5_VLForConditionalGeneration(config),
        tokenizer,
        Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=56 * 56),
    )


def write_smol(folder):
    specials = ["<pad>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    tokenizer = tokenizer_with(specials)
    text = SIZES | {
        "model_type": "llama",
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "pad_token_id": 1,
    }
    vision = SIZES | {"num_hidden_layers": 1, "image_size": 56, "patch_size": 14}
    config = SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        scale_factor=2,
        pad_token_id=1,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 56})
    save(folder, SmolVLMForConditionalGeneration(config), tokenizer, images)


def save(folder, model, tokenizer, images):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    for part in (model, tokenizer, images):
        part.save_pretrained(folder)


FAMILIES = {"qwen": write_qwen, "smol": write_smol}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("vlm") / request.param
    FAMILIES[request.param](path)
    return path


@pytest.fixture(scope="module")
def judge(folder):
    return load_vlm_judge(folder, dtype=torch.float32)


def test_probability_is_yes_against_no_and_depends_on_the_frames(judge):
    frames = noise(2, frames=3, size=64)
    first, second = (judge.probability(row, "lift the cube") for row in frames)
    assert 0 < first < 1
    assert first != second
    assert judge.probability(frames[0], "lift the cube") == first


def test_verdicts_follow_the_thresholds(judge, monkeypatch):
    frames = rollouts_of(noise(3, frames=3, size=64), ["a", "b", "c"])
    table = {"a": 0.95, "b": 0.6, "c": 0.1, CONTROL_INSTRUCTION: 0.05}
    monkeypatch.setattr(judge, "probability", lambda frames_FHWC, instruction: table[instruction])
    assert [v.outcome for v in judge.judge(frames)] == [Outcome.SUCCESS, Outcome.ABSTAIN, Outcome.FAILURE]
    table[CONTROL_INSTRUCTION] = 0.9
    swayed = judge.judge(frames)[0]
    assert swayed.outcome is Outcome.ABSTAIN
    assert "control" in swayed.evidence["abstained"]


def test_version_is_content_and_words(folder, judge):
    assert load_vlm_judge(folder, dtype=torch.float32).version == judge.version
    assert judge.version.split("-")[0] in ("qwen2_5_vl", "smolvlm")


def test_a_failing_model_abstains(judge):
    broken = VlmJudge(torch.nn.Linear(1, 1), judge.layout, (0, 1), name="broken")
    broken.model.forward = lambda **inputs: (_ for _ in ()).throw(RuntimeError("CUDA out of memory"))
    (verdict,) = broken.judge(rollouts_of(noise(1, frames=2, size=64), ["lift"]))
    assert verdict.outcome is Outcome.ABSTAIN
    assert "out of memory" in verdict.evidence["error"]
    assert np.isnan(verdict.score)


def test_folders_that_cannot_judge_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a folder"):
        load_vlm_judge(tmp_path / "absent")
    with pytest.raises(ConfigError, match="'yes'"):
        yes_no_ids(tokenizer_with(["<pad>"], words=("ja", "nein")))
    with pytest.raises(ConfigError, match="failure_at"):
        VlmSettings(success_at=0.3, failure_at=0.4)
