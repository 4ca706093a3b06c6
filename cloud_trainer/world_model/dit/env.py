"""The world model as an environment: same contract as the arm, imagined frames instead of a camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cloud_trainer.world_model.dit.actions import condition
from cloud_trainer.world_model.dit.codec import Codec
from cloud_trainer.world_model.dit.diffusion import Objective
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import Network, RolloutSampler, SamplerConfig
from cloud_trainer.world_model.dit.starts import known_frames
from cloud_trainer.world_model.starts import StartState
from gymnast_core.arm.targets import EndEffectorTarget
from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import ConfigError, EpisodeOverError
from gymnast_core.spec import WIDOWX_250S, EnvSpec, RobotSpec
from gymnast_core.types import BoolArray, ByteArray, FloatArray, Observation, StepResult


@dataclass(frozen=True)
class WorldModelEnvConfig:
    """How imagined episodes are run.

    Attributes:
        batch_size: rollouts stepped together.
        max_steps: steps after which every row is truncated.
        trusted_steps: horizon where the audit's trust ends; the episode is cut there when that is sooner.
        group_size: neighbouring rows that share a start.
        context_frames: known frames every row begins with; shorter pasts repeat their anchor.
        draws: independent noise draws per row; 2 or more measure disagreement (and cost as much again).
        in_order: group g starts at starts[g % number of starts] instead of a drawn one; for audits and practice.
        trust_limit: rows whose draws differ by more (RMS, latent units) end there as terminated.
        camera: name of the only camera.
        sampler: steps, guidance and window.
        robot: limits an action is clipped to before it is imagined.
    """

    batch_size: int = 8
    max_steps: int = 40
    trusted_steps: int | None = None
    group_size: int = 1
    context_frames: int = 5
    draws: int = 1
    in_order: bool = False
    trust_limit: float = float("inf")
    camera: str = "main"
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(pinned=1))
    robot: RobotSpec = WIDOWX_250S

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        for name in ("batch_size", "max_steps", "group_size", "context_frames", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.trusted_steps is not None and self.trusted_steps < 1:
            raise ConfigError(f"trusted_steps is {self.trusted_steps}: the audit trusts no step of this model")
        if self.context_frames >= self.sampler.window:
            raise ConfigError(f"context_frames {self.context_frames} must be below the window {self.sampler.window}")
        if np.isfinite(self.trust_limit) and self.draws < 2:
            raise ConfigError("trust_limit needs draws >= 2: disagreement of one draw is not defined")

    @property
    def horizon(self) -> int:
        """Steps after which every row is truncated, trust considered."""
        return self.max_steps if self.trusted_steps is None else min(self.max_steps, self.trusted_steps)


class LazyImages(Mapping[str, ByteArray]):
    """One camera whose frames are decoded when somebody looks, and then kept."""

    def __init__(self, camera: str, decode: Callable[[], ByteArray]) -> None:
        self._camera, self._decode = camera, decode
        self._frames: ByteArray | None = None

    def __getitem__(self, camera: str) -> ByteArray:
        """Return (B, H, W, 3) uint8, decoding at the first look."""
        if camera != self._camera:
            raise KeyError(f"camera {camera!r} is not {self._camera!r}")
        if self._frames is None:
            self._frames = self._decode()
        return self._frames

    def __iter__(self) -> Iterator[str]:
        """The camera's name."""
        return iter((self._camera,))

    def __len__(self) -> int:
        """Always one camera."""
        return 1


class WorldModelEnv:
    """Env over a DiT: keyframe starts, batched rollouts, frames decoded on demand.

    Proprioception is dead reckoning: the commanded target, which starts at the recorded pose.
    """

    def __init__(
        self,
        model: DiT,
        objective: Objective,
        codec: Codec,
        starts: Sequence[StartState],
        config: WorldModelEnvConfig,
        *,
        network: Network | None = None,
    ) -> None:
        """Bind a model to the starts it may dream from.

        Args:
            model: in eval mode, on the device and in the dtype to run in.
            objective: what it was trained to predict.
            codec: of its latents.
            starts: all of one image size; a row draws among those of its instruction, or among all if none has it.
            config: sizes.
            network: what is called instead of model (torch.compile).

        Raises:
            ConfigError: no starts, or of several image sizes.
        """
        sizes = {start.frame_HWC.shape[:2] for start in starts}
        if len(sizes) != 1:
            raise ConfigError(f"starts must be given and share one image size, got sizes {sorted(sizes)}")
        (height, width) = sizes.pop()
        self._spec = EnvSpec(config.batch_size, (config.camera,), height, width, config.horizon, config.robot)
        self._config, self._codec, self._starts = config, codec, tuple(starts)
        self._device = model.action_embedder.weight.device
        static = network is not None
        self._sampler = RolloutSampler(model, objective, config.sampler, static=static, network=network)
        self._episode: _Episode | None = None
        self._encoded: dict[int, tuple[Tensor, FloatArray]] = {}

    @property
    def spec(self) -> EnvSpec:
        """Sizes; max_steps is already cut to where trust ends."""
        return self._spec

    @property
    def chosen(self) -> list[StartState]:
        """The start state of every row of the current batch; empty before the first reset."""
        return list(self._episode.first) if self._episode is not None else []

    @property
    def disagreement_B(self) -> FloatArray:
        """(B,) RMS difference between the draws of each row's latest frame; zeros with one draw."""
        return self._running().disagreement_B

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Begin B imagined episodes; see Env."""
        rows = instructions_for(instruction, self._config.batch_size)
        return self._begin([self._draw_start(row, seed, b) for b, row in enumerate(rows)], seed)

    def step(self, action_BA: FloatArray) -> StepResult:
        """Imagine one control step; see Env. Actions are clipped to the robot's limits first."""
        episode, config = self._running(), self._config
        if episode.done_B.all():
            raise EpisodeOverError("every row is finished; call reset()")
        asked = checked_action(action_BA, config.batch_size)
        live = ~episode.done_B
        commanded = episode.command(asked, live, config.robot)
        actions = torch.from_numpy(np.tile(condition(commanded), (config.draws, 1))).to(self._device)
        latents = self._sampler.next_frame(actions, episode.noise(self._device))
        disagreement = _disagreement(latents, config.draws)
        episode.advance(latents[: config.batch_size], disagreement, live, config.robot.step_ns)
        terminated = live & (disagreement > config.trust_limit)
        episode.terminated_B |= terminated
        episode.truncated_B |= ~episode.terminated_B & (episode.steps >= np.minimum(episode.left_B, config.horizon))
        return StepResult(self._observe(episode), episode.terminated_B.copy(), episode.truncated_B.copy(), commanded)

    def close(self) -> None:
        """Drop the running episode and the encoded starts."""
        self._episode = None
        self._encoded.clear()

    def _running(self) -> _Episode:
        if self._episode is None:
            raise EpisodeOverError("no episode is running; call reset() first")
        return self._episode

    def _draw_start(self, instruction: str, seed: int, row: int) -> int:
        own = [i for i, start in enumerate(self._starts) if start.instruction == instruction]
        if self._config.in_order:
            return row // self._config.group_size % len(self._starts)
        choices = own or range(len(self._starts))
        rng = np.random.default_rng((seed, row // self._config.group_size))
        return int(choices[int(rng.integers(len(choices)))])

    def _begin(self, starts: list[int], seed: int) -> Observation:
        config, unique = self._config, sorted(set(starts))
        latents, conditions = zip(*(self._encode(i) for i in unique), strict=True)
        context = torch.stack(latents)
        self._sampler.start(context, torch.from_numpy(np.stack(conditions)).to(self._device))
        rows = [unique.index(i) for i in starts] * config.draws
        self._sampler.fan_out(rows)
        first = [self._starts[i] for i in starts]
        self._episode = _Episode(
            context[rows[: config.batch_size], -1].clone(), first, seed, config.draws, config.robot.step_ns
        )
        return self._observe(self._episode)

    def _encode(self, index: int) -> tuple[Tensor, FloatArray]:
        if index not in self._encoded:
            frames, conditions = known_frames(self._starts[index], self._config.context_frames)
            self._encoded[index] = (self._codec.encode(torch.from_numpy(frames)).to(self._device), conditions)
        return self._encoded[index]

    def _observe(self, episode: _Episode) -> Observation:
        latents = episode.latents.clone()
        images = LazyImages(self._config.camera, lambda: self._codec.decode(latents).cpu().numpy())
        return Observation(images, episode.proprio_BP.copy(), episode.time_ns_B.copy())


class _Episode:
    """What changes while B rows are dreamt."""

    def __init__(self, latents: Tensor, first: Sequence[StartState], seed: int, draws: int, step_ns: int) -> None:
        rows = len(first)
        self.latents, self.steps, self.first = latents, 0, first
        self.proprio_BP = np.stack([start.pose_P for start in first]).astype(np.float32)
        self._targets = [EndEffectorTarget.from_proprioception(proprio) for proprio in self.proprio_BP]
        self.time_ns_B = np.array([start.step * step_ns for start in first], np.int64)
        self.left_B = np.array([start.episode_steps - start.step for start in first], np.int64)
        self.terminated_B, self.truncated_B = np.zeros(rows, bool), np.zeros(rows, bool)
        self.disagreement_B = np.zeros(rows, np.float32)
        self._generators = [_generator(seed, row, draw) for draw in range(draws) for row in range(rows)]

    @property
    def done_B(self) -> BoolArray:
        return self.terminated_B | self.truncated_B

    def noise(self, device: torch.device) -> Tensor:
        """One standard normal frame per row and draw, from that row's own stream."""
        shape = self.latents.shape[1:]
        return torch.stack([torch.randn(shape, generator=g) for g in self._generators]).to(device)

    def command(self, asked_BA: FloatArray, live: BoolArray, robot: RobotSpec) -> FloatArray:
        """Move the targets of live rows; returns what the gate would have let through."""
        commanded = np.zeros_like(asked_BA)
        for row in np.flatnonzero(live):
            self._targets[row], commanded[row] = self._targets[row].advanced(asked_BA[row], robot)
        return commanded

    def advance(self, latents: Tensor, disagreement_B: FloatArray, live: BoolArray, step_ns: int) -> None:
        """Take the new frames of live rows; the others stay as they are."""
        keep = torch.from_numpy(live).to(latents.device)[:, None, None, None]
        self.latents = torch.where(keep, latents, self.latents)
        self.disagreement_B = np.where(live, disagreement_B, self.disagreement_B)
        poses = np.stack([target.proprio_P for target in self._targets])
        self.proprio_BP = np.where(live[:, None], poses, self.proprio_BP)
        self.time_ns_B = np.where(live, self.time_ns_B + step_ns, self.time_ns_B)
        self.steps += 1


def _disagreement(latents: Tensor, draws: int) -> FloatArray:
    """(B,) RMS deviation of a row's draws from their mean."""
    stacked = latents.reshape(draws, -1, *latents.shape[1:])
    spread = (stacked - stacked.mean(dim=0)).square().mean(dim=(0, 2, 3, 4)).sqrt()
    return np.asarray(spread.cpu().numpy(), np.float32)


def _generator(seed: int, row: int, draw: int) -> torch.Generator:
    words = np.random.SeedSequence((seed, row, draw)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))
