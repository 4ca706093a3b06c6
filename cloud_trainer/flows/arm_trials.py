"""The runs of a blinded trial on a robot's arm: each pair from the same start, checked by image, or set aside."""

from __future__ import annotations

import time
from collections.abc import Callable

from cloud_trainer.flows.arms import TrialRobot
from cloud_trainer.store.episodes import EpisodeCatalogue
from gymnast_core.errors import GymnastError
from gymnast_core.evaluation.scene import check_reset
from gymnast_core.evaluation.trial import Trial
from gymnast_core.orders import EpisodeAnswer
from gymnast_core.outcome import judge_in
from gymnast_core.types import Outcome

POLL_S = 0.5
MOST_ATTEMPTS = 3
"""Of one pair; then somebody has to look."""
FLUSH_S = STAGE_S = 120.0
"""How long episodes may take up, and a checkpoint down."""
ESTOP = "estop"
HEARD_S = 3.0
"""A robot reports about once a second."""


def run_pairs(
    trial: Trial, robot: TrialRobot, catalogue: EpisodeCatalogue, *, scene: str, purpose: str,
    stop: Callable[[], bool], on_pair: Callable[[int], None] = lambda pair: None,
) -> None:  # fmt: skip
    """Do run after run until the trial is decided or stop() holds.

    An e-stop pauses: the run it ended counts for nothing and is repeated from its start once the arm is armed again.

    Args:
        trial: declared.
        robot: holds both checkpoints.
        catalogue: where its recordings arrive.
        scene: where it stands.
        purpose: rides in the recordings.
        stop: asked before every run.
        on_pair: the number of every finished pair.

    Raises:
        GymnastError: a pair was set aside too often; the message says why last.
    """
    while _armed(robot, stop) and (run := trial.next_run()) is not None and not stop():
        with robot.turn(f"pair {run.pair + 1} of at most {trial.plan.rule.max_pairs}"):
            _run_pair(trial, robot, catalogue, run.pair, scene=scene, purpose=purpose, stop=stop, on_pair=on_pair)


def _run_pair(
    trial: Trial, robot: TrialRobot, catalogue: EpisodeCatalogue, pair: int, *, scene: str, purpose: str,
    stop: Callable[[], bool], on_pair: Callable[[int], None],
) -> None:  # fmt: skip
    """Do the runs of one pair, again where it is set aside; raises as run_pairs()."""
    while _armed(robot, stop) and (run := trial.next_run()) is not None and run.pair == pair and not stop():
        row = robot.run_episode(
            instruction=run.instruction, seed=run.start_seed, scene=scene,
            checkpoint=trial.checkpoint_of(run.run_id), record=True, purpose=purpose,
        )  # fmt: skip
        if row.truncated_reason == ESTOP:
            _heard(robot)
            continue
        episode_id, first = row.episode_id, trial.first_episode
        if problem := _unusable(row, trial.plan.judge) or _not_reset(robot, catalogue, first, episode_id):
            trial.void(run.run_id, problem)
            if trial.attempt > MOST_ATTEMPTS:
                raise GymnastError(f"a pair was set aside {MOST_ATTEMPTS} times, the last time because {problem}")
            continue
        outcome = Outcome.SUCCESS if row.success else Outcome.FAILURE
        trial.record(run.run_id, outcome, labelled_by=row.labelled_by, episode_id=episode_id)
        if first:
            on_pair(run.pair)


def _armed(robot: TrialRobot, stop: Callable[[], bool]) -> bool:
    """Wait, however long, until the arm may move; False when stop() holds first."""
    while robot.stopped:
        if stop():
            return False
        time.sleep(POLL_S)
    return True


def _heard(robot: TrialRobot) -> None:
    """Give the robot's next report a moment to say what its episode said already."""
    deadline = time.monotonic() + HEARD_S
    while not robot.stopped and time.monotonic() < deadline:
        time.sleep(POLL_S / 5)


def _unusable(row: EpisodeAnswer, declared: str) -> str:
    """Why a run says nothing; empty when it does. Who labels was declared before the first run."""
    if not row.episode_id:
        return row.truncated_reason or "the robot names no recording of it"
    if row.truncated_reason or row.success is None:
        return row.truncated_reason or "nobody labelled it"
    judge = judge_in(row.labelled_by)
    return f"{judge} labelled it, and this trial goes by {declared}" if judge and judge != declared else ""


def _not_reset(robot: TrialRobot, catalogue: EpisodeCatalogue, first: str, second: str) -> str:
    """What differs between the starts of a pair's two runs, by image; empty when nothing does, or for its first."""
    if not first:
        return ""
    if second == first:
        return f"both runs are said to be the recording {first}"
    robot.flush(FLUSH_S)
    catalogue.settle()
    starts = []
    for name in (first, second):
        if (row := catalogue.find(name)) is None:
            return f"the recording {name} is not at the trainer, or not valid"
        starts.append(next(iter(catalogue.read(row).images.values()))[0])
    check = check_reset(starts[1], starts[0])
    return "" if check.ok else check.message
