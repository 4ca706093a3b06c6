"""The process in which a robot's policies run: python -m gymnast_ros.run.policy_child, started by PolicyHost alone.

One message (gymnast_ros.run.policy_wire) a frame (gymnast_core.framed): {load, device} loads a checkpoint folder and
keeps it, {act, cameras, instruction, rng, temperature} asks it, {drop} lets go of some. What fails: {error, message}.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.framed import frames, read_frame, write_frame
from gymnast_core.policies import serve_policy
from gymnast_core.policy import Policy, can_continue
from gymnast_core.sampling import own_temperature, set_temperature
from gymnast_ros.run import policy_wire as wire

_REFUSALS = (CheckpointError, ConfigError)
_TEXT = 1000
"""Characters of a reason that travel into the recording and to the trainer."""


def main() -> int:
    """Answer until the other end is closed."""
    source, out = frames()
    policies: dict[str, Policy] = {}
    while (data := read_frame(source)) is not None:
        words, arrays = wire.unpacked(data)
        for key in words.get("drop", ()):
            policies.pop(key, None)
        try:
            answer = _loaded(policies, words) if "load" in words else _acted(policies[words["act"]], words, arrays)
        except Exception as error:  # noqa: BLE001  # whatever a policy raises is the parent's to judge
            named = next((kind.__name__ for kind in _REFUSALS if isinstance(error, kind)), "")
            message = str(error) if named else f"{type(error).__name__}: {error}"
            answer = wire.packed({"error": named or "raised", "message": message[:_TEXT]})
        write_frame(out, answer)
    return 0


def _loaded(policies: dict[str, Policy], words: Mapping[str, Any]) -> bytes:
    key = str(words["load"])
    policy = policies[key] = serve_policy(Path(key), device=words["device"])
    return wire.packed({"version": policy.version, "chunk_length": policy.chunk_length,
                        "continues": can_continue(policy) is not None,
                        "temperature": own_temperature(policy)})  # fmt: skip


def _acted(policy: Policy, words: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    rng = wire.generator_at(words["rng"])
    if words["temperature"] is not None:  # the host knows the policy's own, and names it where no other is asked for
        set_temperature(policy, words["temperature"])
    observation = wire.observation_of(arrays, words["cameras"])
    committed, continuing = wire.committed_of(arrays), can_continue(policy)
    if committed is not None and continuing is not None:
        chunk = continuing.act_after(committed, observation, words["instruction"])
    else:
        chunk = policy.act(observation, words["instruction"], rng=rng)
    about = {"version": chunk.policy_version, "rng": wire.state_of(rng)}
    return wire.packed(about, wire.arrays_of_chunk(chunk))


if __name__ == "__main__":
    sys.exit(main())
