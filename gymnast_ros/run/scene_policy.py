"""A policy that was kept for one scene drives there alone: elsewhere what ran before it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gymnast_core.episodes.writer import JPEG_QUALITY, encode_jpeg
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.pictures import decode_jpeg
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, Observation

SAME = 1.0
"""Largest distance of two fingerprints of one scene, see gymnast_core.evaluation.scene."""


class ScenePolicy:
    """One episode's choice between two policies, made from its first image; make a new one for every episode.

    Args:
        kept: for the scene.
        usual: everywhere else.
        scene: as it looked when the policy was kept for it.
        chosen: called once with the version that drives and the distance from the scene.
    """

    def __init__(
        self, kept: Policy, usual: Policy, scene: Fingerprint, *,
        chosen: Callable[[str, float], None] = lambda version, distance: None,
    ) -> None:  # fmt: skip
        self._kept, self._usual, self._scene, self._notify = kept, usual, scene, chosen
        self._choice: Policy | None = None

    @property
    def version(self) -> str:
        """Of the one that drives; of the kept one before the first image."""
        return (self._choice or self._kept).version

    @property
    def chunk_length(self) -> int:
        """Of the one that drives."""
        return (self._choice or self._kept).chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose, at the first call, and act."""
        if self._choice is None:
            frame_HWC = np.asarray(next(iter(observation.images.values()))[0])
            # as a recording has it: the scene was kept from one, and JPEG changes vivid colours
            seen = Fingerprint.of(decode_jpeg(encode_jpeg(frame_HWC, JPEG_QUALITY)))
            distance = self._scene.distance(seen)
            self._choice = self._kept if distance <= SAME else self._usual
            self._notify(self._choice.version, distance)
        return self._choice.act(observation, instruction, rng=rng)
