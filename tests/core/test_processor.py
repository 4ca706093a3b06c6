"""Number format, memory layout and threads are chosen in one place, by what the processor has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gymnast_core.policies import processor

AVX2 = {"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}


@pytest.fixture(autouse=True)
def fresh():
    """The choice is made once a process."""
    processor.compute_dtype.cache_clear()
    yield
    processor.compute_dtype.cache_clear()


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
        assert processor.compute_dtype() is dtype
    assert f"compute_dtype={processor.dtype_name(dtype)}" in caplog.text


def test_a_model_on_an_avx2_processor_never_enters_autocast():
    """In a process of its own: oneDNN reads its limit once."""
    code = (
        "import torch; from gymnast_core.policies.processor import mixed_precision\n"
        "with mixed_precision(): print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "torch.float32"


def test_a_layout_changes_where_numbers_lie_and_none_of_them():
    network = torch.nn.Conv2d(3, 4, 3)
    before, x = network.weight.detach().clone(), torch.arange(48.0).view(1, 3, 4, 4)
    processor.lay_out(network)
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(network.weight, before)
    assert processor.laid_out(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(processor.laid_out(x), x)


def test_nobody_else_chooses_threads_or_a_layout():
    own = Path(processor.__file__)
    chosen = re.compile(r"set_num_threads|channels_last|get_capabilities|autocast\(.cpu")
    files = [path for top in ("gymnast_core", "gymnast_ros", "cloud_trainer", "gymnast_cli", "benchmarks")
             for path in (own.parents[2] / top).rglob("*.py") if path != own]  # fmt: skip
    assert len(files) > 500
    assert not [path for path in files if chosen.search(path.read_text(encoding="utf-8"))]
