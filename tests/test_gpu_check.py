"""`make gpu-check` runs without a GPU too, with toy sizes: every line works the first time there is one."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_parts import PARTS, tiny


@pytest.mark.parametrize("name", [name for name in PARTS if name != "tests"])
def test_every_part_measures_with_toy_sizes(name):
    figures = []
    PARTS[name](tiny(), figures.append)
    assert figures
    assert all(math.isfinite(figure.value) and figure.value > 0 for figure in figures), figures


def test_parts_and_their_limits_are_the_same():
    assert set(PARTS) == set(gpu_check.LIMITS_S)
    assert gpu_check.BUDGET_S <= 8 * 60


def test_a_part_that_is_cut_or_fails_keeps_what_it_measured(monkeypatch, tmp_path):
    """Planted: one part measures something and hangs, one fails."""
    program = tmp_path / "part"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys, time\n"
        "name, into = sys.argv[3], sys.argv[5]\n"
        'open(into, \'a\').write(\'{"what": "speed", "value": 2.0, "unit": "1/s", "note": ""}\\n\')\n'
        "print('it hangs' if name == 'grpo' else 'CUDA out of memory')\n"
        "time.sleep(1000) if name == 'grpo' else sys.exit(1)\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(gpu_check.sys, "executable", str(program))
    cut, failed = gpu_check.run("grpo", 3.0, tiny=True), gpu_check.run("fsdp", 60.0, tiny=True)
    assert (cut.state, failed.state) == ("cut", "failed")
    assert [part.figures[0]["value"] for part in (cut, failed)] == [2.0, 2.0]
    assert "CUDA out of memory" in failed.error
    assert gpu_check.run("fsdp", 0.5, tiny=True).state == "left_out"
    gpu_check.write(tmp_path / "told.json", [cut, failed], tiny=True)
    assert [part["state"] for part in json.loads((tmp_path / "told.json").read_text())["parts"]] == ["cut", "failed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu_check.main([]) == 2
    assert "--tiny" in capsys.readouterr().err
