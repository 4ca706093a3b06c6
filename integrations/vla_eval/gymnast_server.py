# /// script
# requires-python = ">=3.11"
# dependencies = ["vla-eval==0.8.0", "gymnast_ros[trainer]"]
#
# [tool.uv.sources]
# gymnast_ros = { path = "../..", editable = true }
# ///
"""Serves a checkpoint of ours to vla-eval, the harness that runs policies on LIBERO, SimplerEnv and other simulators.

    vla-eval serve --config integrations/vla_eval/gymnast.yaml --arg checkpoint=FOLDER
    vla-eval run --config BENCHMARK.yaml

vla-eval's wire asks nobody who he is, so this listens on this machine alone unless --host or --address says otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import run_server
from vla_eval.specs import GRIPPER_01, IMAGE_RGB, LANGUAGE, POSITION_DELTA, RAW, ROTATION_EULER, DimSpec
from vla_eval.types import Action, Observation

from gymnast_core import types
from gymnast_core.policies import serve_policy
from gymnast_core.wire.openpi.exchange import observed, reply
from gymnast_core.wire.openpi.keys import STYLES, Keys, read_keys

HARNESS = STYLES["libero"].changed(
    images={"agentview": "over_shoulder"},
    image_map="images",
    state={},
    prompt="task_description",
)
"""What the harness's benchmarks send, as openpi's keys: no state, which their arms lay out each in its own way."""


class GymnastModelServer(PredictModelServer):
    """A checkpoint of ours behind vla-eval.

    Args:
        checkpoint: its folder, of any architecture.
        device: where a large policy runs: auto, cpu, cuda, cuda:N.
        keys: YAML file of gymnast_core.wire.openpi.keys.Keys, all of them; empty takes the picture "agentview" for the
            camera over_shoulder, and no state.
        chunk_size: actions of a chunk that are executed before the next one; None is all of them.
        options: of PredictModelServer, e.g. max_batch_size.

    Raises:
        CheckpointError: it is no policy, or altered.
        ConfigError: the file of keys makes no sense.
    """

    def __init__(
        self, checkpoint: str, *, device: str = "auto", keys: str = "", chunk_size: int | None = None, **options: Any
    ) -> None:
        self._policy = serve_policy(Path(checkpoint), device=device)
        self._keys = read_keys(keys, Keys) if keys else HARNESS
        super().__init__(chunk_size=chunk_size or self._policy.chunk_length, **options)

    def get_action_spec(self) -> dict[str, DimSpec]:
        """Deltas in metres and radians (times what the keys say), and the gripper, 0 closed."""
        return {"position": POSITION_DELTA, "rotation": ROTATION_EULER, "gripper": GRIPPER_01}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """Pictures, the instruction, and a state where the keys have one."""
        return {"image": IMAGE_RGB, "language": LANGUAGE, **({"state": RAW} if self._keys.state else {})}

    def get_observation_params(self) -> dict[str, Any]:
        """What benchmarks are asked to send."""
        return {"send_state": bool(self._keys.state), "send_wrist_image": len(self._keys.images) > 1}

    def predict_batch(self, obs_batch: list[Observation], ctx_batch: list[SessionContext]) -> list[Action]:
        """A chunk for each observation, chosen greedily, all in one pass.

        Raises:
            InvalidMessageError: an observation lacks something, or it has another shape or dtype.
        """
        rows = [observed(self._keys, self._known(seen)) for seen in obs_batch]
        names = rows[0][0]
        batch = types.Observation(
            {name: np.stack([frames[name] for frames, _, _ in rows]) for name in names},
            np.stack([proprio_P for _, proprio_P, _ in rows]),
            np.zeros(len(rows), np.int64),
        )
        chunk = self._policy.act(batch, [instruction for _, _, instruction in rows])
        return [{"actions": reply(self._keys, actions_KA)} for actions_KA in chunk.actions_BKA]

    def _known(self, seen: Observation) -> dict[str, Any]:
        """An observation without what nobody reads: each benchmark sends more of its own."""
        keys = self._keys
        known = {name: seen[name] for name in keys.top if name in seen}
        if isinstance(inside := known.get(keys.image_map), dict):
            known[keys.image_map] = {name: inside[name] for name in keys.images if name in inside}
        return known


if __name__ == "__main__":
    if not any(word.startswith(("--host", "--address")) for word in sys.argv[1:]):
        sys.argv += ["--host", "127.0.0.1"]
    run_server(GymnastModelServer)
