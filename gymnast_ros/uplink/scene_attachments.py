"""Checkpoints that drive in one scene each, beside the one in force: attached, on probation there, and detached."""

from __future__ import annotations

from gymnast_core.errors import CheckpointError
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.records.manifest import verify_checkpoint
from gymnast_ros.uplink.scene_adapters import SceneAdapter
from gymnast_ros.uplink.store_folder import ADAPTER_OF, StoreFolder


class SceneAttachments:
    """Attaches a robot's checkpoints to scenes.

    Args:
        kept: what the robot's checkpoints are kept in.
    """

    def __init__(self, kept: StoreFolder) -> None:
        self._kept = kept

    def attach(
        self, checkpoint_id: str, scene: str, recogniser: SceneRecogniser, *, probation_episodes: int = 0
    ) -> str:
        """Have a staged checkpoint drive in one scene, beside what is in force, which drives everywhere else.

        Args:
            checkpoint_id: a staged one, or one that is attached already.
            scene: a name for people.
            recogniser: of the scene.
            probation_episodes: good episodes it needs there before it is trusted; 0 trusts it at once.

        Returns:
            Id of the base that it stands beside.

        Raises:
            CheckpointError: it is not staged, not intact, or was trained on another base than the one in force.
        """
        with self._kept.lock:
            base, attached = self._kept.current_id(), self._kept.adapters.find(checkpoint_id)
            if base is None or (checkpoint_id not in self._kept.state.staged and attached is None):
                raise CheckpointError(f"{checkpoint_id!r} is not staged; staged are {self._kept.state.staged}")
            manifest = verify_checkpoint(self._kept.shelf.folder_of(checkpoint_id))
            if (made_on := manifest.config.get(ADAPTER_OF, base)) != base:
                raise CheckpointError(
                    f"{checkpoint_id} stands on {made_on}, but {base} is in force; adapt that one anew"
                )
            trusted = checkpoint_id in self._kept.state.proven
            self._kept.adapters.put(SceneAdapter(
                checkpoint_id, base, scene, recogniser, self._kept.clock_ns(), 0 if trusted else probation_episodes
            ))  # fmt: skip
            self._kept.state.staged = [other for other in self._kept.state.staged if other != checkpoint_id]
            self._kept.save()
            self._kept.prune()
            return base

    def detach(self, checkpoint_id: str, failed: str = "") -> None:
        """Have the base drive again in an adapter's scene, from the next episode on.

        Args:
            checkpoint_id: of the adapter.
            failed: why it is never to be offered again; empty where it may be.

        Raises:
            CheckpointError: it is not attached.
        """
        with self._kept.lock:
            if not self._kept.adapters.drop(checkpoint_id):
                attached = [one.checkpoint_id for one in self._kept.adapters.all()]
                raise CheckpointError(f"{checkpoint_id!r} is not attached; attached are {attached}")
            if failed:
                self._kept.state.note_failure(checkpoint_id, failed)
            self._kept.save()
            self._kept.prune(spare=checkpoint_id)

    def on_episode(self, checkpoint_id: str, *, good: bool, reason: str, run: str) -> bool:
        """Count an episode that an adapter drove; see RobotStore.on_episode(). Returns False when it was detached."""
        with self._kept.lock:
            before = self._kept.adapters.find(checkpoint_id)
            if before is None or before.left <= 0:
                return True
            if not self._kept.adapters.count(before, good=good, run=run):
                self.detach(checkpoint_id, reason or "an episode failed during probation")
                return False
            after = self._kept.adapters.find(checkpoint_id)
            if after is not None and after.left <= 0:
                self._kept.state.proven = [*self._kept.state.proven, checkpoint_id]
                self._kept.save()
            return True
