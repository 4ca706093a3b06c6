"""pi0 and pi0.5 behind the Policy protocol, on tiny random folders in the published layouts."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PI0ForConditionalGeneration

from gymnast_core.errors import CheckpointError, ConfigError, ContractError, ShapeError
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.policies import load_policy, serve_policy
from gymnast_core.policies.pi0.config import Pi0Config
from gymnast_core.policies.pi0.images import resize_with_pad, to_unit
from gymnast_core.policies.pi0.names import EMBEDDING, LEROBOT, TIED, UNUSED, openpi_name
from gymnast_core.policies.pi0.network import Pi0Network, library_config
from gymnast_core.policies.pi0.norms import NormStats, statistics_of
from gymnast_core.policies.pi0.policy import PROPRIO_KEY, Pi0Policy
from gymnast_core.policies.pi0.prompt import PiPrompts, prompt_with_state
from gymnast_core.policies.pi0.published import Choices, published_as, read_pi0
from gymnast_core.policies.trainable import LearningPolicy, MatchingPolicy, load_trainable
from gymnast_core.policy import Committed
from gymnast_core.types import Observation
from tests.contracts.policy_contract import PolicyContract
from tests.policies.pi0_folder import (
    NORM_STATS,
    checkpoint,
    tiny_config,
    tiny_policy,
    tokenizer_json,
    write_assets,
    write_lerobot,
    write_openpi,
)

VARIANTS = ("pi0", "pi05")
WAYS = [Exploration(), Exploration(rho=0.6), Exploration(way="sde"), Exploration(way="fpo", draws=3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each variant."""
    return {variant: checkpoint(tmp_path_factory.mktemp(variant), variant) for variant in VARIANTS}


def observation(rows: int, *, same: bool = False, cameras: tuple[str, ...] = ("front",)) -> Observation:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (rows, 20, 28, 3), dtype=np.uint8) for name in cameras}
    if same:
        images = {name: frames[:1].repeat(rows, axis=0) for name, frames in images.items()}
    state = rng.normal(0.2, 0.05, (rows, 7)).astype(np.float32)
    return Observation(images, state, np.zeros(rows, np.int64))


class _Pi0(PolicyContract):
    discrete = False
    variant = "pi0"
    exploration = WAYS[0]

    @pytest.fixture(autouse=True)
    def _folders(self, folders: dict[str, Path]) -> None:
        self.folder = folders[self.variant]

    def make_policy(self) -> Pi0Policy:
        policy = Pi0Policy.load(self.folder)
        policy.exploration = self.exploration
        return policy


class TestPi0(_Pi0):
    pass


class TestPi05(_Pi0):
    variant = "pi05"


class TestPi0Sde(_Pi0):
    exploration = WAYS[2]


class TestPi05Fpo(_Pi0):
    variant = "pi05"
    exploration = WAYS[3]


# the network at full size, and its names


def published_keys(variant: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of openpi's PyTorch file at full size, spelt out from what it documents."""
    vision, language, expert = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.", "", ""
    language = "paligemma_with_expert.paligemma.model.language_model."
    expert = "paligemma_with_expert.gemma_expert.model."
    keys: dict[str, tuple[int, ...]] = {
        vision + "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        vision + "embeddings.patch_embedding.bias": (1152,),
        vision + "embeddings.position_embedding.weight": (256, 1152),
        vision + "post_layernorm.weight": (1152,),
        vision + "post_layernorm.bias": (1152,),
        "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.weight": (2048, 1152),
        "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.bias": (2048,),
        language + "embed_tokens.weight": (257152, 2048),
        language + "norm.weight": (2048,),
    }
    for layer in range(27):
        for part, shape in {
            "layer_norm1": (1152,), "layer_norm2": (1152,), "mlp.fc1": (4304, 1152), "mlp.fc2": (1152, 4304),
            **{f"self_attn.{name}_proj": (1152, 1152) for name in ("q", "k", "v", "out")},
        }.items():  # fmt: skip
            keys[f"{vision}encoder.layers.{layer}.{part}.weight"] = shape
            keys[f"{vision}encoder.layers.{layer}.{part}.bias"] = shape[:1]
    for prefix, width, mlp in ((language, 2048, 16384), (expert, 1024, 4096)):
        for layer in range(18):
            where = f"{prefix}layers.{layer}."
            keys |= {
                where + "self_attn.q_proj.weight": (2048, width), where + "self_attn.o_proj.weight": (width, 2048),
                where + "self_attn.k_proj.weight": (256, width), where + "self_attn.v_proj.weight": (256, width),
                where + "mlp.gate_proj.weight": (mlp, width), where + "mlp.up_proj.weight": (mlp, width),
                where + "mlp.down_proj.weight": (width, mlp),
            }  # fmt: skip
    norms = [
        f"layers.{layer}.{name}" for layer in range(18) for name in ("input_layernorm", "post_attention_layernorm")
    ]
    keys |= {f"{language}{norm}.weight": (2048,) for norm in norms}
    projections = {"action_in_proj": (1024, 32), "action_out_proj": (32, 1024)}
    if variant == "pi0":
        keys |= {f"{expert}{norm}.weight": (1024,) for norm in (*norms, "norm")}
        projections |= {
            "state_proj": (1024, 32),
            "action_time_mlp_in": (1024, 2048),
            "action_time_mlp_out": (1024, 1024),
        }
    else:
        for norm in (*norms, "norm"):
            keys |= {f"{expert}{norm}.dense.weight": (3072, 1024), f"{expert}{norm}.dense.bias": (3072,)}
        projections |= {"time_mlp_in": (1024, 1024), "time_mlp_out": (1024, 1024)}
    for name, shape in projections.items():
        keys |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return keys


@pytest.mark.parametrize(("variant", "billions"), [("pi0", 3.238), ("pi05", 3.353)])
def test_full_size_has_the_published_tensors(variant: str, billions: float) -> None:
    network = Pi0Network.without_memory(Pi0Config(variant=variant))
    ours = {openpi_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == published_keys(variant)
    assert sum(map(math.prod, ours.values())) / 1e9 == pytest.approx(billions, abs=5e-4)
    assert {buffer.device.type for buffer in network.buffers()} == {"cpu"}, "a buffer that no checkpoint fills"


@torch.no_grad()
def test_a_network_without_memory_is_the_library_s_once_filled(tmp_path: Path) -> None:
    written = write_openpi(tmp_path / "folder")
    policy = read_pi0(tmp_path / "folder")
    library = PI0ForConditionalGeneration(library_config(policy.config)).eval()
    own = library.state_dict()
    for name, tensor in written.state_dict().items():
        head, rest = name.split(".", 1)
        own[{"vlm": "model.vlm.", "expert": "model.dit."}.get(head, head + ".") + rest].copy_(tensor)
    rng = torch.Generator().manual_seed(0)
    pixels, text = torch.rand(2, 1, 3, 28, 28, generator=rng) * 2 - 1, torch.ones(2, 4, dtype=torch.long)
    ids, state = torch.randint(3, 200, (2, 4), generator=rng), torch.randn(2, 9, generator=rng)
    images = torch.full((2, 4), policy.config.vocabulary)
    noise, actions = torch.randn(2, 2, 5, 9, generator=rng)
    time = torch.tensor([0.3, 0.8])
    theirs = library(
        state=state, noise=noise, timestep=time, actions=actions, input_ids=torch.cat([images, ids], 1),
        pixel_values=pixels, pixel_attention_mask=torch.ones(2, 1, dtype=torch.bool),
        attention_mask=torch.ones(2, 8, dtype=torch.long),
    )  # fmt: skip
    prefix = policy.network.look(pixels, ids, text.bool())
    x = time[:, None, None] * noise + (1 - time[:, None, None]) * actions
    ours = policy.network.velocity(prefix, state, x, time)
    torch.testing.assert_close(ours, theirs.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close((ours - (noise - actions)).square().mean(), theirs.loss, atol=1e-5, rtol=0)


# published folders


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("write", [write_openpi, write_lerobot], ids=["openpi", "lerobot"])
def test_published_tensors_are_loaded_by_name(write: Any, variant: str, tmp_path: Path) -> None:
    network = write(tmp_path / "folder", variant)
    policy = read_pi0(tmp_path / "folder")
    assert published_as(tmp_path / "folder") == write.__name__.removeprefix("write_")
    assert (policy.config.variant, policy.chunk_length) == (variant, 5)
    assert policy.config.normalisation == ("zscore" if variant == "pi0" else "quantile")
    loaded = policy.network.state_dict()
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())
    assert isinstance(policy, LearningPolicy)
    assert isinstance(policy, MatchingPolicy)


@pytest.mark.parametrize("write", [write_openpi, write_lerobot], ids=["openpi", "lerobot"])
def test_every_missing_and_unexpected_tensor_is_named_as_in_the_file(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "folder")
    path = tmp_path / "folder" / "model.safetensors"
    prefix = LEROBOT if write is write_lerobot else ""
    tensors = load_file(path)
    gone = [f"{prefix}action_in_proj.bias", f"{prefix}paligemma_with_expert.gemma_expert.model.norm.weight"]
    for name in gone:
        del tensors[name]
    strange = {
        f"{prefix}normalize_inputs.buffer_state.mean": torch.zeros(7),
        f"{prefix}value_head.weight": torch.zeros(1),
    }
    tensors[f"{prefix}state_proj.bias"] = torch.zeros(3)
    save_file({**tensors, **strange}, path)
    with pytest.raises(CheckpointError) as refused:
        read_pi0(tmp_path / "folder")
    for name in (*gone, *strange, "state_proj.bias (3,), not (24,)"):
        assert name.removeprefix(prefix) in str(refused.value)


def test_the_tied_embedding_may_come_under_either_name_but_not_as_two(tmp_path: Path) -> None:
    write_openpi(tmp_path / "folder")
    path = tmp_path / "folder" / "model.safetensors"
    tensors = load_file(path)
    del tensors[UNUSED]
    both = {**tensors, EMBEDDING: tensors[TIED].clone()}
    save_file(both, path)
    assert read_pi0(tmp_path / "folder").version
    both[EMBEDDING] += 1
    save_file(both, path)
    with pytest.raises(CheckpointError, match="differ; one of them was never trained"):
        read_pi0(tmp_path / "folder")


def test_weights_of_two_precisions_meet_in_the_language_models(tmp_path: Path) -> None:
    write_openpi(tmp_path / "folder", dtype=torch.bfloat16)
    path = tmp_path / "folder" / "model.safetensors"
    kept = ("patch_embedding", "position_embedding", "layernorm", "norm.weight")  # as openpi keeps them in float32
    save_file({n: t.float() if any(k in n for k in kept) else t for n, t in load_file(path).items()}, path)
    policy = read_pi0(tmp_path / "folder")
    kinds = {tensor.dtype for name, tensor in policy.network.state_dict().items() if "norm" not in name}
    assert kinds == {torch.bfloat16}
    chunk = policy.act(observation(1), ["open drawer"], rng=np.random.default_rng(0))
    assert np.isfinite(chunk.log_probs_BKA).all()
    policy = read_pi0(tmp_path / "folder", Choices(dtype=torch.float32))
    assert {tensor.dtype for tensor in policy.network.state_dict().values()} == {torch.float32}


def test_a_missing_tokenizer_is_named_and_may_lie_elsewhere(tmp_path: Path) -> None:
    write_openpi(tmp_path / "folder")
    elsewhere = (tmp_path / "folder" / "tokenizer.json").rename(tmp_path / "paligemma.json")
    with pytest.raises(
        CheckpointError, match=r"no tokenizer at .*paligemma-3b-pt-224 there, or name it with --tokenizer"
    ):
        read_pi0(tmp_path / "folder")
    assert read_pi0(tmp_path / "folder", Choices(tokenizer=elsewhere)).prompts.source == tokenizer_json()
    elsewhere.write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pi0(tmp_path / "folder", Choices(tokenizer=elsewhere))


def test_whose_statistics_is_never_guessed(tmp_path: Path) -> None:
    write_openpi(tmp_path / "folder")
    assert read_pi0(tmp_path / "folder").config.statistics_key == "lab/widowx"
    write_assets(tmp_path / "folder", "droid")
    with pytest.raises(CheckpointError, match=r"\['droid', 'lab/widowx'\].*--statistics-key.*--episodes"):
        read_pi0(tmp_path / "folder")
    assert read_pi0(tmp_path / "folder", Choices(statistics_key="droid")).config.statistics_key == "droid"
    with pytest.raises(CheckpointError, match="whose are meant is not said"):
        read_pi0(tmp_path / "folder", Choices(statistics_key="kuka"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": "pi0_fast"}, "LeRobot's 'pi0_fast'"),
        ({"use_relative_actions": True}, "trained with use_relative_actions"),
        ({"normalization_mapping": {"STATE": "MIN_MAX", "ACTION": "MIN_MAX"}}, "MIN_MAX"),
        ({"sizes": {"vision": {}}}, "sizes in config.json are not a pi0's"),
    ],
)
def test_what_lerobot_trained_otherwise_is_refused(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_lerobot(tmp_path / "folder")
    path = tmp_path / "folder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(CheckpointError, match=said):
        read_pi0(tmp_path / "folder")


def test_a_folder_that_is_no_pi0_is_refused_and_an_unknown_variant_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no pi0"):
        read_pi0(tmp_path)
    write_openpi(tmp_path / "folder")
    path = tmp_path / "folder" / "config.json"
    fields = json.loads(path.read_text())
    del fields["sizes"]
    path.write_text(json.dumps({**fields, "action_expert_variant": "gemma_7b"}))
    with pytest.raises(CheckpointError, match="action_expert_variant 'gemma_7b'"):
        read_pi0(tmp_path / "folder")


# input pipeline


def test_statistics_as_openpi_computes_with_them() -> None:
    zscore = NormStats.read(NORM_STATS["actions"], name="actions", width=7, how="zscore", epsilon=1e-6)
    assert zscore.normalise([0.02, 0, 0, 0, 0, 0, 0.9])[0] == pytest.approx(0.02 / (0.02 + 1e-6))
    quantile = NormStats.read(NORM_STATS["actions"], name="actions", width=7, how="quantile", epsilon=1e-6)
    assert quantile.normalise([0.01, 0, 0, 0, 0, 0, 1.0])[0] == pytest.approx(0.05 / (0.08 + 1e-6) * 2 - 1)
    numbers = np.random.default_rng(0).normal(size=(4, 7))
    for stats in (zscore, quantile):
        np.testing.assert_allclose(stats.unnormalise(stats.normalise(numbers)), numbers, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mean": [0.0] * 7}, "lack std"),
        ({"mean": [0.0] * 6, "std": [1.0] * 6}, r"\(6,\).*this arm's are 7.*--episodes"),
        ({"mean": [0.0] * 14, "std": [1.0] * 14}, "14 of which vary"),
        ({"mean": [float("nan")] * 7, "std": [1.0] * 7}, "finite"),
        ({"mean": ["much"] * 7, "std": [1.0] * 7}, "no list of numbers"),
        ({"mean": [0.0] * 7, "std": [-1.0] * 7}, "not positive"),
    ],
)
def test_statistics_of_another_arm_or_none_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        NormStats.read(fields, name="actions", width=7, how="zscore", epsilon=1e-6)


def test_padding_of_statistics_is_left_off_and_own_statistics_do_not_blow_up_an_axis_at_rest() -> None:
    padded = {"mean": [0.5] * 7 + [0.0] * 25, "std": [1.0] * 7 + [0.0] * 25}
    assert NormStats.read(padded, name="state", width=7, how="zscore", epsilon=1e-6).centre_D.shape == (7,)
    own = statistics_of(np.zeros((50, 7), np.float32))
    for how in ("zscore", "quantile"):
        stats = NormStats.read(own, name="actions", width=7, how=how, epsilon=1e-6)
        assert np.abs(stats.normalise(np.full(7, 0.01)) - stats.normalise(np.zeros(7))).max() <= 2.01


def test_prompts_are_the_training_prompts() -> None:
    prompts = PiPrompts(tokenizer_json(), tiny_config("pi0", prompt_tokens=6))
    state = np.array([-1.5, -1.0, 0.0, 0.999, 1.5], np.float32)
    assert prompts.ids_of(" open_drawer\n", state) == prompts.ids_of("open drawer", state)
    ids = prompts.ids_of("open drawer", state)
    assert (ids[0], ids[-1]) == (2, 108)
    assert prompt_with_state(" lift_the\ncube ", state) == "Task: lift the cube, State: -1 0 128 255 255;\nAction: "
    with pytest.raises(ContractError, match=r"prompt of 7 tokens, this checkpoint reads 6; use fewer words"):
        prompts.ids_of("put the cube on plate", state)
    ids_BL, text_BL = prompts.batch(["open drawer", "lift"], np.stack([state, state]))
    assert ids_BL.shape == (2, 4)
    assert text_BL.tolist() == [[True] * 4, [True] * 3 + [False]]


def test_images_keep_their_shape_and_are_padded_in_black() -> None:
    frame = np.full((1, 20, 40, 3), 255, np.uint8)
    square = resize_with_pad(frame, 28)
    assert square.shape == (1, 28, 28, 3)
    assert (square[0, 7:21] == 255).all()
    assert not square[0, :7].any()
    assert not square[0, 21:].any()
    assert resize_with_pad(square, 28) is square
    assert to_unit(square).min() == -1.0
    assert to_unit(square).max() == 1.0
    with pytest.raises(ShapeError, match="float32"):
        resize_with_pad(np.zeros((1, 8, 8, 3), np.float32), 28)


def test_a_wrist_camera_matters_must_be_there_and_is_not_trained_with(tmp_path: Path) -> None:
    write_openpi(tmp_path / "folder")
    two = read_pi0(tmp_path / "folder", Choices(cameras=("front", "wrist", "")))
    one = read_pi0(tmp_path / "folder")
    seen = observation(1, cameras=("front", "wrist"))
    assert (two.act(seen, ["lift"]).actions_BKA != one.act(seen, ["lift"]).actions_BKA).any()
    with pytest.raises(ContractError, match="needs camera 'wrist'"):
        two.act(observation(1), ["lift"])
    with pytest.raises(ConfigError, match="without --wrist-camera"):
        two.training_frames(seen.images["front"])


# acting and learning


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_state_matters(variant: str, folders: dict[str, Path]) -> None:
    policy, seen = Pi0Policy.load(folders[variant]), observation(1)
    moved = dataclasses.replace(seen, proprio_BP=seen.proprio_BP + 0.1)
    assert (policy.act(seen, ["lift"]).actions_BKA != policy.act(moved, ["lift"]).actions_BKA).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_group_and_all_denoising_steps_share_one_prefix(
    variant: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Pi0Policy.load(folders[variant], row_by_row=False)
    looked: list[int] = []
    look = policy.network.look
    monkeypatch.setattr(policy.network, "look", lambda *a: looked.append(len(a[0])) or look(*a))
    seen = observation(4, same=True)
    seen = dataclasses.replace(seen, proprio_BP=seen.proprio_BP[:1].repeat(4, axis=0))
    chunk = policy.act(seen, ["lift"] * 4, rng=np.random.default_rng(0))
    assert looked == [1]
    policy.log_probs(seen.images["front"], ["lift"] * 4, chunk.trace)
    assert looked == [1, 1]
    apart = Pi0Policy.load(folders[variant]).act(seen, ["lift"] * 4, rng=np.random.default_rng(0))
    np.testing.assert_allclose(chunk.actions_BKA, apart.actions_BKA, atol=1e-6)
    policy.act(seen, ["lift", "lift", "open drawer", "open drawer"])
    assert looked == [1, 1, 2]


@pytest.mark.parametrize("exploration", WAYS, ids=lambda way: f"{way.way} {way.rho}")
def test_the_trainers_ratio_is_one_before_the_first_update(exploration: Exploration, folders: dict[str, Path]) -> None:
    policy = load_trainable(folders["pi0"], exploration=exploration, temperature=1.3)
    seen, texts = observation(3), ["lift", "open drawer", "put the red cube on plate"]
    chunk = policy.act(seen, texts, rng=np.random.default_rng(2))
    again = policy.log_probs(policy.training_frames(seen.images["front"]), texts, chunk.trace)
    assert again.shape == (3, 5, 7)
    assert again.requires_grad
    np.testing.assert_allclose(np.exp(again.detach().numpy() - chunk.log_probs_BKA), 1.0, atol=1e-5)
    assert chunk.trace[PROPRIO_KEY].shape == (3, 7)


def test_without_a_generator_the_flow_starts_at_zero_and_nothing_is_traced(folders: dict[str, Path]) -> None:
    chunk = Pi0Policy.load(folders["pi0"]).act(observation(1), ["lift"])
    assert chunk.trace == {}
    assert chunk.log_probs_BKA is None


def test_an_own_checkpoint_carries_tokenizer_and_statistics(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path, "pi05")
    manifest = policy.save(tmp_path / "child", parents=(policy.version,), lineage={"stage": "sft"})
    again = load_policy(tmp_path / "child")
    assert isinstance(again, Pi0Policy)
    assert again.version == policy.version == manifest.id
    assert again.config == policy.config
    seen = observation(2)
    ours, theirs = (p.act(seen, ["lift"] * 2, rng=np.random.default_rng(0)) for p in (again, policy))
    np.testing.assert_array_equal(ours.actions_BKA, theirs.actions_BKA)
    assert serve_policy(tmp_path / "child", device="cpu").version == manifest.id


def test_only_the_expert_learns(folders: dict[str, Path]) -> None:
    policy = load_trainable(folders["pi0"])
    frozen = {name.split(".")[0] for name, p in policy.network.named_parameters() if not p.requires_grad}
    learning = {name.split(".")[0] for name, p in policy.network.named_parameters() if p.requires_grad}
    assert frozen == {"vlm"}
    assert learning == {"expert", "embed_action_time", "action_out_proj"}


def test_callers_mistakes_are_named(folders: dict[str, Path]) -> None:
    policy = Pi0Policy.load(folders["pi0"])
    with pytest.raises(ContractError, match="kept without"):
        policy.matching_loss(
            np.zeros((1, 8, 8, 3), np.uint8), ["lift"], np.zeros((1, 5, 7), np.float32), np.ones((1, 5), bool),
            np.random.default_rng(0),
        )  # fmt: skip
    for changes, said in (
        ({"variant": "pi1"}, "variant must be one of"),
        ({"temperature": 0.0}, "temperature"),
        ({"action_width": 6}, "at least 7"),
        ({"expert": dataclasses.replace(tiny_config().expert, depth=3)}, "attend together"),
    ):
        with pytest.raises(ConfigError, match=said):
            tiny_config(**changes)
    with pytest.raises(ConfigError, match="not a pi0 configuration"):
        Pi0Config.from_json({"variant": "pi0"})


@pytest.mark.parametrize("variant", VARIANTS)
def test_plans_on_from_what_is_committed(variant, folders) -> None:
    policy, seen = Pi0Policy.load(folders[variant]), observation(1)
    own = policy.act(seen, ["lift"]).actions_BKA
    weight = np.zeros(policy.chunk_length, np.float32)
    weight[0] = 1.0
    wanted = 0.5 * own  # within the limits that actions are cut to
    chunk = policy.act_after(Committed(wanted, weight), seen, ["lift"])
    assert chunk.actions_BKA.shape == own.shape
    assert np.abs(chunk.actions_BKA - wanted)[:, 0, :6].mean() < 0.7 * np.abs(own - wanted)[:, 0, :6].mean()
