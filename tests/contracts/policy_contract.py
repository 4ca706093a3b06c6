"""What every gymnast_core.policy.Policy must do: inherit PolicyContract, override make_policy."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.errors import ContractError
from gymnast_core.policies.trainable import LearningPolicy
from gymnast_core.policy import Policy
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Observation


class PolicyContract:
    """Inherit as `class TestMyPolicy(PolicyContract)`, override make_policy; the attributes say what yours can do."""

    instruction = "lift the red cube"
    camera = "over_shoulder"
    image_size = 64
    stochastic = True
    """False for a policy that ignores rng."""
    learning = True
    """False for a policy without traces and log-probabilities."""
    discrete = True
    """False for a policy without tokens."""

    def make_policy(self) -> Policy:
        raise NotImplementedError("override make_policy() with a factory of the policy under test")

    def observation(self, rows: int, *, seed: int = 0) -> Observation:
        """Random pictures; row b is the same whatever the number of rows."""
        size = self.image_size
        shape = (size, size, 3)
        frames = [np.random.default_rng((seed, b)).integers(0, 256, shape, dtype=np.uint8) for b in range(rows)]
        return Observation(
            {self.camera: np.stack(frames)}, np.full((rows, 7), 0.2, np.float32), np.zeros(rows, np.int64)
        )

    @pytest.fixture
    def policy(self) -> Policy:
        return self.make_policy()

    def test_chunk_has_the_promised_shape_and_names_its_version(self, policy: Policy) -> None:
        chunk = policy.act(self.observation(3), [self.instruction] * 3)
        assert chunk.actions_BKA.shape == (3, policy.chunk_length, 7)
        assert chunk.actions_BKA.dtype == np.float32
        assert chunk.policy_version == policy.version
        assert policy.version

    def test_actions_are_finite_and_within_the_arms_limits(self, policy: Policy) -> None:
        rng = np.random.default_rng(0) if self.stochastic else None
        actions = policy.act(self.observation(4), [self.instruction] * 4, rng=rng).actions_BKA
        assert np.isfinite(actions).all()
        assert (np.abs(actions[..., :3]) <= WIDOWX_250S.max_translation_m + 1e-6).all()
        assert (np.abs(actions[..., 3:6]) <= WIDOWX_250S.max_rotation_rad + 1e-6).all()
        assert ((actions[..., 6] >= 0) & (actions[..., 6] <= 1)).all()

    def test_greedy_choice_repeats(self, policy: Policy) -> None:
        first, second = (policy.act(self.observation(2), [self.instruction] * 2).actions_BKA for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_same_generator_gives_the_same_actions(self, policy: Policy) -> None:
        first, second = (
            policy.act(self.observation(2), [self.instruction] * 2, rng=np.random.default_rng(5)).actions_BKA
            for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)

    def test_greedy_rows_do_not_depend_on_their_batch(self, policy: Policy) -> None:
        together = policy.act(self.observation(3), [self.instruction] * 3).actions_BKA
        alone = policy.act(self.observation(1), [self.instruction]).actions_BKA
        np.testing.assert_array_equal(together[0], alone[0])

    def test_wrong_number_of_instructions_is_refused(self, policy: Policy) -> None:
        with pytest.raises(ContractError):
            policy.act(self.observation(2), [self.instruction])

    def test_a_traced_chunk_gives_its_log_probabilities_again(self, policy: Policy) -> None:
        if not self.learning:
            pytest.skip("this policy has no log-probabilities")
        assert isinstance(policy, LearningPolicy)
        seen, texts = self.observation(2), [self.instruction] * 2
        chunk = policy.act(seen, texts, rng=np.random.default_rng(1))
        assert chunk.log_probs_BKA is not None
        assert chunk.log_probs_BKA.shape == chunk.actions_BKA.shape
        frames = policy.training_frames(seen.images[self.camera])
        again = policy.log_probs(frames, texts, chunk.trace).detach().numpy()
        np.testing.assert_allclose(np.exp(again - chunk.log_probs_BKA), 1.0, atol=1e-5)  # the first update's ratio

    def test_log_probabilities_belong_to_tokens(self, policy: Policy) -> None:
        chunk = policy.act(self.observation(2), [self.instruction] * 2, rng=np.random.default_rng(1))
        if not self.discrete:
            assert "tokens" not in chunk.trace
            return
        assert chunk.log_probs_BKA is not None
        assert chunk.trace["tokens"].shape == chunk.log_probs_BKA.shape == chunk.actions_BKA.shape
        assert (chunk.log_probs_BKA <= 0).all()
        assert ((chunk.trace["tokens"] >= 0) & (chunk.trace["tokens"] < 256)).all()
