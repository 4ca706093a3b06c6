"""A judge watches an episode on the arm: it may end it early, and labels it where no person does.

The control loop never waits for the judge. It is asked in a thread of its own, one question at a time; what it has not
answered yet changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypedDict

import numpy as np

from gymnast_core.json_values import JsonObject
from gymnast_core.outcome import Judgement, OutcomeJudge
from gymnast_core.types import ActionChunk, ByteArray, FloatArray, Observation, Outcome, StepResult

SUCCESS_SEEN = "success_seen"
"""Why an episode ended that a judge saw succeed."""
IN_A_ROW = 2
"""Successes that the judge has to see one after the other: a single one may be a glimpse."""
_MOST_FRAMES = 64
"""Kept of an episode; where it is longer, every second one is let go and every second one kept from there on."""


class KeptOfJudge(TypedDict, total=False):
    """What the recording of a judged episode keeps, in its metadata."""

    judge: JsonObject
    termination: str


class EpisodeFrames:
    """What the cameras saw in an episode, evenly spread, the first frame and the newest always."""

    def __init__(self) -> None:
        self._stride = 1
        self._kept: list[tuple[int, dict[str, ByteArray]]] = []
        self._newest: tuple[int, dict[str, ByteArray]] | None = None

    def add(self, step: int, observation: Observation) -> None:
        """Take the observation after so many steps."""
        self._newest = step, {camera: np.asarray(frames[0]) for camera, frames in observation.images.items()}
        if step % self._stride == 0:
            self._kept.append(self._newest)
        if len(self._kept) > _MOST_FRAMES:
            self._stride *= 2
            self._kept = [row for row in self._kept if row[0] % self._stride == 0]

    def shown(self) -> tuple[list[int], dict[str, ByteArray]]:
        """Return the steps that are kept, rising, and camera -> (F, H, W, 3) uint8 RGB; empty before the first."""
        if self._newest is None:
            return [], {}
        rows = [*self._kept, *([self._newest] if self._newest[0] % self._stride else [])]
        cameras = list(rows[0][1])
        return [step for step, _ in rows], {name: np.stack([seen[name] for _, seen in rows]) for name in cameras}


class JudgedEpisode:
    """Watches one episode, as an observer of its loop.

    Args:
        judge: asked.
        instruction: of the episode.
        scene: of the episode.
        every: steps between two looks at a running episode; 0 never looks, and nothing ends early.

    Attributes:
        ended: the judge saw success often enough, and the loop was asked to end for that.
    """

    def __init__(self, judge: OutcomeJudge, instruction: str, scene: str, every: int) -> None:
        self._judge, self._instruction, self._scene, self._every = judge, instruction, scene, every
        self._frames, self._step = EpisodeFrames(), 0
        self._asking: Future[Judgement] | None = None
        self._in_a_row = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self._lock = threading.Lock()
        self._found: Judgement | None = None
        self.ended = False

    def on_reset(self, instructions: Sequence[str], observation: Observation) -> None:
        """See Observer."""
        self._frames.add(0, observation)

    def on_step(self, action_BA: FloatArray, result: StepResult, chunk: ActionChunk, index: int) -> None:
        """See Observer."""
        self._step += 1
        self._frames.add(self._step, result.observation)
        if self._every and self._step % self._every == 0 and (self._asking is None or self._asking.done()):
            self._asking = self._ask(counts=True)

    def ends(self) -> bool:
        """Whether the judge saw success at so many looks in a row: the episode may end."""
        with self._lock:
            self.ended = self.ended or self._in_a_row >= IN_A_ROW
        return self.ended

    def final(self) -> Judgement:
        """Return what the judge finds of the episode as it ended; what it ended for, where that was seen already."""
        if self.ended and self._found is not None:
            return self._found
        return self._ask(counts=False).result()

    def close(self) -> None:
        """Ask no more; an answer that is under way is let go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, *, counts: bool) -> Future[Judgement]:
        steps, frames = self._frames.shown()
        return self._pool.submit(self._answer, steps, frames, counts=counts)

    def _answer(self, steps: list[int], frames: dict[str, ByteArray], *, counts: bool) -> Judgement:
        if not frames:
            return Judgement.abstain("the episode has no camera image")
        found = self._judge.judge(frames, self._instruction, scene=self._scene)
        if 0 <= found.frame < len(steps):
            found = replace(found, frame=steps[found.frame])  # of the episode, not of what was sent
        with self._lock:
            self._found = found
            if counts and not self.ended:
                self._in_a_row = self._in_a_row + 1 if found.outcome is Outcome.SUCCESS else 0
        return found


def concluded(judged: JudgedEpisode | None, cut: str) -> tuple[Judgement | None, KeptOfJudge]:
    """End a watch: return what the judge finds of the episode, and what its recording keeps of that.

    Args:
        judged: the watch; None where no judge was asked.
        cut: why the episode was cut, which is then not judged; empty where it ran to its end.
    """
    if judged is None:
        return None, {}
    try:
        found = None if cut else judged.final()
    finally:
        judged.close()
    if found is None:
        return None, {}
    recorded: KeptOfJudge = {"judge": found.metadata()["judge"]}
    if judged.ended:
        recorded["termination"] = SUCCESS_SEEN
    return found, recorded
