"""What `benchmarks.gpu_check` measures, one function a part; each runs in a process of its own.

Sizes are the full ones, or with --tiny toys of the same code on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.policy import Figure, copy_bandwidth, openvla_latency, percentiles
from benchmarks.world_model import Counter, Scheme, build, count_flop, matmul_peak_tflops, time_scheme
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.world_model.dit.checkpoint import ARCHITECTURE, WorldModel
from cloud_trainer.world_model.dit.codec import CodecConfig, KLCodec, TinyCodec
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.diffusion import VPrediction
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import DiTWorld
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.policies.lora import attach
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.openvla.config import OpenVLAConfig
from gymnast_core.policies.pi0.config import Pi0Config
from gymnast_core.policies.pi0.network import Pi0Network
from gymnast_core.policies.pi0.policy import Pi0Policy
from gymnast_core.policies.pi0.prompt import PiPrompts
from gymnast_core.policies.placement import prepare_learning
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import ByteArray, Observation
from tests.policies.openvla_folder import FIRST, SECOND, TEXT
from tests.policies.pi0_folder import NORM_STATS, tiny_config, tokenizer_json

Tell = Callable[[Figure], None]
"""Takes a figure as soon as it is measured."""
INSTRUCTION = "put cube on plate"


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        device: cuda or cpu.
        dtype: of weights that do not learn.
        dit: the world model.
        batches: rollouts dreamt together.
        frames: timed a scheme.
        pi0: the flow policy; its chunk is cut to 5 where it learns.
        openvla: the token policy.
        autoencoder: channels of the codec's blocks.
        image: pixels a side of what the camera sees.
        side: of the matrices whose product gives the peak.
        rollouts: of one GRPO iteration, one group.
        steps: control steps of each.
        repeats: timed calls of a policy.
    """

    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    dit: DiTConfig = DiTConfig()  # noqa: RUF009 (immutable)
    batches: tuple[int, ...] = (1, 8, 40)
    frames: int = 8
    pi0: Pi0Config = Pi0Config()  # noqa: RUF009 (immutable)
    openvla: OpenVLAConfig = OpenVLAConfig()  # noqa: RUF009 (immutable)
    autoencoder: tuple[int, ...] = (128, 256, 512, 512)
    image: int = 256
    side: int = 8192
    rollouts: int = 8
    steps: int = 40
    repeats: int = 30

    @property
    def on_gpu(self) -> bool:
        """Whether these are the sizes that count."""
        return self.device == "cuda"


def tiny() -> Sizes:
    """Toys of the same code for the CPU."""
    return Sizes(
        "cpu", torch.float32, DiTConfig(dim=16, num_layers=1, num_heads=2, max_frames=8), (1, 2), 1,
        tiny_config(steps=2), OpenVLAConfig(towers=(FIRST, SECOND), text=TEXT), (8, 8, 8, 8), 32, 64, 2, 10, 2,
    )  # fmt: skip


def machine(sizes: Sizes, tell: Tell) -> None:
    """What the GPU is and the most it gives."""
    if sizes.on_gpu:
        seen = torch.cuda.get_device_properties(0)
        tell(Figure("memory", seen.total_memory / 1e9, "GB", f"{seen.name}, torch {torch.__version__}"))
        tell(Figure("copy bandwidth", copy_bandwidth() / 1e9, "GB/s", "read and write, 2 GiB"))
    for dtype in (torch.float32, torch.bfloat16):
        peak = matmul_peak_tflops(sizes.device, dtype, sizes.side)
        tell(Figure(f"matmul peak, {_name(dtype)}", peak, "TFLOP/s", f"best of 5, {sizes.side} a side"))


def tests(sizes: Sizes, tell: Tell) -> None:
    """The tests that need a GPU; without one they are only collected.

    Raises:
        RuntimeError: one failed.
    """
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rA", "tests/policies"]
    if not sizes.on_gpu:
        command.append("--collect-only")
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(ended.stdout[-3000:])
    named = [line for line in ended.stdout.splitlines() if "::" in line and not line.startswith("FAILED")]
    tell(Figure("gpu tests", len(named), "passed" if sizes.on_gpu else "collected"))
    if ended.returncode or not named:
        raise RuntimeError(f"pytest ended with {ended.returncode}")


def world_model(sizes: Sizes, tell: Tell) -> None:
    """Rollouts of the world model by batch, steps and way of running, from a half-full context."""
    model, peak = build(sizes.dit, sizes.device, sizes.dtype), matmul_peak_tflops(sizes.device, sizes.dtype, sizes.side)
    with torch.device("meta"):
        counter = Counter(DiT(sizes.dit).eval())
    window = sizes.dit.max_frames
    for batch in sizes.batches:
        for steps in (4, 2, 1):
            scheme = Scheme(f"ours, {steps} steps", "ours", SamplerConfig(steps=steps, guidance=1.0, window=window))
            flop = count_flop(counter, scheme, frames=2 * window)
            for way in ("eager", "compiled", "CUDA graphs") if sizes.on_gpu else ("eager",):
                mode = {"eager": None, "compiled": "default", "CUDA graphs": "reduce-overhead"}[way]
                known = (3 * window) // 4
                found = time_scheme(model, scheme, batch=batch, frames=sizes.frames, known=known, mode=mode)
                rate = found["frames_per_s"]
                note = f"{rate * flop / peak / 1e12:.1%} of the peak, {flop / 1e12:.2g} TFLOP a frame"
                memory = "" if found["memory_gib"] is None else f", peak {found['memory_gib']:.1f} GiB"
                tell(Figure(f"{way}, {steps} steps, batch {batch}", rate, "frames/s", note + memory))


def decode(sizes: Sizes, tell: Tell) -> None:
    """Frames a second that the codecs decode."""
    for name, codec in codecs(sizes).items():
        side = sizes.image // codec.downscale
        for batch in sizes.batches:
            latents = torch.randn(batch, side, side, codec.latent_channels)
            latents = latents.to(sizes.device)

            def call(codec: Any = codec, latents: torch.Tensor = latents) -> None:
                codec.decode(latents).cpu()

            p50, _ = percentiles(call, sizes.repeats, warm=2)
            tell(Figure(f"{name}, batch {batch}", 1e3 * batch / p50, "frames/s"))
    tell(_memory(sizes))


def codecs(sizes: Sizes) -> dict[str, Any]:
    """The two decoders of WorldGym's latents, with random weights."""
    from diffusers import AutoencoderKL, AutoencoderTiny

    blocks, count = sizes.autoencoder, len(sizes.autoencoder)
    channels = sizes.dit.in_channels
    full = AutoencoderKL(
        block_out_channels=blocks, down_block_types=("DownEncoderBlock2D",) * count, latent_channels=channels,
        up_block_types=("UpDecoderBlock2D",) * count, layers_per_block=2, norm_num_groups=min(32, blocks[0]),
    )  # fmt: skip
    small = AutoencoderTiny(latent_channels=channels)
    moved = [module.to(sizes.device, sizes.dtype) for module in (full, small)]
    return {"AutoencoderKL": KLCodec(moved[0]), "AutoencoderTiny": TinyCodec(moved[1])}


def policies(sizes: Sizes, tell: Tell) -> None:
    """How long OpenVLA-OFT and pi0 take for a chunk, and how far that is from reading every weight once."""
    for figure in openvla_latency(sizes.openvla, sizes.device, sizes.dtype, sizes.repeats):
        tell(figure)
    if sizes.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    policy = pi0(sizes, sizes.pi0)
    seen = observation(policy_frames(1, sizes.image))

    def act() -> None:
        policy.act(seen, [INSTRUCTION])

    p50, p99 = percentiles(act, sizes.repeats, warm=3)
    note = f"{policy.config.steps} steps, chunk of {policy.chunk_length}, one camera, eager"
    tell(Figure("pi0 latency p50 / chunk", p50, "ms", note))
    tell(Figure("pi0 latency p99 / chunk", p99, "ms"))
    tell(_memory(sizes))


def grpo(sizes: Sizes, tell: Tell) -> None:
    """One GRPO iteration: a group dreamt from one start, judged by turns, and one update of adapters."""
    policy = pi0(sizes, _short(sizes.pi0))
    attach(policy.network, LoraSettings(rank=8, alpha=16.0), seed=0)
    scored, spent = dreamt(sizes, policy)
    steps = sizes.rollouts * sizes.steps
    tell(Figure("dream and policy", spent, "s", f"{sizes.rollouts} rollouts of {sizes.steps} steps, 4 denoising steps"))
    tell(Figure("imagined steps a second", steps / spent, "1/s"))
    trainer = GrpoTrainer(policy, _grpo_config(sizes))
    tell(Figure("update of adapters", _update(trainer, scored, sizes), "s", "one epoch, mini-batches of 4"))
    tell(_memory(sizes))


def fsdp(sizes: Sizes, tell: Tell) -> None:
    """The same update by FSDP2 on one rank, the whole action expert learning."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from cloud_trainer.practice.ray.fsdp import FsdpTrainer

    with tempfile.TemporaryDirectory() as scratch:
        backend = "nccl" if sizes.on_gpu else "gloo"
        dist.init_process_group(backend, init_method=f"file://{scratch}/store", rank=0, world_size=1)
        policy = pi0(sizes, _short(sizes.pi0))
        scored, _ = dreamt(sizes, policy)
        prepare_learning(policy.network)
        mesh = init_device_mesh(sizes.device, (1,))
        trainer = FsdpTrainer(policy, _grpo_config(sizes), mesh, lambda: policy)
        tell(Figure("update of the expert, FSDP2, 1 rank", _update(trainer, scored, sizes), "s"))
        tell(_memory(sizes))
        dist.destroy_process_group()


def pi0(sizes: Sizes, config: Pi0Config) -> Pi0Policy:
    """A random pi0 where it computes; rows that see the same share a prefix, as in practice."""
    with torch.device(sizes.device):
        network = Pi0Network(config).to(sizes.dtype)
    return Pi0Policy(network.eval(), PiPrompts(tokenizer_json(), config), NORM_STATS, row_by_row=False)


def _short(config: Pi0Config) -> Pi0Config:
    return Pi0Config.from_json(config.to_json() | {"chunk_length": 5})


def policy_frames(rows: int, side: int) -> ByteArray:
    """Random pictures (B, H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)


def observation(frames_BHWC: ByteArray) -> Observation:
    """What a policy is shown of them."""
    rows = len(frames_BHWC)
    return Observation({"main": frames_BHWC}, np.full((rows, 7), 0.2, np.float32), np.zeros(rows, np.int64))


def dreamt(sizes: Sizes, policy: Pi0Policy) -> tuple[Scored, float]:
    """A group dreamt from one start and rewarded by turns, and the seconds it took once everything was warm."""
    world = random_world(sizes)
    picture = policy_frames(1, sizes.image)[0]
    start = StartState(picture, picture, np.full(7, 0.2, np.float32), INSTRUCTION, 0, "random", sizes.steps)
    rng, rows = np.random.default_rng(0), [start] * sizes.rollouts
    for _ in range(2):  # the second is timed
        begun = time.perf_counter()
        rollouts = imagine_from(world, rows, policy, seed=0, rng=rng, group_B=np.zeros(sizes.rollouts, np.int64))
        spent = time.perf_counter() - begun
    reward = np.arange(sizes.rollouts, dtype=np.float32) % 2
    return Scored(rollouts, reward, np.ones(sizes.rollouts, bool)), spent


def random_world(sizes: Sizes) -> DiTWorld:
    """The full world model with its codec, random."""
    manifest = Manifest("world_model", ARCHITECTURE, {"image_size": sizes.image}, "0" * 64, 0)
    network = build(sizes.dit, sizes.device, sizes.dtype)
    model = WorldModel(network, VPrediction(), CodecConfig(kind="identity"), manifest)
    return DiTWorld(model, codecs(sizes)["AutoencoderTiny"], DreamConfig(steps=4, batch_size=sizes.rollouts))


def _grpo_config(sizes: Sizes) -> GrpoConfig:
    return GrpoConfig(
        groups=1, group_size=sizes.rollouts, iterations=1, epochs=1, mini_batch=4, keep_low=0.0, keep_high=1.0,
        learning_rate=5e-6,
    )  # fmt: skip


def _update(trainer: GrpoTrainer[Any], scored: Scored, sizes: Sizes) -> float:
    """Seconds of the second of two updates."""
    for _ in range(2):
        begun = time.perf_counter()
        report = trainer.update(scored)
        if sizes.on_gpu:
            torch.cuda.synchronize()
        spent = time.perf_counter() - begun
    if not np.isfinite(report.grad_norm) or report.grad_norm <= 0:
        raise RuntimeError(f"the update had a gradient of norm {report.grad_norm}")
    return spent


def _memory(sizes: Sizes) -> Figure:
    """The most memory that this process used so far."""
    if sizes.on_gpu:
        return Figure("peak memory", torch.cuda.max_memory_allocated() / 1e9, "GB")
    import resource

    return Figure("peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "GB", "resident")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


PARTS: dict[str, Callable[[Sizes, Tell], None]] = {
    part.__name__: part for part in (machine, tests, policies, world_model, grpo, fsdp, decode)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one part and append its figures to a file, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--into", type=Path, required=True, metavar="FILE")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    if args.tiny:
        use_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    def tell(figure: Figure) -> None:
        with args.into.open("a") as file:
            file.write(json.dumps(asdict(figure)) + "\n")

    PARTS[args.part](tiny() if args.tiny else Sizes(), tell)
    return 0


if __name__ == "__main__":
    sys.exit(main())
