"""Our OpenVLA against tensors the public classes produced (README of the golden set, section 3).

Runs on any folder of the golden layout: pytest tests/parity --golden DIR. Sizes, the dataset whose statistics scale the
actions ("unnorm_key") and the length of a chunk ("action_chunk") are what its openvla_tiny/config.json says.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import DynamicCache

from gymnast_core.policies.openvla.config import OpenVLAConfig, TextConfig, TowerConfig
from gymnast_core.policies.openvla.model import L1Head, OpenVLANetwork
from gymnast_core.policies.openvla.tokens import Statistics, action_statistics, decode_ids

ATOL = 5e-4
CASES = (0, 1)


@dataclass(frozen=True)
class Scaling:
    """How a golden folder scales its actions."""

    statistics: Statistics
    shape: tuple[int, int]

    @staticmethod
    def of(folder: Path) -> "Scaling":
        fields = json.loads((folder / "config.json").read_text())
        listed = json.loads((folder / "dataset_statistics.json").read_text())
        return Scaling(action_statistics(listed, fields["unnorm_key"]), (fields["action_chunk"], fields["action_dim"]))


def tiny_config(folder: Path, **changes) -> OpenVLAConfig:
    """Golden config.json in our terms."""
    fields = json.loads((folder / "config.json").read_text())
    changes = {"chunk_length": fields["action_chunk"], "statistics_key": fields["unnorm_key"], **changes}
    known = TowerConfig.__dataclass_fields__
    towers = [
        TowerConfig(**{k: v for k, v in tower.items() if k in known}, attention_pool=index == 1)
        for index, tower in enumerate(fields["vision"])
    ]
    text = TextConfig(**{k: v for k, v in fields["text"].items() if k in TextConfig.__dataclass_fields__})
    return OpenVLAConfig(towers=tuple(towers), text=text, **changes)


@pytest.fixture(scope="module")
def tiny(golden_dir):
    folder = golden_dir / "openvla_tiny"
    network = OpenVLANetwork(tiny_config(folder)).eval()
    weights = {name: tensor.float() for name, tensor in load_file(folder / "weights.safetensors").items()}
    network.load_state_dict(weights)
    return network


@pytest.fixture(scope="module")
def golden(golden_dir):
    folder = golden_dir / "openvla_tiny"
    return {name: load_file(folder / f"{name}.safetensors") for name in ("inputs", "causal", "oft", "action_head")}


@pytest.fixture(scope="module")
def scaling(golden_dir):
    return Scaling.of(golden_dir / "openvla_tiny")


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = ATOL) -> None:
    torch.testing.assert_close(ours.detach(), theirs, atol=atol, rtol=0)


def parallel(network, inputs, case):
    ids = inputs[f"input_ids_{case}"]
    return network.parallel_hidden(inputs["pixel_values"][case : case + 1], ids, torch.tensor([ids.shape[1]]))[0]


def test_full_size_has_the_published_tensors(golden_dir):
    manifest = json.loads((golden_dir / "manifests" / "openvla_7b.json").read_text())
    ours = {name: list(t.shape) for name, t in OpenVLANetwork.without_memory(OpenVLAConfig()).state_dict().items()}
    assert ours == dict(manifest["tensors"])
    assert sum(int(np.prod(shape)) for shape in ours.values()) == manifest["num_parameters"] == 7_541_237_184


def test_vision_and_projector(tiny, golden):
    pixels = golden["inputs"]["pixel_values"]
    close(tiny.vision_backbone(pixels), golden["causal"]["vision_features"])
    close(tiny.prefix(pixels), golden["causal"]["projector_features"])


@pytest.mark.parametrize("case", CASES)
def test_causal_pass(tiny, golden, case):
    inputs, want = golden["inputs"], golden["causal"]
    hidden = tiny.causal_hidden(inputs["pixel_values"][case : case + 1], inputs[f"input_ids_{case}"])[0]
    close(hidden, want[f"hidden_{case}"])
    close(tiny.action_logits(hidden), want[f"logits_action_{case}"])
    full = tiny.full_logits(hidden)
    close(full.logsumexp(-1), want[f"logsumexp_{case}"])
    assert torch.equal(full.argmax(-1), want[f"argmax_{case}"])


@pytest.mark.parametrize("case", CASES)
def test_greedy_causal_decoding(tiny, golden, golden_dir, scaling, case):
    inputs, want = golden["inputs"], golden["causal"]
    cache = DynamicCache(config=tiny.language_model.config)
    with torch.no_grad():
        hidden = tiny.causal_hidden(inputs["pixel_values"][case : case + 1], inputs[f"input_ids_{case}"], cache=cache)
        ids = []
        for position in range(scaling.shape[1]):
            last = hidden[:, -1]
            close(tiny.action_logits(last)[0], want[f"gen_logits_action_{case}"][position])
            ids.append(int(tiny.full_logits(last).argmax()))
            hidden = tiny.continue_causal(torch.tensor([[ids[-1]]]), cache)
    assert ids == want[f"gen_ids_{case}"].tolist()
    folder = golden_dir / "openvla_tiny"
    theirs = json.loads((folder / "causal_actions.json").read_text())["cases"][f"case{case}"]
    end = tiny.config.vocabulary_end
    ours = scaling.statistics.unnormalise(decode_ids(np.array(ids), vocabulary_end=end), epsilon=0.0)
    np.testing.assert_allclose(ours, theirs["unnormalized_actions_float64"], atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_parallel_decoding(tiny, golden, case):
    want = golden["oft"]
    hidden = parallel(tiny, golden["inputs"], case)
    close(hidden, want[f"hidden_{case}"])
    logits, full = tiny.action_logits(hidden), tiny.full_logits(hidden)
    close(logits, want[f"logits_action_{case}"])
    close(full.logsumexp(-1), want[f"logsumexp_full_{case}"])
    assert torch.equal(full.argmax(-1), want[f"argmax_full_{case}"])
    assert torch.equal(logits.argmax(-1) + tiny.config.first_action_id, want[f"argmax_action_{case}"])


@pytest.mark.parametrize("case", CASES)
def test_parallel_inputs_are_the_published_sequence(tiny, golden, case):
    inputs = golden["inputs"]
    ids = inputs[f"input_ids_{case}"]
    prefix = tiny.prefix(inputs["pixel_values"][case : case + 1])
    ours = tiny._parallel_embeds(prefix, ids, torch.tensor([ids.shape[1]]))
    close(ours[0], golden["oft"][f"input_embeds_{case}"])


@pytest.mark.parametrize("case", CASES)
def test_log_probabilities_and_entropy_at_temperature(tiny, golden, case):
    want = golden["oft"]
    logits = tiny.action_logits(parallel(tiny, golden["inputs"], case))
    temperatures = [
        name.split("_T")[1].removesuffix(f"_{case}")
        for name in want
        if name.endswith(f"_{case}") and "entropy_T" in name
    ]
    assert temperatures
    for temperature in temperatures:
        log_probs = F.log_softmax(logits / float(temperature), dim=-1)
        picked = log_probs.gather(-1, (want[f"response_ids_{case}"] - tiny.config.first_action_id)[:, None])[:, 0]
        close(picked, want[f"response_logprobs_T{temperature}_{case}"])
        close(-(log_probs.exp() * log_probs).sum(-1), want[f"entropy_T{temperature}_{case}"])


@pytest.mark.parametrize("case", CASES)
def test_actions_of_both_readings(tiny, golden, scaling, case):
    want = golden["oft"]
    for ids, actions in ((f"argmax_full_{case}", f"actions_{case}"), (f"argmax_action_{case}", f"rl_actions_{case}")):
        centres = decode_ids(want[ids].numpy().reshape(scaling.shape), vocabulary_end=tiny.config.vocabulary_end)
        ours = scaling.statistics.unnormalise(centres, epsilon=1e-8)
        np.testing.assert_allclose(ours, want[actions].numpy(), atol=1e-12)


def test_rows_of_a_padded_batch_equal_their_own_runs(tiny, golden):
    inputs, want = golden["inputs"], golden["oft"]
    lengths = [inputs[f"input_ids_{case}"].shape[1] for case in CASES]
    ids = torch.full((2, max(lengths)), tiny.config.text.pad_token_id)
    for case in CASES:
        ids[case, : lengths[case]] = inputs[f"input_ids_{case}"][0]
    hidden = tiny.parallel_hidden(inputs["pixel_values"], ids, torch.tensor(lengths))
    close(tiny.action_logits(hidden), want["padded_logits_action"])
    for case in CASES:
        close(tiny.action_logits(hidden[case]), want[f"logits_action_{case}"])


def test_l1_head(golden, scaling):
    head = L1Head(golden["action_head"]["model.fc1.weight"].shape[0]).eval()
    head.load_state_dict(golden["action_head"])
    for case in CASES:
        with torch.no_grad():
            ours = head(golden["oft"][f"hidden_{case}"][None])[0]
        close(ours, golden["oft"][f"l1_normalized_actions_{case}"])
        actions = scaling.statistics.unnormalise(ours.double().numpy(), epsilon=1e-8)
        np.testing.assert_allclose(actions, golden["oft"][f"l1_actions_{case}"].numpy(), atol=ATOL)


def test_attention_is_bidirectional_down_to_the_first_prompt_token(tiny, golden):
    """An image or prompt change moves every position's output, and so does the stop token at the very end."""
    inputs = golden["inputs"]
    ids, pixels = inputs["input_ids_0"], inputs["pixel_values"][:1]
    embeds = tiny._parallel_embeds(tiny.prefix(pixels), ids, torch.tensor([ids.shape[1]]))
    seen = torch.ones(embeds.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        plain = tiny._decode(embeds, seen)
        embeds[:, -1] += 1.0
        moved = (tiny._decode(embeds, seen) - plain).abs().amax(-1)[0]
    assert (moved > 1e-6).all()


def test_causal_class_stays_causal(tiny, golden):
    inputs = golden["inputs"]
    ids = inputs["input_ids_0"].clone()
    with torch.no_grad():
        plain = tiny.causal_hidden(inputs["pixel_values"][:1], ids)
        ids[0, -1] = 5
        moved = (tiny.causal_hidden(inputs["pixel_values"][:1], ids) - plain).abs().amax(-1)[0]
    assert (moved[:-1] < 1e-6).all()
    assert moved[-1] > 1e-3
