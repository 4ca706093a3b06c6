"""How a process computes on this processor: number format, memory layout, threads; chosen here for all of them.

A seeded run is repeated to the bit under one format and one number of threads, not across several of them.
"""

from __future__ import annotations

import functools
import logging
import os

import torch
from torch import Tensor, nn

LOG = logging.getLogger(__name__)
THREADS = 1
"""Of torch in a process that is asked for no more: two threads on two busy cores are slower than one, and machines are
shared by processes (docs/trainer.md, "Speed")."""
LAYOUT = torch.channels_last
"""Of pictures and of what convolves them: up to twice as fast on CPU as with the channels first."""
UNITS = ("avx512_bf16", "amx_bf16")
"""What a processor must have for bfloat16 to pay.

Without, oneDNN emulates it: on two AVX2 cores a training step took 7.9 s instead of 0.57 s, on AVX-512 without these
units 0.95 s instead of 0.46 s. With them it took 0.23 s instead of 0.34 s (benchmarks/world_model_cpu2_202611.md).
"""


@functools.lru_cache(maxsize=1)
def compute_dtype() -> torch.dtype:
    """Return bfloat16 where this processor has units for it and oneDNN may use them, else float32; logs which."""
    capabilities = torch.cpu.get_capabilities()
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    units = [name for name in UNITS if capabilities.get(name)]
    usable = bool(units) and any(word in allowed.upper() for word in ("ALL", "DEFAULT", "BF16", "AMX", "AVX10"))
    dtype = torch.bfloat16 if usable else torch.float32
    LOG.info("compute_dtype=%s units=%s onednn_max_cpu_isa=%s", dtype_name(dtype), ",".join(units) or "none", allowed)
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """Return the plain name, e.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def mixed_precision() -> torch.autocast:
    """Return the context in which a compact network runs; parameters and what leaves it stay float32."""
    dtype = compute_dtype()
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def use_threads(count: int = THREADS) -> None:
    """Have torch compute with so many threads in this process."""
    torch.set_num_threads(count)


def lay_out(network: nn.Module) -> None:
    """Put a network's weights into the layout in which convolutions are fast here."""
    network.to(memory_format=LAYOUT)  # type: ignore[call-overload]  # torch's types know it for tensors alone


def laid_out(x_BCHW: Tensor) -> Tensor:
    """Return pictures in that layout; the same numbers."""
    return x_BCHW.contiguous(memory_format=LAYOUT)
