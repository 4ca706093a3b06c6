"""The compact world model as an environment: B dreams stepped together, frames drawn only when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cloud_trainer.world_model.compact_data import StartState, next_pose
from cloud_trainer.world_model.compact_model import CompactWorldModel
from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import ConfigError, EpisodeOverError
from gymnast_core.spec import EnvSpec
from gymnast_core.types import BoolArray, ByteArray, FloatArray, IntArray, Observation, StepResult


class _Lazy(Mapping[str, ByteArray]):
    """One camera whose frame is drawn at the first look."""

    def __init__(self, env: CompactWorldModelEnv, camera: str, moment: int) -> None:
        self._env, self._camera, self._moment = env, camera, moment
        self._frames: ByteArray | None = None

    def __getitem__(self, name: str) -> ByteArray:
        if name != self._camera:
            raise KeyError(name)
        if self._frames is None:
            self._frames = self._env.frames_at(self._moment)
        return self._frames

    def __iter__(self) -> Iterator[str]:
        return iter((self._camera,))

    def __len__(self) -> int:
        return 1


class CompactWorldModelEnv:
    """Keeps gymnast_core.env.Env. Proprioception is the commanded pose; the clock counts imagined time.

    Frames come from the last chunk boundary ("anchor") in one prediction, whoever looks and however often, so looking
    changes nothing. A row's noise depends on the reset's seed, the row and the step, not on the other rows.

    Attributes:
        model: the world model.
        starts: where dreams may begin.
    """

    def __init__(
        self,
        model: CompactWorldModel,
        starts: Sequence[StartState],
        *,
        batch_size: int | None = None,
        max_steps: int = 15,
        camera: str = "camera",
        in_order: bool = False,
    ) -> None:
        """Bind a model to start states.

        Args:
            model: the world model.
            starts: at least one; a start at step t has max_steps - t steps left.
            batch_size: B; None takes one row per start.
            max_steps: T.
            camera: name of the one camera.
            in_order: row b begins at starts[b % len(starts)]; otherwise reset's seed chooses, row by row, among the
                starts with the row's instruction, or among all where none has it.

        Raises:
            ConfigError: no starts, or one beyond max_steps.
        """
        if not starts or any(start.step >= max_steps for start in starts):
            raise ConfigError(f"need start states before step {max_steps}, got {len(starts)}")
        size = model.config.image_size
        self.model, self.starts = model, list(starts)
        self._camera, self._in_order = camera, in_order
        self._spec = EnvSpec(batch_size or len(starts), (camera,), size, size, max_steps)
        self._moment = -1
        self._done = np.ones(self._spec.batch_size, bool)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names."""
        return self._spec

    @property
    def chosen(self) -> list[StartState]:
        """The start state of every row of the current batch."""
        return list(self._chosen)

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Begin B dreams; see Env.reset."""
        batch = self._spec.batch_size
        rows = instructions_for(instruction, batch)
        self._seed = seed
        self._chosen = [self._choose(rows[b], seed, b) for b in range(batch)]
        self._first = np.stack([start.first_HWC for start in self._chosen])
        self._anchor = np.stack([start.frame_HWC for start in self._chosen])
        self._anchor_moment, self._moment = 0, 0
        self._left = np.array([self._spec.max_steps - start.step for start in self._chosen], np.int64)
        self._done = np.zeros(batch, bool)
        self._poses = [np.stack([start.pose_P for start in self._chosen])]
        self._actions: list[FloatArray] = []
        self._drawn: dict[int, ByteArray] = {0: self._anchor}
        return self._observation()

    def _choose(self, instruction: str, seed: int, row: int) -> StartState:
        if self._in_order:
            return self.starts[row % len(self.starts)]
        fitting = [start for start in self.starts if start.instruction == instruction] or self.starts
        return fitting[int(np.random.default_rng((seed, row)).integers(len(fitting)))]

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action per row; no frame is drawn here. See Env.step."""
        checked_action(action_BA, self._spec.batch_size)
        if self._done.all():
            raise EpisodeOverError("every dream is over; call reset() first")
        robot = self._spec.robot
        limit = np.array([robot.max_translation_m] * 3 + [robot.max_rotation_rad] * 3, np.float32)
        commanded = action_BA.copy()
        commanded[:, :6] = np.clip(commanded[:, :6], -limit, limit)
        commanded[:, 6] = np.clip(commanded[:, 6], 0.0, 1.0)
        frozen = self._done[:, None]
        commanded = np.where(frozen, np.float32(0), commanded)
        self._actions.append(commanded)
        self._poses.append(np.where(frozen, self._poses[-1], next_pose(self._poses[-1], commanded)))
        self._moment += 1
        self._done = self._moment >= self._left
        return StepResult(self._observation(), np.zeros_like(self._done), self._done.copy(), commanded)

    def close(self) -> None:
        """Forget the dreams."""
        self._moment, self._done = -1, np.ones(self._spec.batch_size, bool)

    def _observation(self) -> Observation:
        spent = np.minimum(self._moment, self._left) + np.array([start.step for start in self._chosen])
        return Observation(
            _Lazy(self, self._camera, self._moment),
            self._poses[-1].copy(),
            (spent * self._spec.robot.step_ns).astype(np.int64),
        )

    def frames_at(self, moment: int) -> ByteArray:
        """Return the (B, 64, 64, 3) frames after `moment` steps of this dream, drawing what is missing."""
        if moment not in self._drawn:
            horizon = self.model.config.horizon
            anchor = (moment - 1) // horizon * horizon
            self._drawn[moment] = self._draw(self.frames_at(anchor), anchor, moment)
        return self._drawn[moment].copy()

    def _draw(self, context: ByteArray, anchor: int, moment: int) -> ByteArray:
        """Predict live rows from the anchor; rows already over keep the anchor's frame or stop at their end."""
        horizon = self.model.config.horizon
        ahead = np.minimum(moment, self._left) - anchor
        rows = np.flatnonzero(ahead > 0)
        frames = context.copy()
        if len(rows) == 0:
            return frames
        poses, actions = self._conditions(rows, anchor, ahead[rows], horizon)
        seeds = [(self._seed, int(b), int(min(moment, self._left[b]))) for b in rows]
        frames[rows] = self.model.predict(context[rows], self._first[rows], poses, actions, ahead[rows], seeds)
        return frames

    def _conditions(
        self, rows: IntArray, anchor: int, ahead: IntArray, horizon: int
    ) -> tuple[FloatArray, FloatArray]:
        offset = np.arange(horizon + 1)
        poses = np.stack(self._poses)[anchor + np.minimum(offset, ahead[:, None]), rows[:, None]]
        inside: BoolArray = offset[:-1] < ahead[:, None]
        index = np.minimum(anchor + offset[:-1], len(self._actions) - 1)
        actions = np.stack(self._actions)[index[None, :], rows[:, None]]
        return poses, np.where(inside[..., None], actions, np.float32(0))
