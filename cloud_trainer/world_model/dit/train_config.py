"""How a DiT is trained."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from cloud_trainer.world_model.dit.diffusion import objective
from cloud_trainer.world_model.dit.loss import LossConfig
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from gymnast_core.settings import Count, CountOrZero, NotNegative, Positive, Seed, Settings


def _objective(name: str) -> str:
    return objective(name).name


class TrainConfig(Settings):
    """How a run is done; the defaults are WorldGym's, plus gradient clipping."""

    where: ClassVar[str] = "train"

    batch_size: Count = 4
    """Clips per process and step."""
    learning_rate: Positive = 3e-5
    """AdamW's, after warmup."""
    warmup_steps: CountOrZero = 0
    """Linear."""
    weight_decay: NotNegative = 0.02
    """AdamW's."""
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.99)
    """AdamW's."""
    clip_norm: Positive = 1.0
    """Largest gradient norm."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the averaged weights that are exported."""
    objective: Annotated[str, AfterValidator(_objective)] = "v_prediction"
    """What the network predicts: v_prediction or rectified_flow."""
    bf16: bool = False
    """Autocast; parameters stay float32."""
    compile: bool = False
    """torch.compile the network."""
    strategy: Literal["single", "ddp", "fsdp2"] = "single"
    """How processes share the network."""
    seed: Seed = 0
    """Of noise, timesteps and dropout."""
    save_every: Count = 1000
    """Steps between states."""
    keep_states: Count = 2
    """States kept."""
    report_every: Count = 50
    """Steps between progress lines."""
    sample_every: CountOrZero = 0
    """Steps between sample videos; 0 for none."""
    sample_context: Count = 1
    """Known frames of the sample clip."""
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    """Of the sample videos."""
    loss: LossConfig = Field(default_factory=LossConfig)
    """What is trained on."""
