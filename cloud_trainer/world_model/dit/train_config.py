"""How a DiT is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloud_trainer.world_model.dit.loss import LossConfig
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from gymnast_core.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """How a run is done; the defaults are WorldGym's, plus gradient clipping.

    Attributes:
        batch_size: clips per process and step.
        learning_rate: AdamW's, after warmup.
        warmup_steps: linear.
        weight_decay: AdamW's.
        betas: AdamW's.
        clip_norm: largest gradient norm.
        ema_decay: of the averaged weights that are exported.
        objective: "v_prediction" or "rectified_flow".
        bf16: autocast; parameters stay float32.
        compile: torch.compile the network.
        strategy: "single", "ddp" or "fsdp2".
        seed: of noise, timesteps and dropout.
        save_every: steps between states.
        keep_states: states kept.
        report_every: steps between progress lines.
        sample_every: steps between sample videos; 0 for none.
        sample_context: known frames of the sample clip.
        sampler: of the sample videos.
        loss: what is trained on.
    """

    batch_size: int = 4
    learning_rate: float = 3e-5
    warmup_steps: int = 0
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    objective: str = "v_prediction"
    bf16: bool = False
    compile: bool = False
    strategy: str = "single"
    seed: int = 0
    save_every: int = 1000
    keep_states: int = 2
    report_every: int = 50
    sample_every: int = 0
    sample_context: int = 1
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        for name in ("batch_size", "save_every", "keep_states", "report_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.clip_norm <= 0 or not 0 <= self.ema_decay < 1:
            raise ConfigError(
                f"learning_rate {self.learning_rate} and clip_norm {self.clip_norm} must be positive, "
                f"ema_decay {self.ema_decay} in [0, 1)"
            )
