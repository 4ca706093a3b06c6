"""Looks into episodes after they are safe: valid ones may be learned from, others are set aside with a reason."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from cloud_trainer.service import metrics
from cloud_trainer.store.protocols import BlobStore, EpisodeRow, MetaStore
from gymnast_core.episodes import read_summary
from gymnast_core.episodes.reader import check_episode
from gymnast_core.errors import CorruptError, GymnastError, StorageError
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.wire.errors import NotFoundError

LOG = logging.getLogger(__name__)
_SLACK = 1.001
_BATCH = 100
_METADATA_CHARACTERS = 64 * 1024


def validated(row: EpisodeRow, path: Path, spec: RobotSpec = WIDOWX_250S) -> EpisodeRow:
    """Return the row described from the file's content, valid or quarantined with a reason.

    Args:
        row: as committed.
        path: the file.
        spec: limits the recorded commands must keep.
    """
    try:
        summary = read_summary(path)
        described = replace(
            row,
            instruction=summary.header.instruction,
            outcome=summary.end.outcome.value,
            labelled_by=summary.end.labelled_by and f"robot:{row.robot}/{summary.end.labelled_by}",
            steps=max(summary.steps, 0),
            policy_version=summary.policy_versions[0] if summary.policy_versions else "",
            metadata={**summary.header.metadata, **summary.end.metadata, "seed": summary.header.seed},
        )
        if (size := len(json.dumps(described.metadata))) > _METADATA_CHARACTERS:
            raise CorruptError(f"metadata of {size} characters; {_METADATA_CHARACTERS} are accepted")
        if summary.header.episode_id != row.episode_id:
            raise CorruptError(f"the file says it is episode {summary.header.episode_id!r}")
        _check_content(path, spec)
    except (GymnastError, OSError) as error:
        LOG.warning("episode_quarantined tenant=%s episode=%s reason=%s", row.tenant, row.episode_id, error)
        return replace(row, state="quarantined", reason=f"{type(error).__name__}: {error}"[:500])
    return replace(described, state="valid")


def settled(current: EpisodeRow, checked: EpisodeRow) -> EpisodeRow:
    """Return a row with what validation found, as far as nobody has said something else meanwhile.

    Args:
        current: the row as it is now.
        checked: the row as it was read, with what its file holds.
    """
    if current.state != "committed":  # withdrawn while it was being validated
        return current
    if current.labelled_by:
        return replace(checked, outcome=current.outcome, labelled_by=current.labelled_by)
    return checked


def _check_content(path: Path, spec: RobotSpec) -> None:
    """Decode everything once, and hold the commands against the arm's limits."""
    episode = check_episode(path)
    if episode.steps < 1:
        raise CorruptError("it has no complete step")
    limits_A = np.array([spec.max_translation_m] * 3 + [spec.max_rotation_rad] * 3, np.float32) * _SLACK
    motion_TA, gripper_T = episode.actions_TA[:, :6], episode.actions_TA[:, 6]
    beyond = np.argwhere(np.abs(motion_TA) > limits_A)
    if len(beyond):
        step, axis = beyond[0]
        raise CorruptError(
            f"step {step} commands {motion_TA[step, axis]} on axis {axis}, the limit is {limits_A[axis]}"
        )
    if ((gripper_T < -0.001) | (gripper_T > 1.001)).any():
        raise CorruptError(f"a gripper command is outside 0..1: {gripper_T.min()}..{gripper_T.max()}")


class Validator:
    """A thread that validates what is committed, also what a former run left.

    Args:
        blobs: where files are.
        meta: the catalogue.
        spec: limits of the arm.
    """

    def __init__(self, blobs: BlobStore, meta: MetaStore, spec: RobotSpec = WIDOWX_250S) -> None:
        self._blobs, self._meta, self._spec = blobs, meta, spec
        self._condition = threading.Condition()
        self._work, self._busy, self._stopped = True, False, False
        self._thread = threading.Thread(target=self._run, name="validate", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There are new episodes."""
        with self._condition:
            self._work = True
            self._condition.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to validate; False when the time is over."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._work and not self._busy, timeout_s)

    def stop(self) -> None:
        """Finish the episode at hand and end; safe where it never began."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._work or self._stopped)
                if self._stopped:
                    return
                self._work, self._busy = False, True
            try:
                self._validate_all()
            except StorageError as error:
                LOG.error("validation_paused error=%s", error)

    def _validate_all(self) -> None:
        while rows := self._meta.episodes(states=["committed"], limit=_BATCH):
            for row in rows:
                if self._stopped:
                    return
                checked = self._checked(row)
                metrics.QUARANTINED.inc(checked.state == "quarantined")
                self._meta.change_episode(row.tenant, row.episode_id, partial(settled, checked=checked))

    def _checked(self, row: EpisodeRow) -> EpisodeRow:
        try:
            path = self._blobs.local_path(row.digest)
        except NotFoundError as error:  # somebody deleted it: that episode's trouble, not the others'
            LOG.error("episode_without_blob tenant=%s episode=%s", row.tenant, row.episode_id)
            return replace(row, state="quarantined", reason=f"NotFoundError: {error}")
        return validated(row, path, self._spec)
