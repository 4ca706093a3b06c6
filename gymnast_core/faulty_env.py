"""What goes wrong on an arm, on purpose and by a seed: frozen, black and noisy pictures, held steps, a lost link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from gymnast_core.env import Env, checked_action
from gymnast_core.errors import ConfigError, TransientBridgeError
from gymnast_core.spec import EnvSpec
from gymnast_core.types import ByteArray, FloatArray, IntArray, Observation, StepResult


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong, each row and step for itself.

    Attributes:
        frozen: share of observations after a step whose pictures are still those of the one before.
        black: share of observations whose pictures are black.
        noise: standard deviation [grey levels] of what is added to every picture.
        held: share of steps in which the arm stays where it is, as if the command came too late.
        lost_after: steps of an episode after which the link is lost (TransientBridgeError); 0 never.
        seed: of all this; the same seed, reset and step have the same faults.
    """

    frozen: float = 0.0
    black: float = 0.0
    noise: float = 0.0
    held: float = 0.0
    lost_after: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no share, or negative."""
        for name in ("frozen", "black", "held"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")
        for name in ("noise", "lost_after", "seed"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")

    @staticmethod
    def of(values: Mapping[str, float]) -> Faults:
        """Make them of names and numbers.

        Raises:
            ConfigError: a name that does not exist; the message lists those that do.
        """
        known = [one.name for one in fields(Faults)]
        if unknown := sorted(set(values) - set(known)):
            raise ConfigError(f"there is no fault {unknown[0]!r}; there are {known}")
        return replace(Faults(), **values)  # type: ignore[arg-type]  # a share and a count alike


class FaultyEnv:
    """Keeps gymnast_core.env.Env around another one; commanded_BA of a held step is what was commanded: no motion.

    Args:
        env: what works.
        faults: what does not.
    """

    def __init__(self, env: Env, faults: Faults) -> None:
        self._env, self._faults = env, faults
        self._seed = self._steps = 0
        self._shown: list[Mapping[str, ByteArray]] = []
        self._from_B: IntArray = np.zeros(env.spec.batch_size, np.int64)
        self._done_B = np.zeros(env.spec.batch_size, bool)

    @property
    def spec(self) -> EnvSpec:
        """That of the environment inside."""
        return self._env.spec

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """See Env.reset; the first observation is never a frozen one."""
        observation = self._env.reset(instruction, seed=seed)
        self._seed, self._steps, self._shown = seed, 0, []
        self._from_B, self._done_B = np.zeros_like(self._from_B), np.zeros_like(self._done_B)
        return self._spoilt(observation)

    def step(self, action_BA: FloatArray) -> StepResult:
        """See Env.step.

        Raises:
            TransientBridgeError: the link is lost, as it was to be.
        """
        asked_BA = checked_action(action_BA, self.spec.batch_size)
        faults = self._faults
        if faults.lost_after and self._steps >= faults.lost_after:
            raise TransientBridgeError(f"the link was lost after {self._steps} steps, on purpose (lost_after)")
        held_B = self._rng("held").random(len(asked_BA)) < faults.held
        asked_BA = np.where(held_B[:, None] & (np.arange(7) < 6), np.float32(0), asked_BA)
        result = self._env.step(asked_BA)
        self._steps += 1
        going_B = ~self._done_B
        fresh_B = going_B & (self._rng("frozen").random(len(going_B)) >= faults.frozen)
        self._from_B = np.where(fresh_B, self._steps, self._from_B)
        self._done_B = result.done_B.copy()
        return StepResult(
            self._spoilt(result.observation), result.terminated_B, result.truncated_B, result.commanded_BA
        )

    def close(self) -> None:
        """Close the environment inside."""
        self._env.close()

    def _rng(self, what: str) -> np.random.Generator:
        return np.random.default_rng((self._faults.seed, self._seed, self._steps, *what.encode()))

    def _spoilt(self, observation: Observation) -> Observation:
        self._shown.append(observation.images)
        from_B, faults = self._from_B.copy(), self._faults
        rows = np.arange(len(from_B))
        draws = [np.random.default_rng((faults.seed, self._seed, int(at), int(b))) for b, at in enumerate(from_B)]
        black_B = np.array([rng.random() for rng in draws]) < faults.black
        images = _Spoilt(self._shown, from_B, rows[black_B], faults.noise, (faults.seed, self._seed))
        return Observation(images, observation.proprio_BP, observation.time_ns_B)


class _Spoilt(Mapping[str, ByteArray]):
    """Pictures as the faults leave them; drawn, like those inside, when somebody looks."""

    def __init__(
        self, shown: Sequence[Mapping[str, ByteArray]], from_B: IntArray, black: IntArray, noise: float,
        seed: tuple[int, int],
    ) -> None:  # fmt: skip
        self._shown, self._from_B, self._black, self._noise, self._seed = shown, from_B, black, noise, seed

    def __getitem__(self, camera: str) -> ByteArray:
        frames = np.array(self._shown[int(self._from_B.max())][camera])
        for row, at in enumerate(self._from_B):
            frames[row] = self._shown[int(at)][camera][row]
            if self._noise:
                rng = np.random.default_rng((*self._seed, int(at), row, *camera.encode()))
                noisy = frames[row] + rng.normal(0.0, self._noise, frames[row].shape)
                frames[row] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        frames[self._black] = 0
        return frames

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown[-1])

    def __len__(self) -> int:
        return len(self._shown[-1])
