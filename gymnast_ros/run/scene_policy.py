"""Which policy drives an episode: the adapter of the scene that its first image shows, or the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gymnast_core.episodes.writer import JPEG_QUALITY, encode_jpeg
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.pictures import decode_jpeg
from gymnast_core.policy import Committed, Policy, can_continue
from gymnast_core.sampling import at_temperature, own_temperature
from gymnast_core.types import ActionChunk, Observation
from gymnast_ros.uplink.scene_adapters import SceneAdapter


class ScenePolicy:
    """One episode's choice, made from its first image; make a new one for every episode.

    Args:
        base: drives wherever no scene is recognised.
        adapters: that stand beside it.
        attach: returns the policy of the recognised one, or the base where that cannot be opened; None is no scene
            recognised.
    """

    def __init__(
        self, base: Policy, adapters: Sequence[SceneAdapter], attach: Callable[[SceneAdapter | None], Policy]
    ) -> None:
        self._base, self._adapters, self._attach = base, adapters, attach
        self._choice: Policy | None = None

    @property
    def version(self) -> str:
        """Of the one that drives; of the base before the first image."""
        return self._driver.version

    @property
    def chunk_length(self) -> int:
        """Of the one that drives."""
        return self._driver.chunk_length

    @property
    def continues(self) -> bool:
        """Whether the one that drives can plan on from what is committed."""
        return can_continue(self._driver) is not None

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose, at the first call, and act."""
        return self._chosen(observation).act(observation, instruction, rng=rng)

    @property
    def temperature(self) -> float | None:
        """Of the one that drives."""
        return own_temperature(self._driver)

    def act_at(
        self, temperature: float, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator
    ) -> ActionChunk:
        """Choose, at the first call, and act; see gymnast_core.sampling.TemperedPolicy.

        Raises:
            ConfigError: the one that is chosen cannot be given a temperature.
        """
        return at_temperature(self._chosen(observation), temperature).act(observation, instruction, rng=rng)

    def act_after(self, committed: Committed, observation: Observation, instruction: Sequence[str]) -> ActionChunk:
        """Act on from what is committed; see gymnast_core.policy.ContinuingPolicy.act_after."""
        driver = can_continue(self._driver)
        return (
            self.act(observation, instruction)
            if driver is None
            else driver.act_after(committed, observation, instruction)
        )

    def _chosen(self, observation: Observation) -> Policy:
        if self._choice is None:
            self._choice = self._attach(self._recognised(observation))
        return self._choice

    @property
    def _driver(self) -> Policy:
        return self._choice or self._base

    def _recognised(self, observation: Observation) -> SceneAdapter | None:
        frame_HWC = np.asarray(next(iter(observation.images.values()))[0])
        # as a recording has it: the scene was learned from recordings, and JPEG changes vivid colours
        seen = Fingerprint.of(decode_jpeg(encode_jpeg(frame_HWC, JPEG_QUALITY)))
        margins = [(one.recogniser.margin(seen), one.since_ns, one) for one in self._adapters]
        margin, _, nearest = max(margins, key=lambda found: found[:2])
        return nearest if margin > 0 else None
