"""The compact world model computes in bfloat16 only where the processor has units for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from cloud_trainer.world_model.compact import precision

AVX2 = {"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}


@pytest.fixture(autouse=True)
def fresh():
    """The choice is made once a process."""
    precision.compute_dtype.cache_clear()
    yield
    precision.compute_dtype.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "allowed", "dtype"),
    [
        (AVX2, None, torch.float32),
        ({**AVX2, "avx512_f": True}, None, torch.float32),  # AVX-512 alone emulates bfloat16
        ({**AVX2, "avx512_bf16": True}, None, torch.bfloat16),
        ({**AVX2, "amx_bf16": True}, "ALL", torch.bfloat16),
        ({**AVX2, "avx512_bf16": True}, "AVX2", torch.float32),
        ({**AVX2, "avx512_bf16": True}, "AVX512_CORE_BF16", torch.bfloat16),
    ],
)
def test_bfloat16_is_used_only_where_it_is_not_emulated(monkeypatch, caplog, capabilities, allowed, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    if allowed:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    with caplog.at_level("INFO"):
        assert precision.compute_dtype() is dtype
    assert f"compute_dtype={precision.dtype_name(dtype)}" in caplog.text


def test_a_model_on_an_avx2_processor_never_enters_autocast():
    """In a process of its own: oneDNN reads its limit once."""
    code = (
        "import torch; from cloud_trainer.world_model.compact.precision import mixed_precision\n"
        "with mixed_precision(): print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "torch.float32"
