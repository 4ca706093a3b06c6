"""How fast policies answer, how much memory they take, and whether real-time chunking keeps the arm smooth.

    python -m benchmarks.policy                       # this machine's CPU: OpenVLA-OFT at reduced depth, extrapolated
    python -m benchmarks.policy --device cuda         # full depth, bf16, compiled, against the memory bandwidth
    python -m benchmarks.policy --json FILE --parts compact chunking

Full-size weights are random: latency and memory do not depend on their values. On a CPU only some of the identical
layers are built; the time of one more layer is measured and multiplied, which the table says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gymnast_core.policies.chunking import ChunkingConfig, RealTimeChunking
from gymnast_core.policies.compact import ActionBins, CompactNetwork, CompactPolicy, CompactPolicyConfig
from gymnast_core.policies.openvla.config import DINOV2, SIGLIP, OpenVLAConfig, TextConfig
from gymnast_core.policies.openvla.model import OpenVLANetwork
from gymnast_core.policies.processor import use_threads
from gymnast_core.types import ActionChunk, Observation

FULL = OpenVLAConfig()
PROMPT_TOKENS = 32
"""A Bridge instruction with the words around it, padded as serving pads it."""


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: measured quantity.
        value: number.
        unit: of it.
        note: how it came about; extrapolations say so.
    """

    what: str
    value: float
    unit: str
    note: str = ""


def main() -> int:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of the large model; 50 on a GPU")
    parser.add_argument("--ticks", type=int, default=100, help="control ticks of the chunking measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    use_threads(options.threads)
    begin_load = os.getloadavg()[0]
    figures = [figure for part in options.parts for figure in PARTS[part](options)]
    machine = {
        "cpus": os.cpu_count(),
        "threads": options.threads,
        "torch": torch.__version__,
        "load_before": round(begin_load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
    }
    show(figures, machine)
    if options.json:
        rows = [figure.__dict__ for figure in figures]
        options.json.write_text(json.dumps({"machine": machine, "figures": rows}, indent=1) + "\n")
    return 0


def show(figures: Sequence[Figure], machine: dict[str, Any]) -> None:
    """Print a table for people."""
    table = Table(title=f"policy benchmark: {machine}", title_justify="left")
    for name in ("what", "value", "unit", "note"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for figure in figures:
        table.add_row(figure.what, f"{figure.value:.4g}", figure.unit, figure.note)
    Console(width=150).print(table)


def percentiles(call: Callable[[], Any], repeats: int, *, warm: int = 1) -> tuple[float, float]:
    """Return p50 and p99 of a call's wall time in milliseconds; on a GPU the call must wait for the result."""
    for _ in range(warm):
        call()
    spent = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - begin))
    return float(np.percentile(spent, 50)), float(np.percentile(spent, 99))


def random_inputs(
    config: OpenVLAConfig, device: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One frame and one prompt."""
    generator, side = torch.Generator().manual_seed(0), config.towers[0].image_size
    pixels = torch.randn(1, 6, side, side, generator=generator).to(device, dtype)
    ids = torch.randint(3, 31000, (1, PROMPT_TOKENS), generator=generator).to(device)
    return pixels, ids, torch.tensor([PROMPT_TOKENS], device=device)


def random_network(config: OpenVLAConfig, device: str, dtype: torch.dtype) -> OpenVLANetwork:
    """Allocate straight in the dtype and on the device wanted and fill with one repeated random block.

    Drawing 7.5e9 numbers would take minutes and change nothing: the block keeps values ordinary, no zeros or NaN.
    """
    network = OpenVLANetwork.without_memory(config).to(dtype)
    rotary = network.language_model.model.rotary_emb
    network.to_empty(device=device)
    network.language_model.model.rotary_emb = type(rotary)(network.language_model.config).to(device)
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(device, dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            flat = parameter.view(-1)
            whole = flat.numel() // len(block) * len(block)
            flat[:whole].view(-1, len(block)).copy_(block.expand(whole // len(block), -1))
            flat[whole:].copy_(block[: flat.numel() - whole])
    return network.eval()


def parameters_of(config: OpenVLAConfig) -> int:
    """Count without allocating."""
    return sum(p.numel() for p in OpenVLANetwork.without_memory(config).parameters())


def openvla(options: argparse.Namespace) -> list[Figure]:
    """OpenVLA-OFT, discrete head, one observation."""
    size = Figure("OpenVLA-OFT weights, bf16", 2 * parameters_of(FULL) / 1e9, "GB", "counted, 7.54e9 parameters")
    if options.device == "cuda":
        return [size, *openvla_latency(FULL, "cuda", torch.bfloat16, max(50, options.repeats))]
    measured = openvla_on_cpu(options)
    return [size, *measured]


@torch.no_grad()
def openvla_latency(config: OpenVLAConfig, device: str, dtype: torch.dtype, repeats: int) -> list[Figure]:
    """Full depth; on a GPU by CUDA graphs too, beside the limit, which is reading every used weight once."""
    network = random_network(config, device, dtype)
    pixels, ids, length = random_inputs(config, device, dtype)

    def timed(way: str, hidden: Callable[..., torch.Tensor]) -> list[Figure]:
        def call() -> None:
            network.action_logits(hidden(pixels, ids, length)).argmax(-1).cpu()

        p50, p99 = percentiles(call, repeats, warm=5)
        return [
            Figure(f"OpenVLA-OFT latency {name} / chunk, {way}", ms, "ms") for name, ms in (("p50", p50), ("p99", p99))
        ]

    figures = timed("eager", network.parallel_hidden)
    if device == "cpu":
        return figures
    figures += timed("CUDA graphs", torch.compile(network.parallel_hidden, mode="reduce-overhead", dynamic=False))
    table_rows = 2 * network.language_model.model.embed_tokens.weight.nbytes  # one row each is read: not counted
    read = sum(p.nbytes for p in network.parameters()) - table_rows
    bandwidth = copy_bandwidth()
    limit = 1e3 * read / bandwidth
    note = "340 tokens: compute-bound rather than bandwidth-bound"
    return [
        *figures,
        Figure("memory-bandwidth limit", limit, "ms", f"{read / 1e9:.1f} GB at {bandwidth / 1e9:.0f} GB/s, measured"),
        Figure("p50 by CUDA graphs against the limit", figures[2].value / limit, "x", note),
        Figure("peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB"),
    ]


def copy_bandwidth() -> float:
    """Bytes a second that a large device copy reads and writes."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def call() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    p50, _ = percentiles(call, 20, warm=3)
    return 2 * source.nbytes / (p50 / 1e3)


@dataclass(frozen=True)
class Depths:
    """A reduced model: layers of the language model, used blocks of each tower."""

    llama: int
    vision: int


@torch.no_grad()
def openvla_on_cpu(options: argparse.Namespace) -> list[Figure]:
    """Full width, a few of the identical layers: time = fixed part + layers x time of one more layer.

    The least CPU time of the calls is used: unlike wall time it does not grow because others use the core.
    """
    small, taller, wider = Depths(1, 1), Depths(2, 1), Depths(1, 4)
    wall, cpu = {}, {}
    for depths in (small, taller, wider):
        wall[depths], cpu[depths] = _reduced(options, depths)
    per_layer, per_pair = cpu[taller] - cpu[small], (cpu[wider] - cpu[small]) / 3
    note = f"{options.repeats} calls, {options.threads} thread, bf16; least CPU time"
    figures = [
        Figure("OpenVLA-OFT, 1 Llama layer, 1 block per tower: wall p50", wall[small][0], "ms", note),
        Figure("the same: wall p99", wall[small][1], "ms", note),
        Figure("the same: CPU time", cpu[small], "ms", note),
        Figure("one more Llama layer: CPU time", per_layer, "ms", "difference of depths 1 and 2"),
        Figure("one more block in both towers: CPU time", per_pair, "ms", "difference of depths 1 and 4"),
    ]
    if min(per_layer, per_pair) <= 0:
        unresolved = "NOT RESOLVED: a difference came out negative; repeat on a calmer machine"
        return [*figures, Figure("OpenVLA-OFT full depth", float("nan"), "s", unresolved)]
    blocks = (FULL.towers[0].depth + FULL.towers[1].depth - 2) / 2 - 1  # used pairs, less the one that is built
    total = cpu[small] + per_layer * (FULL.text.num_hidden_layers - 1) + per_pair * blocks
    return [
        *figures,
        Figure("OpenVLA-OFT full depth, CPU time", total / 1e3, "s", "EXTRAPOLATED to 32 layers, 23 and 26 blocks"),
        Figure("actions a second at full depth", 5e3 / total, "1/s", "EXTRAPOLATED; 5 needed: serve it from a GPU"),
    ]


def _reduced(options: argparse.Namespace, depths: Depths) -> tuple[tuple[float, float], float]:
    """Wall p50 and p99, and least CPU time, in milliseconds."""
    towers = replace(DINOV2, depth=depths.vision + 1), replace(SIGLIP, depth=depths.vision + 1)  # the last is unused
    text = TextConfig(num_hidden_layers=depths.llama)
    network = random_network(replace(FULL, text=text, towers=towers), "cpu", torch.bfloat16)
    pixels, ids, length = random_inputs(FULL, "cpu", torch.bfloat16)
    spent: list[float] = []

    def call() -> None:
        begin = time.process_time()
        network.action_logits(network.parallel_hidden(pixels, ids, length)).argmax(-1)
        spent.append(1e3 * (time.process_time() - begin))

    wall = percentiles(call, options.repeats)
    return wall, min(spent)


def random_compact() -> CompactPolicy:
    """The compact policy at its real size."""
    torch.manual_seed(0)
    low = np.array([-0.05] * 3 + [-0.25] * 3 + [0.0], np.float32)
    high = np.array([0.05] * 3 + [0.25] * 3 + [1.0], np.float32)
    return CompactPolicy(CompactNetwork(CompactPolicyConfig()), ActionBins(low, high, 256))


def compact(options: argparse.Namespace) -> list[Figure]:
    """The compact policy on the CPU, one observation of 256 x 256 and a batch of 64."""
    policy, rng = random_compact(), np.random.default_rng(0)
    count = sum(p.numel() for p in policy.network.parameters())

    def calls(rows: int, repeats: int) -> tuple[float, float]:
        frames = rng.integers(0, 256, (rows, 256, 256, 3), dtype=np.uint8)
        seen = Observation({"camera": frames}, np.zeros((rows, 7), np.float32), np.zeros(rows, np.int64))
        policy.row_by_row = rows == 1
        return percentiles(lambda: policy.act(seen, ["lift the red cube"] * rows), repeats, warm=5)

    one, many = calls(1, 200), calls(64, 10)
    return [
        Figure("compact policy weights, fp32", 4 * count / 1e6, "MB", f"{count} parameters"),
        Figure("compact policy latency p50 / chunk", one[0], "ms", "200 calls, camera frame to actions"),
        Figure("compact policy latency p99 / chunk", one[1], "ms", "5 Hz allows 200"),
        Figure("compact policy throughput, batch 64", 64e3 / many[0], "chunks/s"),
    ]


WAITING_TICKS = 50
"""Of the loop that waits for every chunk; its lateness is the latency itself."""


class Disagreeing:
    """Takes `latency_s` and contradicts its last chunk by 0.03 m and 0.15 rad: seams as bad as they get."""

    version, chunk_length = "policy-disagreeing", 5

    def __init__(self, latency_s: float) -> None:
        self._latency_s, self._sign = latency_s, 1.0

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Return a constant chunk after the injected latency."""
        time.sleep(self._latency_s)
        self._sign = -self._sign
        actions = np.zeros((len(instruction), 5, 7), np.float32)
        actions[..., :3], actions[..., 3:6], actions[..., 6] = 0.015 * self._sign, 0.075 * self._sign, 1.0
        return ActionChunk(actions, self.version)


def chunking(options: argparse.Namespace) -> list[Figure]:
    """A real 5 Hz loop on the real clock with 200 ms of injected inference latency."""
    config = ChunkingConfig(horizon=2, expected_delay=2)
    wrapped = RealTimeChunking(Disagreeing(0.2), config)
    late, actions = control_loop(lambda seen: wrapped.act(seen, ["lift"]).actions_BKA[0, 0], options.ticks)
    raw = max(float(seam.raw_jump_B6[:, :3].max()) for seam in wrapped.seams)
    seams, starved = len(wrapped.seams), wrapped.starved_ticks
    wrapped.close()
    steps = np.abs(np.diff(actions, axis=0))
    waiting, _ = control_loop(_blocking(Disagreeing(0.2)), min(options.ticks, WAITING_TICKS))
    p99 = float(np.percentile(late, 99))
    return [
        Figure("real-time chunking: tick jitter p99", 1e3 * p99, "ms", f"{options.ticks} ticks, 200 ms latency"),
        Figure("real-time chunking: jitter p99 / period", 100 * p99 / 0.2, "%", "bound 10 %: " + _verdict(p99 <= 0.02)),
        Figure("without it (waiting at each seam): jitter p99", 1e3 * float(np.percentile(waiting, 99)), "ms"),
        Figure("seam jump the policy wanted", 1e3 * raw, "mm", f"{seams} seams"),
        Figure(
            "largest commanded change of a tick",
            1e3 * float(steps[:, :3].max()),
            "mm",
            f"bound {1e3 * config.max_jump_m:.0f} mm: " + _verdict(steps[:, :3].max() <= config.max_jump_m + 1e-6),
        ),
        Figure(
            "largest commanded rotation change",
            float(steps[:, 3:6].max()),
            "rad",
            f"bound {config.max_jump_rad}: " + _verdict(steps[:, 3:6].max() <= config.max_jump_rad + 1e-6),
        ),
        Figure("ticks without a planned action", float(starved), "ticks"),
    ]


def _verdict(kept: bool) -> str:
    return "kept" if kept else "BROKEN"


def _blocking(policy: Disagreeing) -> Callable[[Observation], np.ndarray[Any, Any]]:
    plan: list[np.ndarray[Any, Any]] = []

    def act(seen: Observation) -> np.ndarray[Any, Any]:
        if not plan:
            plan.extend(policy.act(seen, ["lift"]).actions_BKA[0])
        return plan.pop(0)

    return act


def control_loop(
    act: Callable[[Observation], np.ndarray[Any, Any]], ticks: int, *, period_s: float = 0.2
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Run at a fixed rate; returns how late each action came (s, after the first) and the actions."""
    late, actions = [], []
    act(_observation(0))  # the first chunk is waited for by anybody
    start = time.perf_counter() + period_s
    for tick in range(ticks):
        due = start + tick * period_s
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        actions.append(act(_observation(round((tick + 1) * period_s * 1e9))))
        late.append(time.perf_counter() - due)
    return np.array(late), np.stack(actions)


def _observation(now_ns: int) -> Observation:
    return Observation({}, np.zeros((1, 7), np.float32), np.array([now_ns], np.int64))


PARTS: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "openvla": openvla,
    "compact": compact,
    "chunking": chunking,
}


if __name__ == "__main__":
    sys.exit(main())
