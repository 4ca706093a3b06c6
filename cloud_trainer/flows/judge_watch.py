"""Real episodes, judged as they arrive: what the judge finds is kept beside them, and labels those it is proven for.

An operator's label always stands: the judge is only measured by it. When operators' labels have proven it somewhere,
what it had found there before labels the episodes that still have no label.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cloud_trainer.records.precision import Precision, precision_of
from cloud_trainer.records.trail import Trails
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.judgements import SqlJudgements
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.errors import GymnastError
from gymnast_core.evaluation.attempts import is_first_attempt
from gymnast_core.evaluation.purpose import is_blinded
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome
from gymnast_core.wire.gymnast.v1 import judge_pb2
from gymnast_core.wire.judging import MOST_FRAMES, request_with, shown_steps

LOG = logging.getLogger(__name__)
_WIDTH = 1024
"""Pixels of a frame; one that is wider is thinned."""
SCENE_KEY, CUT_KEY = "scene", "truncated_reason"


REVISIT_S = 30.0
"""How often it is looked whether the judge has become proven where episodes wait for a label."""
AGAIN_S = (10.0, 60.0, 600.0, 3600.0)
"""After how long an episode is judged again that the judge could not look at; then that is what is known of it."""


class ServingJudge(Protocol):
    """A judge that runs here."""

    @property
    def version(self) -> str:
        """Of the judge."""
        ...

    @property
    def taught_by(self) -> frozenset[str]:
        """Ids of the episodes that its checkpoint names as learned from."""
        ...

    def judge(self, request: judge_pb2.JudgeRequest) -> Judgement:
        """Return what it finds, proven or not; it abstains where it cannot look."""
        ...


def _may_be_labelled(row: EpisodeRow) -> bool:
    """Whether a judge may label an episode: blinded runs and those that were cut short are left to people."""
    return not is_blinded(row.metadata) and not row.metadata.get(CUT_KEY)


@dataclass(frozen=True)
class _Later:
    """An episode that the judge could not look at: when to ask again, and how often it was asked."""

    row: EpisodeRow
    due: float
    tries: int


class EpisodeWatch:
    """Looks for episodes that the judge has not judged, on a thread of the trainer, in order of arrival.

    Args:
        catalogue: of the trainer's episodes, all tenants.
        judgements: where they are kept.
        trails: where labels are written.
        judge: judges.
        floor: of precision, see cloud_trainer.records.precision.
        poll_s: between looks.
    """

    def __init__(
        self, catalogue: EpisodeCatalogue, judgements: SqlJudgements, trails: Trails, judge: ServingJudge,
        floor: float, *, poll_s: float = 2.0,
    ) -> None:  # fmt: skip
        self._catalogue, self._judgements, self._trails = catalogue, judgements, trails
        self._judge, self._floor, self._poll_s = judge, floor, poll_s
        self._after = 0
        self._later: dict[int, _Later] = {}
        self._revisit_s = 0.0
        self._left: set[tuple[str, str]] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="judge-watch", daemon=True)

    def __enter__(self) -> EpisodeWatch:
        """Start looking."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    def look(self) -> int:
        """Judge what arrived, and label what the judge has become proven for; returns how many were judged."""
        if time.monotonic() >= self._revisit_s:
            self._revisit()
            self._revisit_s = time.monotonic() + REVISIT_S
        judged = sum(self._look_at(later.row) for later in list(self._later.values()) if later.due <= time.monotonic())
        while page := self._catalogue.list(after=self._after, states=("valid", "committed")):
            known = self._known(page)
            for row in page:
                if row.state != "valid" or self._over.is_set():
                    return judged  # it is valid soon, or never
                if (row.tenant, row.episode_id) not in known:
                    judged += self._look_at(row)
                self._after = row.sequence
        return judged

    def _known(self, rows: Sequence[EpisodeRow]) -> set[tuple[str, str]]:
        """Tenant and id of those that this judge has judged: asked once a tenant, as a start looks at every episode."""
        names: dict[str, list[str]] = {}
        for row in rows:
            names.setdefault(row.tenant, []).append(row.episode_id)
        version = self._judge.version
        return {(tenant, name) for tenant in names for name in self._judgements.known(tenant, version, names[tenant])}

    def _look_at(self, row: EpisodeRow) -> bool:
        version, later = self._judge.version, self._later.pop(row.sequence, None)
        judgement, scene = self._judgement(row), str(row.metadata.get(SCENE_KEY, ""))
        tries = 0 if later is None else later.tries
        if judgement.frame < 0 and tries < len(AGAIN_S):
            self._later[row.sequence] = _Later(self._catalogue.again(row), time.monotonic() + AGAIN_S[tries], tries + 1)
            return False
        self._judgements.add(
            row.tenant, row.episode_id, judgement, task=row.instruction, scene=scene,
            held_out=is_first_attempt(row.metadata) and not self._learned_from(row, version),
        )  # fmt: skip
        if row.outcome == Outcome.UNLABELLED.value and _may_be_labelled(row):
            held = self._precision(row.tenant, row.instruction, scene).held_to(judgement)
            if held.decided:
                self._trails.of(row.tenant).label_judged(row.episode_id, held)
        return True

    def _precision(self, tenant: str, task: str, scene: str) -> Precision:
        counts = self._judgements.counts(tenant, judge=self._judge.version, task=task, scene=scene)
        return precision_of(self._judge.version, task, scene, counts, self._floor)

    def _revisit(self) -> None:
        """Label what the judge had found where its word was not proven then and is now."""
        version = self._judge.version
        for place in self._judgements.unlabelled(version):
            precision = self._precision(place.tenant, place.task, place.scene)
            if not (precision.labels_success if place.judged is Outcome.SUCCESS else precision.labels_failure):
                continue
            for name, judgement in self._judgements.unlabelled_at(version, place):
                if self._over.is_set():
                    return
                self._label_late(place.tenant, name, judgement)

    def _label_late(self, tenant: str, name: str, judgement: Judgement) -> None:
        """Label one of these, unless people alone may: that is looked up once."""
        if (tenant, name) in self._left:
            return
        row = self._catalogue.of(tenant, name)
        if row is None or not _may_be_labelled(row):
            self._left.add((tenant, name))
        elif self._trails.of(tenant).label_judged(name, judgement):
            LOG.info("episode_labelled_late judge=%s episode=%s", judgement.judge, name)

    def _judgement(self, row: EpisodeRow) -> Judgement:
        try:
            frames_FHWC = self._catalogue.film(row, MOST_FRAMES, MOST_FRAMES * _WIDTH)
            steps = shown_steps(row.steps + 1)
            request = request_with("first", steps, list(frames_FHWC), row.instruction, "", lossless=True)
        except (GymnastError, OSError) as error:
            return Judgement.abstain(f"its frames cannot be read: {error}", judge=self._judge.version)
        return self._judge.judge(request)

    def _learned_from(self, row: EpisodeRow, judge: str) -> bool:
        """Whether an episode is among what the judge, or what it was made from, was taught by."""
        if row.episode_id in self._judge.taught_by:
            return True
        graph = self._trails.of(row.tenant).graph
        known = judge in graph and row.episode_id in graph
        return known and any(node.id == judge for node in graph.affected(row.episode_id))

    def _run(self) -> None:
        while not self._over.wait(self._poll_s):
            try:
                if count := self.look():
                    LOG.info("episodes_judged judge=%s count=%d", self._judge.version, count)
            except Exception:  # what cannot be judged or stored now is tried again
                LOG.exception("judging_paused judge=%s", self._judge.version)
