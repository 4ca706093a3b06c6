"""Evaluation episodes, noticed as they arrive: submits replay jobs when the trainer has nothing better to do."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable

from cloud_trainer.jobs.runner import MOST_REPLAYED
from cloud_trainer.records.ledger import CalibrationLedger
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.errors import GymnastError
from gymnast_core.evaluation.purpose import is_evaluation
from gymnast_core.jobs import ReplayResult, ReplaySpec
from gymnast_core.outcome import judge_in
from gymnast_core.types import Outcome

LOG = logging.getLogger(__name__)
_LABELS = (Outcome.SUCCESS.value, Outcome.FAILURE.value)


def record_rows(ledger: CalibrationLedger, result: ReplayResult) -> int:
    """Write a replay job's rows into a ledger, each episode once; returns how many rows were new."""
    known = {(row.world_model, row.judge, row.episodes) for row in ledger.rows}
    new = [row for row in result.ledger if (row.world_model, row.judge, row.episodes) not in known and row.n]
    for row in new:
        ledger.add(row)
    return len(new)


def _is_truth(row: EpisodeRow) -> bool:
    """Whether a person labelled it; what a judge labelled is compared with nothing, and a person may label it yet."""
    return row.outcome in _LABELS and not judge_in(row.labelled_by)


class ReplayWatch:
    """Looks for evaluation episodes that are not in the ledger yet, on a thread of the trainer.

    An episode that cannot be replayed yet is looked at again until it can: one that is labelled later, whose policy
    arrives later, or whose trial is still blinded.

    Args:
        catalogue: of the trainer's episodes, all tenants.
        jobs: where the replay is submitted.
        ledger_of: tenant -> its ledger.
        holds: whether a tenant has a policy with this id, and a world model and judge at all.
        blinded: whether the policy that acted in an episode must stay hidden: a replay job names it.
        poll_s: between looks; a job is submitted at the second look that finds the same episodes waiting, so that an
            evaluation under way is not cut to pieces, and only while no other job waits or runs.
    """

    def __init__(
        self, catalogue: EpisodeCatalogue, jobs: SqlJobStore, ledger_of: Callable[[str], CalibrationLedger],
        holds: Callable[[str, str], bool],
        blinded: Callable[[EpisodeRow], bool] = lambda row: False, *, poll_s: float = 5.0,
    ) -> None:  # fmt: skip
        self._catalogue, self._jobs, self._ledger_of = catalogue, jobs, ledger_of
        self._holds, self._blinded, self._poll_s = holds, blinded, poll_s
        self._seen: dict[tuple[str, str], tuple[str, ...]] = {}
        self._measured: dict[tuple[str, str], EpisodeRow] = {}
        self._done: dict[str, set[str]] = {}
        self._after = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay-watch", daemon=True)

    def __enter__(self) -> ReplayWatch:
        """Start looking."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    def look(self) -> list[str]:
        """Take in what arrived; returns the ids of the jobs that were submitted."""
        for row in self._catalogue.all(after=self._after, states=("valid", "committed")):
            if row.state != "valid":
                break  # it is valid soon, or never
            self._after = row.sequence
            if is_evaluation(row.metadata) and row.episode_id not in self._done_of(row.tenant):
                self._measured[row.tenant, row.episode_id] = row
        quiet = self._ready()
        settled = [key for key, names in quiet.items() if self._seen.get(key) == names]
        self._seen = quiet
        busy = self._jobs.list(None, 1, "waiting") or self._jobs.list(None, 1, "running")
        return [] if busy else [self._submit(*key, quiet[key]) for key in settled[:1]]

    def _ready(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """(tenant, policy) -> episodes that may be replayed now, of those that wait."""
        found: dict[tuple[str, str], list[str]] = {}
        for key, before in list(self._measured.items()):
            row = before if _is_truth(before) else self._catalogue.again(before)
            if row.state != "valid":
                del self._measured[key]  # withdrawn meanwhile
                continue
            self._measured[key] = row
            if _is_truth(row) and self._holds(row.tenant, row.policy_version) and not self._blinded(row):
                found.setdefault((row.tenant, row.policy_version), []).append(row.episode_id)
        return {key: tuple(names) for key, names in found.items()}

    def _done_of(self, tenant: str) -> set[str]:
        if tenant not in self._done:
            rows = self._ledger_of(tenant).rows
            self._done[tenant] = {name for row in rows for name in row.episodes}
        return self._done[tenant]

    def _submit(self, tenant: str, policy: str, ready: tuple[str, ...]) -> str:
        names = sorted(ready[:MOST_REPLAYED])
        digest = hashlib.sha256("|".join(names).encode()).hexdigest()[:24]
        spec = ReplaySpec(policy=policy, seed=0, episodes=tuple(names)).to_json()
        job_id = self._jobs.submit(tenant, "replay", spec, f"replay-{digest}", "trainer").job_id
        for name in names:
            del self._measured[tenant, name]
        return job_id

    def _run(self) -> None:
        while not self._over.wait(self._poll_s):
            try:
                for job_id in self.look():
                    LOG.info("replay_submitted job=%s", job_id)
            except GymnastError as error:
                LOG.warning("replay_not_submitted error=%s", error)
