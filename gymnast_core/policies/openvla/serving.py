"""OpenVLA as fast as the device allows: bf16 and, on a GPU, compiled with CUDA graphs over few static shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from gymnast_core.errors import ConfigError
from gymnast_core.policies.compiling import keep_compiled_private
from gymnast_core.policies.openvla.model import OpenVLANetwork
from gymnast_core.policies.openvla.prompt import PromptTokenizer


@dataclass(frozen=True)
class Serving:
    """How to serve.

    Attributes:
        device: cpu, cuda or cuda:N.
        dtype: bfloat16, float16 or float32.
        compiled: torch.compile with CUDA graphs; only on a GPU.
        prompt_multiple: prompts are padded to a multiple of this, so that one graph serves many instructions.
    """

    device: str = "cuda"
    dtype: str = "bfloat16"
    compiled: bool = True
    prompt_multiple: int = 32

    def __post_init__(self) -> None:
        """Refuse settings this machine cannot keep."""
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise ConfigError(f"dtype must be bfloat16, float16 or float32, got {self.dtype!r}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {self.device!r} asked for, but there is no CUDA GPU; use device='cpu'")
        if self.compiled and not self.device.startswith("cuda"):
            raise ConfigError(f"compiled needs a CUDA device, got {self.device!r}; set compiled=False")
        if self.prompt_multiple < 1:
            raise ConfigError(f"prompt_multiple must be at least 1, got {self.prompt_multiple}")


def prepare(network: OpenVLANetwork, tokenizer: PromptTokenizer, serving: Serving) -> None:
    """Put a network on its device, in its dtype, compiled if asked for, in place; prompts become as long as it likes.

    Adapters must be merged first: a graph over base and adapter matrices would be twice the work.
    """
    network.to(serving.device, getattr(torch, serving.dtype))
    network.config = tokenizer.config = replace(network.config, prompt_multiple=serving.prompt_multiple)
    if serving.compiled:
        torch.set_float32_matmul_precision("high")
        keep_compiled_private()
        compiled = torch.compile(network.parallel_hidden, mode="reduce-overhead", dynamic=False)
        network.parallel_hidden = compiled  # type: ignore[method-assign]
