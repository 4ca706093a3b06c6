"""Checkpoints at somebody's word: put in force, attached to a scene, taken back; and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.robot_status import AdapterNews, GateNews
from gymnast_ros.run.ports import Log, Values
from gymnast_ros.run.probation import ProbationWatch
from gymnast_ros.run.requests import Attach, Detach, Rollback, Swap
from gymnast_ros.shadow import ShadowBook
from gymnast_ros.uplink import Adoption, RobotStore, WeightsNews
from gymnast_ros.uplink.store_state import StoreState

MOST_REFUSED = 8
"""Named in a report, the newest ones."""


class WeightsDesk:
    """See the module.

    Args:
        settings: value of probation_episodes, by name.
        store: of the robot.
        book: of its shadow checks.
        adoption: checks what is staged.
        probation: counts every episode.
        changed: called when the bridge's status has news.
        log: of the node.
    """

    def __init__(
        self, settings: Values, store: RobotStore, book: ShadowBook, *, adoption: Adoption, probation: ProbationWatch,
        changed: Callable[[], None], log: Log,
    ) -> None:  # fmt: skip
        self._settings, self._store, self._book = settings, store, book
        self._adoption, self._probation, self._changed, self._log = adoption, probation, changed, log

    def swap(self, asked: Swap) -> str:
        """The rollout node opens what is current when its next episode starts: an episode boundary by construction."""
        checkpoint_id = asked.checkpoint_id
        if not checkpoint_id:
            staged = self._store.staged()
            if staged is None:
                raise ConfigError("no checkpoint is staged; publish one first")
            checkpoint_id = staged.name
        self._require_checked(checkpoint_id)
        return self._store.swap(checkpoint_id, probation_episodes=self._episodes(asked.probation_episodes)).name

    def attach(self, asked: Attach) -> str:
        """The rollout node looks for adapters when its next episode starts."""
        self._require_checked(asked.checkpoint_id)
        base = self._store.scenes.attach(
            asked.checkpoint_id, asked.scene, SceneRecogniser.from_json(asked.recogniser),
            probation_episodes=self._episodes(asked.probation_episodes),
        )  # fmt: skip
        self._changed()
        return base

    def detach(self, asked: Detach) -> str:
        """What is in force drives in its scene again."""
        self._store.scenes.detach(asked.checkpoint_id)
        self._changed()
        return asked.checkpoint_id

    def drop(self, checkpoint_ids: Sequence[str]) -> None:
        """An operator at the trainer dropped them; one that is gone already is reported no longer."""
        for checkpoint_id in checkpoint_ids:
            if self._store.adapters.find(checkpoint_id) is not None:
                self._store.scenes.detach(checkpoint_id)
                self._log.info(f"detached {checkpoint_id}: dropped at the trainer")
        self._changed()

    def rollback(self, asked: Rollback) -> str:
        """The checkpoint before comes into force, if the one named still is."""
        current = self._store.current_id() or ""
        if asked.current not in ("", current):
            raise ConfigError(f"{asked.current!r} is not in force, {current!r} is; nothing was rolled back")
        return self._store.rollback("operator").name

    def news(self) -> WeightsNews:
        """What became of the checkpoints this robot was given."""
        state = self._store.state
        return WeightsNews(
            current=self._store.current_id() or "", since_ns=state.since_ns, obeyed=state.obeyed,
            checking=self._adoption.checking, probation_left=state.probation.left if state.probation else 0,
            refused=list(state.failed.items())[-MOST_REFUSED:], held=self._store.held(),
            ran=self._probation.ran, ran_ns=self._probation.ran_ns, gate=self.gate(state),
            adapters=self.adapters(),
        )  # fmt: skip

    def adapters(self) -> list[AdapterNews]:
        """Which scenes have an adapter."""
        current = self._store.current_id()
        return [
            AdapterNews(
                one.checkpoint_id, one.scene, one.base, one.since_ns, resting=one.base != current,
                probation_left=one.left, recognised=one.recogniser.calibration.words,
            )
            for one in self._store.adapters.all()
        ]  # fmt: skip

    def gate(self, state: StoreState) -> GateNews:
        """What a release must show here, and how what is in force came past that."""
        rule, note = self._store.gate, state.gates.get(self._store.current_id() or "")
        return GateNews(rule.mode, rule.overrides, rule.max_age_s, **({} if note is None else vars(note)))

    def _require_checked(self, checkpoint_id: str) -> None:
        if checkpoint_id in self._store.state.staged and self._book.report(checkpoint_id) is None:
            raise ConfigError(f"{checkpoint_id} is not checked yet; wait until bridge/status lists it as checked")

    def _episodes(self, asked: int | None) -> int:
        return int(self._settings["probation_episodes"]) if asked is None else asked
