"""Frames per second and FLOP per frame of the world model: uncached, the released caching scheme, ours.

    python -m benchmarks.world_model                       FLOP at the full 608 M size (counted, not run) and wall clock
                                                           of a narrower model
    python -m benchmarks.world_model --full --frames 1 --dtype bfloat16 --only released ours
                                                           wall clock at the full size (about 2 minutes on a core with
                                                           AMX; float32 5, and "no cache" as long again)
    python -m benchmarks.world_model --full --frames 40 --batch 1 8 40 --device cuda
                                                           bf16 + compile: frames/s, memory, share of matmul peak

FLOP are averaged over a 40-step rollout from one start frame; decoding is not counted, nobody looks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.diffusion import CONTEXT_TIMESTEP, VPrediction, noise_steps, null_action
from cloud_trainer.world_model.dit.kv_cache import KVCache, KVContext, LayerKV
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import Network, RolloutSampler, SamplerConfig
from gymnast_core.policies.processor import use_threads

ROLLOUT = 40
LATENT = (32, 32)
GOALS_TFLOP = {"ours, 10 steps, guidance": 4.7, "ours, 4 steps, no guidance": 1.1}
GOALS_SPEED = {"ours, 10 steps, guidance": 2.0, "ours, 4 steps, no guidance": 8.0}
REFERENCE = "released cache, 10 steps, guidance"


@dataclass(frozen=True)
class Scheme:
    """One way to make frames.

    Attributes:
        name: in the table.
        kind: "uncached", "released" or "ours".
        sampler: steps, guidance, window.
    """

    name: str
    kind: str
    sampler: SamplerConfig


def schemes(window: int) -> list[Scheme]:
    """The rows of the table."""
    rows = []
    for kind, steps, guidance in (
        ("uncached", 10, 3.0),
        ("released", 10, 3.0),
        ("released", 4, 3.0),
        ("ours", 10, 3.0),
        ("ours", 10, 1.0),
        ("ours", 4, 3.0),
        ("ours", 4, 1.0),
        ("ours", 2, 1.0),
    ):
        label = {"uncached": "no cache", "released": "released cache", "ours": "ours"}[kind]
        name = f"{label}, {steps} steps, {'guidance' if guidance != 1 else 'no guidance'}"
        rows.append(Scheme(name, kind, SamplerConfig(steps=steps, guidance=guidance, window=window)))
    return rows


class Rollout:
    """Makes frames by a scheme; next() makes one."""

    def __init__(
        self, model: DiT, scheme: Scheme, network: Network, batch: int, context: Tensor, *, static: bool = False
    ) -> None:
        self.model, self.scheme, self.network, self.batch = model, scheme, network, batch
        self.objective, self.frames = VPrediction(), context
        self.actions = torch.zeros(batch, 1, model.config.action_dim, device=context.device, dtype=context.dtype)
        self.sampler = RolloutSampler(model, self.objective, scheme.sampler, network=network, static=static)
        if scheme.kind == "ours":
            self.sampler.start(context, self.actions)

    @torch.no_grad()
    def next(self, noise: Tensor) -> Tensor:
        """Make one frame of (B, H, W, C) noise."""
        action = torch.zeros_like(self.actions[:, :1])
        if self.scheme.kind == "ours":
            return self.sampler.next_frame(action[:, 0], noise)
        keep = self.scheme.sampler.window - 1
        self.frames, self.actions = self.frames[:, -keep:], self.actions[:, -keep:]
        self.actions = torch.cat((self.actions, action), dim=1)
        frame, schedule = noise[:, None], noise_steps(self.scheme.sampler.steps).tolist()
        caches: list[KVContext | None] = [None] * self.scheme.sampler.branches
        for index in range(self.scheme.sampler.steps, 0, -1):
            v = [self._predict(frame, schedule[index], branch, caches) for branch in range(len(caches))]
            guidance = self.scheme.sampler.guidance
            prediction = v[0] if len(v) == 1 else (1 - guidance) * v[1] + guidance * v[0]
            t, t_next = (torch.full((self.batch, 1), schedule[i], device=frame.device) for i in (index, index - 1))
            frame = self.objective.step(frame, prediction.to(frame.dtype), t, t_next)
        self.frames = torch.cat((self.frames, frame), dim=1)
        return frame[:, 0]

    def _predict(self, frame: Tensor, t: int, branch: int, caches: list[KVContext | None]) -> Tensor:
        """One branch, one step: a whole-window pass, or (released cache, after the first step) one frame."""
        actions = self.actions if branch == 0 else null_action(self.actions)
        if caches[branch] is not None:
            times = torch.full((self.batch, 1), t, device=frame.device)
            return self.network(frame, times, actions[:, -1:], context=caches[branch], written=None)
        window = torch.cat((self.objective.context(self.frames), frame), dim=1)
        times = torch.full(window.shape[:2], CONTEXT_TIMESTEP, device=frame.device)
        times[:, -1] = t
        written: list[LayerKV] | None = [] if self.scheme.kind == "released" else None
        prediction = self.network(window, times, actions, context=None, written=written)[:, -1:]
        if written is not None:
            caches[branch] = self._released_cache(written)
        return prediction

    def _released_cache(self, written: list[LayerKV]) -> KVContext:
        """The context's keys and values, as the released code keeps them for the rest of this one frame."""
        known = self.frames.shape[1]
        shape = self.model.cache_shape(self.batch, (self.frames.shape[2], self.frames.shape[3]), capacity=known)
        cache = KVCache(shape, device=self.frames.device, dtype=self.frames.dtype)
        cache.append([(keys[:, :, :, :known], values[:, :, :, :known]) for keys, values in written])
        return cache.context()


class Counter:
    """Stands in for a network on the meta device: counts one row of each kind of pass once, then adds up."""

    def __init__(self, model: DiT) -> None:
        self.model, self.flop = model, 0.0
        self._known: dict[tuple[Any, ...], float] = {}

    def __call__(
        self, x: Tensor, t: Tensor, a: Tensor, *, context: KVContext | None, written: list[LayerKV] | None
    ) -> Tensor:
        """Return an empty prediction."""
        slots = 0 if context is None else context.layers[0][0].shape[-2]
        key = (*x.shape[1:], slots)
        if key not in self._known:
            row = None
            if context is not None:
                row = replace(context, layers=[(keys[:1], values[:1]) for keys, values in context.layers])
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                self.model(x[:1], t[:1], a[:1], context=row)
            self._known[key] = float(counter.get_total_flops())
        self.flop += x.shape[0] * self._known[key]
        if written is not None:
            shape = self.model.cache_shape(x.shape[0], (x.shape[2], x.shape[3]), capacity=2)
            size = (shape.batch, shape.tokens, shape.heads, x.shape[1], shape.head_dim)
            written += [(torch.empty(size, device="meta"), torch.empty(size, device="meta"))] * shape.layers
        return torch.empty_like(x)


def count_flop(counter: Counter, scheme: Scheme, *, latent: tuple[int, int] = LATENT, frames: int = ROLLOUT) -> float:
    """Return FLOP per frame, averaged over a rollout of one world on the meta device."""
    channels = counter.model.config.in_channels
    counter.flop = 0.0
    rollout = Rollout(counter.model, scheme, counter, 1, torch.empty(1, 1, *latent, channels, device="meta"))
    for _ in range(frames):
        rollout.next(torch.empty(1, *latent, channels, device="meta"))
    return counter.flop / frames


def fill(cache: KVCache, frames: int, generator: torch.Generator) -> None:
    """Make a cache hold that many more frames; time does not depend on what is in them."""
    shape, like = cache.shape, cache.context().layers[0][0]
    size = (shape.batch, shape.tokens, shape.heads, frames, shape.head_dim)
    drawn = torch.randn(size, generator=generator).to(like.device, like.dtype)
    cache.append([(drawn, drawn)] * shape.layers)
    cache.context()  # turns them now: in a rollout each was turned when it was new


def time_scheme(
    model: DiT, scheme: Scheme, *, batch: int, frames: int, known: int, mode: str | None = None
) -> dict[str, Any]:
    """Return seconds per frame once `known` frames are context, and the most memory used.

    Args:
        model: on its device.
        scheme: how frames are made.
        batch: rollouts together.
        frames: timed.
        known: frames of context.
        mode: of torch.compile, e.g. reduce-overhead for CUDA graphs; None runs it as it is.
    """
    weight = model.action_embedder.weight
    generator = torch.Generator().manual_seed(0)
    size = (*LATENT, model.config.in_channels)

    def noise(*lead: int) -> Tensor:
        return torch.randn(*lead, *size, generator=generator).to(weight.device, weight.dtype)

    network: Network = model if mode is None else torch.compile(model, dynamic=scheme.kind != "ours", mode=mode)
    rollout = Rollout(model, scheme, network, batch, noise(batch, 1), static=mode is not None)
    if scheme.kind == "ours":
        fill(rollout.sampler.cache, known - 1, generator)
    else:
        rollout.frames = noise(batch, known)
        rollout.actions = torch.zeros(batch, known, model.config.action_dim, device=weight.device, dtype=weight.dtype)
    warm = 0 if mode is None else 3  # compiled, recorded, replayed
    spent = []
    for index in range(warm + frames):
        drawn = noise(batch)
        start = time.perf_counter()
        rollout.next(drawn)
        if weight.is_cuda:
            torch.cuda.synchronize()
        if index >= warm:
            spent.append(time.perf_counter() - start)
    per_frame = sum(spent) / len(spent) / batch
    memory = torch.cuda.max_memory_allocated() / 2**30 if weight.is_cuda else None
    return {"s_per_frame": per_frame, "frames_per_s": 1 / per_frame, "memory_gib": memory}


def matmul_peak_tflops(device: str, dtype: torch.dtype, side: int) -> float:
    """Return the best measured rate of a square matrix product."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e12


def build(config: DiTConfig, device: str, dtype: torch.dtype) -> DiT:
    """Return a model with random weights, built where it runs."""
    with torch.device(device):
        model = DiT(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    return model.eval()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Do everything the options ask for."""
    full = DiTConfig()
    with torch.device("meta"):
        counter = Counter(DiT(full).eval())
    counted = () if options.clock_only else schemes(full.max_frames)
    rows = [{"scheme": s.name, "tflop_per_frame": count_flop(counter, s) / 1e12} for s in counted]
    config = (
        full if options.full else full.changed(dim=options.dim, num_layers=options.layers, num_heads=options.dim // 64)
    )
    device = options.device
    dtype = getattr(torch, options.dtype or ("bfloat16" if device == "cuda" else "float32"))
    model, peak = build(config, device, dtype), matmul_peak_tflops(device, dtype, 8192 if device == "cuda" else 1024)
    timed = []
    for batch in options.batch:
        for scheme in schemes(full.max_frames):
            if options.only and not any(part in scheme.name for part in options.only):
                continue
            found = time_scheme(
                model,
                scheme,
                batch=batch,
                frames=options.frames,
                known=options.known,
                mode="default" if device == "cuda" else None,
            )
            timed.append({"scheme": scheme.name, "batch": batch, **found})
            print(f"timed {scheme.name}, batch {batch}: {found['s_per_frame']:.3f} s per frame", file=sys.stderr)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "timed_config": {"dim": config.dim, "layers": config.num_layers, "known_frames": options.known},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu, 1 thread",
        "dtype": str(dtype).removeprefix("torch."),
        "matmul_peak_tflops": peak,
        "flop": rows,
        "timed": timed,
    }


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    if found["flop"]:
        show_flop(found["flop"])
    print(
        f"\nWall clock, {found['parameters'] / 1e6:.1f} M parameters {found['timed_config']}, {found['device']}, "
        f"{found['dtype']}, matmul peak {found['matmul_peak_tflops']:.3g} TFLOP/s"
    )
    print(f"{'scheme':36s} {'batch':>5s} {'s/frame':>9s} {'frames/s':>9s} {'x faster':>9s} {'GiB':>6s}  goal")
    base = {row["batch"]: row["s_per_frame"] for row in found["timed"] if row["scheme"] == REFERENCE}
    for row in found["timed"]:
        ratio = base.get(row["batch"], float("nan")) / row["s_per_frame"]
        goal = GOALS_SPEED.get(row["scheme"])
        said = "" if goal is None else f">= {goal:.0f}: {'met' if ratio >= goal else 'MISSED'}"
        memory = "" if row["memory_gib"] is None else f"{row['memory_gib']:.1f}"
        print(
            f"{row['scheme']:36s} {row['batch']:5d} {row['s_per_frame']:9.4f} {row['frames_per_s']:9.3f} "
            f"{ratio:9.2f} {memory:>6s}  {said}"
        )
    if found["flop"] and found["timed_config"]["dim"] == DiTConfig().dim:
        share_table(found)


def show_flop(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of counted FLOP."""
    print("FLOP per frame, full 608 M configuration, 40-step rollout, window 20, batch 1 (counted)")
    print(f"{'scheme':36s} {'TFLOP/frame':>12s} {'x less':>7s}  goal")
    reference = next(row["tflop_per_frame"] for row in rows if row["scheme"] == REFERENCE)
    for row in rows:
        goal = GOALS_TFLOP.get(row["scheme"])
        said = "" if goal is None else f"<= {goal}: {'met' if row['tflop_per_frame'] <= goal else 'MISSED'}"
        ratio = reference / row["tflop_per_frame"]
        print(f"{row['scheme']:36s} {row['tflop_per_frame']:12.3f} {ratio:7.2f}  {said}")


def share_table(found: dict[str, Any]) -> None:
    """Print the fraction of the measured matmul peak; FLOP are those of the mean over a rollout, full size only."""
    flop = {row["scheme"]: row["tflop_per_frame"] for row in found["flop"]}
    for row in found["timed"]:
        rate = flop[row["scheme"]] * row["frames_per_s"]
        print(f"{row['scheme']:36s} batch {row['batch']:3d}: {rate / found['matmul_peak_tflops']:.1%} of matmul peak")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="time the full 608 M model, not a narrower one")
    parser.add_argument("--dim", type=int, default=256, help="width of the narrower model")
    parser.add_argument("--layers", type=int, default=2, help="blocks of the narrower model")
    parser.add_argument("--frames", type=int, default=2, help="frames timed per scheme")
    parser.add_argument("--known", type=int, default=15, help="context frames (the mean over a 40-step rollout)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="rollouts together")
    parser.add_argument("--clock-only", action="store_true", help="leave out the FLOP, which take a minute to count")
    parser.add_argument("--only", nargs="*", help="time schemes whose name holds one of these")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default bfloat16 on cuda, else float32")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    use_threads()
    found = measure(options)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
