"""Replay: dream recorded evaluations again, for the calibration ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gymnast_core.jobs.spec import DreamSpec, JobResult, Urgency
from gymnast_core.json_values import JsonObject, texts, whole
from gymnast_core.settings import Texts


class ReplaySpec(DreamSpec):
    """Dream recorded evaluations again with the policy that acted, and compare the ends."""

    kind: ClassVar[str] = "replay"
    summary: ClassVar[str] = "dream recorded evaluations again"
    urgency: ClassVar[Urgency] = "background"

    episodes: Texts | None = None
    """Ids; none is every labelled episode that may be learned from."""

    @property
    def named_episodes(self) -> tuple[str, ...]:
        """See JobSpec."""
        return self.episodes or ()


@dataclass(frozen=True)
class LedgerRow:
    """One real evaluation of one policy on one task, and its dream: a row of the calibration ledger.

    Attributes:
        task: what the arm was asked to do.
        policy: checkpoint id.
        world_model: checkpoint id.
        judge: version.
        both, real_only, imagined_only, neither: episodes by real and imagined success.
        abstained: episodes whose dream the judge would not decide; not counted above.
        episodes: ids.
    """

    task: str
    policy: str
    world_model: str
    judge: str
    both: int
    real_only: int
    imagined_only: int
    neither: int
    abstained: int = 0
    episodes: tuple[str, ...] = ()

    @staticmethod
    def from_json(values: JsonObject) -> LedgerRow:
        """Return the row that is kept as these JSON values.

        Raises:
            CorruptError: a value is of another kind.
        """
        return LedgerRow(
            task=str(values["task"]), policy=str(values["policy"]), world_model=str(values["world_model"]),
            judge=str(values["judge"]), both=whole(values["both"]), real_only=whole(values["real_only"]),
            imagined_only=whole(values["imagined_only"]), neither=whole(values["neither"]),
            abstained=whole(values.get("abstained", 0)), episodes=tuple(texts(values["episodes"])),
        )  # fmt: skip

    @property
    def n(self) -> int:
        """Decided episodes."""
        return self.both + self.real_only + self.imagined_only + self.neither

    @property
    def real(self) -> float:
        """Real success rate of the decided episodes."""
        return (self.both + self.real_only) / self.n

    @property
    def imagined(self) -> float:
        """Imagined success rate of the same episodes."""
        return (self.both + self.imagined_only) / self.n


class ReplayResult(JobResult):
    """What a replay job leaves behind."""

    ledger: tuple[LedgerRow, ...] = ()
    """Rows for the calibration ledger."""
