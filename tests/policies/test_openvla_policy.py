"""OpenVLA behind the Policy protocol, on a tiny random folder in the published layout."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from gymnast_cli.main import main
from gymnast_core.errors import CheckpointError, ConfigError, ContractError
from gymnast_core.policies.openvla.config import OpenVLAConfig
from gymnast_core.policies.openvla.policy import OpenVLAPolicy
from gymnast_core.policies.openvla.prompt import prompt_of
from gymnast_core.policies.openvla.published import read_published
from tests.contracts.policy_contract import PolicyContract
from tests.policies.openvla_folder import observation, write_folder

INSTRUCTIONS = ["put the red cube on the plate", "open drawer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "openvla-tiny"
    write_folder(path)
    return path


@pytest.fixture(scope="module")
def policy(folder):
    return read_published(folder, pipeline="rl")


def test_published_tensors_are_loaded_by_name_and_code_is_not_run(folder, tmp_path):
    network = write_folder(tmp_path / "again")
    loaded = read_published(tmp_path / "again").network.state_dict()
    assert loaded.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_chunks_have_physical_units_tokens_and_log_probabilities(policy):
    chunk = policy.act(observation(2), INSTRUCTIONS)
    assert chunk.actions_BKA.shape == chunk.trace["tokens"].shape == chunk.log_probs_BKA.shape == (2, 5, 7)
    assert np.abs(chunk.actions_BKA[..., :6]).max() <= 0.03
    assert chunk.actions_BKA[..., 6].min() >= 0
    assert chunk.actions_BKA[..., 6].max() <= 1
    assert chunk.policy_version == policy.version


def test_greedy_takes_the_maximum_and_reports_its_probability(policy):
    seen = observation(2)
    chunk = policy.act(seen, INSTRUCTIONS)
    with torch.no_grad():
        table = F.log_softmax(policy.logits(seen.images["front"], INSTRUCTIONS), dim=-1).numpy()
    np.testing.assert_array_equal(chunk.trace["tokens"], table.argmax(-1))
    np.testing.assert_allclose(chunk.log_probs_BKA, table.max(-1), atol=1e-5)


def test_sampling_is_seeded_and_the_trainer_sees_the_same_probabilities(folder):
    policy = read_published(folder, pipeline="rl", temperature=1.6)
    seen = observation(2)
    first, second, other = (policy.act(seen, INSTRUCTIONS, rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.trace["tokens"], second.trace["tokens"])
    assert (first.trace["tokens"] != other.trace["tokens"]).any()
    again = policy.log_probs(seen.images["front"], INSTRUCTIONS, first.trace)
    assert again.requires_grad
    np.testing.assert_allclose(again.detach().numpy(), first.log_probs_BKA, atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours_prompt_length(policy):
    both = observation(2)
    alone = policy.logits(both.images["front"][1:], INSTRUCTIONS[1:])
    batch = policy.logits(both.images["front"], INSTRUCTIONS)
    torch.testing.assert_close(batch[1:], alone, atol=2e-3, rtol=1e-4)


def test_prompt_padding_for_static_shapes_changes_nothing(folder, policy):
    padded = read_published(folder, pipeline="rl")
    padded.tokenizer.config = OpenVLAConfig(prompt_multiple=32)
    ids, lengths = padded.tokenizer.batch(INSTRUCTIONS)
    assert ids.shape == (2, 32)
    assert (lengths < 32).all()
    frames = observation(2).images["front"]
    torch.testing.assert_close(
        padded.logits(frames, INSTRUCTIONS), policy.logits(frames, INSTRUCTIONS), atol=2e-3, rtol=1e-4
    )


def test_prompt_is_the_training_prompt(policy):
    assert prompt_of(" Put the CUBE ") == "In: What action should the robot take to put the cube?\nOut:"
    ids = policy.tokenizer.ids_of("open drawer")
    assert ids[0] == 1
    assert ids[-1] == 29871
    assert ids.count(29871) == 1


def test_l1_head_acts_but_refuses_log_probabilities(tmp_path):
    write_folder(tmp_path / "l1", head="l1")
    policy = read_published(tmp_path / "l1", head="l1")
    chunk = policy.act(observation(1), INSTRUCTIONS[:1])
    assert chunk.actions_BKA.shape == (1, 5, 7)
    assert chunk.trace == {}
    assert chunk.log_probs_BKA is None
    with pytest.raises(ContractError, match="head='discrete'"):
        policy.logits(observation(1).images["front"], INSTRUCTIONS[:1])


def test_proprioception_is_one_more_token_and_matters(tmp_path):
    write_folder(tmp_path / "p", proprio=True)
    policy = read_published(tmp_path / "p")
    seen = observation(1)
    plain = policy.logits(seen.images["front"], INSTRUCTIONS[:1], seen.proprio_BP)
    moved = policy.logits(seen.images["front"], INSTRUCTIONS[:1], -seen.proprio_BP)
    assert (plain - moved).abs().max() > 1e-3
    with pytest.raises(ContractError, match="proprio_BP"):
        policy.logits(seen.images["front"], INSTRUCTIONS[:1])


def test_causal_decoding_agrees_with_teacher_forcing(folder):
    policy = read_published(folder, head="causal", pipeline="rl")
    seen = observation(2)
    chunk = policy.act(seen, INSTRUCTIONS, rng=np.random.default_rng(0))
    assert chunk.actions_BKA.shape == (2, 1, 7)
    again = policy.log_probs(seen.images["front"], INSTRUCTIONS, chunk.trace)
    np.testing.assert_allclose(again.detach().numpy(), chunk.log_probs_BKA, atol=1e-4)


def test_own_checkpoint_carries_tokenizer_and_statistics(policy, tmp_path):
    saved = OpenVLAPolicy(policy.network, policy.tokenizer, policy.action_statistics)
    manifest = saved.save(tmp_path / "own", parents=("policy-0",), lineage={"stage": "sft"})
    loaded = OpenVLAPolicy.load(tmp_path / "own")
    assert loaded.version == saved.version == manifest.id
    assert loaded.config == policy.config
    ours, theirs = (p.act(observation(2), INSTRUCTIONS) for p in (loaded, policy))
    np.testing.assert_array_equal(ours.trace["tokens"], theirs.trace["tokens"])
    np.testing.assert_array_equal(ours.actions_BKA, theirs.actions_BKA)


def test_version_follows_content(folder, tmp_path):
    write_folder(tmp_path / "same")
    write_folder(tmp_path / "other", seed=9)
    assert read_published(tmp_path / "same").version == read_published(folder).version
    assert read_published(tmp_path / "other").version != read_published(folder).version


def test_bad_folders_are_refused_by_name(folder, tmp_path):
    for name in ("shard", "pickle", "extra", "key"):
        write_folder(tmp_path / name)
    (tmp_path / "shard" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="00002-of-00002"):
        read_published(tmp_path / "shard")
    (tmp_path / "pickle" / "action_head--5.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="never opened"):
        read_published(tmp_path / "pickle", head="l1")
    with pytest.raises(CheckpointError, match=r"no action_head--.*head='discrete'"):
        read_published(folder, head="l1")
    save_file({"vision_backbone.film.scale": torch.zeros(3)}, tmp_path / "extra" / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"1 unknown \['vision_backbone.film.scale'\]"):
        read_published(tmp_path / "extra")
    with pytest.raises(CheckpointError, match=r"'libero'.*bridge_dataset"):
        read_published(tmp_path / "key", statistics_key="libero")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("dataset_statistics.json", '{"bridge_orig": {"proprio": {}}}', "'bridge_orig' have no action entry"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("model.safetensors.index.json", "{}", "has no weight_map"),
        ("preprocessor_config.json", '{"means": [[0.4, 0.4, 0.4]], "stds": [[0.5, 0.5, 0.5]]}', "each of two towers"),
        ("vision_backbone--5000_checkpoint.pt", "x", "FiLM-conditioned vision is not supported"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path, file, content, said):
    write_folder(tmp_path / "folder")
    (tmp_path / "folder" / file).write_text(content)
    with pytest.raises(CheckpointError, match=said):
        read_published(tmp_path / "folder")


@pytest.mark.parametrize(
    ("fields", "said"), [({"r": 2, "lora_alpha": 4}, "no lora_B beside it"), ({"lora_alpha": 4}, r"lacks \['r'\]")]
)
def test_half_an_adapter_is_refused(folder, tmp_path, fields, said):
    adapter = tmp_path / "tuned" / "lora_adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    name = "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(2, 32)}, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        read_published(tmp_path / "tuned", base=folder, statistics_key="bridge_dataset")


def test_single_statistics_key_is_taken_and_ambiguity_is_not_guessed(tmp_path):
    write_folder(tmp_path / "one")
    path = tmp_path / "one" / "dataset_statistics.json"
    entry = json.loads(path.read_text())["other"]
    path.write_text(json.dumps({"mine": entry}))
    assert read_published(tmp_path / "one").config.statistics_key == "mine"
    path.write_text(json.dumps({"mine": entry, "yours": entry}))
    with pytest.raises(CheckpointError, match="name one of these"):
        read_published(tmp_path / "one")


def test_statistics_of_other_datasets_are_never_taken_unasked(tmp_path, capsys):
    write_folder(tmp_path / "tuned")
    statistics, settings = tmp_path / "tuned" / "dataset_statistics.json", tmp_path / "tuned" / "config.json"
    entry = json.loads(statistics.read_text())["other"]
    listed = {name: entry for name in ("austin_buds", "bc_z", "bridge_orig", "kuka")}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "norm_stats": listed}))
    assert read_published(tmp_path / "tuned").config.statistics_key == "bridge_dataset", "its own file says so"
    statistics.unlink()
    with pytest.raises(CheckpointError, match=r"config.json lists .*'bc_z', 'bridge_orig'.*--statistics-key"):
        read_published(tmp_path / "tuned")
    convert = ["weights", "convert", str(tmp_path / "tuned"), str(tmp_path / "out")]
    assert main(convert) == 1
    assert main([*convert, "--statistics-key", "kuka"]) == 0
    assert "actions are scaled by the statistics of kuka" in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "much"])
def test_statistics_that_are_no_numbers_are_refused(tmp_path, value):
    write_folder(tmp_path / "folder")
    path = tmp_path / "folder" / "dataset_statistics.json"
    fields = json.loads(path.read_text())
    fields["bridge_dataset"]["action"]["q99"][3] = value
    path.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"normalisation statistics are (not finite|no numbers)"):
        read_published(tmp_path / "folder")


def test_callers_mistakes_are_named(policy):
    with pytest.raises(ContractError, match="1 instructions for 2 rows"):
        policy.act(observation(2), ["open drawer"])
    with pytest.raises(ConfigError, match="head"):
        OpenVLAConfig(head="film")


class TestOpenVlaPolicy(PolicyContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder):
        self.folder = folder

    def make_policy(self):
        return read_published(self.folder, pipeline="rl")
