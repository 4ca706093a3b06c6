import dataclasses
import hashlib
import math
from itertools import combinations
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

from cloud_trainer.sft.trainer import SftTrainer, action_bins_of, sft_loss, train_sft
from cloud_trainer.sft.windows import mix, windows_from_episodes
from gymnast_core.errors import CheckpointError, ContractError, ShapeError
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.policies import load_policy
from gymnast_core.policies.compact import ActionBins, CompactNetwork, CompactPolicyConfig
from gymnast_core.policies.sampling import choose_tokens
from gymnast_core.policies.text import bag_of_words
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Observation
from tests.cloud.learning_fakes import episode, tiny_policy
from tests.contracts.policy_contract import PolicyContract


class TestCompactPolicy(PolicyContract):
    def make_policy(self):
        return tiny_policy()


def observation(rows, size=64):
    frames = np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    return Observation({"over_shoulder": frames}, np.zeros((rows, 7), np.float32), np.zeros(rows, np.int64))


def test_reported_log_probabilities_are_those_a_trainer_recomputes():
    policy = tiny_policy()
    seen = observation(4)
    chunk = policy.act(seen, ["push it"] * 4, rng=np.random.default_rng(3))
    again = policy.log_probs(seen.images["over_shoulder"], ["push it"] * 4, chunk.trace)
    np.testing.assert_allclose(again.detach().numpy(), chunk.log_probs_BKA, atol=1e-5)


def test_probabilities_of_all_tokens_sum_to_one_at_another_temperature():
    policy = tiny_policy()
    policy.temperature = 1.7
    images = observation(1).images["over_shoulder"]
    tokens = np.zeros((1, 5, 7), np.int64)
    total = sum(policy.log_probs(images, ["a"], {"tokens": tokens + t})[0, 0, 0].exp().item() for t in range(256))
    assert total == pytest.approx(1.0, abs=1e-5)


def test_tokens_follow_the_inverse_distribution():
    log_probs = np.log(np.array([0.1, 0.2, 0.7], np.float32))
    uniforms = np.array([0.0, 0.0999, 0.1001, 0.2999, 0.3001, 0.9999])
    rng = create_autospec(np.random.Generator, instance=True)
    rng.random.return_value = uniforms
    drawn = choose_tokens(np.broadcast_to(log_probs, (6, 3)), rng)
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2]


def test_large_camera_images_are_averaged_down():
    policy = tiny_policy()
    small = observation(1)
    large = np.repeat(np.repeat(small.images["over_shoulder"], 4, axis=1), 4, axis=2)
    same = dataclasses.replace(small, images={"over_shoulder": large})
    np.testing.assert_array_equal(policy.act(small, ["a"]).actions_BKA, policy.act(same, ["a"]).actions_BKA)
    assert policy.act(observation(1, size=100), ["a"]).actions_BKA.shape == (1, 5, 7)
    with pytest.raises(ShapeError, match="at least 64 pixels"):
        policy.act(observation(1, size=48), ["a"])


def test_missing_camera_is_refused_by_name():
    policy = tiny_policy()
    policy.config = dataclasses.replace(policy.config, camera="wrist")
    with pytest.raises(ContractError, match="wrist"):
        policy.act(observation(1), ["a"])


def test_bins_decode_to_their_centres_and_back():
    bins = ActionBins(np.full(7, -1, np.float32), np.full(7, 1, np.float32), 4)
    tokens = np.arange(4)[:, None].repeat(7, 1)
    np.testing.assert_allclose(bins.decode(tokens)[:, 0], [-0.75, -0.25, 0.25, 0.75])
    np.testing.assert_array_equal(bins.encode(bins.decode(tokens)), tokens)
    assert bins.encode(np.full((1, 7), 9.0, np.float32)).max() == 3


def test_fresh_outputs_are_smooth_over_neighbouring_bins():
    network = CompactNetwork(CompactPolicyConfig())
    weight = network.head.weight.detach().view(5, 7, 256, -1)
    assert weight.diff(dim=2).abs().mean() < 0.1 * weight.std()
    assert 1.0e6 < sum(p.numel() for p in network.parameters()) < 1.6e6


def test_any_string_becomes_a_bag_and_word_order_matters():
    bags = bag_of_words(["cube on plate", "plate on cube", "Cube  ON plate!", ""], 256)
    assert not np.array_equal(bags[0], bags[1])
    np.testing.assert_array_equal(bags[0], bags[2])
    assert bags[3].sum() == 1


def test_ascii_instructions_are_the_bags_that_checkpoints_have_learned():
    known = ["lift the red cube", "Put the RED cube on the plate!", "push the green block to the left",
             "open the drawer", "close the drawer", "", "???", "cube_2 on plate-3", "  put\tit\n down  ",
             "a b c d e f g h 0 1 2 3"]  # fmt: skip
    pinned = {64: "f73185f1644bae50", 256: "5be271dea56479ab", 512: "531312b3e8296eb9"}
    for buckets, digest in pinned.items():
        assert hashlib.sha256(bag_of_words(known, buckets).tobytes()).hexdigest()[:16] == digest


def test_different_words_of_any_script_are_different_bags():
    words = (
        *("把红色方块放到盘子上", "打开抽屉", "盘子放到红色方块上"),
        *("подними красный куб", "ارفع المكعب", "ارفع الطبق", "लाल घन की", "लाल घन का"),
        *("หยิบสีแดง", "วางสีแดง", "赤いキューブ", "青いキューブ", "빨간 큐브", "café", "caf", "👍", "👎", ""),
    )
    bags = bag_of_words(words, 256)
    for first, second in combinations(range(len(words)), 2):
        assert not np.array_equal(bags[first], bags[second]), (words[first], words[second])
    np.testing.assert_array_equal(*bag_of_words(["ПОДНИМИ  куб!", "подними куб"], 256))
    np.testing.assert_array_equal(*bag_of_words(["put the cube — there", "put the cube there"], 256))


def test_saved_policy_loads_by_its_manifest_and_acts_alike(tmp_path):
    policy = tiny_policy()
    manifest = policy.save(tmp_path / "p", lineage={"stage": "test"})
    loaded = load_policy(tmp_path / "p")
    assert loaded.version == manifest.id == policy.version
    seen = observation(2)
    np.testing.assert_array_equal(policy.act(seen, ["a", "b"]).actions_BKA, loaded.act(seen, ["a", "b"]).actions_BKA)
    (tmp_path / "p" / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="digest"):
        load_policy(tmp_path / "p")


def test_windows_begin_at_every_step_and_mask_what_is_past_the_end():
    windows = windows_from_episodes([episode(1, steps=7)], 5, np.asarray)
    assert len(windows) == 7
    assert windows.weight_N.tolist() == pytest.approx([1, 0.1, 0.1, 0.1, 0.1, 1, 0.1])
    assert windows.valid_NK[5].tolist() == [True, True, False, False, False]
    np.testing.assert_array_equal(windows.actions_NKA[5, 2], episode(1, steps=7).actions_TA[-1])


def test_mixing_draws_each_half_as_often_whatever_their_sizes():
    few, many = (
        windows_from_episodes([episode(seed) for seed in seeds], 5, np.asarray) for seeds in (range(1), range(9))
    )
    drawn = mix(few, many).draw(4000, np.random.default_rng(0))
    assert (drawn < len(few)).mean() == pytest.approx(0.5, abs=0.03)


def test_soft_label_loss_matches_numbers_worked_by_hand():
    logits = torch.zeros(1, 1, 1, 3)
    config = SftConfig(label_sigma_bins=1.0, expected_action_weight=2.0)
    loss = sft_loss(logits, torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), config)
    # uniform prediction: cross-entropy ln 3 whatever the label; expected bin 1, error 2 (1 - 0) / 3
    assert loss.item() == pytest.approx(math.log(3) + 2 * (2 / 3) ** 2, abs=1e-6)


def test_translation_keeps_the_arms_whole_step_and_unused_rotation_stays_narrow():
    bins = action_bins_of(episode(0).actions_TA, 256)
    np.testing.assert_allclose(bins.low_A[:3], -0.05)
    np.testing.assert_allclose(bins.high_A[3:6], 0.02)
    assert (bins.low_A[6], bins.high_A[6]) == (0.0, 1.0)


def test_fine_tuning_resumes_bit_for_bit(tmp_path):
    windows = windows_from_episodes([episode(seed) for seed in range(4)], 5, np.asarray)
    config = SftConfig(iterations=6, batch_size=8)
    straight = SftTrainer(tiny_policy(), windows, config)
    for _ in range(6):
        straight.run_step()
    halves = SftTrainer(tiny_policy(), windows, config)
    for _ in range(3):
        halves.run_step()
    halves.save(tmp_path / "state")
    resumed = SftTrainer(tiny_policy(seed=9), windows, config)
    resumed.load(tmp_path / "state")
    for _ in range(3):
        resumed.run_step()
    assert resumed.losses == straight.losses
    for name, tensor in straight.policy.network.state_dict().items():
        assert torch.equal(tensor, resumed.policy.network.state_dict()[name]), name


def test_fine_tuning_lowers_the_loss_and_writes_where_it_came_from(tmp_path):
    demos = [episode(seed) for seed in range(6)]
    sizes = tiny_policy().config
    first = train_sft(demos, SftConfig(iterations=30, batch_size=16, warmup=2), tmp_path / "a", policy_config=sizes)
    losses = []
    train_sft(
        demos,
        SftConfig(iterations=20, batch_size=16, warmup=2),
        tmp_path / "b",
        parent=tmp_path / "a",
        progress=lambda event: losses.append(event.metrics["loss"]),
    )
    manifest = read_manifest(tmp_path / "b")
    assert manifest.parents == (first.id,)
    assert manifest.lineage["episodes"] == [demo.episode_id for demo in demos]
    assert losses[-1] < 8.0
