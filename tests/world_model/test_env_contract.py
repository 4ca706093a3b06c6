from __future__ import annotations

from cloud_trainer.world_model.dit.env import WorldModelEnv
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from tests.contracts.env_contract import EnvContract
from tests.world_model.tiny import tiny_env


class TestWorldModelEnv(EnvContract):
    instruction = "put the block on the plate"

    def make_env(self) -> WorldModelEnv:
        return tiny_env(batch_size=3)


class TestWorldModelEnvWithGuidanceGroupsAndDraws(EnvContract):
    instruction = "put the block on the plate"

    def make_env(self) -> WorldModelEnv:
        sampler = SamplerConfig(steps=2, guidance=2.0, window=5, pinned=1)
        return tiny_env(batch_size=4, group_size=2, draws=2, trust_limit=1e6, sampler=sampler)
