"""The learned judge: first frame, last frame and instruction to a probability of success, with an abstain band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_trainer.judge.thresholds import Thresholds
from gymnast_core.errors import CheckpointError
from gymnast_core.images import area_downsample
from gymnast_core.judge import Verdict
from gymnast_core.policies.processor import lay_out
from gymnast_core.policies.text import bag_of_words
from gymnast_core.policies.vision import KeypointEncoder
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.types import ByteArray, FloatArray, RolloutBatch

ARCHITECTURE = "learned_judge"


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes of the judge; stored in the manifest.

    Attributes:
        image_size: pixels it sees.
        text_buckets: hashed words.
        text_dim: width of the instruction embedding.
        widths: channels of the three convolution stages.
        hidden: width of the head.
    """

    image_size: int = 64
    text_buckets: int = 256
    text_dim: int = 32
    widths: tuple[int, int, int] = (24, 40, 48)
    hidden: int = 160


class JudgeNetwork(nn.Module):
    """First and last frame, bag of words -> one logit per row."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = KeypointEncoder(9, config.text_buckets, config.text_dim, config.widths)
        hidden = config.hidden
        self.enter = nn.Linear(self.encoder.out_dim, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            for _ in range(3)
        )
        self.leave = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 1))
        lay_out(self)

    def forward(self, first_BHWC: Tensor, last_BHWC: Tensor, bag_BV: Tensor) -> Tensor:
        """first, last (B, 64, 64, 3) grey levels 0..255, bag (B, buckets) -> (B,) logits."""
        first, last = (x.permute(0, 3, 1, 2).float() / 127.5 - 1.0 for x in (first_BHWC, last_BHWC))
        features, _ = self.encoder(torch.cat([last, first, last - first], dim=1), bag_BV)
        h = F.silu(self.enter(features))
        for layer in self.layers:
            h = h + layer(h)
        logit: Tensor = self.leave(h)[:, 0]
        return logit


class LearnedJudge:
    """Keeps gymnast_core.judge.Judge.

    Attributes:
        network: in eval mode unless a trainer changes it.
        config: its sizes.
        thresholds: at or below low it says failure, at or above high success, between them it abstains.
    """

    def __init__(
        self, network: JudgeNetwork, thresholds: Thresholds | None = None, *, version: str = "unsaved"
    ) -> None:
        self.network = network.eval()
        self.config = network.config
        self.thresholds = thresholds or Thresholds(0.5, 0.5)
        self._version = version

    @property
    def version(self) -> str:
        """Id of the checkpoint, "unsaved" before the first save."""
        return self._version

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        """Judge each row by its first and last kept frame."""
        frames = area_downsample(rollouts.frames_BFHWC[:, [0, -1]], self.config.image_size)
        scores = self.scores(frames[:, 0], frames[:, 1], rollouts.instructions)
        band = {"low": self.thresholds.low, "high": self.thresholds.high}
        return [Verdict(self.thresholds.outcome(float(s)), float(s), {"frames": [0, -1], **band}) for s in scores]

    @torch.no_grad()
    def scores(self, first_BHWC: ByteArray, last_BHWC: ByteArray, instructions: Sequence[str]) -> FloatArray:
        """Return (B,) probabilities of success."""
        parts = []
        for low in range(0, len(instructions), 64):
            rows = slice(low, low + 64)
            first, last = (torch.from_numpy(np.ascontiguousarray(x[rows])) for x in (first_BHWC, last_BHWC))
            bags = torch.from_numpy(bag_of_words(instructions[rows], self.config.text_buckets))
            parts.append(torch.sigmoid(self.network(first, last, bags)).numpy())
        return np.concatenate(parts)

    def save(
        self,
        folder: Path,
        *,
        parents: tuple[str, ...] = (),
        lineage: Mapping[str, Any] | None = None,
        thresholds: Thresholds | None = None,
    ) -> Manifest:
        """Write an immutable checkpoint folder; thresholds go into its normalisation, calibration into lineage."""
        if thresholds is not None:
            self.thresholds = thresholds
        manifest = write_checkpoint(
            folder,
            safetensors.torch.save({k: v.contiguous() for k, v in self.network.state_dict().items()}),
            kind="judge",
            architecture=ARCHITECTURE,
            config=asdict(self.config) | {"widths": list(self.config.widths)},
            parents=parents,
            normalisation=asdict(self.thresholds),
            lineage=lineage or {},
        )
        self._version = manifest.id
        return manifest

    @classmethod
    def load(cls, folder: Path) -> LearnedJudge:
        """Read a checkpoint folder.

        Raises:
            CheckpointError: altered, of another kind, or with tensors that do not fit its configuration.
        """
        manifest, weights = read_checkpoint(folder, kind="judge", architecture=ARCHITECTURE)
        network = JudgeNetwork(JudgeConfig(**{**manifest.config, "widths": tuple(manifest.config["widths"])}))
        try:
            network.load_state_dict(safetensors.torch.load(weights))
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: tensors do not fit the configuration: {error}") from error
        return cls(network, Thresholds(**manifest.normalisation), version=manifest.id)
