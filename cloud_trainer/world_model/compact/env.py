"""The compact world model as an environment: B dreams stepped together, frames drawn only when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cloud_trainer.world_model.compact.data import next_pose
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.starts import StartState
from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import ConfigError, EpisodeOverError
from gymnast_core.spec import WIDOWX_250S, EnvSpec, RobotSpec
from gymnast_core.types import BoolArray, ByteArray, FloatArray, IntArray, Observation, StepResult


class _Dream:
    """B rows from one reset: what was commanded, and the frames drawn so far."""

    def __init__(self, model: CompactWorldModel, chosen: Sequence[StartState], seed: int, max_steps: int) -> None:
        self.model, self.chosen, self.seed = model, list(chosen), seed
        self.first = np.stack([start.first_HWC for start in chosen])
        self.left = np.array([min(max_steps, start.episode_steps) - start.step for start in chosen], np.int64)
        self.poses = [np.stack([start.pose_P for start in chosen])]
        self.actions: list[FloatArray] = []
        self._drawn: dict[int, ByteArray] = {0: np.stack([start.frame_HWC for start in chosen])}

    def frames_at(self, moment: int) -> ByteArray:
        """Return the (B, 64, 64, 3) frames after `moment` steps, drawing what is missing."""
        if moment not in self._drawn:
            horizon = self.model.config.horizon
            anchor = (moment - 1) // horizon * horizon
            self._drawn[moment] = self._draw(self.frames_at(anchor), anchor, moment)
        return self._drawn[moment].copy()

    def _draw(self, context: ByteArray, anchor: int, moment: int) -> ByteArray:
        """Predict live rows from the anchor; a row that is over stops at its end or keeps the anchor's frame."""
        ahead = np.minimum(moment, self.left) - anchor
        rows = np.flatnonzero(ahead > 0)
        frames = context.copy()
        if len(rows) == 0:
            return frames
        poses, actions = self._conditions(rows, anchor, ahead[rows])
        seeds = [(self.seed, int(b), int(min(moment, self.left[b]))) for b in rows]
        frames[rows] = self.model.predict(context[rows], self.first[rows], poses, actions, ahead[rows], seeds)
        return frames

    def _conditions(self, rows: IntArray, anchor: int, ahead: IntArray) -> tuple[FloatArray, FloatArray]:
        offset = np.arange(self.model.config.horizon + 1)
        poses = np.stack(self.poses)[anchor + np.minimum(offset, ahead[:, None]), rows[:, None]]
        inside: BoolArray = offset[:-1] < ahead[:, None]
        index = np.minimum(anchor + offset[:-1], len(self.actions) - 1)
        actions = np.stack(self.actions)[index[None, :], rows[:, None]]
        return poses, np.where(inside[..., None], actions, np.float32(0))


class _Lazy(Mapping[str, ByteArray]):
    """One camera whose frame is drawn at the first look."""

    def __init__(self, dream: _Dream, camera: str, moment: int) -> None:
        self._dream, self._camera, self._moment = dream, camera, moment

    def __getitem__(self, name: str) -> ByteArray:
        if name != self._camera:
            raise KeyError(name)
        return self._dream.frames_at(self._moment)

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
        robot: RobotSpec = WIDOWX_250S,
    ) -> None:
        """Bind a model to start states.

        Args:
            model: the world model.
            starts: at least one; a row ends at its start's episode_steps, or at max_steps where that is sooner.
            batch_size: B; None takes one row per start.
            max_steps: T.
            camera: name of the one camera.
            in_order: row b begins at starts[b % len(starts)]; otherwise reset's seed chooses, row by row, among the
                starts with the row's instruction, or among all where none has it.
            robot: the arm that is commanded.

        Raises:
            ConfigError: no starts, or one beyond max_steps.
        """
        if not starts or any(start.step >= max_steps for start in starts):
            raise ConfigError(f"need start states before step {max_steps}, got {len(starts)}")
        size = model.config.image_size
        self.model, self.starts = model, list(starts)
        self._camera, self._in_order = camera, in_order
        self._spec = EnvSpec(batch_size or len(starts), (camera,), size, size, max_steps, robot)
        self._dream: _Dream | None = None
        self._done = np.ones(self._spec.batch_size, bool)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names."""
        return self._spec

    @property
    def chosen(self) -> list[StartState]:
        """The start state of every row of the current batch; empty before the first reset."""
        return list(self._dream.chosen) if self._dream is not None else []

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Begin B dreams; see Env.reset."""
        batch = self._spec.batch_size
        rows = instructions_for(instruction, batch)
        chosen = [self._choose(rows[b], seed, b) for b in range(batch)]
        self._dream = _Dream(self.model, chosen, seed, self._spec.max_steps)
        self._done = np.zeros(batch, bool)
        return self._observation(self._dream)

    def _choose(self, instruction: str, seed: int, row: int) -> StartState:
        if self._in_order:
            return self.starts[row % len(self.starts)]
        fitting = [start for start in self.starts if start.instruction == instruction] or self.starts
        return fitting[int(np.random.default_rng((seed, row)).integers(len(fitting)))]

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action per row; no frame is drawn here. See Env.step."""
        checked_action(action_BA, self._spec.batch_size)
        dream = self._dream
        if dream is None or self._done.all():
            raise EpisodeOverError("every dream is over or none was begun; call reset() first")
        robot = self._spec.robot
        commanded = np.clip(action_BA, robot.action_low_A, robot.action_high_A)
        frozen = self._done[:, None]
        commanded = np.where(frozen, np.float32(0), commanded)
        before = dream.poses[-1]
        dream.actions.append(commanded)
        dream.poses.append(np.where(frozen, before, next_pose(before, commanded, robot)))
        self._done = len(dream.actions) >= dream.left
        return StepResult(self._observation(dream), np.zeros_like(self._done), self._done.copy(), commanded)

    def close(self) -> None:
        """Forget the dream; safe to call twice."""
        self._dream = None

    def _observation(self, dream: _Dream) -> Observation:
        moment = len(dream.actions)
        spent = np.minimum(moment, dream.left) + np.array([start.step for start in dream.chosen])
        time_ns_B = (spent * self._spec.robot.step_ns).astype(np.int64)
        return Observation(_Lazy(dream, self._camera, moment), dream.poses[-1].copy(), time_ns_B)
