"""The process in which a served environment runs: python -m gymnast_core.wire.env_child, started by EnvHost alone.

One EnvChildRequest a frame (gymnast_core.framed), one EnvChildReply back; the first reply, unasked, says what it is.
"""

from __future__ import annotations

import json
import sys

from gymnast_core.errors import GymnastError
from gymnast_core.foreign.env import GymnasiumEnv, make_gymnasium
from gymnast_core.foreign.mapping import GymnasiumMapping
from gymnast_core.framed import frames, read_frame, write_frame
from gymnast_core.wire import env_codec
from gymnast_core.wire.gymnast.v1 import env_pb2


def main(name: str, mapping: str, rows: str) -> int:
    """Answer until the other end is closed; returns the exit code."""
    source, out = frames()
    try:
        env = make_gymnasium(name, GymnasiumMapping(**json.loads(mapping)), rows=int(rows))
    except GymnastError as error:
        write_frame(out, _failed(error).SerializeToString())
        return 1
    description = env_codec.description_of(env.spec, env.instruction)
    write_frame(out, env_pb2.EnvChildReply(description=description).SerializeToString())
    while (data := read_frame(source)) is not None:
        try:
            reply = _answered(env, env_pb2.EnvChildRequest.FromString(data))
        except GymnastError as error:
            reply = _failed(error)
        write_frame(out, reply.SerializeToString())
    return 0


def _answered(env: GymnasiumEnv, request: env_pb2.EnvChildRequest) -> env_pb2.EnvChildReply:
    if request.HasField("reset"):
        observation = env.reset(list(request.reset.instructions), seed=request.reset.seed)
        return env_pb2.EnvChildReply(observation=env_codec.message_of(observation))
    result = env.step(env_codec.action_of(request.step, env.spec.batch_size))
    step = env_pb2.EnvStepReply(
        observation=env_codec.message_of(result.observation), terminated=result.terminated_B.tolist(),
        truncated=result.truncated_B.tolist(), commanded=result.commanded_BA.ravel().tolist(),
        succeeded=env.succeeded(),
    )  # fmt: skip
    return env_pb2.EnvChildReply(step=step)


def _failed(error: GymnastError) -> env_pb2.EnvChildReply:
    return env_pb2.EnvChildReply(error=type(error).__name__, message=str(error)[:500])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
