"""First checkpoints for another camera or simulator, out of recorded episodes alone: `gymnast begin`.

An improve job needs a policy, a world model and a judge to begin with. The shipped ones know one arm and one camera.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_trainer.jobs.desk.episodes import labelled_episodes
from cloud_trainer.jobs.judging import JudgeData, refine_judge
from cloud_trainer.jobs.practice import clips_for
from cloud_trainer.jobs.splits import split
from cloud_trainer.judge.training import JudgeTraining
from cloud_trainer.progress import Progress, ProgressEvent, silent
from cloud_trainer.sft.trainer import train_sft
from cloud_trainer.world_model.compact.train import WorldModelTraining, train_world_model
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.robots import arm_of_all, model_in
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.types import Episode, Outcome

IMAGE_SIZE = 64
LINEAGE = {"made_by": "gymnast begin"}


@dataclass(frozen=True)
class BeginAmounts:
    """How much of everything.

    Attributes:
        policy_steps: of imitation.
        world_model_steps: of the world model.
        world_model_rate: its peak learning rate.
        judge_steps: of the judge.
    """

    policy_steps: int = 1200
    world_model_steps: int = 3000
    world_model_rate: float = 4e-4
    judge_steps: int = 600


DRY = BeginAmounts(policy_steps=4, world_model_steps=3, judge_steps=3)
"""Everything once, to see that it runs."""


class Beginning:
    """The stages; each is reused when its checkpoint is there and goes on where it was interrupted.

    Half of the episodes teach the world model, a quarter the judge, which sees their imagined ends, an eighth sets its
    thresholds; an eighth stays held out for an audit (see jobs.splits).

    Args:
        episodes: labelled, successes and failures; frames of IMAGE_SIZE pixels a side.
        camera_matrix: 12 numbers, see read_camera_matrix().
        out: gets policy/, world_model/ and judge/.
        work: state files.
        seed: of everything.
        amounts: how much.
        like: checkpoint whose weights the world model begins with; None is the shipped one.
        progress: called on the way.
    """

    def __init__(
        self, episodes: Sequence[Episode], camera_matrix: tuple[float, ...], out: Path, work: Path, *, seed: int = 0,
        amounts: BeginAmounts | None = None, like: Path | None = None, progress: Progress = silent,
    ) -> None:  # fmt: skip
        self._episodes, self._camera, self._out, self._work = list(episodes), camera_matrix, out, work
        self._seed, self._amounts, self._progress = seed, amounts or BeginAmounts(), progress
        self._like = like or shipped_checkpoints() / "world_model"
        for folder in (out, work):
            folder.mkdir(parents=True, exist_ok=True)

    def policy(self) -> Path:
        """Imitate the successes among them.

        Raises:
            ConfigError: there is none.
        """
        folder = self._out / "policy"
        if not folder.exists():
            won = [episode for episode in self._episodes if episode.outcome is Outcome.SUCCESS]
            if not won:
                raise ConfigError(f"none of {len(self._episodes)} episodes is a success to imitate; record some")
            config = SftConfig(iterations=self._amounts.policy_steps, seed=self._seed)
            train_sft(won, config, folder, state=self._work / "policy.state", lineage=LINEAGE, progress=self._progress)
        return folder

    def world_model(self) -> Path:
        """Teach the shipped world model this camera and scene."""
        folder = self._out / "world_model"
        if not folder.exists():
            clips = clips_for(split(self._episodes)["world_model"], "world_model", IMAGE_SIZE)
            config = WorldModelTraining(
                self._amounts.world_model_steps, learning_rate=self._amounts.world_model_rate, seed=self._seed
            )
            train_world_model(
                clips, config, folder, parent=self._like, camera_matrix=self._camera,
                arms={model_in(episode.metadata) for episode in self._episodes},
                state=self._work / "world_model.state", lineage=LINEAGE, progress=self._progress,
            )  # fmt: skip
        return folder

    def judge(self) -> Path:
        """Teach a judge on real ends and on those that the world model imagines."""
        folder = self._out / "judge"
        if not folder.exists():
            robot = arm_of_all(episode.metadata for episode in self._episodes)
            world, parts = load_world(self.world_model(), robot=robot), split(self._episodes)
            recorded, imagined, choosing = (
                clips_for(parts[name], name, IMAGE_SIZE) for name in ("world_model", "judge", "thresholds")
            )
            config = JudgeTraining(iterations=self._amounts.judge_steps, seed=self._seed)
            refine_judge(
                world, JudgeData(recorded, imagined, choosing), config, folder, state=self._work / "judge.state",
                lineage=LINEAGE, progress=self._progress,
            )  # fmt: skip
        return folder


def begin(
    files: Sequence[Path], camera: Path, out: Path, work: Path, *, seed: int = 0, amounts: BeginAmounts | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Path]:  # fmt: skip
    """Make what an improve job begins with, see Beginning.

    Args:
        files: .mcap files or folders of them.
        camera: see read_camera_matrix().
        out: gets the checkpoints that it lacks.
        work: state files.
        seed: of everything.
        amounts: how much.
        say: called with a line now and then.

    Returns:
        The checkpoint folders, by kind.

    Raises:
        ConfigError: too few episodes, all of one outcome, or no camera matrix.
    """

    def shown(event: ProgressEvent) -> None:
        if event.step % 100 == 0 or event.step == event.total:
            say(f"{event.stage} {event.step}/{event.total}")

    matrix = read_camera_matrix(camera)
    stages = Beginning(
        labelled_episodes(files, IMAGE_SIZE), matrix, out, work, seed=seed, amounts=amounts, progress=shown
    )
    return {"policy": stages.policy(), "world_model": stages.world_model(), "judge": stages.judge()}


def read_camera_matrix(path: Path) -> tuple[float, ...]:
    """Read 12 numbers, row-major 3x4: metres in the arm's base frame -> homogeneous pixels (column, row) at 64 a side.

    Raises:
        ConfigError: unreadable, or something else.
    """
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        matrix = tuple(float(number) for number in numbers)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read the camera matrix {path}: {error}; write a JSON list of 12 numbers") from error
    if len(matrix) != 12:
        raise ConfigError(f"{path}: a camera matrix is 12 numbers, row-major 3x4, got {len(matrix)}")
    return matrix
